"""A hospital's table of covariates, checked cell by cell against the recipe's schema.

A .tsv is separated by tabs, a parquet file is known by its first bytes, all else is CSV; text is UTF-8. One header, one
row for each person. Column `person` and the outcome are required, every other column of the schema may be absent. A
header may state its unit, `height [cm]`. Missing values: an empty cell or NA; null or NaN in parquet.
"""

import csv
import hashlib
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genopact_ingest.findings import Fault, Finding, refusal, refuse, require, sound
from genopact_shared.alleles import other_strand
from genopact_shared.errors import replacing
from genopact_shared.recipes.table import Choice, Codes, Column, Dosage, Flag, Floats, Number, Table

PERSON = "person"
TEXTS, NUMBERS = ("string", "large_string"), ("integer", "floating", "null")
_MISSING = frozenset({"", "NA"})
_FLAGS = {"0": 0, "no": 0, "false": 0, "1": 1, "yes": 1, "true": 1}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_HEADER = re.compile(r"(?P<name>[^\[\]]+?)\s*(\[(?P<unit>[^\[\]]*)\])?")


@dataclass(frozen=True, eq=False)
class Covariates:
    """A read file: patient numbers, their columns in the same order, SHA-256, and counts of what was left out."""

    people: tuple[str, ...]
    table: Table
    digest: str
    notes: Counter[str] = field(default_factory=Counter)


def read_table(path: Path, schema: Sequence[Column]) -> Covariates:
    """The covariates of a CSV, TSV or parquet file; a parquet file's first row is row 2, as in the other two.

    Raises:
        ImportRefusedError: with every fault of the file; nothing is taken from a file with a fault.
    """
    findings, people = list[Finding](), dict[str, int]()
    data, rows = _rows(path)
    columns = _columns(rows[0], schema, findings)
    refuse(findings)
    cells: dict[str, list[float]] = {column.name: [] for column in columns if column is not None}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(columns):
            findings.append(Finding("CSV_RAGGED", f"({len(row)} cells, the header has {len(columns)})", number))
            continue
        for column, text in zip(columns, map(str.strip, row), strict=True):
            if column is None:
                findings += _person(text, number, people)
            else:
                cells[column.name].append(cell(column, text, number, findings))
    refuse(findings or [Finding("CSV_EMPTY")] * (not people))
    arrays = {column.name: array_of(column, cells[column.name]) for column in columns if column is not None}
    return Covariates(tuple(people), Table(arrays, len(people)), hashlib.sha256(data).hexdigest())


def _rows(path: Path) -> tuple[bytes, list[list[str]]]:
    with replacing((OSError, ValueError, csv.Error), refusal("CSV_UNREADABLE")):
        data = path.read_bytes()
        if data.startswith(b"PAR1"):
            return data, _parquet(data)
        text = data.decode("utf-8-sig")
        sound("\0" not in text, "CSV_UNREADABLE")
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter))
    while rows and not rows[-1]:
        rows.pop()
    refuse([Finding("CSV_EMPTY")] * (not rows))
    return data, rows


def _parquet(data: bytes) -> list[list[str]]:
    """The cells as a CSV would have them; pages with a checksum are checked."""
    from pyarrow import BufferReader, types
    from pyarrow.parquet import ParquetFile

    with parquet_faults():
        table = ParquetFile(BufferReader(data), page_checksum_verification=True).read()
        names = table.column_names
    kinds = [one.type.value_type if types.is_dictionary(one.type) else one.type for one in table.columns]
    wrong = [place for place, kind in enumerate(kinds, start=1) if not is_any(kind, *TEXTS, *NUMBERS, "boolean")]
    refuse([Finding("COLUMN_TYPE", row=1, column=f"{place}") for place in wrong])
    columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    return [names, *map(list, zip(*columns, strict=True))]


def is_any(kind: Any, *names: str) -> bool:
    """Whether a parquet column is of one of these types."""
    from pyarrow import types

    return any(getattr(types, f"is_{name}")(kind) for name in names)


