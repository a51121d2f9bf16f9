"""PLINK files: PREFIX.bed with PREFIX.bim and PREFIX.fam beside it; PREFIX.pgen with PREFIX.pvar and PREFIX.psam.

A .bed has neither checksum nor names: its magic and its exact size are checked, but a flipped bit inside is another
genotype, which nobody can see. Compare checksums with whoever made it. A1, column 5 of the .bim, is what code 00 counts
two copies of; here it is the alternative and A2 the reference, whichever of them the genome has. An array's strand is
unknown, so each record carries the frequency of A1.
Source: www.cog-genomics.org/plink/1.9/formats.

A .pgen has no checksum: what breaks its structure is refused, but a flipped bit inside may be another genotype, which
nobody can see. Compare checksums with whoever made it. The format does not know haploid calls. It is read by pgenlib.
Source: github.com/chrchang/plink-ng, pgen_spec and pgenlib's python_api.txt.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.findings import refusal, sound
from genopact_ingest.ploidy import FEMALE, MALE, UNKNOWN
from genopact_ingest.source import Called, Harmoniser, Match, Record
from genopact_shared.errors import GenopactError, replacing

BATCH = 256
"""Variants that are read at a time; bounds memory."""
_SITE = re.compile(r"\s*(\S+)\s+\S+\s+\S+\s+(-?\d{1,10})\s+(\S+)\s+(\S+)\s*", re.ASCII)
LETTERS = re.compile("[ACGT]+")
_SEX = {"1": MALE, "M": MALE, "2": FEMALE, "F": FEMALE}
_COPIES = np.array([2, -1, 1, 0], np.int8)[np.arange(256)[:, None] >> np.arange(0, 8, 2) & 3].view(np.int32)[:, 0]
"""(256,): copies of A1 in the four calls of a byte, -1 missing, as four int8."""
_OTHER = np.array([2, 1, 0, -1], np.int8)
"""Copies of the other allele; index -1 is the last, so missing stays missing."""
Calls = tuple[NDArray[np.int8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]
"""(n,) each of one variant: dosages, expected dosages, haplotypes, haploid, as of `Called`."""


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

    def _calls(self, index: int, site: Record, match: Match) -> Calls:
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
