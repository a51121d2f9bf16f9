"""What recipes that tell classes apart share: one of several classes a patient, by the logits of a network."""

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from genopact_shared.recipes.facts import GROUP, NoSiteTerm
from genopact_shared.recipes.network import NetParameters
from genopact_shared.recipes.protocol import Model, Prediction
from genopact_shared.recipes.table import Choice, Column, Flag, Floats, Table

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTCOME = "class"
SCHEMA: tuple[Column, ...] = (Flag("held_out"), Choice(OUTCOME, tuple("0123456789"), "outcome"), GROUP)
"""The study says what its classes are."""


class ClassParameters(NetParameters):
    """Training settings; `classes`: how many; `seed`: of the first weights."""

    classes: int = Field(ge=2, le=10)
    seed: int = Field(default=0, ge=0)


class Classes(NoSiteTerm):
    """Loss and predictions of `protocol.NetRecipe`; no site term, because a class is the same everywhere."""

    def loss(self, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,) cross-entropies, one per patient, never reduced."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(module(inputs), targets, reduction="none")

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:  # noqa: ARG002
        """(n, classes) probabilities, without an interval."""
        found = chances(outputs)
        return Prediction(found, found, found)


def chances(outputs: Floats) -> Floats:
    """(n, classes) of logits."""
    odds = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def class_of(table: Table, classes: int) -> "Tensor":
    """(n,) int64, -1 unknown or none of the study's classes."""
    import torch

    codes = table.codes(OUTCOME).astype(np.int64)
    return torch.from_numpy(np.where(codes < classes, codes, -1))
