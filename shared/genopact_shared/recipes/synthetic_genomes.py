"""Recipe `synthetic-genomes`: a variational autoencoder from which anybody who has it can draw made-up genomes.

A patient's genotypes are binomial copies, given a few latent numbers, the patient's population, and the variants just
before, which carry what linkage leaves within a population. The loss is minus the evidence lower bound. Its expectation
over the latent numbers is a cubature: 2d public points, antithetic and the same for everybody, which give every
polynomial up to the third degree its exact expectation. So nothing is random, as the engine demands.
The prior is a normal around each population's centre. Whose population is unknown may come from any; such a patient is
decoded by the populations that the latent numbers let expect, which is no longer a bound.
Sources: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; Sohn, Lee and Yan, "Learning Structured Output
Representation using Deep Conditional Generative Models", 2015, for populations; Arasaratnam and Haykin, "Cubature
Kalman Filters", 2009, for the points; Hershey and Olsen, "Approximating the Kullback Leibler Divergence Between
Gaussian Mixture Models", 2007, for unknown populations.

Guarantees:
    Draws are a function of the released model and public numbers: however many there are, they cost nothing beyond the
    run's own epsilon and delta, which bound what they can tell of any one patient. Without a budget they bound nothing.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
from pydantic import Field

from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.classes import SCHEMA, Classes, ClassParameters, class_of
from genopact_shared.recipes.facts import Facts
from genopact_shared.recipes.gwas_private import read_frequencies, spreads, standardised
from genopact_shared.recipes.network import load
from genopact_shared.recipes.protocol import Model, Prediction, of_kind
from genopact_shared.recipes.table import GENOTYPES, Codes, Floats, GenotypeParameters, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

RAREST = 0.005
"""Below it, a public frequency counts as so much: a variant's input and first odds stay bounded."""


class SyntheticParameters(ClassParameters, GenotypeParameters):
    """Training settings, and the network's.

    `count`: variants. `design`: digest of public allele frequencies (see `gwas_private.design`), from which the first
    model starts; without it every variant starts at one half, and much of the budget goes into frequencies. `latent`:
    numbers of a patient. `before`: variants that the next one follows directly. `classes`: populations.
    Measured are `optimiser` adam, `server_rate_milli` 30, `learning_rate_milli` 5,000, `clip_milli` 1,000.
    """

    count: int = Field(ge=2, le=4096)
    design: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    latent: int = Field(default=3, ge=1, le=32)
    before: int = Field(default=4, ge=1, le=32)


class SyntheticRecipe(Classes, Facts):
    """See `protocol.NetRecipe`. The column `class` is a patient's population; anybody may lack it."""

    def module(self, parameters: Frozen) -> "nn.Module":
        """(n, 2, count) -> (n, count) chance of the effect allele."""
        from genopact_shared.recipes.synthetic_module import Genomes

        return Genomes(of_kind(parameters, SyntheticParameters))

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Inputs (n, 2, count) float32: copies, standardised by public frequencies, 0 missing; the public log odds.

        Targets (n, count + 1) float32: copies, NaN missing; population, NaN unknown. NaN throughout without genotypes.

        Raises:
            GenopactError: GENOTYPES_MISSING, PUBLISHED_MISSING; PUBLISHED_INVALID for other variants or frequencies.
        """
        import torch

        of = of_kind(parameters, SyntheticParameters)
        frequency, odds = _public(of, published)
        inputs = np.empty((table.n, 2, of.count), np.float32)
        targets = np.column_stack([np.empty((table.n, of.count)), class_of(table, of.classes).numpy()])
        for some, copies in table.dosages(of.count):
            inputs[some, 0], inputs[some, 1] = standardised(copies, frequency, spreads(frequency)), odds
            targets[some, :-1] = copies
        targets[(targets < 0) | (targets[:, :-1] < 0).all(axis=1, keepdims=True)] = np.nan
        return torch.from_numpy(inputs), torch.from_numpy(targets.astype(np.float32))

    def loss(self, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,) minus evidence lower bounds, less a constant; natural units, one per patient, never reduced."""
        return cast("Tensor", module(inputs, targets))

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:
        """(n, count) expected copies, also of missing genotypes, by the middle of the patient's latent numbers."""
        return Prediction(2 * outputs, 2 * outputs, 2 * outputs)


def sample(model: Model, of: SyntheticParameters, labels: Codes, seed: int, published: Published = NOTHING) -> Codes:
    """Made-up people of the (n,) int8 populations `labels`: (n, count) int8 copies.

    The same seed gives the same people on one machine; another's exponentials may differ in the last bit.

    Raises:
        GenopactError: FRAME_INVALID for the model of another network; PUBLISHED_MISSING, PUBLISHED_INVALID.
    """
    load(SYNTHETIC_GENOMES.module(of), model)
    rng, (frequency, public) = np.random.default_rng(seed), _public(of, published)
    z = rng.normal(model["centres.weight"].T[labels])
    odds = public + model["last_class.bias"] + model["last_class.weight"].T[labels] + z @ model["last_latent.weight"].T
    copies, rows = np.empty(odds.shape, np.int8), np.zeros((len(odds), of.before + of.count))
    for at, weights in enumerate(model["last_near.weight"]):
        own, window = slice(at, at + 1), rows[:, at : at + of.before]
        copies[:, at] = rng.binomial(2, 1 / (1 + np.exp(-odds[:, at] - window @ weights)))
        rows[:, [at + of.before]] = standardised(copies[:, own], frequency[own], spreads(frequency[own]))
    return copies


def _public(of: SyntheticParameters, published: Published) -> tuple[Floats, Floats]:
    """(count,) frequencies, within RAREST of 0 and 1, one half where none is known; their log odds."""
    found = np.full(of.count, np.nan) if of.design is None else read_frequencies(published, of.design, of.count)
    frequency = np.clip(np.where(np.isnan(found), 0.5, found), RAREST, 1 - RAREST)
    return frequency, np.log(frequency / (1 - frequency))


_SCHEMA = (SCHEMA[0], replace(SCHEMA[1], role="feature"))
SYNTHETIC_GENOMES = SyntheticRecipe("synthetic-genomes", GENOTYPES, _SCHEMA, SyntheticParameters)
