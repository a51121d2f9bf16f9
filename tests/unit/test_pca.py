"""Recipe `pca` and the algebra under it: against LAPACK, bit by bit, patient by patient, with and without noise."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.published import Published
from genopact_shared.recipes import RECIPES
from genopact_shared.recipes.gwas_private import design
from genopact_shared.recipes.pca import PCA, PcaParameters, PcaPlan, scores
from genopact_shared.recipes.regression import folded, orthonormal, swept
from genopact_shared.recipes.table import Floats, Table
from tests.unit.association import VARIANTS, Held, federated, gwas_study, split

V, K, N = 120, 3, 240
GROUPS = np.array([0, 0, 0, 1, 1, 2])
"""The populations of six people in a row: of unlike sizes, so that the components are told apart soon."""
FROZEN = "3a62468072b455517319925552375a12c2fc753fd9e66d03a27c84870b1655a8"


def mixed(n: int = N, count: int = V, seed: int = 3) -> tuple[Table, Floats]:
    """People of three populations, and the frequencies of all."""
    rng = np.random.default_rng(seed)
    shares = np.clip(rng.uniform(0.2, 0.8, count) + rng.normal(0, 0.15, (3, count)), 0.05, 0.95)
    codes = rng.binomial(2, shares[GROUPS[np.arange(n) % 6]]).astype(np.int8)
    codes[rng.random((n, count)) < 0.02] = -1
    frequency = np.round(np.where(codes < 0, 0, codes).sum(axis=0) / 2 / n, 3)
    return Table({"trait": rng.normal(size=n)}, n, Held(codes)), frequency


def start(tmp_path: Path, frequency: Floats, k: int = K) -> tuple[Published, str]:
    published = Published(tmp_path)
    vectors = np.random.default_rng(1).normal(size=(len(frequency), k))
    return published, published.add(design(frequency, loadings=vectors))


def standard(table: Table, frequency: Floats) -> Floats:
    assert isinstance(table.genotypes, Held)
    codes = table.genotypes.codes
    x = (codes - 2 * frequency) / np.sqrt(2 * frequency * (1 - frequency))
    return np.where(codes < 0, 0.0, x)


def test_without_noise_the_loadings_are_the_singular_vectors_of_everybody(tmp_path: Path) -> None:
    table, frequency = mixed()
    published, digest = start(tmp_path, frequency, 2)
    of = gwas_study(V, recipe="pca", design=digest, components=2, rounds=30)
    plan, model = federated(of, split(table, (90, 90, 60)), published)
    _, singular, rows = np.linalg.svd(standard(table, frequency), full_matrices=False)
    for at in range(2):
        assert abs(model["loadings"][:, at] @ rows[at]) == pytest.approx(1, abs=1e-8)
    np.testing.assert_allclose(model["variances"], singular[:2] ** 2 / N, rtol=1e-8)
    measured = {f"pc{at + 1}": {"variance": model["variances"][at]} for at in range(2)}
    assert PcaPlan.metrics(plan.course, model) == measured  # type: ignore[arg-type]
    own = PCA.fit_personal(model, table)["scores"]
    np.testing.assert_allclose(own.std(axis=0), 1, atol=0.1)
    found = [[own[GROUPS[np.arange(N) % 6] == group, at].mean() for at in range(2)] for group in range(3)]
    apart = [np.linalg.norm(np.subtract(found[a], found[b])) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(apart) > 1.5, "the two components tell the three populations apart"


def test_with_a_budget_the_first_component_is_found(tmp_path: Path) -> None:
    table, frequency = mixed(6000, 60)
    published, digest = start(tmp_path, frequency, 1)
    of = gwas_study(60, "distributed", "pca", design=digest, components=1, rounds=4, epsilon_milli=8000)
    plan, model = federated(of, split(table, (2000, 2000, 2000)), published)
    assert 7.8 < plan.epsilon <= 8
    rows = np.linalg.svd(standard(table, frequency), full_matrices=False)[2]
    plane = np.linalg.norm(rows[:2] @ model["loadings"][:, 0])
    assert plane > 0.9, "in the plane of the three populations"


def made(tmp_path: Path, k: int = K, **more: Any) -> PcaPlan:
    _, frequency = mixed()
    published, digest = start(tmp_path, frequency, k)
    plan = PCA.plan(PcaParameters(variants=VARIANTS, count=V, design=digest, components=k, **more), N, None, published)
    assert isinstance(plan, PcaPlan)
    return plan


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 59), min_size=1, unique=True))
def test_a_patient_moves_only_their_own_row_and_their_own_scores(
    tmp_path_factory: pytest.TempPathFactory, some: list[int]
) -> None:
    plan, table = made(tmp_path_factory.mktemp("pca")), mixed(60)[0]
    model = plan.initial()
    rows, places = plan.contribution(0, model, table), np.array(some)
    assert rows.shape == (60, plan.steps[0].dims)
    np.testing.assert_array_equal(plan.contribution(0, model, table.take(places)), rows[places])
    own = PCA.fit_personal(model, table)["scores"]
    np.testing.assert_array_equal(PCA.fit_personal(model, table.take(places))["scores"], own[places])
    assert isinstance(table.genotypes, Held)
    np.testing.assert_array_equal(scores(model, table.genotypes.codes[places]), own[places])


def test_nobody_without_a_trait_is_in_it(tmp_path: Path) -> None:
    plan, (table, _) = made(tmp_path), mixed(20)
    trait = table.number("trait").copy()
    trait[4] = np.nan
    rows = plan.contribution(0, plan.initial(), Table({"trait": trait}, 20, table.genotypes))
    assert [bool(row.any()) for row in rows] == [at != 4 for at in range(20)]
    assert PCA.fit_personal(plan.initial(), table.take(np.array([], np.int64)))["scores"].shape == (0, K)


def test_what_every_site_computes_has_frozen_bits(tmp_path: Path) -> None:
    plan = made(tmp_path)
    total = (np.arange(V * K) * 37 % 101 - 50.0) / 16
    model = plan.advance(0, {"frequency": np.zeros(V)}, total)
    assert hashlib.sha256(wire.pack(model)).hexdigest() == FROZEN


def test_other_start_vectors_are_refused(tmp_path: Path) -> None:
    published, frequency = Published(tmp_path), np.full(4, 0.5)
    wrong = (np.ones((4, 1)), np.ones((3, 2)), np.full((4, 2), np.nan))
    for vectors in wrong:
        digest = published.add(design(frequency, loadings=vectors))
        plan = PCA.plan(PcaParameters(variants=VARIANTS, count=4, design=digest, components=2), 10, None, published)
        with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
            plan.initial()
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        PCA.plan(
            PcaParameters(variants=VARIANTS, count=4, design=published.add(design(frequency)), components=2), 10, None,
            published,
        ).initial()  # fmt: skip
    with pytest.raises(ValueError, match="PcaParameters"):
        PCA.plan(RECIPES["gwas"].parameters(variants=VARIANTS, count=4, trait="linear"), 10, None)  # type: ignore[call-arg]
    assert RECIPES["pca"] is PCA
    assert np.isnan(PCA.predict({}, None, Table({}, 2)).value).all()


# --- the algebra


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 3), st.integers(1, 20))
def test_sweeping_is_a_regression_on_the_first_columns(seed: int, k: int, more: int, v: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(v, 40, k + more))
    left, slopes, rank = swept(np.moveaxis(np.einsum("vni,vnj->vij", data, data), 0, 2), k)
    assert rank.tolist() == [k] * v
    for at in range(v):
        fit = np.linalg.lstsq(data[at, :, :k], data[at, :, k:], rcond=None)[0]
        rest = data[at, :, k:] - data[at, :, :k] @ fit
        np.testing.assert_allclose(slopes[:, :, at], fit, atol=1e-9)
        np.testing.assert_allclose(left[:, :, at], rest.T @ rest, atol=1e-8)


def test_a_column_that_others_make_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(50, 4))
    double = np.column_stack([data[:, :2], data[:, 0] - 3 * data[:, 1], np.zeros(50), data[:, 2:]])
    left, slopes, rank = swept((double.T @ double)[:, :, None], 4)
    plain = swept((data.T @ data)[:, :, None], 2)
    assert rank.tolist() == [2.0]
    np.testing.assert_allclose(left, plain[0], rtol=1e-12)
    np.testing.assert_allclose(slopes[:2], plain[1], rtol=1e-9)
    assert not slopes[2:].any()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 70), st.integers(1, 4), st.integers(0, 100))
def test_folding_adds_up_and_no_other_column_matters(d: int, k: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(d, k))
    np.testing.assert_allclose(folded(values), values.sum(axis=0), atol=1e-12)
    for at in range(k):
        assert folded(values[:, at]) == folded(values)[at]


def test_orthonormal_columns_even_of_nearly_parallel_ones() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(size=200)
    near = np.column_stack([base, base + 1e-8 * rng.normal(size=200), np.zeros(200), rng.normal(size=200)])
    found, lengths = orthonormal(near)
    expected = np.diag([1.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(found.T @ found, expected, atol=1e-12)
    assert lengths[2] == 0
    assert lengths[0] == pytest.approx(np.linalg.norm(base))
