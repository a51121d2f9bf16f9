"""What every network recipe shares: its public training settings, and its two plans.

`NetPlan` (modes local and none): each round, each site makes `local_steps` steps from the shared model and releases
what they changed; the mean of the changes, weighted by planned cohorts, is a step of the coordinator's optimiser.
`NetSums` (mode distributed): each round is one masked sum of all patients' gradients, and a step along it.
Sources: Reddi et al., "Adaptive Federated Optimization", 2021, for optimisers of changes; Li et al., "Federated
Optimization in Heterogeneous Networks", 2020, for the proximal term.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genopact_shared.errors import GenopactError
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.protocol import Metrics, Model, NetRecipe, Prediction, SumStep, finest_scale
from genopact_shared.recipes.table import PEOPLE, Floats, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

MEAN, SQUARE, SUM = STATE = ("mean of ", "square of ", "sum of ")
"""Prefixes of an optimiser's state in a model, which is no part of the network."""
FINEST = 1 << 14
"""Units per 1.0 of a patient's gradient in a masked sum."""
DECAY, SQUARES_DECAY, FLOOR = 0.9, 0.99, 1e-3
"""Of an adaptive optimiser: of the mean and of the squares of changes; what is added to their root."""


class NetParameters(Frozen):
    """Training settings; all of them public, none of them follows from data.

    `sampling_rate_milli`: chance of a patient to be in a step. `clip_milli`: L2 bound of a patient's gradient.
    `learning_rate_milli`: of the gradient's mean over the expected batch, planned cohort x sampling rate.
    `combine`: what counts as the sites' change; all but the mean hold against a few sites that send anything, and need
    updates that the coordinator sees, which it does not in mode distributed. `optimiser`: what becomes of that change,
    in steps of `server_rate_milli`; adaptive ones divide by its usual size. `decay_milli`: how much of every matrix a
    round takes off. `averaged`: the last model is the mean of those after so many last rounds, which takes noise away.
    `proximal_milli`: pull of local steps towards the shared model. In mode distributed every patient is in every round,
    `learning_rate_milli` is that of the mean gradient; `local_steps`, `sampling_rate_milli`, `proximal_milli` are idle.
    """

    rounds: int = Field(default=10, ge=1, le=1000)
    local_steps: int = Field(default=4, ge=1, le=1000)
    sampling_rate_milli: int = Field(default=500, ge=1, le=1000)
    clip_milli: int = Field(default=1000, ge=1, le=100_000)
    learning_rate_milli: int = Field(default=500, ge=1, le=100_000)
    combine: Literal["mean", "median", "trimmed", "krum"] = "mean"
    optimiser: Literal["average", "adam", "yogi"] = "average"
    server_rate_milli: int = Field(default=1000, ge=1, le=100_000)
    decay_milli: int = Field(default=0, ge=0, le=500)
    averaged: int = Field(default=0, ge=0, le=1000)
    proximal_milli: int = Field(default=0, ge=0, le=100_000)

    @property
    def state(self) -> tuple[str, ...]:
        """Prefixes of what a model holds beside the network's weights."""
        return (MEAN, SQUARE) * (self.optimiser != "average") + (SUM,) * (self.averaged > 0)


@dataclass(frozen=True)
class Network:
    """A network recipe with its public numbers fixed. A model is the network's weights, and the optimiser's state."""

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
        model = {name: weights.detach().numpy().astype(np.float64) for name, weights in named}
        state = self.parameters.state
        return model | {of + name: np.zeros_like(values) for of in state for name, values in model.items()}

    @cached_property
    def dims(self) -> int:
        """How many weights the network has."""
        return sum(values.size for values in weights_of(self.initial()).values())

    def module(self, model: Model) -> "nn.Module":
        """The network with the weights of a model."""
        module = self.recipe.module(self.parameters)
        load(module, model)
        return module

    def metrics(self, model: Model) -> Metrics:  # noqa: ARG002 - a network run releases no metrics
        """None."""
        return {}

    def fit_personal(self, model: Model, table: Table) -> Model:
        """The site's own term on the finished shared model; it never leaves the site."""
        kept = table.take(table.codes("held_out") != 1)
        return self.recipe.fit_personal(self.outputs(model, kept), kept)

    def predict(self, model: Model, personal: Model | None, table: Table) -> Prediction:
        """Predictions for every row; the outcome column is not read."""
        return self.recipe.predict(self.outputs(model, table), personal)

    def tensors(self, table: Table) -> "tuple[Tensor, Tensor]":
        """Inputs (B, ...) and targets (B, ...) of the patients with an outcome who are not held out."""
        import torch

        inputs, targets = self.recipe.tensors(table, self.parameters, self.published)
        trains = torch.from_numpy(self._trains(targets, table))
        return inputs[trains], targets[trains]

    def gradients(self, model: Model, table: Table) -> Floats:
        """(n, dims) of each patient's loss, in the order of the weights' names; zeros for whoever does not train.

        Guarantees: row i has the same bits in any table, because patients are computed one by one.
        """
        import torch

        module = self.module(model).double()
        inputs, targets = self.recipe.tensors(table, self.parameters, self.published)
        inputs, targets = (each.double() if each.is_floating_point() else each for each in (inputs, targets))
        weights = [weight for _, weight in sorted(module.named_parameters())]
        rows = np.zeros((table.n, self.dims))
        for at in np.flatnonzero(self._trains(targets, table)).tolist():
            loss = self.recipe.loss(module, inputs[at : at + 1], targets[at : at + 1])
            found = torch.autograd.grad(loss.sum(), weights)
            rows[at] = torch.cat([each.reshape(-1) for each in found]).numpy()
        return rows

    def losses(self, model: Model, inputs: "Tensor", targets: "Tensor") -> Floats:
        """(n,) of every patient of the recipe's tensors, 0 without an outcome."""
        import torch

        with torch.no_grad():
            asked = targets if targets.is_floating_point() else targets.clamp(min=0)
            found = self.recipe.loss(self.module(model).eval(), inputs, asked)
        return np.where(known(targets), found.numpy(), 0.0).astype(np.float64)

    def outputs(self, model: Model, table: Table) -> Floats:
        """(n, ...) what the network gives for every row, (n,) for one number; the outcome is not read."""
        return self.forward(model, self.recipe.tensors(table, self.parameters, self.published)[0], PEOPLE)

    def forward(self, model: Model, inputs: "Tensor", at_once: int) -> Floats:
        """As `outputs`, so many patients at a time; one at a time, a row has the same bits in any company."""
        import torch

        module = self.module(model).eval()
        with torch.no_grad():
            found = [cast("Tensor", module(some)) for some in torch.split(inputs, at_once)]
        outputs = torch.cat(found).numpy().astype(np.float64)
        return outputs[:, 0] if outputs.shape[1:] == (1,) else outputs

    @staticmethod
    def _trains(targets: "Tensor", table: Table) -> NDArray[np.bool_]:
        return np.asarray(known(targets) & (table.codes("held_out") != 1), np.bool_)


