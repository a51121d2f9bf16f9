"""Recipe `dose-net`: a small network on the features of `dose`, for private steps at each site (mode local)."""

import math
from typing import TYPE_CHECKING, cast

import numpy as np
from pydantic import Field

from genopact_shared.published import Published
from genopact_shared.recipes.dose import ERROR_BOUND_MG, PRIOR_PATIENTS, PUBLIC_VARIANCE, SITE_PRIOR, Z80
from genopact_shared.recipes.dose_features import FEATURES, NET_SCHEMA, OUTCOME, dose_mg, features, outcome
from genopact_shared.recipes.facts import Facts
from genopact_shared.recipes.judges import ByError
from genopact_shared.recipes.network import NetParameters
from genopact_shared.recipes.protocol import Model, Prediction, of_kind
from genopact_shared.recipes.table import Floats, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

HUBER_DELTA = 1.5
"""On the root scale, about one residual standard deviation."""


class DoseNetParameters(NetParameters):
    """Training settings, width of the hidden layer, whether it is normalised (within a patient), seed of its weights.

    The defaults were chosen on generated cohorts alone: 1,300 patients of four sites, epsilon 1 to 8.
    """

    hidden: int = Field(default=16, ge=1, le=256)
    layer_norm: bool = False
    seed: int = Field(default=0, ge=0)


class DoseNetRecipe(Facts):
    """See `protocol.NetRecipe`."""

    def module(self, parameters: Frozen) -> "nn.Module":
        """One hidden layer, the last layer zero: it starts at the fixed dose. The seed alone decides the weights."""
        import torch
        from torch import nn

        of = of_kind(parameters, DoseNetParameters)
        generator = torch.Generator().manual_seed(of.seed)
        first, last = nn.Linear(len(FEATURES), of.hidden), nn.Linear(of.hidden, 1)
        with torch.no_grad():
            nn.init.kaiming_uniform_(first.weight, a=5**0.5, generator=generator)
            for rest in (first.bias, last.weight, last.bias):
                rest.zero_()
        norm = [nn.LayerNorm(of.hidden)] if of.layer_norm else []
        return nn.Sequential(first, *norm, nn.Tanh(), last)

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Inputs (n, 13) and targets (n,), float32."""
        import torch

        return torch.from_numpy(features(table).astype(np.float32)), torch.from_numpy(outcome(table).astype(np.float32))

    def loss(self, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,) Huber losses, one per patient, never reduced."""
        from torch.nn.functional import huber_loss

        predicted = cast("Tensor", module(inputs)).squeeze(-1)
        return huber_loss(predicted, targets, reduction="none", delta=HUBER_DELTA)

    def fit_personal(self, outputs: Floats, table: Table) -> Model:
        """The site's own intercept and residual variance on the root scale, shrunk to none and to the public one."""
        residual = outcome(table) - outputs
        residual = residual[np.isfinite(residual)]
        intercept = float(residual.sum()) / (len(residual) + SITE_PRIOR[0])
        squares = float(((residual - intercept) ** 2).sum()) + PRIOR_PATIENTS * PUBLIC_VARIANCE
        return {"intercept": np.array([intercept]), "variance": np.array([squares / (len(residual) + PRIOR_PATIENTS)])}

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:
        """mg/week."""
        centre, variance = outputs, PUBLIC_VARIANCE
        if personal is not None:
            centre, variance = centre + personal["intercept"], float(personal["variance"][0])
        half = Z80 * math.sqrt(variance)
        return Prediction(dose_mg(centre), dose_mg(centre - half), dose_mg(centre + half))


_JUDGE = ByError(ERROR_BOUND_MG, 0.2, relative=True, of_unit=dose_mg)
DOSE_NET = DoseNetRecipe("dose-net", OUTCOME, NET_SCHEMA, DoseNetParameters, judge=_JUDGE)
