"""Recipe `cohort-summary`: how good the genotypes of all sites together are, as histograms in one noised sum.

A patient adds one to one bin of each of the five columns that quality control gives (`genopact_ingest.quality`), so
that the norm of every row is the root of five. Bins are public and fixed. Patients without a call rate have no
genotypes and are left out: the call rate is the outcome.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.facts import Facts, planned
from genopact_shared.recipes.protocol import Metrics, Model, Prediction, SumStep
from genopact_shared.recipes.table import Choice, Column, Flag, Floats, Number, Table
from genopact_shared.study import Frozen

OUTCOME = "call_rate"
SCHEMA: tuple[Column, ...] = (
    Number(OUTCOME, "share of variants", 0.0, 1.0, "outcome"),
    Number("heterozygosity_f", "1 - observed / expected", -1.0, 1.0),
    Choice("sex_check", ("agrees", "differs", "unclear")),
    Flag("related"),
    Flag("batch_outlier"),
)
EDGES = {
    OUTCOME: (0.0, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 1.0),
    "heterozygosity_f": (-1.0, -0.2, -0.1, -0.05, -0.02, 0.02, 0.05, 0.1, 0.2, 1.0),
}
"""A bin holds its lower edge; the last one also its upper."""


def _bins(column: Column) -> list[str]:
    if isinstance(column, Number):
        edges = EDGES[column.name]
        return [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return list(column.levels) if isinstance(column, Choice) else ["no", "yes"]


BINS = {column.name: [*_bins(column), "unknown"] for column in SCHEMA}
DIMS = sum(map(len, BINS.values()))
CLIP = math.ceil(math.sqrt(len(BINS)) * 1e4) / 1e4
"""Just above the norm of every row, so that clipping never moves one."""


class SummaryParameters(Frozen):
    """None: everything is fixed."""


class SummaryPlan(NamedTuple):
    """One sum. See `protocol.SumPlan`."""

    steps: tuple[SumStep, ...] = (SumStep("metrics", DIMS, CLIP, 1.0, 1 << 10),)

    def initial(self) -> Model:
        """Nothing counted."""
        return {"histograms": np.zeros(DIMS)}

    def contribution(self, index: int, model: Model, table: Table) -> Floats:
        """(n, 29): a one in a bin of each column; zeros for a patient without a call rate."""
        blocks = []
        for column in SCHEMA:
            unknown, name = len(BINS[column.name]) - 1, column.name
            if isinstance(column, Number):
                values = table.number(name)
                place = np.where(np.isnan(values), unknown, np.searchsorted(EDGES[name][1:-1], values, side="right"))
            else:
                codes = table.codes(name)
                place = np.where(codes < 0, unknown, codes)
            blocks.append(place[:, None] == np.arange(unknown + 1))
        known = np.isfinite(table.number(OUTCOME))
        return np.asarray(np.concatenate(blocks, axis=1) & known[:, None], dtype=np.float64)

    def advance(self, index: int, model: Model, total: Floats) -> Model:
        """The histograms as released."""
        return {"histograms": np.array(total, dtype=np.float64)}

    def metrics(self, model: Model) -> Metrics:
        """Patients in each bin, with the release's noise: a count may lie below 0."""
        names = [f"{column} {each}" for column, bins in BINS.items() for each in bins]
        return {name: {"patients": value} for name, value in zip(names, model["histograms"].tolist(), strict=True)}


class SummaryRecipe(Facts):
    """See `protocol.SumRecipe`."""

    def plan(
        self, parameters: Frozen, planned_total: int, epsilon_milli: int | None, published: Published = NOTHING
    ) -> SummaryPlan:
        """The plan; raises ValueError for parameters of another recipe or an empty cohort."""
        planned(parameters, SummaryParameters, planned_total)
        return SummaryPlan()

    def fit_personal(self, model: Model, table: Table) -> Model:
        """Nothing."""
        return {}

    def predict(self, model: Model, personal: Model | None, table: Table) -> Prediction:
        """The same for everybody: median and 80 % interval of the released call rates."""
        counts = np.maximum(model["histograms"][: len(EDGES[OUTCOME]) - 1], 0) + 1e-9
        share = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
        low, value, high = (np.full(table.n, np.interp(at, share, EDGES[OUTCOME])) for at in (0.1, 0.5, 0.9))
        return Prediction(value, low, high)


COHORT_SUMMARY = SummaryRecipe("cohort-summary", OUTCOME, SCHEMA, SummaryParameters, ("patients",))
