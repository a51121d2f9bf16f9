"""risk.7: HDL of heterogeneous-stock mice by recipe `trait`, cages as hospitals, ten folds.

Real genotypes and a real trait (Valdar et al., 2006, of package BGLR). The panel is the mice themselves: their linkage
and frequencies are public here, and there is no published score. Sums go through the release kernel's integers.
"""

import csv
import json
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from genopact_client.release.quantise import clipped_integers
from genopact_server.design.directions import Budget
from genopact_server.design.measure import Known, design
from genopact_server.design.panel import Panel, blocks_of
from genopact_server.design.posterior import Posterior
from genopact_shared import wire
from genopact_shared.plan import Plan, plan_of
from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.privacy.noise import skellam
from genopact_shared.published import Published
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.score import ScorePlan
from genopact_shared.recipes.table import Copies, Floats, Table
from genopact_shared.study import Privacy, RecipeChoice, Study

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "bglr_mice"
FOLDS, SEED, DELTA, SHARES = 10, 7, "0.0001", (80, 10, 860)
EPSILONS = (None, 8000, 3000, 1000)
PASSES, DAMPING = 16, 200
"""Mice are families: what one block says of them, all blocks say, and whole steps would overshoot."""
GBLUP = 0.578
"""Pooled, of the data's README."""


class Mice:
    """Those with HDL. `y` standardised over all: for the real study a public mean and scale would serve."""

    def __init__(self) -> None:
        genotypes = np.load(DATA / "mice_geno.npz")["G"]
        rows = list(csv.DictReader((DATA / "mice_pheno.csv").open(encoding="utf-8")))
        hdl = np.array([float(row["Biochem.HDL"] or "nan") for row in rows])
        known = np.flatnonzero(np.isfinite(hdl))
        self.copies = genotypes[known].astype(np.int8)
        self.y = (hdl[known] - hdl[known].mean()) / hdl[known].std()
        days = np.array([float(rows[i]["Biochem.Age"] or "nan") for i in known])
        self.age = 55 + 15 * (days - np.nanmean(days)) / np.nanstd(days)
        self.sex = np.array([rows[i]["GENDER"] == "M" for i in known]).astype(np.int8)
        self.cage = np.unique([rows[i]["cage"] for i in known], return_inverse=True)[1]
        chrom = [row["chr"] for row in csv.DictReader((DATA / "mice_map.csv").open(encoding="utf-8"))]
        everybody = np.zeros(len(known), np.intp)
        self.panel = Panel(self.copies, everybody, ("mice",), blocks_of(chrom))

    def table(self, rows: Any, held_out: Any) -> Table:
        columns: dict[str, Any] = {
            "age": np.clip(np.nan_to_num(self.age[rows], nan=55.0), 0, 120), "sex": self.sex[rows],
            "held_out": held_out[rows].astype(np.int8), "trait": np.clip(self.y[rows], -10, 10),
        }  # fmt: skip
        return Table(columns, len(rows), Copies(self.copies, rows))


