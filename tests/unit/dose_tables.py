"""Random covariate tables for the tests of the dose recipe."""

import numpy as np

from genopact_shared.recipes.dose_features import SCHEMA
from genopact_shared.recipes.table import Choice, Codes, Dosage, Floats, Number, Table


def random_table(n: int, seed: int, *, missing: float = 0.2, absent: tuple[str, ...] = ()) -> Table:
    """Every column uniform over its range, a share of the cells missing, some columns absent."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Floats | Codes] = {}
    for column in SCHEMA:
        gone = rng.random(n) < missing
        if isinstance(column, Number):
            columns[column.name] = np.where(gone, np.nan, rng.uniform(column.low, column.high, n))
        else:
            levels = len(column.levels) if isinstance(column, Choice) else 3 if isinstance(column, Dosage) else 2
            columns[column.name] = np.where(gone, -1, rng.integers(levels, size=n)).astype(np.int8)
    return Table({name: values for name, values in columns.items() if name not in absent}, n)


def changed(table: Table, row: int, seed: int) -> Table:
    """The same table but for one patient, who becomes another one."""
    other = random_table(table.n, seed, missing=0.0)
    columns = {name: values.copy() for name, values in table.columns.items()}
    for name, values in columns.items():
        values[row] = other.columns[name][row]
    return Table(columns, table.n)
