"""Recipe `dose`: rows against a naive reference, isolation of patients, steps, site term, prediction, registry."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from genopact_client.release.quantise import clipped_integers
from genopact_shared.errors import GenopactError
from genopact_shared.recipes import NETWORKS, RECIPES, chosen
from genopact_shared.recipes import dose as recipe
from genopact_shared.recipes.dose import DOSE, DoseParameters, DosePlan, whitening
from genopact_shared.recipes.dose_features import OUTCOME, RACES, SCHEMA, dose_mg, features, outcome
from genopact_shared.recipes.dose_public import second_moments
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Codes, Floats, Number, Table
from genopact_shared.study import RecipeChoice
from tests.benchmarks.dose_tuning import generated
from tests.unit.dose_tables import changed, random_table

NOISED = DOSE.plan(DoseParameters(), 400, 1000)
MIX = DoseParameters().mix_milli
MOMENTS = np.array(second_moments(tuple(share / 1000 for share in MIX)))
EXACT = DOSE.plan(DoseParameters(), 400, None)
PLANS_AND_STEPS = [(plan, index) for plan in (NOISED, EXACT) for index in range(len(plan.steps))]


def some_model(seed: int = 0) -> Model:
    return NOISED.initial() | {"coefficients": np.random.default_rng(seed).normal(0, 0.3, recipe.SIZE)}


def realistic(n: int, seed: int) -> Table:
    """Plausible patients of several hospitals whose doses follow the published equation with noise."""
    return generated(seed).table.take(np.arange(n))


def trained(plan: DosePlan, tables: list[Table]) -> Model:
    model = plan.initial()
    for index in range(len(plan.steps)):
        rows = [plan.contribution(index, model, table) for table in tables]
        model = plan.advance(index, model, np.sum([site.sum(axis=0) for site in rows], axis=0))
    return model


@pytest.mark.parametrize("plan", [NOISED, EXACT])
def test_weights_add_up_to_one_and_metrics_come_last(plan: DosePlan) -> None:
    assert math.fsum(step.weight for step in plan.steps) == pytest.approx(1)
    assert all(step.weight > 0 for step in plan.steps)
    assert plan.steps[-1].name == "metrics"
    assert (plan.steps[0].name == "moments") == plan.exact


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(PLANS_AND_STEPS), st.integers(0, 500), st.integers(0, 29))
def test_a_patient_moves_only_their_own_row(case: tuple[DosePlan, int], seed: int, row: int) -> None:
    plan, index = case
    table, model = random_table(30, seed), some_model(seed)
    before = plan.contribution(index, model, table)
    after = plan.contribution(index, model, changed(table, row, seed + 1))
    others = np.arange(30) != row
    assert (before[others] == after[others]).all()
    # Without that patient the others keep their very bits, so that no rounding flips elsewhere.
    assert (plan.contribution(index, model, table.take(others)) == before[others]).all()


@pytest.mark.parametrize(("plan", "index"), PLANS_AND_STEPS)
def test_rows_have_the_declared_width_and_are_finite(plan: DosePlan, index: int) -> None:
    table = random_table(50, 4, missing=0.5)
    rows = plan.contribution(index, some_model(), table)
    assert rows.shape == (50, plan.steps[index].dims)
    assert np.isfinite(rows).all()
    assert (rows[np.isnan(table.number(OUTCOME))] == 0).all()
    nobody = plan.contribution(index, some_model(), Table({}, 0))
    assert nobody.shape == (0, plan.steps[index].dims)


def test_gradient_rows_follow_the_reference() -> None:
    table, model = random_table(40, 5, missing=0.0), some_model()
    rows = NOISED.contribution(0, model, table)
    factor = np.linalg.cholesky(MOMENTS)
    for x, y, row in zip(features(table), outcome(table), rows, strict=True):
        assert np.allclose(row, np.linalg.solve(factor, x) * (y - x @ model["coefficients"]))


def test_whitening_whitens_the_public_population() -> None:
    assert np.allclose(whitening(MIX) @ MOMENTS @ whitening(MIX).T, np.eye(recipe.SIZE), atol=1e-9)


def test_a_step_is_a_damped_newton_step_of_the_public_population() -> None:
    total = np.random.default_rng(6).normal(0, 50, recipe.SIZE)
    model = some_model()
    factor = np.linalg.cholesky(MOMENTS)
    expected = model["coefficients"] + 1.3 / 400 * np.linalg.inv(factor).T @ total
    assert np.allclose(NOISED.advance(1, model, total)["coefficients"], expected)


def test_advance_leaves_its_input_alone() -> None:
    for plan, index in PLANS_AND_STEPS:
        model = some_model()
        kept = {name: values.copy() for name, values in model.items()}
        total = plan.contribution(index, model, realistic(60, 7)).sum(axis=0)
        after = plan.advance(index, model, total)
        assert all((model[name] == kept[name]).all() for name in kept)
        assert {name: values.shape for name, values in after.items()} == {n: v.shape for n, v in kept.items()}


def test_the_steps_have_frozen_bits() -> None:
    """Sites on other processors have to compute the same model."""
    model = NOISED.initial()
    for index, step in enumerate(NOISED.steps):
        model = NOISED.advance(index, model, np.arange(step.dims, dtype=np.float64) * 7 - 40 + index)
    exact = EXACT.advance(0, EXACT.initial(), EXACT.contribution(0, EXACT.initial(), frozen_patients()).sum(axis=0))
    found = [hashlib.sha256(m["coefficients"].tobytes()).hexdigest()[:16] for m in (model, exact)]
    assert found == ["f1f51ae4634a0ace", "5290588d22567a83"]


def frozen_patients() -> Table:
    """Patients by arithmetic alone: no generator, no rounding beyond IEEE."""
    i = np.arange(64)
    codes: dict[str, Floats | Codes] = {
        c.name: (i * (k + 3) % 7 % 3).astype(np.int8) for k, c in enumerate(SCHEMA) if not isinstance(c, Number)
    }
    numbers = {"age_decade": i % 9 + 1, "height_cm": 150 + i % 50, "weight_kg": 50 + i, OUTCOME: 5 + i % 60}
    return Table(codes | {name: values.astype(np.float64) for name, values in numbers.items()}, 64)


def test_exact_plan_is_pooled_ridge_however_patients_are_spread() -> None:
    table = realistic(300, 8)
    x, y = features(table), outcome(table)
    penalty = np.diag([0.0] + [10.0] * (recipe.SIZE - 1))
    pooled = np.linalg.solve(x.T @ x + penalty, x.T @ y)
    for cuts in ([], [10, 150, 151]):
        parts = np.split(np.arange(300), cuts)
        model = trained(EXACT, [table.take(part) for part in parts])
        assert np.allclose(model["coefficients"], pooled)


def test_no_row_of_moments_or_metrics_reaches_its_clip() -> None:
    """Extremes of the schema: the bounds that stand in the plan never bind."""
    table = random_table(4000, 9, missing=0.1)
    extreme = {
        c.name: np.where(np.arange(4000) % 2, float(c.low), float(c.high)) for c in SCHEMA if isinstance(c, Number)
    }
    table = Table({**table.columns, **extreme}, 4000)
    for index, step in enumerate(EXACT.steps):
        for model in (EXACT.initial(), some_model()) if step.name == "metrics" else (EXACT.initial(),):
            assert np.linalg.norm(EXACT.contribution(index, model, table), axis=1).max() <= step.clip


def test_moments_clip_covers_the_schema() -> None:
    # 1 + three numbers at 3 + VKORC1 at 1 + two CYP2C9 alleles at 2 + five flags, against the largest residual.
    square = 1 + 3 * 9 + 1 + 2 * 4 + 5
    residual = math.sqrt(400) - math.sqrt(35)
    assert math.hypot(square, math.sqrt(square) * residual) < recipe.MOMENTS_CLIP


def test_steps_without_noise_come_near_least_squares() -> None:
    sites = [realistic(n, 10 + n) for n in (60, 90, 250)]
    x, y = np.vstack([features(s) for s in sites]), np.concatenate([outcome(s) for s in sites])
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    model = DOSE.plan(DoseParameters(rate_milli=1000, step_shares_milli=(40,) * 25), 400, 1000)
    reached = trained(model, sites)["coefficients"]
    assert np.mean((x @ reached - y) ** 2) < 1.02 * np.mean((x @ best - y) ** 2)


def test_clipped_steps_still_learn() -> None:
    table = realistic(400, 20)
    model = NOISED.initial()
    for index, step in enumerate(NOISED.steps):
        total = clipped_integers(NOISED.contribution(index, model, table), step.clip, step.scale).sum(axis=0)
        model = NOISED.advance(index, model, total / step.scale)
    truth, predicted = table.number(OUTCOME), DOSE.predict(model, None, table).value
    fixed = np.abs(35.0 - truth).mean()
    assert np.abs(predicted - truth).mean() < 0.75 * fixed


@pytest.mark.parametrize("mix", [(500, 300, 100, 100), (100, 50, 800, 50), (50, 900, 25, 25)])
def test_steps_hold_for_other_mixes_of_ancestry_when_the_study_states_them(mix: tuple[int, int, int, int]) -> None:
    table = generated(22, tuple(share / 1000 for share in mix)).table.take(np.arange(1500))
    plan = DOSE.plan(DoseParameters(mix_milli=mix), 1500, 1000)
    model = plan.initial()
    for index, step in enumerate(plan.steps):
        total = clipped_integers(plan.contribution(index, model, table), step.clip, step.scale).sum(axis=0)
        model = plan.advance(index, model, total / step.scale)
    truth, pooled = table.number(OUTCOME), trained(DOSE.plan(DoseParameters(), 1500, None), [table])
    error = [np.abs(DOSE.predict(found, None, table).value - truth).mean() for found in (model, pooled)]
    assert error[0] < 1.02 * error[1]


def test_metrics_follow_the_reference() -> None:
    table, model = random_table(200, 11), some_model()
    index = len(NOISED.steps) - 1
    released = NOISED.metrics(NOISED.advance(index, model, NOISED.contribution(index, model, table).sum(axis=0)))
    truth, race = table.number(OUTCOME), table.codes("race")
    predicted = dose_mg(features(table) @ model["coefficients"])
    for code, name in enumerate(RACES):
        own = ~np.isnan(truth) & ((race == code) | ((race < 0) & (code == 3)))
        assert released[name]["patients"] == pytest.approx(own.sum())
        assert released[name]["mae_mg"] == pytest.approx(np.minimum(np.abs(predicted - truth), 50)[own].mean())
        assert released[name]["over_20_percent"] == pytest.approx((predicted > 1.2 * truth)[own].mean())
        assert released[name]["under_20_percent"] == pytest.approx((predicted < 0.8 * truth)[own].mean())
    assert released["all"]["patients"] == pytest.approx((~np.isnan(truth)).sum())


def test_a_group_without_patients_has_no_measures() -> None:
    noisy = np.full(recipe.METRICS_DIMS, -3.0)
    assert NOISED.metrics(some_model() | {"metrics": noisy})["Asian"] == {"patients": -3.0}


def test_site_term_follows_the_reference_and_helps_a_shifted_site() -> None:
    table = realistic(80, 12)
    shifted_dose = (np.sqrt(table.number(OUTCOME)) + 1.0) ** 2
    site = Table({**table.columns, OUTCOME: shifted_dose}, 80)
    model = trained(EXACT, [realistic(400, 13)])
    personal = DOSE.fit_personal(model, site)
    x, r = features(site), outcome(site) - features(site) @ model["coefficients"]
    augmented = np.vstack([x, np.diag(np.sqrt([10.0] + [100.0] * 12))])
    reference = np.linalg.lstsq(augmented, np.concatenate([r, np.zeros(13)]), rcond=None)[0]
    assert np.allclose(personal["coefficients"], reference)
    error = [np.abs(DOSE.predict(model, term, site).value - shifted_dose).mean() for term in (None, personal)]
    assert error[1] < 0.9 * error[0]


def test_a_site_without_outcomes_has_a_zero_term() -> None:
    model = some_model()
    for table in (Table({}, 0), random_table(9, 14, absent=(OUTCOME,))):
        personal = DOSE.fit_personal(model, table)
        assert (personal["coefficients"] == 0).all()
        assert personal["variance"][0] == pytest.approx(recipe.PUBLIC_VARIANCE)


def test_prediction_does_not_read_the_outcome_and_is_ordered() -> None:
    table, model = realistic(100, 15), some_model()
    blind = Table({name: values for name, values in table.columns.items() if name != OUTCOME}, 100)
    seen, unseen = DOSE.predict(model, None, table), DOSE.predict(model, None, blind)
    assert (seen.value == unseen.value).all()
    assert (seen.low <= seen.value).all()
    assert (seen.value <= seen.high).all()


def test_interval_covers_four_fifths() -> None:
    cohort = generated(16).table
    model = trained(DOSE.plan(DoseParameters(), 1500, None), [cohort.take(np.arange(1500))])
    fresh = cohort.take(np.arange(1500, cohort.n))
    predicted, truth = DOSE.predict(model, None, fresh), fresh.number(OUTCOME)
    inside = (predicted.low <= truth) & (truth <= predicted.high)
    assert 0.75 < inside.mean() < 0.87


@pytest.mark.parametrize("total", [-1e9, 0.0, 1e9])
def test_interval_stays_sane_under_any_noise(total: float) -> None:
    model = some_model() | {"metrics": np.full(recipe.METRICS_DIMS, total)}
    predicted = DOSE.predict(model, None, random_table(20, 18))
    assert np.isfinite([predicted.value, predicted.low, predicted.high]).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {"step_shares_milli": [500, 400]},
        {"step_shares_milli": [1200, -200]},
        {"step_shares_milli": []},
        {"clip_milli": 0},
        {"rate_milli": 2.5},
        {"mix_milli": [1000, 0, 0, 0]},
        {"momentum": 9},
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DoseParameters.model_validate(parameters)
    with pytest.raises(GenopactError, match="STUDY_INVALID"):
        chosen(RecipeChoice(name="dose", version=1, parameters=parameters))


def test_registry() -> None:
    assert all(name == found.name for name, found in (RECIPES | NETWORKS).items())
    assert not RECIPES.keys() & NETWORKS.keys()
    found, parameters = chosen(RecipeChoice(name="dose", version=1, parameters={"clip_milli": 2000}))
    assert found is DOSE
    assert parameters == DoseParameters(clip_milli=2000)
    for name, version in (("dose", 2), ("none-such", 1)):
        with pytest.raises(GenopactError, match="RECIPE_UNKNOWN"):
            chosen(RecipeChoice(name=name, version=version))


def test_plan_refuses_an_empty_cohort() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        DOSE.plan(DoseParameters(), 0, 1000)


def test_totals_do_not_depend_on_private_counts() -> None:
    """Twice the patients, the same plan: the step doubles, because nothing divides by their number."""
    table = realistic(50, 19)
    model, total = NOISED.initial(), NOISED.contribution(0, NOISED.initial(), table).sum(axis=0)
    steps: list[Floats] = [NOISED.advance(0, model, factor * total)["coefficients"] for factor in (1.0, 2.0)]
    assert np.allclose(2 * steps[0], steps[1])
