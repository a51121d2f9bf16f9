"""How predictions of a network are met with outcomes: rows of patients, whose sum says how good the network is.

A row is short and bounded, so that a sum over patients can be noised; groups are the business of
`evaluation`. A number of which a sum has to know the mean lies between 0 and 1 in a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from genopact_shared.recipes.classes import chances
from genopact_shared.recipes.head import log_odds
from genopact_shared.recipes.risk_metrics import CELLS, MEASURES, cells, measured
from genopact_shared.recipes.table import Floats

EDGES = np.array([0.01, 0.03, 0.08, 0.2, 0.35, 0.55, 0.75])
"""Of bins of the predicted chance to have had the event at the end."""
RISKS = len(EDGES) + 1


class ByClass:
    """A table of true by predicted classes, squared errors of the chances, the chance of the predicted class."""

    measures = ("patients", "accuracy", "brier", "overconfidence")
    norm = 3**0.5

    def size(self, of: Any) -> int:
        """All pairs of classes, and two sums."""
        return int(of.classes) ** 2 + 2

    def rows(self, outputs: Floats, targets: Floats, of: Any) -> Floats:
        """outputs: (n, classes) logits; targets: (n,) classes."""
        given, pairs = chances(outputs), targets.astype(np.intp) * of.classes + outputs.argmax(axis=1)
        wrong = given - (targets[:, None] == np.arange(of.classes))
        table = pairs[:, None] == np.arange(of.classes**2)
        return np.column_stack([table, (wrong**2).sum(axis=1) / 2, given.max(axis=1)]).astype(np.float64)

    def measured(self, total: Floats, of: Any) -> dict[str, float]:
        """brier: half the squared distance of chances and truth. overconfidence: chance given, less accuracy."""
        table = total[:-2].reshape(of.classes, of.classes)
        found = {"patients": float(table.sum())}
        if found["patients"] < 1:
            return found
        accuracy = float(np.trace(table)) / found["patients"]
        brier, given = (total[-2:] / found["patients"]).tolist()
        return found | {"accuracy": accuracy, "brier": brier, "overconfidence": given - accuracy}


class ByOdds:
    """One of two outcomes: a table of predicted log odds by outcome, see `risk_metrics`."""

    measures = (MEASURES[0], "auc", *(each for each in MEASURES[1:] if each != "auc"))
    norm = 1.0

    def size(self, of: Any) -> int:  # noqa: ARG002
        """Of the table."""
        return CELLS

    def rows(self, outputs: Floats, targets: Floats, of: Any) -> Floats:
        """outputs: (n,) log odds; targets: (n,) 0 or 1."""
        return cells(outputs, targets, np.zeros(len(targets), np.intp), 1, nominal(of))

    def measured(self, total: Floats, of: Any) -> dict[str, float]:
        """As of recipe `risk`."""
        return measured(total.reshape(-1, 2), nominal(of))


class ByTime:
    """A table of predicted risk by intervals outlived and whether the event came then; the sum of risks in each bin."""

    measures = ("patients", "c_index", "events", "calibration")
    norm = 2**0.5

    def size(self, of: Any) -> int:
        """Bins of risk x intervals outlived x event, and bins of risk."""
        return RISKS * (len(of.ends_days) + 1) * 2 + RISKS

    def rows(self, outputs: Floats, targets: Floats, of: Any) -> Floats:
        """outputs: (n, intervals) log odds of hazards; targets: (n, intervals) 1 the event, 0 outlived, NaN."""
        risk = 1 - np.prod(1 / (1 + np.exp(outputs.reshape(targets.shape))), axis=1)
        outlived, event = (targets == 0).sum(axis=1), (targets == 1).any(axis=1)
        bins = np.searchsorted(EDGES, risk, side="right")
        place = 2 * (bins * (len(of.ends_days) + 1) + outlived) + event
        table = place[:, None] == np.arange(self.size(of) - RISKS)
        return np.column_stack([table, (bins[:, None] == np.arange(RISKS)) * risk[:, None]]).astype(np.float64)

    def measured(self, total: Floats, of: Any) -> dict[str, float]:  # noqa: ARG002
        """c_index: pairs in order, of pairs in which one has the event in an interval that the other outlives.

        Ties within a bin of risk count half. Negative counts stay, so that noise moves no mean. Source: Harrell et al.,
        "Evaluating the yield of medical tests", 1982. calibration: who had the event, censored patients aside, over who
        was expected to.
        """
        table, risks = by_risk(total)
        events, longer = _entered(table)
        lower = np.cumsum(longer, axis=0) - longer / 2
        pairs, people = float((events.sum(axis=0) * longer.sum(axis=0)).sum()), float(table.sum())
        found = {"patients": people, "events": float(table[:, :, 1].sum())}
        if min(pairs, people, risks.sum()) > 0:
            found["calibration"] = (1 - float(outlived(table.sum(axis=0))[-1])) * people / float(risks.sum())
            found["c_index"] = float((events * lower).sum()) / pairs
        return found


def by_risk(total: Floats) -> tuple[Floats, Floats]:
    """(RISKS, I + 1, 2) counts and (RISKS,) sums of risks of a sum of `ByTime`; 0 where no patient can be."""
    table = total[:-RISKS].reshape(RISKS, -1, 2).copy()
    table[:, -1, 1] = 0  # the event after the last interval
    return table, total[-RISKS:]


def _entered(table: Floats) -> tuple[Floats, Floats]:
    """(..., I) events of each interval, and who outlived it, from (..., I, 2) counts of intervals outlived x event."""
    longer = table.sum(axis=-1)
    return table[..., 1], longer.sum(axis=-1, keepdims=True) - np.cumsum(longer, axis=-1)


def outlived(table: Floats) -> Floats:
    """(I,) share who outlive each interval, from (I + 1, 2) counts; hazards lie between 0 and 1 whatever the noise.

    Source: Kaplan and Meier, "Nonparametric Estimation from Incomplete Observations", 1958.
    """
    events, longer = _entered(table)
    hazards = np.clip(events / np.maximum(events + longer, 1.0), 0, 1)
    return np.cumprod(1 - hazards, dtype=np.float64)[:-1]


@dataclass(frozen=True)
class ByError:
    """Absolute and signed errors, at most `bound`, in the unit that `of_unit` makes of outputs and targets.

    `within` counts errors of at most `tolerance`, or that share of the outcome if `relative`.
    """

    bound: float
    tolerance: float
    relative: bool = False
    of_unit: Callable[[Floats], Floats] = np.asarray
    measures: tuple[str, ...] = ("patients", "within", "mean_absolute_error", "bias")
    norm: float = 2.0

    def size(self, of: Any) -> int:  # noqa: ARG002
        """Four sums."""
        return 4

    def rows(self, outputs: Floats, targets: Floats, of: Any) -> Floats:  # noqa: ARG002
        """outputs, targets: (n,), or (n, k), of which the known ones are averaged."""
        truth = self.of_unit(targets).reshape(len(targets), -1)
        error = np.nanmean(self.of_unit(outputs).reshape(truth.shape) - truth, axis=1)
        size = np.nanmean(np.abs(self.of_unit(outputs).reshape(truth.shape) - truth), axis=1)
        allowed = self.tolerance * (np.nanmean(np.abs(truth), axis=1) if self.relative else 1.0)
        shares = (size <= allowed, np.minimum(size / self.bound, 1), (np.clip(error / self.bound, -1, 1) + 1) / 2)
        return np.column_stack([np.ones(len(truth)), *shares])

    def measured(self, total: Floats, of: Any) -> dict[str, float]:  # noqa: ARG002
        """bias: mean of predicted less observed."""
        patients, within, size, signed = total.tolist()
        found = {"patients": patients}
        if patients >= 1:
            found |= {"within": within / patients, "mean_absolute_error": self.bound * size / patients}
            found |= {"bias": self.bound * (2 * signed / patients - 1)}
        return found


def nominal(of: Any) -> float:
    """Log odds about which predictions are binned: of a nominal prevalence, or of one in five."""
    return log_odds(getattr(of, "prevalence_milli", 200) / 1000)
