"""Recipe `gwas`: the association of one trait with each of V variants, and allele counts, over all sites together.

Without a budget (mode exact, or none on public data) sites add up products, and the results are those of one file
with everybody in it. A linear trait: least squares of the trait on the variant and the covariates, as `plink2 --glm`
does it, with the people whose genotype is missing left out variant by variant. For this the products of everybody are
summed once, those of the people whom a variant misses once a variant, and the difference is of the people it has. A
logistic trait: the null model of the covariates by Newton steps, then for each variant one Newton step from there:
effect = score / information, which is the score test. Both are one computation: weighted products of the covariates,
the variant and the residual, from which the covariates are eliminated.

With a budget see `gwas_private`.

Assumptions:
    Who sees exact totals sees more than results. Of a variant that one patient carries, or misses, they are that
    patient's covariates and trait. Choose common, well called variants; mode exact is for those who permit it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from pydantic import Field

from genopact_shared.errors import GenopactError, require
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.facts import Facts, planned
from genopact_shared.recipes.head import log_odds, probability
from genopact_shared.recipes.linear import rowwise
from genopact_shared.recipes.protocol import Metrics, Model, Prediction, SumPlan, SumStep
from genopact_shared.recipes.regression import TOLERANCE, swept
from genopact_shared.recipes.table import Choice, Codes, Column, Floats, GenotypeParameters, Number, Table
from genopact_shared.study import Frozen

Covariate = Literal["age", "sex", "pc1", "pc2", "pc3", "pc4", "pc5", "pc6", "pc7", "pc8", "pc9", "pc10"]
OUTCOME = "trait"
COMPONENTS = tuple(name for name in get_args(Covariate) if name.startswith("pc"))
SCHEMA: tuple[Column, ...] = (
    Number("age", "years", 0.0, 120.0),
    Choice("sex", ("female", "male")),
    Number(OUTCOME, "of the study", -1e9, 1e9, "outcome"),
    *(Number(name, "standard deviations", -1000.0, 1000.0) for name in COMPONENTS),
)
MEDIAN = 0.45493642311957283
"""Of chi square with one degree of freedom."""
MOST = 1 << 21
"""Numbers in a sum: variants are taken in blocks."""
NEWTON = 7
"""Steps to the null model; each doubles the digits."""
AMPLE = 52
"""Bits of a sum of ones, so that averages over patients may take 10 more before they leave the kernel's 62."""


class GwasParameters(GenotypeParameters):
    """What is regressed on what.

    `count`: of variants in the manifest. A linear trait is computed as (trait - centre) / spread, which results do
    not depend on in mode exact. `prevalence_milli`: of a logistic trait, nominal. `design`: digest of the frequencies
    that a study with a budget needs; `counts`: whether such a study also releases allele counts.
    """

    count: int = Field(ge=1, le=1 << 24)
    trait: Literal["linear", "logistic"]
    covariates: tuple[Covariate, ...] = ("age", "sex")
    centre_milli: int = Field(default=0, ge=-(1 << 40), le=1 << 40)
    spread_milli: int = Field(default=1000, ge=1, le=1 << 40)
    prevalence_milli: int = Field(default=500, ge=1, le=999)
    design: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    counts: bool = False

    @property
    def width(self) -> int:
        """Of the null model: the constant and the covariates."""
        return 1 + len(self.covariates)

    @property
    def spread(self) -> float:
        """Of a linear trait, its unit; 1 for a logistic one, whose effects are log odds."""
        return self.spread_milli / 1000 if self.trait == "linear" else 1.0

    def residuals(self, table: Table, model: Model) -> tuple[Floats, Floats, Floats]:
        """At the null model: 1 and the covariates (n, k), publicly centred and 0 where missing; weights and residuals
        (n,), NaN where the trait is missing.
        """
        columns, trait = [np.ones(table.n)], table.number(OUTCOME)
        for name in self.covariates:
            codes = table.codes("sex") if name == "sex" else None
            values = table.number(name) if codes is None else np.where(codes < 0, np.nan, 2.0 * codes - 1)
            columns.append(np.nan_to_num((values - 50) / 20 if name == "age" else values, nan=0.0))
        rows = np.column_stack(columns)
        fitted = rowwise(rows, model["null"][None, :])[:, 0]
        if self.trait == "linear":
            return rows, np.ones(table.n), (trait - self.centre_milli / 1000) / self.spread - fitted
        fitted = probability(fitted)
        return rows, fitted * (1 - fitted), trait - fitted

    def blank(self) -> Model:
        """`null` (k,) of the null model, at the nominal prevalence or 0; (V,) each: `people` with a genotype,
        `copies` of the effect allele, `effect` of a copy and its standard `error`, NaN unknown.
        """
        start = log_odds(self.prevalence_milli / 1000) if self.trait == "logistic" else 0.0
        model = {name: np.full(self.count, 0.0) for name in ("people", "copies")}
        model |= {name: np.full(self.count, np.nan) for name in ("effect", "error")}
        return model | {"null": np.array([start] + [0.0] * len(self.covariates))}


