"""The warfarin consortium's public table: 16 hospitals as they are, with frozen rows and splits."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_server.demo.cohort import write_table
from genopact_shared.errors import beside
from genopact_shared.recipes.dose_features import RACES, SCHEMA
from genopact_shared.recipes.table import Choice, Codes, Dosage, Flag, Floats, Number, Table

TABLE, SPLITS, SOURCE = "iwpc_dev_16sites.csv", "splits.csv", "SOURCE.txt"
_COLUMNS = beside(__file__)
_STARS = {f"*{a}/*{b}": ((a, b).count(2), (a, b).count(3)) for a in (1, 2, 3) for b in (1, 2, 3) if a <= b}


class Cohort(NamedTuple):
    """The 4,404 eligible patients (stable dose reached, dose above zero).

    `sites`: (n,) consortium number. `person`: (n,) public subject id. `fold10`: (n,) int. `splits`: (n, 20) int,
    0 test, 1..3 training (<= 2: the 30 % setting).
    """

    table: Table
    sites: NDArray[np.int64]
    person: NDArray[np.str_]
    fold10: NDArray[np.int64]
    splits: NDArray[np.int64]


def load(folder: Path) -> Cohort:
    """Read the cohort and print its citation. Columns measured after the dose and free text are never read."""
    citation = (folder / SOURCE).read_text("utf-8")
    print("\n".join(line for line in citation.splitlines() if line.startswith(("Name:", "Citation:"))))
    rows, frozen = _rows(folder / TABLE), _rows(folder / SPLITS)
    if [row["PharmGKB Subject ID"] for row in rows] != [row["PharmGKB Subject ID"] for row in frozen]:
        raise ValueError("splits.csv lists other patients than the table")
    pairs = [(row, split) for row, split in zip(rows, frozen, strict=True) if split["eligible"] == "1"]
    rows, frozen = [row for row, _ in pairs], [split for _, split in pairs]
    names = [name for name in frozen[0] if name.startswith("site")]
    sites = np.array([int(row["Project Site"]) for row in rows])
    person = np.array([row["PharmGKB Subject ID"] for row in rows])
    fold10 = np.array([int(split["fold10"]) for split in frozen])
    splits = np.array([[int(split[name]) for name in names] for split in frozen])
    return Cohort(_table(rows), sites, person, fold10, splits)


def write_csv(cohort: Cohort, rows: NDArray[np.bool_], out: Path) -> int:
    """Write some patients, (n,) of the cohort, as `genopact-site import --table` reads them.

    A covariate that they all lack gets no column. Numbers as decimals, levels by name, flags
    0 or 1, dosages as copies of the schema's effect allele; empty = missing.

    Returns:
        The number of patients.
    """
    own = np.flatnonzero(rows)
    table = cohort.table.take(own)
    cells = {column.name: _cells(column, table) for column in SCHEMA}
    cells = {"person": list(cohort.person[own])} | {name: texts for name, texts in cells.items() if any(texts)}
    write_table(out, zip(*cells.values(), strict=True), cells)
    return table.n


def _cells(column: Number | Choice | Flag | Dosage, table: Table) -> list[str]:
    if isinstance(column, Number):
        return ["" if np.isnan(value) else f"{value:.12g}" for value in table.number(column.name)]
    return ["" if code < 0 else column.levels[code] for code in table.codes(column.name)]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _table(rows: list[dict[str, str]]) -> Table:
    columns: dict[str, Floats | Codes] = {name: _numbers(rows, source) for name, source in _COLUMNS["numbers"].items()}
    yes_no = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}
    columns |= {name: _coded(rows, source, yes_no) for name, source in _COLUMNS["flags"].items()}
    columns["sex"] = _coded(rows, "Gender", {"female": 0, "male": 1})
    races = {name: code for code, name in enumerate(RACES)} | {"Unknown": RACES.index("other or unknown")}
    columns["race"] = _coded(rows, "Race (OMB)", races)
    for name, (source, low_dose) in _COLUMNS["vkorc1"].items():
        # An allele string holds two letters around a slash; anything else is missing.
        known = {row[source] for row in rows if len(row[source]) == 3}
        columns[name] = _coded(rows, source, {text: text.count(low_dose) for text in known})
    for index, name in enumerate(("cyp2c9_2", "cyp2c9_3")):
        # Rarer alleles than *2 and *3 are outside the panel: unknown here, as in the baseline.
        columns[name] = _coded(rows, "CYP2C9 consensus", {star: copies[index] for star, copies in _STARS.items()})
    return Table(columns, len(rows))


def _numbers(rows: list[dict[str, str]], source: str) -> Floats:
    """Decimals; of a range such as '60 - 69' or '90+' the decade."""
    texts = [row[source] for row in rows]
    values = [text[0] if source == "Age" and text else text for text in texts]
    return np.array([float(text) if text else np.nan for text in values], dtype=np.float64)


def _coded(rows: list[dict[str, str]], source: str, codes: dict[str, int]) -> Codes:
    return np.array([codes.get(row[source], -1) for row in rows], dtype=np.int8)
