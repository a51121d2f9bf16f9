"""Relatives are found where they were planted, and only there; the tiles do not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_ingest import kinship
from genopact_ingest.kinship import EDGES, Kinship, panel_columns, related
from tests.unit.quality_people import Dosages, children, drawn, manifest, packed

VARIANTS = 4000


def frequencies(size: int = VARIANTS) -> np.ndarray:
    return np.random.default_rng(1).uniform(0.1, 0.9, size)


def family() -> tuple[Dosages, dict[tuple[int, int], float]]:
    """60 unrelated people of two ancestries, then children, sibs, half-sibs, a duplicate with errors and a twin."""
    rng = np.random.default_rng(2)
    sex = np.zeros(30, np.int8)
    first = drawn(30, frequencies(), ["autosome"], sex, rng)
    second = drawn(30, frequencies()[::-1].copy(), ["autosome"], sex, rng)
    born = children(first[[0, 0, 0, 3]], first[[1, 1, 2, 4]], rng)  # 60, 61 sibs; 62 their half-sib; 63 alone
    again = first[10].copy()
    wrong = rng.random(VARIANTS) < 0.005
    again[wrong] = rng.integers(0, 3, wrong.sum())
    everybody = np.concatenate([first, second, born, again[None], second[5][None]])
    everybody[rng.random(everybody.shape) < 0.02] = -1
    planted = {(0, 60): 0.25, (0, 61): 0.25, (0, 62): 0.25, (1, 60): 0.25, (1, 61): 0.25, (2, 62): 0.25}
    planted |= {(3, 63): 0.25, (4, 63): 0.25, (60, 61): 0.25, (60, 62): 0.125, (61, 62): 0.125}
    return everybody, planted | {(10, 64): 0.5, (35, 65): 0.5}


def naive(one: Dosages, other: Dosages) -> tuple[float, float]:
    """Equation 11 as printed, over the variants that both have."""
    both = (one >= 0) & (other >= 0)
    one, other = one[both], other[both]
    hets = np.sum((one == 1) & (other == 1))
    opposite = np.sum(np.abs(one - other) == 2)
    mine, least = np.sum(one == 1), min(np.sum(one == 1), np.sum(other == 1))
    most = mine + np.sum(other == 1) - least
    if least == 0:
        return np.nan, np.nan
    return (hets - 2 * opposite) / (2 * least) + 0.5 - 0.25 * (least + most) / least, opposite / both.sum()


def found(dosages: Dosages, least: float = 0.0884, tile: int = 512) -> Kinship:
    return related(packed(dosages), np.ones(dosages.shape[1], np.bool_), least, tile)


def test_every_planted_relative_is_found_and_nobody_else() -> None:
    everybody, planted = family()
    result = found(everybody)
    assert {tuple(pair) for pair in result.pairs.tolist()} == planted.keys()
    for pair, coefficient, opposite in zip(result.pairs.tolist(), result.coefficient, result.opposite, strict=True):
        assert coefficient == pytest.approx(planted[tuple(pair)], abs=0.04)
        parent = planted[tuple(pair)] == 0.25 and pair != [60, 61]
        assert (opposite < kinship.NO_OPPOSITES) == (parent or planted[tuple(pair)] == 0.5)
    n = len(everybody)
    assert result.histogram.sum() == n * (n - 1) // 2
    assert (result.histogram[EDGES[:-1] >= 0.34]).sum() == 2


def test_two_ancestries_do_not_look_related() -> None:
    """Where correlations of genotypes would: within an ancestry everybody shares more than the average."""
    everybody, planted = family()
    result = found(everybody, least=0.06)
    assert len(result.pairs) == len(planted)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_equals_the_printed_formula_in_tiles_of_any_size(n: int, quarter: int, tile: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dosages = rng.integers(-1, 3, (n, 4 * quarter)).astype(np.int8)
    used = rng.random(4 * quarter) < 0.8
    result = related(packed(dosages), used, -np.inf, tile)
    seen = {tuple(pair): at for at, pair in enumerate(result.pairs.tolist())}
    for i in range(n):
        for j in range(i + 1, n):
            expected, opposite = naive(dosages[i, used], dosages[j, used])
            if np.isnan(expected):
                assert (i, j) not in seen
            else:
                assert result.coefficient[seen[i, j]] == pytest.approx(expected, abs=1e-12)
                assert result.opposite[seen[i, j]] == pytest.approx(opposite, abs=1e-15)


def test_the_panel_is_common_autosomal_and_one_of_each_block() -> None:
    frequency = np.array([0.5, 0.4, 0.01, 0.3, np.nan, 0.2, 0.25, 0.5, 0.5, 0.5])
    variants = manifest(frequency, ["autosome"] * 8 + ["x", "y"])
    blocks = ("a", "a", ".", "b", "b", "b", ".", ".", ".", ".")
    object.__setattr__(variants, "block", blocks)
    assert panel_columns(variants).tolist() == [0, 3, 6, 7]
    object.__setattr__(variants, "pos", np.arange(10, dtype=np.int64) * (kinship.WINDOW // 3))
    object.__setattr__(variants, "block", (".",) * 10)  # windows 0-2, 3-5, 6-7: fewer than four, none
    assert panel_columns(variants).tolist() == []


def test_a_large_panel_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinship, "MOST", 8)
    rows = panel_columns(manifest(np.full(99, 0.5), ["autosome"] * 99))
    assert len(rows) == 8
    assert (rows[0], rows[-1]) == (0, 98)
    assert np.diff(rows).max() <= 15
