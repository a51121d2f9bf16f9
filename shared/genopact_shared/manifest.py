"""The variant manifest: which V variants are the features of a study, in which order, and which allele is counted.

A text that people read and compare, in one canonical encoding (ASCII, tabs, a line end after each line):

    ##format=genopact.variants/1
    ##name=breast-77
    ##version=1
    ##build=GRCh38
    ##reference=<SHA-256 of the reference's sequences, or .>
    ##frequencies=<where they come from, or .>
    #chrom pos ref alt effect frequency id gene block class

then one line a variant, ordered by contig, pos, ref, alt. Columns af_<group>, pc<k>, weight may follow, in this order.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopact_shared import canonical, dsse, durable
from genopact_shared.alleles import CONTIGS
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.keys import SigningKey, VerifyKey

FORMAT = "genopact.variants/1"
TYPE = "application/vnd.genopact.variants+json"
FIXED = ("chrom", "pos", "ref", "alt", "effect", "frequency", "id", "gene", "block", "class")
_HEAD = {
    "format": re.escape(FORMAT),
    "name": r"[a-z0-9][a-z0-9._-]{0,63}",
    "version": r"[1-9][0-9]{0,8}",
    "build": r"[A-Za-z0-9._-]{1,32}",
    "reference": r"[0-9a-f]{64}|\.",
    "frequencies": r"[!-~]([ -~]{0,198}[!-~])?",
}
_EXTRA = re.compile(r"(af_[a-z0-9]{1,16})|pc([1-9][0-9]?)|weight")
_KINDS = {(name, "autosome") for name in CONTIGS[:22]} | {("MT", "mt")}
_KINDS |= {("X", "x"), ("X", "par"), ("Y", "y"), ("Y", "par")}


@dataclass(frozen=True, eq=False)
class VariantManifest:
    """V variants in the order of the features; `.` in a text column is "none".

    Attributes:
        reference: SHA-256 of the reference's sequences; "." if ref and alt were not compared with any.
        chrom: (V,) names of CONTIGS.
        pos: (V,) int64, from 1.
        ref: (V,) letters of ACGT, on the forward strand.
        alt: (V,) the same; with `pos` and `ref` in the fewest letters, left-aligned if `reference` is known.
        effect: (V,) "ref" or "alt": the allele that dosages count.
        frequency: (V,) float64 of the effect allele, in millionths; NaN unknown.
        id: (V,) names for people, never a key.
        gene: (V,).
        block: (V,) names of linkage blocks.
        kind: (V,) autosome, x, y, mt or par (the column `class`).
        extra: columns (V,) float64: af_<group> as frequency; pc<k> (loadings) and weight with 9 digits; NaN unknown.

    Raises:
        GenopactError: MANIFEST_INVALID.
    """

    name: str
    version: int
    build: str
    reference: str
    frequencies: str
    chrom: tuple[str, ...]
    pos: NDArray[np.int64]
    ref: tuple[str, ...]
    alt: tuple[str, ...]
    effect: tuple[str, ...]
    frequency: NDArray[np.float64]
    id: tuple[str, ...]
    gene: tuple[str, ...]
    block: tuple[str, ...]
    kind: tuple[str, ...]
    extra: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, pattern in _HEAD.items():
            _require(re.fullmatch(pattern, self.head[name]), f"the head's {name}")
        _require(all(map(_EXTRA.fullmatch, self.extra)), "an unknown column")
        vars(self)["extra"] = {name: _rounded(name, self.extra[name]) for name in sorted(self.extra, key=_place)}
        vars(self)["frequency"] = _rounded("frequency", self.frequency)
        vars(self)["pos"] = _frozen(self.pos.astype(np.int64, casting="safe"))
        _require(len(self) and len({len(column) for _, column in self._columns()}) == 1, "columns of one length")
        _require(set(zip(self.chrom, self.kind, strict=True)) <= _KINDS, "a contig or its class")
        _require(set(self.effect) <= {"ref", "alt"}, "an effect that is neither ref nor alt")
        for column in (self.ref, self.alt):
            _require(_each(r"[ACGT]+", column), "an allele")
        for column in (self.id, self.gene, self.block):
            _require(_each(r"[!-~]+", column), "an id, a gene or a block")
        self._require_sites()

    def _require_sites(self) -> None:
        """In order, in the fewest letters; at one position all `ref` are beginnings of one sequence."""
        contig = np.array([_ORDER[name] for name in self.chrom])
        step, along = np.diff(contig), np.diff(self.pos)
        _require(self.pos.min() > 0 and bool(((step > 0) | ((step == 0) & (along >= 0))).all()), "the order")
        alleles = list(zip(self.ref, self.alt, strict=True))
        for at in np.flatnonzero((step == 0) & (along == 0)).tolist():
            _require(alleles[at] < alleles[at + 1], f"a variant twice or out of order: row {at + 1}")
            _require(alleles[at + 1][0].startswith(alleles[at][0]), f"two references at one position: row {at + 1}")
        for (ref, alt), pos in zip(alleles, self.pos.tolist(), strict=True):
            if len(ref) + len(alt) > 2:
                short = min(len(ref), len(alt)) == 1
                same = (ref[0] == alt[0] and not short) or (ref[-1] == alt[-1] and (pos > 1 or not short))
                _require(ref != alt and not same, f"more letters than needed at {pos}")
            else:
                _require(ref != alt, f"one allele at {pos}")

    def __len__(self) -> int:
        return len(self.chrom)

    @property
    def head(self) -> dict[str, str]:
        """The lines before the table."""
        return {name: str(getattr(self, name, FORMAT)) for name in _HEAD}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file: the manifest's identity."""
        return canonical.digest(self.encode())

    @property
    def facts(self) -> dict[str, Any]:
        """What is signed."""
        about = {"format": FORMAT, "name": self.name, "version": self.version, "build": self.build}
        return about | {"variants": len(self), "digest": self.digest}

    def encode(self) -> bytes:
        """The file."""
        head = [f"##{name}={value}" for name, value in self.head.items()]
        names = "#" + "\t".join((*FIXED, *self.extra))
        rows = map("\t".join, zip(*(_texts(*named) for named in self._columns()), strict=True))
        return "\n".join([*head, names, *rows, ""]).encode("ascii")

    def sign(self, key: SigningKey) -> bytes:
        """The envelope that lies beside the file, as `<file>.dsse`."""
        return dsse.sign(TYPE, canonical.encode(self.facts), key)

    def _columns(self) -> Iterator[tuple[str, Sequence[Any] | NDArray[Any]]]:
        for name in FIXED:
            yield name, getattr(self, "kind" if name == "class" else name)
        yield from self.extra.items()


