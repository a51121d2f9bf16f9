"""The network of `synthetic-genomes`; importing it imports torch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from genopact_shared.recipes.layers import begun
from genopact_shared.recipes.synthetic_genomes import SyntheticParameters


class Genomes(nn.Module):
    """(n, 2, count) copies and public log odds -> (n, count) chances, or losses. See `synthetic_genomes`.

    The spread of latent numbers is the same for all patients, so that it costs `latent` weights. The encoder's inputs
    are divided by sqrt(count): noise in each of its many weights then moves latent numbers little.
    """

    def __init__(self, of: SyntheticParameters) -> None:
        super().__init__()
        self.before, self.classes, self.scale = of.before, of.classes, of.count**-0.5
        self.encode, self.centres = nn.Linear(of.count, of.latent), nn.Linear(of.classes, of.latent, bias=False)
        self.last_spread = nn.Linear(1, of.latent, bias=False)
        self.last_latent = nn.Linear(of.latent, of.count, bias=False)
        self.last_class, self.last_near = nn.Linear(of.classes, of.count), nn.Embedding(of.count, of.before)
        begun(self, of.seed)
        with torch.no_grad():
            self.encode.weight.div_(self.scale)

    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor:
        """(n, count) chances of the effect allele, at the middle of the latent numbers.

        With targets (n, count + 1), copies and population, NaN unknown: (n,) minus evidence lower bounds.
        """
        middle = self.encode(inputs[:, 0] * self.scale)
        spread = self.last_spread(torch.ones_like(middle[:, :1])).unsqueeze(1)
        each = torch.eye(self.classes, dtype=middle.dtype, device=middle.device).expand(len(middle), -1, -1)
        away = (middle.unsqueeze(1) - self.centres(each)) ** 2 + (2 * spread).exp()
        score = -((away - 1) / 2 - spread).sum(2)
        if targets is None:
            return torch.sigmoid(self._odds(inputs, middle.unsqueeze(1), score)).squeeze(1)
        own = targets[:, -1:] == torch.arange(self.classes, device=middle.device)
        score = score.masked_fill(~own & own.any(1, keepdim=True), -torch.inf)
        points = torch.eye(middle.shape[1], dtype=middle.dtype, device=middle.device) * middle.shape[1] ** 0.5
        odds = self._odds(inputs, middle.unsqueeze(1) + spread.exp() * torch.cat([points, -points]), score)
        copies = targets[:, None, :-1]
        fit = (copies.nan_to_num() * odds - 2 * softplus(odds)) * ~copies.isnan()
        return -fit.sum(2).mean(1) - torch.logsumexp(score, 1)

    def _odds(self, inputs: Tensor, latent: Tensor, score: Tensor) -> Tensor:
        """(n, points, count) log odds of the effect allele, of (n, points, latent) numbers and (n, classes) scores."""
        copies, public = inputs.unbind(1)
        windows = pad(copies, (self.before, 0))[:, :-1].unfold(1, self.before, 1)
        # A lookup of every row: a product with a weight of its own for each variant, which the engine has a rule for.
        near = self.last_near(torch.arange(copies.shape[1], device=copies.device).expand(len(copies), -1))
        fixed = public + self.last_class(torch.softmax(score, 1)) + (windows * near).sum(2)
        return torch.add(self.last_latent(latent), fixed.unsqueeze(1))
