"""Row recipes.ancestry: continental populations of 1000 Genomes people, who are mixed over five sites.

    python -m tests.benchmarks.recipes.ancestry

A fifth of the people is held out before anything. Allele frequencies and components (recipe `pca`) of the others are
released, and recipe `ancestry` trains on these. Baseline: pooled logistic regression on twenty components of its own.
"""

import csv
import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA as Components
from sklearn.linear_model import LogisticRegression

from genopact_shared import wire
from genopact_shared.published import Published
from genopact_shared.recipes.ancestry import PARTS
from genopact_shared.recipes.gwas_private import design
from genopact_shared.recipes.pca import PCA, PcaParameters
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Copies, Floats, Table
from tests.benchmarks.federation import Mode, planned, predicted, trained

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "data" / "kg1000_peddy_23k"
SITES, SEED, COMPONENTS = 5, 0, 10
PLAIN = {"rounds": 20, "local_steps": 4, "learning_rate_milli": 1000}
ARMS: tuple[tuple[str, Mode, float, dict[str, Any]], ...] = (
    ("no noise", "none", 0, PLAIN),
    ("distributed, epsilon 8", "distributed", 8, {"rounds": 20, "learning_rate_milli": 4000}),
    ("distributed, epsilon 3", "distributed", 3, {"rounds": 20, "learning_rate_milli": 4000}),
)


class People:
    """Copies (2504, V), populations as classes, sites at random, a fifth held out."""

    def __init__(self) -> None:
        self.copies = np.load(FOLDER / "kg_geno.npz")["G"].astype(np.int8)
        with (FOLDER / "samples.csv").open(encoding="utf-8", newline="") as file:
            names = [row["superpop"] for row in csv.DictReader(file)]
        self.names, found = np.unique(names, return_inverse=True)
        self.classes, rng = found.astype(np.int8), np.random.default_rng(SEED)
        self.site, self.test = rng.integers(SITES, size=len(names)), rng.random(len(names)) < 0.2

    def table(self, some: NDArray[np.bool_]) -> Table:
        return Table({"class": self.classes[some]}, int(some.sum()), Copies(self.copies, np.flatnonzero(some)))

    def sites(self) -> dict[str, Table]:
        return {f"site-{s}": self.table(~self.test & (self.site == s)) for s in range(SITES)}

    def components(self, folder: Path) -> Model:
        """What recipe `pca` makes of the training people, its sums added over the sites."""
        start, count = np.random.default_rng(SEED).normal(size=(self.copies.shape[1], COMPONENTS)), self.copies.shape[1]
        digest = Published(folder).add(design(self.copies[~self.test].mean(axis=0) / 2, loadings=start))
        parameters = PcaParameters(variants="0" * 64, count=count, design=digest, components=COMPONENTS, rounds=8)
        tables = [
            Table(dict(table.columns) | {"trait": np.zeros(table.n)}, table.n, table.genotypes)
            for table in self.sites().values()
        ]
        plan = PCA.plan(parameters, sum(table.n for table in tables), None, Published(folder))
        model = plan.initial()
        for index in range(len(plan.steps)):
            rows = [plan.contribution(index, model, part) for table in tables for part in _parts(table)]
            model = plan.advance(index, model, cast("Floats", np.sum([each.sum(axis=0) for each in rows], axis=0)))
        return model

    def baseline(self) -> float:
        rows = self.copies - self.copies[~self.test].mean(axis=0)
        own = Components(20, random_state=SEED).fit(rows[~self.test])
        train, test = (own.transform(rows[part]) for part in (~self.test, self.test))
        fitted = LogisticRegression(max_iter=2000).fit(train, self.classes[~self.test])
        return float(fitted.score(test, self.classes[self.test]))


def _parts(table: Table) -> list[Table]:
    return [table.take(np.arange(first, min(first + 128, table.n))) for first in range(0, table.n, 128)]


def main() -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    people, note, value = People(), dict[str, Any](), 0.0
    with TemporaryDirectory() as home:
        folder = Path(home)
        found = people.components(folder)
        digest = Published(folder).add(wire.pack({name: found[name] for name in PARTS}))
        test = people.table(people.test)
        for name, mode, epsilon, settings in ARMS:
            parameters = {"variants": "0" * 64, "design": digest, "components": COMPONENTS, "classes": 5} | settings
            plan = planned("ancestry", parameters, people.sites(), mode, epsilon, Published(folder))
            wrong = predicted(plan, trained(plan, people.sites()), test).value.argmax(axis=1) != test.codes("class")
            note[name] = f"{1 - wrong.mean():.4f}, {wrong.sum()} of {test.n} wrong"
            value = value or float(1 - wrong.mean())
    note["pooled, twenty components"] = f"{people.baseline():.4f}"
    note["privacy"] = "frequencies and components are exact in all rows; the budget is that of the linear layer"
    note["populations"] = ", ".join(people.names)
    return {"row": "recipes.ancestry", "value": round(value, 4), "note": note}


if __name__ == "__main__":
    print(json.dumps(main()))
