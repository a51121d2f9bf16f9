"""Quick tests that kill: clips of sums and of gradients, samples, divisors."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genopact_client.release.quantise import clipped_integers
from genopact_client.train import private_sgd
from genopact_client.train.private_sum import Loss, PerRecordLoss, private_sum
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.table import Floats
from tests.benchmarks.packed import PackedGenotypes
from tests.mutations.world import CLIP, PLANNED, Slopes, sgd

# --- the clip of a sum


def test_a_patient_moves_a_sum_by_at_most_the_clip() -> None:
    """Patients of very different sizes; and one against all others. Each is left out once."""
    rng, clip, scale = np.random.default_rng(0), 1.0, 64
    for rows in (
        rng.normal(size=(40, 30)) * 10.0 ** rng.integers(-3, 6, (40, 1)),
        np.ones((5, 30)) * [[9.0], [-2.0], [-2.0], [-2.0], [-2.0]],
    ):
        whole = clipped_integers(rows, clip, scale).sum(axis=0)
        for patient in range(len(rows)):
            rest = clipped_integers(np.delete(rows, patient, axis=0), clip, scale).sum(axis=0)
            assert np.linalg.norm((whole - rest).astype(float)) <= clip * scale


# --- the clip of gradients


def squared(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The squared error of the mean of all outputs of a record."""
    return (module(inputs).flatten(1).mean(1) - targets) ** 2  # type: ignore[no-any-return]


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layers": (perceptron, (3,)),
    "a sequence": (lambda: nn.Sequential(nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 7)), (2, 9)),
    "a convolution": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)), (2, 6)),
}


def records(shape: tuple[int, ...], n: int = 12) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    sizes = 10.0 ** torch.randint(-2, 3, (n, *[1] * len(shape)), generator=draw).double()
    return (
        torch.randn(n, *shape, generator=draw, dtype=torch.float64) * sizes,
        torch.randn(n, generator=draw, dtype=torch.float64) * 10,
    )


