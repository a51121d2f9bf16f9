"""Recipes `sequence-cnn`, `sequence-rnn`, `sequence-transformer`: classes of DNA sequences of one length.

A person's sequence is a sealed matrix of letters, A 0, C 1, G 2, T 3, anything else 4: splice sites, promoters, or a
window of a haplotype. All three networks keep where in the window a letter stands. Explanations: `genopact model
explain` shows what each letter, and each change of one, does to a prediction.
"""

from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import Field, model_validator

from genopact_shared.published import Published
from genopact_shared.recipes.classes import OUTCOME, SCHEMA, Classes, ClassParameters, class_of
from genopact_shared.recipes.facts import Facts
from genopact_shared.recipes.judges import ByClass
from genopact_shared.recipes.protocol import of_kind
from genopact_shared.recipes.table import MatrixParameters, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

LETTERS = 4


class SequenceParameters(ClassParameters, MatrixParameters):
    """And the network's sizes; the one matrix is the sequence.

    `width`: channels, hidden units or numbers of a token. `kernel`: letters that a convolution sees.
    `depth`: of convolutions or layers of attention. `words`: letters of the longest words that the last layer sees
    beside the network: every word that begins at a place is a feature of its own. `composition`: letters of the longest
    words of which it sees how often they come anywhere.
    """

    width: int = Field(default=16, ge=1, le=256)
    kernel: int = Field(default=7, ge=1, le=63)
    depth: int = Field(default=1, ge=1, le=4)
    words: int = Field(default=0, ge=0, le=4)
    composition: int = Field(default=0, ge=0, le=5)

    @model_validator(mode="after")
    def _within(self) -> Self:
        if max(self.words, self.composition) > self.matrices[0].features:
            raise ValueError("words are no longer than the sequence")
        return self


class SequenceRecipe(Classes, Facts):
    """See `protocol.NetRecipe`; the name says which network."""

    def module(self, parameters: Frozen) -> "nn.Module":
        """(n, length, 4) -> (n, classes)."""
        from genopact_shared.recipes.sequence_module import SequenceModule

        return SequenceModule(self.name, of_kind(parameters, SequenceParameters))

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Inputs (n, length, 4) float32, one letter in four, zeros for none of them; classes (n,) int64."""
        import torch

        of = of_kind(parameters, SequenceParameters)
        letters = table.matrices[of.matrices[0].name]
        known = letters[:, :, None] == np.arange(LETTERS)
        return torch.from_numpy(known.astype(np.float32)), class_of(table, of.classes)


SEQUENCE_CNN, SEQUENCE_RNN, SEQUENCE_TRANSFORMER = (
    SequenceRecipe(f"sequence-{network}", OUTCOME, SCHEMA, SequenceParameters, judge=ByClass())
    for network in ("cnn", "rnn", "transformer")
)
