"""PLINK 2 files: PREFIX.pgen with PREFIX.pvar and PREFIX.psam beside it, read through pgenlib.

A .pgen has no checksum: what breaks its structure is refused, but a flipped bit inside may be another genotype, which
nobody can see. Compare checksums with whoever made it. The format does not know haploid calls.
Source: github.com/chrchang/plink-ng, pgen_spec and pgenlib's python_api.txt.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.findings import refusal
from genopact_ingest.plink import BATCH, LETTERS, LocalFiles, lines, people, regular
from genopact_ingest.source import Called, Harmoniser, Match, Record
from genopact_shared.errors import GenopactError, replacing


class PgenFile(LocalFiles):
    """A `Source` of hard calls, with expected dosages and phases where they are.

    Variants outside FILTER PASS are left out and counted in `notes`. A call with an allele that is not letters, such
    as `*`, is missing. `Called.expected` is None in a batch whose dosages say no more than its hard calls. For
    `samples` and `sex` see `plink.people`.
    """

    def __init__(self, path: Path, *, phases: bool = False) -> None:
        """Opens PREFIX.pgen.

        Raises:
            ImportRefusedError: GENOTYPES_UNREADABLE, GENOTYPES_LINE, GENOTYPES_SAMPLES.
            GenopactError: EXTRA_MISSING without pgenlib.
        """
        with replacing(ImportError, GenopactError("EXTRA_MISSING", "pip install 'genopact-ingest[plink]'")):
            from pgenlib import PgenReader
        self._paths = (regular(path), path.with_suffix(".pvar"), path.with_suffix(".psam"))
        self._phases, self.notes = phases, Counter[str]()
        self.samples, self.sex = people(self._paths[2])
        ends = np.cumsum([0, *(max(2, 1 + len(site.alts)) for site, _ in self._sites())], dtype=np.uintp)
        with _whole("(damaged, or of another .pvar or .psam)"):
            self._reader = PgenReader(bytes(path), len(self.samples), len(ends) - 1, None, ends)

    def batches(self, harmoniser: Harmoniser) -> Iterator[Called]:
        """As in `Source`; at most BATCH variants each."""
        self.notes.clear()
        numbered = enumerate(self._sites())
        while some := list(islice(numbered, BATCH)):
            kept = [(index, site) for index, (site, passed) in some if passed]
            self.notes["not_pass"] += len(some) - len(kept)
            if matches := harmoniser.match([site for _, site in kept]):
                with _whole("(a variant is damaged)"):
                    found = [self._calls(*kept[match.record], match) for match in matches]
                yield stacked(matches, found, phases=self._phases)

    def _sites(self) -> Iterator[tuple[Record, bool]]:
        """The records, and whether they pass."""
        header: list[str] = []
        for row, line in enumerate(lines(self._paths[1]), start=1):
            cells = line.rstrip("\n").split("\t")
            if not header and line.startswith("#"):
                header = cells if cells[:5] == ["#CHROM", "POS", "ID", "REF", "ALT"] else []
                continue
            if not header or len(cells) != len(header) or not (cells[1].isascii() and cells[1].isdecimal()):
                raise refusal("GENOTYPES_LINE", "(a #CHROM line, then as many columns)", row, ".pvar")
            site = dict(zip(header, cells, strict=True))
            alts = tuple(site["ALT"].upper().split(",")) if site["ALT"] != "." else ()
            yield Record(cells[0], int(cells[1]), site["REF"].upper(), alts), site.get("FILTER", ".") in {".", "PASS"}

    def _calls(self, index: int, site: Record, match: Match) -> "Calls":
        alleles, n = (site.ref, *site.alts), len(self.samples)
        called, phased, doses = np.empty(2 * n, np.int32), np.empty(n, np.bool_), np.empty(n, np.float32)
        self._reader.read_alleles_and_phasepresent(index, called, phased)
        copies = [int(at == match.allele) if LETTERS.fullmatch(allele) else -1 for at, allele in enumerate(alleles)]
        called[called == -9] = len(copies)
        first, second = np.array([*copies, -1], np.int8)[called].reshape(n, 2).T
        known = (first >= 0) & (second >= 0)
        hard = np.where(known, first + second, np.int8(-1))
        haplotypes = np.where(known & (phased | (first == second)), first | second << 1, 0).astype(np.uint8)
        if len(alleles) == 2 and -1 not in copies:  # others have no dosages
            self._reader.read_dosages(index, doses, match.allele)
        else:
            doses = hard.astype(np.float32)
        return hard, in_steps(doses), haplotypes, np.zeros(n, np.bool_)


Calls = tuple[NDArray[np.int8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]
"""(n,) each of one variant: dosages, expected dosages, haplotypes, haploid, as of `Called`."""


def _whole(detail: str) -> AbstractContextManager[None]:
    """What pgenlib says of the bytes is one refusal."""
    return replacing((RuntimeError, IndexError), refusal("GENOTYPES_UNREADABLE", detail, column=".pgen"))


def in_steps(copies: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Copies 0..2 (below 0 missing) as `Called.expected` has them; IndexError for more than two."""
    if copies.max() > 2.001:
        raise IndexError
    return np.where(copies < 0, 255, np.rint(np.maximum(copies, 0) * 127)).astype(np.uint8)


def stacked(matches: list[Match], found: list[Calls], *, phases: bool) -> Called:
    """The calls of a batch; expected dosages only if they say more than the hard calls."""
    hard, expected, haplotypes, haploid = (np.stack(part) for part in zip(*found, strict=True))
    says_more = (expected != np.where(hard < 0, np.uint8(255), hard.astype(np.uint8) * np.uint8(127))).any()
    rows = np.array([match.row for match in matches], np.int64)
    told = expected if says_more else None, haplotypes if phases else None, haploid if haploid.any() else None
    return Called(rows, hard, *told)
