"""Row privacy.7: noise shares under the mask (distributed) against full noise at every site (local).

    python -m tests.benchmarks.modes [--draws 12]

Recipe `dose` on the 16 hospitals of the warfarin table, and logistic heads of 12 and 87 features on random splits of
the simulated disease cohort, phenotype seed 7. Plans come from `plan_of`, integers and noise from the release kernel;
the masks, which cancel, are left out. Noise is never seeded, so noised figures differ between runs by about their
standard error. The value is 1 when all of these hold: distributed equals central bit for bit with the same noise and
without any, and in the mean with noise of its own; the noise has the declared variance; `dose` stays within the bar.
"""

import argparse
import json
import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from genopact_client.release.quantise import clipped_integers
from genopact_server.validation import iwpc
from genopact_shared.plan import Plan, PlannedStep, plan_of
from genopact_shared.privacy.accounting import sgd_noise_multiplier
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd
from genopact_shared.privacy.noise import gaussian, skellam
from genopact_shared.published import Published
from genopact_shared.recipes import RECIPES
from genopact_shared.recipes.dose import DOSE
from genopact_shared.recipes.dose_features import OUTCOME, dose_mg, features, outcome
from genopact_shared.recipes.head import Head, probability
from genopact_shared.recipes.protocol import Metrics, Model, SumPlan, SumRecipe, SumStep
from genopact_shared.recipes.table import Floats, Table
from genopact_shared.study import Frozen, Privacy, RecipeChoice, Study
from tests.benchmarks import risk_cohort
from tests.benchmarks.iwpc_rows import DATA, ridge
from tests.benchmarks.record import markdown
from tests.benchmarks.risk_cohort import RiskCohort

SEED, DELTA = 7, "0.000001"
EPSILONS, SITES = (1, 3, 8), (4, 16, 64)
FEWEST = 3
"""Sites of the bit for bit check alone, beside all others."""
HEADS = ("head-87", "head-12")
HOSPITALS, SPLITS, DRAWS_A_SPLIT = 16, 20, 4
BAR_PERCENT = 1.0
FALSE_ALARM, TOLERANCE_SD = 1e-6, 6.0
SGD_RATE, SGD_STEPS, SGD_CLIP, SGD_LEARNING, SGD_DRAWS = "0.1", 30, 1.0, 0.5, 3
Mode = Literal["none", "local", "distributed"]
Noise = Callable[[float, int], NDArray[np.int64]]


