"""Row recipes.cell_response: the response of cell lines to 265 drugs, tissues as sites; lines and tissues unseen.

    python -m tests.benchmarks.recipes.cells

Public data, mode none: each tissue makes one step a round along all of its lines' gradients. Such a round is one step
along everybody's gradient, which is how it is computed here; the sites' own steps are compared with it in the first
round of each run. Settings were chosen on the first five of ten folds of lines; what the others give is told apart.
Measure: a drug's correlation over all lines while they were unseen; the median over drugs.
"""

import csv
import gzip
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genopact_shared.plan import Plan
from genopact_shared.recipes.cell_response import CELL_RESPONSE
from genopact_shared.recipes.network import Network, weights_of
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Floats, Table
from tests.benchmarks.federation import Mode, matrix, planned, predicted, trained, with_matrices

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "gdsc_v17"
FOLDS, TUNED, SEED, HALF = 10, 5, 0, 2.0
"""HALF: a public unit of log IC50, so that responses lie near -1 and 1."""
NETWORK = {
    "width": 64, "rounds": 200, "local_steps": 1, "sampling_rate_milli": 1000, "learning_rate_milli": 1000,
    "optimiser": "adam", "server_rate_milli": 80, "decay_milli": 100, "averaged": 100,
}  # fmt: skip
PRIVATE = {"width": 8, "rounds": 60, "optimiser": "adam", "server_rate_milli": 80, "averaged": 20, "clip_milli": 500}
RIDGE, LEAST = 100.0, 20
"""Penalty of the pooled regressions; lines that a drug needs to be judged."""


class Cells:
    """988 lines: binary features with tissues (n, F), responses (n, 265) in units of HALF, tissue and fold (n,)."""

    def __init__(self) -> None:
        response, genome = (_read(f"{name}_v17.csv.gz") for name in ("IC50", "genomic_features"))
        lines = [line for line in response[1] if line in genome[1]]
        tissues = sorted({genome[1][line][0] for line in lines})
        self.tissue = np.array([tissues.index(genome[1][line][0]) for line in lines])
        rows = np.array([[float(cell) for cell in genome[1][line][1:]] for line in lines])
        self.features = np.column_stack([rows, np.eye(len(tissues))[self.tissue]])
        self.names, self.drugs = [*genome[0][1:], *tissues], response[0]
        cells = [[float(cell) if cell else np.nan for cell in response[1][line]] for line in lines]
        self.response = np.array(cells) / HALF
        self.fold = np.random.default_rng(SEED).integers(FOLDS, size=len(lines))

    def table(self, some: NDArray[np.bool_]) -> Table:
        return with_matrices(int(some.sum()), {}, {"genome": self.features[some], "response": self.response[some]})

    def plan(self, train: NDArray[np.bool_], mode: Mode, epsilon: float, settings: dict[str, Any]) -> Any:
        """The plan, and the tables of the sites: a tissue each."""
        sites = {f"tissue-{t}": self.table(train & (self.tissue == t)) for t in np.unique(self.tissue[train])}
        matrices = [matrix("genome", self.names, "genome"), matrix("response", self.drugs, "drug")]
        return planned("cell-response", {"matrices": matrices, **settings}, sites, mode, epsilon), sites

    def unseen(self, parts: NDArray[np.int64], fit: Any) -> Floats:
        """(n, drugs) predictions of models that were made without the line's part."""
        found = np.full_like(self.response, np.nan)
        for part in np.unique(parts[parts >= 0]):
            found[parts == part] = fit(parts != part, self.table(parts == part))
        return found

    def network(self, train: NDArray[np.bool_], test: Table) -> Floats:
        plan, sites = self.plan(train, "none", 0, NETWORK)
        return predicted(plan, descended(plan, sites, self.table(train)), test).value

    def private(self, epsilon: float) -> Any:
        def fit(train: NDArray[np.bool_], test: Table) -> Floats:
            plan, sites = self.plan(train, "distributed", epsilon, PRIVATE)
            return predicted(plan, trained(plan, sites), test).value

        return fit

    def mean(self, train: NDArray[np.bool_], test: Table) -> Floats:
        return np.tile(np.nanmean(self.response[train], axis=0), (test.n, 1))

    def ridge(self, train: NDArray[np.bool_], test: Table) -> Floats:
        """A regression for each drug on all lines together; missing responses are the drug's mean."""
        centre, mean = self.features[train].mean(axis=0), np.nanmean(self.response[train], axis=0)
        x, y = self.features[train] - centre, np.nan_to_num(self.response[train] - mean)
        weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
        return np.asarray((test.matrices["genome"] - centre) @ weights + mean)

    def judged(self, found: Floats, some: NDArray[np.bool_]) -> float:
        """Median over drugs of the correlation over lines."""
        rs = []
        for drug, y in enumerate(self.response.T):
            own = some & ~np.isnan(y) & ~np.isnan(found[:, drug])
            if own.sum() >= LEAST:
                varies = found[own, drug].std() > 0
                rs.append(float(np.corrcoef(found[own, drug], y[own])[0, 1]) if varies else 0.0)
        return float(np.median(rs))

    def told(self, found: Floats, some: NDArray[np.bool_]) -> str:
        """And the root of the mean squared error, log IC50."""
        error = HALF * float(np.sqrt(np.nanmean((found - self.response)[some] ** 2)))
        return f"r {self.judged(found, some):.4f}, error {error:.3f}"


