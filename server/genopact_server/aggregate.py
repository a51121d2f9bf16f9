"""What the coordinator makes of the sites' released updates: the total of their sums, or the mean of their changes."""

from collections.abc import Mapping

import numpy as np

from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.plan import Plan, PlannedStep
from genopact_shared.privacy.mechanisms import SampledSgd
from genopact_shared.recipes.network import NetPlan, shapes
from genopact_shared.recipes.protocol import Model
from genopact_shared.secagg import unmask


def check_update(step: PlannedStep, model: Model, body: bytes) -> None:
    """Raise FRAME_INVALID unless a body is the release that was planned: one sum, or a finite change of `model`."""
    if step.kind == "model":
        change = _model(body)
        if shapes(change) != shapes(model) or not all(np.isfinite(values).all() for values in change.values()):
            raise GenopactError("FRAME_INVALID", "not a change of this model")
        return
    found = {name: values.shape for name, values in wire.unpack(body, np.uint64).items()}
    if isinstance(step.fact, SampledSgd) or found != {"sum": (step.fact.dims,)}:
        raise GenopactError("FRAME_INVALID", "not the planned sum")


def combine(plan: Plan, index: int, model: Model, updates: Mapping[str, bytes]) -> tuple[Model, Model]:
    """The combined update of the sites that answered, and the next model.

    Args:
        plan: of the run.
        index: of the step.
        model: before the step.
        updates: site -> body that `check_update` has passed. Sites weigh as much as their planned cohorts; a sum is
            scaled up to the planned cohorts of all sites, a mean is that of the sites that answered.
    """
    fact, planned = plan.steps[index].fact, {site: plan.planned[site] for site in updates}
    if isinstance(plan.course, NetPlan):
        weighed = [(planned[site] / sum(planned.values()), _model(body)) for site, body in updates.items()]
        change = {name: np.sum([weight * each[name] for weight, each in weighed], axis=0) for name in model}
        return change, plan.course.advance(index, model, change)
    assert not isinstance(fact, SampledSgd)  # noqa: S101 - the plan of sums has none
    words = [wire.unpack(body, np.uint64)["sum"].astype(np.uint64) for body in updates.values()]
    total = unmask(words) / fact.scale * (sum(plan.planned.values()) / sum(planned.values()))
    return {"sum": total}, plan.course.advance(index, model, total)


def _model(body: bytes) -> Model:
    return wire.unpack(body, np.float64)
