"""The closed forms against Opacus' hooks, and against one backward pass a record, for each layer and for networks."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from genopact_client.train import gradients, layers
from genopact_client.train.gradients import Direct, Lookup, Outer, merged, outer, squared_norms
from genopact_client.train.private_sum import MARGIN, PerRecordLoss, private_sum
from genopact_shared.errors import GenopactError

B = 6
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


def loss(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    values: Tensor = (module(inputs).flatten(1).mean(1) - targets) ** 2
    return values


class Of(nn.Module):
    """A network given as a function of its parts."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.of = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.of(self, x)


class Scale(nn.Module):
    """A layer that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 0.3]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    ids: int = 0
    opacus: bool = True
    hooked: tuple[str, ...] = ()

    def records(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(3)
        x = rng.integers(0, self.ids, (B, *self.shape)) if self.ids else rng.normal(size=(B, *self.shape))
        inputs = torch.from_numpy(x)
        return inputs if self.ids else inputs.to(dtype), torch.from_numpy(rng.normal(size=B)).to(dtype)


def gru(**named: Any) -> nn.Module:
    width = 4 * (1 + named.get("bidirectional", False))
    recurrent = nn.GRU(3, 4, batch_first=True, **named)
    return Of(lambda self, x: self.last(self.gru(x)[0][:, -1]), gru=recurrent, last=nn.Linear(width, 1))


def attend(self: Any, x: Tensor) -> Tensor:
    h = self.embed(x)
    return self.last(self.norm(h + self.attention(h, h, h, need_weights=False)[0]).mean(1))  # type: ignore[no-any-return]


def own_attention(self: Any, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x).chunk(3, -1)
    return self.last(functional.scaled_dot_product_attention(q, k, v))  # type: ignore[no-any-return]


def tied(self: Any, ids: Tensor) -> Tensor:
    h = self.dense(self.dense(self.embed(ids))).tanh()
    return functional.linear(h.mean(1), self.embed.weight)


class Blocks(nn.Module):
    """A linear layer of each block of features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.bmm(x.transpose(0, 1), self.weight).transpose(0, 1)
        return torch.bmm(h, h.transpose(1, 2))


CASES = {
    "blocks": Case(Blocks, (4, 3), opacus=False),
    "linear": Case(lambda: nn.Linear(3, 2), (3,)),
    "linear without bias": Case(lambda: nn.Linear(3, 2, bias=False), (3,)),
    "linear over tokens, written out": Case(lambda: nn.Linear(3, 2), (7, 3)),
    "linear over tokens, by Gram matrices": Case(lambda: nn.Linear(40, 50), (3, 40)),
    "embedding": Case(lambda: nn.Embedding(5, 4), (7,), ids=5),
    "embedding with padding": Case(lambda: nn.Embedding(5, 4, padding_idx=-4), (7,), ids=5, opacus=False),
    "conv1d": Case(lambda: nn.Conv1d(4, 6, 3), (4, 12)),
    "conv1d, every setting": Case(lambda: nn.Conv1d(4, 6, 3, 2, 2, 2, 2), (4, 12)),
    "conv1d, same": Case(lambda: nn.Conv1d(4, 6, 4, padding="same"), (4, 12)),
    "conv1d, circular": Case(lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), (4, 12), opacus=False),
    "conv2d": Case(lambda: nn.Conv2d(4, 6, 3), (4, 8, 9)),
    "conv2d, every setting": Case(lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (2, 1), (1, 2), 2), (4, 8, 9)),
    "layer norm": Case(lambda: nn.LayerNorm([4, 3]), (2, 4, 3)),
    "layer norm of rows": Case(lambda: nn.LayerNorm(4, bias=False), (4,), opacus=False),
    "group norm": Case(lambda: nn.GroupNorm(2, 4), (4, 5)),
    "rms norm": Case(lambda: nn.RMSNorm(4), (3, 4)),
    "attention": Case(
        lambda: Of(
            attend, embed=nn.Embedding(5, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True),
            norm=nn.LayerNorm(8), last=nn.Linear(8, 1),
        ),
        (7,), ids=5, opacus=False,
    ),
    "own attention": Case(lambda: Of(own_attention, qkv=nn.Linear(4, 12), last=nn.Linear(4, 1)), (5, 4)),
    "encoder": Case(
        lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), nn.Linear(8, 1)), (5, 8),
        opacus=False,
    ),
    "mlp": Case(lambda: nn.Sequential(nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 1)), (9,)),
    "activation in place": Case(
        lambda: nn.Sequential(nn.Linear(9, 5), nn.ReLU(inplace=True), nn.Linear(5, 1)), (9,), opacus=False
    ),
    "cnn": Case(
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 5), nn.GroupNorm(2, 6), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(24, 1)
        ),
        (4, 12),
    ),
    "gru": Case(gru, (6, 3), opacus=False),
    "gru, no bias": Case(lambda: gru(bias=False), (6, 3), opacus=False),
    "weights used three times": Case(
        lambda: Of(tied, embed=nn.Embedding(5, 4), dense=nn.Linear(4, 4)), (7,), ids=5, opacus=False
    ),
    "a layer used twice": Case(
        lambda: Of(lambda self, x: self.dense(self.dense(x).tanh()), dense=nn.Linear(4, 4)), (4,)
    ),
    "hooks: a scale": Case(
        lambda: nn.Sequential(nn.Linear(3, 4), Scale(), nn.Linear(4, 1)), (3,), hooked=("1",)
    ),
    "hooks: instance norm": Case(
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.InstanceNorm1d(4, affine=True), nn.Tanh(), nn.Conv1d(4, 2, 1)),
        (3, 9), hooked=("1",),
    ),
    "hooks: transposed convolution": Case(
        lambda: nn.Sequential(nn.ConvTranspose1d(3, 4, 3), nn.Tanh(), nn.Conv1d(4, 2, 1)), (3, 9), hooked=("0",)
    ),
}  # fmt: skip


