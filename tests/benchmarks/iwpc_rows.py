"""Measured rows chain.2, chain.3 and chain.4: recipe `dose` on the 16 real hospitals of the warfarin table.

    python -m tests.benchmarks.iwpc_rows [--data FOLDER] [--repeats 10] [chain.2 chain.3 chain.4]

Prints the citation and one JSON object a row. Sums go through the release kernel's clipping, quantisation and noise.
Noise is never seeded, so the noised figures differ between runs by about their standard error.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopact_client.release.quantise import clipped_integers
from genopact_server.validation.iwpc import Cohort, load
from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.privacy.noise import skellam
from genopact_shared.recipes.dose import DOSE, DoseParameters
from genopact_shared.recipes.dose_features import CENTRE, OUTCOME, RACES, dose_mg, features, outcome, vkorc1
from genopact_shared.recipes.equation import iwpc_weekly_dose
from genopact_shared.recipes.protocol import Model, SumPlan, SumStep
from genopact_shared.recipes.table import Floats, Table

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "iwpc_warfarin"
DELTA = "0.000001"
Rows = NDArray[np.bool_]
PENALTIES = np.logspace(-1, 3, 9)
CYP2C9 = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))


@dataclass(frozen=True)
class Setting:
    """A budget and who is trusted: `honest_minimum` None means two thirds of the sites, 1 means mode local."""

    epsilon_milli: int | None
    honest_minimum: int | None = None


EXACT = Setting(None)
SELECTION = (
    "clip, rate and shares: on generated cohorts (dose_tuning); feature coding, ridge penalty and site prior: compared "
    "without noise on this table, about fifteen codings"
)
DEFAULTS = DoseParameters()


def federated(cohort: Cohort, rows: Rows, setting: Setting, parameters: DoseParameters = DEFAULTS) -> Model:
    """The shared model of the hospitals that have patients in `rows`; cohorts are declared to the next ten."""
    sites = [cohort.table.take(rows & (cohort.sites == site)) for site in np.unique(cohort.sites[rows])]
    planned = sum(max(10, round(site.n, -1)) for site in sites)
    plan = DOSE.plan(parameters, planned, setting.epsilon_milli)
    multipliers: tuple[str, ...] = ("0",) * len(plan.steps)
    if setting.epsilon_milli is not None:
        multipliers = accounting.noise_multipliers(setting.epsilon_milli, DELTA, [step.weight for step in plan.steps])
    honest = setting.honest_minimum or -(-2 * len(sites) // 3)
    model = plan.initial()
    for index, (step, multiplier) in enumerate(zip(plan.steps, multipliers, strict=True)):
        variance = (float(multiplier) * step.clip * step.scale) ** 2 / honest
        total = sum(_released(plan, index, model, site, variance) for site in sites)
        model = plan.advance(index, model, np.asarray(total) / step.scale)
    return model


def _released(plan: SumPlan, index: int, model: Model, site: Table, variance: float) -> NDArray[np.int64]:
    step = plan.steps[index]
    clip = step.clip if variance else None
    rows = clipped_integers(plan.contribution(index, model, site), clip, step.scale)
    noise = skellam(variance, step.dims) if variance else 0
    return np.asarray(rows.sum(axis=0) + noise, dtype=np.int64)


def epsilon_of(steps: tuple[SumStep, ...], epsilon_milli: int) -> float:
    """The budget recomputed by privacy loss distributions."""
    multipliers = accounting.noise_multipliers(epsilon_milli, DELTA, [step.weight for step in steps])
    return accounting.epsilon(
        [
            NoisedSum(noise_multiplier=z, clip=str(step.clip), scale=step.scale, dims=step.dims, honest_minimum=11)
            for step, z in zip(steps, multipliers, strict=True)
        ],
        DELTA,
    )


def baseline_features(table: Table, training: Rows) -> Floats:
    """(n, 24) as in the frozen baseline: genotype classes, missing flags, centres from the training rows."""
    numbers = [table.number(name) for name in ("age_decade", "height_cm", "weight_kg")]
    columns: list[Any] = [np.isnan(values) for values in numbers]
    for values, scale in zip(numbers, (1.5, 10.0, 20.0), strict=True):
        seen = values[training & ~np.isnan(values)]
        columns.append(np.nan_to_num((values - (seen.mean() if seen.size else 0.0)) / scale))
    dosage, two, three = vkorc1(table), table.codes("cyp2c9_2"), table.codes("cyp2c9_3")
    columns += [dosage == 1, dosage == 2, dosage < 0]
    columns += [(two == a) & (three == b) for a, b in CYP2C9] + [two < 0]
    race = table.codes("race")
    columns += [race == 1, race == 2, race == 3]
    columns.append(np.any([table.codes(name) == 1 for name in ("carbamazepine", "phenytoin", "rifampin")], axis=0))
    columns += [table.codes(name) == 1 for name in ("amiodarone", "smoker", "sex")]
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])


def ridge(cohort: Cohort, training: Rows, columns: Floats | None = None) -> Floats:
    """(n,) shifted roots predicted by ridge regression, tuned by leave-one-out inside `training`."""
    from sklearn.linear_model import RidgeCV

    columns = baseline_features(cohort.table, training) if columns is None else columns
    fitted = RidgeCV(PENALTIES).fit(columns[training], outcome(cohort.table)[training])
    return np.asarray(fitted.predict(columns), dtype=np.float64)


def by_site(cohort: Cohort, training: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Each hospital's rows, and those of them that train."""
    for site in np.unique(cohort.sites):
        own = cohort.sites == site
        yield own, own & training


