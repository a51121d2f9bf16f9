"""How a row of typed columns becomes bytes and back: packed, in the schema's order, little-endian.

Number: 8 bytes, IEEE double, NaN missing. Choice, Flag, Dosage: one signed byte, -1 missing.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopact_shared.errors import GenopactError, require
from genopact_shared.recipes.protocol import Column, Table


def facts(schema: Sequence[Column]) -> tuple[dict[str, Any], ...]:
    """The schema as JSON without floats: kind, name and every declared property, reals as decimal strings."""
    return tuple({"kind": type(column).__name__.lower(), **_plain(asdict(column))} for column in schema)


def row_type(columns: Sequence[dict[str, Any]]) -> np.dtype[np.void]:
    """The packed type of one row, from `facts`."""
    return np.dtype([(column["name"], "<f8" if column["kind"] == "number" else "i1") for column in columns])


def pack(table: Table, kind: np.dtype[np.void]) -> NDArray[np.void]:
    """The rows of a table, (n,) of `kind`; columns that the table lacks are missing throughout."""
    packed = np.empty(table.n, kind)
    for name in kind.names or ():
        packed[name] = table.number(name) if kind[name] == np.float64 else table.codes(name)
    return packed


def unpack(rows: bytes, kind: np.dtype[np.void]) -> Table:
    """The table of packed rows."""
    packed = np.frombuffer(rows, kind)
    return Table({name: packed[name].copy() for name in kind.names or ()}, len(packed))


def check(table: Table, columns: Sequence[dict[str, Any]]) -> None:
    """Refuse columns that the schema (as `facts`) does not have and values outside what it declares.

    Raises:
        GenopactError: TABLE_INVALID.
    """
    declared = {column["name"]: column for column in columns}
    for name, values in table.columns.items():
        require(name in declared, "TABLE_INVALID", f"column {name} is not in the schema")
        low, high, kind = _bounds(declared[name])
        if values.dtype != kind or not (np.isnan(values) | ((values >= low) & (values <= high))).all():
            raise GenopactError("TABLE_INVALID", f"column {name}: a value outside its declaration")


def _bounds(column: dict[str, Any]) -> tuple[float, float, type[np.generic]]:
    if column["kind"] == "number":
        return float(column["low"]), float(column["high"]), np.float64
    highest = {"choice": len(column.get("levels", ())) - 1, "dosage": 2}
    return -1, highest.get(column["kind"], 1), np.int8


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return repr(float(value)) if isinstance(value, int | float) else value
