"""PLINK 1 files: PREFIX.bed with PREFIX.bim and PREFIX.fam beside it.

A .bed has neither checksum nor names: its magic and its exact size are checked, but a flipped bit inside is another
genotype, which nobody can see. Compare checksums with whoever made it. A1, column 5 of the .bim, is what code 00 counts
two copies of; here it is the alternative and A2 the reference, whichever of them the genome has. An array's strand is
unknown, so each record carries the frequency of A1.
Source: www.cog-genomics.org/plink/1.9/formats.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.findings import refusal, sound
from genopact_ingest.ploidy import FEMALE, MALE, UNKNOWN
from genopact_ingest.source import Called, Harmoniser, Record
from genopact_shared.errors import replacing

BATCH = 256
"""Variants that are read at a time; bounds memory."""
_SITE = re.compile(r"\s*(\S+)\s+\S+\s+\S+\s+(-?\d{1,10})\s+(\S+)\s+(\S+)\s*", re.ASCII)
LETTERS = re.compile("[ACGT]+")
_SEX = {"1": MALE, "M": MALE, "2": FEMALE, "F": FEMALE}
_COPIES = np.array([2, -1, 1, 0], np.int8)[np.arange(256)[:, None] >> np.arange(0, 8, 2) & 3].view(np.int32)[:, 0]
"""(256,): copies of A1 in the four calls of a byte, -1 missing, as four int8."""
_OTHER = np.array([2, 1, 0, -1], np.int8)
"""Copies of the other allele; index -1 is the last, so missing stays missing."""


class LocalFiles:
    """Files that belong together, in their order."""

    _paths: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the files, one after another."""
        return digest_of(*self._paths)


