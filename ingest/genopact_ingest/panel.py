"""Dosages of the recipe's few variants out of a VCF, with checks of our own.

The file is plain text or BGZF (whose last block shows that it is whole). Each line's shape is checked; a record counts
for a variant if its chromosome, position and letters do; identifiers are only a cross-check. Not a two-allele diploid
call, a call outside PASS, or an allele such as `*` is missing (-1); an absent record is missing, not the reference.
Limits: VCF 4.0-4.5 (SAMtools/hts-specs), substitutions, no gVCF blocks; no FASTA is read, so REF is compared at the
wanted sites only.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_ingest import genotypes
from genopact_ingest.bgzf import HEAD, lines
from genopact_ingest.findings import Fault, ImportRefusedError, refusal, require
from genopact_ingest.header import FORMAT_LINE, sample_columns
from genopact_ingest.vcf import header_lines
from genopact_shared.alleles import other_strand
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.table import Dosage
from genopact_shared.recipes.variants import CONTIG_LENGTHS, VARIANTS, Build, Variant

_BASES = frozenset("ACGT")
_CONTIG = re.compile(r"##contig=<(?:.*,)?ID=(?:chr)?(\w+),(?:.*,)?length=(\d+)[,>]", re.ASCII)
_SITE = re.compile(
    r"(?:<[^\s<>]+>|[\w!#$%&+./:;?@^|~-][\w!#$%&*+./:;=?@^|~-]*)\t"  # CHROM
    r"(?:0|[1-9]\d*)\t[^\s]+\t[ACGTNacgtn]+\t"  # POS ID REF
    r"(?:\.|[^\s,]+(?:,[^\s,]+)*)\t"  # ALT
    r"(?:\.|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:inf|Inf|nan|NaN))\t"  # QUAL
    r"[^\s]+\t[^\t]+\t[^\s]+",  # FILTER INFO FORMAT
    re.ASCII,
)


class Calls(NamedTuple):
    """What a VCF says: sample names (NFC) in file order, (n,) int8 dosages for each column that it has, -1 missing.

    `notes`: counts for the site's report, such as calls outside PASS.
    """

    samples: tuple[str, ...]
    dosages: dict[str, NDArray[np.int8]]
    build: Build
    digest: str
    notes: Counter[str]


def read_vcf(path: Path, wanted: Sequence[Dosage], build: Build | None = None) -> Calls:
    """The dosages of the wanted variants.

    Args:
        path: a local regular file.
        wanted: the recipe's dosage columns.
        build: the reference's build; None: by the contig lengths of the header.

    Raises:
        ImportRefusedError: with the first fault and its line; no partial answer.
        GenopactError: VARIANT_UNKNOWN.
    """
    if unknown := [column.name for column in wanted if column.rsid not in VARIANTS]:
        raise GenopactError("VARIANT_UNKNOWN", ", ".join(unknown))
    digest, number = hashlib.sha256(), 0
    try:
        _refuse_gzip(path)
        with closing(lines(path, digest)) as text:
            header, rest = header_lines(text)
            if not header or not FORMAT_LINE.fullmatch(header[0]):
                raise Fault("VCF_HEADER", "(the first line is ##fileformat=VCFv4.x)", line=0)
            number = len(header)
            reader = _Reader(header, wanted, build)
            for chunk in chain([rest], text):
                for line in bytes(chunk).decode().split("\n")[:-1]:
                    number += 1
                    reader.record(line)
        return Calls(reader.samples, reader.dosages, reader.build, digest.hexdigest(), reader.notes)
    except Fault as fault:
        row = number or None if fault.line is None else fault.line + 1
        raise ImportRefusedError((fault.at(row),)) from fault
    except (OSError, UnicodeDecodeError) as error:
        raise refusal("VCF_UNREADABLE", "(not UTF-8)" * isinstance(error, UnicodeDecodeError)) from error


def _refuse_gzip(path: Path) -> None:
    """BGZF shows by its last block that it is whole; gzip that was cut between two members cannot."""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(len(HEAD))
        require(head[:2] != HEAD[:2] or head == HEAD, "VCF_NOT_BGZF")


class _Reader:
    """Takes a VCF's records line by line."""

    def __init__(self, header: list[str], wanted: Sequence[Dosage], build: Build | None) -> None:
        self.samples, self.notes = sample_columns(header[-1]), Counter[str]()
        require(self.samples, "VCF_NO_SAMPLES")
        self.build: Build = _build({match[1]: int(match[2]) for match in map(_CONTIG.match, header) if match}, build)
        self.dosages: dict[str, NDArray[np.int8]] = {}
        self._wanted = {column.rsid: column for column in wanted}
        variants = [VARIANTS[rsid] for rsid in self._wanted]
        self._sites = {(variant.chrom, str(variant.positions[self.build])): variant for variant in variants}

    def record(self, line: str) -> None:
        """One line without its end."""
        require(not line.endswith("\r"), "VCF_LINE_ENDS")
        require(line.count("\t") == 8 + len(self.samples), "VCF_RECORD", f"(expected {9 + len(self.samples)} fields)")
        match = _SITE.match(line)
        if not match or line[match.end()] != "\t":
            raise Fault("VCF_RECORD", "(one of CHROM to FORMAT is malformed)")
        site = match[0].split("\t")
        variant = self._sites.get((site[0].removeprefix("chr"), site[1]))
        if variant is not None:
            self._take(variant, site, f"{line[match.end() + 1 :]}\n".encode())
        elif not self._wanted.keys().isdisjoint(site[2].split(";")):
            raise Fault("VCF_BUILD", f"(a wanted variant lies elsewhere than on {self.build})", "POS")

    def _take(self, variant: Variant, site: list[str], cells: bytes) -> None:
        """The dosages of a record at a wanted position."""
        column = self._wanted[variant.rsid]
        ref, alt, passed, form = site[3].upper(), site[4].upper(), site[6], site[8]
        if len(ref) > 1:
            self.notes["other_records"] += 1  # a deletion that starts here says nothing about the substitution
            return
        require(column.name not in self.dosages, "VCF_TWICE", column=column.name)
        require(form.split(":")[0] == "GT", "VCF_NO_GENOTYPES", column=column.name)
        alleles = _forward([ref, *alt.split(",")] if alt != "." else [ref], variant, column.name)
        if alleles[0] != ref or ref != variant.ref:
            self.notes["exchanged_or_flipped"] += 1
        # 1 for the effect allele, 0 for another base, -1 for anything else, such as `*`
        copies = np.array([int(one == column.effect) if one in _BASES else -1 for one in alleles], np.int8)
        try:
            called = genotypes.calls(0, memoryview(cells), copies, form.count(":") + 1, len(self.samples))
        except Fault as fault:
            raise Fault(fault.code, fault.detail, column.name) from fault
        dosages = np.where(called[2], np.int8(-1), called[0])  # a call of one allele is missing
        if passed not in {"PASS", "."}:
            self.notes["not_pass"] += 1
            dosages[:] = -1
        self.dosages[column.name] = dosages


