"""What a plain project with Flower and Opacus does with the same patients: a logistic model on all variants.

FedAvg without privacy, and DP-SGD at each hospital with FedAvg, by this project's fast clipped sums (the same
mathematics as Opacus'). Settings are chosen on the held-out people themselves, in favour of these rows.
"""

from typing import Any

import numpy as np

from genopact_shared.privacy.accounting import sgd_noise_multiplier
from genopact_shared.recipes.table import Floats
from tests.benchmarks.packed import PackedGenotypes
from tests.benchmarks.risk_study import HOSPITALS, NAMES, Cohort

RATE, ROUNDS, LOCAL = 0.05, 6, 10
"""Chance of a patient to be in a step, rounds, steps of a hospital in each."""
SETTINGS = ((1.0, 1e-3), (1.0, 1e-2), (20.0, 1e-3), (20.0, 1e-2))
"""Clip and learning rate of DP-SGD; plain FedAvg has no clip."""


def packed(copies: Any) -> Any:
    """PLINK 1 codes, four variants a byte, of (n, V) copies without missing ones."""
    codes = np.array([3, 2, 0], np.uint8)[copies]
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 4)))
    return codes[:, 0::4] | codes[:, 1::4] << 2 | codes[:, 2::4] << 4 | codes[:, 3::4] << 6


class Naive:
    """A logistic regression on every variant, averaged over the hospitals after each round."""

    def __init__(self, cohort: Cohort) -> None:
        p = cohort.private
        self.frequency = np.clip(cohort.copies[~p["test"]].mean(axis=0, dtype=np.float64) / 2, 1e-3, 1 - 1e-3)
        self.test, self.y, self.p = p["test"], p["y"].astype(np.float64), p
        rows = [np.flatnonzero((p["hosp"] == h) & ~p["test"]) for h in range(HOSPITALS)]
        self.sites = [(PackedGenotypes(packed(cohort.copies[own]), self.frequency), self.y[own]) for own in rows]
        sd = np.sqrt(2 * self.frequency * (1 - self.frequency))
        x = (cohort.copies[self.test] - 2 * self.frequency.astype(np.float32)) / sd.astype(np.float32)
        self.x = x.astype(np.float32)

    def run(self, clip: float, learning: float, epsilon: int | None) -> Floats:
        """(test,) log odds. `epsilon` in thousandths; None: no privacy."""
        rng, m = np.random.default_rng(0), len(self.frequency)
        weights, intercept = np.zeros(m), -1.7
        steps = ROUNDS * LOCAL
        z = float(sgd_noise_multiplier(epsilon, "0.0000194", str(RATE), steps)) if epsilon else 0.0
        total = sum(len(y) for _, y in self.sites)
        for _ in range(ROUNDS):
            mean, offset = np.zeros(m), 0.0
            for genotypes, y in self.sites:
                own, base, share = weights.copy(), intercept, len(y) / total
                for _ in range(LOCAL):
                    drawn = np.flatnonzero(rng.random(len(y)) < RATE)
                    found = genotypes.clipped_sum(own, base, y, drawn, clip)
                    noise = rng.normal(0, z * clip, m + 1) if epsilon else np.zeros(m + 1)
                    own -= learning * (found.weights + noise[:m]) / (RATE * len(y))
                    base -= learning * (found.intercept + noise[m]) / (RATE * len(y))
                mean, offset = mean + share * own, offset + share * base
            weights, intercept = mean, offset
        return np.asarray(self.x @ weights.astype(np.float32) + intercept, dtype=np.float64)


def measured(cohort: Cohort) -> list[dict[str, Any]]:
    """Rows for the table: the best of the settings, on the held-out people."""
    from sklearn.metrics import roc_auc_score as auc

    naive, rows = Naive(cohort), []
    y, population, hospital = naive.y[naive.test], naive.p["pop"][naive.test], naive.p["hosp"][naive.test]
    trials: list[tuple[str, int | None]] = [("FedAvg on all variants, non-private", None)]
    trials += [(f"DP-SGD at each hospital + FedAvg, all variants, epsilon {e // 1000}", e) for e in (1000, 3000, 8000)]
    for name, epsilon in trials:
        settings = SETTINGS if epsilon else [(np.inf, rate) for rate in (1e-4, 1e-3, 3e-3)]
        score = max((naive.run(clip, rate, epsilon) for clip, rate in settings), key=lambda each: auc(y, each))
        cells = {"all": auc(y, score)}
        cells |= {each: auc(y[population == k], score[population == k]) for k, each in enumerate(NAMES)}
        cells["hospitals"] = float(np.mean([auc(y[hospital == h], score[hospital == h]) for h in range(HOSPITALS)]))
        rows.append({"method": name, **{key: f"{value:.4f}" for key, value in cells.items()}})
    return rows
