"""The networks of the sequence recipes; importing them imports torch."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from genopact_shared.recipes.layers import Attention, begun
from genopact_shared.recipes.sequence import LETTERS, SequenceParameters

POSITIONS = 8
"""Numbers that say where a letter stands: sines and cosines."""


class SequenceModule(nn.Module):
    """(n, length, 4) -> (n, classes): features of each place, and words, and a linear layer over all of them."""

    def __init__(self, recipe: str, of: SequenceParameters) -> None:
        super().__init__()
        length, width = of.matrices[0].features, of.width
        self.recipe, self.words, self.composition = recipe, of.words, of.composition
        if recipe == "sequence-cnn":
            widths = [LETTERS, *[width] * of.depth]
            pairs = [(nn.Conv1d(a, b, of.kernel, padding=of.kernel // 2), nn.ReLU()) for a, b in pairwise(widths)]
            self.body: nn.Module = nn.Sequential(*(layer for pair in pairs for layer in pair))
        elif recipe == "sequence-rnn":
            self.body = nn.GRU(LETTERS, width, batch_first=True)
        else:
            layers = [Attention(width, 1) for _ in range(of.depth)]
            self.body = nn.Sequential(nn.Linear(LETTERS + POSITIONS, width), *layers)
        words = sum((length - size + 1) * LETTERS**size for size in range(1, of.words + 1))
        counts = sum(LETTERS**size for size in range(1, of.composition + 1))
        self.last = nn.Linear(length * width + words + counts, of.classes)
        begun(self, of.seed)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, classes) logits."""
        if self.recipe == "sequence-cnn":
            found = self.body(inputs.transpose(1, 2))[:, :, : inputs.shape[1]]  # an even kernel gives one more place
        elif self.recipe == "sequence-rnn":
            found = self.body(inputs)[0]
        else:
            found = self.body(torch.cat([inputs, _places(inputs)], 2))
        seen = [found.flatten(1), *words_of(inputs, self.words), *composition_of(inputs, self.composition)]
        logits: Tensor = self.last(torch.cat(seen, 1))
        return logits


def words_of(inputs: Tensor, longest: int) -> list[Tensor]:
    """(n, places x 4^size) for each size from 1 on: which word begins at a place.

    A row has about the length 1, so that clipping takes little off its gradient, and short words weigh more: their
    kernel is that of weighted degree. Source: Rätsch and Sonnenburg, "Accurate Splice Site Detection", 2004.
    """
    places = inputs.shape[1]
    shares = (2 * (longest - size) / (longest * (longest + 1)) / places for size in range(longest))
    return [share**0.5 * word.flatten(1) for share, word in zip(shares, _begin(inputs, longest), strict=True)]


def composition_of(inputs: Tensor, longest: int) -> list[Tensor]:
    """(n, 4^size) for each size from 1 on: how often each word comes, beyond chance.

    In standard deviations of random letters, divided so that the row of random letters has about the length 1.
    """
    found, parts = list[Tensor](), sum(LETTERS**size for size in range(1, longest + 1))
    for word in _begin(inputs, longest):
        chance = 1 / word.shape[2]
        found.append((word.mean(1) - chance) * (word.shape[1] / (chance - chance**2) / parts) ** 0.5)
    return found


def _begin(inputs: Tensor, longest: int) -> Iterator[Tensor]:
    """(n, places, 4^size) for each size from 1 on: whether a word begins at a place."""
    word = inputs.new_ones(len(inputs), inputs.shape[1] + 1, 1)
    for size in range(longest):
        word = (word[:, :-1, :, None] * inputs[:, size:, None, :]).flatten(2)
        yield word


def _places(inputs: Tensor) -> Tensor:
    """(n, length, POSITIONS) sines and cosines of each place, of waves as long as the window and shorter."""
    length = inputs.shape[1]
    at = torch.arange(length, dtype=inputs.dtype, device=inputs.device)[:, None] / length
    waves = math.pi * 2.0 ** torch.arange(POSITIONS // 2, dtype=inputs.dtype, device=inputs.device)
    found = torch.cat([torch.sin(at * waves), torch.cos(at * waves)], 1)
    return found.expand(len(inputs), -1, -1)
