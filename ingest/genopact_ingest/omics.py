"""Matrices of people and features: expression, methylation. TSV (also BGZF or gzip) or parquet; sequences as FASTA.

The first column names the rows, the header the other columns; whether people are rows or columns is declared. Missing:
empty, NA or NaN, in parquet null. A text file that was cut off inside a line or a block is refused, and so are quotes;
parquet's footer has no checksum: a flipped letter of a name is a feature that is absent.

A FASTA file (.fa or .fasta, also BGZF or gzip) has a record for each person, named by the first word after `>`, with a
letter for each of the study's features: A 0, C 1, G 2, T 3 in either case, any other letter, - and * 4.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.bgzf import lines
from genopact_ingest.findings import Fault, Finding, refusal, refuse, sound
from genopact_ingest.plink import digest_of, regular
from genopact_ingest.table import NUMBERS, TEXTS, is_any, parquet_faults
from genopact_shared.errors import replacing

_CELL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?|NA|NaN|nan|", re.ASCII)
_MISSING = {"": "nan", "NA": "nan"}
_CELLS_AT_ONCE = 1 << 22
_Rows = Iterator[tuple[str, NDArray[np.float64]]]


class Omics(NamedTuple):
    """values: (n, F) float32, people by the study's features, NaN missing. `notes`: absent and other features."""

    people: tuple[str, ...]
    values: NDArray[np.float32]
    digest: str
    notes: Counter[str]


def read_matrix(
    path: Path, features: Sequence[str], *, people: Literal["rows", "columns"], bounds: tuple[float, float]
) -> Omics:
    """The study's features of everybody in a file, in the study's order.

    Args:
        path: a local file; FASTA is known by its name, parquet by its first bytes.
        features: their public list, each once. One that the file lacks is NaN for everybody and counted.
        people: what they are in the file, unless it is FASTA.
        bounds: the least and the greatest value, both finite in float32.

    Raises:
        ImportRefusedError: with each row that has values out of bounds (and the place of its first), or another fault.
    """
    with regular(path).open("rb") as file:
        read = _parquet if file.read(4) == b"PAR1" else _tsv
    names, rows = ([*features], _fasta(path, len(features))) if is_fasta(path) else read(path)
    wanted, across = {name: at for at, name in enumerate(features)}, people == "rows" or is_fasta(path)
    places = np.array([at for at, name in enumerate(names) if not across or name in wanted], np.intp)
    labels, parts, findings = list[str](), list[NDArray[np.float32]](), list[Finding]()
    for label, cells in rows:
        labels.append(label)
        if across or label in wanted:
            kept = cells[places]
            outside = (kept < bounds[0]) | (kept > bounds[1])
            if outside.any():
                detail = f"({outside.sum()} in this row; expected {bounds[0]:g} to {bounds[1]:g})"
                findings.append(Finding("VALUE_RANGE", detail, len(labels) + 1, f"{places[outside][0] + 2}"))
            parts.append(np.where(outside, np.nan, kept).astype(np.float32))
    persons, present = (labels, names) if across else (names, labels)
    persons = [unicodedata.normalize("NFC", name.strip()) for name in persons]
    findings += [Finding("PERSON_MISSING")] * ("" in persons) + [Finding("CSV_EMPTY")] * (not persons)
    findings += [Finding("PERSON_TWICE")] * (len(set(persons)) < len(persons))
    findings += [Finding("COLUMN_TWICE", "(a feature)")] * (len(set(present)) < len(present))
    columns = [wanted[name] for name in present if name in wanted]
    refuse(findings or [Finding("MATRIX_FEATURES")] * (not columns))
    values = np.full((len(persons), len(features)), np.nan, np.float32)
    values[:, columns] = np.stack(parts, axis=0 if across else 1)
    notes = Counter(absent_features=len(features) - len(columns), other_features=len(present) - len(columns))
    return Omics(tuple(persons), values, digest_of(path), notes)


def _tsv(path: Path) -> tuple[list[str], _Rows]:
    """The header's names but the first, and the rows."""
    numbered = enumerate(_lines(path), start=1)
    _, header = next(numbered, (1, [""]))
    return header[1:], (_row(row, cells, len(header)) for row, cells in numbered)


def is_fasta(path: Path) -> bool:
    """Whether its name says so."""
    return path.name.lower().removesuffix(".gz").endswith((".fa", ".fasta"))


def _fasta(path: Path, places: int) -> _Rows:
    """Each record's person and codes. FASTA_INVALID, at the record's first line."""
    whole, begun, person, letters = re.compile(f"[A-Za-z*-]{{{places}}}"), 0, "", ""
    for at, cells in enumerate(chain(_lines(path), [[">"]]), start=1):
        header = cells[0].startswith(">")
        letters += "" if header else "\t".join(cells)
        if len(letters) > places * bool(begun) or (begun and header and not whole.fullmatch(letters)):
            raise refusal("FASTA_INVALID", f"(expected {places} letters)", begun or at)
        if begun and header:
            yield person, np.array([*map("ACGT".find, letters.upper())], np.float64) % 5  # -1 % 5 is 4
        if header:
            begun, person, letters = at, (cells[0][1:].split() or [""])[0], ""


def _lines(path: Path) -> Iterator[list[str]]:
    with replacing((Fault, ValueError), refusal("CSV_UNREADABLE", "(cut off or damaged, not UTF-8, or with quotes)")):
        for chunk in lines(path):
            for line in bytes(chunk).decode().replace("\r", "").split("\n")[:-1]:
                if '"' in line:
                    raise ValueError
                yield line.split("\t")


def _row(row: int, cells: list[str], count: int) -> tuple[str, NDArray[np.float64]]:
    sound(len(cells) == count, "CSV_RAGGED", f"({len(cells)} cells, the header has {count})", row)
    wrong = next((place for place, cell in enumerate(cells[1:], start=2) if not _CELL.fullmatch(cell)), None)
    sound(not wrong, "NUMBER_INVALID", row=row, column=f"{wrong}")
    return cells[0], np.array([_MISSING.get(cell, cell) for cell in cells[1:]], np.float64)


def _parquet(path: Path) -> tuple[list[str], _Rows]:
    from pyarrow.parquet import ParquetFile

    with parquet_faults():
        file = ParquetFile(path, page_checksum_verification=True)
        names, kinds = file.schema_arrow.names, file.schema_arrow.types
    for place, kind in enumerate(kinds, start=1):
        sound(is_any(kind, *(NUMBERS if place > 1 else TEXTS)), "COLUMN_TYPE", row=1, column=f"{place}")

    def rows() -> _Rows:
        with parquet_faults():
            for batch in file.iter_batches(max(1, _CELLS_AT_ONCE // max(1, len(names)))):
                cells = [column.to_numpy(zero_copy_only=False).astype(np.float64) for column in batch.columns[1:]]
                for label, row in zip(batch.column(0).to_pylist(), np.array(cells).T, strict=True):
                    yield label or "", row

    return names[1:], rows()
