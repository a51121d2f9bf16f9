"""Recipe `risk`: who counts in which step, rows against a reference, learning, site term, parameters."""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from genopact_client.release.quantise import clipped_integers
from genopact_server.design.directions import Budget
from genopact_server.design.measure import design
from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.plan import Plan, plan_of
from genopact_shared.privacy.mechanisms import NoisedSum, Unprotected
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes import RECIPES, chosen
from genopact_shared.recipes.dose import DoseParameters
from genopact_shared.recipes.head import CLIP as HEAD_CLIP
from genopact_shared.recipes.head import RIDGE, probability
from genopact_shared.recipes.protocol import Model, Predictor
from genopact_shared.recipes.risk import RISK, RiskParameters, RiskPlan
from genopact_shared.recipes.risk_design import Answer
from genopact_shared.recipes.risk_metrics import BINS, CELLS, MEASURES, WIDTH
from genopact_shared.recipes.score import SITE_PRIOR
from genopact_shared.recipes.table import Floats, Table
from genopact_shared.study import RecipeChoice
from tests.unit.policy_fixtures import study as study_with
from tests.unit.risk_panel import PREVALENCE, VARIANTS, parameters_of, patients, small_known
from tests.unit.test_risk_design import updated

TRAINING = 2400
KNOWN = small_known()
PEOPLE = patients(300, 11, missing=0.05)
PEOPLE.columns["disease"][::9] = np.nan  # nobody knows yet
Y, HELD_OUT = PEOPLE.number("disease"), PEOPLE.codes("held_out") == 1


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RiskPlan:
    """With a budget, for 3,000 patients."""
    return made(tmp_path_factory.mktemp("published"), 1000)


def made(folder: Path, epsilon_milli: int | None, mu: float = 1.0, **changes: Any) -> RiskPlan:
    exact = epsilon_milli is None
    budget = Budget.of(TRAINING, 1000.0 if exact else mu, 1.0 if exact else 0.45, PREVALENCE)
    parameters = parameters_of(design(KNOWN, budget, budget.clip / budget.mu), folder) | changes
    return RISK.plan(RiskParameters.model_validate(as_tuples(parameters)), 3000, epsilon_milli, Published(folder))


def as_tuples(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()}


def some_model(of: RiskPlan, seed: int = 0) -> Model:
    """After every step, but as if none of `effects` had been made: `dual` is of a later pass alone."""
    model, rng = of.initial(), np.random.default_rng(seed)
    for index, step in enumerate(of.steps):
        model = of.advance(index, model, rng.normal(5, 10, step.dims))
    return model | {"dual": np.zeros_like(model["dual"])}


def index_of(of: RiskPlan, name: str) -> int:
    return [step.name for step in of.steps].index(name)


# --- rows


def test_head_rows_are_whitened_gradients(plan: RiskPlan) -> None:
    model, (rows, _) = some_model(plan), plan.design.features(PEOPLE)
    factor = np.linalg.cholesky(plan.design.arrays["second_moments"] + RIDGE * np.eye(10))
    residual = Y - 1 / (1 + np.exp(-rows @ model["coefficients"]))
    expected = np.linalg.solve(factor, rows.T).T * residual[:, None]
    counted = ~HELD_OUT & ~np.isnan(Y)
    assert np.allclose(plan.contribution(3, model, PEOPLE)[counted], expected[counted])


def test_rows_of_effects_are_measured_numbers_times_the_residual(plan: RiskPlan) -> None:
    model, (rows, ancestry) = some_model(plan), plan.design.features(PEOPLE)
    residual = Y - 1 / (1 + np.exp(-rows @ model["coefficients"]))
    found = plan.contribution(index_of(plan, "effects"), model, PEOPLE)
    counted = ~HELD_OUT & ~np.isnan(Y)
    expected = plan.design.measured(PEOPLE, ancestry) * residual[:, None]
    assert np.allclose(found[counted], expected[counted])


