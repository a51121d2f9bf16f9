"""Recipe `adverse-reaction`: the risk that the usual starting dose of warfarin is far too much for a patient.

The usual 35 mg a week over-anticoagulates who needs at most 21 mg: the low-dose group of the IWPC (N Engl J Med
2009;360:753-764). Features are those of recipe `dose`, the outcome is the same column. Who lacks the gene that explains
most, VKORC1, gets no advice: see `abstains`.
"""

from typing import TYPE_CHECKING, cast

import numpy as np
from pydantic import Field

from genopact_shared.published import Published
from genopact_shared.recipes.dose import Z80
from genopact_shared.recipes.dose_features import FEATURES, NET_SCHEMA, OUTCOME, features
from genopact_shared.recipes.facts import Facts
from genopact_shared.recipes.head import probability, site_term
from genopact_shared.recipes.judges import ByOdds
from genopact_shared.recipes.network import NetParameters
from genopact_shared.recipes.protocol import Model, Prediction, of_kind
from genopact_shared.recipes.table import Floats, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

LOW_DOSE_MG = 21.0
PRIOR_SD = 0.5
"""Public spread of a site's intercept on the log odds."""


class AdverseReactionParameters(NetParameters):
    """Training settings; `hidden`: units of a hidden layer, 0 for a linear model; `seed`: of the first weights."""

    hidden: int = Field(default=0, ge=0, le=256)
    seed: int = Field(default=0, ge=0)


class AdverseReactionRecipe(Facts):
    """See `protocol.NetRecipe`."""

    def module(self, parameters: Frozen) -> "nn.Module":
        """(n, 13) -> (n, 1)."""
        from torch import nn

        from genopact_shared.recipes.layers import chain

        of = of_kind(parameters, AdverseReactionParameters)
        first = {"first": nn.Linear(len(FEATURES), of.hidden), "bend": nn.Tanh()} if of.hidden else {}
        return chain(of.seed, **first, last=nn.Linear(of.hidden or len(FEATURES), 1))

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Inputs (n, 13) float32, and targets (n,): 1 needs at most LOW_DOSE_MG, 0 more, NaN unknown."""
        import torch

        dose = table.number(OUTCOME)
        low = np.where(np.isfinite(dose), dose <= LOW_DOSE_MG, np.nan).astype(np.float32)
        return torch.from_numpy(features(table).astype(np.float32)), torch.from_numpy(low)

    def loss(self, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,) logistic losses, one per patient, never reduced."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(cast("Tensor", module(inputs)).squeeze(1), targets, reduction="none")

    def fit_personal(self, outputs: Floats, table: Table) -> Model:
        """The site's own intercept on the log odds, and its variance, shrunk to none."""
        dose = table.number(OUTCOME)
        y, odds = (dose <= LOW_DOSE_MG)[np.isfinite(dose)], outputs[np.isfinite(dose)]
        rows, precision = np.ones((len(odds), 1)), np.array([PRIOR_SD**-2])
        own, covariance = site_term(odds, rows, y.astype(np.float64), precision, linear=False)
        return {"intercept": own, "variance": covariance[0]}

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:
        """Risks; the interval is that of what a site's own level leaves open."""
        own, variance = (0.0, PRIOR_SD**2) if personal is None else (personal["intercept"], personal["variance"])
        centre, half = outputs + own, Z80 * np.sqrt(variance)
        return Prediction(probability(centre), probability(centre - half), probability(centre + half))


ADVERSE_REACTION = AdverseReactionRecipe(
    "adverse-reaction", OUTCOME, NET_SCHEMA, AdverseReactionParameters, judge=ByOdds()
)
