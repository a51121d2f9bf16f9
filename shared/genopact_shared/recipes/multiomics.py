"""Recipe `multiomics`: classes of patients by several kinds of measurements, of which any may be missing.

Each matrix is standardised within the patient (no statistics of patients are needed) and gives an embedding. Late
fusion: each embedding votes, those present are averaged. Attention fusion: weights between the embeddings follow from
what is present. A patient without a matrix has no embedding of it. Training asks for the class by all that a patient
has and by each matrix alone, so that no prediction hangs on a matrix that others lack.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from genopact_shared.published import Published
from genopact_shared.recipes.classes import OUTCOME, SCHEMA, Classes, ClassParameters, class_of
from genopact_shared.recipes.facts import Facts
from genopact_shared.recipes.judges import ByClass
from genopact_shared.recipes.protocol import of_kind
from genopact_shared.recipes.table import MatrixParameters, Table, Values
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn


class MultiomicsParameters(ClassParameters, MatrixParameters):
    """And `fusion`; `width` of an embedding."""

    fusion: Literal["late", "attention"] = "late"
    width: int = Field(default=16, ge=1, le=256)


class MultiomicsRecipe(Classes, Facts):
    """See `protocol.NetRecipe`."""

    def module(self, parameters: Frozen) -> "nn.Module":
        """(n, all features + matrices) -> (n, classes)."""
        from genopact_shared.recipes.omics_module import Fusion

        return Fusion(of_kind(parameters, MultiomicsParameters))

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Inputs (n, all features + matrices) float32, see `within`, then who has which matrix; classes (n,)."""
        import torch

        of = of_kind(parameters, MultiomicsParameters)
        found = [within(table.matrices[each.name]) for each in of.matrices]
        present = [np.isfinite(table.matrices[each.name]).any(axis=1) for each in of.matrices]
        inputs = np.column_stack([*found, *present]).astype(np.float32)
        return torch.from_numpy(inputs), class_of(table, of.classes)

    def loss(self, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,) mean cross-entropies by all matrices of a patient and by each that is there; never reduced further."""
        import torch
        from torch.nn.functional import cross_entropy

        count = len(getattr(module, "sizes"))  # noqa: B009 - of `Fusion`
        values, present = inputs[:, :-count], inputs[:, -count:]
        total, times = torch.zeros_like(present[:, 0]), torch.zeros_like(present[:, 0])
        for kept in (torch.ones_like(present[0]), *torch.eye(count, dtype=inputs.dtype, device=inputs.device)):
            there = (present * kept).amax(1)
            odds = module(torch.cat([values, present * kept], 1))
            total, times = total + there * cross_entropy(odds, targets, reduction="none"), times + there
        return torch.div(total, times.clamp(min=1))


def within(values: Values) -> Values:
    """(n, F) standardised over each patient's own features, at most 5 from their mean; 0 where missing."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    centred = np.where(known, values - np.where(known, values, 0).sum(axis=1, keepdims=True) / count, 0)
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    return np.asarray(np.clip(centred / np.maximum(spread, 1e-6), -5, 5), np.float32)


MULTIOMICS = MultiomicsRecipe("multiomics", OUTCOME, SCHEMA, MultiomicsParameters, judge=ByClass())
