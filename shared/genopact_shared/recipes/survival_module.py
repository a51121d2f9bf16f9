"""The network of `survival`; importing it imports torch."""

import torch
from torch import Tensor, nn

from genopact_shared.recipes.layers import begun
from genopact_shared.recipes.survival import SurvivalParameters


class Hazards(nn.Module):
    """(n, features) -> (n, intervals) logits of the hazards: a baseline, and what the features add to it."""

    def __init__(self, of: SurvivalParameters) -> None:
        super().__init__()
        features, count = of.matrices[0].features, len(of.ends_days)
        self.hidden = nn.Linear(features, of.hidden) if of.hidden else None
        self.last = nn.Linear(of.hidden or features, 1 if of.proportional else count, bias=False)
        self.baseline = nn.Linear(1, count, bias=False)
        begun(self, of.seed)
        with torch.no_grad():
            self.baseline.weight.fill_(-2.0)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, intervals)."""
        found = inputs if self.hidden is None else torch.tanh(self.hidden(inputs))
        return torch.add(self.last(found), self.baseline(torch.ones_like(inputs[:, :1])))
