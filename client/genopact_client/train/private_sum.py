"""The sum of patients' clipped gradients: one backward pass, norms in closed form, one clipped product per layer.

Sources: Abadi et al., "Deep Learning with Differential Privacy", 2016 (the sum); Goodfellow, "Efficient Per-Example
Gradient Computations", 2015 (the norms). What is closed form, and why it is safe: docs/engine.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from typing import NamedTuple

import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from genopact_client.train.gradients import At, Direct, Use, merged
from genopact_client.train.layers import Tape
from genopact_shared.errors import GenopactError, require

Uses = dict[nn.Parameter, Use]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(network, inputs (n, ...), targets (n, ...)) -> (n,): one loss a record, of that record alone, never reduced."""

SUMMED = {torch.float32: 1 / 60, torch.float64: 2.0**-21}
"""Largest effect of rounding in the sums of two neighbouring batches, in shares of the clip."""
MARGIN = {torch.float32: 1.25 * SUMMED[torch.float32], torch.float64: 2 * SUMMED[torch.float64]}
"""Shares of the clip that are kept back: the above, and the rest for rounding in norms and factors."""
CHUNK, VALUES = 256, 1 << 24
"""Patients in a matrix product, at most; numbers in a pass, about: deltas, activations, written-out gradients."""
CLOSE = 1e-4


class ClippedSum(NamedTuple):
    """`total`: name -> sum, for each trainable weight. `dropped`: patients whose gradient was not finite; private."""

    total: dict[str, Tensor]
    dropped: int


