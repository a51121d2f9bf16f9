"""Gradients of single records in the form that is cheapest to hold: norms of all, and the sum of some times factors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

At = slice | Tensor
"""Some records, by place or index."""
CANCELLATION = 2.0**-40


def wide(values: Tensor) -> Tensor:
    """In float32, or float64 where they are."""
    return values if values.dtype is torch.float64 else values.float()


class Direct(NamedTuple):
    """Gradients that are written out: (n, ...)."""

    rows: Tensor

    def grouped(self, owner: Tensor, count: int) -> "Direct":
        """Rows of one patient summed: (count, ...)."""
        return Direct(self.rows.new_zeros(count, *self.rows.shape[1:]).index_add_(0, owner, self.rows))

    def dense(self) -> Tensor:
        """(n, values)."""
        return self.rows.reshape(len(self.rows), -1)

    def squares(self) -> Tensor:
        """(n,) float64 squared norms."""
        return torch.square(torch.linalg.vector_norm(self.dense(), dim=1).double())

    def add(self, total: Tensor, factors: Tensor, at: At) -> None:
        """Add the sum of some rows times their factors, which are (n,)."""
        rows = self.dense()[at]
        total.view(-1).addmv_(rows.t(), factors[at].to(rows.dtype))


class Outer(NamedTuple):
    """Gradients sum_t d_t x_t^T of a matrix. x: (n, T, p), d: (n, T, q), x_squares: (n,) for T = 1 where known."""

    x: Tensor
    d: Tensor
    x_squares: Tensor | None = None

    def grouped(self, owner: Tensor, count: int) -> "Use":
        """The rows of one patient as further t; `owner` ascends."""
        sizes = torch.bincount(owner, minlength=count)
        place = torch.arange(len(owner), device=owner.device) - (sizes.cumsum(0) - sizes)[owner]

        def padded(values: Tensor) -> Tensor:
            room = values.new_zeros(count, int(sizes.max()), *values.shape[1:])
            room[owner, place] = values
            return room.flatten(1, 2)

        return outer(padded(self.x), padded(self.d))

    def dense(self) -> Tensor:
        """(n, q p)."""
        return torch.bmm(self.d.transpose(1, 2), self.x).flatten(1)

    def squares(self) -> Tensor:
        """(n,) float64. Terms of several t can cancel: these Gram matrices are float64, and a bound is added."""
        if self.x.shape[1] == 1:
            known = squared_norms(self.x[:, 0]) if self.x_squares is None else self.x_squares
            return known * squared_norms(self.d[:, 0])
        x, d = self.x.double(), self.d.double()
        gram = (torch.bmm(x, x.transpose(1, 2)) * torch.bmm(d, d.transpose(1, 2))).sum((1, 2)).clamp(min=0)
        lengths = torch.linalg.vector_norm(x, dim=2) * torch.linalg.vector_norm(d, dim=2)
        return gram + CANCELLATION * torch.square(lengths.sum(1))

    def add(self, total: Tensor, factors: Tensor, at: At) -> None:
        """As in `Direct`: one matrix product over records and t."""
        x, d, factors = self.x[at], self.d[at], factors[at]
        if x.shape[1] == 1:
            total.addmm_((d[:, 0] * factors.to(d.dtype)[:, None]).t(), x[:, 0])
        else:
            scaled = d.double() * factors.double()[:, None, None]
            total.add_((scaled.flatten(0, 1).t() @ x.double().flatten(0, 1)).to(total.dtype))


class Lookup(NamedTuple):
    """Gradients of looked-up rows of a matrix: record (m,), row (m,), each pair once, with its gradient (m, q)."""

    record: Tensor
    row: Tensor
    values: Tensor
    n: int
    height: int

    @classmethod
    def of(cls, record: Tensor, row: Tensor, values: Tensor, n: int, height: int) -> "Lookup":
        """Sum what one record adds to one row."""
        pairs, place = torch.unique(record * height + row, return_inverse=True)
        summed = values.new_zeros(len(pairs), values.shape[1]).index_add_(0, place, values)
        return cls(pairs // height, pairs % height, summed, n, height)

    def grouped(self, owner: Tensor, count: int) -> "Lookup":
        """See `Direct`."""
        return Lookup.of(owner[self.record], self.row, self.values, count, self.height)

    def dense(self) -> Tensor:
        """(n, height q)."""
        room = self.values.new_zeros(self.n, self.height, self.values.shape[1])
        room[self.record, self.row] = self.values
        return room.flatten(1)

    def squares(self) -> Tensor:
        """(n,) float64."""
        each = torch.square(torch.linalg.vector_norm(self.values, dim=1).double())
        return each.new_zeros(self.n).index_add_(0, self.record, each)

    def add(self, total: Tensor, factors: Tensor, at: At) -> None:
        """As in `Direct`."""
        chosen = torch.zeros_like(factors)
        chosen[at] = factors[at]
        here = chosen[self.record] > 0
        values = self.values[here] * chosen[self.record[here]].to(self.values.dtype)[:, None]
        total.index_add_(0, self.row[here], values)


Use = Direct | Outer | Lookup


def outer(x: Tensor, d: Tensor, x_squares: Tensor | None = None) -> Use:
    """The gradient of a matrix in the cheaper of its forms."""
    whole, (times, p), q = Outer(x, d, x_squares), x.shape[1:], d.shape[2]
    return whole if times == 1 or times * (p + q) < p * q else Direct(whole.dense())


def merged(uses: Sequence[Use]) -> Use:
    """One gradient a record for a weight that is used several times."""
    if len(uses) == 1:
        return uses[0]
    pairs = [(use.x, use.d) for use in uses if isinstance(use, Outer)]
    if len(pairs) == len(uses):
        return outer(*(torch.cat(part, 1) for part in zip(*pairs, strict=True)))
    return Direct(torch.stack([use.dense() for use in uses]).sum(0))


def squared_norms(rows: Tensor) -> Tensor:
    """(n, p) -> (n,) float64, never too small: what falls below the smallest normal number is added."""
    tiny = rows.shape[1] * 2 * torch.finfo(rows.dtype).tiny
    return torch.square(torch.linalg.vector_norm(rows, dim=1).double()) + tiny
