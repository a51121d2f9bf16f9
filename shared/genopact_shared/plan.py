"""The plan of a run: every release that will be made, with its fact and its share of the noise.

It follows from the approved study and the planned cohorts alone, so sites and coordinator compute the same one and no
message can change it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

from genopact_shared.errors import GenopactError
from genopact_shared.privacy import accounting
from genopact_shared.privacy.accounting import Fact
from genopact_shared.privacy.mechanisms import NoisedSum, Unprotected
from genopact_shared.privacy.noise import MAX_VARIANCE
from genopact_shared.recipes import chosen
from genopact_shared.recipes.protocol import SumPlan, SumRecipe, SumStep
from genopact_shared.study import Study


@dataclass(frozen=True)
class PlannedStep:
    """One release of the plan.

    `share_variance`: variance of this site's Skellam noise, in squared integer units. `masked`: whether the sum leaves
    under pairwise masks.
    """

    index: int
    name: str
    fact: NoisedSum | Unprotected
    share_variance: float
    masked: bool

    @property
    def dims(self) -> int:
        """Length of the sum."""
        return self.fact.dims

    @property
    def scale(self) -> int:
        """Integer units per 1.0."""
        return self.fact.scale


@dataclass(frozen=True)
class Plan:
    """The recipe with its public numbers fixed, and its releases in order."""

    recipe: SumRecipe
    sums: SumPlan
    planned: Mapping[str, int]
    steps: tuple[PlannedStep, ...]
    delta: str

    @cached_property
    def epsilon(self) -> float:
        """What a patient who takes part in every step once pays; infinite without protection."""
        return accounting.epsilon([step.fact for step in self.steps], self.delta)


def plan_of(study: Study, planned: Mapping[str, int]) -> Plan:
    """The plan of a study for the planned cohort of each site that takes part.

    Raises:
        GenopactError: PLAN_IMPOSSIBLE when the plan would break its own bounds.
    """
    (recipe, parameters), privacy = chosen(study.recipe), study.privacy
    sums = recipe.plan(parameters, sum(planned.values()), privacy.epsilon_milli)
    if privacy.epsilon_milli is None:
        facts: list[NoisedSum | Unprotected] = [Unprotected(dims=step.dims, scale=step.scale) for step in sums.steps]
    else:
        weights = [step.weight for step in sums.steps]
        multipliers = accounting.noise_multipliers(privacy.epsilon_milli, privacy.delta, weights)
        facts = [_noised(step, z, privacy.honest_minimum) for step, z in zip(sums.steps, multipliers, strict=True)]
    masked = privacy.mode != "local" and len(planned) > 1
    steps = tuple(
        PlannedStep(index, step.name, fact, _share(fact), masked)
        for index, (step, fact) in enumerate(zip(sums.steps, facts, strict=True))
    )
    if any(step.share_variance > MAX_VARIANCE for step in steps):
        raise GenopactError("PLAN_IMPOSSIBLE", "the noise does not fit the sampler: lower the recipe's scale")
    return Plan(recipe, sums, dict(planned), steps, privacy.delta)


def _noised(step: SumStep, noise_multiplier: str, honest_minimum: int) -> NoisedSum:
    clip = format(Decimal(repr(step.clip)), "f")
    return NoisedSum(
        noise_multiplier=noise_multiplier, clip=clip, scale=step.scale, dims=step.dims, honest_minimum=honest_minimum
    )


def _share(fact: Fact) -> float:
    if not isinstance(fact, NoisedSum):
        return 0.0
    return (float(fact.noise_multiplier) * float(fact.clip) * fact.scale) ** 2 / fact.honest_minimum