def built(case: Case, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    return case.build().to(dtype)


def alone(module: nn.Module, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """The naive reference: one backward pass a record."""
    weights, rows = list(module.parameters()), []
    for i in range(len(inputs)):
        value = loss(module, inputs[i : i + 1], targets[i : i + 1]).sum()
        rows.append(torch.autograd.grad(value, weights, materialize_grads=True))
    return [torch.stack(each) for each in zip(*rows, strict=True)]


def opacus_hooks(module: nn.Module, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """The oracle."""
    from opacus.grad_sample import GradSampleModule

    hooked = GradSampleModule(deepcopy(module), loss_reduction="sum")
    if inputs.is_floating_point():
        inputs = inputs.clone().requires_grad_()
    loss(hooked, inputs, targets).sum().backward()  # type: ignore[no-untyped-call]
    found: list[Any] = list(hooked.parameters())
    return [weight.grad_sample.detach() for weight in found]


def clipped(samples: list[Tensor], clip: float) -> Tensor:
    norms = torch.stack([each.flatten(1).norm(dim=1) for each in samples]).norm(dim=0)
    factors = (clip / norms).clamp(max=1)
    return torch.cat([torch.einsum("n,n...->...", factors, each).flatten() for each in samples])


def engine(case: Case, module: nn.Module, inputs: Tensor, targets: Tensor, clip: float) -> Tensor:
    losses = PerRecordLoss(module, loss, inputs, targets)
    assert losses._hooked == case.hooked
    total = private_sum(losses, inputs, targets, clip).total
    assert list(total) == [name for name, _ in module.named_parameters()]
    return torch.cat([each.flatten() for each in total.values()])


@pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_the_clipped_sum_is_that_of_opacus_hooks_and_of_single_records(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    module, records = built(case, dtype), case.records(dtype)
    reference = alone(module, *records)
    norms = torch.stack([each.flatten(1).norm(dim=1) for each in reference]).norm(dim=0)
    for clip in (float(norms.median()), 1e9):
        found = engine(case, module, *records, clip=clip / (1 - MARGIN[dtype]))
        for samples in (reference, opacus_hooks(module, *records)) if case.opacus else (reference,):
            expected = clipped(samples, clip)
            assert float((found - expected).norm() / expected.norm()) < TOLERANCE[dtype]
    assert all(weight.grad is None and not hasattr(weight, "grad_sample") for weight in module.parameters())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_the_clipped_sum_on_cuda_is_that_on_the_processor(name: str) -> None:
    case = CASES[name]
    module, records = built(case, torch.float32), case.records(torch.float32)
    here = engine(case, module, *records, clip=0.1)
    there = engine(case, module.cuda(), records[0].cuda(), records[1].cuda(), clip=0.1).cpu()
    assert float((here - there).norm() / here.norm()) < 1e-3


def test_a_rule_never_lets_torch_make_a_weight_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One backward pass, of deltas alone: no weight of a rule's layer is part of it."""
    case = CASES["cnn"]
    module, records = built(case, torch.float32), case.records(torch.float32)
    touched: list[str] = []
    for name, weight in module.named_parameters():

        def seen(gradient: Tensor | None, name: str = name) -> None:
            if gradient is not None:
                touched.append(name)

        weight.register_hook(seen)  # type: ignore[no-untyped-call]
    losses = PerRecordLoss(module, loss, *records)
    private_sum(losses, *records, clip=1.0)
    assert not touched


@pytest.mark.parametrize(("times", "p", "q", "form"), [(1, 9, 9, Outer), (3, 40, 50, Outer), (9, 4, 5, Direct)])
def test_gram_matrices_where_they_are_smaller(times: int, p: int, q: int, form: type) -> None:
    x, d = torch.ones(2, times, p), torch.ones(2, times, q)
    assert isinstance(outer(x, d), form)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
def test_each_form_gives_norms_and_sums_of_what_it_stands_for(seed: int, n: int, times: int, p: int, q: int) -> None:
    rng = np.random.default_rng(seed)
    x, d = (torch.from_numpy(rng.normal(size=(n, times, width))) for width in (p, q))
    ids = torch.from_numpy(rng.integers(0, p, n * times))
    looked_up = Lookup.of(torch.arange(n).repeat_interleave(times), ids, d.flatten(0, 1), n, p)
    one_hot = functional.one_hot(ids, p).double().view(n, times, p)
    factors, kept = torch.from_numpy(rng.uniform(size=n)), torch.from_numpy(rng.integers(0, 2, n) > 0)
    owner = torch.from_numpy(np.sort(rng.integers(0, 3, n)))
    for use, rows in (
        (Outer(x, d), torch.einsum("ntq,ntp->nqp", d, x)),
        (Direct(d), d),
        (looked_up, torch.einsum("ntp,ntq->npq", one_hot, d)),
        (merged([Outer(x, d), Outer(x, d)]), 2 * torch.einsum("ntq,ntp->nqp", d, x)),
        (merged([looked_up, Outer(d, one_hot)]), 2 * torch.einsum("ntp,ntq->npq", one_hot, d)),
    ):
        flat = rows.reshape(n, -1)
        assert torch.allclose(use.dense(), flat)
        assert torch.allclose(use.squares(), flat.square().sum(1))
        room = torch.zeros(rows.shape[1:], dtype=torch.float64)
        use.add(room, factors, slice(None))
        assert torch.allclose(room.flatten(), factors @ flat)
        use.add(room.zero_(), factors, kept.nonzero()[:, 0])
        assert torch.allclose(room.flatten(), factors[kept] @ flat[kept])
        grouped = torch.zeros(3, flat.shape[1], dtype=torch.float64).index_add_(0, owner, flat)
        assert torch.allclose(use.grouped(owner, 3).squares(), grouped.square().sum(1))


def test_norms_are_never_too_small() -> None:
    """Terms of a Gram matrix that cancel, and squares below the smallest normal number."""
    x, d = torch.ones(1, 2, 9), torch.tensor([[[1e4] * 9, [-1e4 - 1e-3] * 9]])
    assert float(Outer(x, d).squares()) >= float(torch.square(Outer(x.double(), d.double()).dense().norm()))
    small = torch.full((1, 100), 1e-23)
    assert float(squared_norms(small)) >= float(squared_norms(small.double()) / 2)
    assert math.isclose(float(squared_norms(torch.full((1, 4), 3.0))), 36.0)


WRONG: dict[str, tuple[Any, str, Any]] = {
    "a norm without the activation": (gradients.Outer, "squares", lambda self: squared_norms(self.d[:, 0])),
    "a group norm without its bias": (layers, "Direct", lambda rows: Direct(rows * (rows.dim() != 2))),
    "a convolution without its filters": (layers, "Direct", lambda rows: Direct(rows * (rows.dim() != 4))),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_refused_when_the_network_is_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["cnn"]
    module, records = built(case, torch.float64), case.records(torch.float64)
    PerRecordLoss(module, loss, *records)
    where, what, wrong = WRONG[name]
    monkeypatch.setattr(where, what, wrong)
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        PerRecordLoss(module, loss, *records)
