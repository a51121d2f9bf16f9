"""Copies of a VCF with one planted fault each, and the code with which an import refuses each."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

Change = Callable[[bytes], bytes]
"""Of a compressed VCF."""


def _replacing(pattern: bytes, by: bytes) -> Change:
    """Of its text; compressed by gzip then, which an import reads as well as BGZF."""
    return lambda data: gzip.compress(re.sub(pattern, by, gzip.decompress(data)), 1, mtime=0)


FAULTS: dict[str, tuple[str, Change]] = {
    "truncated": ("VCF_TRUNCATED", lambda data: data[: len(data) * 2 // 3]),
    "empty": ("VCF_HEADER", lambda _: b""),
    "sample-twice": ("VCF_SAMPLES", _replacing(rb"FORMAT\t(\S+)\t\S+", rb"FORMAT\t\1\t\1")),
    "unsorted": ("VCF_ORDER", _replacing(rb"(#CHROM.*\n)((?:.*\n)*)(.*\n)\Z", rb"\1\3\2")),
    "allele-unknown": ("VCF_CALL", _replacing(rb"\t0/1", rb"\t0/2")),
    "unknown-contig": ("VARIANT_CONTIG", _replacing(rb"(?m)^chr\d+", rb"scaffold_7")),
}


def write_faults(intact: Path, folder: Path) -> dict[str, str]:
    """Write a copy of the VCF for each fault, and faults.json, which this returns: name -> code of the refusal."""
    folder.mkdir(parents=True)
    for name, (_, change) in FAULTS.items():
        (folder / f"{name}.vcf.gz").write_bytes(change(intact.read_bytes()))
    codes = {name: code for name, (code, _) in FAULTS.items()}
    (folder / "faults.json").write_text(json.dumps(codes, indent=2) + "\n", "utf-8")
    return codes
