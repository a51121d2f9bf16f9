"""Gradients of single records without weight gradients in the backward pass: book-keeping, one rule per layer.

A `Tape` stands between a network and the functions that use its weights. A function with a rule computes its result
from detached weights, and the backward pass hands it delta, the gradient of the losses at that result. Activation and
delta give each record's gradient norm and, later, the clipped sum. Any other use of a weight leaves an ordinary
gradient on it, which the caller refuses or gives to Opacus.
Source: Bu et al., "Differentially Private Optimization on Large Model at Small Cost", 2023 (book-keeping).
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it
from torch import Tensor, nn
from torch.nn import grad
from torch.overrides import TorchFunctionMode

from genopact_client.train.gradients import Direct, Lookup, Use, outer, wide
from genopact_shared.errors import GenopactError, require

Maker = Callable[[Tensor, Tensor], Use]
"""(activation, delta) -> the gradients of a weight."""


class Tape(TorchFunctionMode):
    """Collects the uses of `weights` by a network on some records; `values` sizes their activations and deltas.

    Args:
        weights: those to book.
        inputs: (n, ...), the records.
        squares: (n,) squared norms of the records, if known; for a linear layer right on them.

    Raises:
        GenopactError: KERNEL_REFUSED for a layer whose first axis is not that of the records.
    """

    def __init__(self, weights: Collection[nn.Parameter], inputs: Tensor, squares: Tensor | None = None) -> None:
        super().__init__()
        self.uses: dict[nn.Parameter, list[Use]] = defaultdict(list)
        self.n, self.inputs, self.squares, self.values = len(inputs), inputs, squares, 0
        self._weights, self.records_second = set(weights), False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Use the rule of a function, if it has one."""
        rule, named = RULES.get(func), kwargs or {}
        if rule is None:
            return func(*args, **named)
        return rule(self, *((named.pop("input"), *args) if "input" in named else args), **named)

    def plain(self, weight: Any) -> Any:
        """A weight without its gradient, if its use is booked here; None is None."""
        return weight.detach() if weight is not None and weight in self._weights else weight

    def book(self, y: Tensor, x: Tensor, *makers: tuple[Tensor | None, Maker]) -> Tensor:
        """Give back y; once its delta is known, book what the makers make of x and delta for their weights."""
        booked = [(weight, maker) for weight, maker in makers if weight is not None and weight in self._weights]
        if not booked:
            return y
        result: Tensor = _Book.apply(y, x, self, booked, *(weight for weight, _ in booked))  # type: ignore[no-untyped-call]
        return result

    def add(self, weight: Tensor | None, use: Use) -> None:
        """Book a use of a weight whose delta is known."""
        if isinstance(weight, nn.Parameter) and weight in self._weights:
            self.uses[weight].append(use)

    def check(self, values: Tensor, axes: int = 2) -> None:
        """The first of at least so many axes has to be the records'."""
        if values.dim() < axes or len(values) != self.n:
            raise GenopactError("KERNEL_REFUSED", "a layer whose rows are not the records")

    def records(self, values: Tensor, *, second: bool = False) -> Tensor:
        """(n, ..., p) as (n, T, p), the first axes joined or not; with records second, (T, n, p)."""
        width = values.shape[-1]
        return wide(values.reshape(-1, self.n, width).transpose(0, 1) if second else values.reshape(self.n, -1, width))

    def attention(self, *args: Any, **named: Any) -> Any:
        """Torch's own code with booked projections; it has records on the second axis."""
        require(args[0].dim() == 3 and args[0].shape[1] == self.n, "KERNEL_REFUSED", "attention across records")
        self.records_second = True
        try:
            with self:
                return _ATTENTION(*args, **named)
        finally:
            self.records_second = False


class _Book(torch.autograd.Function):
    """The identity; its backward pass sees delta. In place, so that the result is no view."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        y, x, ctx.tape, ctx.makers, *_ = args
        ctx.mark_dirty(y)
        ctx.save_for_backward(x)
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (x,), d = ctx.saved_tensors, grad_outputs[0].contiguous()
        ctx.tape.values += 2 * d.numel()
        for weight, maker in ctx.makers:
            ctx.tape.add(weight, maker(x.detach(), d))
        return d, None, None, None, *[None for _ in ctx.makers]


def linear(tape: Tape, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Also over further axes between the records' and the features'; joined, because torch would give back a view."""
    second = tape.records_second
    if not second:
        tape.check(x)
    records = partial(tape.records, second=second)
    squares = tape.squares if x is tape.inputs and x.dim() == 2 else None
    y = F.linear(x.flatten(0, -2) if x.dim() > 2 else x, tape.plain(weight), tape.plain(bias))
    y = tape.book(
        y, x,
        (weight, lambda x, d: outer(records(x), records(d), squares)),
        (bias, lambda _, d: Direct(records(d).sum(1))),
    )  # fmt: skip
    return y.view(*x.shape[:-1], -1) if x.dim() > 2 else y