def test_moments_are_what_clipped_residuals_do(plan: RiskPlan, tmp_path: Path) -> None:
    """Of a patient with probability p: answer to a change of p, second and first moment of the clipped residual."""
    for of, clip in ((plan, 0.45), (made(tmp_path, None), 1.0)):
        model, (rows, ancestry) = some_model(of), of.design.features(PEOPLE)
        found = of.contribution(index_of(of, "moments"), model, PEOPLE).reshape(300, 2, 3)
        for i in np.flatnonzero(~HELD_OUT & ~np.isnan(Y)):
            p = 1 / (1 + math.exp(-rows[i] @ model["coefficients"]))
            case, other = min(1 - p, clip), -min(p, clip)
            gain = p * (1 - p) * (case - other)
            three = [gain, p * case**2 + (1 - p) * other**2, p * case + (1 - p) * other]
            assert np.allclose(found[i, ancestry[i]] / 4, three)
            assert (found[i, 1 - ancestry[i]] == 0).all()


@pytest.mark.parametrize("evaluated", ["held-out", "everybody"])
def test_the_held_out_are_in_the_metrics_alone_and_nobody_without_an_outcome_anywhere(
    tmp_path: Path, evaluated: str
) -> None:
    of = made(tmp_path, 1000, evaluated=evaluated)
    model, known = some_model(of), ~np.isnan(Y)
    for index, step in enumerate(of.steps):
        rows = of.contribution(index, model, PEOPLE)
        assert rows.shape == (300, step.dims)
        counted = known & ~HELD_OUT
        if step.name == "metrics":
            counted = known if evaluated == "everybody" else known & HELD_OUT
            assert rows.sum() == counted.sum()
        assert (rows != 0).any(axis=1).tolist() == counted.tolist()


def test_metrics_rows_are_the_cell_of_the_released_model(plan: RiskPlan) -> None:
    model, (_, ancestry) = some_model(plan), plan.design.features(PEOPLE)
    odds = plan.log_odds(model, PEOPLE)
    table = plan.contribution(index_of(plan, "metrics"), model, PEOPLE).reshape(300, 2, BINS, 2)
    edges = plan.parameters.nominal + WIDTH * np.arange(-BINS // 2 + 1, BINS // 2)
    for i in np.flatnonzero(HELD_OUT & ~np.isnan(Y)):
        expected = np.zeros((2, BINS, 2))
        expected[ancestry[i], np.searchsorted(edges, odds[i], "right"), int(Y[i])] = 1
        assert (table[i] == expected).all()


def test_log_odds_are_the_head_without_its_score_and_the_weights_that_were_found(plan: RiskPlan) -> None:
    model, (rows, ancestry) = some_model(plan), plan.design.features(PEOPLE)
    rest = model["coefficients"] * [1, 1, 1, 1, 1, 1, 1, 0, 0, 1]
    expected = rows @ rest + plan.design.scores(PEOPLE, ancestry, model["weights"])
    assert np.allclose(plan.log_odds(model, PEOPLE), expected)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([0, 7, 8, 9, 10]), st.permutations(range(24)), st.integers(0, 23))
def test_a_patient_moves_only_their_own_row(plan: RiskPlan, index: int, order: list[int], leaver: int) -> None:
    few, model = PEOPLE.take(np.arange(24)), some_model(plan, 1)
    before = plan.contribution(index, model, few)
    shuffled = plan.contribution(index, model, few.take(np.array(order)))
    assert (shuffled == before[order]).all()
    others = np.arange(24) != leaver
    assert (plan.contribution(index, model, few.take(others)) == before[others]).all()
    columns = {name: column.copy() for name, column in few.columns.items()}
    columns["age"][leaver], columns["sex"][leaver], columns["held_out"][leaver] = 31.0, 0, 0
    columns["disease"][leaver] = 1.0
    after = plan.contribution(index, model, Table(columns, 24, few.genotypes))
    assert (after[others] == before[others]).all()


# --- steps and plans


