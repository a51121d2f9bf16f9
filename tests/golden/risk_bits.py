"""A risk design that was written by hand, and the bits that the recipe makes of it.

python -m tests.golden.risk_bits        writes tests/golden/risk: a change of these files is a change of the recipe

All numbers are whole or fractions of powers of two, and coefficients are zero where a probability is computed, so that
nothing here depends on a C library or a processor.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from genopact_shared import wire
from genopact_shared.published import Published
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.risk import RISK, RiskParameters, RiskPlan
from genopact_shared.recipes.table import Copies, Floats, Table

FOLDER = Path(__file__).parent / "risk"
GROUPS = ("east", "west")


def whole(*values: Any) -> Any:
    return np.array(values, np.int32)


def real(*values: Any) -> Floats:
    return np.array(values, np.float64)


def arrays() -> dict[str, Any]:
    """Two ancestries, five variants in two blocks, two and one directions, two components."""
    turn = np.arange(5) - 2
    positive = real([3.0, 0.5], [0.5, 2.0])  # what is symmetric and positive definite in the first block
    own, between = positive.ravel(), (positive / 4).ravel()
    return {
        "centre": whole(turn * 8192 + 65536, turn * -8192 + 65536), "mean": whole(*[65536] * 5),
        "score": whole(turn * 131072, turn * 65536), "score_sd": real(0.5, 0.75),
        "loadings": whole([1 << 19, 0, 0, 1 << 18, 0], [0, 0, -(1 << 19), 0, 1 << 17]),
        "component_mean": real(0.125, -0.25), "component_sd": real(0.5, 0.75),
        "centroids": real([0.75, -0.5], [-0.75, 0.5]),
        "second_moments": np.eye(8) + np.ones((8, 8)) / 16, "panel_people": real(100.0, 60.0),
        "block_variants": np.array([0, 3, 5]), "block_directions": np.array([0, 2, 3]),
        "weights": whole(*(np.arange(16) * 77777 % 600001 - 300000)),
        "gram": real(*own / 8, *own / 16, 0.25, 0.125),
        "spread": real(*own, *between, *between, *own, 1.5, 0.25, 0.25, 1.25),
        "response": whole(*(np.arange(32) * 99991 % 4000001 - 2000000)), "response_unit": real(2.0**-22),
        "noise": real(2.5), "least_scale": real(0.0), "unexplained": real(0.5),
    }  # fmt: skip


def people() -> Table:
    """Six, one of them without an outcome, one held out."""
    copies = (np.arange(30).reshape(6, 5) * 7 % 11 % 4 - 1).astype(np.int8)
    columns: dict[str, Any] = {
        "age": real(25, 40, 55, 70, 85, np.nan), "sex": np.array([0, 1, 1, 0, -1, 1], np.int8),
        "held_out": np.array([0, 0, 1, 0, 0, -1], np.int8), "disease": real(1, 0, 1, np.nan, 0, 1),
    }  # fmt: skip
    return Table(columns, 6, Copies(copies))


def plan(folder: Path, data: bytes) -> RiskPlan:
    """The plan of a study that names the design."""
    parameters = RiskParameters(
        variants="0" * 64, design=Published(folder).add(data), directions=3, groups=GROUPS, features=8,
        prevalence_milli=200,
    )  # fmt: skip
    return RISK.plan(parameters, 1000, 1000, Published(folder))


def total(index: int, dims: int) -> Floats:
    """What a step releases, made up."""
    return np.asarray((np.arange(dims) * 37 + index * 11) % 101 / 4.0 - 12.5 + 12 * (index == 8), dtype=np.float64)


def hexes(values: Floats) -> list[Any]:
    return [hexes(row) for row in values] if values.ndim > 1 else [float(value).hex() for value in values]


def bits(of: RiskPlan) -> dict[str, Any]:
    """Features, rows of one step of each kind, log odds, and models after each step."""
    table, model = people(), of.initial()
    features, ancestry = of.design.features(table)
    found: dict[str, Any] = {"features": hexes(features), "ancestry": ancestry.tolist(), "models": []}
    for index, step in enumerate(of.steps):
        even: Model = model | {"coefficients": np.zeros(8)}
        if step.name in {"head-1", "moments", "effects"}:
            found[step.name] = hexes(of.contribution(index, even, table))
        if step.name == "metrics":
            found["log odds"] = hexes(of.log_odds(model, table))
            found["metrics"] = np.argwhere(of.contribution(index, model, table)).tolist()
        model = of.advance(index, model, total(index, step.dims))
        changed = {"effects": "weights"}.get(step.name, step.name if step.name in model else "coefficients")
        found["models"].append(hexes(model[changed]))
    return found


def main() -> None:
    """Write both files."""
    data = wire.pack(arrays())
    (FOLDER / "tiny.design").write_bytes(data)
    with tempfile.TemporaryDirectory() as folder:
        found = bits(plan(Path(folder), data))
    (FOLDER / "bits.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
