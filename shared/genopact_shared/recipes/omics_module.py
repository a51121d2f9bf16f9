"""The networks of recipes on matrices; importing them imports torch."""

import torch
from torch import Tensor, nn

from genopact_shared.recipes.layers import begun
from genopact_shared.recipes.multiomics import MultiomicsParameters


class Fusion(nn.Module):
    """(n, all features + matrices) -> (n, classes). See `multiomics`."""

    def __init__(self, of: MultiomicsParameters) -> None:
        super().__init__()
        self.sizes, self.attends = [each.features for each in of.matrices], of.fusion == "attention"
        self.embed = nn.ModuleList(nn.Linear(size, of.width) for size in self.sizes)
        self.weigh = nn.Linear(of.width, 1) if self.attends else None
        self.last = nn.Linear(of.width, of.classes)
        begun(self, of.seed)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, classes) logits."""
        *parts, present = torch.split(inputs, [*self.sizes, len(self.sizes)], 1)
        tokens = torch.stack([torch.tanh(embed(part)) for embed, part in zip(self.embed, parts, strict=True)], 1)
        scores = torch.zeros_like(present) if self.weigh is None else self.weigh(tokens).squeeze(2)
        shares = torch.softmax(scores.masked_fill(present == 0, -1e4), 1) * present
        logits: Tensor = self.last((tokens * shares.unsqueeze(2)).sum(1))
        return logits