def test_steps_add_up_to_the_budget_and_have_the_stated_clips(plan: RiskPlan) -> None:
    steps, p = plan.steps, plan.parameters
    assert [step.name for step in steps] == [*(f"head-{i}" for i in range(1, 9)), "moments", "effects", "metrics"]
    assert math.fsum(step.weight for step in steps) == pytest.approx(1)
    assert math.fsum(step.weight for step in steps[:8]) == pytest.approx(0.08)
    assert [step.weight for step in steps[8:]] == pytest.approx([0.01, 0.86, 0.05])
    assert [step.clip for step in steps] == pytest.approx([HEAD_CLIP * math.sqrt(10)] * 8 + [1, 0.45, 1])
    assert [step.dims for step in steps] == [10] * 8 + [6, p.directions, 2 * CELLS]


def test_moments_and_metrics_of_a_typical_patient_are_not_clipped(plan: RiskPlan) -> None:
    """Moments are where risk is near a half: by at most a fifth."""
    model = plan.initial()
    for name in ("moments", "metrics"):
        assert np.linalg.norm(plan.contribution(index_of(plan, name), model, PEOPLE), axis=1).max() <= 1
    half = plan.contribution(index_of(plan, "moments"), model | {"coefficients": np.zeros(10)}, PEOPLE)
    assert np.linalg.norm(half, axis=1).max() < 1.25


def planned(of: RiskPlan, **privacy: Any) -> Plan:
    recipe = RecipeChoice(name="risk", version=1, parameters=of.parameters.model_dump())
    study = study_with(outcome="disease", metrics=MEASURES, recipe=recipe.model_dump(), privacy=privacy)
    return plan_of(study, {"site-0": 1000, "site-1": 900, "site-2": 1100}, of.published)


@pytest.mark.parametrize(
    ("mode", "epsilon", "honest"), [("distributed", 3000, 2), ("local", 3000, 1), ("none", None, 1)]
)
def test_a_study_has_a_plan_in_every_mode(plan: RiskPlan, mode: str, epsilon: int | None, honest: int) -> None:
    found = planned(plan, mode=mode, epsilon_milli=epsilon, honest_minimum=honest)
    assert isinstance(found.course, RiskPlan)
    assert isinstance(found.recipe, Predictor)
    assert found.course.exact == (mode == "none")
    assert [step.masked for step in found.steps] == [mode == "distributed"] * 11
    for step, planned_step in zip(found.course.steps, found.steps, strict=True):
        fact = cast("NoisedSum | Unprotected", planned_step.fact)
        assert isinstance(fact, Unprotected if mode == "none" else NoisedSum)
        assert (fact.dims, fact.scale) == (step.dims, step.scale)
        assert mode == "none" or float(cast("NoisedSum", fact).clip) == step.clip
    assert found.epsilon == math.inf if mode == "none" else 2.9 < found.epsilon <= 3


def test_advance_leaves_its_input_alone_and_keeps_shapes(plan: RiskPlan) -> None:
    model = some_model(plan)
    kept = {name: values.copy() for name, values in model.items()}
    for index, step in enumerate(plan.steps):
        total = np.random.default_rng(index).normal(0, 3, step.dims)
        after = plan.advance(index, model, total)
        total[:] = 0
        assert {name: each.shape for name, each in after.items()} == {name: each.shape for name, each in kept.items()}
        assert {each.dtype for each in after.values()} == {np.dtype(np.float64)}
        assert any((after[name] != kept[name]).any() for name in kept)
        assert all((model[name] == kept[name]).all() for name in kept)


def test_effects_give_the_weights_of_the_design_s_update(plan: RiskPlan) -> None:
    """The head's coefficients of the score, by ancestry, and the moments are what the update is told."""
    model, total = some_model(plan), np.random.default_rng(3).normal(0, 4, plan.parameters.directions)
    c, score_sd = model["coefficients"], plan.design.arrays["score_sd"]
    score = np.array([c[7], c[7] + c[8]]) / score_sd
    gain, variance, bias = model["moments"].reshape(2, 3).T / 4
    answer = Answer(np.maximum(gain, 0), variance, bias)
    expected = updated(plan.design, score, answer, total, max(score.mean(), 0.0))
    found = plan.advance(index_of(plan, "effects"), model, total)["weights"]
    assert np.allclose(found, expected, rtol=1e-9, atol=2**-23)


# --- learning


