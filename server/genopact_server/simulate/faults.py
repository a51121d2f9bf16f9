"""Copies of a VCF with one planted fault each, and what an import has to say of them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from genopact_server.simulate.files import write_bgzf
from genopact_shared.recipes.variants import CONTIG_LENGTHS

Line = list[str]
"""Nine fields, and the samples' as one text."""
Change = Callable[[bytes], bytes | str]
"""Of a compressed VCF; text is still to be compressed."""
_COMPLEMENT, _EXCHANGED = str.maketrans("ACGT", "TGCA"), str.maketrans("01", "10")


class Fault(NamedTuple):
    """code: of the refusal; None: the file is sound, and its calls are those of the original."""

    about: str
    code: str | None
    change: Change


def _text(change: Callable[[str], str]) -> Change:
    return lambda data: change(gzip.decompress(data).decode())


def _lines(change: Callable[[list[Line]], list[Line]]) -> Change:
    """Of the #CHROM line and all after it."""

    def of_text(text: str) -> str:
        head, mark, table = text.partition("#CHROM\t")
        lines = [line.split("\t", 9) for line in (mark + table).splitlines()]
        return head + "".join("\t".join(line) + "\n" for line in change(lines))

    return _text(of_text)


def _each(change: Callable[[Line], Line]) -> Change:
    """Of each record."""
    return _lines(lambda lines: [lines[0], *map(change, lines[1:])])


def _last(change: Callable[[str], str]) -> Change:
    """Of the samples' fields in the last record."""
    return _lines(lambda lines: [*lines[:-1], [*lines[-1][:9], change(lines[-1][9])]])


def _flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def _other_build(text: str) -> str:
    here, there = (f"<ID=chr10,length={CONTIG_LENGTHS[build]['10']}>" for build in ("GRCh38", "GRCh37"))
    return text.replace(here, there)


def _name_twice(lines: list[Line]) -> list[Line]:
    names = lines[0][9].split("\t")
    return [[*lines[0][:9], "\t".join([names[1], *names[1:]])], *lines[1:]]


def _complement(line: Line) -> Line:
    return [*line[:3], line[3].translate(_COMPLEMENT), line[4].translate(_COMPLEMENT), *line[5:]]


def _swap(line: Line) -> Line:
    return [*line[:3], line[4], line[3], *line[5:9], line[9].translate(_EXCHANGED)]


FAULTS = {
    "truncated": Fault("cut off inside a block", "VCF_TRUNCATED", lambda data: data[: len(data) * 2 // 3]),
    "no-end-block": Fault("cut off before BGZF's end block", "VCF_TRUNCATED", lambda data: data[:-28]),
    "flipped-bit": Fault("one bit of a block is another", "VCF_CORRUPT", _flip),
    "bytes-after-end": Fault("bytes follow the end block", "VCF_CORRUPT", lambda data: data + b"\0"),
    "empty": Fault("no bytes at all", "VCF_HEADER", lambda _: b""),
    "other-build": Fault("a contig is as long as in GRCh37", "VARIANT_BUILD", _text(_other_build)),
    "windows-line-ends": Fault("lines end as on Windows", "VCF_LINE_ENDS", _text(lambda x: x.replace("\n", "\r\n"))),
    "sample-twice": Fault("two samples have one name", "VCF_SAMPLES", _lines(_name_twice)),
    "no-samples": Fault("sites alone", "VCF_NO_SAMPLES", _lines(lambda lines: [line[:8] for line in lines])),
    "unsorted": Fault("the last record is the first", "VCF_ORDER", _lines(lambda x: [x[0], x[-1], *x[1:-1]])),
    "record-twice": Fault("a record comes twice", "VCF_DUPLICATE", _lines(lambda x: [*x[:2], *x[1:]])),
    "unknown-contig": Fault("no such contig", "VARIANT_CONTIG", _each(lambda line: ["scaffold_7", *line[1:]])),
    "other-strand": Fault("letters of the reverse strand", "VARIANT_BUILD", _each(_complement)),
    "allele-unknown": Fault("a call of an allele that the line lacks", "VCF_CALL", _last(lambda x: "0/2" + x[3:])),
    "cell-missing": Fault("a line has one sample too few", "VCF_RECORD", _last(lambda x: x[:-4])),
    "swapped": Fault("REF and ALT, and the calls with them, have changed places", None, _each(_swap)),
    "plain-gzip": Fault("compressed by gzip", None, lambda data: gzip.compress(gzip.decompress(data), 1, mtime=0)),
}


def write_faults(intact: Path, folder: Path) -> dict[str, Any]:
    """Write a copy of the VCF for each fault, and faults.json, which this returns: name -> what an import says."""
    folder.mkdir(parents=True)
    data = intact.read_bytes()
    for name, fault in FAULTS.items():
        path, changed = folder / f"{name}.vcf.gz", fault.change(data)
        if isinstance(changed, str):
            write_bgzf(path, changed)
        else:
            path.write_bytes(changed)
    found = {
        name: {"file": f"{name}.vcf.gz", "about": fault.about, "refused": fault.code} for name, fault in FAULTS.items()
    }
    (folder / "faults.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return found