def shifted(cohort: Cohort, roots: Floats, training: Rows) -> Floats:
    """The baseline's site term: each hospital's mean residual, shrunk by ten patients."""
    roots, residual = roots.copy(), outcome(cohort.table) - roots
    for own, trains in by_site(cohort, training):
        roots[own] += residual[trains].sum() / (trains.sum() + 10)
    return roots


def alone(cohort: Cohort, training: Rows, columns: Floats) -> Floats:
    """(n,) mg/week of each hospital's own ridge regression; its median below eight patients."""
    dose = np.empty(cohort.table.n)
    for own, trains in by_site(cohort, training):
        if trains.sum() >= 8:
            dose[own] = dose_mg(ridge(cohort, trains, columns))[own]
        else:
            dose[own] = np.median(cohort.table.number(OUTCOME)[trains])
    return dose


def published(cohort: Cohort) -> Floats:
    """(n,) mg/week of the published equation, public centres for missing numbers. It was fitted on these patients."""
    filled = {name: np.nan_to_num(cohort.table.number(name), nan=centre) for name, (centre, _) in CENTRE.items()}
    return iwpc_weekly_dose(Table(dict(cohort.table.columns) | filled, cohort.table.n))


def with_site_term(cohort: Cohort, model: Model, training: Rows) -> tuple[Floats, float]:
    """(n,) mg/week with each hospital's own term, and the share of test patients inside the 80 % interval."""
    dose, inside, truth = np.empty(cohort.table.n), np.empty(cohort.table.n), cohort.table.number(OUTCOME)
    for own, trains in by_site(cohort, training):
        personal = DOSE.fit_personal(model, cohort.table.take(trains))
        predicted = DOSE.predict(model, personal, cohort.table.take(own))
        dose[own] = predicted.value
        inside[own] = (predicted.low <= truth[own]) & (truth[own] <= predicted.high)
    return dose, float(inside[~training].mean())


