"""A published design of a risk study: what each patient's genotypes are projected on, and what is known beforehand.

All projections are exact sums of integers in float64, so that a patient's numbers have the same bits in any batch.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_shared.errors import GenopactError
from genopact_shared.published import Arrays
from genopact_shared.recipes.linear import over_copies, positive_solution
from genopact_shared.recipes.table import Codes, Floats, Table

CENTRE_UNIT, WEIGHT_UNIT = 2.0**-16, 2.0**-20
"""Of centres (copies of the effect allele) and of published weights for a copy."""
SCORE_UNIT = 2.0**-24
"""Of the weights that a study finds."""
DIGITS = 22
"""Bits of the two factors of the update's last product; with up to 512 terms its sums stay exact."""
BOUND, SCORE_BOUND = 3.0, 4.0
CACHED = 1 << 18
"""Genotypes at a time, whose numbers stay in the cache."""
Indices = NDArray[np.intp]

SHAPES = {
    "centre": "KV", "mean": "V", "score": "KV", "score_sd": "K", "loadings": "CV", "component_mean": "C",
    "component_sd": "C", "centroids": "KT", "second_moments": "FF", "block_variants": "P", "block_directions": "P",
    "panel_people": "K",
}  # fmt: skip
"""Arrays of fixed axes: K ancestries, V variants, C components, T = 2, F features, P = blocks + 1. Beside them, flat
and block after block, those of FLAT, with the variants and directions of a block for V and D; `noise`
(1,), the standard deviation of the noise that the total of `effects` is expected to have; `response_unit` (1,);
`least_scale` (1,) of effects here against published ones; `unexplained` (1,), variance of log odds left unknown.
int32 are those of WHOLE, integers the ends of blocks, finite float64 all others."""
FLAT = {"weights": "KDV", "gram": "KDD", "spread": "KKDD", "response": "KKVD"}
WHOLE = {"centre", "mean", "score", "loadings", "weights", "response"}
NUMBERS = ("noise", "response_unit", "least_scale", "unexplained")


class Answer(NamedTuple):
    """What the patients of each ancestry (K,) move the total of `effects` by: for a unit of log odds, its sampling
    variance, and the sum of their clipped residuals.
    """

    gain: Floats
    variance: Floats
    bias: Floats


