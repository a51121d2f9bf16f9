"""Recipe `dose-net`: one loss per patient, isolated gradients, the same first weights everywhere."""

import math

import numpy as np
import pytest
import torch

from genopact_shared.published import NOTHING
from genopact_shared.recipes.dose import PUBLIC_VARIANCE, SITE_PRIOR, DoseParameters
from genopact_shared.recipes.dose_features import FEATURES, OUTCOME
from genopact_shared.recipes.dose_net import DOSE_NET, HUBER_DELTA, DoseNetParameters
from genopact_shared.recipes.network import NetPlan
from tests.unit.dose_tables import changed, random_table

PLAN = NetPlan(DOSE_NET, DoseNetParameters(), {})
SHAPES = [DoseNetParameters(), DoseNetParameters(hidden=5, layer_norm=True, seed=3)]


def awake(parameters: DoseNetParameters) -> torch.nn.Module:
    """The network with a last layer that is no longer zero."""
    module = DOSE_NET.module(parameters)
    with torch.no_grad():
        for weights in module.parameters():
            weights.add_(0.1)
    return module


def test_starts_at_the_fixed_dose_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = DOSE_NET.module(DoseNetParameters())
    torch.manual_seed(2)
    second = DOSE_NET.module(DoseNetParameters())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = DOSE_NET.module(DoseNetParameters(seed=1))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    assert np.allclose(PLAN.predict(PLAN.initial(), None, random_table(5, 1)).value, 35.0, rtol=1e-6)


def test_tensors_hold_the_patients_with_an_outcome() -> None:
    table = random_table(40, 2)
    inputs, targets = PLAN.tensors(table)
    known = ~np.isnan(table.number(OUTCOME))
    assert inputs.shape == (known.sum(), len(FEATURES))
    assert targets.shape == (known.sum(),)
    assert inputs.dtype == targets.dtype == torch.float32
    everybody, outcomes = DOSE_NET.tensors(table, PLAN.parameters, NOTHING)
    assert len(everybody) == len(outcomes) == 40
    assert torch.equal(everybody[torch.from_numpy(known)], inputs)
    assert np.array_equal(outcomes.isnan().numpy(), ~known)


def test_what_the_network_gives_for_everybody() -> None:
    """The plan runs it some patients at a time; patients without an outcome are predicted, too."""
    module, table = awake(SHAPES[0]), random_table(600, 8)
    model = {name: weights.detach().numpy().astype(np.float64) for name, weights in module.named_parameters()}
    with torch.no_grad():
        rows = [float(module(row[None])) for row in DOSE_NET.tensors(table, SHAPES[0], NOTHING)[0]]
    found = PLAN.outputs(model, table)
    assert found.shape == (600,)
    assert np.allclose(found, rows, atol=1e-5)
    assert PLAN.outputs(model, table.take(np.arange(0))).shape == (0,)


@pytest.mark.parametrize("parameters", SHAPES)
def test_one_loss_per_patient(parameters: DoseNetParameters) -> None:
    module = awake(parameters)
    inputs, targets = PLAN.tensors(random_table(30, 3, missing=0.0))
    losses = DOSE_NET.loss(module, inputs, targets)
    assert losses.shape == (30,)
    for i in range(30):
        error = float((module(inputs[i : i + 1])[0, 0] - targets[i]).abs().detach())
        small = 0.5 * error**2
        expected = small if error < HUBER_DELTA else HUBER_DELTA * (error - 0.5 * HUBER_DELTA)
        assert float(losses[i].detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("parameters", SHAPES)
def test_a_patient_moves_only_their_own_loss(parameters: DoseNetParameters) -> None:
    module, table = awake(parameters), random_table(12, 4, missing=0.0)
    before = DOSE_NET.loss(module, *PLAN.tensors(table))
    after = DOSE_NET.loss(module, *PLAN.tensors(changed(table, 5, 6)))
    same = torch.arange(12) != 5
    assert torch.equal(before[same], after[same])
    assert before[5] != after[5]


def test_refuses_parameters_of_another_recipe() -> None:
    with pytest.raises(ValueError, match="DoseNetParameters"):
        DOSE_NET.module(DoseParameters())


def test_the_sites_own_term_is_a_shrunk_mean_residual() -> None:
    model, table = PLAN.initial(), random_table(60, 5, missing=0.0)
    personal = PLAN.fit_personal(model, table)
    residuals = [math.sqrt(dose) - math.sqrt(35.0) for dose in table.number(OUTCOME)]
    intercept = sum(residuals) / (60 + SITE_PRIOR[0])
    squares = sum((residual - intercept) ** 2 for residual in residuals)
    assert personal["intercept"][0] == pytest.approx(intercept, rel=1e-5)
    assert personal["variance"][0] == pytest.approx((squares + 100 * PUBLIC_VARIANCE) / 160, rel=1e-5)
    alone, shared = (PLAN.predict(model, term, random_table(3, 6)) for term in (personal, None))
    assert np.allclose(np.sqrt(alone.value) - np.sqrt(shared.value), intercept, rtol=1e-4)
    assert (alone.low < alone.value).all()
    assert (alone.value < alone.high).all()


def test_a_site_without_outcomes_keeps_the_shared_network() -> None:
    personal = PLAN.fit_personal(PLAN.initial(), random_table(0, 7))
    assert personal == {"intercept": np.zeros(1), "variance": np.full(1, PUBLIC_VARIANCE)}
