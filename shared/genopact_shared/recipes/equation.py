"""The published pharmacogenetic dose equation: a row to compare with, and the source of generated cohorts."""

import numpy as np

from genopact_shared.recipes.dose_features import RACES, vkorc1
from genopact_shared.recipes.table import Floats, Table

_RACE = {"Asian": -0.1092, "Black or African American": -0.2760, "other or unknown": -0.1032}
_VKORC1 = (0.0, -0.8677, -1.6974)
_CYP2C9 = {(1, 0): -0.5211, (0, 1): -0.9357, (2, 0): -1.0616, (1, 1): -1.9206, (0, 2): -2.3312}


def iwpc_weekly_dose(table: Table) -> Floats:
    """(n,) mg/week; NaN where age, height or weight is missing.

    Unknown genotypes have terms of their own; unknown race counts as mixed or missing.
    Source: IWPC, N Engl J Med 2009;360:753-764, supplementary appendix, section S1e.
    """
    root = 5.6044 - 0.2614 * table.number("age_decade")
    root += 0.0087 * table.number("height_cm") + 0.0128 * table.number("weight_kg")
    dosage = vkorc1(table)
    root += np.select([dosage == copies for copies in range(3)], _VKORC1, default=-0.4854)
    two, three = table.codes("cyp2c9_2"), table.codes("cyp2c9_3")
    root += np.where((two < 0) | (three < 0), -0.2188, 0.0)
    for (copies_two, copies_three), effect in _CYP2C9.items():
        root += np.where((two == copies_two) & (three == copies_three), effect, 0.0)
    race = table.codes("race")
    race = np.where(race < 0, RACES.index("other or unknown"), race)
    for name, effect in _RACE.items():
        root += np.where(race == RACES.index(name), effect, 0.0)
    inducer = np.any([table.codes(name) == 1 for name in ("carbamazepine", "phenytoin", "rifampin")], axis=0)
    root += 1.1816 * inducer - 0.5503 * (table.codes("amiodarone") == 1)
    return np.asarray(np.maximum(root, 0.0) ** 2, dtype=np.float64)
