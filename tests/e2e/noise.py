"""Noise and masks of the sums that left, for somebody who knows every patient: was any of them used twice?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from genopact_client.release.quantise import clipped_integers
from genopact_server.rounds import Run
from genopact_shared import wire
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.recipes.network import NetPlan
from genopact_shared.recipes.table import Table
from genopact_shared.statements import Aggregate
from tests.e2e.town import Books, Left

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """The noise in one sum, and the variance that was planned for it."""

    noise: Integers
    variance: float


def draws(run: Run, used: list[Aggregate], books: Mapping[str, Books], truth: Mapping[str, Table]) -> Iterator[Draw]:
    """Of every sum of a run that the coordinator could read: what is left without the patients' part in it."""
    parts = {site: each.bodies(run.state.run) for site, each in books.items()}
    for each in used:
        if run.plan.steps[each.round].masked:
            mine = {
                site: left for site in each.sites for left, body in parts[site].items() if left.body in each.receipts
            }
            total = wire.unpack(
                (run.path / f"total-{each.round + 1:04d}.safetensors").read_bytes(), np.int64, tag=np.uint64
            )
            exact = np.sum([_exact(run, truth[site], left) for site, left in mine.items()], axis=0)
            yield Draw(total["sum"] - exact, len(mine) * run.plan.steps[each.round].share_variance)
    for site, found in parts.items():
        for left, body in found.items():
            step = run.plan.steps[left.position[0]]
            if not step.masked:
                yield Draw(wire.unpack(body, np.int64)["sum"] - _exact(run, truth[site], left), step.share_variance)


def repeated_noise(found: list[Draw]) -> int:
    """How many draws are zero, or those of another sum once more."""
    return len(found) - len({each.noise.tobytes() for each in found if each.noise.any()})


def size_of_noise(found: list[Draw]) -> float:
    """Its variance over the planned one; far from 1, `draws` would be wrong and nothing that it shows would count."""
    return float(np.mean(np.concatenate([each.noise**2 / each.variance for each in found])))


def repeated_masks(uploads: list[bytes]) -> int:
    """Pairs of one site's masked sums whose difference is small: they had no mask, or the same one.

    Under two masks each of the 13 words or more is that small with chance 1/32.
    """
    sums, found = [load(body)["sum"] for body in uploads], 0
    for one, other in combinations(sums, 2):
        if one.shape == other.shape and one.dtype == other.dtype:
            signed = (one - other).view(f"i{one.itemsize}").astype(np.float64)
            found += bool((np.abs(signed) < 2.0 ** (8 * one.itemsize - 6)).all())
    return found


def _exact(run: Run, truth: Table, left: Left) -> Integers:
    course, fact, index = run.plan.course, left.fact, left.position[0]
    assert isinstance(fact, NoisedSum)
    assert not isinstance(course, NetPlan)
    model = wire.unpack((run.path / f"model-{index:04d}.safetensors").read_bytes(), np.float64)
    rows = course.contribution(index, model, truth.take(np.array(left.rows, np.int64)))
    total: Integers = clipped_integers(rows, float(fact.clip), fact.scale).sum(axis=0)
    return total
