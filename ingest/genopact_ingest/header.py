"""The header of a VCF: what it defines, and every rule that it breaks.

Source: VCF 4.1-4.5 (SAMtools/hts-specs); what is a list there is a list in vcf.toml. 4.0 is read as 4.1.
Tolerated, because call sets that hospitals hold have them: the definitions that vcf.toml names, one ID defined twice
alike, header lines of other kinds in any form `##key=value`, contig names with `*` or `:` (GRCh38's HLA contigs).
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, NamedTuple

from genopact_ingest.findings import Fault, Finding, require

RULES: dict[str, Any] = tomllib.loads(resources.files("genopact_ingest").joinpath("vcf.toml").read_text("utf-8"))
_COLUMNS = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
FORMAT_LINE = re.compile(r"##fileformat=VCFv4\.([0-5])")
_FIELD = re.compile(r'([^\s=,"<>]+)=("(?:[^"\\]|\\.)*"|\[[^\]]*\]|(?!["\[])[^,]*)(?:,|$)')
_URL = re.compile(r"[a-z]+://(?:[^\s/@]+@)?(?!\d+[:/])[\w.-]+(?::\d+)?(?:/\S*)?|[^\s<>:]+|file:\S+")


class Definition(NamedTuple):
    """Of an INFO or FORMAT key; `value`: the name of its form in vcf.toml, "Flag", or "" for any."""

    number: str
    value: str


_NAMED = frozenset({"assembly", "pedigreeDB", "fileformat", "fileDate", "source", "reference", "phasing"})
"""Lines that a finding may name; the key of any other is the file's own text."""


@dataclass(frozen=True)
class Header:
    """What a header says; `findings` holds what it breaks.

    version: 5 for VCF 4.5.
    contigs: length or None, in file order.
    info, formats: definitions by key, reserved ones included.
    samples: NFC, in file order; empty for a file of sites alone.
    """

    version: int = 1
    contigs: dict[str, int | None] = field(default_factory=dict)
    filters: frozenset[str] = frozenset()
    info: dict[str, Definition] = field(default_factory=dict)
    formats: dict[str, Definition] = field(default_factory=dict)
    samples: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def parse(lines: Sequence[str]) -> Header:
    """The header of its lines (without line ends), the last of which is the #CHROM line."""
    first = FORMAT_LINE.fullmatch(lines[0]) if lines else None
    found = _Parser(max(1, int(first[1])) if first else 1)
    if not first:
        said = "(the first line is ##fileformat=VCFv4.x)" if any(lines) else "(the file is empty)"
        found.findings.append(Finding("VCF_HEADER", said, 1, "fileformat"))
    if not any(lines):
        return found.header()
    for number, line in enumerate(lines[1:], 2):
        try:
            if number == len(lines) and line.startswith("#CHROM"):
                found.samples = sample_columns(line)
            else:
                found.meta_line(line)
        except Fault as fault:
            found.findings.append(fault.at(number))
    if not lines[-1].startswith("#CHROM"):
        found.findings.append(Finding("VCF_HEADER", "(no #CHROM line)", len(lines), "#CHROM"))
    return found.header()


def sample_columns(line: str) -> tuple[str, ...]:
    """Sample names (NFC) of the #CHROM line, none in a file of sites. Fault VCF_HEADER, VCF_NO_SAMPLES, VCF_SAMPLES."""
    names = line.split("\t")
    usual = names[:9] == _COLUMNS[: len(names)] and len(names) >= 8
    require(usual, "VCF_HEADER", "(the #CHROM line has other columns)", "#CHROM")
    require(len(names) != 9, "VCF_NO_SAMPLES", column="#CHROM")
    samples = tuple(unicodedata.normalize("NFC", name.strip()) for name in names[9:])
    require(len(set(samples)) == len(samples) and all(samples), "VCF_SAMPLES", column="#CHROM")
    return samples


