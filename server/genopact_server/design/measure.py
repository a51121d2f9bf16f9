"""The published file of a risk study: arrays as `risk_design.SHAPES` names them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_server.design.directions import Block, Budget, uncertain, water_filled
from genopact_server.design.panel import Panel
from genopact_server.design.posterior import Evidence, Posterior, posterior, relation
from genopact_shared.recipes.risk_design import BOUND, CENTRE_UNIT, DIGITS, SCORE_BOUND, WEIGHT_UNIT
from genopact_shared.recipes.table import Floats

CORRELATION = 0.9
"""Of a variant's effects between ancestries."""
Arrays = dict[str, NDArray[Any]]


class Known(NamedTuple):
    """What is public of a panel's ancestries, mixed so, and what is not: slow to make, and the same for any budget."""

    panel: Panel
    mix: Floats
    found: Posterior
    blocks: list[Block]

    @classmethod
    def of(
        cls, panel: Panel, given: Evidence | Posterior, mix: Sequence[float], tick: Callable[[], object] = bool
    ) -> "Known":
        """From published effects; `mix`: planned shares of the ancestries; `tick`: called after each block."""
        prior, found = relation(panel, CORRELATION), effects(panel, given)
        blocks = []
        for place in range(len(panel.blocks)):
            blocks.append(uncertain(panel, found, prior, np.array(mix), place))
            tick()
        return cls(panel, np.array(mix), found, blocks)


def effects(panel: Panel, given: Evidence | Posterior) -> Posterior:
    """What published association, or a score, says of all effects."""
    return posterior(panel, given, *relation(panel, CORRELATION)) if isinstance(given, Evidence) else given


def design(known: Known, budget: Budget, noise: float) -> Arrays:
    """The arrays for a budget; `noise`: standard deviation of the noise in the total of `effects`."""
    panel, blocks, mix = known.panel, known.blocks, known.mix
    variances = np.concatenate([block.variances for block in blocks])
    weights = water_filled(variances, budget)
    ends = np.cumsum([len(block.variances) for block in blocks])[:-1]
    parts = zip(np.split(weights, ends), blocks, strict=True)
    axes = [(np.sqrt(own)[:, None, None] * each.axes / np.sqrt(mix)[:, None])[own > 0] for own, each in parts]
    norms = np.sqrt(np.sum([(each**2).sum(axis=(0, 2)) for each in axes], axis=0))
    axes = [np.swapaxes(each / norms[:, None], 0, 1) for each in axes]  # (K, d, v), each ancestry of norm 1
    arrays = _people(panel, known.found) | _blocks(panel, blocks, axes)
    left = variances.sum() - _learnt(variances, weights, budget)
    least = 0.0 if known.found.mean.any() else 1.0  # without a published score nothing tells how large effects are
    arrays |= {"noise": np.array([noise]), "least_scale": np.array([least])}
    return arrays | {"unexplained": np.array([max(left, 0.0)])}


def _learnt(variances: Floats, weights: Floats, budget: Budget) -> float:
    known = budget.patients * budget.signal**2 / budget.variance * variances
    kappa = (budget.clip / budget.mu) ** 2 / budget.patients / budget.variance
    return float((variances * known * weights / ((1 + known) * weights + kappa)).sum())


def _people(panel: Panel, found: Posterior) -> Arrays:
    """What places a patient among the ancestries, and the published score."""
    size, mean = len(panel.names), 2 * panel.frequency.mean(axis=0)
    centre, middle = _whole(2 * panel.frequency, CENTRE_UNIT), _whole(mean, CENTRE_UNIT)
    loadings = _whole(panel.loadings.T / panel.sd, WEIGHT_UNIT)
    score = _whole(found.mean / panel.sd, WEIGHT_UNIT)
    shift = _filled(panel, middle) @ (loadings * WEIGHT_UNIT).T
    place = (shift - shift.mean(axis=0)) / shift.std(axis=0)
    centroids = np.array([place[panel.ancestry == k, :2].mean(axis=0) for k in range(size)])
    raw = np.zeros(len(place))
    for k in range(size):
        own = panel.ancestry == k
        raw[own] = _filled(panel, centre[k], own) @ (score[k] * WEIGHT_UNIT)
    spread = np.array([max(raw[panel.ancestry == k].std(), 1e-9) for k in range(size)])
    p = np.clip(raw / spread[panel.ancestry], -SCORE_BOUND, SCORE_BOUND)[:, None]
    further, one = (panel.ancestry[:, None] == np.arange(1, size)).astype(np.float64), np.ones((len(p), 1))
    rows = np.column_stack([one, 0 * one, 0 * one, np.clip(place, -BOUND, BOUND), p, p * further, further])
    moments = rows.T @ rows / len(rows)
    moments[[1, 2], [1, 2]] = 1.0  # age and sex are scaled so, and the panel has neither
    return {
        "centre": centre, "mean": middle, "score": score, "score_sd": spread, "loadings": loadings,
        "component_mean": shift.mean(axis=0), "component_sd": shift.std(axis=0), "centroids": centroids,
        "second_moments": moments, "panel_people": np.array([float(panel.people(k)) for k in range(size)]),
    }  # fmt: skip


def _blocks(panel: Panel, blocks: list[Block], axes: list[Floats]) -> Arrays:
    """What each block measures, and how its effects answer."""
    flat: dict[str, list[NDArray[Any]]] = {"weights": [], "gram": [], "spread": [], "response": []}
    for own, block, b in zip(panel.blocks, blocks, axes, strict=True):
        per_copy = [np.linalg.solve(f.T, each.T).T / panel.sd[own] for f, each in zip(block.factors, b, strict=True)]
        flat["weights"].append(_whole(np.array(per_copy).reshape(len(b), -1, len(own)), WEIGHT_UNIT))
        flat["gram"].append(np.einsum("kdv,kev->kde", b, b))
        carried = np.einsum("kij,kdj->kid", block.factors, b)  # linkage x what is measured
        answer = np.einsum("kilj,ljd->klid", block.covariance, carried, optimize=True)
        flat["spread"].append(np.einsum("kid,klie->klde", carried, answer, optimize=True))
        flat["response"].append(answer / panel.sd[own][:, None])
    joined = {name: np.concatenate([part.ravel() for part in parts]) for name, parts in flat.items()}
    unit = 2.0 ** (np.frexp(np.abs(joined["response"]).max(initial=1e-300))[1] - DIGITS)
    joined["response"] = _whole(joined["response"], float(unit))
    steps = {"variants": map(len, panel.blocks), "directions": (each.shape[1] for each in axes)}
    counted = {f"block_{name}": np.cumsum([0, *each]) for name, each in steps.items()}
    return joined | counted | {"response_unit": np.array([unit])}


def _whole(values: Floats, unit: float) -> NDArray[np.int32]:
    return np.rint(values / unit).astype(np.int32)


def _filled(panel: Panel, centre: NDArray[np.int32], people: NDArray[np.bool_] | None = None) -> Floats:
    """Copies less the centre; missing is 0."""
    copies = panel.dosages if people is None else panel.dosages[people]
    return np.where(copies < 0, 0.0, copies - centre * CENTRE_UNIT)
