"""What guesses about canaries show: lower bounds on epsilon, and how well membership is told from a model.

Canaries are made-up patients that fair coins put in or leave out; an attacker guesses the coins from what was released.
Sources: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", 2023; Dong, Roth and Su, "Gaussian
Differential Privacy", 2022; Carlini et al., "Membership Inference Attacks From First Principles", 2022.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_server.audit.accountant import gaussian_epsilon
from genopact_shared.privacy.accounting import halved
from genopact_shared.recipes.table import Floats
from genopact_shared.study import Frozen, Study

Flags = NDArray[np.bool_]
SHARES = (1.0, 0.25, 0.05, 0.01)
"""Of the canaries the attacker guesses about, the surest first; chosen beforehand, each a test of its own."""
LEVELS = (0.5, 1.0)
"""How much of a canary's stated contribution has to be seen for the guess that it is in; each a test of its own. The
first suits a noise that is too small, the second a contribution that is too large."""
MAX_EPSILON = 60.0


class Evidence(NamedTuple):
    """What an attacker made of `runs` independent runs with m canaries each, whose coins were fresh in each run.

    `included`: (runs, m), the coins. `scores`: (runs, m), positive where the attacker, who knows no coin, believes in
    1, larger for the surer. `told`: (runs, LEVELS), whether one canary of each run was guessed rightly by an attacker
    who knows the other coins. `gains`: (runs, m), by how much better the final model fits the canary than the first.
    """

    included: Flags
    scores: Floats
    told: Flags
    gains: Floats


class Showing(Frozen):
    """The audit of a study, beside its certificate. The two bounds hold together with the stated confidence.

    `one_run`: whatever the noise. `gaussian`: if the noise has the Gaussian shape that the plan states, at any size;
    None for plans of another shape. `auc`, `tpr_at_1_percent`, `tpr_at_01_percent`: membership from the final model.
    """

    study: str
    canaries: int
    runs: int
    confidence: float
    certified: float
    one_run: float
    gaussian: float | None
    auc: float
    tpr_at_1_percent: float
    tpr_at_01_percent: float

    @property
    def bound(self) -> float:
        """The larger bound."""
        return max(self.one_run, self.gaussian or 0.0)

    @property
    def verdict(self) -> Literal["ok", "violated"]:
        """Whether the certificate stands; `ok` proves nothing."""
        return "violated" if self.bound > self.certified else "ok"


def p_value(epsilon: float, delta: float, correct: int, guesses: int, canaries: int) -> float:
    """The chance, at most, of so many correct guesses if the mechanism is (epsilon, delta)-private.

    With delta = 0 the coin of a canary, given the output and the coins before it, is at most as certain as
    q = e^epsilon / (1 + e^epsilon), so that correct guesses are fewer than W ~ Binomial(guesses, q). With delta they
    are fewer than W + F, where F depends on the output alone and has a mean of at most 2 canaries delta; and
    P(W + F >= v) <= P(W >= v) + E(F) max_i P(v - i <= W < v) / i (theorem 5.2 and appendix D of the paper).

    Raises:
        ValueError: unless 0 <= correct <= guesses <= canaries.
    """
    from scipy.stats import binom

    if not 0 <= correct <= guesses <= canaries:
        raise ValueError("Expected 0 <= correct <= guesses <= canaries")
    q = 1 / (1 + np.exp(-epsilon))
    below = np.cumsum(binom.pmf(np.arange(correct)[::-1], guesses, q)) / np.arange(1, correct + 1)
    most = float(binom.sf(correct - 1, guesses, q)) + 2 * canaries * delta * float(below.max(initial=0.0))
    return min(1.0, most)


def one_run(correct: int, guesses: int, canaries: int, delta: float, failure: float) -> float:
    """The largest epsilon that so many correct guesses refute; wrong with a chance of at most `failure`.

    Assumptions: fair independent coins; guesses fixed before the coins are looked at. Independent runs whose canaries
    have coins of their own count as one run: a coin moves one of them only.
    """
    return halved(0.0, MAX_EPSILON, 50, lambda each: p_value(each, delta, correct, guesses, canaries) >= failure)[0]


def gaussian(correct: int, guesses: int, delta: float, failure: float) -> float:
    """The least epsilon at `delta` of a Gaussian mechanism that lets coins be guessed so well.

    Under mu-GDP a fair coin is guessed rightly with a chance of at most Phi(mu / 2); Clopper and Pearson bound it from
    below. Independent runs, one guess in each.
    """
    from scipy.special import ndtri
    from scipy.stats import beta

    accuracy = float(beta.ppf(failure, correct, guesses - correct + 1)) if correct else 0.0
    return gaussian_epsilon(max(0.0, 2 * float(ndtri(accuracy))), delta)


def shaped(evidence: Evidence, delta: float, failure: float) -> float:
    """The best `gaussian` bound over LEVELS, each with its part of `failure`."""
    runs, levels = evidence.told.shape
    return max(gaussian(int(right), runs, delta, failure / levels) for right in evidence.told.sum(axis=0))


def surest(evidence: Evidence, delta: float, failure: float) -> float:
    """The best `one_run` bound over SHARES, each with its part of `failure`."""
    scores, included = evidence.scores.ravel(), evidence.included.ravel()
    order = np.argsort(-np.abs(scores), kind="stable")
    right = (scores > 0) == included
    parts = [right[order[: max(1, round(share * len(order)))]] for share in SHARES]
    return max(one_run(int(part.sum()), len(part), len(order), delta, failure / len(SHARES)) for part in parts)


def membership(evidence: Evidence, rates: Sequence[float] = (0.01, 0.001)) -> tuple[float, list[float]]:
    """AUC of the gains, and the share of included canaries told at each false positive rate.

    Each canary's gain is compared with its own median over the runs, as likelihood-ratio attacks do with other models.
    """
    from scipy.stats import rankdata

    gains = evidence.gains - (np.median(evidence.gains, axis=0) if len(evidence.gains) > 1 else 0.0)
    inside, outside = gains[evidence.included], np.sort(gains[~evidence.included])
    if not len(inside) or not len(outside):
        return 0.5, [0.0 for _ in rates]
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)]
    auc = (float(ranks.sum()) - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside))
    thresholds = [outside[-1 - int(rate * len(outside))] for rate in rates]
    return auc, [float((inside > threshold).mean()) for threshold in thresholds]


def show(evidence: Evidence, study: Study, certified: float, *, shape: bool, confidence: float = 0.95) -> Showing:
    """The bounds and the attack; `shape`: whether the plan's noise is Gaussian, without sampling."""
    failure, delta = (1 - confidence) / (2 if shape else 1), float(study.privacy.delta)
    runs, canaries = evidence.scores.shape
    auc, (at_1, at_01) = membership(evidence)
    shown: dict[str, Any] = {"auc": auc, "tpr_at_1_percent": at_1, "tpr_at_01_percent": at_01}
    shown |= {"one_run": surest(evidence, delta, failure)}
    shown |= {"gaussian": shaped(evidence, delta, failure) if shape else None}
    return Showing(study=study.hash, canaries=canaries, runs=runs, confidence=confidence, certified=certified, **shown)
