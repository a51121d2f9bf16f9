"""Recipe `survival`: time to an event, by a hazard in each of several intervals of time.

Cox' partial likelihood couples records, so that no patient's part of it can be clipped. A hazard in discrete time has
a likelihood a patient: in every interval that a patient entered, whether the event came in it. An interval in which
somebody was censored does not count. Source: Gensheimer and Narasimhan, "A scalable discrete-time survival model for
neural networks", 2019.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import Field, model_validator

from genopact_shared.published import Published
from genopact_shared.recipes.facts import GROUP, Facts, NoSiteTerm
from genopact_shared.recipes.judges import ByTime
from genopact_shared.recipes.network import NetParameters, columns
from genopact_shared.recipes.protocol import Model, Prediction, of_kind
from genopact_shared.recipes.table import Column, Flag, Floats, MatrixParameters, Number, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTCOME = "time"
SCHEMA: tuple[Column, ...] = (
    Flag("held_out"), Number(OUTCOME, "days to the event or the last contact", 0, 60_000, "outcome"), Flag("event"),
    GROUP,
)  # fmt: skip
BOUND = 5.0


class SurvivalParameters(NetParameters, MatrixParameters):
    """Training settings. The one matrix has features in public units, near 0 and 1; `ends_days`: of the intervals.

    `hidden`: units of a hidden layer; 0: hazards are linear. `proportional`: features move all hazards alike.
    """

    ends_days: tuple[int, ...] = Field(min_length=1, max_length=64)
    hidden: int = Field(default=0, ge=0, le=256)
    proportional: bool = True
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(after <= before for before, after in pairwise((0, *self.ends_days))):
            raise ValueError("ends_days ascend from above 0")
        return self


class SurvivalRecipe(NoSiteTerm, Facts):
    """See `protocol.NetRecipe`."""

    def module(self, parameters: Frozen) -> "nn.Module":
        """(n, features) -> (n, intervals) logits of the hazards."""
        from genopact_shared.recipes.survival_module import Hazards

        return Hazards(of_kind(parameters, SurvivalParameters))

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Inputs (n, features); targets (n, intervals): 1 the event, 0 outlived, NaN not observed to its end."""
        import torch

        of = of_kind(parameters, SurvivalParameters)
        inputs = np.clip(np.nan_to_num(table.matrices[of.matrices[0].name]), -BOUND, BOUND)
        time, event, ends = table.number(OUTCOME)[:, None], table.codes("event")[:, None] == 1, np.array(of.ends_days)
        begins = np.concatenate([[0], ends[:-1]])
        inside = (time > begins) & (time <= ends)
        inside[:, 0] |= time[:, 0] == 0
        targets = np.where(time > ends, 0.0, np.where(inside & event, 1.0, np.nan)).astype(np.float32)
        return torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(targets)

    def loss(self, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,) negative log-likelihoods, one per patient, never reduced."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        seen = ~targets.isnan()
        found = binary_cross_entropy_with_logits(module(inputs), targets.nan_to_num(), reduction="none")
        return (found * seen).sum(1)

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:
        """(n, intervals) probability to outlive the end of each interval."""
        odds: Floats = np.exp(columns(outputs))
        alive = np.asarray(np.cumprod(1 / (1 + odds), axis=1), np.float64)
        return Prediction(alive, alive, alive)


SURVIVAL = SurvivalRecipe("survival", OUTCOME, SCHEMA, SurvivalParameters, judge=ByTime())
