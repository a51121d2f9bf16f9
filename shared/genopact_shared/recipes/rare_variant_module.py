"""The network of `rare-variant-autoencoder`; importing it imports torch."""

import torch
from torch import Tensor, nn

from genopact_shared.recipes.layers import begun
from genopact_shared.recipes.rare_variant_autoencoder import RareVariantParameters

LARGEST = 1.0
"""Of the logarithm of a spread, so that nobody's score is far from a public scale."""


class Outliers(nn.Module):
    """(n, genes) -> (n, 2, genes). The first model reconstructs the public mean, with the public spread."""

    def __init__(self, of: RareVariantParameters) -> None:
        super().__init__()
        self.encode = nn.Linear(of.genes, of.middle)
        self.last, self.last_spread = nn.Linear(of.middle, of.genes), nn.Linear(of.middle, of.genes)
        begun(self, of.seed)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores and logarithms of spreads, beside each other."""
        middle = torch.tanh(self.encode(inputs))
        spread = LARGEST * torch.tanh(self.last_spread(middle))
        return torch.stack([(inputs - self.last(middle)) * torch.exp(-spread), spread], 1)
