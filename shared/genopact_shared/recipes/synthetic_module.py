"""The network of `synthetic-genomes`; importing it imports torch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from genopact_shared.recipes.layers import begun
from genopact_shared.recipes.synthetic_genomes import SyntheticParameters


class Genomes(nn.Module):
    """(n, 2, count) copies and public log odds -> (n, count) chances. See `synthetic_genomes`.

    The spread of a patient's latent numbers is the same for all patients, so that it costs `latent` weights.
    """

    def __init__(self, of: SyntheticParameters) -> None:
        super().__init__()
        self.gain = of.count**-0.5  # so that a step in an encoder's weight moves latent numbers as one elsewhere does
        self.before, self.latent, self.classes = of.before, of.latent, of.classes
        self.encode, self.decode = nn.Linear(of.count, of.latent), nn.Linear(of.latent, of.count)
        self.spread = nn.Linear(1, of.latent, bias=False)
        self.near = nn.Embedding(of.count, of.before)
        self.shares = nn.Linear(1, of.classes, bias=False)
        self.centres = nn.Linear(of.classes, of.latent, bias=False)
        self.spreads = nn.Linear(of.classes, of.latent, bias=False)
        begun(self, of.seed)
        with torch.no_grad():
            self.encode.weight.mul_(self.gain**-1)
            self.decode.weight.mul_(0.2)
            for layer in (self.spread, self.near, self.shares, self.spreads):
                layer.weight.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, count), at the middle of the latent numbers."""
        latent = self.encode(inputs[:, 0] * self.gain).unsqueeze(1)
        return torch.sigmoid(self._odds(inputs, latent)).squeeze(1)

    def bound(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(n,) minus evidence lower bounds of the (n, count + 1) targets: copies and population, NaN unknown."""
        middle, one = self.encode(inputs[:, 0] * self.gain), torch.ones_like(inputs[:, 0, :1])
        spread = self.spread(one)
        points = torch.eye(self.latent, dtype=inputs.dtype, device=inputs.device) * self.latent**0.5
        step = spread.exp().unsqueeze(1) * torch.cat([points, -points])
        odds, copies = self._odds(inputs, middle.unsqueeze(1) + step), targets[:, None, :-1]
        fit = (copies.nan_to_num() * odds - 2 * softplus(odds)) * ~copies.isnan()
        return -fit.sum(2).mean(1) - self._prior(middle, spread, one, targets[:, -1])

    def _odds(self, inputs: Tensor, latent: Tensor) -> Tensor:
        """(n, points, count) log odds of the effect allele, for (n, points, latent) numbers."""
        copies, public = inputs.unbind(1)
        windows = pad(copies, (self.before, 0))[:, :-1].unfold(1, self.before, 1)
        # A lookup of every row: a product with a weight of its own for each variant, which the engine has a rule for.
        own = self.near(torch.arange(copies.shape[1], device=copies.device).expand(len(copies), -1))
        odds: Tensor = self.decode(latent) + ((windows * own).sum(2) + public).unsqueeze(1)
        return odds

    def _prior(self, middle: Tensor, spread: Tensor, one: Tensor, population: Tensor) -> Tensor:
        """(n,) minus the divergence from the prior: of the patient's population, or of the mixture of all."""
        each = torch.eye(self.classes, dtype=middle.dtype, device=middle.device).expand(len(middle), -1, -1)
        wide, spread = self.spreads(each), spread.unsqueeze(1)
        away = (middle.unsqueeze(1) - self.centres(each)) ** 2 + (2 * spread).exp()
        divergence = (away * (-2 * wide).exp() / 2 - 0.5 + wide - spread).sum(2)
        score = torch.log_softmax(self.shares(one), 1) - divergence
        own = population.unsqueeze(1) == torch.arange(self.classes, device=middle.device)
        return torch.logsumexp(score.masked_fill(~own & own.any(1, keepdim=True), -torch.inf), 1)