def chain_2(cohort: Cohort) -> dict[str, Any]:
    """Leave one hospital out: the federation without noise against pooled ridge."""
    truth, n = cohort.table.number(OUTCOME), cohort.table.n
    ours, pooled, same = np.empty(n), np.empty(n), np.empty(n)
    for own, _ in by_site(cohort, np.ones(n, dtype=bool)):
        ours[own] = DOSE.predict(federated(cohort, ~own, EXACT), None, cohort.table.take(own)).value
        pooled[own] = dose_mg(ridge(cohort, ~own))[own]
        same[own] = dose_mg(ridge(cohort, ~own, features(cohort.table)))[own]
    doses = {"federated": ours, "pooled_ridge": pooled, "pooled_ridge_recipe_features": same}
    error = {name: np.abs(dose - truth).mean() for name, dose in doses.items()}
    return {
        "value": error["federated"] - error["pooled_ridge"],
        "unit": "mg/week",
        "bar": "<= 0.05",
        "splits": "leave one of 16 sites out",
        "note": {
            "selection": SELECTION,
            "mae": error,
            "off_by_20": {"federated": off(cohort, ours), "pooled_ridge": off(cohort, pooled)},
        },
    }


def off(cohort: Cohort, dose: Floats, rows: Rows | None = None) -> dict[str, dict[str, float]]:
    """Per reported race: percent of patients dosed over and under by more than a fifth, and mean absolute error."""
    truth, race = cohort.table.number(OUTCOME), cohort.table.codes("race")
    rows = np.ones(len(truth), dtype=bool) if rows is None else rows
    found = {}
    for code, name in enumerate(RACES):
        own = rows & (race == code)
        over, under = dose[own] > 1.2 * truth[own], dose[own] < 0.8 * truth[own]
        found[name] = {
            "over": 100 * float(over.mean()),
            "under": 100 * float(under.mean()),
            "mae": float(np.abs(dose[own] - truth[own]).mean()),
        }
    return found


def measured(cohort: Cohort, methods: Callable[[Rows], dict[str, Floats]]) -> dict[str, Floats]:
    """(20,) MAE of each method on the test rows of the frozen splits, trained on 30 % of each hospital."""
    truth, errors = cohort.table.number(OUTCOME), []
    for split in cohort.splits.T:
        test = split == 0
        doses = methods((split > 0) & (split <= 2))
        errors.append({name: np.abs(dose - truth)[test].mean() for name, dose in doses.items()})
    return {name: np.array([error[name] for error in errors]) for name in errors[0]}


def chain_3(cohort: Cohort) -> dict[str, Any]:
    """What of the gain of pooling (with a site term) over each hospital alone the federation keeps."""
    equation = published(cohort)
    equation_root = np.sqrt(equation) - np.sqrt(35.0)

    def methods(training: Rows) -> dict[str, Floats]:
        pooled, model = ridge(cohort, training), federated(cohort, training, EXACT)
        return {
            "alone": alone(cohort, training, baseline_features(cohort.table, training)),
            "alone_recipe_features": alone(cohort, training, features(cohort.table)),
            "pooled_ridge": dose_mg(pooled),
            "pooled_ridge_recipe_features": dose_mg(ridge(cohort, training, features(cohort.table))),
            "pooled_ridge_and_site_term": dose_mg(shifted(cohort, pooled, training)),
            "federated": DOSE.predict(model, None, cohort.table).value,
            "federated_and_site_term": with_site_term(cohort, model, training)[0],
            "alone_and_equation_and_residual": dose_mg(shifted(cohort, equation_root, training)),
            "equation_untrained": equation,
        }

    errors = measured(cohort, methods)
    gain = errors["alone"] - errors["pooled_ridge_and_site_term"]
    kept = errors["alone"] - errors["federated_and_site_term"]
    return {
        "value": 100 * kept.mean() / gain.mean(),
        "unit": "% of the gain",
        "bar": ">= 95",
        "splits": "site00..site19, 30 % of each site",
        "note": {"selection": SELECTION, "mae": summary(errors), "worst_split": 100 * float((kept / gain).min())},
    }