def built(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return build().double()


def naive(module: nn.Module, inputs: Tensor, targets: Tensor, clip: float, owners: list[int]) -> Tensor:
    """One patient at a time, by autograd alone."""
    total = torch.zeros(sum(each.numel() for each in module.parameters()), dtype=torch.float64)
    for owner in sorted(set(owners)):
        rows = [at for at, each in enumerate(owners) if each == owner]
        parts = torch.autograd.grad(squared(module, inputs[rows], targets[rows]).sum(), list(module.parameters()))
        gradient = torch.cat([part.flatten() for part in parts])
        if gradient.isfinite().all():
            total += gradient * min(1.0, clip / float(gradient.norm()))
    return total


def summed(module: nn.Module, inputs: Tensor, targets: Tensor, clip: float, owners: list[int] | None = None) -> Tensor:
    losses = PerRecordLoss(module, squared, inputs, targets)
    whose = None if owners is None else torch.tensor(owners)
    total = private_sum(losses, inputs, targets, clip, patients=whose).total
    return torch.cat([total[name].detach().flatten() for name, _ in module.named_parameters()])


def test_a_sum_is_of_numbers_alone() -> None:
    """Neither records nor single gradients hang on it by a graph."""
    module, (inputs, targets) = built(perceptron), records((3,))
    total = private_sum(PerRecordLoss(module, squared, inputs, targets), inputs, targets, 0.7).total
    assert not any(each.requires_grad for each in total.values())


@pytest.mark.parametrize("network", NETWORKS)
def test_the_sum_of_gradients_is_that_of_patients_alone(network: str) -> None:
    build, shape = NETWORKS[network]
    module, (inputs, targets), clip = built(build), records(shape), 0.7
    for owners in (list(range(12)), [0, 1, 2, 0, 1, 3, 3, 3, 4, 5, 0, 6]):
        expected = naive(module, inputs, targets, clip, owners)
        assert torch.allclose(summed(module, inputs, targets, clip, owners), expected, atol=1e-4)
    assert torch.allclose(summed(module, inputs, targets, clip), naive(module, inputs, targets, clip, list(range(12))),
                          atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_a_patient_moves_the_sum_of_gradients_by_at_most_the_clip(network: str) -> None:
    build, shape = NETWORKS[network]
    module, (inputs, targets), clip = built(build), records(shape), 0.7
    whole = summed(module, inputs, targets, clip)
    for patient in range(12):
        rest = [at for at in range(12) if at != patient]
        assert float((whole - summed(module, inputs[rest], targets[rest], clip)).norm()) <= clip


def test_all_of_a_patient_s_rows_are_clipped_together() -> None:
    module, (inputs, targets), clip = built(perceptron), records((3,)), 0.7
    owners = [0] * 6 + [1] * 6
    whole = summed(module, inputs, targets, clip, owners)
    assert float((whole - summed(module, inputs[6:], targets[6:], clip, owners[6:])).norm()) <= clip


def test_what_is_not_finite_is_nothing() -> None:
    module, (inputs, targets), clip = built(perceptron), records((3,)), 0.7
    inputs[2], targets[5] = math.inf, math.nan
    kept = [at for at in range(12) if at not in (2, 5)]
    assert torch.allclose(
        summed(module, inputs, targets, clip), summed(module, inputs[kept], targets[kept], clip), atol=1e-9
    )


def test_a_batch_leaves_nothing_for_the_next() -> None:
    """A loss that breaks in the second batch, and the same engine again."""
    module, (inputs, targets), broken = built(perceptron), records((3,)), [False]

    def breaking(network: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        if broken[0]:
            raise InterruptedError
        return squared(network, inputs, targets)

    losses = PerRecordLoss(module, breaking, inputs, targets)
    first = private_sum(losses, inputs, targets, 0.7).total
    kept = {name: each.clone() for name, each in first.items()}
    broken[0] = True
    with pytest.raises(InterruptedError):
        private_sum(losses, inputs[:4], targets[:4], 0.7)
    broken[0] = False
    again = private_sum(losses, inputs, targets, 0.7).total
    assert all(torch.equal(kept[name], each) for name, each in again.items())


def test_small_batches_in_memory_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from genopact_client.train import private_sum as room

    module, (inputs, targets) = built(perceptron), records((3,))
    whole = summed(module, inputs, targets, 0.7)
    monkeypatch.setattr(room, "VALUES", 1)
    assert torch.allclose(summed(module, inputs, targets, 0.7), whole, atol=1e-9)


def column(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return (module(inputs) - targets[:, None]) ** 2  # type: ignore[no-any-return]


def balanced(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Classes weighted by their counts in the batch, which are not differentiable."""
    share = (targets > 0.5).double().mean()
    return squared(module, inputs, targets) * torch.where(targets > 0.5, 1.5 - share, 0.5 + share)


def cox(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Everybody at risk is in everybody's term."""
    risk: Tensor = module(inputs).flatten()
    return torch.logcumsumexp(risk, 0) - risk + 0 * targets


@pytest.mark.parametrize("loss", [column, balanced, cox], ids=lambda loss: loss.__name__)
def test_a_loss_that_is_not_per_patient_is_refused(loss: Loss) -> None:
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        PerRecordLoss(built(perceptron), loss, *records((3,)))


def test_a_loss_whose_sign_another_record_sets_is_refused() -> None:
    """Norms, derivatives and sums are those of the records alone, until another record has a zero."""

    def turned(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return squared(module, inputs, targets) * torch.where(targets.roll(1) == 0, -1.0, 1.0)

    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        PerRecordLoss(built(perceptron), turned, *records((3,)))


def test_packed_patients_move_the_sum_by_at_most_the_clip() -> None:
    """Common and rare alleles, missing ones, and a clip below most gradients; naive rows beside it."""
    rng, (n, m), clip = np.random.default_rng(4), (24, 21), 1.5
    codes, frequencies = rng.integers(0, 4, (n, m)), rng.uniform(0.02, 0.6, m)
    padded = np.pad(codes, ((0, 0), (0, -m % 4))).reshape(n, -1, 4).astype(np.uint8)
    packed = PackedGenotypes((padded << np.arange(0, 8, 2, dtype=np.uint8)).sum(2, dtype=np.uint8), frequencies)
    weights, outcomes = rng.normal(size=m), rng.integers(0, 2, n).astype(np.float64)
    outcomes[3] = np.nan
    x = np.array([2.0, np.nan, 1.0, 0.0])[codes]
    x = np.nan_to_num((x - 2 * frequencies) / np.sqrt(2 * frequencies * (1 - frequencies)))
    rows = np.column_stack([x, np.ones(n)]) * (1 / (1 + np.exp(-(x @ weights + 0.3))) - outcomes)[:, None]
    rows[3] = 0
    rows *= np.minimum(1, clip / np.maximum(1e-9, np.linalg.norm(rows, axis=1, keepdims=True)))

    def summed(patients: NDArray[np.intp]) -> Floats:
        found = packed.clipped_sum(weights, 0.3, outcomes, patients, clip)
        return np.append(found.weights, found.intercept)

    whole = summed(np.arange(n))
    assert np.allclose(whole, rows.sum(axis=0), atol=1e-3)
    for patient in range(n):
        assert np.linalg.norm(whole - summed(np.delete(np.arange(n), patient))) <= clip * (1 + 1e-9)


# --- private steps


def test_each_step_draws_its_own_sample_at_the_rate_that_was_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, Fraction]] = []

    def nobody(n: int, rate: Fraction) -> NDArray[np.intp]:
        asked.append((n, rate))
        return np.arange(0)

    monkeypatch.setattr(private_sgd, "poisson", nobody)
    one = sgd(Slopes(2), steps=5, rate_milli=375)
    one(one.plan.initial(), Slopes.table(30))
    assert asked == [(30, Fraction(3, 8))] * 5


@pytest.mark.parametrize("n", [0, 1, 90])
def test_the_divisor_is_that_of_the_plan(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: all gradients are the same, and longer than the clip."""
    monkeypatch.setattr(private_sgd, "gaussian", lambda sd, size: np.zeros(size))
    one = sgd(Slopes(4))
    change = one(one.plan.initial(), Slopes.table(n, np.ones(n)))["slopes"]
    assert np.linalg.norm(change) == pytest.approx(CLIP * n / PLANNED, rel=1e-4, abs=1e-9)
