"""Row risk.net: a network on genotype blocks beside recipe `risk` with the same public data, on the frozen cohort.

    python -m tests.benchmarks.risk_net_rows [--seed 7] [--cohort FOLDER]

Eight hospitals, 19,203 patients train, 4,797 are held out. Trait `y` adds up over variants; half of the genetic
variance of `y_nl` comes from dominance and from products of variants. Both recipes run as in a study: plans, clipped,
noised sums or steps at each hospital, the coordinator's part; only the inputs, which do not change, are computed once.
`risk` is distributed, the mlp local and at epsilons 3 and 1 distributed, the transformer local. Settings were chosen on
seeds 12 and 13. Noise is never seeded.
"""

import argparse
import json
import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genopact_server.design.measure import Known
from genopact_server.design.panel import Panel
from genopact_server.design.tokens import Tokens, design
from genopact_shared.plan import Plan, plan_of
from genopact_shared.published import Published
from genopact_shared.recipes import NETWORKS
from genopact_shared.recipes.network import Network
from genopact_shared.recipes.risk import RiskPlan
from genopact_shared.recipes.risk_net import AGE, RISK_NET, RiskNetParameters, RiskNetRecipe
from genopact_shared.recipes.table import Codes, Floats, Table
from genopact_shared.study import Frozen, Privacy, RecipeChoice, Study
from tests.benchmarks import risk_cohort, risk_study
from tests.benchmarks.federation import trained
from tests.benchmarks.record import markdown

DELTA = "0.000001"
TRAITS, EPSILONS = ("y", "y_nl"), (None, 8, 3, 1)
FORMS: dict[str, dict[str, Any]] = {
    "mlp": {"width": 4}, "transformer": {"width": 8}, "mlp distributed": {"width": 4, "architecture": "mlp"}
}  # fmt: skip
SETTINGS: dict[int | None, dict[str, int]] = {
    None: {"rounds": 6, "local_steps": 4, "sampling_rate_milli": 250, "learning_rate_milli": 2000, "gain_milli": 3000},
    8: {"local_steps": 4, "sampling_rate_milli": 250},
    3: {},
    1: {"learning_rate_milli": 3000, "gain_milli": 1000},
}
"""By epsilon; otherwise the recipe's defaults."""
SHORTER = {"transformer": {3: {"sampling_rate_milli": 250}, 1: {"sampling_rate_milli": 250}}}
"""For the time that a benchmark may take."""
POOLED_C = 0.3
"""Inverse penalty of the pooled regression."""
Job = tuple[str, str, int | None]
JOBS: list[Job] = [
    (trait, form, epsilon) for form in reversed(FORMS) for epsilon in EPSILONS for trait in TRAITS
    if form != "mlp distributed" or epsilon in {3, 1}
]  # fmt: skip


@dataclass(frozen=True)
class Held:
    """Genotypes in memory; see `table.Genotypes`."""

    codes: Codes

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Held":
        return Held(self.codes[rows])

    def dosages(self, some: slice) -> Codes:
        return self.codes[some]


class Remembered(RiskNetRecipe):
    """The recipe on patients whom a table names by their `row`, because inputs are the same in every round."""

    inputs: Tensor
    targets: Tensor

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(table.number("row").astype(np.int64))
        return self.inputs[rows], self.targets[rows]


@dataclass(frozen=True, eq=False)
class Cohort:
    """`inputs`: (24000, d) of the recipe; `traits`: (24000,) each; `hospital`, `test`: (24000,); `parameters`: of the
    published file; `seconds`: to make the file, and the inputs.
    """

    inputs: NDArray[np.float32]
    traits: dict[str, Floats]
    hospital: NDArray[np.int64]
    test: NDArray[np.bool_]
    parameters: dict[str, Any]
    seconds: tuple[float, float]

    def sites(self) -> dict[str, Table]:
        """The training patients of each hospital."""
        labels = np.unique(self.hospital)
        return {f"site-{h}": _people(np.flatnonzero((self.hospital == h) & ~self.test)) for h in labels}

    def auc(self, trait: str, scores: Floats) -> float:
        """Of the held-out patients' scores."""
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(self.traits[trait][self.test], scores))