class PlinkFile(LocalFiles):
    """A `Source` of hard calls without phases.

    Variants without a place (chromosome or position 0, or a negative one) and variants without an A2 are left out and
    counted in `notes`. For `samples` and `sex` see `people`.
    """

    forward = False
    """Its letters may be of either strand."""

    def __init__(self, path: Path) -> None:
        """Opens PREFIX.bed.

        Raises:
            ImportRefusedError: GENOTYPES_UNREADABLE, GENOTYPES_LINE, GENOTYPES_SAMPLES, PLINK_SAMPLE_MAJOR, PLINK_SIZE.
        """
        self._paths = tuple(path.with_suffix(suffix) for suffix in (".bed", ".bim", ".fam"))
        self.notes = Counter[str]()
        self.samples, self.sex = people(self._paths[2])
        self._stride = -(-len(self.samples) // 4)
        with regular(path).open("rb") as file:
            magic = file.read(3)
        sound(magic != b"\x6c\x1b\x00", "PLINK_SAMPLE_MAJOR")
        sound(magic == b"\x6c\x1b\x01", "GENOTYPES_UNREADABLE", "(not a PLINK 1 file)", column=".bed")
        sound(path.stat().st_size == 3 + self._stride * sum(1 for _ in lines(self._paths[1])), "PLINK_SIZE")

    def batches(self, harmoniser: Harmoniser) -> Iterator[Called]:
        """As in `Source`; at most BATCH variants each."""
        self.notes.clear()
        bed, bim, _ = self._paths
        numbered = enumerate(lines(bim), start=1)
        with bed.open("rb") as file:
            file.seek(3)
            while sites := list(islice(numbered, BATCH)):
                calls = np.fromfile(file, np.uint8, len(sites) * self._stride)
                sound(calls.size >= len(sites) * self._stride, "PLINK_SIZE")
                if called := self._batch(sites, calls.reshape(-1, self._stride), harmoniser):
                    yield called

    def _batch(self, sites: list[tuple[int, str]], calls: NDArray[np.uint8], harmoniser: Harmoniser) -> Called | None:
        """calls: (k, stride) packed; the last byte of each row is padded."""
        n = len(self.samples)
        if n % 4:
            used = (1 << 2 * (n % 4)) - 1
            calls[:, -1] = calls[:, -1] & used | 0x55 & ~used  # what pads is missing, whatever it was
        found = [self._record(*site, frequency) for site, frequency in zip(sites, _frequencies(calls), strict=True)]
        kept = [at for at, record in enumerate(found) if record]
        matches = harmoniser.match([record for record in found if record])
        if not matches:
            return None
        copies = _COPIES.take(calls[[kept[match.record] for match in matches]]).view(np.int8)[:, :n]
        other = np.array([match.allele == 0 for match in matches])
        copies[other] = _OTHER[copies[other]]
        return Called(np.array([match.row for match in matches], np.int64), np.ascontiguousarray(copies))

    def _record(self, row: int, line: str, frequency: float | None) -> Record | None:
        match = _SITE.fullmatch(line)
        if not match:
            raise refusal("GENOTYPES_LINE", "(six columns are expected)", row, ".bim")
        chrom, position, a1, a2 = match[1], int(match[2]), match[3].upper(), match[4].upper()
        if any(allele != "0" and not LETTERS.fullmatch(allele) for allele in (a1, a2)):
            raise refusal("GENOTYPES_ALLELES", row=row, column=".bim")
        if a1 == a2 != "0" or (a1 == "0" and frequency):
            raise refusal("GENOTYPES_ALLELES", "(A1 is missing but called, or equals A2)", row, ".bim")
        if chrom == "0" or position < 1 or a2 == "0":
            self.notes["without_place" if a2 != "0" else "without_reference"] += 1
            return None
        return Record(chrom, position, a2, (a1,) if a1 != "0" else (), frequency)


def _frequencies(calls: NDArray[np.uint8]) -> list[float | None]:
    """Share of A1 among the called alleles of each row of (k, stride) packed calls; None if nobody is called."""
    high = calls >> 1
    codes = (~(calls | high), high & ~calls, calls & high)
    a1, both, a2 = (np.bitwise_count(code & 0x55).sum(axis=1, dtype=np.int64) for code in codes)
    counts = zip((2 * a1 + both).tolist(), (2 * (a1 + both + a2)).tolist(), strict=True)
    return [copies / whole if whole else None for copies, whole in counts]


def people(path: Path) -> tuple[tuple[str, ...], NDArray[np.int8]]:
    """The samples of a .fam or .psam, and their sex (n,) int8 as in `ploidy`.

    A sample is called by its IID, or by FID_IID if an IID occurs twice.
    """
    header, rows = ["FID", "IID", "PAT", "MAT", "SEX", "PHENO1"], list[dict[str, str]]()
    for number, line in enumerate(lines(path), start=1):
        cells = line.split()
        if line.startswith("#") and not rows:
            header = header if line.startswith("##") else [cells[0][1:], *cells[1:]]
        elif len(cells) != len(header) or "IID" not in header:
            raise refusal("GENOTYPES_LINE", f"({len(header)} columns are expected)", number, path.suffix)
        else:
            rows.append(dict(zip(header, cells, strict=True)))
    names = [row["IID"] for row in rows]
    if len(set(names)) < len(names):
        names = [f"{row.get('FID', '')}_{row['IID']}" for row in rows]
    return sample_names(names), np.array([_SEX.get(row.get("SEX", "").upper(), UNKNOWN) for row in rows], np.int8)


def sample_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, NFC, each once."""
    found = tuple(unicodedata.normalize("NFC", name.strip()) for name in names)
    sound(len(set(found)) == len(found) > 0 and {"", "0"}.isdisjoint(found), "GENOTYPES_SAMPLES")
    return found


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file of sites or samples, each of which must be whole."""
    unreadable = refusal("GENOTYPES_UNREADABLE", column=path.suffix)
    with replacing((OSError, UnicodeDecodeError), unreadable), regular(path).open(encoding="utf-8") as file:
        for row, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                raise refusal("GENOTYPES_LINE", "(it has no end: the file is cut off)", row, path.suffix)
            yield line


def regular(path: Path) -> Path:
    """The path, if it is a regular local file: a pipe would block."""
    sound(path.is_file(), "GENOTYPES_UNREADABLE", "(not a regular local file)", column=path.suffix)
    return path


def digest_of(*paths: Path) -> str:
    """SHA-256 of one or more files, as sha256sum shows it of their concatenation."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()
