"""Recipe `ancestry`: which continental population a person's genotypes resemble, on released components.

The published file is what recipe `pca` released (frequencies, loadings, variances), so that scores are the same at
every site; a linear layer tells populations apart. There is no site term: sites that differ in ancestry would be taken
for populations.
"""

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from genopact_shared.errors import GenopactError
from genopact_shared.published import Published
from genopact_shared.recipes.classes import OUTCOME, SCHEMA, Classes, ClassParameters, class_of
from genopact_shared.recipes.facts import Facts
from genopact_shared.recipes.judges import ByClass
from genopact_shared.recipes.pca import scores
from genopact_shared.recipes.protocol import Model, of_kind
from genopact_shared.recipes.table import GenotypeParameters, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

BOUND = 5.0
PARTS = ("frequency", "loadings", "variances")


class AncestryParameters(ClassParameters, GenotypeParameters):
    """Training settings; `design`: digest of the released components, of which there are `components`."""

    design: str = Field(pattern=r"^[0-9a-f]{64}$")
    components: int = Field(ge=1, le=10)


class AncestryRecipe(Classes, Facts):
    """See `protocol.NetRecipe`."""

    def module(self, parameters: Frozen) -> "nn.Module":
        """(n, components) -> (n, classes)."""
        from torch import nn

        from genopact_shared.recipes.layers import chain

        of = of_kind(parameters, AncestryParameters)
        return chain(of.seed, last=nn.Linear(of.components, of.classes))

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Scores (n, components) float32 in standard deviations, within BOUND; classes (n,) int64."""
        import torch

        of = of_kind(parameters, AncestryParameters)
        components: Model = {name: np.asarray(values) for name, values in published.read(of.design).items()}
        if not set(PARTS) <= set(components) or components["loadings"].shape[1] != of.components:
            raise GenopactError("PUBLISHED_INVALID", "no components, or another number of them")
        found = (scores(components, copies) for _, copies in table.dosages())
        rows = np.concatenate([np.empty((0, of.components)), *found])
        return torch.from_numpy(np.clip(rows, -BOUND, BOUND).astype(np.float32)), class_of(table, of.classes)


ANCESTRY = AncestryRecipe("ancestry", OUTCOME, SCHEMA, AncestryParameters, judge=ByClass())