def _embedding(tape: Tape, ids: Tensor, weight: Tensor, *, padding_idx: int | None, **named: Any) -> Tensor:
    require(named.pop("max_norm") is None, "KERNEL_REFUSED", "an embedding that changes its weights in passing")
    tape.check(ids, 1)

    def maker(ids: Tensor, d: Tensor) -> Use:
        values = tape.records(d).flatten(0, 1)
        record = torch.arange(tape.n, device=d.device).repeat_interleave(len(values) // tape.n)
        if padding_idx is not None:
            values = values * (ids.reshape(-1, 1) != padding_idx % len(weight))
        return Lookup.of(record, ids.reshape(-1), values, tape.n, len(weight))

    return tape.book(F.embedding(ids, tape.plain(weight), padding_idx, **named), ids, (weight, maker))


class _Window(NamedTuple):
    """How a convolution looks at its input."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    def applied(self, x: Tensor, sizes: torch.Size) -> "tuple[Tensor, _Window]":
        """The input with the zeros that a padding in words asks for, and the window over it."""
        if not isinstance(self.padding, str):
            return x, self
        gaps = (self.dilation,) * len(sizes) if isinstance(self.dilation, int) else self.dilation
        spans = [gap * (size - 1) * (self.padding == "same") for size, gap in zip(sizes, gaps, strict=True)]
        # An odd span takes one more at the end.
        x = F.pad(x, [edge for span in reversed(spans) for edge in (span // 2, span - span // 2)])
        return x, self._replace(padding=0)


def _conv(function: Any, of_filters: Any) -> Any:
    """Torch sums filters' gradients over records; with records for further groups, it gives those of each record."""

    def rule(tape: Tape, x: Tensor, weight: Tensor, bias: Tensor | None = None, *given: Any, **named: Any) -> Tensor:
        tape.check(x, weight.dim())
        x, window = _Window(*given, **named).applied(x, weight.shape[2:])
        apart = window._replace(groups=window.groups * tape.n)

        def of_weight(x: Tensor, d: Tensor) -> Use:
            one, other = (wide(each).reshape(1, -1, *each.shape[2:]) for each in (x, d))
            found = of_filters(one, (tape.n * len(weight), *weight.shape[1:]), other, *apart)
            return Direct(found.view(tape.n, *weight.shape))

        return tape.book(
            function(x, tape.plain(weight), tape.plain(bias), *window), x,
            (weight, of_weight), (bias, lambda _, d: Direct(wide(d).flatten(2).sum(2))),
        )  # fmt: skip

    return rule


def _blocks(tape: Tape, x: Tensor, weight: Tensor) -> Tensor:
    """A linear layer of each block of features: (blocks, n, p) x (blocks, p, q)."""
    y = torch.bmm(x, tape.plain(weight))
    if tape.plain(weight) is weight:
        return y  # between activations
    tape.check(x.transpose(0, 1), 3)
    return tape.book(y, x, (weight, lambda x, d: Direct(torch.einsum("bnp,bnq->nbpq", wide(x), wide(d)))))


def _norm(function: Any) -> Any:
    """Layer and root-mean-square normalisation, over the last axes."""

    def rule(tape: Tape, x: Tensor, over: Any, *, weight: Any, bias: Any = None, eps: float | None) -> Tensor:
        tape.check(x)
        shift = {} if function is F.rms_norm else {"bias": tape.plain(bias)}

        def summed(values: Tensor) -> Use:
            return Direct(values.reshape(tape.n, -1, *over).sum(1))

        return tape.book(
            function(x, over, weight=tape.plain(weight), eps=eps, **shift), x,
            (weight, lambda x, d: summed(wide(d) * function(wide(x), over, eps=eps))),
            (bias, lambda _, d: summed(wide(d))),
        )  # fmt: skip

    return rule


def _group_norm(tape: Tape, x: Tensor, groups: int, *, weight: Any, bias: Any, eps: float) -> Tensor:
    """Torch sums weight gradients over records; with records for further channels, it gives those of each record."""
    tape.check(x)
    n, channels, spots = tape.n, x.shape[1], x[0, 0].numel() if tape.n else 0
    source = wide(x).contiguous()
    y, mean, scale = torch.native_group_norm(
        source, tape.plain(weight), tape.plain(bias), n, channels, spots, groups, eps
    )
    mean, scale = mean.detach().reshape(1, -1), scale.detach().reshape(1, -1)

    def of_weight(x: Tensor, d: Tensor) -> Use:
        sizes = (1, n * channels, spots, n * groups)
        unused = x.new_ones(n * channels)  # weights, which this output does not depend on
        found = torch.ops.aten.native_group_norm_backward(wide(d), x, mean, scale, unused, *sizes, [False, True, False])
        return Direct(found[1].view(n, channels))

    return tape.book(y.to(x.dtype), source, (weight, of_weight), (bias, lambda _, d: Direct(wide(d).flatten(2).sum(2))))


def _gru(tape: Tape, x: Tensor, hx: Tensor, weights: Any, *settings: Any) -> tuple[Tensor, Tensor]:
    """(n, T, I) and (1, n, H) -> (n, T, H) and the last states (1, n, H), as `torch.gru` of one layer and direction.

    One backward pass through time, whose deltas make it a linear layer over all times. Source: Cho et al., "Learning
    Phrase Representations using RNN Encoder-Decoder", 2014, in torch's variant.
    """
    if isinstance(weights, Tensor) or not settings[-1] or x.dim() != 3 or len(x) != tape.n:
        raise GenopactError("KERNEL_REFUSED", "a recurrent layer needs records first, all of one length")
    _, layers, _, _, both, _ = settings
    require(layers <= 1 and not both, "KERNEL_REFUSED", "a recurrent layer of several layers or directions")
    w_in, w_state, *b = weights
    b_in, b_state = b or (None, None)
    gates = linear(tape, x, w_in, b_in)
    out: Tensor = _Recurrence.apply(wide(gates), wide(hx[0]), w_state, b_state, tape)  # type: ignore[no-untyped-call]
    return out, out[:, -1][None]


class _Recurrence(torch.autograd.Function):
    """States (n, T, H) from the inputs' share of the gates (n, T, 3H) in the order reset, update, new."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        gates, h, weight, bias, ctx.tape = args
        n, times, width = gates.shape[0], gates.shape[1], h.shape[1]
        inputs = gates.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        if bias is None:
            bias = inputs.new_zeros(3 * width)
        pairs, news = inputs.split((2 * width, width), 2)
        pairs += bias[: 2 * width]
        pair, new, last = weight[: 2 * width].t(), weight[2 * width :].t(), bias[2 * width :]
        states, gated = inputs.new_empty(times + 1, n, width), inputs.new_empty(times, n, 2 * width)
        hidden, fresh = inputs.new_empty(times, n, width), inputs.new_empty(times, n, width)
        states[0] = h
        steps = zip(pairs, news, gated, hidden, fresh, states, states[1:], strict=False)
        for into_pair, into_new, both, inner, candidate, before, after in steps:
            torch.addmm(into_pair, before, pair, out=both).sigmoid_()
            torch.addmm(last, before, new, out=inner)
            torch.addcmul(into_new, both[:, :width], inner, out=candidate).tanh_()
            torch.lerp(candidate, before, both[:, width:], out=after)
        ctx.save_for_backward(states, gated, hidden, fresh, weight)
        ctx.owners = weight, bias
        out: Tensor = states[1:].transpose(0, 1).contiguous()
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        states, gated, hidden, fresh, weight = ctx.saved_tensors
        times, n, width = hidden.shape
        reset, update = gated.split(width, 2)
        # What one unit of delta at a state gives at the gates of its step; the loop only carries it through time.
        slope = states.new_empty(times, n, 3, width)
        at_new = (1 - update) * (1 - torch.square(fresh))
        slope[:, :, 0] = at_new * hidden * reset * (1 - reset)
        slope[:, :, 1] = (states[:-1] - fresh) * update * (1 - update)
        slope[:, :, 2] = at_new * reset
        deltas = grad_outputs[0].transpose(0, 1).clone(memory_format=torch.contiguous_format)
        carried = deltas.new_zeros(n, width)
        at_gates = torch.empty_like(slope)
        for t in range(times - 1, -1, -1):
            delta = deltas[t].add_(carried)
            torch.mul(delta[:, None], slope[t], out=at_gates[t])
            carried = torch.addmm(delta * update[t], at_gates[t].flatten(1), weight)
        states, at_state = (wide(each.transpose(0, 1)) for each in (states[:-1], at_gates.flatten(2)))
        ctx.tape.add(ctx.owners[0], outer(states, at_state))
        ctx.tape.add(ctx.owners[1], Direct(at_state.sum(1)))
        at_inputs = torch.cat([at_gates[:, :, :2].flatten(2), deltas * at_new], 2)
        gradients: tuple[Tensor | None, ...] = (at_inputs.transpose(0, 1), carried, None, None, None)
        return gradients


# Torch hands a call back to the tape as long as it sees one; this copy of its function does not look.
_ATTENTION = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)

RULES: dict[Any, Callable[..., Any]] = {
    F.linear: linear,
    F.embedding: _embedding,
    torch.bmm: _blocks,
    F.conv1d: _conv(F.conv1d, grad.conv1d_weight),
    F.conv2d: _conv(F.conv2d, grad.conv2d_weight),
    F.layer_norm: _norm(F.layer_norm),
    F.group_norm: _group_norm,
    F.rms_norm: _norm(F.rms_norm),
    F.multi_head_attention_forward: Tape.attention,
    torch.gru: _gru,
}
