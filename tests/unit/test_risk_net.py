"""Recipe `risk-net`: tokens, the published file, the first model, gradients of single patients, the site's own term."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.optimize import minimize

from genopact_client.train.private_sgd import PrivateSgd
from genopact_client.train.private_sum import MARGIN, PerRecordLoss, private_sum
from genopact_server.design.panel import Panel
from genopact_server.design.tokens import WEIGHT_GRID, Tokens, design
from genopact_server.report.attribution import contributions
from genopact_shared import canonical
from genopact_shared.errors import GenopactError
from genopact_shared.plan import MODEL_SCALE
from genopact_shared.privacy.mechanisms import Unprotected
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes import chosen
from genopact_shared.recipes.dose import DoseParameters
from genopact_shared.recipes.network import NetPlan
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.risk_net import CALIBRATION_SD, RISK_NET, RiskNetParameters
from genopact_shared.recipes.table import Floats, Table
from genopact_shared.study import RecipeChoice
from genopact_shared.wire import pack
from tests.unit import risk_people
from tests.unit.risk_people import BLOCKS, FORMS, VARIANTS, Held


@pytest.fixture
def plan(tmp_path: Path) -> NetPlan:
    return risk_people.plan(tmp_path)


def of(plan: NetPlan) -> RiskNetParameters:
    assert isinstance(plan.parameters, RiskNetParameters)
    return plan.parameters


def awake(plan: NetPlan, seed: int = 5) -> Model:
    """The first model, with nothing left at zero."""
    rng = np.random.default_rng(seed)
    return {name: values + rng.normal(0, 0.3, values.shape) for name, values in plan.initial().items()}


def naive(plan: NetPlan, table: Table, patient: int) -> list[float]:
    """The inputs of one patient, variant by variant."""
    file, p = plan.published.read(of(plan).design), of(plan)
    assert isinstance(table.genotypes, Held)
    codes = table.genotypes.codes[patient].tolist()
    copies = [float(file["missing"][v, 0]) if code < 0 else float(code) for v, code in enumerate(codes)]
    mixed = [float(file["missing"][v, 1]) if code < 0 else float(code == 1) for v, code in enumerate(codes)]
    place = [
        (sum(copies[v] * float(file["axes"][v, c]) for v in range(VARIANTS)) - float(file["axes_centre"][c]))
        / float(file["axes_scale"][c])
        for c in range(p.components)
    ]
    far = [(place[0] - float(a)) ** 2 + (place[1] - float(b)) ** 2 for a, b in file["centroids"]]
    own = far.index(min(far))
    found = []
    for b in range(p.blocks):
        for c in range(p.columns):
            value = 0.0
            for v in range(int(file["starts"][b]), int(file["starts"][b + 1])):
                value += copies[v] * float(file["dosage"][v, c]) + mixed[v] * float(file["heterozygote"][v, c])
            found.append((value - float(file["centre"][own, b, c])) / float(file["scale"][own, b, c]))
    age, sex = table.number("age")[patient], int(table.codes("sex")[patient])
    found += [0.0 if np.isnan(age) else (age - 50) / 15, {-1: 0.0, 0: -1.0, 1: 1.0}[sex], *place, float(own == 1)]
    return [min(max(value, -4.0), 4.0) for value in found]


# --- tokens


def test_inputs_are_those_of_one_patient_and_variant_after_another(plan: NetPlan) -> None:
    table = risk_people.table(40, 7, missing=0.2)
    inputs, targets = RISK_NET.tensors(table, plan.parameters, plan.published)
    assert inputs.dtype == targets.dtype == torch.float32
    assert np.allclose(inputs.numpy(), [naive(plan, table, patient) for patient in range(40)], atol=1e-5)
    assert np.array_equal(targets.numpy(), table.number("disease").astype(np.float32), equal_nan=True)
    known = ~np.isnan(table.number("disease"))
    assert torch.equal(plan.tensors(table)[0], inputs[torch.from_numpy(known)])
    assert 0 < known.sum() < 40


def test_a_patients_inputs_have_the_same_bits_beside_anybody(plan: NetPlan) -> None:
    """More patients than are read at a time, then each alone, then in another order."""
    table = risk_people.table(300, 8, missing=0.1)
    whole = RISK_NET.tensors(table, plan.parameters, plan.published)[0]
    order = np.random.default_rng(0).permutation(300)
    turned = RISK_NET.tensors(table.take(order), plan.parameters, plan.published)[0]
    assert torch.equal(turned, whole[torch.from_numpy(order)])
    for patient in (0, 17, 255, 256, 299):
        alone = RISK_NET.tensors(table.take(np.array([patient])), plan.parameters, plan.published)[0]
        assert torch.equal(alone[0], whole[patient])


def test_nobody_is_no_row(plan: NetPlan) -> None:
    inputs, targets = plan.tensors(risk_people.table(10, 7).take(np.arange(0)))
    assert inputs.shape == (0, BLOCKS * of(plan).columns + of(plan).covariates)
    assert targets.shape == (0,)


def test_somebody_without_any_data_is_finite(plan: NetPlan) -> None:
    unknown = Table({}, 1, Held(np.full((1, VARIANTS), -1, np.int8)))
    found = plan.predict(awake(plan), None, unknown)
    assert 0 < found.low[0] < found.value[0] < found.high[0] < 1


def test_without_genotypes_or_file_nothing_is_computed(plan: NetPlan, tmp_path: Path) -> None:
    table = risk_people.table(4, 7)
    with pytest.raises(GenopactError, match="GENOTYPES_MISSING"):
        plan.tensors(Table(table.columns, 4))
    with pytest.raises(GenopactError, match="PUBLISHED_MISSING"):
        RISK_NET.tensors(table, plan.parameters, NOTHING)
    assert plan.initial().keys() == NetPlan(RISK_NET, of(plan), {}).initial().keys()


@pytest.mark.parametrize("change", [{"blocks": BLOCKS + 1}, {"columns": 4}, {"components": 3}, {"ancestries": 3}])
def test_a_file_of_other_sizes_is_refused(plan: NetPlan, change: dict[str, int]) -> None:
    other = of(plan).model_copy(update=change)
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        RISK_NET.tensors(risk_people.table(4, 7), other, plan.published)


def test_a_file_for_other_variants_is_refused(plan: NetPlan) -> None:
    """A variant more or less would move every block that follows."""
    for codes in (np.zeros((2, VARIANTS + 1), np.int8), np.zeros((2, VARIANTS - 1), np.int8)):
        with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
            RISK_NET.tensors(Table({}, 2, Held(codes)), plan.parameters, plan.published)


def test_another_file_is_refused(plan: NetPlan) -> None:
    assert isinstance(plan.published, Published)
    other = of(plan).model_copy(update={"design": plan.published.add(pack({"starts": np.array([0, 2])}))})
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        RISK_NET.tensors(risk_people.table(4, 7), other, plan.published)


# --- the file


def test_the_file_is_what_the_panel_says(plan: NetPlan) -> None:
    (data, _), panel = risk_people.designed(), risk_people.panel()
    file = plan.published.read(of(plan).design)
    assert of(plan).design == canonical.digest(data) == canonical.digest(risk_people.designed()[0])
    assert file["starts"].tolist() == [0, 6, 12, 18, 23]
    assert np.array_equal(file["dosage"][:, 0], np.rint(panel.weights * WEIGHT_GRID) / WEIGHT_GRID)
    for name, grid in (("dosage", 20), ("heterozygote", 20), ("axes", 20), ("missing", 10)):
        scaled = file[name].astype(np.float64) * 2.0**grid
        assert np.array_equal(scaled, np.rint(scaled)), name
    for b in range(BLOCKS):
        own = np.arange(*file["starts"][b : b + 2])
        top = int(file["dosage"][own, 3].argmax())
        assert file["dosage"][own, 3].sum() == file["heterozygote"][own, 4].sum() == 1
        assert file["heterozygote"][own, 4][top] == 1
        spread = panel.within(panel.copies(own)).std(axis=0)
        assert top == (np.abs(panel.weights[own]) * spread).argmax()
    assert not file["heterozygote"][:, :4].any()


def test_inputs_of_the_panel_are_standardised(plan: NetPlan) -> None:
    """By the numbers of the panel: each ancestry has mean zero; the score a spread of one, a column one over blocks."""
    panel = risk_people.panel().panel
    table = Table({}, len(panel.ancestry), Held(panel.dosages))
    inputs = RISK_NET.tensors(table, plan.parameters, plan.published)[0].numpy().astype(np.float64)
    tokens = inputs[:, : BLOCKS * 5].reshape(-1, BLOCKS, 5)
    assert np.array_equal(inputs[:, -1], panel.ancestry)
    for k in range(2):
        assert np.allclose(tokens[panel.ancestry == k].mean(axis=0), 0, atol=1e-5)
        assert tokens[panel.ancestry == k, :, 0].sum(axis=1).std() == pytest.approx(1, abs=1e-5)
    assert np.allclose(tokens[:, :, 1:].std(axis=0), BLOCKS**-0.5, atol=0.02)
    assert np.allclose(inputs[:, BLOCKS * 5 + 2 : -1].std(axis=0), 1, atol=1e-4)


def test_directions_are_those_of_linkage_within_ancestries() -> None:
    """The leading direction explains at least as much of the scaled dosages as any variant's own."""
    panel, file = risk_people.panel(), _read(risk_people.designed()[0])
    for b in range(BLOCKS):
        own = np.arange(*file["starts"][b : b + 2])
        rows = panel.within(panel.copies(own))
        scaled = rows / np.sqrt(rows.std(axis=0))
        variances = np.sort(np.linalg.svd(scaled)[1] ** 2)[::-1]
        for c in (1, 2):
            unit = file["dosage"][own, c] * np.sqrt(rows.std(axis=0))
            assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-4)
            assert ((scaled @ unit) ** 2).sum() == pytest.approx(variances[c - 1], rel=1e-4)


