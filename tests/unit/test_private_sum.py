"""The clipped sum: sensitivity to one patient for hostile batches, refusals, and the traps of docs/engine.md."""

import gc
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from genopact_client.train import private_sum as engine
from genopact_client.train.gradients import squared_norms
from genopact_client.train.private_sum import MARGIN, SUMMED, PerRecordLoss, private_sum
from genopact_shared.errors import GenopactError
from tests.unit.test_layers import Of, Scale, alone, clipped, gru, loss, opacus_hooks

CLIP = 0.7
BOTH = [torch.float32, torch.float64]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)), (5,)),
    "cnn": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(9, 1)), (2, 5)),
    "tokens": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)), (6, 3)),
    "wide tokens": (lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 1)), (3, 30)),
    "gru": (gru, (5, 3)),
    "hooks": (lambda: nn.Sequential(nn.Linear(3, 4), Scale(), nn.Linear(4, 1)), (3,)),
}


def network(name: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(2)
    return NETWORKS[name][0]().to(dtype)


def records(name: str, dtype: torch.dtype, n: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, scale, (n, *NETWORKS[name][1])), rng.normal(0, scale, n)
    return torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype)


def hostile(name: str, dtype: torch.dtype, scale: float) -> tuple[Tensor, Tensor]:
    """Records of very different sizes, two of them not finite, two alike."""
    inputs, targets = records(name, dtype, 9, scale)
    inputs[0].view(-1)[0], targets[1], targets[2], inputs[3] = torch.nan, torch.inf, 1e9, inputs[3] * 1e6
    inputs[4], targets[4] = inputs[5], targets[5]
    return inputs, targets


def total(module: nn.Module, inputs: Tensor, targets: Tensor, clip: float | None = CLIP, **named: Any) -> Tensor:
    summed = private_sum(PerRecordLoss(module, loss, inputs, targets), inputs, targets, clip, **named)
    return torch.cat([each.flatten() for each in summed.total.values()]).double()


