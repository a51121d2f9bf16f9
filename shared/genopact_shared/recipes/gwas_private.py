"""Recipe `gwas` with a budget: a small null model by noised steps, then one clipped, noised sum of scores.

A patient's row of scores is x (trait - fitted), x the genotypes standardised by public frequencies, 0 where missing.
Information is public, too: planned cohort times 2f(1 - f) times the variance of the residual, nominal: one spread
squared, or p(1 - p). Residuals beyond the clip make effects smaller. Standard errors
here are those of sampling alone; the noise's part needs the plan's facts and is added by whoever writes the table.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.published import Published
from genopact_shared.recipes.gwas import GwasParameters, require_count
from genopact_shared.recipes.head import Head
from genopact_shared.recipes.protocol import Metrics, Model, SumStep, finest_scale
from genopact_shared.recipes.table import Codes, Floats, Table

NULL, COUNTS = 0.05, 0.15
"""Shares of the budget; scores get the rest."""
REACH = {"linear": 1.5, "logistic": 0.6}
"""Times sqrt(V), the norm of a typical row of genotypes: the residual that is still let through."""


def design(frequency: Floats, **more: Floats) -> bytes:
    """The published file that `parameters.design` names by its digest.

    Args:
        frequency: (V,) of the effect allele, NaN unknown.
        more: for recipe `pca`: `loadings`, (V, components), to start from: public ones, or any numbers.
    """
    return wire.pack({name: values.astype(np.float64) for name, values in {"frequency": frequency, **more}.items()})


def read_frequencies(published: Published, digest: str, count: int) -> Floats:
    """(V,), NaN unknown. Raises PUBLISHED_MISSING; PUBLISHED_INVALID for another file."""
    found = published.read(digest).get("frequency", np.empty(0))
    if found.shape != (count,) or found.dtype != np.float64 or ((found < 0) | (found > 1)).any():
        raise GenopactError("PUBLISHED_INVALID", f"{digest}: expected {count} frequencies")
    return np.asarray(found, dtype=np.float64)


def spreads(frequency: Floats) -> Floats:
    """(V,) standard deviations of copies, sqrt(2f(1 - f)); infinite for a variant that does not vary or is unknown."""
    varies = (frequency > 0) & (frequency < 1)
    return np.sqrt(np.where(varies, 2 * frequency * (1 - frequency), np.inf))


def standardised(codes: Codes, frequency: Floats, spread: Floats) -> Floats:
    """(b, V) copies to (copies - 2f) / spread; 0 where missing or unknown."""
    require_count(codes, len(frequency))
    centred = codes - 2 * np.nan_to_num(frequency)
    return np.where(codes < 0, 0.0, centred) / spread


@dataclass(frozen=True, eq=False)
class NoisedGwas:
    """See `protocol.SumPlan`."""

    parameters: GwasParameters
    planned_total: int
    epsilon_milli: int
    published: Published

    @cached_property
    def head(self) -> Head:
        """The null model. Covariates are in public units in which they are uncorrelated with unit moments."""
        prevalence = self.parameters.prevalence_milli / 1000 if self.parameters.trait == "logistic" else 0.5
        return Head(np.eye(self.parameters.width), prevalence, self.planned_total)

    @property
    def steps(self) -> tuple[SumStep, ...]:
        """The null model's; `scores`; `counts`, if they are asked for."""
        count, shares = self.parameters.count, {"scores": 1 - NULL - COUNTS * self.parameters.counts}
        clips = {"scores": REACH[self.parameters.trait] * math.sqrt(count), "counts": math.sqrt(count / 2)}
        if self.parameters.counts:
            shares["counts"] = COUNTS
        scales = {name: finest_scale(clips[name], share, self.epsilon_milli) for name, share in shares.items()}
        sums = (SumStep(name, count, clips[name], share, scales[name]) for name, share in shares.items())
        return (*self.head.steps(NULL), *sums)

    @cached_property
    def frequency(self) -> Floats:
        """(V,), public."""
        return read_frequencies(self.published, self.parameters.design or "", self.parameters.count)

    @property
    def information(self) -> float:
        """Of one standard deviation of any variant: what the variance of its score is without noise."""
        prevalence = self.parameters.prevalence_milli / 1000
        return self.planned_total * (prevalence * (1 - prevalence) if self.parameters.trait == "logistic" else 1.0)

    def initial(self) -> Model:
        """Nothing known but the null model's start."""
        return self.parameters.blank()

    def contribution(self, index: int, model: Model, table: Table) -> Floats:
        """(n, dims) rows before clipping; zeros for a patient without the trait."""
        name = self.steps[index].name
        rows, _, residuals = self.parameters.residuals(table, model)
        residuals = np.where(np.isfinite(residuals), residuals, 0.0)
        if name not in {"scores", "counts"}:
            # Half of a linear one, so that the head's clip lets a typical residual pass.
            half = 1.0 if self.parameters.trait == "logistic" else 0.5
            return self.head.whitened(rows) * (half * residuals)[:, None]
        spread = spreads(self.frequency) if name == "scores" else np.ones(self.parameters.count)
        out = np.empty((table.n, self.parameters.count))
        for some, codes in table.dosages():
            factor = residuals[some] if name == "scores" else np.isfinite(table.number("trait")[some]).astype(float)
            out[some] = standardised(codes, self.frequency, spread) * factor[:, None]
        return out

    def advance(self, index: int, model: Model, total: Floats) -> Model:
        """A step of the null model; effects and errors; or copies."""
        name = self.steps[index].name
        if name not in {"scores", "counts"}:
            # Two for the halves, a quarter for the variance that the head expects of a residual.
            gradient = total if self.parameters.trait == "logistic" else total * 0.5
            return model | {"null": self.head.advance({"coefficients": model["null"]}, gradient)["coefficients"]}
        expected = 2 * self.planned_total * np.nan_to_num(self.frequency)
        if name == "counts":
            return model | {"copies": expected + total}
        spread = spreads(self.frequency)
        varies = np.isfinite(spread)
        unit = np.divide(self.parameters.spread, spread, out=np.full(len(spread), np.nan), where=varies)
        people = np.where(varies, float(self.planned_total), 0.0)
        found = {"people": people, "copies": expected, "effect": unit * (total / self.information)}
        return model | found | {"error": unit / np.sqrt(self.information)}

    def metrics(self, model: Model) -> Metrics:
        """Planned people."""
        return {"all": {"patients": float(model["people"].max())}}