class NetPlan(Network):
    """The plan of local steps."""

    def advance(self, index: int, model: Model, update: Model) -> Model:
        """The next model, from the sites' mean change."""
        return moved(self.parameters, index, model, update)


@dataclass(frozen=True)
class NetSums(Network):
    """The plan of masked sums of gradients; see `protocol.SumPlan`. `epsilon_milli`: of the study."""

    epsilon_milli: int = 0

    @property
    def steps(self) -> tuple[SumStep, ...]:
        """Rounds that are alike."""
        p, clip = self.parameters, self.parameters.clip_milli / 1000
        scale = finest_scale(clip, 1 / p.rounds, self.epsilon_milli, FINEST)
        return tuple(SumStep(f"round-{at + 1}", self.dims, clip, 1 / p.rounds, scale) for at in range(p.rounds))

    def contribution(self, index: int, model: Model, table: Table) -> Floats:  # noqa: ARG002 - every round is alike
        """See `gradients`."""
        return self.gradients(model, table)

    def advance(self, index: int, model: Model, total: Floats) -> Model:
        """The next model, by a step along the mean gradient."""
        rate = self.parameters.learning_rate_milli / 1000 / sum(self.planned.values())
        weights = sorted(weights_of(model).items())
        parts = zip(weights, np.split(total, np.cumsum([old.size for _, old in weights])[:-1]), strict=True)
        change = {name: -rate * part.reshape(old.shape) for (name, old), part in parts}
        return moved(self.parameters, index, model, change)


def known(targets: "Tensor") -> NDArray[np.bool_]:
    """(n,) who has an outcome, see `protocol.NetRecipe.tensors`."""
    found = ~targets.isnan() if targets.is_floating_point() else targets >= 0
    return np.asarray(found.unsqueeze(-1).flatten(1).any(1).numpy(), np.bool_)


def columns(outputs: Floats) -> Floats:
    """(n, k) outputs, also of a network that gives one number."""
    return outputs[:, None] if outputs.ndim == 1 else outputs


def weights_of(model: Model) -> Model:
    """The network's weights, without an optimiser's state."""
    return {name: values for name, values in model.items() if not name.startswith(STATE)}


def moved(of: NetParameters, index: int, model: Model, change: Model) -> Model:
    """The model after round `index` and its mean change; the same bits on every machine: elementwise arithmetic."""
    found, rate = dict(model), of.server_rate_milli / 1000
    for name, each in change.items():
        step = each
        if of.optimiser != "average":
            found[MEAN + name] = DECAY * model[MEAN + name] + (1 - DECAY) * each
            new, old = each * each, model[SQUARE + name]
            toward = new - old if of.optimiser == "adam" else np.sign(new - old) * new
            found[SQUARE + name] = old + (1 - SQUARES_DECAY) * toward
            step = found[MEAN + name] / (np.sqrt(found[SQUARE + name]) + FLOOR)
        kept = 1 - of.decay_milli / 1000 * (each.ndim > 1)
        found[name] = kept * model[name] + rate * step
        if of.averaged and index >= of.rounds - of.averaged:
            found[SUM + name] = model[SUM + name] + found[name]
            if index == of.rounds - 1:
                found[name] = found[SUM + name] / min(of.averaged, of.rounds)
    return found


def load(module: "nn.Module", model: Model) -> None:
    """Give a network the weights of a model.

    Raises:
        GenopactError: FRAME_INVALID unless names and shapes are exactly the network's.
    """
    import torch

    named = dict(module.named_parameters())
    if {name: tuple(weights.shape) for name, weights in named.items()} != shapes(weights_of(model)):
        raise GenopactError("FRAME_INVALID", "not a model of this network")
    with torch.no_grad():
        for name, weights in named.items():
            weights.copy_(torch.from_numpy(model[name]))


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: values.shape for name, values in model.items()}
