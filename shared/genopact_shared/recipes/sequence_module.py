"""The networks of the sequence recipes; importing them imports torch."""

import math
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
        self.recipe, self.words = recipe, of.words
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
        self.last = nn.Linear(length * width + words, of.classes)
        begun(self, of.seed)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, classes) logits."""
        if self.recipe == "sequence-cnn":
            found = self.body(inputs.transpose(1, 2))
        elif self.recipe == "sequence-rnn":
            found = self.body(inputs)[0]
        else:
            found = self.body(torch.cat([inputs, _places(inputs)], 2))
        logits: Tensor = self.last(torch.cat([found.flatten(1), *words_of(inputs, self.words)], 1))
        return logits


def words_of(inputs: Tensor, longest: int) -> list[Tensor]:
    """(n, places x 4^size) for each size from 1 on: which word begins at a place.

    A row has about the length 1, so that clipping takes little off its gradient, and short words weigh more: their
    kernel is that of weighted degree. Source: Rätsch and Sonnenburg, "Accurate Splice Site Detection", 2004.
    """
    found, word = list[Tensor](), inputs.new_ones(len(inputs), inputs.shape[1] + 1, 1)
    for size in range(1, longest + 1):
        word = (word[:, :-1, :, None] * inputs[:, size - 1 :, None, :]).flatten(2)
        share = 2 * (longest - size + 1) / (longest * (longest + 1)) / inputs.shape[1]
        found.append(share**0.5 * word.flatten(1))
    return found


def _places(inputs: Tensor) -> Tensor:
    """(n, length, POSITIONS) sines and cosines of each place, of waves as long as the window and shorter."""
    length = inputs.shape[1]
    at = torch.arange(length, dtype=inputs.dtype, device=inputs.device)[:, None] / length
    waves = math.pi * 2.0 ** torch.arange(POSITIONS // 2, dtype=inputs.dtype, device=inputs.device)
    found = torch.cat([torch.sin(at * waves), torch.cos(at * waves)], 1)
    return found.expand(len(inputs), -1, -1)
