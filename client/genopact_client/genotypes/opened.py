"""Rows that were opened for a while, as batches for training: straight from ciphertext to tensors."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genopact_client.genotypes import loops
from genopact_client.genotypes.records import Part, People, Plane, Records
from genopact_client.keyfile import KeyFile
from genopact_shared.compiled import compiled
from genopact_shared.errors import require
from genopact_shared.manifest import VariantManifest
from genopact_shared.recipes.table import Codes, Floats

if TYPE_CHECKING:
    import torch


class Opened:
    """The genotypes of some permitted people, whose keys are in memory until `close`.

    An index is a place in `rows`. Not safe to use from several threads.

    Guarantees:
        A batch holds what was sealed for exactly those people, or there is none: a changed byte, a missing record or
        key is an error, never zeros. Before each batch the guard is asked and the key file looked at: after a refusal
        or the erasure of any of the people all keys are dropped, and nothing opens again.
    Assumptions:
        The guard knows of every withdrawal. A batch that was handed out stays with whoever asked for it.
    """

    def __init__(
        self, people: People, records: Sequence[Records], variants: VariantManifest,
        keyfile: KeyFile, guard: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.rows, self.variants, self._people, self._records = people.rows, variants, people, records
        self._keyfile, self._guard, self._epoch, self._closed = keyfile, guard, -1, ""

    def __len__(self) -> int:
        return len(self.rows)

    def close(self, code: str = "ROWS_CLOSED") -> None:
        """Drop the keys; `code` is what later batches raise."""
        self._people.ciphers.clear()
        self._closed = code

    def draw(self, rate: Fraction) -> NDArray[np.intp]:
        """A Poisson sample: each person on its own, with chance `rate` in (0, 1]. Indices, ascending."""
        from genopact_client.train.private_sgd import poisson

        return poisson(len(self), rate)

    def packed(self, indices: NDArray[np.integer], plane: Plane = "calls") -> loops.Bytes:
        """Packed rows as they were sealed, zeros beyond the last variant: (b, bytes) uint8. Raises as `dosages`."""
        packing = 1 if plane == "expected" else 4
        if plane not in {records.part.plane for records in self._records}:
            raise ValueError(f"The store has no {plane}")
        out = np.empty((len(indices), -(-len(self.variants) // packing)), np.uint8)
        for part, at, rows in self._pieces(indices, plane):
            out[at : at + len(rows), part.first // packing :][:, : part.plain] = rows
        return out

    def dosages(self, indices: NDArray[np.integer], out: Codes) -> Codes:
        """Copies of the effect allele, -1 missing.

        Args:
            indices: (b,).
            out: at least b rows of V, int8.

        Returns:
            Its first b rows.

        Raises:
            GenopactError: ROWS_CLOSED, KEY_ERASED, RECORD_INVALID.
        """
        out = out[: self._fitting(indices, out.shape)]
        for part, at, rows in self._pieces(indices):
            compiled(loops.unpack)(rows, out[at : at + len(rows)], part.first)
        return out

    def standardised(self, indices: NDArray[np.integer], out: "torch.Tensor") -> "torch.Tensor":
        """(copies - 2f) / sqrt(2f(1 - f)) with the manifest's frequencies f; 0 if missing or f is 0 or 1.

        Args:
            indices: (b,).
            out: at least b rows of V, float32 or bfloat16, on any device.

        Returns:
            Its first b rows.

        Raises:
            GenopactError: FREQUENCY_UNKNOWN, and as `dosages`.
        """
        import torch

        bits = {torch.float32: torch.float32, torch.bfloat16: torch.int16}[out.dtype]
        out = out[: self._fitting(indices, out.shape)]
        host = torch.empty(out.shape, dtype=out.dtype, pin_memory=True) if out.is_cuda else out
        values, table = (each.view(bits).numpy() for each in (host, torch.from_numpy(self._table).to(out.dtype)))
        for part, at, rows in self._pieces(indices):
            copies = np.empty((len(rows), part.variants), np.int8)
            compiled(loops.unpack)(rows, copies, 0)
            compiled(loops.standardise)(copies, table, values[at : at + len(rows)], part.first)
        return out if host is out else out.copy_(host)

    @cached_property
    def _table(self) -> Floats:
        """What 0, 1, 2 copies and a missing genotype stand for, (4, V)."""
        f = self.variants.frequency
        require(not np.isnan(f).any(), "FREQUENCY_UNKNOWN")
        varies = (f > 0) & (f < 1)
        sd = np.sqrt(np.where(varies, 2 * f * (1 - f), np.inf))
        return np.array([(0 - 2 * f) / sd, (1 - 2 * f) / sd, (2 - 2 * f) / sd, 0 * f])

    def _fitting(self, indices: NDArray[np.integer], shape: Sequence[int]) -> int:
        """The number of indices. ValueError if there is no room for them."""
        if len(shape) != 2 or shape[0] < len(indices) or shape[1] != len(self.variants):
            raise ValueError(f"Expected room for ({len(indices)}, {len(self.variants)}), got {tuple(shape)}")
        return len(indices)

    def _pieces(self, indices: NDArray[np.integer], plane: Plane = "calls") -> Iterator[tuple[Part, int, loops.Bytes]]:
        """Part by part, CHUNK people at a time: the part, the place in `indices`, packed rows (k, part.plain)."""
        self._require_open()
        for records in self._records:
            for at, rows in records.of(self._people, indices) if records.part.plane == plane else ():
                yield records.part, at, rows

    def _require_open(self) -> None:
        epoch = self._keyfile.epoch
        if not self._closed and not self._guard():
            self.close()
        elif not self._closed and epoch != self._epoch and not self._keyfile.alive(self.rows).all():
            self.close("KEY_ERASED")
        require(not self._closed, self._closed)
        self._epoch = epoch
