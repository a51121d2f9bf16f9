"""Covariates of the warfarin dose study and the twelve features (and intercept) that are made of them.

Additive allele counts, public centres and bounds, and zero for a missing value: no number of any patient but the
row's own enters a row, and a site that lacks a column takes part.
"""

import numpy as np
from numpy.typing import NDArray

from genopact_shared.recipes.table import Choice, Codes, Column, Dosage, Flag, Floats, Number, Table

OUTCOME = "weekly_dose_mg"
RACES = ("White", "Asian", "Black or African American", "other or unknown")
SCHEMA: tuple[Column, ...] = (
    Number("age_decade", "decades, rounded down", 0, 11),
    Number("height_cm", "cm", 50, 250),
    Number("weight_kg", "kg", 20, 350),
    Choice("sex", ("female", "male")),
    Choice("race", RACES, "group"),
    Flag("amiodarone"),
    Flag("carbamazepine"),
    Flag("phenytoin"),
    Flag("rifampin"),
    Flag("smoker"),
    Dosage("vkorc1_1639", "rs9923231", "VKORC1", effect="T", other="C"),
    Dosage("vkorc1_1173", "rs9934438", "VKORC1", effect="A", other="G"),
    Dosage("vkorc1_1542", "rs8050894", "VKORC1", effect="G", other="C"),
    Dosage("vkorc1_2255", "rs2359612", "VKORC1", effect="A", other="G"),
    Dosage("cyp2c9_2", "rs1799853", "CYP2C9", effect="T", other="C"),
    Dosage("cyp2c9_3", "rs1057910", "CYP2C9", effect="C", other="A"),
    Number(OUTCOME, "mg/week", 0.5, 400, "outcome"),
)
NET_SCHEMA: tuple[Column, ...] = (*SCHEMA, Flag("held_out"))
"""Of networks, which do not train on whoever is held out."""
FEATURES = (
    "intercept", "age", "height", "weight", "vkorc1", "vkorc1_missing", "cyp2c9_2", "cyp2c9_3", "black", "inducer",
    "amiodarone", "smoker", "male",
)  # fmt: skip
CENTRE = {"age_decade": (6.0, 1.5), "height_cm": (168.0, 10.0), "weight_kg": (78.0, 20.0)}
"""Public centre and scale of the numbers; three scales either way are the bounds."""
BOUND = 3.0
FIXED_DOSE_MG = 35.0
"""The usual starting dose of 5 mg a day: what a model of zeros predicts."""


def vkorc1(table: Table) -> Codes:
    """(n,) int8 copies of the low-dose allele at rs9923231, imputed from its neighbours; -1 unknown.

    Source: IWPC, N Engl J Med 2009;360:753-764, supplementary appendix. rs2359612 and rs8050894 stand in unless the
    patient is Black or of unknown race, rs9934438 always.
    """
    dosage = table.codes("vkorc1_1639").copy()
    race = table.codes("race")
    in_linkage = (race == RACES.index("White")) | (race == RACES.index("Asian"))
    for name, allowed in (("vkorc1_2255", in_linkage), ("vkorc1_1173", True), ("vkorc1_1542", in_linkage)):
        proxy = table.codes(name)
        dosage = np.where((dosage < 0) & allowed, proxy, dosage)
    return dosage.astype(np.int8)


def features(table: Table) -> Floats:
    """(n, 13) float64 in the order of FEATURES; bounded, and finite whatever the table holds."""
    number = {name: _standardised(table.number(name), *scale) for name, scale in CENTRE.items()}
    low_dose = vkorc1(table)
    variant = {name: np.maximum(table.codes(name), 0) for name in ("cyp2c9_2", "cyp2c9_3")}
    inducer = np.any([table.codes(name) == 1 for name in ("carbamazepine", "phenytoin", "rifampin")], axis=0)
    columns = [np.ones(table.n), *number.values(), np.where(low_dose < 0, 0, low_dose - 1), low_dose < 0]
    columns += [*variant.values(), table.codes("race") == RACES.index("Black or African American"), inducer]
    columns += [table.codes(name) == 1 for name in ("amiodarone", "smoker", "sex")]
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])


def abstains(table: Table, low: Floats, high: Floats, widest: float = 4.0) -> NDArray[np.bool_]:
    """(n,) who gets no advice; see `reasons`."""
    return np.asarray(reasons(table, low, high, widest) != "")


def reasons(table: Table, low: Floats, high: Floats, widest: float = 4.0) -> NDArray[np.str_]:
    """(n,) why a patient gets no advice, "" for who gets it: VKORC1 unknown, a number out of bounds, a wide interval.

    Args:
        table: the patients.
        low: (n,) of the prediction's interval.
        high: (n,) likewise.
        widest: how many times `low` the end of an interval may be; one that is not a number is too wide.
    """
    beyond = np.zeros(table.n, np.bool_)
    for name, (centre, scale) in CENTRE.items():
        beyond |= np.abs(table.number(name) - centre) > BOUND * scale
    silent = [vkorc1(table) < 0, beyond, ~(high <= widest * low)]
    return np.select(silent, ["VKORC1 is unknown", "beyond what was studied", "the interval is too wide"], "")


def outcome(table: Table) -> Floats:
    """(n,) square root of the weekly dose less that of the fixed dose; NaN where there is none."""
    dose = table.number(OUTCOME)
    root = np.sqrt(np.where(dose > 0, dose, np.nan))
    return np.asarray(root - FIXED_DOSE_MG**0.5, dtype=np.float64)


def dose_mg(shifted_root: Floats) -> Floats:
    """mg/week from the scale of `outcome`."""
    root: Floats = np.maximum(shifted_root + FIXED_DOSE_MG**0.5, 0.0)
    return np.asarray(root * root, dtype=np.float64)


def _standardised(values: Floats, centre: float, scale: float) -> Floats:
    bounded = np.clip((values - centre) / scale, -BOUND, BOUND)
    return np.nan_to_num(np.asarray(bounded, dtype=np.float64), nan=0.0)