def trained(of: RiskPlan, tables: list[Table], noise: float | None, seed: int = 0) -> Model:
    """Clipped, and with Gaussian noise of `noise` times each step's; None: without either."""
    rng, model = np.random.default_rng(seed), of.initial()
    for index, step in enumerate(of.steps):
        clip = None if noise is None else step.clip
        rows = [of.contribution(index, model, table) for table in tables]
        total = np.sum([clipped_integers(each, clip, step.scale).sum(axis=0) for each in rows], axis=0) / step.scale
        if noise:
            total = total + rng.normal(0, noise * step.clip / math.sqrt(step.weight), step.dims)
        model = of.advance(index, model, total)
    return model


def test_measuring_effects_beats_the_head_alone_and_noise_costs_some_of_it(tmp_path: Path) -> None:
    """Epsilon 8 at delta 1e-6: mu 1.46; the released AUC is that of the held-out."""
    table, fresh = patients(3000, 21), patients(4000, 22)
    mu = 1.46
    exact, noised = made(tmp_path / "exact", None), made(tmp_path / "noised", 8000, mu * 0.86**0.5)
    plain = trained(exact, [table], None)
    sites = [table.take(np.arange(1500)), table.take(np.arange(1500, 3000))]
    models = [trained(noised, sites, 1 / mu, seed) for seed in range(3)]
    y, (rows, _) = fresh.number("disease"), exact.design.features(fresh)
    head = roc_auc_score(y, rows @ plain["coefficients"])
    best = roc_auc_score(y, exact.log_odds(plain, fresh))
    private = np.mean([roc_auc_score(y, noised.log_odds(each, fresh)) for each in models])
    assert head + 0.01 < private < best - 0.002
    seen = table.take(table.codes("held_out") == 1)
    shown = exact.metrics(plain)
    assert shown["all"]["patients"] == seen.n
    assert shown["all"]["auc"] == pytest.approx(
        roc_auc_score(seen.number("disease"), exact.log_odds(plain, seen)), abs=0.01
    )


def test_without_a_budget_a_federation_is_one_table(tmp_path: Path) -> None:
    of, table = made(tmp_path, None), patients(400, 23)
    one = trained(of, [table], None)
    parts = [table.take(part) for part in np.split(np.arange(400), [30, 31, 250])]
    several = trained(of, parts, None)
    assert all(one[name].tobytes() == several[name].tobytes() for name in one)


# --- at a site


def test_the_site_term_recovers_a_shift_and_a_slope(tmp_path: Path) -> None:
    of, table = made(tmp_path, None), patients(6000, 31)
    model = trained(of, [patients(3000, 32)], None)
    odds = of.log_odds(model, table)
    shifted = (np.random.default_rng(1).random(6000) < probability(0.9 + 0.6 * odds)).astype(np.float64)
    site = Table({**table.columns, "disease": shifted}, 6000, table.genotypes)
    own = of.fit_personal(model, site)["calibration"]
    training = site.codes("held_out") != 1
    rows = np.column_stack([np.ones(6000), odds])[training]

    def gradient(term: Floats) -> Floats:
        pull = np.array(SITE_PRIOR) * (term - np.array([0.0, 1.0]))
        return np.asarray(rows.T @ (shifted[training] - probability(rows @ term)) - pull)

    assert np.abs(gradient(own)).max() < 1e-6
    assert own == pytest.approx([0.9, 0.6], abs=0.12)
    held_out = site.take(~training)
    terms = (None, {"calibration": own})
    error = [np.mean((of.predict(model, term, held_out).value - held_out.number("disease")) ** 2) for term in terms]
    assert error[1] < 0.95 * error[0]


def test_a_site_without_outcomes_keeps_the_shared_model(plan: RiskPlan) -> None:
    model = some_model(plan)
    for table in (PEOPLE.take(np.isnan(Y)), PEOPLE.take(HELD_OUT), PEOPLE.take(np.array([], np.intp))):
        assert plan.fit_personal(model, table)["calibration"] == pytest.approx([0, 1])