def plan(known: Known, epsilon: int | None, mice: Mice, cages: int, folder: Path) -> Plan:
    """The plan of a study of the cages; two thirds of them are honest."""
    training, honest = round(len(mice.y) * (1 - 1 / FOLDS)), -(-2 * cages // 3)
    if epsilon is None:
        budget, noise = Budget.of(training, 1000.0, 10.0, None), 1e-3
        privacy = Privacy(mode="none")
    else:
        shares = [*(each / 1000 for each in SHARES), 1 - sum(SHARES) / 1000]
        multiplier = float(accounting.noise_multipliers(epsilon, DELTA, shares)[2])
        surplus = (cages / honest) ** 0.5
        budget, noise = Budget.of(training, 1 / multiplier / surplus, 1.5, None), multiplier * 1.5 * surplus
        privacy = Privacy(mode="distributed", epsilon_milli=epsilon, delta=DELTA, honest_minimum=honest)
    arrays, published = design(known, budget, noise), Published(folder)
    parameters = {
        "variants": "0" * 64, "design": published.add(wire.pack(arrays)), "groups": ("mice",),
        "directions": int(arrays["block_directions"][-1]), "features": len(arrays["second_moments"]),
        "held_out_milli": 100, "passes": PASSES if epsilon is None else 1, "damping_milli": DAMPING,
    }  # fmt: skip
    study = SimpleNamespace(recipe=RecipeChoice(name="trait", version=1, parameters=parameters), privacy=privacy)
    each = len(mice.y) // cages
    return plan_of(cast("Study", study), {f"cage-{c}": each for c in range(cages)}, published)


def trained(of: Plan, tables: list[Table], cages: int) -> Model:
    """The model of one run. Cages are added up in a few tables; every cage adds its share of the noise."""
    course = cast("ScorePlan", of.course)
    model = course.initial()
    for step in of.steps:
        fact, dims = step.fact, course.steps[step.index].dims
        clip, total = float(fact.clip) if isinstance(fact, NoisedSum) else None, np.zeros(dims, np.int64)
        for table in tables:
            rows = course.contribution(step.index, model, table)
            total += clipped_integers(rows, clip, course.steps[step.index].scale).sum(axis=0, dtype=np.int64)
        if clip is not None:
            total += skellam(cages * step.share_variance, dims)
        # Planned cohorts are even; the patients' true number is the scale here, as an approval would state it.
        estimate = total / course.steps[step.index].scale
        model = course.advance(step.index, model, estimate)
    return model


def correlations(mice: Mice, epsilon: int | None, known: Known, folder: Path) -> tuple[float, float, Plan]:
    """Over the folds: of the whole prediction with HDL, and of the head's covariates alone."""
    fold = np.random.default_rng(SEED).integers(0, FOLDS, len(mice.y))
    cages = int(mice.cage.max()) + 1
    whole, covariates = np.empty(len(mice.y)), np.empty(len(mice.y))
    of = plan(known, epsilon, mice, cages, folder)
    course = cast("ScorePlan", of.course)
    everybody = np.arange(len(mice.y))
    for number in range(FOLDS):
        held_out = fold == number
        table = mice.table(everybody, held_out)
        model = trained(of, [table], cages)
        test = table.take(held_out)
        whole[held_out] = course.log_odds(model, test)
        features: Floats = course.design.features(test)[0]
        covariates[held_out] = features[:, :3] @ model["coefficients"][:3]
    return float(np.corrcoef(whole, mice.y)[0, 1]), float(np.corrcoef(covariates, mice.y)[0, 1]), of


def main() -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    mice, found = Mice(), {}
    nothing = np.zeros((1, len(mice.panel.sd)))
    blank = Posterior(nothing, np.zeros((1, *nothing.shape), np.float32), np.zeros(len(mice.panel.sd)))
    known = Known.of(mice.panel, blank, [1.0])
    with tempfile.TemporaryDirectory() as folder:
        for epsilon in EPSILONS:
            whole, covariates, of = correlations(mice, epsilon, known, Path(folder))
            name = "none" if epsilon is None else f"epsilon {epsilon // 1000}"
            directions = cast("ScorePlan", of.course).parameters.directions
            found[name] = {"r": round(whole, 4), "covariates alone": round(covariates, 4), "directions": directions}
    note = {
        **found, "mice": len(mice.y), "cages": int(mice.cage.max()) + 1, "delta": DELTA,
        "pooled GBLUP without covariates (README)": GBLUP, "pooled GBLUP, residuals of sex and age": pooled(mice),
    }  # fmt: skip
    return {"row": "risk.7", "value": found["none"]["r"], "note": note}


def pooled(mice: Mice) -> dict[str, float]:
    """GBLUP on all mice together, same folds: with sex and age before it, and without."""
    f = mice.copies.mean(axis=0) / 2
    kept = (f > 0.005) & (f < 0.995)
    x = (mice.copies[:, kept] - 2 * f[kept]) / np.sqrt(2 * f[kept] * (1 - f[kept]))
    kinship, fold = x @ x.T / x.shape[1], np.random.default_rng(SEED).integers(0, FOLDS, len(mice.y))
    one = np.ones((len(mice.y), 1))
    told = {}
    for name, rows in (("r", np.column_stack([one, mice.sex, np.nan_to_num(mice.age, nan=55)])), ("without", one)):
        predicted = np.empty(len(mice.y))
        for number in range(FOLDS):
            train, test = fold != number, fold == number
            own = np.linalg.lstsq(rows[train], mice.y[train], rcond=None)[0]
            inner = kinship[np.ix_(train, train)] + np.eye(train.sum())
            weights = np.linalg.solve(inner, mice.y[train] - rows[train] @ own)
            predicted[test] = rows[test] @ own + kinship[np.ix_(test, train)] @ weights
        told[name] = round(float(np.corrcoef(predicted, mice.y)[0, 1]), 4)
    return told


if __name__ == "__main__":
    print(json.dumps(main()))
