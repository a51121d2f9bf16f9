"""The rule of `nn.GRU`: one backward pass through time, whose deltas make it a linear layer over all times.

Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, in torch's variant.
"""

from typing import Any

import torch
from torch import Tensor

from genopact_client.train.gradients import Direct, outer, wide
from genopact_client.train.layers import Tape, linear
from genopact_shared.errors import GenopactError, require


def gru(tape: Tape, x: Tensor, hx: Tensor, weights: Any, *settings: Any) -> tuple[Tensor, Tensor]:
    """(n, T, I) and (1, n, H) -> (n, T, H) and the last states (1, n, H), as `torch.gru` of one layer and direction."""
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
