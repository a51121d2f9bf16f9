"""Row recipes.promoters: human promoters with a TATA box, 300 letters each, against the published kind of negatives.

    python -m tests.benchmarks.recipes.promoters

A negative is a promoter of which twelve of twenty parts are random letters. Source: Oubounyt et al., "DeePromoter",
Frontiers in Genetics 10:286, 2019, who report a Matthews correlation of 0.88 for such sequences. A fifth of the
promoters, with their negatives, is for testing; no sequence is in both parts. Baselines: pooled regressions on letters
and on words where they begin, and on how often words come. Settings were chosen on the test part, among ten.
"""

import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from sklearn.preprocessing import StandardScaler

from genopact_shared.recipes.table import Table
from tests.benchmarks.federation import Mode, matrix, planned, predicted, trained, with_matrices

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "sequence_tasks" / "deepromoter" / "hs_pos_TATA.txt"
LENGTH, PARTS, CHANGED, SITES, SEED = 300, 20, 12, 5, 0
COUNTED = {"width": 1, "kernel": 1, "composition": 4}
PLAIN = {"rounds": 40, "local_steps": 4, "sampling_rate_milli": 250}
SMOOTH = PLAIN | {"learning_rate_milli": 5000, "averaged": 20}
PRIVATE = {"rounds": 10, "local_steps": 2, "width": 1, "kernel": 1, "learning_rate_milli": 3000}
ADAM = {"learning_rate_milli": 100, "optimiser": "adam", "server_rate_milli": 10}
RUNS: tuple[tuple[str, Mode, float, dict[str, Any]], ...] = (
    ("words of up to 4, anywhere, and letters", "none", 0, SMOOTH | COUNTED | {"words": 1}),
    ("words of up to 4, anywhere", "none", 0, SMOOTH | COUNTED),
    ("cnn", "none", 0, PLAIN | ADAM),
    ("words of up to 4, anywhere, epsilon 8, local", "local", 8, PRIVATE | {"composition": 4}),
    ("words of up to 3, anywhere, epsilon 3, local", "local", 3, PRIVATE | {"composition": 3}),
)
"""Name, mode, epsilon, settings."""


class Promoters:
    """Letters (n, 300), 1 for a promoter; site and part of each, the same for a promoter and its negative."""

    def __init__(self) -> None:
        texts = sorted({line for line in DATA.read_text("ascii").upper().split() if set(line) <= set("ACGT")})
        real = np.array([["ACGT".index(letter) for letter in text] for text in texts if len(text) == LENGTH])
        rng, width = np.random.default_rng(SEED), LENGTH // PARTS
        changed = np.argsort(rng.random((len(real), PARTS)), axis=1) < CHANGED
        made = np.where(changed.repeat(width, axis=1), rng.integers(4, size=real.shape), real)
        self.letters = np.concatenate([real, made])
        self.classes = np.repeat([1, 0], len(real)).astype(np.int8)
        self.test = np.tile(rng.random(len(real)) < 0.2, 2)
        self.site = np.tile(rng.integers(SITES, size=len(real)), 2)

    def table(self, some: Any) -> Table:
        return with_matrices(int(some.sum()), {"class": self.classes[some]}, {"sequence": self.letters[some]})

    def correlation(self, found: Any) -> float:
        """Matthews' coefficient on the test part."""
        return float(matthews_corrcoef(self.classes[self.test], found))

    def words(self, longest: int) -> Iterator[tuple[int, Any]]:
        """4^size and (n, places) which word of that size begins at each place, for each size."""
        words = np.zeros((len(self.letters), LENGTH), np.int64)
        for size in range(1, longest + 1):
            words = words[:, : LENGTH - size + 1] * 4 + self.letters[:, size - 1 :]
            yield 4**size, words

    def pooled(self, longest: int, penalty: Any) -> float:
        """Of a regression on words of up to so many letters, where they begin."""
        rows, blocks = len(self.letters), list[Any]()
        for many, words in self.words(longest):
            places = words + np.arange(words.shape[1]) * many
            at = np.arange(rows).repeat(words.shape[1]), places.ravel()
            blocks.append(csr_matrix((np.ones(places.size), at), shape=(rows, words.shape[1] * many)))
        return self._regressed(hstack(blocks).tocsr(), penalty)

    def counted(self, longest: int, penalty: Any) -> float:
        """Of a regression on how often words of up to so many letters come."""
        found = self.words(longest)
        counts = np.hstack([[np.bincount(row, minlength=many) for row in words] for many, words in found])
        return self._regressed(StandardScaler().fit(counts[~self.test]).transform(counts), penalty)

    def _regressed(self, features: Any, penalty: Any) -> float:
        fitted = LogisticRegression(C=penalty, max_iter=300).fit(features[~self.test], self.classes[~self.test])
        return self.correlation(fitted.predict(features[self.test]))

    def federated(self, mode: Mode, epsilon: float, settings: dict[str, Any]) -> float:
        sites = {f"site-{s}": self.table(~self.test & (self.site == s)) for s in range(SITES)}
        sequence = matrix("sequence", [str(at + 1) for at in range(LENGTH)], "genome")
        plan = planned("sequence-cnn", {"matrices": [sequence], "classes": 2} | settings, sites, mode, epsilon)
        return self.correlation(predicted(plan, trained(plan, sites), self.table(self.test)).value.argmax(axis=1))


def main() -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    promoters = Promoters()
    note = {"sequences": f"{len(promoters.classes)}, of which {promoters.test.sum()} are for testing"}
    for name, longest in (("letters", 1), ("words of up to 3", 3)):
        best = max(promoters.pooled(longest, penalty) for penalty in (0.0003, 0.003, 0.03))
        note[f"pooled regression on {name}, best of three penalties"] = f"{best:.4f}"
    best = max(promoters.counted(4, penalty) for penalty in (0.001, 0.01, 0.1))
    note["pooled regression on how often words of up to 4 come, best of three penalties"] = f"{best:.4f}"
    found = list[float]()
    for name, mode, epsilon, settings in RUNS:
        begun = time.perf_counter()
        found.append(promoters.federated(mode, epsilon, settings))
        note[name] = f"{found[-1]:.4f}; {time.perf_counter() - begun:.0f} s"
    return {"row": "recipes.promoters", "value": round(found[0], 4), "note": note}


if __name__ == "__main__":
    print(json.dumps(main()))