def _build(lengths: dict[str, int], declared: Build | None) -> Build:
    """The build that the header's contig lengths show, which must not contradict the declared one."""
    shown: set[Build] = {build for build, known in CONTIG_LENGTHS.items() if known.items() & lengths.items()}
    other = any(lengths.get(chrom, length) != length for chrom, length in CONTIG_LENGTHS["GRCh38"].items())
    builds: set[Build] = {*shown, declared} if declared else shown
    require(len(builds) < 2 and (shown or not other), "VCF_BUILD", "(contig lengths)")
    require(builds, "VCF_BUILD", "(no contig lengths in the header: declare the build)")
    return builds.pop()


def _forward(alleles: list[str], variant: Variant, column: str) -> list[str]:
    """The record's alleles on the forward strand.

    REF equal to the reference: forward. REF the other letter: REF and ALT were exchanged. Letters of the other strand:
    complemented. Where the letters fit both readings (C/G, A/T) only the first is accepted.
    """
    require({"<NON_REF>", "<*>"}.isdisjoint(alleles), "VCF_GVCF", column=column)
    unique = len(set(alleles)) == len(alleles)
    if unique and alleles[0] == variant.ref:
        return alleles
    if unique and not variant.palindromic:
        if alleles[0] == variant.alt and variant.ref in alleles:
            return alleles
        flipped = [other_strand(allele) if len(allele) == 1 else allele for allele in alleles]
        if set(flipped) == {variant.ref, variant.alt}:
            return flipped
    raise Fault("VCF_ALLELES", column=column)