def check_sensitivity(name: str = "mlp", dtype: torch.dtype = torch.float64, scale: float = 10.0) -> None:
    module, (inputs, targets) = network(name, dtype), hostile(name, dtype, scale)
    whole = total(module, inputs, targets)
    for gone in range(9):
        rest = torch.arange(9) != gone
        assert (whole - total(module, inputs[rest], targets[rest])).norm() <= CLIP


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("dtype", BOTH, ids=["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_patient_moves_the_sum_by_at_most_the_clip(name: str, dtype: torch.dtype, scale: float) -> None:
    check_sensitivity(name, dtype, scale)


@pytest.mark.parametrize("dtype", BOTH, ids=["float32", "float64"])
def test_rounding_stays_inside_the_margin(dtype: torch.dtype) -> None:
    """The worst for a float sum: a thousand vectors of the full length in one direction."""
    module = network("mlp", dtype)
    inputs, targets = (each.repeat(1000, *[1] * (each.dim() - 1)) for each in records("mlp", dtype, 1, 30.0))
    whole = total(module, inputs, targets)
    exact = 1000 * CLIP * (1 - MARGIN[dtype])
    assert abs(float(whole.norm()) - exact) <= CLIP * SUMMED[dtype] / 2
    assert (whole - total(module, inputs[1:], targets[1:])).norm() <= CLIP


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60_000), st.integers(1, 5000), st.sampled_from(BOTH), st.integers(1, 3))
def test_sums_are_cut_so_that_their_rounding_is_bounded(n: int, rows: int, dtype: torch.dtype, each: int) -> None:
    depth = int(SUMMED[dtype] * 2 / (torch.finfo(dtype).eps * max(1, n)))
    try:
        groups = engine._cuts(list(range(0, each * n + 1, each)), rows, depth)
    except GenopactError:
        assert dtype is torch.float32
        assert n > 50_000
        return
    marks = [mark for group in groups for mark in group[(group is not groups[0]) :]]
    assert marks[0] == 0
    assert marks[-1] == n
    assert all(first < last and (last - first) * each <= max(rows, each) for first, last in pairwise(marks))
    product = engine._product(depth)
    for group in groups:
        products = sum(-(-(last - first) // product) for first, last in pairwise(group))
        assert product + products + 2 <= depth


@pytest.mark.parametrize("name", NETWORKS)
def test_nobody_gives_zeros_and_one_gives_their_own(name: str) -> None:
    module = network(name, torch.float64)
    inputs, targets = records(name, torch.float64, 1)
    assert not total(module, inputs[:0], targets[:0]).any()
    expected = clipped(alone(module, inputs, targets), CLIP * (1 - MARGIN[torch.float64]))
    assert torch.allclose(total(module, inputs, targets), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_physical_chunks_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, data = network(name, torch.float64), records(name, torch.float64, 23)
    whole = total(module, *data)
    monkeypatch.setattr(PerRecordLoss, "at_once", 5)
    assert torch.allclose(total(module, *data), whole, atol=1e-12)
    monkeypatch.setitem(engine.SUMMED, torch.float64, 23 * 8 * 2.0**-53)  # several groups
    assert len(engine._cuts(list(range(24)), 5, 8)) > 1
    assert torch.allclose(total(module, *data), whole, atol=1e-12)


# --- several rows of one patient


@pytest.mark.parametrize("name", [*NETWORKS, "embedding"])
def test_rows_of_one_patient_are_summed_before_the_clip(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    patients = torch.from_numpy(rng.integers(0, 6, 17)) * 1000
    if name == "embedding":
        module: nn.Module = nn.Embedding(5, 3).double()
        inputs, targets = torch.from_numpy(rng.integers(0, 5, (17, 4))), torch.from_numpy(rng.normal(size=17))
    else:
        module, (inputs, targets) = network(name, torch.float64), records(name, torch.float64, 17)
    _, owner = torch.unique(patients, return_inverse=True)
    samples = [each.new_zeros(6, *each.shape[1:]).index_add_(0, owner, each) for each in alone(module, inputs, targets)]
    expected = clipped(samples, CLIP * (1 - MARGIN[torch.float64]))
    assert torch.allclose(total(module, inputs, targets, patients=patients), expected)
    monkeypatch.setattr(PerRecordLoss, "at_once", 5)
    monkeypatch.setattr(engine, "CHUNK", 2)
    assert torch.allclose(total(module, inputs, targets, patients=patients), expected)


def test_trap_e_a_patient_of_many_windows_is_one_patient() -> None:
    module, (inputs, targets) = network("mlp", torch.float32), records("mlp", torch.float32, 40, 20.0)
    patients = torch.arange(40) // 10
    whole = total(module, inputs, targets, patients=patients)
    for gone in range(4):
        rest = patients != gone
        assert (whole - total(module, inputs[rest], targets[rest], patients=patients[rest])).norm() <= CLIP
    assert (whole - total(module, inputs, targets)).norm() > CLIP  # as if each window were a patient


# --- the traps


@pytest.mark.parametrize("of", [functional.binary_cross_entropy_with_logits, functional.mse_loss])
def test_trap_a_a_loss_of_shape_n_1_is_refused(of: Callable[..., Tensor]) -> None:
    module, (inputs, targets) = network("mlp", torch.float32), records("mlp", torch.float32, 4)
    with pytest.raises(GenopactError, match="not one loss a record"):
        PerRecordLoss(module, lambda net, x, y: of(net(x), y[:, None], reduction="none"), inputs, targets)


def test_trap_b_nothing_is_divided_by_the_batch() -> None:
    module, data = network("mlp", torch.float64), records("mlp", torch.float64, 6)
    thrice = total(module, torch.cat([data[0]] * 3), torch.cat([data[1]] * 3))
    assert torch.allclose(3 * total(module, *data), thrice)


@pytest.mark.parametrize("name", ["mlp", "hooks"])
@pytest.mark.parametrize("place", ["forward", "after"])
def test_trap_c_a_batch_that_broke_off_leaves_nothing(name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, data = network(name, torch.float64), records(name, torch.float64, 12)
    calls, broken, real = [0], [False], engine._add

    def breaking(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        calls[0] += broken[0]
        if broken[0] and place == "forward" and calls[0] == 2:
            net(x)
            raise InterruptedError
        return loss(net, x, y)

    def adding(*args: Any) -> int:
        if broken[0] and place == "after" and calls[0] == 2:
            raise InterruptedError
        return real(*args)

    monkeypatch.setattr(PerRecordLoss, "at_once", 5)
    monkeypatch.setattr(engine, "_add", adding)
    losses = PerRecordLoss(module, breaking, *data)
    expected = private_sum(losses, *data, CLIP)
    broken[0] = True
    with pytest.raises(InterruptedError):
        private_sum(losses, *data, CLIP)
    broken[0] = False
    found = private_sum(losses, *data, CLIP)
    assert all(torch.equal(found.total[weight], each) for weight, each in expected.total.items())


class Standardised(nn.Module):
    """Batch statistics in the forward pass, without a layer that a validator knows."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((x - x.mean(0)) / (x.std(0, correction=0) + 1.0))  # type: ignore[no-any-return]


def balanced(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    share = (targets > 0.5).to(inputs.dtype).mean()
    values: Tensor = loss(module, inputs, targets) * torch.where(targets > 0.5, 1 - share, share)
    return values


def cox(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    risk = module(inputs).squeeze(-1)
    values: Tensor = torch.logcumsumexp(risk, 0) - risk + 0 * targets
    return values


def contrastive(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    place = module(inputs)
    return functional.cross_entropy(place @ place.t(), torch.arange(len(place)), reduction="none") + 0 * targets


def mean(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return loss(module, inputs, targets) / len(inputs)


def backwards(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Layers see the records in another order than the losses have: every loss is right, every norm is not."""
    first, rest = module[0], module[1:]  # type: ignore[index]
    values: Tensor = (rest(first(inputs.flip(0)).flip(0)).flatten(1).mean(1) - targets) ** 2
    return values


COUPLED: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "class weights of the batch": (lambda: network("mlp", torch.float32), balanced),
    "Cox": (lambda: network("mlp", torch.float32), cox),
    "contrastive": (lambda: network("mlp", torch.float32), contrastive),
    "a share of the batch": (lambda: network("mlp", torch.float32), mean),
    "layers in another order": (lambda: network("mlp", torch.float32), backwards),
    "batch statistics": (Standardised, loss),
    "batch normalisation": (lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), loss),
    "batch normalisation, nothing kept": (
        lambda: nn.Sequential(nn.BatchNorm1d(5, affine=False, track_running_stats=False), nn.Linear(5, 1)), loss,
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", COUPLED)
def test_trap_d_a_loss_that_follows_another_record_is_refused(why: str) -> None:
    build, of = COUPLED[why]
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        PerRecordLoss(build(), of, *records("mlp", torch.float32, 4))


def test_trap_d_whole_numbers_have_no_derivative_and_are_exchanged() -> None:
    def neighbour(net: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
        return loss(net, ids, targets) * (1 + ids.roll(1, 0).sum(1))

    ids, targets = torch.randint(0, 5, (4, 3)), torch.rand(4)
    PerRecordLoss(nn.Embedding(5, 2), loss, ids, targets)
    with pytest.raises(GenopactError, match="another record"):
        PerRecordLoss(nn.Embedding(5, 2), neighbour, ids, targets)


def test_trap_e_windows_folded_into_the_batch_are_refused() -> None:
    def folded(self: Any, x: Tensor) -> Tensor:
        return self.last(x.reshape(-1, 1)).reshape(len(x), -1).sum(1, keepdim=True)  # type: ignore[no-any-return]

    with pytest.raises(GenopactError, match="rows are not the records"):
        PerRecordLoss(Of(folded, last=nn.Linear(1, 1)), loss, *records("mlp", torch.float32, 4))


@pytest.mark.parametrize("dtype", BOTH, ids=["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_trap_f_a_record_that_is_not_finite_counts_as_zeros_and_is_counted(name: str, dtype: torch.dtype) -> None:
    module, (inputs, targets) = network(name, dtype), records(name, dtype, 9)
    inputs[0], targets[3] = torch.nan, torch.inf
    summed = private_sum(PerRecordLoss(module, loss, inputs, targets), inputs, targets, CLIP)
    assert summed.dropped == 2
    rest = torch.tensor([1, 2, 4, 5, 6, 7, 8])
    found = torch.cat([each.flatten() for each in summed.total.values()]).double()
    assert torch.allclose(found, total(module, inputs[rest], targets[rest]), atol=1e-6)
    twice = private_sum(
        PerRecordLoss(module, loss, inputs, targets), inputs, targets, CLIP, patients=torch.arange(9) // 2
    )
    assert twice.dropped == 2
    assert all(each.isfinite().all() for each in twice.total.values())


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_trap_i_the_clip_is_the_callers_whatever_the_batch(size: float) -> None:
    """No bound follows from gradients, and none changes between chunks: n large gradients alike make n clips."""
    module = network("mlp", torch.float64)
    inputs, targets = (each.repeat(600, *[1] * (each.dim() - 1)) for each in records("mlp", torch.float64, 1, 50.0))
    assert float(total(module, inputs, targets * size).norm()) == pytest.approx(600 * CLIP, rel=1e-5)


def test_trap_l_no_record_is_kept() -> None:
    module, (inputs, targets) = network("mlp", torch.float32), records("mlp", torch.float32, 4)
    losses = PerRecordLoss(module, loss, inputs, targets)
    summed = private_sum(losses, inputs, targets, CLIP)
    gone = [weakref.ref(inputs), weakref.ref(targets)]
    storage = inputs.untyped_storage().data_ptr()
    del inputs, targets
    gc.collect()
    assert [each() for each in gone] == [None, None]
    kept = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
    assert all(each.untyped_storage().data_ptr() != storage or not each.numel() for each in kept)
    assert not losses.inputs.numel() + losses.targets.numel()
    assert not any(each.requires_grad for each in summed.total.values())


def test_trap_n_two_terms_of_one_record_are_one_gradient() -> None:
    """D(real) + D(fake): a layer used twice for a record, whose norm is that of the sum."""
    module, data = network("mlp", torch.float64), records("mlp", torch.float64, 6)

    def both(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return loss(net, x, y) + loss(net, x.flip(1) - 1, 0 * y)

    losses = PerRecordLoss(module, both, *data)
    found = private_sum(losses, *data, CLIP).total
    samples = []
    for i in range(6):
        value = both(module, data[0][i : i + 1], data[1][i : i + 1]).sum()
        samples.append(torch.autograd.grad(value, list(module.parameters())))
    expected = clipped([torch.stack(each) for each in zip(*samples, strict=True)], CLIP * (1 - MARGIN[torch.float64]))
    assert torch.allclose(torch.cat([each.flatten() for each in found.values()]), expected)


# --- what else is refused, and what is not


class Buffered(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 1))
        self.register_buffer("mean", torch.zeros(5))


def unused(self: Any, x: Tensor) -> Tensor:
    return self.used(x)  # type: ignore[no-any-return]


def decayed(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    values: Tensor = loss(module, inputs, targets) + module[0].weight.square().sum()  # type: ignore[index]
    return values


OTHERS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "a buffer": (Buffered, loss),
    "a tower that no loss reaches": (lambda: Of(unused, used=nn.Linear(5, 1), other=nn.Linear(5, 1)), loss),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 1)), loss),
    "weights in the loss": (lambda: network("mlp", torch.float32), decayed),
    "recurrent layers": (lambda: Of(lambda self, x: self.g(x[:, None])[0], g=nn.GRU(5, 2, 2, batch_first=True)), loss),
    "both directions": (
        lambda: Of(lambda self, x: self.g(x[:, None])[0], g=nn.GRU(5, 2, batch_first=True, bidirectional=True)), loss,
    ),
    "time first": (lambda: Of(lambda self, x: self.g(x[:, None])[0], g=nn.GRU(5, 2)), loss),
    "a layer without gradients of records": (
        lambda: Of(lambda self, x: self.g(x[:, None])[0], g=nn.LSTM(5, 2, batch_first=True)), loss,
    ),
    "hooks out of training": (lambda: nn.Sequential(nn.Linear(5, 4), Scale(), nn.Linear(4, 1)).eval(), loss),
    "no loss a record": (lambda: network("mlp", torch.float32), lambda *args: loss(*args).mean()),
}  # fmt: skip


@pytest.mark.parametrize("why", OTHERS)
def test_refused(why: str) -> None:
    build, of = OTHERS[why]
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        PerRecordLoss(build(), of, *records("mlp", torch.float32, 4))


def test_an_embedding_that_changes_its_weights_in_passing_is_refused() -> None:
    ids, targets = torch.randint(0, 5, (4, 3)), torch.rand(4)
    for wrong in (nn.Embedding(5, 2, max_norm=0.1), nn.Embedding(5, 2, scale_grad_by_freq=True)):
        with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
            PerRecordLoss(wrong, loss, ids, targets)


def test_matrix_products_below_single_precision_are_refused() -> None:
    module, data = network("mlp", torch.float32), records("mlp", torch.float32, 4)
    losses = PerRecordLoss(module, loss, *data)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
            private_sum(losses, *data, CLIP)
    finally:
        torch.set_float32_matmul_precision(before)


def test_frozen_layers_are_not_part_of_the_sum() -> None:
    """A public encoder under a private head."""
    module, data = network("mlp", torch.float64), records("mlp", torch.float64, 6)
    module[0].requires_grad_(False)  # type: ignore[index]
    found = private_sum(PerRecordLoss(module, loss, *data), *data, CLIP).total
    assert list(found) == ["2.weight", "2.bias"]
    module.requires_grad_(True)
    samples = alone(module, *data)[2:]
    expected = clipped(samples, CLIP * (1 - MARGIN[torch.float64]))
    assert torch.allclose(torch.cat([each.flatten() for each in found.values()]), expected)


def test_norms_of_the_records_that_a_study_keeps() -> None:
    module, data = network("mlp", torch.float32), records("mlp", torch.float32, 30)
    kept = total(module, *data, squares=squared_norms(data[0]))
    assert torch.equal(kept, total(module, *data))
    assert not torch.equal(kept, total(module, *data, squares=9 * squared_norms(data[0])))


def test_low_precision_passes_leave_norms_and_sums_in_single_precision() -> None:
    module, (inputs, targets) = network("mlp", torch.float32), records("mlp", torch.float32, 40, 20.0)

    def low(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x)
        assert out.dtype is torch.bfloat16 or x.dtype is torch.float64
        values: Tensor = (out.flatten(1).mean(1) - y) ** 2
        return values

    losses = PerRecordLoss(module, low, inputs, targets)
    whole = private_sum(losses, inputs, targets, CLIP).total
    with torch.autocast("cpu", torch.bfloat16):  # around the sum it changes nothing
        again = private_sum(PerRecordLoss(module, loss, inputs, targets), inputs, targets, CLIP).total
    exact = total(module, inputs, targets)
    assert torch.equal(torch.cat([each.flatten() for each in again.values()]).double(), exact)
    found = torch.cat([each.flatten() for each in whole.values()])
    assert found.dtype is torch.float32
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.05
    for gone in range(0, 40, 9):
        rest = torch.arange(40) != gone
        part = private_sum(losses, inputs[rest], targets[rest], CLIP).total
        assert (found - torch.cat([each.flatten() for each in part.values()])).norm() <= CLIP


# --- the tests can fail


def unclipped(totals: Any, uses: Any, bound: float | None, product: int) -> int:
    return real_add(totals, uses, None, product)


def by_layer(totals: Any, uses: Any, bound: float | None, product: int) -> int:
    return sum(real_add(totals, {weight: use}, bound, product) for weight, use in uses.items())


def with_the_others(totals: Any, uses: Any, bound: float | None, product: int) -> int:
    for weight, use in uses.items():
        use.add(totals[weight], (bound or 0) / engine._squares(uses).sqrt(), slice(None))
    return 0


real_add = engine._add
MUTATIONS: dict[str, Any] = {"no clip": unclipped, "a clip a layer": by_layer, "rows not dropped": with_the_others}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_sensitivity_test_catches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_sensitivity()
    monkeypatch.setattr(engine, "_add", MUTATIONS[name])
    with pytest.raises(AssertionError):
        check_sensitivity()


def test_the_oracle_itself_keeps_the_bound() -> None:
    module, data = network("mlp", torch.float64), records("mlp", torch.float64, 6, 10.0)
    assert torch.allclose(clipped(opacus_hooks(module, *data), CLIP), clipped(alone(module, *data), CLIP))
