"""A VCF or BCF as a source of dosages, in one pass over its lines.

Text is BGZF, gzip or plain. A BCF's blocks are checked, then htslib writes it as text, in a process of its own. Records
outside the FILTER allow-list are missing, and so are absent ones. Whether a manifest wants it or not, each line has its
number of columns and each line of calls alone has well-formed calls; `checks` adds the rest of the specification. gVCF
blocks refuse the file: a block is not a call.
Limits: VCF 4.0-4.5 (SAMtools/hts-specs).
"""

import hashlib
import io
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import lru_cache
from itertools import chain
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, NamedTuple, cast

import numpy as np

from genopact_ingest import bgzf, genotypes
from genopact_ingest.checks import Checks
from genopact_ingest.findings import Fault, ImportRefusedError, refuse, require, sound
from genopact_ingest.header import parse
from genopact_ingest.plink import digest_of
from genopact_ingest.source import Called, Harmoniser, Record
from genopact_shared.errors import replacing

_LETTERS = frozenset("ACGTacgt")
_READ = 1 << 20
_BLOCKS = frozenset({"<NON_REF>", "<*>"})
_TO_TEXT = "import sys, pysam.bcftools as b; b.view('--no-version', '-Ov', '-o', '-', sys.argv[1], catch_stdout=False)"


class _Hit(NamedTuple):
    """A match: the line of its chunk, and of `Match` and `Record` what is read there."""

    line: int
    row: int
    allele: int
    alts: tuple[str, ...]


class VcfFile:
    """A `Source`. A batch is what about 2 MB of text hold.

    notes: counts of the last pass: records, not_pass, matched, and genotypes.TALLY of matched records.
    """

    def __init__(
        self, path: Path, *, checks: Checks | None = None, passed: frozenset[str] = frozenset({"PASS", "."}),
        phases: bool = False, expected: bool = False,
    ) -> None:  # fmt: skip
        """Reads the header.

        Args:
            path: a local regular file.
            checks: takes every line of one pass; what it finds refuses the file.
            passed: FILTER names; a record counts if all of its own are among them.
            phases: `Called.haplotypes` is wanted.
            expected: `Called.expected` is wanted, where the file has DS with one value for each ALT.

        Raises:
            ImportRefusedError: with the fault and its place.
        """
        self.notes, self._digest = Counter[str](), ""
        self._path, self._checks, self._passed, self._phases = path.absolute(), checks, passed, phases
        try:
            with closing(bgzf.blocks(self._path)) as blocks:
                self._binary = bytes(next(blocks, memoryview(b""))[:3]) == b"BCF"
            with closing(self._text(hashlib.sha256())) as text:
                self._header, _ = header_lines(text)
        except Fault as fault:
            raise _refusal(fault, 1) from fault
        header = checks.header(self._header) if checks else parse(self._header)
        refuse(header.findings)
        sound(header.samples, "VCF_NO_SAMPLES", row=len(self._header))
        self.samples, self.contigs = header.samples, header.contigs
        defined = header.formats.get("DS")
        self._dosages = defined.number if expected and defined and defined.number in {"1", "A"} else ""

    @property
    def digest(self) -> str:
        """SHA-256 of the file's bytes."""
        self._digest = self._digest or digest_of(self._path)
        return self._digest

    def batches(self, harmoniser: Harmoniser) -> Iterator[Called]:
        """As in `Source`. The file must not change between opening and the last batch: VCF_CHANGED."""
        self.notes.clear()
        digest, number = hashlib.sha256(), 1
        try:
            with closing(self._text(digest)) as text:
                header, rest = header_lines(text)
                require(header == self._header, "VCF_CHANGED")
                number += len(header)
                for chunk in chain([rest], text):
                    places = genotypes.places(np.frombuffer(chunk, np.uint8), len(self.samples))
                    if called := self._batch(chunk, places, number, harmoniser):
                        yield called
                    number += len(places.ends)
            require(self._digest in {"", digest.hexdigest()}, "VCF_CHANGED")
            self._digest = digest.hexdigest()
        except Fault as fault:
            raise _refusal(fault, number) from fault

    def _text(self, digest: bgzf.Digest) -> Generator[memoryview]:
        """Chunks of whole lines."""
        if not self._binary:
            yield from bgzf.lines(self._path, digest=digest)
        else:
            for _ in bgzf.blocks(self._path, digest=digest):
                pass
            with closing(_as_text(self._path)) as chunks:
                yield from bgzf.whole_lines(chunks)

    def _batch(self, chunk: memoryview, places: genotypes.Places, number: int, harmoniser: Harmoniser) -> Called | None:
        """The matched records of a chunk whose first line is line `number` of the file."""
        records, lines, forms = list[Record](), list[int](), dict[int, str]()
        for line, (text, plain) in enumerate(zip(places.text.split("\n"), places.plain.tolist(), strict=False)):
            fields = text.split("\t")
            chrom, pos, _, ref, alt, _, passed, _, form = fields
            if self._checks:
                self._checks.record(number + line, fields)
            if "<" in alt and not _BLOCKS.isdisjoint(alt.split(",")):
                raise Fault("VCF_GVCF", line=line)
            if not (pos.isascii() and pos.isdigit() and len(pos) <= 10):
                raise Fault("VCF_RECORD", "(POS)", line=line)
            alts = _alts(alt)
            if not plain:
                forms[line] = form
                cells = chunk[places.cells[line] : places.ends[line] + 1]
                if form == "GT":
                    genotypes.calls(line, cells, np.zeros(len(alts) + 1, np.int8), 1, len(self.samples))
                elif self._checks:
                    self._checks.cells(number + line, form, cells[:-1], len(alts))
            if passed in self._passed or self._passed.issuperset(passed.split(";")):
                records.append(Record(chrom, int(pos), ref, alts))
                lines.append(line)
        refuse(self._checks.finish() if self._checks else ())
        matches = harmoniser.match(records)
        whole, matched = len(places.ends), len({match.record for match in matches})
        self.notes.update(records=whole, not_pass=whole - len(records), matched=matched)
        hits = [_Hit(lines[record], row, allele, records[record].alts) for record, row, allele in matches]
        return self._called(chunk, places, hits, forms) if hits else None

    def _called(self, chunk: memoryview, places: genotypes.Places, hits: list[_Hit], forms: dict[int, str]) -> Called:
        """forms: FORMAT of the lines that are not plain."""
        line, row, allele = np.ascontiguousarray(np.array([hit[:3] for hit in hits], np.int64).T)
        shape, plain = (len(hits), len(self.samples)), places.plain[line] == 1
        expected = np.full(shape, 255, np.uint8) if self._dosages else None
        carried = np.empty(shape, np.uint8) if self._phases else None
        haploid = None if plain.all() else np.zeros(shape, np.bool_)
        called = Called(row, np.empty(shape, np.int8), expected, carried, haploid)
        effect, absent = np.where(allele < 10, allele, 15), [_absent(hit.alts) for hit in hits]
        plan = np.stack([places.cells[line], np.arange(len(plain)), effect, absent])[:, plain]
        haplotypes = np.empty((0, 0), np.uint8) if carried is None else carried
        data = np.frombuffer(chunk, np.uint8)
        self.notes["half_calls"] += genotypes.plain_calls(data, plan, called.dosages, haplotypes)
        for at in np.flatnonzero(~plain).tolist():
            cells = chunk[places.cells[line[at]] : places.ends[line[at]] + 1]
            self._other(called, at, hits[at], forms[hits[at].line].split(":"), cells)
        return called._replace(haploid=None) if called.haploid is not None and not called.haploid.any() else called

    def _other(self, called: Called, at: int, hit: _Hit, keys: list[str], cells: memoryview) -> None:
        """Fills row `at` from a line that is not plain; `keys` of its FORMAT."""
        n, alts = len(self.samples), len(hit.alts)
        dosages, haplotypes, haploid = np.full(n, -1, np.int8), np.zeros(n, np.uint8), np.zeros(n, np.bool_)
        if keys[0] == "GT":
            copies = [int(index == hit.allele) if real else -1 for index, real in enumerate(_real(hit.alts))]
            read = genotypes.calls(hit.line, cells, np.array(copies, np.int8), len(keys), n)
            dosages, haplotypes, haploid, tally = read
            self.notes.update(dict(zip(genotypes.TALLY, tally.tolist(), strict=True)))
        elif called.expected is None or "DS" not in keys:
            raise Fault("VCF_NO_GENOTYPES", line=hit.line)
        called.dosages[at] = dosages
        if "PS" in keys:  # phases hold within a set, and sets are not compared
            haplotypes = np.where(dosages == 1, 0, haplotypes).astype(np.uint8)
        if called.haplotypes is not None:
            called.haplotypes[at] = haplotypes
        if called.haploid is not None:
            called.haploid[at] = haploid
        if called.expected is not None and "DS" in keys and (self._dosages == "A" or alts == 1):
            where = keys.index("DS"), alts, hit.allele - 1
            called.expected[at] = genotypes.expected(hit.line, cells, where, haploid)


