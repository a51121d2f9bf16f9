"""Recipe `gwas`: without noise the regression of everybody together, with noise what budget and clip promise."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.plan import plan_of
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.published import Published
from genopact_shared.recipes import EXACT, RECIPES, chosen, gwas
from genopact_shared.recipes.gwas import GWAS, NEWTON, SCHEMA, ExactGwas, GwasParameters
from genopact_shared.recipes.gwas_private import NoisedGwas, design, standardised
from genopact_shared.recipes.protocol import Model, finest_scale
from genopact_shared.recipes.table import PEOPLE, Floats, Table
from tests.unit.association import (
    VARIANTS,
    Held,
    cases,
    codes_of,
    federated,
    gwas_study,
    least_squares,
    null_model,
    one_step,
    people,
    split,
)
from tests.unit.test_plan import PLANNED

N, V = 300, 30
SIZES = (100, 140, 60)
COVARIATES = ["age", "sex", "pc1", "pc2"]
FROZEN = "43a124dd68c0354de43cbdd3e225e00755ef00ccd824ee57071e7e12cef41ed7"


def plan(table: Table, trait: str = "linear", **more: Any) -> ExactGwas:
    given_parameters: dict[str, Any] = {"covariates": tuple(COVARIATES), "trait": trait, **more}
    made = GWAS.plan(GwasParameters(variants=VARIANTS, count=codes_of(table).shape[1], **given_parameters), 300, None)
    assert isinstance(made, ExactGwas)
    return made


def covariates(table: Table) -> Floats:
    return np.column_stack(
        [np.ones(table.n), table.number("age"), table.codes("sex").astype(float), table.number("pc1")]
    )


def close(model: Model, expected: list[tuple[float, float]], tolerance: float) -> None:
    for name, values in zip(("effect", "error"), np.array(expected).T, strict=True):
        np.testing.assert_allclose(model[name], values, rtol=tolerance)


def test_a_linear_trait_is_the_regression_of_everybody_without_whom_a_variant_misses() -> None:
    table = people(N, V)
    of = gwas_study(V, covariates=COVARIATES, centre_milli=1500, spread_milli=2000)
    _, model = federated(of, split(table, SIZES))
    codes, y, c = codes_of(table), table.number("trait"), covariates(table)
    called = codes >= 0
    close(model, [least_squares(codes[o, j] * 1.0, c[o], y[o]) for j, o in enumerate(called.T)], 1e-9)
    assert model["people"].tolist() == called.sum(axis=0).tolist()
    assert model["copies"].tolist() == np.where(called, codes, 0).sum(axis=0).tolist()


def test_a_logistic_trait_is_a_newton_step_from_the_null_model() -> None:
    table = cases(people(N, V))
    _, model = federated(gwas_study(V, covariates=COVARIATES, trait="logistic"), split(table, SIZES))
    codes, y, c = codes_of(table), table.number("trait"), covariates(table)
    fitted = null_model(c, y)
    expected = [one_step(codes[o, j] * 1.0, c[o], y[o], fitted[o]) for j, o in enumerate((codes >= 0).T)]
    close(model, expected, 1e-8)
    # Nobody missing: the score test, whose chi square is the square of the score over the information.
    whole = cases(people(N, V, missing=0))
    plan_, model = federated(gwas_study(V, covariates=COVARIATES, trait="logistic"), split(whole, SIZES))
    fitted = null_model(c, whole.number("trait"))
    assert [step.name for step in plan_.steps] == [f"null-{at}" for at in range(1, NEWTON + 1)] + ["variants-1"]
    g, w = codes_of(whole)[:, 5].astype(float), fitted * (1 - fitted)
    g -= c @ np.linalg.solve((c * w[:, None]).T @ c, (c * w[:, None]).T @ g)
    score = g @ (whole.number("trait") - fitted)
    assert (model["effect"][5] / model["error"][5]) ** 2 == pytest.approx(score**2 / (w @ g**2), rel=1e-8)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 1000), st.integers(20, 80), st.sampled_from(["linear", "logistic"]), st.permutations(COVARIATES),
    st.integers(-5000, 5000), st.integers(200, 5000),
)  # fmt: skip
def test_centre_spread_and_order_of_covariates_do_not_matter(
    seed: int, n: int, trait: str, order: list[str], centre: int, spread: int
) -> None:
    table = people(n, 5, seed)
    table = cases(table) if trait == "logistic" else table
    known = federated(gwas_study(5, trait=trait, covariates=COVARIATES), {"site-a": table})[1]
    about: dict[str, Any] = {"trait": trait, "covariates": list(order), "centre_milli": centre, "spread_milli": spread}
    model = federated(gwas_study(5, **about), split(table, (n // 2, n - n // 2)))[1]
    for name in ("people", "copies", "effect", "error"):
        np.testing.assert_allclose(model[name], known[name], rtol=1e-6, atol=1e-7)


def test_variants_come_in_blocks_whose_results_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    table, of = people(N, V), gwas_study(V, covariates=COVARIATES)
    whole = federated(of, {"site-a": table})[1]
    monkeypatch.setattr(gwas, "MOST", 300)
    made, model = federated(of, {"site-a": table})
    assert len(made.steps) > 3
    assert all(step.dims <= 300 for step in made.course.steps)  # type: ignore[union-attr]
    for name, values in whole.items():
        np.testing.assert_array_equal(model[name], values)


def test_what_says_nothing_is_unknown() -> None:
    """Monomorphic, missing in all, a copy of a covariate, a covariate twice: no result, or the others' results."""
    table = people(60, 6, missing=0)
    codes = codes_of(table).copy()
    codes[:, 0], codes[:, 1], codes[:, 2] = 2, -1, np.where(table.codes("sex") > 0, 2, 0)
    table = Table(table.columns, table.n, Held(codes))
    model = federated(gwas_study(6, covariates=["age", "sex"]), {"site-a": table})[1]
    assert np.isnan(model["effect"]).tolist() == np.isnan(model["error"]).tolist() == [True] * 3 + [False] * 3
    assert model["people"].tolist() == [60, 0, 60, 60, 60, 60]
    twice = {**table.columns, "pc1": table.number("age") / 10, "pc2": np.zeros(60)}
    again = federated(gwas_study(6, covariates=["age", "sex", "pc1", "pc2"]), {"site-a": replaced(table, twice)})[1]
    np.testing.assert_allclose(again["effect"], model["effect"], rtol=1e-9)
    np.testing.assert_allclose(again["error"], model["error"], rtol=1e-9)


