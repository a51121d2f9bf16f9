"""What the coordinator makes of the sites' released updates: the total of their sums, or the mean of their changes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopact_server.unmasking import total_of
from genopact_shared import canonical, wire
from genopact_shared.errors import GenopactError, require
from genopact_shared.plan import Plan, PlannedStep
from genopact_shared.privacy.mechanisms import SampledSgd
from genopact_shared.recipes.network import NetPlan, shapes, weights_of
from genopact_shared.recipes.protocol import Model
from genopact_shared.secagg.masking import WORDS, Opening

Bodies = Mapping[str, bytes]
"""Site -> body."""


def check_update(step: PlannedStep, model: Model, body: bytes) -> None:
    """Raise FRAME_INVALID unless a body is the release that was planned: one sum, or a finite change of `model`."""
    if step.kind == "model":
        change = _model(body)
        finite = all(np.isfinite(values).all() for values in change.values())
        require(shapes(change) == shapes(weights_of(model)) and finite, "FRAME_INVALID", "not a change of this model")
        return
    if isinstance(step.fact, SampledSgd):
        raise GenopactError("FRAME_INVALID", "a network has no sum")
    found = {name: values.shape for name, values in _update(step, body).items()}
    if found != {"sum": (step.fact.dims,)} | ({"tag": (1,)} if step.masked else {}):
        raise GenopactError("FRAME_INVALID", "not the planned sum")


def opened_total(opening: Opening, step: PlannedStep, deals: Bodies, updates: Bodies, reveals: Bodies) -> bytes:
    """The total of masked updates as `sum`, (d,) int64, and `tag`, (1,) uint64, which the sites check."""
    active = {site: canonical.digest(body) for site, body in updates.items()}
    uploads = {site: _update(step, body) for site, body in updates.items()}
    total, tag = total_of(opening, step.index, deals, uploads, active=active, reveals=reveals)
    return wire.pack({"sum": total, "tag": np.array([tag], dtype=np.uint64)})


def combine(plan: Plan, index: int, model: Model, updates: Bodies, total: bytes | None) -> tuple[bytes, Model]:
    """What an aggregate records as its total, and the next model.

    Args:
        plan: of the run.
        index: of the step.
        model: before the step.
        updates: site -> body that `check_update` has passed. Sites weigh as much as their planned cohorts; a sum is
            scaled up to the planned cohorts of all sites, a mean is that of the sites that answered.
        total: of masked updates, opened.
    """
    if isinstance(plan.course, NetPlan):
        whole = sum(plan.planned[site] for site in updates)
        weighed = [(plan.planned[site] / whole, _model(body)) for site, body in updates.items()]
        change = {name: np.sum([weight * each[name] for weight, each in weighed], axis=0) for name in weights_of(model)}
        return wire.pack(change), plan.course.advance(index, model, change)
    if total is None:
        parts = [wire.unpack(body, np.int64)["sum"] for body in updates.values()]
        total = wire.pack({"sum": np.stack(parts).sum(axis=0)})
    integers = wire.unpack(total, np.int64, tag=np.uint64)["sum"]
    return total, plan.advance(index, model, integers, updates)[1]


def _update(step: PlannedStep, body: bytes) -> dict[str, NDArray[Any]]:
    kinds: dict[str, Any] = {"sum": WORDS[step.bits]} if step.masked else {"sum": np.int64}
    return wire.unpack(body, np.uint64, **kinds)


def _model(body: bytes) -> Model:
    return wire.unpack(body, np.float64)
