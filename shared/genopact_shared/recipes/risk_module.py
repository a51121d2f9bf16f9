"""The networks of `risk-net`; importing them imports torch."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from genopact_shared.recipes.head import log_odds
from genopact_shared.recipes.layers import Attention, begun
from genopact_shared.recipes.risk_net import RiskNetParameters


class RiskModule(nn.Module):
    """(n, blocks x columns + covariates) -> (n,) log odds: a linear path and a network on the tokens, added.

    The linear path sees tokens, covariates, the public score (the sum of the tokens' first numbers) and that score in
    each ancestry but the first. Every block has an embedding of its own, because the directions of one block have
    nothing to do with those of another; its last row, a bias, tells the block from others. Then follow hidden layers
    over all blocks together, or attention between blocks and their mean.
    """

    def __init__(self, of: RiskNetParameters) -> None:
        super().__init__()
        self.blocks, self.columns, self.ancestries = of.blocks, of.columns, of.ancestries
        self.gain, size = of.gain_milli / 1000, of.blocks * of.columns
        self.linear = nn.Linear(size + of.covariates + of.ancestries, 1)
        self.embed = nn.Parameter(torch.empty(of.blocks, of.columns + 1, of.width))
        widths = [of.blocks * of.width, *[4 * of.width] * (of.depth - 1)]
        layers: list[nn.Module] = [Attention(of.width, of.heads) for _ in range(of.depth)]
        self.attends = of.architecture == "transformer"
        if not self.attends:
            pairs = [(nn.Linear(before, after), nn.GELU()) for before, after in pairwise(widths)]
            layers = [nn.GELU(), *(layer for pair in pairs for layer in pair)]
        self.body = nn.Sequential(*layers)
        self.last = nn.Linear(of.width if self.attends else widths[-1], 1, bias=False)
        begun(self, of.seed)
        with torch.no_grad():  # the public score, and a last layer of zeros
            self.embed.mul_(of.width**0.5)[:, -1] = 0
            self.linear.weight.zero_()
            self.linear.weight[0, -of.ancestries] = of.score_milli / 1000
            self.linear.bias.fill_(log_odds(of.prevalence_milli / 1000))

    def forward(self, inputs: Tensor) -> Tensor:
        """(n,) log odds."""
        n, size = len(inputs), self.blocks * self.columns
        tokens, covariates = inputs[:, :size], inputs[:, size:]
        score = tokens.reshape(n, self.blocks, self.columns)[:, :, 0].sum(1, keepdim=True)
        own = score * covariates[:, covariates.shape[1] + 1 - self.ancestries :]
        straight = self.linear(torch.cat([tokens * self.gain, covariates, score, own], 1))
        # Tokens have a spread of 1 / sqrt(blocks), which is too narrow for a layer to bend.
        blocks = nn.functional.pad(tokens.reshape(n, self.blocks, self.columns) * self.blocks**0.5, (0, 1), value=1.0)
        hidden = torch.bmm(blocks.transpose(0, 1), self.embed).transpose(0, 1)
        hidden = self.body(hidden).mean(1) if self.attends else self.body(hidden.flatten(1)) * self.blocks**-0.5
        return torch.squeeze(straight + self.last(hidden), 1)
