"""Generated hospitals: reproducible, and true to the published figures they are made of."""

import csv
from pathlib import Path

import numpy as np
import pytest

from genopact_server.demo import cohort
from genopact_server.demo.cohort import CONSENT_COLUMNS, CONSENTS, HOSPITALS, Hospital, generate, write_site
from genopact_shared.recipes.dose_features import OUTCOME, RACES, SCHEMA
from genopact_shared.recipes.equation import iwpc_weekly_dose
from genopact_shared.recipes.table import Choice, Dosage, Number

N = 20_000
VKORC1 = ("vkorc1_1639", "vkorc1_1173", "vkorc1_1542", "vkorc1_2255")


def only(race: str) -> list[float]:
    return [float(name == race) for name in RACES]


def test_the_same_seed_gives_the_same_people() -> None:
    first, second, other = (generate(50, seed, HOSPITALS[0].mix) for seed in (1, 1, 2))
    assert all(np.array_equal(first.columns[name], second.columns[name]) for name in first.columns)
    assert not np.array_equal(first.number(OUTCOME), other.number(OUTCOME))


def test_every_column_lies_within_the_schema() -> None:
    table = generate(N, 1, HOSPITALS[2].mix)
    assert set(table.columns) == {column.name for column in SCHEMA}
    for column in SCHEMA:
        values = table.columns[column.name]
        if isinstance(column, Number):
            assert column.low <= values.min() <= values.max() <= column.high
        else:
            top = 2 if isinstance(column, Dosage) else len(column.levels) - 1 if isinstance(column, Choice) else 1
            assert (values.min(), values.max()) == (0, top)


@pytest.mark.parametrize(
    ("race", "vkorc1", "two", "three"),
    [("White", 0.39, 0.13, 0.07), ("Asian", 0.90, 0.0, 0.04), ("Black or African American", 0.10, 0.023, 0.012)],
)
def test_allele_frequencies(race: str, vkorc1: float, two: float, three: float) -> None:
    table = generate(N, 5, only(race))
    for name, expected in (("vkorc1_1639", vkorc1), ("cyp2c9_2", two), ("cyp2c9_3", three)):
        frequency = table.codes(name).mean() / 2
        assert abs(frequency - expected) <= 4 * np.sqrt(expected * (1 - expected) / (2 * N)), name


def test_linkage_is_complete_outside_africa_only() -> None:
    for race in RACES[:2]:
        copies = [generate(500, 5, only(race)).codes(name).tolist() for name in VKORC1]
        assert copies[0] == copies[1] == copies[2] == copies[3]
    table = generate(500, 5, only(RACES[2]))
    copies = [table.codes(name).tolist() for name in VKORC1]
    assert copies[0] == copies[1]
    assert copies[2] == copies[3] != copies[0]


def test_doses_scatter_around_the_published_equation() -> None:
    for shift in (0.0, 0.3):
        table = generate(N, 9, HOSPITALS[0].mix, shift)
        residual = np.sqrt(table.number(OUTCOME)) - np.sqrt(iwpc_weekly_dose(table))
        assert abs(residual.mean() - shift) < 0.03
        assert abs(residual.std() - cohort.RESIDUAL_SD) < 0.03


def test_hospitals_differ_in_what_they_have(tmp_path: Path) -> None:
    assert all(150 <= hospital.people <= 600 for hospital in HOSPITALS)
    for hospital in HOSPITALS:
        write_site(tmp_path, Hospital(hospital.name, 5, hospital.mix, lacks=hospital.lacks), 1)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["consent.csv", "covariates.csv", "genotypes.vcf.gz"]
        header = (tmp_path / "covariates.csv").read_text().splitlines()[0].split(",")
        expected = {column.name for column in SCHEMA if not isinstance(column, Dosage)} - set(hospital.lacks)
        assert set(header) == {"person"} | expected
    assert {name for hospital in HOSPITALS for name in hospital.lacks} == {"vkorc1_1639", "smoker", "height_cm"}


def test_consents_are_mixed(tmp_path: Path) -> None:
    assert abs(sum(CONSENTS.values()) - 1) < 1e-9
    write_site(tmp_path, Hospital("h", 2000, HOSPITALS[0].mix), 1)
    with (tmp_path / "consent.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CONSENT_COLUMNS
    assert len({row["person"] for row in rows}) == 2000
    medical = [row for row in rows if row["permission"] in {"GRU", "HMB"} and row["valid_until"] > "2050"]
    wide = [row for row in medical if "train" in row["uses"]]
    assert 0.82 < len(wide) / 2000 < 0.89
    assert {row["status"] for row in rows} == {"active", "refused", "withdrawn", "not_asked", "unknown"}
    assert all((row["permission"] == "DS") == bool(row["diseases"]) for row in rows)
