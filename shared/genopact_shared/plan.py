"""The plan of a run: every release that will be made, with its fact and its share of the noise.

It follows from the approved study and the planned cohorts alone, so sites and coordinator compute the same one and no
message can change it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Literal

from genopact_shared.errors import GenopactError
from genopact_shared.privacy import accounting
from genopact_shared.privacy.accounting import Fact
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected
from genopact_shared.privacy.noise import MAX_VARIANCE
from genopact_shared.recipes import NETWORKS, RECIPES, chosen
from genopact_shared.recipes.network import NetParameters, NetPlan
from genopact_shared.recipes.protocol import Predictor, SumPlan, SumStep
from genopact_shared.study import Frozen, Study

MODEL_SCALE = 1 << 24
"""Integer units per 1.0 of a patient's gradient in a network."""


@dataclass(frozen=True)
class PlannedStep:
    """One release of the plan, through the kernel's door of that `kind`.

    `share_variance`: variance of this site's Skellam noise, in squared integer units. `masked`: whether the sum leaves
    under pairwise masks. A model has neither.
    """

    index: int
    name: str
    fact: Fact
    share_variance: float = 0.0
    masked: bool = False
    kind: Literal["sum", "model"] = "sum"


@dataclass(frozen=True)
class Plan:
    """The recipe with its public numbers fixed, and its releases in order."""

    recipe: Predictor
    course: SumPlan | NetPlan
    planned: Mapping[str, int]
    steps: tuple[PlannedStep, ...]
    delta: str

    @cached_property
    def epsilon(self) -> float:
        """What a patient who takes part in every step once pays; infinite without protection."""
        return accounting.epsilon_fast([step.fact for step in self.steps], self.delta)


def plan_of(study: Study, planned: Mapping[str, int]) -> Plan:
    """The plan of a study for the planned cohort of each site that takes part.

    Raises:
        GenopactError: PLAN_IMPOSSIBLE when the plan would break its own bounds.
    """
    recipe, parameters = chosen(study.recipe)
    if isinstance(parameters, NetParameters):
        return _of_network(study, NetPlan(NETWORKS[recipe.name], parameters, dict(planned)))
    return _of_sums(study, planned, parameters)


def _of_network(study: Study, course: NetPlan) -> Plan:
    """Rounds of private steps; every round has the same fact."""
    p, privacy = course.parameters, study.privacy
    if privacy.mode == "distributed":
        raise GenopactError("PLAN_IMPOSSIBLE", "a network is trained in mode local or none")
    fact: Fact
    if privacy.epsilon_milli is None:
        fact = Unprotected(dims=sum(weights.size for weights in course.initial().values()), scale=MODEL_SCALE)
    else:
        rate, steps = _decimal(p.sampling_rate_milli / 1000), (p.rounds + privacy.spare_attempts) * p.local_steps
        multiplier = accounting.sgd_noise_multiplier(privacy.epsilon_milli, privacy.delta, rate, steps)
        clip = _decimal(p.clip_milli / 1000)
        fact = SampledSgd(noise_multiplier=multiplier, clip=clip, sampling_rate=rate, steps=p.local_steps)
    rounds = tuple(PlannedStep(index, f"round-{index + 1}", fact, kind="model") for index in range(p.rounds))
    return Plan(course, course, course.planned, rounds, privacy.delta)


def _of_sums(study: Study, planned: Mapping[str, int], parameters: Frozen) -> Plan:
    recipe, privacy = RECIPES[study.recipe.name], study.privacy
    sums = recipe.plan(parameters, sum(planned.values()), privacy.epsilon_milli)
    if privacy.epsilon_milli is None:
        facts: list[NoisedSum | Unprotected] = [Unprotected(dims=step.dims, scale=step.scale) for step in sums.steps]
    else:
        weights = [step.weight for step in sums.steps]
        weights += [max(weights)] * privacy.spare_attempts
        shares = [weight / sum(weights) for weight in weights]
        multipliers = accounting.noise_multipliers(privacy.epsilon_milli, privacy.delta, shares)
        facts = [_noised(step, z, privacy.honest_minimum) for step, z in zip(sums.steps, multipliers, strict=False)]
    masked = privacy.mode != "local" and len(planned) > 1
    steps = tuple(
        PlannedStep(index, step.name, fact, _share(fact), masked)
        for index, (step, fact) in enumerate(zip(sums.steps, facts, strict=True))
    )
    if any(step.share_variance > MAX_VARIANCE for step in steps):
        raise GenopactError("PLAN_IMPOSSIBLE", "the noise does not fit the sampler: lower the recipe's scale")
    return Plan(recipe, sums, dict(planned), steps, privacy.delta)


def _noised(step: SumStep, noise_multiplier: str, honest_minimum: int) -> NoisedSum:
    clip = _decimal(step.clip)
    return NoisedSum(
        noise_multiplier=noise_multiplier, clip=clip, scale=step.scale, dims=step.dims, honest_minimum=honest_minimum
    )


def _decimal(value: float) -> str:
    return format(Decimal(repr(value)), "f")


def _share(fact: Fact) -> float:
    if not isinstance(fact, NoisedSum):
        return 0.0
    return (float(fact.noise_multiplier) * float(fact.clip) * fact.scale) ** 2 / fact.honest_minimum
