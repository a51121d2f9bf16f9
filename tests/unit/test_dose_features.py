"""Features of the dose recipe against a reference, public moments against simulation, the published equation."""

import math
from itertools import product

import numpy as np
import pytest

from genopact_shared.errors import GenopactError
from genopact_shared.recipes import dose_public as public
from genopact_shared.recipes.dose_features import FEATURES, OUTCOME, RACES, SCHEMA, dose_mg, features, outcome, vkorc1
from genopact_shared.recipes.equation import iwpc_weekly_dose
from genopact_shared.recipes.table import Codes, Floats, Table
from tests.unit.dose_tables import random_table

ABSENT = ((), ("vkorc1_1639",), ("height_cm", "smoker", "race"), tuple(column.name for column in SCHEMA))


def reference_vkorc1(patient: dict[str, float]) -> int:
    if patient["vkorc1_1639"] >= 0:
        return int(patient["vkorc1_1639"])
    known_race = patient["race"] in (0, 1)
    for name in ("vkorc1_2255", "vkorc1_1173", "vkorc1_1542"):
        if patient[name] >= 0 and (known_race or name == "vkorc1_1173"):
            return int(patient[name])
    return -1


def reference_features(patient: dict[str, float]) -> list[float]:
    def scaled(name: str, centre: float, scale: float) -> float:
        value = patient[name]
        return 0.0 if math.isnan(value) else min(3.0, max(-3.0, (value - centre) / scale))

    low_dose = reference_vkorc1(patient)
    return [
        1.0,
        scaled("age_decade", 6, 1.5),
        scaled("height_cm", 168, 10),
        scaled("weight_kg", 78, 20),
        0.0 if low_dose < 0 else low_dose - 1.0,
        float(low_dose < 0),
        max(0.0, patient["cyp2c9_2"]),
        max(0.0, patient["cyp2c9_3"]),
        float(patient["race"] == 2),
        float(1 in (patient["carbamazepine"], patient["phenytoin"], patient["rifampin"])),
        float(patient["amiodarone"] == 1),
        float(patient["smoker"] == 1),
        float(patient["sex"] == 1),
    ]


def patients(table: Table) -> list[dict[str, float]]:
    numbers = {"age_decade", "height_cm", "weight_kg", OUTCOME}
    columns = {c.name: table.number(c.name) if c.name in numbers else table.codes(c.name) for c in SCHEMA}
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(table.n)]


@pytest.mark.parametrize("absent", ABSENT)
def test_features_follow_the_reference(absent: tuple[str, ...]) -> None:
    table = random_table(300, 1, missing=0.4, absent=absent)
    assert np.allclose(features(table), [reference_features(patient) for patient in patients(table)])
    assert vkorc1(table).tolist() == [reference_vkorc1(patient) for patient in patients(table)]
    assert features(table).shape == (300, len(FEATURES))


def test_features_are_finite_and_bounded_whatever_the_numbers() -> None:
    wild = np.array([np.inf, -np.inf, np.nan, 1e308, -1e308])
    table = Table({"age_decade": wild, "height_cm": wild, "weight_kg": wild}, 5)
    assert np.abs(features(table)).max() <= 3


def test_outcome_and_dose_are_inverse() -> None:
    dose = np.array([2.0, 35.0, 315.0])
    assert np.allclose(dose_mg(outcome(Table({OUTCOME: dose}, 3))), dose)
    assert dose_mg(np.array([-100.0])).tolist() == [0.0]
    assert np.isnan(outcome(Table({OUTCOME: np.array([0.0, -1.0, np.nan])}, 3))).all()
    assert np.isnan(outcome(Table({}, 2))).all()


def test_a_table_refuses_other_shapes_and_types() -> None:
    for column in (np.zeros(2), np.zeros((3, 1)), np.zeros(3, dtype=np.int64)):
        with pytest.raises(GenopactError, match="TABLE_INVALID"):
            Table({"x": column}, 3)  # type: ignore[dict-item]


def test_taking_rows_by_index_and_by_mask() -> None:
    table = random_table(10, 2)
    mask = np.arange(10) % 3 == 0
    by_mask, by_index = table.take(mask), table.take(np.flatnonzero(mask))
    assert by_mask.n == by_index.n == 4
    assert all(np.array_equal(by_mask.columns[c], by_index.columns[c], equal_nan=True) for c in table.columns)