def load(seed: int, folder: Path) -> Cohort:
    """The cohort as the recipe sees it: file from the panel and the public GWAS, inputs from genotypes."""
    private, public = (dict(np.load(folder / f"{kind}_seed{seed}.npz")) for kind in ("patients", "public"))
    panel = risk_cohort.unpacked(folder / "reference_2bit.npy.xz", risk_cohort.REFERENCE)
    people = risk_cohort.unpacked(folder / "genotypes_2bit.npy.xz", risk_cohort.PEOPLE)
    known = risk_cohort.public_of(public, panel)
    block = np.repeat(np.arange(len(known.blocks)), [len(own) for own in known.blocks])
    codes = [np.column_stack([read(own).astype(np.int8) for own in known.blocks]) for read in (panel, people)]
    ancestry, weights = public["ref_pop"].astype(np.intp), known.weights / known.sd
    unpacked = time.perf_counter()
    blocks = tuple(np.flatnonzero(block == b) for b in range(len(known.blocks)))
    data, found = design(Tokens(Panel(codes[0], ancestry, risk_study.NAMES, blocks), weights))
    designed = time.perf_counter()
    covariates = {"age": AGE[0] + AGE[1] * private["age"], "sex": (private["sex"] > 0).astype(np.int8)}
    table = Table(covariates, len(private["age"]), Held(codes[1]))
    with TemporaryDirectory() as home:
        published = Published(Path(home))
        parameters = {"variants": "0" * 64, "prevalence_milli": 150, "design": published.add(data), **found}
        inputs, _ = RISK_NET.tensors(table, RiskNetParameters.model_validate(parameters), published)
    return Cohort(
        inputs.numpy(),
        {trait: private[trait].astype(np.float64) for trait in TRAITS},
        private["hosp"].astype(np.int64),
        private["test"],
        parameters,
        (designed - unpacked, time.perf_counter() - designed),
    )


def planned(cohort: Cohort, form: str, epsilon: int | None) -> Plan:
    """The plan of a study of these hospitals, cohorts declared to the next ten."""
    settings = SETTINGS[epsilon] | SHORTER.get(form, {}).get(epsilon or 0, {}) | FORMS[form]
    parameters = {"architecture": form} | cohort.parameters | settings
    choice = RecipeChoice(name=RISK_NET.name, version=1, parameters=parameters)
    mode = "none" if epsilon is None else "distributed" if form.endswith("distributed") else "local"
    honest = risk_study.HONEST if mode == "distributed" else 1
    epsilon_milli = epsilon and 1000 * epsilon
    privacy = Privacy(mode=mode, epsilon_milli=epsilon_milli, delta=DELTA, honest_minimum=honest)  # type: ignore[arg-type]
    study = cast("Study", SimpleNamespace(recipe=choice, privacy=privacy))
    return plan_of(study, {site: round(table.n, -1) for site, table in cohort.sites().items()})


@dataclass(frozen=True)
class Arm:
    """AUC of a trained network and of its first weights, certified epsilon, weights, seconds."""

    auc: float
    first: float
    epsilon: float
    weights: int
    seconds: float


STATE: dict[str, Cohort] = {}


def _work(job: Job) -> tuple[Job, Arm]:
    torch.set_num_threads(1)
    cohort, (trait, form, epsilon), started = STATE["cohort"], job, time.perf_counter()
    inputs, targets = torch.from_numpy(cohort.inputs), torch.from_numpy(cohort.traits[trait].astype(np.float32))
    NETWORKS[RISK_NET.name] = recipe = Remembered(*RISK_NET)
    recipe.inputs, recipe.targets = inputs, targets
    of, held_out = planned(cohort, form, epsilon), _people(np.flatnonzero(cohort.test))
    assert isinstance(of.course, Network)
    first, model = of.course.initial(), trained(of, cohort.sites())
    auc, before = (cohort.auc(trait, of.course.outputs(each, held_out)) for each in (model, first))
    size = sum(values.size for values in model.values())
    return job, Arm(auc, before, of.epsilon, size, time.perf_counter() - started)


def measured(cohort: Cohort) -> dict[Job, Arm]:
    """Every trait, network and epsilon, on all cores; longest first."""
    STATE["cohort"] = cohort
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        return dict(pool.map(_work, JOBS))


def risks(seed: int, folder: Path, cohort: Cohort) -> dict[tuple[str, int | None], float]:
    """AUC of recipe `risk`, distributed, by trait and epsilon."""
    copies, found = risk_study.dosages("genotypes_2bit.npy.xz", risk_study.PEOPLE, folder), {}
    one = risk_study.Cohort.load(seed, copies, folder)
    shares = np.bincount(one.private["pop"]) / risk_study.PEOPLE
    known = Known.of(*risk_study.public(seed, folder), shares.tolist())
    for trait, y in cohort.traits.items():
        of = replace(one, private=one.private | {"y": y})
        tables, held_out = [of.table(rows) for rows in of.hospitals], of.table(np.flatnonzero(cohort.test))
        for epsilon in EPSILONS:
            setting = risk_study.Setting(1000 * (epsilon or 0), DELTA, "distributed" if epsilon else "none")
            arrays = risk_study.made(
                known, replace(setting, epsilon=setting.epsilon or 100_000), int((~cohort.test).sum())
            )
            with TemporaryDirectory() as home:
                plan = risk_study.study_plan(setting, arrays, [len(rows) for rows in of.hospitals], Path(home))
                model, course = risk_study.trained(plan, tables), plan.course
                assert isinstance(course, RiskPlan)
                found[trait, epsilon] = cohort.auc(trait, course.log_odds(model, held_out))
    return found