class _Parser:
    """Takes a header line by line."""

    def __init__(self, version: int) -> None:
        self.version, self.findings = version, list[Finding]()
        self.samples: tuple[str, ...] = ()
        self._lines, self._kept = dict[str, dict[str, str]](), dict[tuple[str, str], dict[str, str]]()
        self._reserved: dict[str, dict[str, list[str]]] = {"INFO": {}, "FORMAT": {}}
        for each in map(str, range(1, version + 1)):
            self._lines |= RULES["lines"].get(each, {})
            for kind, keys in RULES["reserved"].get(each, {}).items():
                self._reserved[kind] |= keys

    def meta_line(self, line: str) -> None:
        kind, _, value = line.removeprefix("##").partition("=")
        require(line.startswith("##") and kind, "VCF_HEADER", "(a header line starts with ## and a key)", "##")
        known = kind in _NAMED or kind in self._lines
        require(value, "VCF_HEADER", "(not of the form ##key=value)", kind if known else "##")
        require(kind not in {"assembly", "pedigreeDB"} or _URL.fullmatch(value), "VCF_HEADER", "(not a URL)", kind)
        require(kind != "fileformat", "VCF_HEADER", "(a second version)", kind)
        if rule := self._lines.get(kind):
            self._keep(kind, _fields(kind, value, rule, ordered=self.version < 4 and "Description" in rule))

    def _keep(self, kind: str, fields: dict[str, str]) -> None:
        key = fields.get("ID", "")
        if kind in self._reserved and (reserved := self._reserved[kind].get(key)):
            for name, expected in zip(("Number", "Type"), reserved, strict=False):
                fits = expected in {"", fields[name]} or f"{key} {name}={fields[name]}" in RULES["tolerated"][kind]
                require(fits, "VCF_HEADER", f"({name} is {expected} in the specification)", f"{kind}/{key}")
        before = self._kept.setdefault((kind, key), fields)
        both = [name for name in ("Number", "Type", "length") if name in before and name in fields]
        require(all(before[name] == fields[name] for name in both), "VCF_HEADER", "(defined twice, differently)", kind)

    def header(self) -> Header:
        """What the lines said."""
        info, formats = (dict(self._definitions(kind)) for kind in ("INFO", "FORMAT"))
        lengths = {key: fields.get("length") for (kind, key), fields in self._kept.items() if kind == "contig"}
        contigs = {key: int(length) if length else None for key, length in lengths.items()}
        filters = frozenset(key for kind, key in self._kept if kind == "FILTER")
        return Header(self.version, contigs, filters, info, formats, self.samples, tuple(self.findings))

    def _definitions(self, kind: str) -> Iterator[tuple[str, Definition]]:
        for key, (number, *forms) in self._reserved[kind].items():
            yield key, Definition(number, forms[-1])
        for (of, key), fields in self._kept.items():
            if of == kind:
                forms = self._reserved[kind].get(key, ["", ""])[1:]
                narrower = forms[-1] if fields["Type"] in forms[:1] else fields["Type"]
                yield key, Definition(fields["Number"].replace("-1", "."), narrower)


def _fields(kind: str, value: str, rule: dict[str, str], *, ordered: bool) -> dict[str, str]:
    """Of a structured line, checked."""
    body, fields, at = value[1:-1], dict[str, str](), 0
    while match := _FIELD.match(body, at):
        require(match[1] not in fields, "VCF_HEADER", "(a field twice)", kind)
        fields[match[1]], at = match[2], match.end()
        if at == len(body):
            break
    whole = value[0] + value[-1] == "<>" and at == len(body) and fields
    require(whole, "VCF_HEADER", "(not of the form <key=value,...>, or a quotation mark is not closed)", kind)
    names = {name.rstrip("?"): name for name in rule if name != "*"}
    for name, marked in names.items():
        require(name in fields or name != marked, "VCF_HEADER", f"({name} is missing)", kind)
    patterns = ((name, rule.get(names.get(name, "*"))) for name in fields)
    if wrong := [name for name, pattern in patterns if pattern and not re.fullmatch(pattern, fields[name])]:
        said = ", ".join(name if name in names else "a value" for name in wrong)
        key = f"/{fields.get('ID')}" * (kind in {"INFO", "FORMAT"} and "ID" not in wrong)
        raise Fault("VCF_HEADER", f"(malformed: {said})", kind + key)
    alike = [name for name in fields if name in names] == [name for name in names if name in fields]
    require(alike or not ordered, "VCF_HEADER", f"(the fields are in another order than {', '.join(names)})", kind)
    return fields