def header_lines(text: Iterator[memoryview]) -> tuple[list[str], memoryview]:
    """The lines up to #CHROM, and what follows them in their last chunk."""
    lines = list[str]()
    for chunk in text:
        data = io.BytesIO(chunk)
        for line in data:
            with replacing(UnicodeDecodeError, Fault("VCF_UNREADABLE", "(not UTF-8)", line=len(lines))):
                lines.append(line.decode().removesuffix("\n"))
            require(not line.endswith(b"\r\n"), "VCF_LINE_ENDS", line=len(lines) - 1)
            if not line.startswith(b"##"):
                return lines, data.getbuffer().toreadonly()[data.tell() :]
    return lines, memoryview(b"")


def _as_text(path: Path) -> Generator[bgzf.Chunk]:
    """A BCF by htslib. What it says on stderr names samples and is dropped."""
    command = [sys.executable, "-I", "-c", _TO_TEXT, str(path)]
    with Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL) as process:
        try:
            while data := cast("IO[bytes]", process.stdout).read(_READ):
                yield data, 0, len(data)
            process.wait()
        finally:
            process.kill()
    require(process.returncode == 0, "VCF_UNREADABLE", "(htslib cannot read this BCF)")


def _refusal(fault: Fault, first: int) -> ImportRefusedError:
    """first: the number of the chunk's first line."""
    return ImportRefusedError((fault.at(None if fault.line is None else first + fault.line),))


@lru_cache(1024)
def _alts(text: str) -> tuple[str, ...]:
    return () if text == "." else tuple(text.split(","))


@lru_cache(1024)
def _real(alts: tuple[str, ...]) -> tuple[bool, ...]:
    """By allele index: it is letters, unlike `*`, symbolic alleles and breakends."""
    return (True, *(_LETTERS.issuperset(alt) for alt in alts))


@lru_cache(1024)
def _absent(alts: tuple[str, ...]) -> int:
    """The alleles that make a plain call missing, as bits."""
    return sum(1 << index for index, real in enumerate(_real(alts)[:10]) if not real)