def pooled(cohort: Cohort) -> dict[str, float]:
    """AUC of a penalised logistic regression on all patients' inputs, the score, and the score by ancestry."""
    from sklearn.linear_model import LogisticRegression

    blocks, columns, others = (int(cohort.parameters[name]) for name in ("blocks", "columns", "ancestries"))
    score = cohort.inputs[:, : blocks * columns : columns].sum(axis=1, keepdims=True)
    rows = np.column_stack([cohort.inputs, score, score * cohort.inputs[:, 1 - others :]]).astype(np.float64)
    found = {}
    for trait, y in cohort.traits.items():
        fitted = LogisticRegression(C=POOLED_C, max_iter=1000).fit(rows[~cohort.test], y[~cohort.test])
        found[trait] = cohort.auc(trait, fitted.decision_function(rows[cohort.test]))
    return found


def row(
    cohort: Cohort, seed: int, found: dict[Job, Arm], head: dict[tuple[str, int | None], float],
    regression: dict[str, float], seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """The row as it is recorded."""
    against = {f"{t} {_name(e)} {form}": arm.auc - head[t, e] for (t, form, e), arm in found.items()}
    beside = {f"{t} {_name(e)} {form}": arm.auc - regression[t] for (t, form, e), arm in found.items()}
    behind = {
        "`risk`": sorted(name for name, gap in against.items() if gap < 0),
        "the pooled regression": sorted(name for name, gap in beside.items() if gap < 0),
    }
    ahead = sum(gap >= 0 for gap in (*against.values(), *beside.values()))
    figures = [*(arm.auc for arm in found.values()), *head.values(), *regression.values()]
    parts = {
        "everything measured": set(found) == set(JOBS) and all(0.5 < figure < 1 for figure in figures),
        "budgets kept": all(arm.epsilon <= epsilon for (_, _, epsilon), arm in found.items() if epsilon),
        "one first model, the public score": len({(t, arm.first) for (t, _, _), arm in found.items()}) == len(TRAITS),
        "losses stated": ahead + sum(map(len, behind.values())) == 2 * len(found),
    }
    lines = []
    for trait in TRAITS:
        for epsilon in EPSILONS:
            line = {"trait": f"`{trait}`", "epsilon": _name(epsilon), "`risk`": f"{head[trait, epsilon]:.4f}"}
            line |= {f: f"{found[trait, f, epsilon].auc:.4f}" if (trait, f, epsilon) in found else "" for f in FORMS}
            line |= {"pooled regression, no noise": f"{regression[trait]:.4f}"}
            lines.append(line)
    sizes = {form: {arm.weights for (_, f, _), arm in found.items() if f == form}.pop() for form in FORMS}
    return {
        "row": "risk.net",
        "value": int(all(parts.values())),
        "note": {
            "parts": {name: "yes" if holds else "no" for name, holds in parts.items()},
            "public score alone": {t: round(found[t, "mlp", None].first, 4) for t in TRAITS},
            "weights": sizes,
            "behind": {name: ", ".join(cells) or "nowhere" for name, cells in behind.items()},
            "setting": f"seed {seed}, settings from seeds 12 and 13; without noise in mode none; delta {DELTA}; "
            f"{cohort.parameters['blocks']} blocks of {cohort.parameters['columns']} numbers; one draw of noise; the "
            f"sampling error of an AUC is 0.010, of a difference less",
            "seconds": f"{seconds:.0f} in all; published file {cohort.seconds[0]:.0f}, inputs of everybody "
            f"{cohort.seconds[1]:.1f}, longest run {max(arm.seconds for arm in found.values()):.0f}",
            "table": "\n\n" + markdown(lines) + "\n",
        },
    }


def _people(rows: NDArray[np.intp]) -> Table:
    return Table({"row": rows.astype(np.float64)}, len(rows))


def _name(epsilon: int | None) -> str:
    return "none" if epsilon is None else str(epsilon)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=7, help="of the phenotype")
    parser.add_argument("--cohort", type=Path, default=risk_cohort.FOLDER, help="folder of the frozen cohort")
    given, started = parser.parse_args(), time.perf_counter()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cohort = load(given.seed, given.cohort)
    risk, regression = risks(given.seed, given.cohort, cohort), pooled(cohort)
    found = measured(cohort)
    print(json.dumps(row(cohort, given.seed, found, risk, regression, time.perf_counter() - started)), flush=True)


if __name__ == "__main__":
    main()