class PerRecordLoss:
    """A network and its loss, checked on three made-up records; the weights may change afterwards, nothing else.

    Args:
        module: sums are float64 if all its weights are, else float32.
        loss: see `Loss`.
        inputs: (n, ...), n may be 0; shape and dtype of the made-up records.
        targets: (n, ...), likewise.

    Raises:
        GenopactError: KERNEL_REFUSED for a loss that is not one number a record, follows another record or their
            number, or is random (dropout in training mode); for state beside the weights (buffers); for weights whose
            gradients of single records neither a rule nor Opacus' hooks give.
    """

    def __init__(self, module: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> None:
        require(not list(module.buffers()), "KERNEL_REFUSED", "a layer keeps state beside its weights")
        self.module, self.loss, awake = module, loss, deepcopy(module).double()
        with torch.no_grad():
            for weights in awake.parameters():
                weights.add_(_made_up(weights, weights.shape), alpha=0.125)  # zeros would hide what lies before them
        records = [_made_up(each, (3, *each.shape[1:])) for each in (inputs, targets)]
        _check_isolation(awake, self.loss, *records)
        self._hooked = self._unruled(awake, *records)
        self._values = self._check_gradients(awake, *records)
        self.inputs, self.targets = inputs.new_empty(0), targets.new_empty(0)  # patients are not kept

    def uses(
        self, module: nn.Module, inputs: Tensor, targets: Tensor, squares: Tensor | None = None
    ) -> tuple[Uses, int]:
        """Gradients of single records, by weight of `module`, from one forward and one backward pass.

        Also how many numbers the pass needed: activations, deltas, and gradients that are written out.
        """
        layers = [module.get_submodule(name) for name in self._hooked]
        foreign, weights = {weight for layer in layers for weight in layer.parameters()}, list(module.parameters())
        booked = [weight for weight in weights if weight.requires_grad and weight not in foreign]
        with _hooks(layers):
            if layers and inputs.is_floating_point():
                inputs = inputs.detach().requires_grad_()  # else torch warns about hooks on the first layer
            tape = Tape(booked, inputs, squares)
            stray = self._passes(module, tape, targets)
            require(foreign.issuperset(stray), "KERNEL_REFUSED", "a weight that is used outside of its layer")
            found = {weight: merged(each) for weight, each in tape.uses.items()}
            found |= {weight: Direct(rows) for weight, rows in _samples(layers, len(inputs))}
            return found, tape.values + sum(use.rows.numel() for use in found.values() if isinstance(use, Direct))

    @property
    def at_once(self) -> int:
        """Records that are computed at a time."""
        return max(1, VALUES // self._values)

    def _passes(self, module: nn.Module, tape: Tape, targets: Tensor) -> list[nn.Parameter]:
        """Fill the tape. Gives the weights that got an ordinary gradient; none is left behind."""
        module.zero_grad()
        try:
            with torch.enable_grad():
                with tape:
                    values = self.loss(module, tape.inputs, targets)
                _check_shape(values, tape.n)
                values.sum().backward()  # type: ignore[no-untyped-call]
            return [weight for weight in module.parameters() if weight.grad is not None]
        finally:
            module.zero_grad()

    def _unruled(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[str, ...]:
        """The outermost layers that own a weight which is used outside of the rules."""
        weights = [each for each in module.parameters() if each.requires_grad]
        stray = self._passes(module, Tape(weights, inputs), targets)
        outermost: list[str] = []
        for name, part in module.named_modules():  # parents come first
            inside = any(not outer or name.startswith(f"{outer}.") for outer in outermost)
            if not inside and not set(stray).isdisjoint(part.parameters(recurse=False)):
                outermost.append(name)
        return tuple(outermost)

    def _check_gradients(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> int:
        """Norms and sums are those of torch's passes over one record. Returns the numbers that a record needs."""
        uses, values = self.uses(module, inputs, targets)
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        require(set(weights) == set(uses), "KERNEL_REFUSED", "a weight that no loss reaches")
        total = [torch.zeros_like(weight) for weight in weights]
        squares = []
        for i in range(3):
            one = self.loss(module, inputs[i : i + 1], targets[i : i + 1]).sum()
            alone = torch.autograd.grad(one, weights, materialize_grads=True)
            squares.append(sum(float(each.norm()) ** 2 for each in alone))
            total = [each + more for each, more in zip(total, alone, strict=True)]
        if not torch.allclose(_squares(uses), inputs.new_tensor(squares, dtype=torch.float64), rtol=CLOSE):
            raise GenopactError("KERNEL_REFUSED", "a norm that is not that of a record alone")
        for weight, expected in zip(weights, total, strict=True):
            found = torch.zeros_like(weight)
            uses[weight].add(found, found.new_ones(3), slice(None))
            if not (found - expected).norm() <= CLOSE * expected.norm() + 1e-9:
                raise GenopactError("KERNEL_REFUSED", "gradients of records that do not add up")
        return max(1, values // 3)


def private_sum(
    losses: PerRecordLoss, inputs: Tensor, targets: Tensor, clip: float | None, *,
    patients: Tensor | None = None, squares: Tensor | None = None,
) -> ClippedSum:  # fmt: skip
    """Sum the gradients of a logical batch, each patient's clipped to `clip`.

    Args:
        losses: network and loss, checked.
        inputs: (n, ...) on the network's device; n = 0 gives zeros.
        targets: (n, ...).
        clip: L2 bound of a patient's gradient; None for data that need no protection.
        patients: (n,) int64, whose row it is: the gradients of a patient's rows are summed before the norm. Without
            it each row is a patient.
        squares: (n,), `gradients.squared_norms` of the very inputs, where a study keeps them: spares a linear layer on
            wide inputs one reading of them.

    Guarantees:
        Adding or removing a patient moves the sum by at most `clip` in L2 norm, rounding included. Norm and sum come
        from the same activations and deltas, so this holds whatever the precision of the passes. Of n clipped vectors
        that are added in products of m and then in k parts, the float sum is off by at most
        clip * n * (m + k + 2) * eps / 4; the margin holds this for both batches, and m and k are chosen for it.
        A batch is computed as a whole or not at all, and nothing of another batch is in it. Nothing is divided: the
        divisor is the caller's, and public.
    Assumptions:
        Real records are treated as the made-up ones were. The last bits of a row that the rows beside it change (in
        matrix products) are covered by what the margin leaves. Widths are below 2^20. `squares` are right.

    Raises:
        GenopactError: KERNEL_REFUSED; RANGE_EXCEEDED for more patients than the precision can sum.
    """
    if torch.get_float32_matmul_precision() != "highest":
        raise GenopactError("KERNEL_REFUSED", "matrix products below single precision")
    weights = {name: weight for name, weight in losses.module.named_parameters() if weight.requires_grad}
    dtype = torch.float64 if all(each.dtype is torch.float64 for each in weights.values()) else torch.float32
    bound, dropped = None if clip is None else clip * (1 - MARGIN[dtype]), 0
    order, owner, ends = _by_patient(patients, len(inputs))
    if order is not None:
        inputs, targets, squares = inputs[order], targets[order], None if squares is None else squares[order]
    total: dict[nn.Parameter, Tensor] = {}
    depth = int(SUMMED[dtype] * 2 / (torch.finfo(dtype).eps * max(1, len(ends) - 1)))
    with torch.autocast(inputs.device.type, enabled=False):  # norms and sums are never of low precision
        for group in _cuts(ends, losses.at_once, depth):
            part = {weight: torch.zeros_like(weight, dtype=dtype) for weight in weights.values()}
            for first, last in pairwise(group):
                rows = slice(ends[first], ends[last])
                known = None if squares is None else squares[rows]
                uses, _ = losses.uses(losses.module, inputs[rows], targets[rows], known)
                if owner is not None:
                    here, count = owner[rows] - first, last - first
                    uses = {weight: use.grouped(here, count) for weight, use in uses.items()}
                dropped += _add(part, uses, bound, _product(depth))
            total = {weight: each.double() + total[weight] for weight, each in part.items()} if total else part
    return ClippedSum({name: total[weight].to(dtype) for name, weight in weights.items()}, dropped)


def _by_patient(patients: Tensor | None, n: int) -> tuple[Tensor | None, Tensor | None, list[int]]:
    """An order of the n rows, whose patient (0, 1, ...) each is then, and where patients end; None: each its own."""
    if patients is None:
        return None, None, list(range(n + 1))
    _, order = torch.sort(patients, stable=True)
    _, owner, sizes = torch.unique_consecutive(patients[order], return_inverse=True, return_counts=True)
    return order, owner, [0, *sizes.cumsum(0).tolist()]


def _add(total: dict[nn.Parameter, Tensor], uses: Uses, bound: float | None, product: int) -> int:
    """Add clipped gradients, in products of so many patients. Returns how many were not finite, and count as zeros."""
    squares = _squares(uses)
    finite = squares.isfinite()
    factors = torch.ones_like(squares) if bound is None else (bound * squares.rsqrt()).clamp(max=1)
    places = finite.nonzero()[:, 0]
    for start in range(0, len(places), product):
        at: At = places[start : start + product]
        if len(places) == len(finite):
            at = slice(start, start + product)  # no copy
        for weight, use in uses.items():
            use.add(total[weight], factors, at)
    return len(finite) - len(places)


def _squares(uses: Uses) -> Tensor:
    """(n,) float64 squared norms over all weights."""
    return torch.stack([use.squares() for use in uses.values()]).sum(0)


def _product(depth: int) -> int:
    """Patients in a matrix product."""
    return max(1, min(CHUNK, max(depth - 16, depth // 2)))


def _cuts(ends: list[int], rows: int, depth: int) -> list[list[int]]:
    """Groups of passes over patients, patient i having the rows from ends[i] to ends[i + 1]; about `rows` rows a pass.

    The products of a group are summed in the dtype of the sum, so that no more than `depth` additions follow one
    another; groups are summed in float64.

    Raises:
        GenopactError: RANGE_EXCEEDED.
    """
    n, largest = len(ends) - 1, max((last - first for first, last in pairwise(ends)), default=1)
    together = depth - _product(depth) - 2
    require(together >= 1, "RANGE_EXCEEDED", "more patients than the precision can sum")
    passes = -(-n // max(1, min(rows // largest, _product(depth) * together)))
    marks = [n * i // max(1, passes) for i in range(passes + 1)]
    products = -(-(n // max(1, passes) + 1) // _product(depth))
    size = max(1, together // products)
    return [marks[at : at + size + 1] for at in range(0, max(1, passes), size)]


def _made_up(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Values that differ, and are nobody's: float64 between 0 and 1, or whole numbers 0 and 1."""
    room = like.new_empty(shape)
    waves = torch.cos(2.3 * torch.arange(room.numel(), dtype=torch.float64, device=like.device)).reshape(shape)
    return (1 + waves) / 2 if like.is_floating_point() else (waves > 0).to(like.dtype)


def _check_isolation(module: nn.Module, loss: Loss, *records: Tensor) -> None:
    """No loss has a derivative in another record; exchanging one record leaves the other losses their bits."""
    inputs, targets = (each.clone().requires_grad_(each.is_floating_point()) for each in records)
    with torch.enable_grad():
        before = loss(module, inputs, targets)
    _check_shape(before, len(inputs))
    given = [each for each in (inputs, targets) if each.is_floating_point()]
    for i in range(len(before) if given else 0):
        slopes = torch.autograd.grad(before[i], given, retain_graph=True, materialize_grads=True)
        if any(torch.cat([slope[:i], slope[i + 1 :]]).count_nonzero() for slope in slopes):
            raise GenopactError("KERNEL_REFUSED", "the loss of a record follows another record")
    with torch.no_grad():
        for each in (inputs, targets):
            each[0] = (each[0] == 0).to(each.dtype)
            if not torch.equal(before[1:], loss(module, inputs, targets)[1:]):
                raise GenopactError("KERNEL_REFUSED", "the loss of a record follows another record, or chance")


def _check_shape(values: Tensor, n: int) -> None:
    """A loss of shape (n, 1) would broadcast where it meets one of shape (n,)."""
    if values.shape != (n,):
        raise GenopactError("KERNEL_REFUSED", "not one loss a record")


@contextmanager
def _hooks(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Hooks on some layers, fresh for each batch: nothing of an earlier one is left in them.

    Raises:
        GenopactError: KERNEL_REFUSED for a layer that Opacus does not know to be per record.
    """
    if any(ModuleValidator.validate(layer, strict=False) or not layer.training for layer in layers):
        raise GenopactError("KERNEL_REFUSED", "a layer without gradients of single records")
    wrapped = [GradSampleModule(layer, loss_reduction="sum") for layer in layers]
    try:
        yield
    finally:
        for each in wrapped:
            each.to_standard_module()
        for layer in layers:
            for part in layer.modules():
                part.__dict__.pop("activations", None)


def _samples(layers: Sequence[nn.Module], n: int) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Each weight of the layers with its (n, ...) gradients.

    Raises:
        GenopactError: KERNEL_REFUSED for a weight without one gradient a record.
    """
    for layer in layers:
        for weight in layer.parameters():
            sample = getattr(weight, "grad_sample", None)
            if weight.requires_grad and not (isinstance(sample, Tensor) and sample.shape == (n, *weight.shape)):
                raise GenopactError("KERNEL_REFUSED", "a weight without one gradient a record")
            if isinstance(sample, Tensor):
                yield weight, sample.detach()