def parquet_faults() -> AbstractContextManager[None]:
    """Whatever is wrong inside a parquet file is one refusal."""
    from pyarrow import ArrowException

    return replacing((ArrowException, OSError, ValueError), refusal("CSV_UNREADABLE"))


def _text(value: str | float | None) -> str:
    """A whole number loses its `.0`, which other programs add to a column with gaps."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool | float) and abs(value) < 2**53 and value == int(value):
        return str(int(value))
    return str(value)


def _columns(header: list[str], schema: Sequence[Column], findings: list[Finding]) -> list[Column | None]:
    """The schema's column of each field, None for the person."""
    if len(header) == 1 and re.search("[;,\t]", header[0]):
        findings.append(Finding("CSV_DELIMITER", row=1))
        return []
    declared = {column.name: column for column in schema}
    columns, seen = list[Column | None](), set[str]()
    for place, cell in enumerate(header, start=1):
        match = _HEADER.fullmatch(cell.strip())
        name = match["name"] if match else ""
        column = declared.get(name)
        # Unknown headers are named by place only: a file without a header has people in its first row.
        if name in seen:
            findings.append(Finding("COLUMN_TWICE", row=1, column=f"{place}"))
        elif column is None and name != PERSON:
            findings.append(Finding("COLUMN_UNKNOWN", f"(known: {', '.join([PERSON, *declared])})", 1, f"{place}"))
        elif match and match["unit"] is not None and match["unit"] != getattr(column, "unit", None):
            findings.append(Finding("UNIT_WRONG", f"(expected {getattr(column, 'unit', 'no unit')})", 1, name))
        seen.add(name)
        columns.append(column)
    required = [PERSON, *(column.name for column in schema if column.role == "outcome")]
    findings += [Finding("COLUMN_MISSING", row=1, column=name) for name in required if name not in seen]
    return columns


def _person(text: str, number: int, people: dict[str, int]) -> list[Finding]:
    if not text:
        return [Finding("PERSON_MISSING", row=number, column=PERSON)]
    first = people.setdefault(unicodedata.normalize("NFC", text), number)
    return [] if first == number else [Finding("PERSON_TWICE", f"(first in row {first})", number, PERSON)]


def cell(column: Column, text: str, number: int, findings: list[Finding]) -> float:
    """The value of a cell in row `number`, as in a Table; a fault is appended to the findings."""
    missing = math.nan if isinstance(column, Number) else -1
    if text in _MISSING:
        return missing
    try:
        return _value(column, text)
    except Fault as fault:
        findings.append(fault.at(number, column.name))
        return missing


def array_of(column: Column, values: list[float]) -> Floats | Codes:
    """(n,) in the dtype that a Table has for the column."""
    return np.array(values, np.float64) if isinstance(column, Number) else np.array(values, np.int8)


def _value(column: Column, text: str) -> float:
    match column:
        case Number():
            require(_NUMBER.fullmatch(text), "NUMBER_INVALID")
            if not column.low <= float(text) <= column.high:
                raise Fault("VALUE_RANGE", f"(expected {column.low:g} to {column.high:g} {column.unit})")
            return float(text)
        case Choice(levels=levels):
            return _level(text, {level: code for code, level in enumerate(levels)})
        case Flag():
            return _level(text.lower(), _FLAGS)
        case Dosage(effect=effect, other=other):
            # Copies, or a genotype such as A/G, on either strand if the letters tell which.
            if text in {"0", "1", "2"}:
                return int(text)
            require(other_strand(effect) != other, "ALLELE_AMBIGUOUS", f"(count copies of forward-strand {effect})")
            alleles = re.split(r"[/|]", text)
            for one, two in (effect, other), (other_strand(effect), other_strand(other)):
                if len(alleles) == 2 and set(alleles) <= {one, two}:
                    return alleles.count(one)
            raise Fault("ALLELE_UNKNOWN", f"(expected {effect} and {other}, or 0, 1, 2)")


def _level(text: str, codes: dict[str, int]) -> int:
    require(text in codes, "LEVEL_UNKNOWN", f"(known: {', '.join(codes)})")
    return codes[text]
