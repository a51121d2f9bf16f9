"""What the coordinator makes of the sites' released updates: the total of their sums, or the middle of their changes.

Sources of rules that hold against some sites that send anything: Yin et al., "Byzantine-Robust Distributed Learning",
2018 (median, trimmed mean); Blanchard et al., "Machine Learning with Adversaries", 2017 (Krum).
"""

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
from genopact_shared.recipes.table import Floats
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
            scaled up to the planned cohorts of all sites, a mean is that of the sites that answered. In the other rules
            of `NetParameters.combine` all sites weigh the same.
        total: of masked updates, opened.
    """
    if isinstance(plan.course, NetPlan):
        rule, weights = plan.course.parameters.combine, np.array([plan.planned[site] for site in updates], np.float64)
        changes = [_model(body) for body in updates.values()]
        if rule == "krum":
            changes, weights, rule = [changes[_nearest(changes)]], weights[:1], "mean"
        stacked = {name: np.stack([each[name] for each in changes]) for name in weights_of(model)}
        change = {name: _middle(rule, each, weights) for name, each in stacked.items()}
        return wire.pack(change), plan.course.advance(index, model, change)
    if total is None:
        parts = [wire.unpack(body, np.int64)["sum"] for body in updates.values()]
        total = wire.pack({"sum": np.stack(parts).sum(axis=0)})
    integers = wire.unpack(total, np.int64, tag=np.uint64)["sum"]
    return total, plan.advance(index, model, integers, updates)[1]


def shares(plan: Plan, record: bytes, updates: Bodies) -> dict[str, float]:
    """How much of a network's step each site's change is: its part along the step; of a mean they add up to 1.

    Of masked updates nothing is known of single sites.
    """
    if not isinstance(plan.course, NetPlan):
        return {}
    step, total = _flat(_model(record)), sum(plan.planned[site] for site in updates)
    square = max(float(step @ step), 1e-300)
    along = {site: float(_flat(_model(body)) @ step) / square for site, body in updates.items()}
    return {site: plan.planned[site] / total * part for site, part in along.items()}


def _flat(change: Model) -> Floats:
    return np.concatenate([change[name].ravel() for name in sorted(change)])


def _middle(rule: str, changes: Floats, weights: Floats) -> Floats:
    """Of (sites, ...) changes, number by number."""
    if rule == "median":
        return np.asarray(np.median(changes, axis=0))
    if rule == "trimmed":
        off = max(1, len(changes) // 4) if len(changes) > 2 else 0
        return np.asarray(np.sort(changes, axis=0)[off : len(changes) - off].mean(axis=0))
    shares = weights / weights.sum()
    return np.asarray(np.sum([share * each for share, each in zip(shares, changes, strict=True)], axis=0))


def _nearest(changes: list[Model]) -> int:
    """Krum: which change has the least squared distance to as many others as must be honest."""
    rows = np.stack([_flat(each) for each in changes])
    others = max(1, len(rows) - (len(rows) - 3) // 2 - 2)
    apart = [np.sort(((rows - row) ** 2).sum(axis=1))[1 : others + 1].sum() for row in rows]
    return int(np.argmin(apart))


def _update(step: PlannedStep, body: bytes) -> dict[str, NDArray[Any]]:
    kinds: dict[str, Any] = {"sum": WORDS[step.bits]} if step.masked else {"sum": np.int64}
    return wire.unpack(body, np.uint64, **kinds)


def _model(body: bytes) -> Model:
    return wire.unpack(body, np.float64)
