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
    """(n, length, 4) -> (n, classes): features of each place, and a linear layer over all places."""

    def __init__(self, recipe: str, of: SequenceParameters) -> None:
        super().__init__()
        length, width = of.matrices[0].features, of.width
        self.recipe = recipe
        if recipe == "sequence-cnn":
            widths = [LETTERS, *[width] * of.depth]
            pairs = [(nn.Conv1d(a, b, of.kernel, padding=of.kernel // 2), nn.ReLU()) for a, b in pairwise(widths)]
            self.body: nn.Module = nn.Sequential(*(layer for pair in pairs for layer in pair))
        elif recipe == "sequence-rnn":
            self.body = nn.GRU(LETTERS, width, batch_first=True)
        else:
            layers = [Attention(width, 1) for _ in range(of.depth)]
            self.body = nn.Sequential(nn.Linear(LETTERS + POSITIONS, width), *layers)
        self.last = nn.Linear(length * width, of.classes)
        begun(self, of.seed)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, classes) logits."""
        if self.recipe == "sequence-cnn":
            found = self.body(inputs.transpose(1, 2))
        elif self.recipe == "sequence-rnn":
            found = self.body(inputs)[0]
        else:
            found = self.body(torch.cat([inputs, _places(inputs)], 2))
        logits: Tensor = self.last(found.flatten(1))
        return logits


def _places(inputs: Tensor) -> Tensor:
    """(n, length, POSITIONS) sines and cosines of each place, of waves as long as the window and shorter."""
    length = inputs.shape[1]
    at = torch.arange(length, dtype=inputs.dtype, device=inputs.device)[:, None] / length
    waves = math.pi * 2.0 ** torch.arange(POSITIONS // 2, dtype=inputs.dtype, device=inputs.device)
    found = torch.cat([torch.sin(at * waves), torch.cos(at * waves)], 1)
    return found.expand(len(inputs), -1, -1)