def test_linked_variants_are_one_and_short_blocks_have_empty_columns() -> None:
    """Two copies of a variant and one of its own: no third top, no fourth direction; zeros instead."""
    codes, ancestry = risk_people.people(120, 3)
    codes = np.column_stack([codes[:, 0], codes[:, 0], codes[:, 20], codes[:, 5:8]])
    weights = np.array([0.5, 0.4, 0.1, 0.0, 0.0, 0.0])
    panel = Panel(codes, ancestry, ("one", "two"), (np.arange(3), np.arange(3, 6)))
    file = _read(design(Tokens(panel, weights), directions=4, tops=3)[0])
    assert file["dosage"][:3, [5, 7, 9]].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert not file["dosage"][3:, 5:].any()
    assert not file["dosage"][:, 4].any()
    assert np.isfinite(file["scale"]).all()
    assert (file["scale"] > 0).all()


def test_weights_of_other_variants_or_scattered_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected"):
        risk_people.panel(np.zeros(3))
    one = risk_people.panel()
    with pytest.raises(ValueError, match="Expected"):
        Tokens(replace(one.panel, blocks=one.panel.blocks[::-1]), one.weights)


def _read(data: bytes) -> dict[str, Floats]:
    from safetensors.numpy import load

    return load(data)


# --- the network