def simulated_population(n: int, mix: tuple[float, ...]) -> Table:
    """Patients drawn one covariate at a time from the public figures."""
    rng = np.random.default_rng(3)
    strata = list(public.POPULATION.values())
    race = rng.choice(4, n, p=mix)
    male = rng.random(n) < public.P_MALE
    figures = {f: np.array([getattr(s, f) for s in strata])[race] for f in ("height", "weight")}
    allele = {f: np.array([getattr(s, f) for s in strata])[race] for f in ("vkorc1", "cyp2c9_2", "cyp2c9_3")}
    first, second = rng.normal(size=(2, n))
    rho = public.HEIGHT_WEIGHT_CORRELATION
    deviate = {"height": first, "weight": rho * first + math.sqrt(1 - rho**2) * second}
    body = {f: np.where(male, figures[f][:, 0], figures[f][:, 1]) + figures[f][:, 2] * deviate[f] for f in deviate}
    chromosome = rng.random((2, n))
    two = (chromosome < allele["cyp2c9_2"]).sum(axis=0)
    three = (chromosome < allele["cyp2c9_2"] + allele["cyp2c9_3"]).sum(axis=0) - two
    gone = {name: rng.random(n) < p for name, p in public.P_MISSING.items()}
    codes = {
        "race": race,
        "sex": male,
        "vkorc1_1639": np.where(gone["vkorc1"], -1, rng.binomial(2, allele["vkorc1"])),
        "cyp2c9_2": np.where(gone["cyp2c9"], -1, two),
        "cyp2c9_3": np.where(gone["cyp2c9"], -1, three),
        "phenytoin": rng.random(n) < public.P_FLAG["inducer"],
        "amiodarone": rng.random(n) < public.P_FLAG["amiodarone"],
        "smoker": rng.random(n) < public.P_FLAG["smoker"],
    }
    columns: dict[str, Floats | Codes] = {name: np.asarray(values, dtype=np.int8) for name, values in codes.items()}
    columns["age_decade"] = rng.normal(6.0, public.AGE_SD, n)
    columns["height_cm"] = np.where(gone["height"], np.nan, body["height"])
    columns["weight_kg"] = np.where(gone["weight"], np.nan, body["weight"])
    return Table(columns, n)


@pytest.mark.parametrize("mix", [(0.5, 0.3, 0.1, 0.1), (0.1, 0.1, 0.7, 0.1)])
def test_public_moments_agree_with_simulation(mix: tuple[float, ...]) -> None:
    n = 400_000
    rows = features(simulated_population(n, mix))
    # The bounds of the numbers cut tails that the closed form keeps.
    assert np.abs(rows.T @ rows / n - np.array(public.second_moments(mix))).max() < 0.02


def patient(**values: float) -> Table:
    numbers = ("age_decade", "height_cm", "weight_kg")
    return Table({k: np.array([v], dtype=float if k in numbers else np.int8) for k, v in values.items()}, 1)


def test_equation_for_patients_worked_by_hand() -> None:
    body = {"age_decade": 6, "height_cm": 170, "weight_kg": 80}
    wild = patient(**body, race=0, vkorc1_1639=0, cyp2c9_2=0, cyp2c9_3=0)
    root = 5.6044 - 0.2614 * 6 + 0.0087 * 170 + 0.0128 * 80
    assert iwpc_weekly_dose(wild)[0] == pytest.approx(root**2)
    asian = patient(**body, race=1, vkorc1_1639=2, cyp2c9_2=1, cyp2c9_3=1, rifampin=1, amiodarone=1)
    expected = (root - 0.1092 - 1.6974 - 1.9206 + 1.1816 - 0.5503) ** 2
    assert iwpc_weekly_dose(asian)[0] == pytest.approx(expected)
    unknown = patient(**body)
    assert iwpc_weekly_dose(unknown)[0] == pytest.approx((root - 0.1032 - 0.4854 - 0.2188) ** 2)


def test_equation_needs_age_height_and_weight() -> None:
    body = {"age_decade": 6.0, "height_cm": 170.0, "weight_kg": 80.0}
    for name in body:
        assert np.isnan(iwpc_weekly_dose(patient(**{k: v for k, v in body.items() if k != name}))[0])


def test_each_copy_of_a_low_dose_allele_lowers_the_published_dose() -> None:
    body = {"age_decade": 5, "height_cm": 180, "weight_kg": 90, "race": 0}
    for v, two, three in product(range(3), range(2), range(2)):
        here = iwpc_weekly_dose(patient(**body, vkorc1_1639=v, cyp2c9_2=two, cyp2c9_3=three))[0]
        if v:
            assert here < iwpc_weekly_dose(patient(**body, vkorc1_1639=v - 1, cyp2c9_2=two, cyp2c9_3=three))[0]
        if two:
            assert here < iwpc_weekly_dose(patient(**body, vkorc1_1639=v, cyp2c9_2=0, cyp2c9_3=three))[0]


def test_races_are_the_levels_of_the_schema() -> None:
    race = next(column for column in SCHEMA if column.name == "race")
    assert race.role == "group"
    assert getattr(race, "levels", ()) == RACES
