"""The plan of a run: every release that will be made, with its fact and its share of the noise.

It follows from the approved study and the planned cohorts alone, so sites and coordinator compute the same one and no
message can change it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from genopact_shared.errors import GenopactError, require
from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected
from genopact_shared.privacy.noise import MAX_VARIANCE, TAIL_SIGMAS
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes import EXACT, NETWORKS, RECIPES, chosen
from genopact_shared.recipes.network import NetParameters, NetPlan, NetSums
from genopact_shared.recipes.protocol import Model, Predictor, SumPlan, SumStep
from genopact_shared.recipes.table import Floats
from genopact_shared.secagg.masking import Opening
from genopact_shared.study import Study
from genopact_shared.wire import Reply

COHORT_SLACK = 2
"""Times its planned cohort: more patients than that a site does not add up under a mask."""
MODEL_SCALE = 1 << 24
"""Integer units per 1.0 of a patient's gradient in a network."""


@dataclass(frozen=True)
class PlannedStep:
    """One release of the plan, through the kernel's door of that `kind`.

    `share_variance`: variance of this site's Skellam noise, in squared integer units. `bits`: the sum leaves under
    masks modulo 2^bits, 32 or 64; 0: without. A model has neither.
    """

    index: int
    name: str
    fact: accounting.Fact
    share_variance: float = 0.0
    bits: int = 0
    kind: Literal["sum", "model"] = "sum"

    @property
    def masked(self) -> bool:
        """Whether the coordinator sees the total alone."""
        return self.bits > 0


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
        return accounting.epsilon([step.fact for step in self.steps], self.delta)

    def advance(self, index: int, model: Model, total: NDArray[np.int64], sites: Iterable[str]) -> tuple[Floats, Model]:
        """The estimate for all planned patients from the integers of some sites, and the next model.

        Statistics without noise are of those who answered: a count that was scaled up would be none.
        Coordinator and sites compute the same bits.
        """
        fact, answered = self.steps[index].fact, sum(self.planned[site] for site in sites)
        if isinstance(fact, SampledSgd) or isinstance(self.course, NetPlan):
            raise GenopactError("PLAN_IMPOSSIBLE", "a network has no sums")
        counted = isinstance(fact, Unprotected) and self.recipe.name in EXACT
        estimate = total / fact.scale * (1.0 if counted else sum(self.planned.values()) / answered)
        return estimate, self.course.advance(index, model, estimate)

    def opening(self, study: Study, seats: Mapping[str, Reply]) -> Opening:
        """Whose masks go together, from the sites' replies to `open`. Raises ROSTER_INVALID."""
        require(len(seats) >= study.schedule.quorum, "ROSTER_INVALID", "fewer seats than the quorum")
        first = next(iter(seats.values()))
        roster = {site: seat.mask_key or "" for site, seat in seats.items()}
        position = {"study": first.study, "run": first.run, "round": first.round, "attempt": first.attempt}
        if any(seat.model_dump(include=set(position)) != position for seat in seats.values()):
            raise GenopactError("ROSTER_INVALID", "seats of several openings")
        return Opening(position, roster, study.schedule.quorum, range(first.round, len(self.steps)))


def plan_of(study: Study, planned: Mapping[str, int], published: Published = NOTHING) -> Plan:
    """The plan of a study for the planned cohort of each site that takes part.

    `published`: where the files are that the recipe names; needed to compute rows and models, not for the releases.

    Raises:
        GenopactError: PLAN_IMPOSSIBLE when the plan would break its own bounds.
    """
    recipe, parameters = chosen(study.recipe)
    epsilon = study.privacy.epsilon_milli
    if recipe.name in RECIPES or not isinstance(parameters, NetParameters):
        sums = RECIPES[recipe.name].plan(parameters, sum(planned.values()), epsilon, published)
        return _of_sums(study, planned, sums)
    fixed = NETWORKS[recipe.name], parameters, dict(planned), published
    if study.privacy.mode == "distributed" and epsilon is not None:
        return _of_sums(study, planned, NetSums(*fixed, epsilon))
    return _of_network(study, NetPlan(*fixed))