def replaced(table: Table, columns: dict[str, Any]) -> Table:
    return Table(columns, table.n, table.genotypes)


def test_a_missing_covariate_is_its_public_centre_and_a_missing_trait_is_nobody() -> None:
    table = people(80, 4)
    age, sex, trait = table.number("age").copy(), table.codes("sex").copy(), table.number("trait").copy()
    age[3], sex[4], trait[5] = np.nan, -1, np.nan
    made = plan(table)
    rows = made.contribution(0, made.initial(), replaced(table, {"age": age, "sex": sex, "trait": trait}))
    k = made.parameters.width
    assert (rows[3, 1], rows[4, 2], rows[5].any()) == (0.0, 0.0, False)
    assert rows[:, 3].any() == rows[:, 4].any() == False  # noqa: E712 - no components at this site
    assert rows[3, made.products - 1] == 1
    assert rows.shape == (80, made.steps[0].dims) == (80, made.products + 4 * (k + 3 + made.products))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 500), st.integers(1, 40), st.sampled_from(["linear", "logistic"]), st.data())
def test_a_patient_moves_only_their_own_row(seed: int, n: int, trait: str, data: st.DataObject) -> None:
    """To the last bit, in every step, whatever the batch."""
    table = people(n, 7, seed)
    table = cases(table) if trait == "logistic" else table
    made = plan(table, trait)
    model = made.initial() | {"null": np.random.default_rng(seed).normal(size=made.parameters.width)}
    some = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True)))
    for index in {0, len(made.steps) - 1}:
        together = made.contribution(index, model, table)
        np.testing.assert_array_equal(made.contribution(index, model, table.take(some)), together[some])


