"""What every reader of genotypes gives: its samples, and batches of dosages of manifest variants.

Readers never rewrite a file. A reader asks the harmoniser which allele index of a record is the effect allele of which
manifest row, and counts that index in the calls.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Record(NamedTuple):
    """The site of one record: `pos` counts from 1; `alts` is empty for a record without an alternative allele.

    `frequency`: of the first alternative in this file, known only for arrays (for the palindromic rule).
    """

    chrom: str
    pos: int
    ref: str
    alts: tuple[str, ...]
    frequency: float | None = None


class Match(NamedTuple):
    """Record `record` of a batch holds manifest row `row`; its allele index `allele` (0 = REF) is the effect allele."""

    record: int
    row: int
    allele: int


class Harmoniser(Protocol):
    """Sites against the manifest."""

    def match(self, records: Sequence[Record]) -> list[Match]:
        """The manifest rows that these records hold, in the order of the records; a row at most once in a file."""
        ...


class Called(NamedTuple):
    """Calls of k manifest rows for all n samples of a file.

    rows: (k,) int64 manifest rows.
    dosages: (k, n) int8 copies of the effect allele 0, 1, 2; -1 missing.
    expected: (k, n) uint8 expected copies from DS, 0..254 for 0..2, 255 missing; None where the file has none.
    haplotypes: (k, n) uint8, bit 0 the first and bit 1 the second haplotype carries the effect allele; an unphased
        heterozygote is 0 (against dosage 1 that says "phase unknown"); None where phases were not asked for.
    haploid: (k, n) bool, the call had one allele (dosage then 0 or 1, as written); None if no call had.
    """

    rows: NDArray[np.int64]
    dosages: NDArray[np.int8]
    expected: NDArray[np.uint8] | None = None
    haplotypes: NDArray[np.uint8] | None = None
    haploid: NDArray[np.bool_] | None = None


class Source(Protocol):
    """One file, or the files of one format that belong together."""

    @property
    def samples(self) -> tuple[str, ...]:
        """Sample names in the file's order, NFC, each once."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the file's bytes."""
        ...

    def batches(self, harmoniser: Harmoniser) -> Iterator[Called]:
        """All matched variants.

        Raises:
            ImportRefusedError: with the fault and its place.
        """
        ...