@pytest.mark.parametrize("outcome", [0.0, 1.0])
@pytest.mark.parametrize("factor", [0.0, 1.0, 300.0])
def test_the_site_term_is_finite_whatever_the_patients(plan: RiskPlan, outcome: float, factor: float) -> None:
    model = some_model(plan)
    model |= {name: factor * model[name] for name in ("coefficients", "weights")}
    table = Table({**PEOPLE.columns, "disease": np.full(300, outcome)}, 300, PEOPLE.genotypes)
    own = plan.fit_personal(model, table)["calibration"]
    assert np.isfinite(own).all()
    assert np.abs(own).max() < 50


def test_predictions_are_ordered_probabilities_and_do_not_read_the_outcome(plan: RiskPlan) -> None:
    model, blind = some_model(plan), {name: each for name, each in PEOPLE.columns.items() if name != "disease"}
    for term in (None, {"calibration": np.array([0.3, 0.8])}):
        seen = plan.predict(model, term, PEOPLE)
        unseen = plan.predict(model, term, Table(blind, 300, PEOPLE.genotypes))
        assert (seen.value == unseen.value).all()
        assert ((seen.low > 0) & (seen.low < seen.value) & (seen.value < seen.high) & (seen.high < 1)).all()


# --- parameters


GOOD: dict[str, Any] = {
    "variants": "0" * 64, "design": "1" * 64, "directions": 8, "groups": ("eur", "sas"), "features": 10,
    "prevalence_milli": 200,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"shares_milli": (100, 100, 800)}, {"shares_milli": (500, 400, 200)}, {"shares_milli": (0, 10, 860)},
        {"shares_milli": (80, -10, 860)}, {"shares_milli": (80, 10)}, {"clip_milli": 0}, {"clip_milli": 1001},
        {"prevalence_milli": 0}, {"prevalence_milli": 501}, {"directions": 0}, {"groups": ()}, {"groups": ("a", "a")},
        {"groups": ("eur", "all")}, {"features": 3}, {"design": "none"}, {"variants": "1"}, {"evaluated": "nobody"},
        {"held_out_milli": 901}, {"rate": 1},
    ],
)  # fmt: skip
def test_parameters_are_checked(change: dict[str, Any]) -> None:
    assert RiskParameters.model_validate(GOOD).metrics_share == pytest.approx(0.05)
    with pytest.raises(ValidationError):
        RiskParameters.model_validate(GOOD | change)
    with pytest.raises(GenopactError, match="STUDY_INVALID"):
        chosen(RecipeChoice(name="risk", version=1, parameters=GOOD | change))


def test_the_recipe_is_registered_and_refuses_what_is_not_its_own() -> None:
    assert RECIPES["risk"] is RISK
    assert RISK.outcome in {column.name for column in RISK.schema if column.role == "outcome"}
    with pytest.raises(ValueError, match="Expected RiskParameters"):
        RISK.plan(DoseParameters(), 10, 1000)
    with pytest.raises(ValueError, match="cohort of at least 1"):
        RISK.plan(RiskParameters.model_validate(GOOD), 0, 1000)


def test_steps_need_no_published_file_and_models_do(tmp_path: Path) -> None:
    of = RISK.plan(RiskParameters.model_validate(GOOD), 100, 1000)
    assert len(of.steps) == 11
    for published in (NOTHING, Published(tmp_path)):
        with pytest.raises(GenopactError, match="PUBLISHED_MISSING"):
            RISK.plan(RiskParameters.model_validate(GOOD), 100, 1000, published).initial()


@pytest.mark.parametrize("change", [{"directions": 5}, {"groups": ("eur",)}, {"features": 12}])
def test_a_design_for_another_study_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        made(tmp_path, 1000, **change).initial()


def test_published_files_that_are_no_design_or_have_other_variants_are_refused(plan: RiskPlan, tmp_path: Path) -> None:
    other = Published(tmp_path).add(wire.pack({"one": np.ones(3)}))
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        RISK.plan(RiskParameters.model_validate(GOOD | {"design": other}), 100, 1000, Published(tmp_path)).initial()
    narrow = Table(PEOPLE.columns, 300, patients(300).genotypes)
    vars(narrow.genotypes)["array"] = np.zeros((300, VARIANTS - 1), np.int8)
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        plan.contribution(0, some_model(plan), narrow)