def exact_scale(planned_total: int) -> int:
    """Units per 1.0 of sums without noise: the finest that leave room for twice the planned patients."""
    return 1 << max(0, AMPLE - (2 * planned_total).bit_length())


@dataclass(frozen=True)
class ExactGwas:
    """Sums of products, without noise. See `protocol.SumPlan`.

    A row: P products, w c c', c e, e e' and 1, of everybody; then, each for B variants: g, w g^2, w g c (k), g e, and
    the P products again of a patient whom the variant misses. g: copies; c: covariates; w, e: weight and residual at
    the null model.
    """

    parameters: GwasParameters
    planned_total: int

    @cached_property
    def pairs(self) -> tuple[list[int], list[int]]:
        """Which two of the k covariates and the residual each product is of."""
        first, second = np.triu_indices(self.parameters.width + 1)
        return first.tolist(), second.tolist()

    @property
    def products(self) -> int:
        """P: the pairs, and 1, which counts people."""
        return len(self.pairs[0]) + 1

    @property
    def each(self) -> int:
        """Numbers a variant."""
        return self.parameters.width + 3 + self.products

    @property
    def newton(self) -> int:
        """Sums before those of variants."""
        return NEWTON if self.parameters.trait == "logistic" else 0

    @cached_property
    def blocks(self) -> tuple[slice, ...]:
        """The variants of each of the later sums."""
        count, size = self.parameters.count, max(1, (MOST - self.products) // self.each)
        return tuple(slice(first, min(first + size, count)) for first in range(0, count, size))

    @property
    def steps(self) -> tuple[SumStep, ...]:
        """The null model's, then a block of variants each."""
        sizes = [(f"null-{at}", 0) for at in range(1, self.newton + 1)]
        sizes += [(f"variants-{at}", block.stop - block.start) for at, block in enumerate(self.blocks, start=1)]
        scale, weight = exact_scale(self.planned_total), 1 / len(sizes)
        return tuple(SumStep(name, self.products + size * self.each, 1.0, weight, scale) for name, size in sizes)

    def initial(self) -> Model:
        """Nothing known."""
        return self.parameters.blank()

    def contribution(self, index: int, model: Model, table: Table) -> Floats:
        """(n, dims), dense; zeros for a patient without the trait.

        Raises:
            GenopactError: TABLE_INVALID for a logistic trait that is neither 0 nor 1, or another number of variants.
        """
        rows, weights, residuals = self.parameters.residuals(table, model)
        known, (first, second) = np.isfinite(residuals), self.pairs
        if self.parameters.trait == "logistic" and not np.isin(table.number(OUTCOME)[known], (0.0, 1.0)).all():
            raise GenopactError("TABLE_INVALID", "column trait: neither 0 nor 1")
        residuals, out = np.where(known, residuals, 0.0), np.zeros((table.n, self.steps[index].dims))
        columns = np.column_stack([rows, residuals])
        products = np.column_stack([columns[:, first] * columns[:, second], known])
        products[:, : len(first)][:, np.array(second) < rows.shape[1]] *= weights[:, None]
        products[~known] = 0.0
        out[:, : self.products] = products
        if index < self.newton:
            return out
        block = self.blocks[index - self.newton]
        size, weighted = block.stop - block.start, rows * weights[:, None]
        for some, codes in table.dosages():
            require_count(codes, self.parameters.count)
            copies = np.where(known[some, None], np.maximum(codes[:, block], 0), 0).astype(np.float64)
            factors = [np.ones(len(copies)), None, *weighted[some].T, residuals[some]]
            for at, factor in enumerate(factors):
                place = self.products + at * size
                by = copies * weights[some, None] if factor is None else factor[:, None]
                out[some, place : place + size] = copies * by
            person, variant = np.nonzero((codes[:, block] < 0) & known[some, None])
            for at in range(self.products):
                place = self.products + (len(factors) + at) * size
                out[person + some.start, place + variant] = products[person + some.start, at]
        return out

    def advance(self, index: int, model: Model, total: Floats) -> Model:
        """A Newton step of the null model, or the results of a block of variants."""
        k, sums, out = self.parameters.width, self.products, {name: values.copy() for name, values in model.items()}
        if index < self.newton:
            _, slopes, _ = swept(self._matrices(total[:, None]), k)
            return out | {"null": model["null"] + slopes[:, 0, 0]}
        block = self.blocks[index - self.newton]
        variants = total[sums:].reshape(-1, block.stop - block.start)
        called = total[:sums, None] - variants[-sums:]
        whole = np.zeros((k + 2, k + 2, variants.shape[1]))
        whole[:-1, :-1], whole[-1, -1] = self._matrices(called), variants[1]
        whole[-1, :-1] = whole[:-1, -1] = variants[2 : k + 3]
        left, _, rank = swept(whole, k)
        (rest, score), (_, information) = left
        free = called[-1] - rank - 1
        information = np.where((information > TOLERANCE * variants[1]) & (free > 0), information, np.nan)
        effect, variance = score / information, 1 / information
        if self.parameters.trait == "linear":
            variance = variance * np.maximum(rest - effect * score, 0.0) / np.maximum(free, 1.0)
        out["people"][block], out["copies"][block] = called[-1], variants[0]
        out["effect"][block] = self.parameters.spread * effect
        out["error"][block] = self.parameters.spread * np.sqrt(variance)
        return out

    def metrics(self, model: Model) -> Metrics:
        """People with a genotype of the best called variant; the genomic control factor."""
        measured, known = {"patients": float(model["people"].max())}, model["error"] > 0
        if known.any():
            measured["lambda_gc"] = float(np.median((model["effect"][known] / model["error"][known]) ** 2) / MEDIAN)
        return {"all": measured}

    def _matrices(self, products: Floats) -> Floats:
        """(P, V) to (k + 1, k + 1, V)."""
        out = np.zeros((self.parameters.width + 1, self.parameters.width + 1, products.shape[1]))
        out[self.pairs] = out[self.pairs[::-1]] = products[:-1]
        return out


def require_count(codes: Codes, count: int) -> None:
    """TABLE_INVALID for another number of variants than the study's."""
    require(codes.shape[1] == count, "TABLE_INVALID", f"{codes.shape[1]} variants, where the study counts {count}")


class GwasRecipe(Facts):
    """See `protocol.SumRecipe`."""

    def plan(
        self, parameters: Frozen, planned_total: int, epsilon_milli: int | None, published: Published = NOTHING
    ) -> SumPlan:
        """The plan. Raises ValueError for parameters of another recipe or an empty cohort; PLAN_IMPOSSIBLE."""
        from genopact_shared.recipes.gwas_private import NoisedGwas

        of = planned(parameters, GwasParameters, planned_total)
        if epsilon_milli is None:
            return ExactGwas(of, planned_total)
        if of.design is None:
            raise GenopactError("PLAN_IMPOSSIBLE", "with a budget a study names its frequencies: parameters.design")
        return NoisedGwas(of, planned_total, epsilon_milli, published)

    def fit_personal(self, model: Model, table: Table) -> Model:  # noqa: ARG002 - results have no site term
        """Nothing."""
        return {}

    def predict(self, model: Model, personal: Model | None, table: Table) -> Prediction:  # noqa: ARG002
        """Nothing is known of anybody: effects of single variants are no model of a person."""
        return Prediction(*(np.full(table.n, np.nan) for _ in range(3)))


GWAS = GwasRecipe("gwas", OUTCOME, SCHEMA, GwasParameters, ("patients", "lambda_gc"))
