"""Every record of a VCF against the specification: all findings of a file at once, each with code, place and remedy.

Source: VCF 4.1-4.5 (SAMtools/hts-specs) section 1.6; what is an expression or a list there is in vcf.toml.
Tolerated, because call sets that hospitals hold have them, and counted in `notes`: keys, filters and contigs that the
header does not define; disorder of records without GT, which no store takes (the specification's own 4.5 file has it,
and no last line end). Tolerated without a note: keys with other letters and twice in INFO before 4.3; in INFO values
spaces, commas in what is one string, `=0` and `=1` after a flag, and any count by genotypes; any count by alleles where
ALT is `.`; symbolic alternatives that the header does not describe.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache

from genopact_ingest import cells
from genopact_ingest.findings import Fault, Finding
from genopact_ingest.header import RULES, Definition, Header, parse

MOST = 1000  # findings of a file
_COLUMNS = {name: re.compile(pattern, re.ASCII) for name, pattern in RULES["column"].items()}
_COMMON = re.compile(r"(?:{POS})\t[^\s;]+\t{REF}\t{REF}\t(?:{QUAL})".format(**RULES["column"]), re.ASCII)
_INFO_KEYS = {True: re.compile(r"[A-Za-z_][0-9A-Za-z_.]*|1000G"), False: re.compile(r"[^\s;=,]+")}
_NOTHING = re.compile(r"(?!)")


class Checks:
    """Takes a file in its order: `header`, then for each record `record` and `cells`, at last `finish`.

    notes: counts of what is tolerated.
    """

    def __init__(self) -> None:
        self.findings, self.notes = list[Finding](), Counter[str]()
        self._header = Header()
        self._filters, self._forms = {"PASS", "."}, dict[str, cells.Form | None]()
        self._patterns = cache(self._pattern)
        self._shapes = dict[tuple[tuple[str, ...], int], re.Pattern[str]]()
        self._shape = dict[int, re.Pattern[str]]()
        self._chrom, self._contig, self._contigs = "", "", set[str]()
        self._at, self._end = 0, float("inf")
        self._alleles, self._reach = set[tuple[int, str, str]](), -1

    def header(self, lines: Sequence[str]) -> Header:
        """Its lines without their ends, the #CHROM line last."""
        self._header = parse(lines)
        self.findings += self._header.findings
        return self._header

    def record(self, number: int, fields: Sequence[str]) -> None:
        """CHROM to FORMAT, or to INFO in a file without samples, of line `number`."""
        if len(fields) != 8 + bool(self._header.samples):
            return self._add(number, "VCF_RECORD", "another number of fields than the #CHROM line")
        chrom, pos, _, ref, alt, _, passed, info = fields[:8]
        calls = len(fields) == 8 or self._calls(number, fields[8])
        if passed not in self._filters:
            self._filter(number, passed)
        if chrom != self._chrom:
            self._enter(number, chrom, calls=calls)
        alts: Sequence[str] = (alt,)
        if ref == alt or not _COMMON.fullmatch("\t".join(fields[1:6])):
            alts = () if alt == "." else alt.split(",")
            if not self._sound(number, fields, alts):
                return None
        place = int(pos)
        if place > self._end:
            self._add(number, "VCF_RECORD", "beyond the contig's length", "POS")
        if place < self._at:
            self._disorder(number, "POS", calls=calls)
        self._at = place
        self._once(number, place, ref.upper(), alts)
        n_alts = len(alts)
        if info != "." and not ((shape := self._shape.get(n_alts)) and shape.fullmatch(info)):
            self._info(number, info, n_alts)
        return None

    def cells(self, number: int, form: str, data: memoryview | bytes, n_alts: int) -> None:
        """The sample part of a record whose `record` was called, without the line's end."""
        if known := self._forms.get(form):
            try:
                cells.check(data, known, n_alts, len(self._header.samples), self._header.version)
            except Fault as fault:
                self.findings.append(fault.at(number))

    def finish(self) -> tuple[Finding, ...]:
        """All findings, at most MOST."""
        return tuple(self.findings[:MOST])

    def _add(self, number: int, code: str, detail: str = "", column: str = "") -> None:
        self.findings.append(Finding(code, detail and f"({detail})", number, column))

    def _calls(self, number: int, text: str) -> bool:
        """Whether a FORMAT has calls; a malformed one may."""
        if text not in self._forms:
            self._forms[text] = None
            try:
                self._forms[text] = cells.form(text, self._header.formats)
            except Fault as fault:
                self.findings.append(fault.at(number))
        form = self._forms[text]
        return form is None or form.keys[0] == "GT"

    def _filter(self, number: int, text: str) -> None:
        names = text.split(";")
        if not _COLUMNS["FILTER"].fullmatch(text) or len(set(names)) != len(names):
            return self._add(number, "VCF_RECORD", "malformed, or a name twice", "FILTER")
        if not self._header.filters.issuperset(names):
            self.notes["filters not defined"] += 1
        return self._filters.add(text)

    def _enter(self, number: int, chrom: str, *, calls: bool) -> None:
        """Another CHROM than the last record's."""
        known, name = self._header.contigs, chrom.strip("<>")
        if not _COLUMNS["CHROM"].fullmatch(chrom) and chrom not in known:
            self._add(number, "VCF_RECORD", "malformed", "CHROM")
        self._chrom = chrom
        if name == self._contig:
            return
        if name in self._contigs:
            self._disorder(number, "CHROM", calls=calls)
        if known and name not in known:
            self.notes["contigs not defined"] += 1
        self._contig, self._at, self._end, self._reach = name, 0, (known.get(name) or float("inf")) + 1, -1
        self._contigs.add(name)

    def _disorder(self, number: int, column: str, *, calls: bool) -> None:
        if calls:
            self._add(number, "VCF_ORDER", "before the last record's, or apart from its contig's", column)
        else:
            self.notes["records out of order, without GT"] += 1

    def _sound(self, number: int, fields: Sequence[str], alts: Sequence[str]) -> bool:
        """Whether place and alleles of a record that is not of the common form can be used."""
        given = dict(zip(("POS", "ID", "REF", "QUAL"), (*fields[1:4], fields[5]), strict=True))
        wrong = [column for column, text in given.items() if not _COLUMNS[column].fullmatch(text)]
        wrong += ["ALT"] * (not all(map(_COLUMNS["ALT"].fullmatch, alts)))
        for column in wrong:
            self._add(number, "VCF_RECORD", "malformed", column)
        alleles = [allele if "<" in allele else allele.upper() for allele in (fields[3], *alts)]
        for column, words in {"ID": fields[2].split(";"), "ALT": alleles}.items():
            if len(set(words)) != len(words) and column not in wrong:
                self._add(number, "VCF_RECORD", "one of them twice", column)
        return not {"POS", "ALT"}.intersection(wrong)

    def _once(self, number: int, place: int, ref: str, alts: Sequence[str]) -> None:
        """No allele of letters twice, however much context it is written with."""
        if place > self._reach:
            self._alleles.clear()
            self._reach = place
        for alt in filter(str.isalpha, alts):
            allele = (place, ref, alt.upper())
            if len(ref) > 1 or len(alt) > 1:
                allele = _trimmed(*allele)
                self._reach = max(self._reach, allele[0])
            if allele in self._alleles:
                self._add(number, "VCF_DUPLICATE", column="ALT")
            self._alleles.add(allele)

    def _info(self, number: int, text: str, n_alts: int) -> None:
        """An INFO that is malformed or has other keys than the last one; records of equal keys share an expression."""
        parts = text.split(";")
        keys = tuple(part.partition("=")[0] for part in parts)
        shape = self._shapes.get((keys, n_alts))
        if shape and shape.fullmatch(text):
            self._shape[n_alts] = shape
            return
        if len(set(keys)) != len(keys) and self._header.version >= 3:
            self._add(number, "VCF_INFO", "a key twice", "INFO")
        patterns = [self._patterns(key, n_alts) for key in keys]
        for part, key, pattern in zip(parts, keys, patterns, strict=True):
            if not pattern.fullmatch(part, len(key)):
                known = self._header.info.get(key)
                free = known and (
                    known.value == "Flag" or _values(known._replace(number="."), 0).fullmatch(part, len(key))
                )
                wrong = "another number of values than defined" if free else "malformed"
                self._add(number, "VCF_INFO", wrong, f"INFO/{key}" if known else "INFO")
        if not shape and len(keys) < 40 and len(self._shapes) < 200:
            whole = ";".join(re.escape(key) + pattern.pattern for key, pattern in zip(keys, patterns, strict=True))
            self._shapes[keys, n_alts] = re.compile(whole, re.ASCII)

    def _pattern(self, key: str, n_alts: int) -> re.Pattern[str]:
        """What must follow `key`."""
        known = self._header.info.get(key)
        if not known:
            self.notes["INFO keys not defined"] += 1
        well = _INFO_KEYS[self._header.version >= 3].fullmatch(key)
        return _values(known, n_alts) if well else _NOTHING


@lru_cache(4096)
def _values(known: Definition | None, n_alts: int) -> re.Pattern[str]:
    """The expression of `=values`."""
    if not known:
        return re.compile(r"(?:=[^;]*)?")
    if known.value == "Flag":
        return re.compile("(?:=[01])?")
    value = RULES["value"].get(known.value, "[^,;]+")
    value = f"(?:{value})" if re.fullmatch(value, ".") else rf"(?:{value}|\.)"
    counts = {"A": n_alts, "R": n_alts + 1} if n_alts else {}
    count = int(known.number) if known.number.isdecimal() else counts.get(known.number)
    if not count or known == cells.TEXT:
        return re.compile(f"={value}(?:,{value})*", re.ASCII)
    missing = r"|\." * (count > 1)
    return re.compile(f"=(?:{value}(?:,{value}){{{count - 1}}}{missing})", re.ASCII)


def _trimmed(place: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Without the letters that both alleles end or start with, one always left."""
    while len(ref) > 1 and len(alt) > 1 and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    while len(ref) > 1 and len(alt) > 1 and ref[0] == alt[0]:
        place, ref, alt = place + 1, ref[1:], alt[1:]
    return place, ref, alt