@dataclass(frozen=True, eq=False)
class RiskDesign:
    """See SHAPES. Raises PUBLISHED_INVALID for arrays that do not fit together."""

    arrays: Arrays

    def __post_init__(self) -> None:
        sizes = {"T": 2}
        try:
            for name, axes in SHAPES.items():
                for axis, size in zip(axes, self.arrays[name].shape, strict=True):
                    if sizes.setdefault(axis, size) != size:
                        raise ValueError(name)
            whole = self.arrays["block_variants"][-1] == sizes["V"] and sizes["F"] == 2 * sizes["K"] + 2 + sizes["C"]
            if not whole or any(self.arrays[name].shape != (self._shapes(name).prod(axis=1).sum(),) for name in FLAT):
                raise ValueError("blocks")
            for name in (*SHAPES, *FLAT, *NUMBERS):
                self._check_numbers(name)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise GenopactError("PUBLISHED_INVALID", f"not a design of a risk study: {error}") from error

    def _check_numbers(self, name: str) -> None:
        """Of the right type: whole ones, whose sums are exact, or finite ones; `_widths` has checked the ends."""
        array = self.arrays[name]
        if name in WHOLE:
            right = array.dtype == np.int32
        else:
            right = name.startswith("block_") or (array.dtype == np.float64 and bool(np.isfinite(array).all()))
        if not right or (name in NUMBERS and array.shape != (1,)):
            raise ValueError(name)

    def _widths(self, name: str) -> NDArray[np.int64]:
        ends = self.arrays[name].astype(np.int64, casting="safe")
        widths = ends[1:] - ends[:-1]
        if ends[0] != 0 or (widths < 0).any():
            raise ValueError(name)
        return widths

    def _shapes(self, name: str) -> NDArray[np.int64]:
        """(blocks, axes) of a flat array."""
        v, d = self._widths("block_variants"), self._widths("block_directions")
        sizes = {"K": np.full_like(v, self.ancestries), "V": v, "D": d}
        return np.column_stack([sizes[axis] for axis in FLAT[name]])

    @property
    def ancestries(self) -> int:
        """K."""
        return len(self.arrays["centre"])

    @property
    def variants(self) -> int:
        """V."""
        return int(self.arrays["centre"].shape[1])

    @property
    def directions(self) -> int:
        """D, of all blocks."""
        return int(self.arrays["block_directions"][-1])

    def features(self, table: Table) -> tuple[Floats, Indices]:
        """(n, F): 1, age, sex, components, P, P in each further ancestry, further ancestries; and the ancestry (n,).

        Age is in units of 15 years from 55; P is the published score over its panel standard deviation. All bounded.
        """
        components = np.empty((table.n, len(self.arrays["component_sd"])))
        score, ancestry = np.empty(table.n), np.empty(table.n, np.intp)
        for some, copies in table.dosages(self.variants):
            place = self._projected(copies[:, self._placing], self._loadings, self.arrays["mean"][self._placing])
            place = (place - self.arrays["component_mean"]) / self.arrays["component_sd"]
            away = (place[:, None, :2] - self.arrays["centroids"]) ** 2
            components[some], ancestry[some] = place, (away[:, :, 0] + away[:, :, 1]).argmin(axis=1)
            score[some] = self._by_ancestry(copies, ancestry[some], self.published)
        score = np.clip(score / self.arrays["score_sd"][ancestry], -SCORE_BOUND, SCORE_BOUND)
        further = (ancestry[:, None] == np.arange(1, self.ancestries)).astype(np.float64)
        age, sex = (table.number("age") - 55) / 15, table.codes("sex")
        known = [np.ones(table.n), np.clip(np.nan_to_num(age), -BOUND, BOUND), np.where(sex < 0, 0.0, 2.0 * sex - 1)]
        parts = [*known, np.clip(components, -BOUND, BOUND), score, score[:, None] * further, further]
        return np.column_stack(parts), ancestry

    def scores(self, table: Table, ancestry: Indices, weights: Floats) -> Floats:
        """(n,) of weights (K, V) for a copy, multiples of SCORE_UNIT, centred at the patient's ancestry."""
        found = np.empty(table.n)
        for some, copies in table.dosages(self.variants):
            found[some] = self._by_ancestry(copies, ancestry[some], weights)
        return found

    def measured(self, table: Table, ancestry: Indices) -> Floats:
        """(n, D): a patient's number in every direction; of norm 1 on average."""
        found = np.empty((table.n, self.directions))
        ends = self._ends
        for some, copies in table.dosages(self.variants):
            for k in np.unique(ancestry[some]).tolist():
                own = np.flatnonzero(ancestry[some] == k)
                rows = np.empty((len(own), self.directions))
                for (first, last), (low, high), weights in zip(*ends, self._weights, strict=True):
                    scaled = np.asarray(weights[k] * WEIGHT_UNIT, dtype=np.float64)
                    centre = self.arrays["centre"][k, first:last]
                    rows[:, low:high] = self._projected(copies[own, first:last], scaled, centre)
                found[some][own] = rows
        return found

    def solved(self, answer: "Answer", total: Floats, scale: float, dual: Floats) -> Floats:
        """(D,) what `dual` becomes when the total, of residuals under the weights of `dual`, is known.

        Linear Bayes in each block: prior covariance scale^2 V, and total = M effects + noise; the posterior mean is
        scale^2 V M' dual, where dual = (scale^2 M V M' + N)^-1 total for residuals under no effects. The same bits
        everywhere: elementwise arithmetic.

        Args:
            answer: of the patients to a change of their log odds.
            total: (D,) released.
            scale: of the effects here against the published ones.
            dual: (D,) before; zeros at first.
        """
        found, gain = np.array(dual), answer.gain
        sampled = np.maximum(answer.variance, 1.0) + answer.bias**2 / self.arrays["panel_people"]
        noise = float(self.arrays["noise"][0]) ** 2
        for place, (low, high) in enumerate(self._ends[1]):
            spread, gram = (self._of_block(name, place) for name in ("spread", "gram"))
            left, matrix = total[low:high] - noise * found[low:high], noise * np.eye(high - low)
            for k in range(self.ancestries):
                for column, value in enumerate(found[low:high].tolist() if dual.any() else ()):
                    left = left - sampled[k] * gram[k][:, column] * value
                matrix = matrix + sampled[k] * gram[k]
                for other in range(self.ancestries):
                    matrix = matrix + (scale * gain[k]) * (scale * gain[other]) * spread[k, other]
            found[low:high] += positive_solution(matrix, left)
        return found

    def weights(self, score: Floats, answer: "Answer", scale: float, dual: Floats) -> Floats:
        """(K, V) weights for a copy: `score` (K,) times the published ones, and the effects of `dual`; exact."""
        found, unit = score[:, None] * self.published, float(self.arrays["response_unit"][0])
        for place, ((first, last), (low, high)) in enumerate(zip(*self._ends, strict=True)):
            if low == high:
                continue
            response = self._of_block("response", place)
            pulls = (scale * scale) * answer.gain[:, None] * dual[low:high]  # (K, d)
            size = 2.0 ** (DIGITS - int(np.frexp(np.abs(pulls).max(initial=1e-300))[1]))
            whole = np.rint(pulls * size)
            moved = np.einsum("kjvd,jd->kv", response.astype(np.float64), whole) / size * unit
            found[:, first:last] += moved
        return np.asarray(np.rint(found / SCORE_UNIT) * SCORE_UNIT)

    @cached_property
    def published(self) -> Floats:
        """(K, V) weights of the published score for a copy."""
        return np.asarray(self.arrays["score"] * WEIGHT_UNIT, dtype=np.float64)

    @cached_property
    def _placing(self) -> Indices:
        """The few variants that the components are made of."""
        return np.flatnonzero(self.arrays["loadings"].any(axis=0))

    @cached_property
    def _loadings(self) -> Floats:
        return np.asarray(self.arrays["loadings"][:, self._placing] * WEIGHT_UNIT, dtype=np.float64)

    @cached_property
    def _ends(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        ends = (self.arrays[f"block_{of}"].tolist() for of in ("variants", "directions"))
        variants, directions = (list(pairwise(each)) for each in ends)
        return variants, directions

    @cached_property
    def _weights(self) -> list[NDArray[np.int32]]:
        return [self._of_block("weights", place) for place in range(len(self._ends[0]))]

    def _of_block(self, name: str, place: int) -> NDArray[Any]:
        """A block's part of a flat array."""
        shapes = self._shapes(name)
        first, last = np.cumsum([0, *shapes.prod(axis=1)])[place : place + 2]
        part: NDArray[Any] = self.arrays[name][first:last]
        return part.reshape(shapes[place])

    def _by_ancestry(self, copies: Codes, ancestry: Indices, weights: Floats) -> Floats:
        found = np.empty(len(copies))
        for k in np.unique(ancestry).tolist():
            own = ancestry == k
            found[own] = self._projected(copies[own], weights[k : k + 1], self.arrays["centre"][k])[:, 0]
        return found

    @staticmethod
    def _projected(copies: Codes, weights: Floats, centre: NDArray[np.int32]) -> Floats:
        """(b, w) weights (w, v) x (copies - centre); a missing genotype is the centre. Exact."""
        unknown, found = weights * (centre * CENTRE_UNIT), np.empty((len(copies), len(weights)))
        size = max(1, CACHED // len(centre)) if len(centre) else len(copies)
        for first in range(0, len(copies), size):
            found[first : first + size] = over_copies(copies[first : first + size], weights.T, unknown.T)
        return np.asarray(found - unknown.sum(axis=1))
