"""Recipe `pca`: principal components of all sites' genotypes, as loadings on which each site projects its own people.

Subspace iteration from public start vectors: a round is one sum of x (x'L), x a patient's standardised genotypes and L
the loadings so far, which advance makes orthonormal again. The people are those of an association study: with a trait.
The scores of a site's patients are its own term and stay there. Source: Halko, Martinsson, Tropp, "Finding structure
with randomness", 2011, for the iteration.
"""

import math
from typing import NamedTuple

import numpy as np
from pydantic import Field

from genopact_shared.errors import GenopactError
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.facts import planned
from genopact_shared.recipes.gwas import OUTCOME, SCHEMA, GwasRecipe, exact_scale
from genopact_shared.recipes.gwas_private import read_frequencies, spreads, standardised
from genopact_shared.recipes.protocol import Metrics, Model, SumStep, finest_scale
from genopact_shared.recipes.regression import folded, orthonormal
from genopact_shared.recipes.table import Codes, Floats, GenotypeParameters, Table
from genopact_shared.study import Frozen


class PcaParameters(GenotypeParameters):
    """`design`: see `gwas_private.design`. `clip_milli`: of a row in a study with a budget, in sqrt(V components)."""

    count: int = Field(ge=1, le=1 << 20)
    design: str = Field(pattern=r"^[0-9a-f]{64}$")
    components: int = Field(default=4, ge=1, le=10)
    rounds: int = Field(default=8, ge=1, le=50)
    clip_milli: int = Field(default=4000, ge=1, le=1_000_000)


def scores(model: Model, codes: Codes) -> Floats:
    """(b, components) of (b, V) copies, in standard deviations of the population that the model was made of.

    Guarantees: each row has the same bits whatever the other rows are.
    """
    x = standardised(codes, model["frequency"], spreads(model["frequency"])).T
    raw = np.column_stack([folded(x * loading[:, None]) for loading in model["loadings"].T])
    return np.asarray(np.divide(raw, np.sqrt(model["variances"]), out=np.zeros_like(raw), where=model["variances"] > 0))


class PcaPlan(NamedTuple):
    """See `protocol.SumPlan`."""

    parameters: PcaParameters
    planned_total: int
    epsilon_milli: int | None
    published: Published

    @property
    def steps(self) -> tuple[SumStep, ...]:
        """Rounds that are alike."""
        p, weight = self.parameters, 1 / self.parameters.rounds
        dims, clip = p.count * p.components, p.clip_milli / 1000 * math.sqrt(p.count * p.components)
        budget = self.epsilon_milli
        scale = exact_scale(self.planned_total) if budget is None else finest_scale(clip, weight, budget)
        return tuple(SumStep(f"round-{at}", dims, clip, weight, scale) for at in range(1, p.rounds + 1))

    def initial(self) -> Model:
        """`frequency` (V,), orthonormal `loadings` (V, components), and `variances` (components,) along them.

        Raises:
            GenopactError: PUBLISHED_MISSING, PUBLISHED_INVALID.
        """
        p = self.parameters
        frequency = read_frequencies(self.published, p.design, p.count)
        start = self.published.read(p.design).get("loadings", np.empty(0))
        if start.shape != (p.count, p.components) or start.dtype != np.float64 or not np.isfinite(start).all():
            raise GenopactError("PUBLISHED_INVALID", f"{p.design}: expected {p.components} start vectors")
        return {"frequency": frequency, "loadings": orthonormal(start)[0], "variances": np.ones(p.components)}

    def contribution(self, index: int, model: Model, table: Table) -> Floats:  # noqa: ARG002 - all rounds are alike
        """(n, components V): x times each of the patient's own scores; zeros without a trait, as in `gwas`."""
        v, spread = self.parameters.count, spreads(model["frequency"])
        out, known = np.empty((table.n, v * self.parameters.components)), np.isfinite(table.number(OUTCOME))
        for some, codes in table.dosages():
            x = standardised(codes, model["frequency"], spread) * known[some, None]
            for at, loading in enumerate(model["loadings"].T):
                out[some, at * v : (at + 1) * v] = x * folded(x.T * loading[:, None])[:, None]
        return out

    def advance(self, index: int, model: Model, total: Floats) -> Model:  # noqa: ARG002 - all rounds are alike
        """Orthonormal again; what was left of each vector, by planned patients, estimates the variance along it."""
        loadings, lengths = orthonormal(total.reshape(self.parameters.components, -1).T)
        return model | {"loadings": loadings, "variances": lengths / self.planned_total}

    def metrics(self, model: Model) -> Metrics:
        """Variance along each component."""
        return {f"pc{at}": {"variance": value} for at, value in enumerate(model["variances"].tolist(), start=1)}


class PcaRecipe(GwasRecipe):
    """See `protocol.SumRecipe`; of the same table as `gwas`."""

    def plan(
        self, parameters: Frozen, planned_total: int, epsilon_milli: int | None, published: Published = NOTHING
    ) -> PcaPlan:
        """The plan; raises ValueError for parameters of another recipe or an empty cohort."""
        return PcaPlan(planned(parameters, PcaParameters, planned_total), planned_total, epsilon_milli, published)

    def fit_personal(self, model: Model, table: Table) -> Model:
        """`scores` (n, components) of the site's own patients, in the order of its table."""
        projected = [scores(model, codes) for _, codes in table.dosages()]
        return {"scores": np.concatenate([np.empty((0, len(model["variances"]))), *projected])}


PCA = PcaRecipe("pca", OUTCOME, SCHEMA, PcaParameters, ("variance",))
