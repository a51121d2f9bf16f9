"""How clip, rate and budget shares of recipe `dose` were chosen: on generated cohorts, never on a study's patients.

    python -m tests.benchmarks.dose_tuning

16 hospitals of unequal size and ancestry, doses from the published equation with changed coefficients, an offset per
hospital and heavy-tailed residuals. Prints the loss of each setting against pooled least squares at epsilon 1 and 3,
best first; differences below 0.1 are noise.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from genopact_server.validation.iwpc import Cohort
from genopact_shared.recipes.dose import DOSE, DoseParameters
from genopact_shared.recipes.dose_features import OUTCOME, dose_mg, features
from genopact_shared.recipes.dose_public import P_FLAG, P_MALE, POPULATION
from genopact_shared.recipes.equation import iwpc_weekly_dose
from genopact_shared.recipes.table import Codes, Floats, Table
from tests.benchmarks.iwpc_rows import EXACT, Setting, federated

SITES, PATIENTS, SCENARIOS = 16, 4400, 12
CLIPS, RATES = (2500, 3000, 4000), (1000, 1300, 1600)
SHARES = ((200, 800), (100, 200, 700), (70, 130, 250, 550), (250, 250, 250, 250), (50, 80, 130, 240, 500))


def generated(seed: int, ancestry: tuple[float, ...] = (0.5, 0.3, 0.1, 0.1)) -> Cohort:
    """One scenario of that average mix of ancestries; split 0 tests on 70 % of the patients, 2 trains."""
    rng = np.random.default_rng(seed)
    sites = rng.choice(SITES, PATIENTS, p=rng.dirichlet(np.full(SITES, 2.0)))
    mix = rng.dirichlet(4 * np.array(ancestry), SITES)
    race = (rng.random(PATIENTS)[:, None] > mix[sites].cumsum(axis=1)).sum(axis=1).clip(0, 3)
    columns = _covariates(rng, race, sites)
    table = Table(columns, PATIENTS)
    complete = Table({**columns, "height_cm": np.nan_to_num(table.number("height_cm"), nan=168.0)}, PATIENTS)
    root = np.sqrt(iwpc_weekly_dose(complete)) + features(table) @ rng.normal(0, 0.1, features(table).shape[1])
    root += rng.normal(0, 0.4, SITES)[sites] + rng.standard_t(8, PATIENTS)
    dose = Table({**columns, OUTCOME: np.maximum(root, 1.0) ** 2}, PATIENTS)
    split = np.where(rng.random(PATIENTS) < 0.3, 2, 0)[:, None]
    return Cohort(dose, sites, np.arange(PATIENTS).astype(str), np.zeros(PATIENTS, dtype=np.int64), split)


def _covariates(
    rng: np.random.Generator, race: NDArray[np.int64], sites: NDArray[np.int64]
) -> dict[str, Floats | Codes]:
    of = {field: np.array([getattr(s, field) for s in POPULATION.values()])[race] for field in ("height", "weight")}
    loci = ("vkorc1", "cyp2c9_2", "cyp2c9_3")
    allele = {locus: np.array([getattr(s, locus) for s in POPULATION.values()])[race] for locus in loci}
    male = rng.random(PATIENTS) < P_MALE
    height = np.where(male, of["height"][:, 0], of["height"][:, 1]) + of["height"][:, 2] * rng.normal(size=PATIENTS)
    weight = np.where(male, of["weight"][:, 0], of["weight"][:, 1]) + of["weight"][:, 2] * rng.normal(size=PATIENTS)
    chromosomes = rng.random((2, PATIENTS))
    two = chromosomes < allele["cyp2c9_2"]
    three = ~two & (chromosomes < allele["cyp2c9_2"] + allele["cyp2c9_3"])
    low_dose = np.where(rng.random(PATIENTS) < 0.05, -1, rng.binomial(2, allele["vkorc1"]))
    unmeasured = rng.random(SITES) < 0.2
    flags = {
        "carbamazepine": rng.random(PATIENTS) < P_FLAG["inducer"],
        "amiodarone": rng.random(PATIENTS) < P_FLAG["amiodarone"],
        "smoker": rng.random(PATIENTS) < P_FLAG["smoker"],
    }
    codes = {"sex": male, "race": race, "vkorc1_1639": low_dose, "cyp2c9_2": two.sum(0), "cyp2c9_3": three.sum(0)}
    numbers = {
        "age_decade": np.clip(np.floor(rng.normal(6.5, 1.4, PATIENTS)), 1, 9),
        "height_cm": np.where(unmeasured[sites], np.nan, height),
        "weight_kg": np.clip(weight, 30, 200),
    }
    return numbers | {name: np.asarray(values, dtype=np.int8) for name, values in (codes | flags).items()}


def loss(parameters: DoseParameters, setting: Setting, cohorts: list[Cohort]) -> float:
    """Percent of MAE above least squares on the pooled training patients; mean over cohorts."""
    losses = []
    for cohort in cohorts:
        test = cohort.splits[:, 0] == 0
        truth, columns = cohort.table.number(OUTCOME), features(cohort.table)
        target = np.sqrt(truth) - np.sqrt(35.0)
        pooled = np.linalg.lstsq(columns[~test], target[~test], rcond=None)[0]
        reference = np.abs(dose_mg(columns @ pooled) - truth)[test].mean()
        model = federated(cohort, ~test, setting, parameters)
        found = np.abs(DOSE.predict(model, None, cohort.table).value - truth)[test].mean()
        losses.append(100 * (found / reference - 1))
    return float(np.mean(losses))


def main() -> None:
    cohorts = [generated(seed) for seed in range(SCENARIOS)]
    print(f"exact {loss(DoseParameters(), EXACT, cohorts):.2f}")
    rows: list[tuple[float, float, DoseParameters]] = []
    for clip, rate, shares in product(CLIPS, RATES, SHARES):
        parameters = DoseParameters(clip_milli=clip, rate_milli=rate, step_shares_milli=shares)
        tight, loose = (
            float(np.mean([loss(parameters, Setting(milli), cohorts) for _ in range(3)])) for milli in (1000, 3000)
        )
        rows.append((tight, loose, parameters))
    for epsilon_1, epsilon_3, p in sorted(rows, key=lambda row: row[0]):
        print(f"{epsilon_1:.2f} {epsilon_3:.2f} clip {p.clip_milli} rate {p.rate_milli} shares {p.step_shares_milli}")


if __name__ == "__main__":
    main()