def parse(data: bytes) -> VariantManifest:
    """The manifest of a file. Raises MANIFEST_INVALID for everything that `encode` does not write."""
    malformed = ValueError, KeyError, IndexError, OverflowError
    with replacing(malformed, GenopactError("MANIFEST_INVALID", "not a table of variants")):
        lines = data.decode("ascii").split("\n")
        head = dict(line.removeprefix("##").split("=", 1) for line in lines[: len(_HEAD)])
        names = lines[len(_HEAD)].removeprefix("#").split("\t")
        cells = "\t".join(lines[len(_HEAD) + 1 : -1]).split("\t")
        table = {name: tuple(cells[at :: len(names)]) for at, name in enumerate(names)}
        chrom, pos, ref, alt, effect, frequency, id_, gene, block, kind = (table.pop(name) for name in FIXED)
        manifest = VariantManifest(
            head["name"], int(head["version"]), head["build"], head["reference"], head["frequencies"],
            chrom, np.array(list(map(int, pos)), np.int64), ref, alt, effect, _numbers(frequency),
            id_, gene, block, kind, {name: _numbers(column) for name, column in table.items()},
        )  # fmt: skip
    _require(manifest.encode() == data, "not in canonical form")
    vars(manifest)["digest"] = canonical.digest(data)
    return manifest


def load(path: Path, keys: Iterable[VerifyKey]) -> VariantManifest:
    """The manifest at `path`, if `<path>.dsse` is one of these keys' signature of exactly this file.

    Raises:
        GenopactError: MANIFEST_MISSING, MANIFEST_INVALID, ENVELOPE_INVALID, SIGNATURE_INVALID.
    """
    data = durable.read(path, "MANIFEST_MISSING")
    envelope = durable.read(path.with_name(path.name + ".dsse"), "MANIFEST_MISSING")
    signed = canonical.decode(dsse.verify(envelope, TYPE, keys))
    _require(isinstance(signed, dict) and signed.get("digest") == canonical.digest(data), "another file was signed")
    manifest = parse(data)
    _require(signed == manifest.facts, "other facts were signed")
    return manifest


_ORDER = {name: at for at, name in enumerate(CONTIGS)}


def _require(holds: object, what: str) -> None:
    require(holds, "MANIFEST_INVALID", what)


def _each(pattern: str, column: Sequence[str]) -> bool:
    text = "\n".join(column)
    return re.fullmatch(rf"{pattern}(\n{pattern})*", text) is not None and text.count("\n") == len(column) - 1


def _place(column: str) -> tuple[bool, bool, int, str]:
    """Where a further column stands: af_ by name, pc by number, weight."""
    return column == "weight", column.startswith("pc"), int(column[2:]) if column.startswith("pc") else 0, column


def _is_share(column: str) -> bool:
    return column.startswith(("af_", "frequency"))


def _numbers(texts: Sequence[str]) -> NDArray[np.float64]:
    return np.array([float(text) if text != "." else np.nan for text in texts])


def _rounded(name: str, column: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers that the file can hold, next to these."""
    _require(not np.isinf(column).any(), f"infinity in {name}")
    if not _is_share(name):
        return _frozen(np.array([float(f"{each:.8e}") for each in column.tolist()]) + 0.0)  # no -0
    _require(not ((column < 0) | (column > 1)).any(), f"{name} outside 0 to 1")
    return _frozen(np.rint(column * 1e6) / 1e6 + 0.0)


def _frozen(column: NDArray[Any]) -> NDArray[Any]:
    column.flags.writeable = False
    return column


def _texts(name: str, column: Sequence[str] | NDArray[Any]) -> Iterable[str]:
    """A column's cells."""
    if isinstance(column, np.ndarray):
        if name == "pos":
            return map(str, column.tolist())
        form = ".6f" if _is_share(name) else ".8e"
        return ["." if each != each else format(each, form) for each in column.tolist()]
    return column