def test_batches_of_the_genotypes_are_put_together_in_their_order() -> None:
    table = people(2 * PEOPLE + 3, 4)
    made = plan(table)
    rows = made.contribution(0, made.initial(), table)
    for at in (0, PEOPLE - 1, PEOPLE, 2 * PEOPLE + 2):
        alone = made.contribution(0, made.initial(), table.take(np.array([at])))
        np.testing.assert_array_equal(alone[0], rows[at])


def test_the_plan_is_of_fine_integers_that_fit() -> None:
    for total in (1, 60, 1000, 10**6, 10**8):
        step = GWAS.plan(GwasParameters(variants=VARIANTS, count=3, trait="linear"), total, None).steps[0]
        assert step.scale & (step.scale - 1) == 0
        assert 2 * total * 1024 * step.scale <= 2**62
        assert total > 10**7 or step.scale >= 1 << 30


def test_what_every_site_computes_has_frozen_bits() -> None:
    """Element by element, without BLAS and without functions that libraries round differently."""
    at = np.arange(60)
    codes = ((at[:, None] * np.array([1, 2, 5, 7]) + at[:, None] // 7) % 4 - 1).astype(np.int8)
    columns: dict[str, Any] = {
        "age": 20.0 + at * 7 % 50,
        "trait": (at * 11 % 13) / 4.0,
        "sex": (at % 2).astype(np.int8),
    }
    table = Table({**columns, "pc1": (at * 5 % 17) / 8.0}, 60, Held(codes))
    made = plan(table)
    total = np.trunc(made.contribution(0, made.initial(), table) * 1024).sum(axis=0) / 1024
    model = made.advance(0, made.initial(), total)
    assert np.isfinite(model["effect"]).all()
    assert hashlib.sha256(wire.pack(model)).hexdigest() == FROZEN


def test_wrong_tables_and_parameters_are_refused() -> None:
    table = people(20, 4)
    made = plan(cases(table), "logistic")
    with pytest.raises(GenopactError, match="neither 0 nor 1"):
        made.contribution(0, made.initial(), table)
    with pytest.raises(GenopactError, match="4 variants, where the study counts 5"):
        GWAS.plan(GwasParameters(variants=VARIANTS, count=5, trait="linear"), 20, None).contribution(
            0, made.initial() | {"null": np.zeros(3)}, table
        )
    with pytest.raises(GenopactError, match="GENOTYPES_MISSING"):
        plan(table).contribution(0, plan(table).initial(), Table(table.columns, 20))
    with pytest.raises(ValueError, match="at least 1"):
        GWAS.plan(GwasParameters(variants=VARIANTS, count=5, trait="linear"), 0, None)
    with pytest.raises(GenopactError, match="STUDY_INVALID"):
        gwas_study(5, trait="ordinal")
    with pytest.raises(GenopactError, match="design"):
        plan_of(gwas_study(5, "distributed", epsilon_milli=1000), PLANNED)
    assert RECIPES["gwas"] is GWAS
    assert {"gwas", "pca"} <= EXACT
    assert isinstance(chosen(gwas_study(5).recipe)[1], GwasParameters)
    assert len(SCHEMA) == 13


def test_it_has_no_site_term_and_predicts_nobody() -> None:
    table = people(20, 4)
    model = plan(table).initial()
    assert GWAS.fit_personal(model, table) == {}
    assert np.isnan(GWAS.predict(model, None, table).value).all()
    assert plan(table).metrics(model) == {"all": {"patients": 0.0}}


# --- with a budget


def noised(tmp_path: Path, table: Table, *, milli: int = 8000, **parameters: Any) -> tuple[NoisedGwas, Model, Any]:
    codes = codes_of(table)
    frequency = np.round(np.where(codes < 0, 0, codes).sum(axis=0) / 2 / (codes >= 0).sum(axis=0), 2)
    published = Published(tmp_path)
    digest = published.add(design(frequency))
    of = gwas_study(codes.shape[1], "distributed", design=digest, epsilon_milli=milli, **parameters)
    plan_, model = federated(of, split(table, (table.n // 3, table.n // 3, table.n - 2 * (table.n // 3))), published)
    assert isinstance(plan_.course, NoisedGwas)
    return plan_.course, model, plan_


@pytest.mark.parametrize("trait", ["linear", "logistic"])
def test_with_a_budget_effects_scatter_around_the_truth_as_the_errors_say(tmp_path: Path, trait: str) -> None:
    table = people(3000, 60, seed=5)
    about: dict[str, Any] = {"covariates": ["age", "sex", "pc1"], "trait": trait, "centre_milli": 1700}
    table = cases(table) if trait == "logistic" else table
    exact = federated(gwas_study(60, **about), split(table, (1000, 1000, 1000)))[1]
    course, model, whole = noised(tmp_path, table, counts=True, **about)
    assert 7.8 < whole.epsilon <= 8
    step = next(step for step in whole.steps if step.name == "scores")
    noise = np.sqrt(step.share_variance * 3) / step.fact.scale
    error = model["error"] * np.sqrt(1 + noise**2 / course.information)
    away = (model["effect"] - exact["effect"]) / error
    assert 0.3 < away.std() < 1.3
    assert np.abs(away).max() < 4.5
    assert int(np.nanargmax(np.abs(model["effect"] / error))) == 3
    np.testing.assert_allclose(model["copies"] / 2 / model["people"], exact["copies"] / 2 / exact["people"], atol=0.03)
    assert course.metrics(model) == {"all": {"patients": 3000.0}}


def test_shares_clips_and_scales_fit_the_plan(tmp_path: Path) -> None:
    for count, milli, counts in ((1, 20_000, True), (500, 1000, True), (23_000, 300, False), (1_000_000, 3000, True)):
        published = Published(tmp_path)
        of = gwas_study(count, "distributed", design="0" * 64, epsilon_milli=milli, counts=counts)
        whole = plan_of(of, PLANNED, published)
        assert 0.9 * milli < 1000 * whole.epsilon <= milli
        last = whole.steps[-1].fact
        assert isinstance(last, NoisedSum)
        assert [step.name for step in whole.steps][-2:] == (["scores", "counts"] if counts else ["head-8", "scores"])
    assert finest_scale(1.0, 1.0, 8000) == 1 << 12
    assert finest_scale(2.0**19, 1.0, 8000) == 1
    with pytest.raises(GenopactError, match="PLAN_IMPOSSIBLE"):
        plan_of(gwas_study(1 << 24, "distributed", design="0" * 64, epsilon_milli=5), PLANNED)


def test_a_noised_patient_moves_only_their_own_row(tmp_path: Path) -> None:
    table, published = people(50, 40), Published(tmp_path)
    digest = published.add(design(np.linspace(0, 1, 40)))
    parameters = GwasParameters(variants=VARIANTS, count=40, trait="linear", design=digest, counts=True)
    made = GWAS.plan(parameters, 50, 1000, published)
    model = made.initial() | {"null": np.array([0.3, -0.2, 0.7])}
    for index in range(len(made.steps)):
        together = made.contribution(index, model, table)
        assert together.shape == (50, made.steps[index].dims)
        for at in range(50):
            alone = made.contribution(index, model, table.take(np.array([at])))
            np.testing.assert_array_equal(alone[0], together[at])
    absent = replaced(table, {**table.columns, "trait": np.full(50, np.nan)})
    assert not any(made.contribution(index, model, absent).any() for index in range(len(made.steps)))


def test_genotypes_are_standardised_by_public_frequencies() -> None:
    codes, frequency = np.array([[0, 1, 2, -1, 1, 2]], np.int8), np.array([0.5, 0.5, 0.1, 0.5, 0.0, np.nan])
    spread = np.array([np.sqrt(0.5), np.sqrt(0.5), np.sqrt(0.18), np.sqrt(0.5), np.inf, np.inf])
    found = standardised(codes, frequency, spread)
    np.testing.assert_allclose(found, [[-np.sqrt(2), 0, 1.8 / np.sqrt(0.18), 0, 0, 0]])


def test_a_design_of_another_study_is_refused(tmp_path: Path) -> None:
    published = Published(tmp_path)
    for frequency in (np.full(3, 0.5), np.array([0.5, 0.5, 1.5, 0.5])):
        digest = published.add(design(frequency))
        parameters = GwasParameters(variants=VARIANTS, count=4, trait="linear", design=digest)
        made = GWAS.plan(parameters, 50, 1000, published)
        with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
            made.contribution(len(made.steps) - 1, made.initial(), people(5, 4))