def plan(recipe: str, sizes: Sequence[int], mode: Mode, epsilon: int) -> Plan:
    """The plan of a study of these sites, cohorts declared to the next ten; two thirds of them are honest."""
    privacy = Privacy(
        mode=mode,
        epsilon_milli=None if mode == "none" else 1000 * epsilon,
        delta=DELTA,
        honest_minimum=-(-2 * len(sizes) // 3) if mode == "distributed" else 1,
    )
    study = SimpleNamespace(recipe=RecipeChoice(name=recipe, version=1), privacy=privacy)
    return plan_of(cast("Study", study), {f"site-{i}": max(10, round(size, -1)) for i, size in enumerate(sizes)})


def trained(of: Plan, tables: Sequence[Table], shares: int = 1, noise: Noise = skellam) -> Model:
    """The model when each table's patients are summed with `shares` times a site's variance of noise."""
    course = cast("SumPlan", of.course)
    model = course.initial()
    for step in of.steps:
        assert not isinstance(step.fact, SampledSgd)
        total = np.sum([_integers(course, step, model, table, shares, noise) for table in tables], axis=0)
        model = course.advance(step.index, model, total / step.fact.scale)
    return model


def _integers(
    course: SumPlan, step: PlannedStep, model: Model, table: Table, shares: int, noise: Noise
) -> NDArray[np.int64]:
    fact = step.fact
    assert not isinstance(fact, SampledSgd)
    clip = float(fact.clip) if isinstance(fact, NoisedSum) else None
    rows = clipped_integers(course.contribution(step.index, model, table), clip, fact.scale)
    total: NDArray[np.int64] = rows.sum(axis=0, dtype=np.int64)
    return total + noise(shares * step.share_variance, fact.dims) if clip else total


def equal(of: Plan, tables: Sequence[Table], whole: Table) -> tuple[bool, Floats]:
    """Whether many sites and one table give the same bits, with the same noise and with none.

    Also the noise of the totals, in standard deviations of what the certified facts and the top-up declare.
    """
    drawn: list[NDArray[np.int64]] = []

    def recording(variance: float, size: int) -> NDArray[np.int64]:
        drawn.append(skellam(variance, size))
        return drawn[-1]

    def silent(variance: float, size: int) -> NDArray[np.int64]:
        return np.zeros(size, dtype=np.int64)

    spread = trained(of, tables, noise=recording)
    totals = [np.sum(drawn[i : i + len(tables)], axis=0) for i in range(0, len(drawn), len(tables))]
    replay = iter(totals)
    pairs = [
        (spread, trained(of, [whole], noise=lambda variance, size: next(replay))),
        (trained(of, tables, noise=silent), trained(of, [whole], noise=silent)),
    ]
    same = all(a[name].tobytes() == b[name].tobytes() for a, b in pairs for name in a)
    facts = [step.fact for step in of.steps if isinstance(step.fact, NoisedSum)]
    declared = [
        float(fact.noise_multiplier) * float(fact.clip) * fact.scale * (len(tables) / fact.honest_minimum) ** 0.5
        for fact in facts
    ]
    return same, np.concatenate([total / sd for total, sd in zip(totals, declared, strict=True)])


@dataclass(frozen=True, eq=False)
class Arms:
    """Scores a draw of noise of each way to train; `certified`: the largest epsilon of its plans; see `equal`."""

    scores: dict[str, Floats]
    certified: float
    same: bool
    noise: Floats


def arms(
    recipe: str, tables: Sequence[Table], whole: Table, epsilon: int, draws: int, score: Callable[[Model], float]
) -> Arms:
    """Sites with noise shares, one table with the noise that these add up to, sites with full noise each."""
    sizes = [table.n for table in tables]
    shared, local = plan(recipe, sizes, "distributed", epsilon), plan(recipe, sizes, "local", epsilon)
    ways: dict[str, Callable[[], Model]] = {
        "distributed": lambda: trained(shared, tables),
        "central": lambda: trained(shared, [whole], len(tables)),
        "local": lambda: trained(local, tables),
    }
    scores = {name: np.array([score(train()) for _ in range(draws)]) for name, train in ways.items()}
    return Arms(scores, max(shared.epsilon, local.epsilon), *equal(shared, tables, whole))


@dataclass(frozen=True, eq=False)
class HeadCourse:
    """See `protocol.SumPlan`: a head over whitened training patients, which a table names by their `row`."""

    head: Head
    whitened: Floats
    y: Floats

    @property
    def steps(self) -> tuple[SumStep, ...]:
        return self.head.steps(1.0)

    def initial(self) -> Model:
        return self.head.initial()

    def contribution(self, index: int, model: Model, table: Table) -> Floats:
        rows = table.number("row").astype(np.intp)
        return self.head.contribution(model, self.whitened[rows], self.y[rows])

    def advance(self, index: int, model: Model, total: Floats) -> Model:
        return self.head.advance(model, total)

    def metrics(self, model: Model) -> Metrics:
        return {}


class HeadTask:
    """A logistic head of d features on random splits of the training patients; AUC on those held out."""

    def __init__(self, cohort: RiskCohort, d: int) -> None:
        self.name, train, test = f"head-{d}", ~cohort.test, cohort.test
        self.rows, self.y = cohort.rows[d][train], cohort.y[train]
        self.held_out, self.truth = cohort.rows[d][test], cohort.y[test]
        head = Head(cohort.moments[d], risk_cohort.PREVALENCE, len(self.y))
        course = HeadCourse(head, head.whitened(self.rows), self.y)

        def build(parameters: Frozen, total: int, epsilon_milli: int | None, published: Published) -> HeadCourse:
            return replace(course, head=replace(head, planned_total=total))

        recipe = SimpleNamespace(name=self.name, version=1, parameters=Frozen, plan=build)
        RECIPES[self.name] = cast("SumRecipe", recipe)

    def auc(self, coefficients: Floats) -> float:
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(self.truth, self.held_out @ coefficients))

    def references(self) -> dict[str, float]:
        """AUC of the pooled logistic fit, and of the head's steps without clip and noise."""
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-6, max_iter=1000).fit(self.rows, self.y)
        whole = _people(np.arange(len(self.y)))
        unnoised = trained(plan(self.name, [whole.n], "none", 0), [whole])["coefficients"]
        return {"non-private": self.auc(fitted.coef_[0]), "steps without clip and noise": self.auc(unnoised)}

    def arms(self, sites: int, epsilon: int, draws: int) -> Arms:
        parts = np.array_split(np.random.default_rng(sites).permutation(len(self.y)), sites)
        tables, whole = [_people(part) for part in parts], _people(np.arange(len(self.y)))
        found = arms(self.name, tables, whole, epsilon, draws, lambda model: self.auc(model["coefficients"]))
        multiplier = float(sgd_noise_multiplier(1000 * epsilon, DELTA, SGD_RATE, SGD_STEPS))
        averaged = [
            np.mean([_dp_sgd(self.rows[part], self.y[part], multiplier) for part in parts], axis=0)
            for _ in range(SGD_DRAWS)
        ]
        return replace(found, scores=found.scores | {"dp-sgd": np.array([self.auc(mean) for mean in averaged])})


