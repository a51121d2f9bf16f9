"""Layers that several networks share; importing them imports torch."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention and a hidden layer, each added to what comes in; (n, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        n, tokens, width = x.shape
        parts = self.project(self.norm(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value)
        x = x + self.join(seen.transpose(1, 2).reshape(n, tokens, width))
        return torch.add(x, self.narrow(nn.functional.gelu(self.wide(self.second(x)))))


def chain(seed: int, **layers: nn.Module) -> nn.Module:
    """Layers one after another, with the first weights of `begun`."""
    module = nn.Sequential(OrderedDict(layers))
    begun(module, seed)
    return module


def begun(module: nn.Module, seed: int) -> None:
    """First weights: uniform by fan-in, the seed's alone; biases zero, and the weights of the layer `last`, too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in module.named_parameters():
            if weights.dim() > 1 and not name.startswith("last"):
                bound = weights[0].numel() ** -0.5
                weights.uniform_(-bound, bound, generator=generator)
            elif weights.dim() > 1 or "bias" in name:
                weights.zero_()