def summary(errors: dict[str, Floats]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over splits."""
    return {name: {"mean": float(values.mean()), "sd": float(values.std())} for name, values in errors.items()}


def chain_4(cohort: Cohort, repeats: int) -> dict[str, Any]:
    """The loss of patient-level privacy against pooled least squares."""
    settings = {
        "epsilon_1_distributed": Setting(1000),
        "epsilon_3_distributed": Setting(3000),
        "epsilon_1_local": Setting(1000, 1),
        "epsilon_3_local": Setting(3000, 1),
    }
    truth = cohort.table.number(OUTCOME)
    errors: dict[str, list[list[float]]] = {}
    example: dict[str, list[dict[str, dict[str, float]]]] = {}
    coverage: list[float] = []
    for split in cohort.splits.T:
        training, test = (split > 0) & (split <= 2), split == 0
        doses = {"pooled_ridge": [dose_mg(ridge(cohort, training))], "equation_untrained": [published(cohort)]}
        doses["pooled_ridge_recipe_features"] = [dose_mg(ridge(cohort, training, features(cohort.table)))]
        doses["no_noise"] = [DOSE.predict(federated(cohort, training, EXACT), None, cohort.table).value]
        for name, setting in settings.items():
            models = [federated(cohort, training, setting) for _ in range(repeats)]
            doses[name] = [DOSE.predict(model, None, cohort.table).value for model in models]
            if name == "epsilon_1_distributed":
                own = [with_site_term(cohort, model, training) for model in models]
                doses[f"{name}_and_site_term"] = [dose for dose, _ in own]
                coverage += [share for _, share in own]
        for name, drawn in doses.items():
            errors.setdefault(name, []).append([float(np.abs(dose - truth)[test].mean()) for dose in drawn])
            example.setdefault(name, []).append(off(cohort, drawn[0], test))
    reference = np.mean(errors["pooled_ridge"])
    loss = {name: 100 * (np.mean(values) / reference - 1) for name, values in errors.items()}
    steps = DOSE.plan(DEFAULTS, 1, 1000).steps
    return {
        "value": loss["epsilon_1_distributed"],
        "unit": "% of MAE above pooled ridge",
        "bar": "aim <= 1",
        "splits": f"site00..site19, 30 % of each site, {repeats} draws of noise each",
        "note": {
            "selection": SELECTION,
            "loss_percent": loss,
            "loss_percent_splits_00_to_09": float(
                100 * (np.mean(errors["epsilon_1_distributed"][:10]) / np.mean(errors["pooled_ridge"][:10]) - 1)
            ),
            "mae": {name: float(np.mean(values)) for name, values in errors.items()},
            "sd_over_draws": {name: float(np.mean(np.std(errors[name], axis=1))) for name in settings},
            "off_by_20": {name: _mean_off(tables) for name, tables in example.items()},
            "coverage_of_80_percent_interval_with_site_term": float(np.mean(coverage)),
            "epsilon_recomputed": {str(milli): epsilon_of(steps, milli) for milli in (1000, 3000)},
            "delta": DELTA,
            "budget": "training 90 %, metrics by race 10 %; noise of 16 shares sized for 11 (distributed) or 1 (local)",
        },
    }


def _mean_off(tables: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        race: {measure: float(np.mean([table[race][measure] for table in tables])) for measure in tables[0][race]}
        for race in RACES
    }


def rounded(value: Any) -> Any:
    """JSON-able, three decimals."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return round(float(value), 3) if isinstance(value, float | np.floating) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("rows", nargs="*", default=["chain.2", "chain.3", "chain.4"])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    cohort = load(options.data)
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "chain.2": lambda: chain_2(cohort),
        "chain.3": lambda: chain_3(cohort),
        "chain.4": lambda: chain_4(cohort, options.repeats),
    }
    for name in options.rows:
        print(json.dumps({"row": name} | rounded(measure[name]())), flush=True)


if __name__ == "__main__":
    main()
