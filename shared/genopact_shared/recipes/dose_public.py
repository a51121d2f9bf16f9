"""The second moments of the dose features in a public population: the preconditioner of the noised steps.

Rounded public figures (allele frequencies near those of the CPIC warfarin guideline, Clin Pharmacol Ther
2017;102:397-404; body measures near those of national health surveys; the mix of a mixed-ancestry clinic), none from a
study's patients. Too large a figure slows the steps, one that is several times too small lets them overshoot: a study
states its own mix of ancestries. Privacy does not depend on any of it.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

from genopact_shared.recipes.dose_features import CENTRE, FEATURES
from genopact_shared.recipes.linear import Matrix

P_MALE = 0.57
AGE_SD = 1.4
HEIGHT_WEIGHT_CORRELATION = 0.4
P_MISSING = {"height": 0.15, "weight": 0.05, "vkorc1": 0.05, "cyp2c9": 0.03}
P_FLAG = {"inducer": 0.03, "amiodarone": 0.08, "smoker": 0.2}


class Stratum(NamedTuple):
    """One ancestry: effect-allele frequencies, and (men, women, sd) of height in cm and weight in kg."""

    vkorc1: float
    cyp2c9_2: float
    cyp2c9_3: float
    height: tuple[float, float, float]
    weight: tuple[float, float, float]


POPULATION = {
    "White": Stratum(0.39, 0.13, 0.07, (176, 162, 7), (86, 72, 17)),
    "Asian": Stratum(0.90, 0.00, 0.04, (166, 154, 6.5), (66, 56, 11)),
    "Black": Stratum(0.10, 0.03, 0.01, (176, 163, 7), (88, 80, 20)),
    "other": Stratum(0.40, 0.08, 0.05, (171, 158, 7), (80, 68, 17)),
}


@lru_cache(maxsize=8)
def second_moments(mix: tuple[float, ...]) -> Matrix:
    """(13, 13) E[x x'] in the order of FEATURES, for shares of the ancestries in the order of POPULATION.

    Plain float arithmetic, so the same bits everywhere.
    Features are independent given ancestry and sex, but for height with weight, the two CYP2C9 alleles, and a covariate
    with its own missingness.
    """
    size = len(FEATURES)
    moments = [[0.0] * size for _ in range(size)]
    for ((ancestry, stratum), part), male in product(zip(POPULATION.items(), mix, strict=True), (True, False)):
        share = part * (P_MALE if male else 1 - P_MALE)
        mean, covariance = _given(stratum, black=ancestry == "Black", male=male)
        for i, j in product(range(size), repeat=2):
            pair = (FEATURES[min(i, j)], FEATURES[max(i, j)])
            moments[i][j] += share * (mean[FEATURES[i]] * mean[FEATURES[j]] + covariance.get(pair, 0.0))
    return moments


def _given(stratum: Stratum, *, black: bool, male: bool) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """Means, and the covariances that are not zero, within one ancestry and sex."""
    mean = dict.fromkeys(FEATURES, 0.0) | P_FLAG
    mean |= {"intercept": 1.0, "black": float(black), "male": float(male)}
    covariance = {(name, name): p * (1 - p) for name, p in P_FLAG.items()}
    covariance["age", "age"] = (AGE_SD / CENTRE["age_decade"][1]) ** 2
    spread = {}
    for name, unit, (men, women, sd) in (("height", "cm", stratum.height), ("weight", "kg", stratum.weight)):
        centre, scale = CENTRE[f"{name}_{unit}"]
        spread[name] = (1 - P_MISSING[name]) * sd / scale
        _observed(mean, covariance, name, ((men if male else women) - centre) / scale, (sd / scale) ** 2)
    covariance["height", "weight"] = HEIGHT_WEIGHT_CORRELATION * spread["height"] * spread["weight"]
    p = stratum.vkorc1
    _observed(mean, covariance, "vkorc1", 2 * p - 1, 2 * p * (1 - p))
    missing = P_MISSING["vkorc1"]
    mean["vkorc1_missing"] = missing
    covariance["vkorc1_missing", "vkorc1_missing"] = missing * (1 - missing)
    covariance["vkorc1", "vkorc1_missing"] = -mean["vkorc1"] * missing
    for name, p in (("cyp2c9_2", stratum.cyp2c9_2), ("cyp2c9_3", stratum.cyp2c9_3)):
        _observed(mean, covariance, name, 2 * p, 2 * p * (1 - p))
    # A chromosome carries *2 or *3, never both.
    both, seen = stratum.cyp2c9_2 * stratum.cyp2c9_3, 1 - P_MISSING["cyp2c9"]
    covariance["cyp2c9_2", "cyp2c9_3"] = seen * 2 * both - mean["cyp2c9_2"] * mean["cyp2c9_3"]
    return mean, covariance


def _observed(
    mean: dict[str, float], covariance: dict[tuple[str, str], float], name: str, centre: float, variance: float
) -> None:
    """Mean and variance of a covariate that is zero where missing."""
    seen = 1 - P_MISSING["cyp2c9" if name.startswith("cyp2c9") else name]
    mean[name] = seen * centre
    covariance[name, name] = seen * (variance + centre**2) - mean[name] ** 2