@pytest.mark.parametrize("form", FORMS)
def test_it_begins_at_the_public_score(tmp_path: Path, form: dict[str, Any]) -> None:
    plan, table = risk_people.plan(tmp_path, prevalence_milli=120, **form), risk_people.table(50, 9)
    panel = risk_people.panel()
    assert isinstance(table.genotypes, Held)
    codes = table.genotypes.codes
    score = np.where(codes < 0, panel.missing[:, 0], codes) @ panel.weights
    inputs = RISK_NET.tensors(table, plan.parameters, plan.published)[0].numpy()
    reference = panel.copies(np.arange(VARIANTS)) @ panel.weights
    standard = np.empty(50)
    for k in range(2):
        own, label = inputs[:, -1] == k, panel.panel.ancestry == k
        standard[own] = (score[own] - reference[label].mean()) / reference[label].std()
    expected = np.log(0.12 / 0.88) + of(plan).score_milli / 1000 * standard
    assert np.allclose(plan.outputs(plan.initial(), table), expected, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_seed_alone_decides_the_first_weights(tmp_path: Path, form: dict[str, Any]) -> None:
    torch.manual_seed(1)
    first = risk_people.plan(tmp_path, **form).initial()
    torch.manual_seed(2)
    second = risk_people.plan(tmp_path, **form).initial()
    other = risk_people.plan(tmp_path, seed=1, **form).initial()
    assert pack(first) == pack(second)
    assert not np.array_equal(first["embed"], other["embed"])
    assert not first["last.weight"].any()


@pytest.mark.parametrize("form", FORMS)
def test_one_logistic_loss_a_patient(tmp_path: Path, form: dict[str, Any]) -> None:
    plan, table = risk_people.plan(tmp_path, **form), risk_people.table(30, 10)
    model, (inputs, targets) = awake(plan), plan.tensors(table)
    losses = RISK_NET.loss(plan.module(model), inputs, targets).detach().numpy()
    p = 1 / (1 + np.exp(-plan.outputs(model, table)))[~np.isnan(table.number("disease"))]
    assert losses.shape == (len(targets),)
    assert np.allclose(losses, -np.log(np.where(targets.numpy() == 1, p, 1 - p)), atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_patient_moves_only_their_own_loss(tmp_path: Path, form: dict[str, Any]) -> None:
    plan, table = risk_people.plan(tmp_path, **form), risk_people.table(12, 11, missing=0.0)
    module = plan.module(awake(plan))
    assert isinstance(table.genotypes, Held)
    codes = table.genotypes.codes.copy()
    codes[5] = 2 - codes[5]
    changed = Table(table.columns, 12, Held(codes))
    before = RISK_NET.loss(module, *plan.tensors(table))
    after = RISK_NET.loss(module, *plan.tensors(changed))
    same = torch.arange(12) != 5
    assert torch.equal(before[same], after[same])
    assert before[5] != after[5]


@pytest.mark.parametrize("form", FORMS)
def test_private_sums_are_those_of_single_patients(tmp_path: Path, form: dict[str, Any]) -> None:
    """The engine accepts the network by rules alone, and gives what one backward pass a patient gives."""
    plan, clip = risk_people.plan(tmp_path, **form), 0.7
    module = plan.module(awake(plan)).double()
    inputs, targets = (each.double() for each in plan.tensors(risk_people.table(25, 12)))
    losses = PerRecordLoss(module, RISK_NET.loss, inputs, targets)
    assert losses._hooked == ()
    summed = private_sum(losses, inputs, targets, clip)
    named = dict(module.named_parameters())
    expected = {name: torch.zeros_like(weights) for name, weights in named.items()}
    for patient in range(len(targets)):
        some = slice(patient, patient + 1)
        rows = torch.autograd.grad(RISK_NET.loss(module, inputs[some], targets[some]).sum(), list(named.values()))
        norm = float(sum((row**2).sum() for row in rows)) ** 0.5
        bound = clip * (1 - MARGIN[torch.float64])
        for name, row in zip(named, rows, strict=True):
            expected[name] += row * min(1.0, bound / norm)
    assert summed.dropped == 0
    for name, total in summed.total.items():
        assert torch.allclose(total, expected[name], atol=1e-9), name


def test_it_learns_dominance_that_the_score_does_not_know(tmp_path: Path) -> None:
    """Without noise, on the patients it has: the loss falls below that of the score, and of the linear path alone."""
    settings = {"local_steps": 80, "learning_rate_milli": 150, "sampling_rate_milli": 1000, "gain_milli": 1000}
    plan, table = risk_people.plan(tmp_path, width=8, **settings), risk_people.table(400, 13)
    model = plan.initial()
    change = PrivateSgd(plan, Unprotected(dims=1, scale=MODEL_SCALE), "here")(model, table)
    trained = plan.advance(0, model, change)

    def loss(model: Model) -> float:
        return float(RISK_NET.loss(plan.module(model), *plan.tensors(table)).detach().mean())

    assert loss(trained) < loss(model) - 0.1
    assert loss(trained) < loss(trained | {"last.weight": 0 * model["last.weight"]})


@pytest.mark.parametrize(
    "change",
    [
        {"design": "short"}, {"variants": None}, {"blocks": 0}, {"columns": 0}, {"components": 1}, {"ancestries": 0},
        {"prevalence_milli": 0}, {"prevalence_milli": 1000}, {"score_milli": -1}, {"gain_milli": 0}, {"width": 0},
        {"depth": 5}, {"heads": 3}, {"architecture": "forest"}, {"seed": -1}, {"dropout": 1}, {"rounds": 0},
    ],
)  # fmt: skip
def test_parameters_are_checked(change: dict[str, Any]) -> None:
    given = {"variants": "0" * 64, "design": "0" * 64, **risk_people.designed()[1]}
    RiskNetParameters.model_validate(given)
    with pytest.raises(ValidationError):
        RiskNetParameters.model_validate(given | change)
    with pytest.raises(GenopactError, match="STUDY_INVALID"):
        chosen(RecipeChoice(name="risk-net", version=1, parameters=given | change))


def test_parameters_of_another_recipe_are_refused() -> None:
    with pytest.raises(ValueError, match="RiskNetParameters"):
        RISK_NET.module(DoseParameters())


# --- the site's own term


def test_the_sites_own_term_is_the_mode_of_its_posterior() -> None:
    rng = np.random.default_rng(14)
    outputs = rng.normal(-1, 1.2, 400)
    y = (rng.random(400) < 1 / (1 + np.exp(-(0.6 + 0.7 * outputs)))).astype(np.float64)
    y[:7] = np.nan
    table = Table({"disease": y}, 400)
    found = RISK_NET.fit_personal(outputs, table)

    def minus_log(term: Floats) -> float:
        z = term[0] + term[1] * outputs[7:]
        prior = 0.5 * (term[0] / CALIBRATION_SD[0]) ** 2 + 0.5 * ((term[1] - 1) / CALIBRATION_SD[1]) ** 2
        return float((np.logaddexp(0, z) - y[7:] * z).sum() + prior)

    best = minimize(minus_log, np.array([0.0, 1.0]), method="BFGS")
    assert np.allclose(found["calibration"], best.x, atol=1e-4)
    step, at = 1e-3, found["calibration"]
    unit = np.eye(2) * step
    curvature = [
        [(minus_log(at + a + b) - minus_log(at + a - b) - minus_log(at - a + b) + minus_log(at - a - b)) / (4 * step**2)
         for b in unit] for a in unit
    ]  # fmt: skip
    assert np.allclose(np.linalg.inv(curvature), found["covariance"], rtol=1e-2)


def test_predictions_are_calibrated_risks_with_bounds(plan: NetPlan) -> None:
    table, model = risk_people.table(200, 15), awake(plan)
    personal = plan.fit_personal(model, table)
    shared, own = plan.predict(model, None, table), plan.predict(model, personal, table)
    outputs = plan.outputs(model, table)
    assert np.allclose(shared.value, 1 / (1 + np.exp(-outputs)))
    intercept, slope = personal["calibration"]
    assert np.allclose(own.value, 1 / (1 + np.exp(-(intercept + slope * outputs))))
    for found in (shared, own):
        assert ((found.low > 0) & (found.low < found.value) & (found.value < found.high) & (found.high < 1)).all()
    widths = [np.log(found.high / (1 - found.high)) - np.log(found.low / (1 - found.low)) for found in (own, shared)]
    assert (widths[0] < widths[1]).all()
    sd = np.sqrt(CALIBRATION_SD[0] ** 2 + (CALIBRATION_SD[1] * outputs) ** 2)
    assert np.allclose(np.log(shared.high / (1 - shared.high)), outputs + 1.28155 * sd, atol=1e-3)


def test_a_site_without_outcomes_keeps_the_shared_network(plan: NetPlan) -> None:
    table = risk_people.table(5, 16)
    nobody = Table({name: column for name, column in table.columns.items() if name != "disease"}, 5, table.genotypes)
    personal = plan.fit_personal(awake(plan), nobody)
    assert np.array_equal(personal["calibration"], [0, 1])
    assert np.allclose(personal["covariance"], np.diag(np.square(CALIBRATION_SD)))


# --- what a block contributes


def riemann(plan: NetPlan, model: Model, table: Table, steps: int = 400) -> Floats:
    """Midpoints of the path, patient by patient, by torch's own gradients."""
    module, size = plan.module(model).double(), BLOCKS * of(plan).columns
    inputs = RISK_NET.tensors(table, plan.parameters, plan.published)[0].double()
    found = np.zeros((table.n, BLOCKS))
    for patient, row in enumerate(inputs):
        for step in range(steps):
            at = row.clone()
            at[:size] *= (step + 0.5) / steps
            at.requires_grad_()
            slope = torch.autograd.grad(module(at[None]).sum(), at)[0]
            found[patient] += (slope * row)[:size].reshape(BLOCKS, -1).sum(1).detach().numpy() / steps
    return found


@pytest.mark.parametrize("form", FORMS)
def test_contributions_are_complete_and_those_of_a_sum(tmp_path: Path, form: dict[str, Any]) -> None:
    plan, table = risk_people.plan(tmp_path, **form), risk_people.table(6, 17)
    model = awake(plan, 11)
    rows = contributions(plan, model, table)
    assert rows.shape == (6, BLOCKS)
    assert np.allclose(rows, riemann(plan, model, table), atol=2e-2)
    module, (inputs, _) = plan.module(model).double(), RISK_NET.tensors(table, plan.parameters, plan.published)
    start = inputs.double().clone()
    start[:, : BLOCKS * of(plan).columns] = 0
    with torch.no_grad():
        moved = (module(inputs.double()) - module(start)).numpy()
    assert np.allclose(rows.sum(axis=1), moved, atol=2e-2)


def test_without_captum_the_extra_is_named(plan: NetPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(GenopactError, match="EXTRA_MISSING"):
        contributions(plan, plan.initial(), risk_people.table(2, 18))
