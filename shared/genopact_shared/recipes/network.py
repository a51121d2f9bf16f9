"""What every network recipe shares: its public training settings, and its plan.

Each round, each site makes `local_steps` private steps from the shared model and releases what they changed; the
coordinator adds the mean of the changes, weighted by the planned cohorts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from pydantic import Field

from genopact_shared.errors import GenopactError
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.protocol import PEOPLE, Floats, Metrics, Model, NetRecipe, Prediction, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn


class NetParameters(Frozen):
    """Training settings; all of them public, none of them follows from data.

    `sampling_rate_milli`: chance of a patient to be in a step. `clip_milli`: L2 bound of a patient's gradient.
    `learning_rate_milli`: of the gradient's mean over the expected batch, planned cohort x sampling rate.
    """

    rounds: int = Field(default=10, ge=1, le=1000)
    local_steps: int = Field(default=4, ge=1, le=1000)
    sampling_rate_milli: int = Field(default=500, ge=1, le=1000)
    clip_milli: int = Field(default=1000, ge=1, le=100_000)
    learning_rate_milli: int = Field(default=500, ge=1, le=100_000)


@dataclass(frozen=True)
class NetPlan:
    """A network recipe with its public numbers fixed; the counterpart of `protocol.SumPlan`."""

    recipe: NetRecipe
    parameters: NetParameters
    planned: Mapping[str, int]
    published: Published = NOTHING

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    def initial(self) -> Model:
        """The first weights, by parameter name, float64."""
        named = self.recipe.module(self.parameters).named_parameters()
        return {name: weights.detach().numpy().astype(np.float64) for name, weights in named}

    def module(self, model: Model) -> "nn.Module":
        """The network with the weights of a model."""
        module = self.recipe.module(self.parameters)
        load(module, model)
        return module

    def advance(self, index: int, model: Model, update: Model) -> Model:  # noqa: ARG002 - every round is alike
        """The next model: the sites' mean change added."""
        return {name: weights + update[name] for name, weights in model.items()}

    def metrics(self, model: Model) -> Metrics:  # noqa: ARG002 - a network run releases no metrics
        """None."""
        return {}

    def fit_personal(self, model: Model, table: Table) -> Model:
        """The site's own term on the finished shared model; it never leaves the site."""
        return self.recipe.fit_personal(self.outputs(model, table), table)

    def predict(self, model: Model, personal: Model | None, table: Table) -> Prediction:
        """Predictions for every row; the outcome column is not read."""
        return self.recipe.predict(self.outputs(model, table), personal)

    def tensors(self, table: Table) -> "tuple[Tensor, Tensor]":
        """Inputs (B, ...) and targets (B,) of the patients with an outcome."""
        inputs, targets = self.recipe.tensors(table, self.parameters, self.published)
        known = ~targets.isnan()
        return inputs[known], targets[known]

    def outputs(self, model: Model, table: Table) -> Floats:
        """(n,) what the network gives for every row; the outcome column is not read."""
        import torch

        module, (inputs, _) = self.module(model), self.recipe.tensors(table, self.parameters, self.published)
        with torch.no_grad():
            found = [cast("Tensor", module(some)).reshape(-1) for some in torch.split(inputs, PEOPLE)]
        return torch.cat(found).numpy().astype(np.float64)


def load(module: "nn.Module", model: Model) -> None:
    """Give a network the weights of a model.

    Raises:
        GenopactError: FRAME_INVALID unless names and shapes are exactly the network's.
    """
    import torch

    named = dict(module.named_parameters())
    if {name: tuple(weights.shape) for name, weights in named.items()} != shapes(model):
        raise GenopactError("FRAME_INVALID", "not a model of this network")
    with torch.no_grad():
        for name, weights in named.items():
            weights.copy_(torch.from_numpy(model[name]))


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: values.shape for name, values in model.items()}
