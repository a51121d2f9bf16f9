"""Recipe `cell-response`: how strongly cells of many lines answer to each of many drugs.

Matrices of a line (mutations, copy numbers, tissue) give one embedding; a drug is an embedding, too, and a bias; the
answer is their product. A line is the unit of privacy: its drugs are one loss, the mean over those that were measured.
The last matrix is the outcome, in public units near 0 and 1, a feature a drug.
"""

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from genopact_shared.published import Published
from genopact_shared.recipes.facts import GROUP, Facts
from genopact_shared.recipes.judges import ByError
from genopact_shared.recipes.network import NetParameters, columns
from genopact_shared.recipes.protocol import Model, Prediction, of_kind
from genopact_shared.recipes.table import Column, Flag, Floats, MatrixParameters, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTCOME = "response"
SCHEMA: tuple[Column, ...] = (Flag("held_out"), GROUP)


class CellResponseParameters(NetParameters, MatrixParameters):
    """Training settings; `width` of an embedding."""

    width: int = Field(default=32, ge=1, le=256)
    seed: int = Field(default=0, ge=0)


class CellResponseRecipe(Facts):
    """See `protocol.NetRecipe`. The matrix named `response` is the outcome."""

    def module(self, parameters: Frozen) -> "nn.Module":
        """(n, features) -> (n, drugs)."""
        from torch import nn

        from genopact_shared.recipes.layers import chain

        of = _own(parameters)
        *features, drugs = (each.features for each in of.matrices)
        line = nn.Linear(sum(features), of.width, bias=False)
        return chain(of.seed, line=line, last=nn.Linear(of.width, drugs))

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Inputs (n, features), 0 where missing; targets (n, drugs), NaN where nothing was measured."""
        import torch

        *features, drugs = (table.matrices[each.name] for each in _own(parameters).matrices)
        return torch.from_numpy(np.nan_to_num(np.column_stack(features))), torch.from_numpy(drugs)

    def loss(self, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,) mean squared errors over the drugs of a line, never reduced further."""
        seen = ~targets.isnan()
        errors: Tensor = (module(inputs) - targets.nan_to_num()) ** 2 * seen
        return errors.sum(1) / seen.sum(1).clamp(min=1)

    def fit_personal(self, outputs: Floats, table: Table) -> Model:
        """The site's own mean of each drug, shrunk to the shared one."""
        left = table.matrices[OUTCOME] - columns(outputs)
        return {"drugs": np.nansum(left, axis=0) / ((~np.isnan(left)).sum(axis=0) + 10.0)}

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:
        """(n, drugs), without an interval."""
        found = columns(outputs) + (0.0 if personal is None else personal["drugs"])
        return Prediction(found, found, found)


def _own(parameters: Frozen) -> CellResponseParameters:
    of = of_kind(parameters, CellResponseParameters)
    if of.matrices[-1].name != OUTCOME:
        raise ValueError("The last matrix is the response")
    return of


CELL_RESPONSE = CellResponseRecipe("cell-response", OUTCOME, SCHEMA, CellResponseParameters, judge=ByError(5.0, 1.0))
