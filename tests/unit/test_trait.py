"""Recipe trait: a linear head, residuals in standard deviations, damped passes for related people."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_server.design.directions import Budget
from genopact_server.design.measure import Known, design
from genopact_server.design.panel import Panel, blocks_of
from genopact_server.design.posterior import Posterior
from genopact_shared import wire
from genopact_shared.published import Published
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Copies, Floats, Table
from genopact_shared.recipes.trait import BOUND, TRAIT, TraitParameters, TraitPlan
from tests.unit.risk_panel import VARIANTS

RNG = np.random.default_rng(3)


def relatives(n: int = 300) -> tuple[Panel, Floats]:
    """People of few families, whose kinship ties the blocks together; and a trait with heritability."""
    founders = RNG.integers(0, 2, (12, VARIANTS))
    family = RNG.integers(0, 6, n)
    parents = founders.reshape(6, 2, VARIANTS)[family]
    picks = RNG.integers(0, 2, (n, 2, VARIANTS // 20)).repeat(20, axis=2)
    copies = np.take_along_axis(parents, picks, axis=1).sum(axis=1).astype(np.int8)
    panel = Panel(copies, np.zeros(n, np.intp), ("mice",), blocks_of([str(j // 20) for j in range(VARIANTS)]))
    effects = RNG.normal(0, 1, VARIANTS)
    genetic = copies @ effects
    genetic = (genetic - genetic.mean()) / genetic.std()
    return panel, 0.7 * genetic + 0.5 * RNG.normal(size=n)


PANEL, Y = relatives()


def table(held_out: Any = None) -> Table:
    columns: dict[str, Any] = {"age": np.full(len(Y), 55.0), "sex": np.zeros(len(Y), np.int8), "trait": Y}
    columns["held_out"] = np.zeros(len(Y), np.int8) if held_out is None else held_out.astype(np.int8)
    return Table(columns, len(Y), Copies(PANEL.dosages))


def plan(epsilon_milli: int | None = None, **changes: Any) -> TraitPlan:
    folder = Path(tempfile.mkdtemp())
    nothing = np.zeros((1, VARIANTS))
    blank = Posterior(nothing, np.zeros((1, 1, VARIANTS), np.float32), np.zeros(VARIANTS))
    arrays = design(Known.of(PANEL, blank, [1.0]), Budget.of(len(Y), 1000.0, 10.0, None), 1e-3)
    given = {
        "variants": "0" * 64, "design": Published(folder).add(wire.pack(arrays)), "groups": ("mice",),
        "directions": int(arrays["block_directions"][-1]), "features": len(arrays["second_moments"]),
        "held_out_milli": 0, "evaluated": "everybody",
    }  # fmt: skip
    parameters = TraitParameters.model_validate(given | changes)
    return TRAIT.plan(parameters, len(Y), epsilon_milli, Published(folder))


def trained(of: TraitPlan, patients: Table) -> Model:
    model = of.initial()
    for index in range(len(of.steps)):
        model = of.advance(index, model, of.contribution(index, model, patients).sum(axis=0))
    return model


def test_damped_passes_come_to_the_joint_solution_where_single_steps_count_families_twice() -> None:
    one, many = plan(), plan(passes=40, damping_milli=150)
    x = np.where(PANEL.dosages < 0, 0, PANEL.dosages - 2 * PANEL.frequency[0]) / PANEL.sd
    model = trained(many, table())
    features = many.design.features(table())[0]
    rest = model["coefficients"].copy()
    rest[-1] = 0.0  # of the published score, which is nothing
    residual = Y - features @ rest
    prior = np.full(VARIANTS, 0.3 / VARIANTS) * PANEL.sd / 0.5
    variance = max(float(((Y - features @ rest) ** 2).sum()), 1.0) / len(Y)
    joint = x @ (prior * (x.T @ np.linalg.solve((x * prior) @ x.T + variance * np.eye(len(Y)), residual)))
    found = many.log_odds(model, table()) - features @ rest
    assert np.corrcoef(found, joint)[0, 1] > 0.97
    assert 0.8 < np.polyfit(joint, found, 1)[0] < 1.2
    single = one.log_odds(trained(one, table()), table())
    assert np.mean((single - Y) ** 2) > np.mean((many.log_odds(model, table()) - Y) ** 2)


def test_steps_are_named_by_pass_and_share_the_budget() -> None:
    names = [step.name for step in plan(3000, passes=3).steps]
    assert names[-4:] == ["effects-1", "effects-2", "effects-3", "metrics"]
    assert sum(step.weight for step in plan(3000, passes=3).steps) == pytest.approx(1)
    assert plan(3000).steps[-2].name == "effects"


def test_metrics_are_the_correlation_and_the_error() -> None:
    of = plan()
    model = trained(of, table())
    predicted = np.clip(of.log_odds(model, table()), -BOUND, BOUND)
    told = of.metrics(model)["mice"]
    assert told["patients"] == len(Y)
    assert told["correlation"] == pytest.approx(np.corrcoef(predicted, np.clip(Y, -BOUND, BOUND))[0, 1])
    assert told["mean_squared_error"] == pytest.approx(np.mean((predicted - np.clip(Y, -BOUND, BOUND)) ** 2))
    assert "correlation" not in of.metrics(of.initial())["all"]


def test_metrics_by_site_and_a_site_left_out() -> None:
    of = plan(by_site=("north", "south"), evaluated="held-out", left_out="north")
    model, metrics = of.initial(), len(of.steps) - 1
    north, south, west = (
        Table(table().columns, len(Y), Copies(PANEL.dosages), site) for site in ("north", "south", "w")
    )
    assert not of.contribution(0, model, north).any()
    assert of.contribution(0, model, south).any()
    assert not of.contribution(metrics, model, south).any()
    rows = of.contribution(metrics, model, north)
    assert rows.shape[1] == 3 * of.cells
    assert (rows[:, : of.cells] == rows[:, of.cells : 2 * of.cells]).all()
    assert not rows[:, 2 * of.cells :].any()
    assert list(of.metrics(model)) == ["mice", "site north", "site south", "all"]
    everybody = plan(by_site=("north",))
    assert not everybody.contribution(metrics, model, west)[:, of.cells :].any()


def test_moments_are_those_of_clipped_residuals() -> None:
    of = plan(3000, clip_milli=700)
    model = of.initial()
    index = [step.name for step in of.steps].index("moments")
    rows = of.contribution(index, model, table()) * of.moment_unit
    residual = np.clip(Y, -0.7, 0.7)
    assert np.allclose(rows, np.column_stack([np.abs(Y) < 0.7, residual**2, residual]))


def test_the_site_term_and_predictions_are_linear() -> None:
    of = plan()
    model = trained(of, table())
    odds = of.log_odds(model, table())
    shifted = Table({**table().columns, "trait": 0.5 * odds + 2.0}, len(Y), Copies(PANEL.dosages))
    own = of.fit_personal(model, shifted)["calibration"]
    assert own[0] == pytest.approx(2.0, abs=0.2)
    told = of.predict(model, {"calibration": np.array([2.0, 0.5])}, table())
    assert np.allclose(told.value, 2 + 0.5 * odds)
    assert (told.low <= told.value).all()
    assert (told.value <= told.high).all()


def test_parameters_of_another_recipe_are_refused() -> None:
    with pytest.raises(ValueError, match="TraitParameters"):
        TRAIT.plan(object(), 10, None)  # type: ignore[arg-type]