def _of_network(study: Study, course: NetPlan) -> Plan:
    """Rounds of private steps; every round has the same fact."""
    p, privacy = course.parameters, study.privacy
    fact: accounting.Fact
    if privacy.epsilon_milli is None:
        fact = Unprotected(dims=course.dims, scale=MODEL_SCALE)
    else:
        rate, steps = _decimal(p.sampling_rate_milli / 1000), (p.rounds + privacy.spare_attempts) * p.local_steps
        multiplier = accounting.sgd_noise_multiplier(privacy.epsilon_milli, privacy.delta, rate, steps)
        clip = _decimal(p.clip_milli / 1000)
        fact = SampledSgd(noise_multiplier=multiplier, clip=clip, sampling_rate=rate, steps=p.local_steps)
    rounds = tuple(PlannedStep(index, f"round-{index + 1}", fact, kind="model") for index in range(p.rounds))
    return Plan(course, course, course.planned, rounds, privacy.delta)


def _of_sums(study: Study, planned: Mapping[str, int], sums: SumPlan) -> Plan:
    privacy = study.privacy
    if privacy.epsilon_milli is None:
        facts: list[NoisedSum | Unprotected] = [Unprotected(dims=step.dims, scale=step.scale) for step in sums.steps]
    else:
        weights = [step.weight for step in sums.steps]
        weights += [max(weights)] * privacy.spare_attempts
        shares = [weight / sum(weights) for weight in weights]
        multipliers = accounting.noise_multipliers(privacy.epsilon_milli, privacy.delta, shares)
        facts = [_noised(step, z, privacy.honest_minimum) for step, z in zip(sums.steps, multipliers, strict=False)]
    steps = tuple(
        PlannedStep(index, step.name, fact, _share(fact), _bits(fact, planned) if privacy.masked else 0)
        for index, (step, fact) in enumerate(zip(sums.steps, facts, strict=True))
    )
    if any(step.share_variance > MAX_VARIANCE for step in steps):
        raise GenopactError("PLAN_IMPOSSIBLE", "the noise does not fit the sampler: lower the recipe's scale")
    predictor = sums if isinstance(sums, Predictor) else cast("Predictor", RECIPES[study.recipe.name])
    plan = Plan(predictor, sums, dict(planned), steps, privacy.delta)
    fits = privacy.epsilon_milli is None or plan.epsilon <= privacy.epsilon_milli / 1000
    require(fits, "PLAN_IMPOSSIBLE", "integers too coarse, or too many of them, for the noise: see the recipe's scale")
    return plan


def _noised(step: SumStep, noise_multiplier: str, honest_minimum: int) -> NoisedSum:
    clip = _decimal(step.clip)
    return NoisedSum(
        noise_multiplier=noise_multiplier, clip=clip, scale=step.scale, dims=step.dims, honest_minimum=honest_minimum
    )


def _decimal(value: float) -> str:
    return format(Decimal(repr(value)), "f")


def _bits(fact: accounting.Fact, planned: Mapping[str, int]) -> int:
    """The narrower modulus whose range holds the largest possible total of COHORT_SLACK times the planned patients."""
    if not isinstance(fact, NoisedSum):
        return 64
    most = COHORT_SLACK * sum(planned.values()) * float(fact.clip) * fact.scale
    return 32 if most + len(planned) * (TAIL_SIGMAS * math.sqrt(_share(fact)) + 60) < 2.0**31 else 64


def _share(fact: accounting.Fact) -> float:
    if not isinstance(fact, NoisedSum):
        return 0.0
    return (float(fact.noise_multiplier) * float(fact.clip) * fact.scale) ** 2 / fact.honest_minimum