def descended(plan: Plan, sites: dict[str, Table], everybody: Table) -> Model:
    """`federation.trained` for one whole step a site and round: the step along everybody's gradient."""
    course = plan.course
    assert isinstance(course, Network)
    model, rate = course.initial(), course.parameters.learning_rate_milli / 1000 / sum(course.planned.values())
    inputs, targets = (each.double() for each in course.tensors(everybody))
    first = trained(plan, sites, 1)
    for index in range(course.parameters.rounds):
        module = course.module(model).double()
        named = dict(module.named_parameters())
        slopes = torch.autograd.grad(CELL_RESPONSE.loss(module, inputs, targets).sum(), list(named.values()))
        change = {name: -rate * slope.numpy() for name, slope in zip(named, slopes, strict=True)}
        model = course.advance(index, model, change)
        if index == 0 and any(not np.allclose(first[name], model[name], atol=1e-4) for name in weights_of(model)):
            raise RuntimeError("the sites' own steps lead elsewhere")
    return model


def _read(name: str) -> tuple[list[str], dict[str, list[str]]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        (_, *header), *rows = csv.reader(file)
    return header, {row[0]: row[1:] for row in rows}


def main() -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cells, note, value = Cells(), dict[str, Any](), 0.0
    everybody, later, few = (cells.fold >= least for least in (0, TUNED, FOLDS - 2))
    for unseen, parts in (("lines", cells.fold), ("tissues", cells.tissue)):
        for name, fit in (("drug's mean", cells.mean), ("ridge, pooled", cells.ridge), ("network", cells.network)):
            begun, found = time.perf_counter(), cells.unseen(parts, fit)
            rest = f"; folds that no setting was chosen on: {cells.told(found, later)}" * (unseen == "lines")
            told = f"{cells.told(found, everybody)}{rest}; {time.perf_counter() - begun:.0f} s"
            note[f"unseen {unseen}, {name}"] = told
            if (unseen, name) == ("lines", "network"):
                value = cells.judged(found, everybody)
    for epsilon in (8, 3):
        begun, found = time.perf_counter(), cells.unseen(np.where(few, cells.fold, -1), cells.private(epsilon))
        told = f"{cells.told(found, few)} on 2 folds; {time.perf_counter() - begun:.0f} s"
        note[f"unseen lines, network, epsilon {epsilon}, distributed"] = told
    return {"row": "recipes.cell_response", "value": round(value, 4), "note": note}


if __name__ == "__main__":
    print(json.dumps(main()))