def _people(rows: NDArray[np.intp]) -> Table:
    return Table({"row": rows.astype(np.float64)}, len(rows))


def _dp_sgd(rows: Floats, y: Floats, multiplier: float) -> Floats:
    """A site's own model by DP-SGD as usual: clip 1, Poisson batches, the last iterate."""
    rng, rate = np.random.default_rng(), float(SGD_RATE)
    coefficients = np.zeros(rows.shape[1])
    for _ in range(SGD_STEPS):
        drawn = rng.random(len(rows)) < rate
        gradient = rows[drawn] * (y[drawn] - probability(rows[drawn] @ coefficients))[:, None]
        norm = np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)
        total = (gradient * np.minimum(1, SGD_CLIP / norm)).sum(axis=0)
        total += gaussian(multiplier * SGD_CLIP, len(coefficients))
        coefficients += SGD_LEARNING * total / (rate * len(rows))
    return coefficients


class DoseTask:
    """Recipe `dose` on the real hospitals: 20 frozen splits, 30 % of each hospital trains; MAE in mg/week."""

    def __init__(self, cohort: iwpc.Cohort) -> None:
        self.table, self.sites, self.cohort = cohort.table, cohort.sites, cohort

    def mae(self, split: NDArray[np.int64], dose: Floats) -> float:
        return float(np.abs(dose - self.table.number(OUTCOME))[split == 0].mean())

    def trainers(self, split: NDArray[np.int64]) -> tuple[list[Table], Table]:
        """The training patients of each hospital, and of all."""
        training = (split > 0) & (split <= 2)
        parts = [training & (self.sites == site) for site in np.unique(self.sites[training])]
        return [self.table.take(part) for part in parts], self.table.take(training)

    def references(self) -> dict[str, float]:
        """MAE of pooled least squares on the recipe's features, the frozen pooled ridge and the exact plan."""
        errors = []
        for split in self.cohort.splits.T:
            training, (tables, whole) = (split > 0) & (split <= 2), self.trainers(split)
            fitted = np.linalg.lstsq(features(whole), outcome(whole), rcond=None)[0]
            exact = trained(plan("dose", [table.n for table in tables], "none", 0), tables)
            doses = [
                dose_mg(features(self.table) @ fitted),
                dose_mg(ridge(self.cohort, training)),
                DOSE.predict(exact, None, self.table).value,
            ]
            errors.append([self.mae(split, dose) for dose in doses])
        names = ("non-private", "frozen pooled ridge", "exact plan")
        return dict(zip(names, np.mean(errors, axis=0).tolist(), strict=True))

    def arms(self, sites: int, epsilon: int, draws: int) -> Arms:
        found = []
        for split in self.cohort.splits.T:
            tables, whole = self.trainers(split)
            if len(tables) != sites:
                raise ValueError(f"Expected {sites} hospitals, got {len(tables)}")

            def score(model: Model, split: NDArray[np.int64] = split) -> float:
                return self.mae(split, DOSE.predict(model, None, self.table).value)

            found.append(arms("dose", tables, whole, epsilon, -(-draws // DRAWS_A_SPLIT), score))
        return Arms(
            {name: np.concatenate([each.scores[name] for each in found]) for name in found[0].scores},
            max(each.certified for each in found),
            all(each.same for each in found),
            np.concatenate([each.noise for each in found]),
        )


Job = tuple[str, int, int]
TASKS: dict[str, HeadTask | DoseTask] = {}


def _work(job: Job, draws: int) -> tuple[Job, Arms]:
    name, sites, epsilon = job
    return job, TASKS[name].arms(sites, epsilon, draws if sites != FEWEST else 1)


def measured(draws: int) -> dict[Job, Arms]:
    """Every task, number of sites and epsilon, on all cores; longest first."""
    jobs: list[Job] = [(name, sites, epsilon) for name in HEADS for sites in SITES for epsilon in EPSILONS]
    jobs += [("dose", HOSPITALS, epsilon) for epsilon in EPSILONS]
    jobs += [(name, FEWEST, 1) for name in HEADS]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        return dict(pool.map(partial(_work, draws=draws), jobs))


def same_mean(found: Arms) -> float:
    """The p-value of equal means, distributed and central, by differences of pairs of draws."""
    from scipy.stats import ttest_rel

    return float(ttest_rel(found.scores["distributed"], found.scores["central"]).pvalue)


def row(found: dict[Job, Arms], references: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The row as it is recorded."""
    compared = {job: each for job, each in found.items() if job[1] != FEWEST}
    noise = np.concatenate([each.noise for each in found.values()])
    ratio, tolerance = float((noise**2).mean()), TOLERANCE_SD * (2 / len(noise)) ** 0.5
    dose = found["dose", HOSPITALS, 1].scores["distributed"].mean()
    loss = {name: 100 * (dose / references["dose"][name] - 1) for name in ("non-private", "frozen pooled ridge")}
    p = {job: same_mean(each) for job, each in compared.items()}
    parts = {
        "distributed and central bit for bit, same noise and none": all(each.same for each in found.values()),
        "distributed and central in the mean": min(p.values()) > FALSE_ALARM,
        "noise as declared": abs(ratio - 1) <= tolerance,
        "budgets kept": all(each.certified <= epsilon for (_, _, epsilon), each in found.items()),
        "dose at epsilon 1": max(loss.values()) <= BAR_PERCENT,
    }
    means = [(each.scores["distributed"].mean(), each.scores["central"].mean()) for each in compared.values()]
    return {
        "row": "privacy.7",
        "value": int(all(parts.values())),
        "note": {
            "parts": {name: "yes" if holds else "no" for name, holds in parts.items()},
            "sites of the bit for bit check": sorted({sites for _, sites, _ in found}),
            "smallest p of equal means": f"{min(p.values()):.2g} of {len(p)}",
            "largest difference of means, percent": round(100 * max(abs(a / b - 1) for a, b in means), 3),
            "measured over declared variance of the noise": f"{ratio:.4f} +- {tolerance / TOLERANCE_SD:.4f}",
            "dose, percent above pooled least squares and the frozen ridge at epsilon 1": [
                round(value, 2) for value in loss.values()
            ],
            "references": {name: {k: round(v, 4) for k, v in each.items()} for name, each in references.items()},
            "setting": f"delta {DELTA}, per site; honest minimum two thirds of the sites; heads: 19203 patients train, "
            "4797 test; dose: 20 splits, 30 % of each hospital trains; mean +- sd over draws (dose: of the draws of a "
            "split); DP-SGD at each site: models averaged, for information",
            "table": "\n\n"
            + markdown([_cells(job, each, references[job[0]]) for job, each in compared.items()])
            + "\n",
        },
    }


def _cells(job: Job, found: Arms, references: dict[str, float]) -> dict[str, str]:
    name, sites, epsilon = job
    digits = 3 if name == "dose" else 4

    def cell(arm: str) -> str:
        if arm not in found.scores:
            return ""
        draws = found.scores[arm].reshape(SPLITS, -1) if name == "dose" else found.scores[arm][None, :]
        return f"{draws.mean():.{digits}f} +- {draws.std(axis=1, ddof=1).mean():.{digits}f}"

    return {
        "task": {"dose": "`dose`, MAE mg/week"}.get(name, f"logistic {name.replace('-', ', d = ')}, AUC"),
        "sites": str(sites),
        "epsilon": str(epsilon),
        "non-private": f"{references['non-private']:.{digits}f}",
        "distributed": cell("distributed"),
        "central, same variance": cell("central"),
        "local": cell("local"),
        "DP-SGD at each site": cell("dp-sgd"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--draws", type=int, default=12, help="of noise, at least 8")
    draws = parser.parse_args().draws
    warnings.filterwarnings("ignore")
    cohort = risk_cohort.load(SEED)
    TASKS.update({"dose": DoseTask(iwpc.load(DATA)), **{f"head-{d}": HeadTask(cohort, d) for d in (12, 87)}})
    found = measured(draws)
    print(json.dumps(row(found, {name: task.references() for name, task in TASKS.items()})), flush=True)


if __name__ == "__main__":
    main()
