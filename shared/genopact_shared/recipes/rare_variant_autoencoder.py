"""Recipe `rare-variant-autoencoder`: which genes of a patient carry more rare variants than the rest of the genome lets
expect.

How many rare variants a gene has follows ancestry and calling, in all genes at once. An autoencoder with a narrow
middle learns what genes share, from the burden of every gene, and how far burdens spread where it says so: a copy more
says much where variants are hardly ever seen. What a burden has above its reconstruction, in spreads, is the gene's
outlier score. No phenotype is read. Variants that only one patient has count, as a gene's variants are added up.
Sources: Li and Leal, "Methods for Detecting Associations with Rare Variants for Common Diseases", 2008 (burden);
Brechtmann et al., "OUTRIDER", 2018 (outliers beside an autoencoder, there of expression).
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.published import Arrays, Published
from genopact_shared.recipes.facts import Facts, NoSiteTerm
from genopact_shared.recipes.linear import over_copies
from genopact_shared.recipes.network import NetParameters
from genopact_shared.recipes.protocol import Model, Prediction, of_kind
from genopact_shared.recipes.table import GENOTYPES, Flag, Floats, GenotypeParameters, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

BOUND = 6.0
"""Of a standardised burden, in public standard deviations."""
GRID, LARGEST = 1 << 20, 1024
"""Weights are multiples of 1 / GRID and at most LARGEST, so that sums over a gene are exact in float64."""


class RareVariantParameters(NetParameters, GenotypeParameters):
    """Training settings; `design`: digest of the published file, which has `genes` genes; `middle`: of the network.

    A gene's part of a gradient is small where there are many, so that a small clip and an adaptive step belong to it:
    measured are `clip_milli` 100, `learning_rate_milli` 10,000, `optimiser` adam, `server_rate_milli` 50.
    """

    design: str = Field(pattern=r"^[0-9a-f]{64}$")
    genes: int = Field(ge=2, le=30_000)
    middle: int = Field(default=2, ge=1, le=64)
    seed: int = Field(default=0, ge=0)


class RareVariantRecipe(NoSiteTerm, Facts):
    """See `protocol.NetRecipe`."""

    def module(self, parameters: Frozen) -> "nn.Module":
        """(n, genes) burdens -> (n, 2, genes): outlier scores, and the logarithms of the spreads that they are in."""
        from genopact_shared.recipes.rare_variant_module import Outliers

        return Outliers(of_kind(parameters, RareVariantParameters))

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Inputs, which are the targets, too: (n, genes) float32 burdens, standardised by the published file.

        They are finite and within BOUND. A missing genotype adds what the public panel lets expect.

        Guarantees: a row has the same bits whatever the other rows are.

        Raises:
            GenopactError: GENOTYPES_MISSING, PUBLISHED_MISSING; PUBLISHED_INVALID for other genes or variants.
        """
        import torch

        of = of_kind(parameters, RareVariantParameters)
        file = _checked(published.read(of.design), of.genes)
        out, spans = np.empty((table.n, of.genes)), np.column_stack([file["starts"], file["ends"]]).tolist()
        for some, copies in table.dosages(len(file["weight"])):
            for at, (first, end) in enumerate(spans):
                weight, missing = file["weight"][first:end], file["missing"][first:end]
                out[some, at] = over_copies(copies[:, first:end], weight, missing)
        rows = torch.from_numpy(np.clip((out - file["centre"]) / file["scale"], -BOUND, BOUND).astype(np.float32))
        return rows, rows

    def loss(self, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,) squared errors of reconstruction in spreads, halved, plus the spreads' logarithms; means over genes.

        The likelihood of a normal burden, less a constant; one per patient, never reduced further.
        """
        outputs: Tensor = module(inputs)
        return (outputs[:, 0] ** 2 / 2 + outputs[:, 1]).mean(1)

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:
        """(n, genes) outlier scores: excess burden in the spreads that the network expects of this patient."""
        return Prediction(outputs[:, 0], outputs[:, 0], outputs[:, 0])


def design(starts: NDArray[np.int64], ends: NDArray[np.int64], weight: Floats, frequency: Floats) -> bytes:
    """The published file that `parameters.design` names by its digest.

    Args:
        starts, ends: (G,) int64; gene g has the variants from starts[g] up to, not with, ends[g]; genes may overlap.
        weight: (V,) float64 that a copy adds to the burden, 0 for a variant that is not rare, at most LARGEST.
        frequency: (V,) float64 of the effect allele in a public panel. Centre and scale of a burden are those of
            independent variants in Hardy-Weinberg equilibrium.

    Raises:
        GenopactError: PUBLISHED_INVALID.
    """
    weight = np.rint(weight * GRID) / GRID
    mean, variance = 2 * frequency * weight, 2 * frequency * (1 - frequency) * weight**2
    centre, scale = ([each[a:b].sum() for a, b in zip(starts, ends, strict=True)] for each in (mean, variance))
    found = {"starts": starts, "ends": ends, "weight": weight, "missing": np.rint(mean * GRID) / GRID}
    return wire.pack(_checked(found | {"centre": np.array(centre), "scale": np.sqrt(scale)}, len(starts)))


def _checked(file: Arrays, genes: int) -> Arrays:
    """The file, with the sizes that are expected, and what keeps burdens finite and exact."""
    v = file["weight"].size if "weight" in file else 0
    shapes = {"weight": (v,), "missing": (v,)} | dict.fromkeys(("starts", "ends", "centre", "scale"), (genes,))
    fits = {name: array.shape for name, array in file.items()} == shapes
    if not fits or not file["starts"].dtype == file["ends"].dtype == np.int64:
        raise GenopactError("PUBLISHED_INVALID", "no genes, or another number of them")
    weights, starts, ends = np.concatenate([file["weight"], file["missing"]]) * GRID, file["starts"], file["ends"]
    exact = ((np.abs(weights) <= LARGEST * GRID) & (weights == np.rint(weights))).all()
    inside = ((starts >= 0) & (starts < ends) & (ends <= v)).all() and np.isfinite(file["centre"]).all()
    if not (exact and inside and (file["scale"] > 0).all()):
        raise GenopactError("PUBLISHED_INVALID", "weights, genes or scales out of range")
    return file


_SCHEMA = (Flag("held_out"),)
RARE_VARIANT_AUTOENCODER = RareVariantRecipe("rare-variant-autoencoder", GENOTYPES, _SCHEMA, RareVariantParameters)
