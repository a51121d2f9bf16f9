"""Recipe `risk-net`: a network on blocks of genotypes, for disease risk that does not add up over variants.

A block of variants gives each patient a token: a few sums over its dosages and its heterozygotes, with weights from a
published file (`genopact design network`): the block's part of a public score, directions of public linkage
disequilibrium, and single variants with their heterozygotes, so that dominance can be learnt. The network's last layer
begins at zero, and a linear path beside it at the public score, which is then the first model.
"""

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from genopact_shared.errors import GenopactError, require
from genopact_shared.published import Arrays, Published
from genopact_shared.recipes.dose import Z80
from genopact_shared.recipes.facts import GROUP, Facts
from genopact_shared.recipes.head import probability, site_term
from genopact_shared.recipes.judges import ByOdds
from genopact_shared.recipes.network import NetParameters
from genopact_shared.recipes.protocol import Model, Prediction, of_kind
from genopact_shared.recipes.risk import OUTCOME, SCHEMA
from genopact_shared.recipes.table import Floats, GenotypeParameters, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

AGE = (50.0, 15.0)
"""Public centre and scale, years."""
BOUND = 4.0
"""Of every input."""
CALIBRATION_SD = (0.5, 0.2)
"""Public spread of intercept (log odds) and slope between sites."""
NONE = np.array([0.0, 1.0])
SHARED: Model = {"calibration": NONE, "covariance": np.diag(np.square(CALIBRATION_SD))}


class RiskNetParameters(NetParameters, GenotypeParameters):
    """Training settings, the published file's sizes, the first model, and the network.

    `blocks`, `columns`: tokens, and numbers in each. `components`, `ancestries`: of the
    reference panel. `score_milli`: log odds of a standard deviation of the public score; `prevalence_milli`: nominal.
    `gain_milli`: of the tokens on the linear path; its square says how much faster they are learnt than covariates, and
    how much more noise gets into the prediction. `width`: of a token inside the network. `depth`: hidden layers, or
    layers of attention. `heads`: of these.

    The defaults were chosen for epsilon 3 on a simulated cohort of 19,203 patients in eight hospitals, seed 12.
    """

    rounds: int = Field(default=10, ge=1, le=1000)
    local_steps: int = Field(default=2, ge=1, le=1000)
    clip_milli: int = Field(default=2000, ge=1, le=100_000)
    learning_rate_milli: int = Field(default=4000, ge=1, le=100_000)

    design: str = Field(pattern=r"^[0-9a-f]{64}$")
    blocks: int = Field(ge=1, le=4096)
    columns: int = Field(ge=1, le=64)
    components: int = Field(default=4, ge=2, le=32)
    ancestries: int = Field(default=1, ge=1, le=32)
    score_milli: int = Field(default=500, ge=0, le=10_000)
    prevalence_milli: int = Field(default=100, ge=1, le=999)
    gain_milli: int = Field(default=2000, ge=1, le=100_000)
    architecture: Literal["mlp", "transformer"] = "mlp"
    width: int = Field(default=4, ge=1, le=256)
    depth: int = Field(default=1, ge=1, le=4)
    heads: int = Field(default=1, ge=1, le=16)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError("the width is a multiple of the heads")
        return self

    @property
    def covariates(self) -> int:
        """Age, sex, components, and an indicator of each ancestry but the first."""
        return 2 + self.components + self.ancestries - 1


class RiskNetRecipe(Facts):
    """See `protocol.NetRecipe`."""

    def module(self, parameters: Frozen) -> "nn.Module":
        """The network; seed and score decide its first weights."""
        from genopact_shared.recipes.risk_module import RiskModule

        return RiskModule(of_kind(parameters, RiskNetParameters))

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Inputs (n, blocks x columns + covariates) and targets (n,), float32."""
        import torch

        rows = inputs(table, of_kind(parameters, RiskNetParameters), published)
        return torch.from_numpy(rows), torch.from_numpy(table.number(OUTCOME).astype(np.float32))

    def loss(self, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,) logistic losses, one per patient, never reduced."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(module(inputs), targets, reduction="none")

    def fit_personal(self, outputs: Floats, table: Table) -> Model:
        """The site's own intercept and slope on the log odds, and their covariance, shrunk to none and one."""
        known = np.isfinite(table.number(OUTCOME))
        odds, y = outputs[known], table.number(OUTCOME)[known]
        rows = np.column_stack([np.ones(len(odds)), odds])
        change, covariance = site_term(odds, rows, y, np.power(CALIBRATION_SD, -2.0), linear=False)
        return {"calibration": NONE + change, "covariance": covariance}

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:
        """Risks; low and high say how well the site is calibrated, not what the genome leaves open."""
        own, rows = personal or SHARED, np.column_stack([np.ones(len(outputs)), outputs])
        term, covariance = own["calibration"], own["covariance"]
        centre, half = rows @ term, Z80 * np.sqrt(np.einsum("ij,jk,ik->i", rows, covariance, rows))
        return Prediction(probability(centre), probability(centre - half), probability(centre + half))


def inputs(table: Table, of: RiskNetParameters, published: Published) -> NDArray[np.float32]:
    """(n, blocks x columns + covariates) float32: tokens, age, sex, components, ancestry; finite and bounded.

    A missing genotype is the panel's mean, a missing covariate the public centre. Weights and means lie on a grid, so
    that sums over variants are exact in float64, whatever rows stand beside a patient's.

    Raises:
        GenopactError: GENOTYPES_MISSING, PUBLISHED_MISSING; PUBLISHED_INVALID for a file of other sizes or variants.
    """
    file = _file(of, published)
    out = np.empty((table.n, of.blocks * of.columns + of.covariates), np.float32)
    age, sex = (table.number("age") - AGE[0]) / AGE[1], table.codes("sex")
    for some, dosages in table.dosages():
        tokens, position = projected(dosages, file)
        components = (position - file["axes_centre"]) / file["axes_scale"]
        ancestry = ((components[:, None, :2] - file["centroids"]) ** 2).sum(axis=2).argmin(axis=1)
        tokens = (tokens - file["centre"][ancestry]) / file["scale"][ancestry]
        covariates = (age[some], np.where(sex[some] < 0, 0, 2 * sex[some] - 1), components)
        others = ancestry[:, None] == np.arange(1, of.ancestries)
        rows = np.column_stack([tokens.reshape(len(dosages), -1), *covariates, others])
        out[some] = np.clip(np.nan_to_num(rows, nan=0.0), -BOUND, BOUND)
    return out


def projected(dosages: NDArray[np.int8], file: Arrays) -> tuple[Floats, Floats]:
    """(b, blocks, columns) sums over the variants of each block, and (b, components) over all.

    Of the published file `starts`, `dosage`, `heterozygote`, `missing` and `axes` are read. PUBLISHED_INVALID for other
    variants.
    """
    starts, position = file["starts"], np.zeros((len(dosages), file["axes"].shape[1]))
    tokens = np.empty((len(dosages), len(starts) - 1, file["dosage"].shape[1]))
    require(dosages.shape[1] == starts[-1], "PUBLISHED_INVALID", "for other variants")
    for block in range(len(starts) - 1):
        own = slice(starts[block], starts[block + 1])
        codes, missing = dosages[:, own], file["missing"][own]
        copies = np.where(codes < 0, missing[:, 0], codes).astype(np.float64)
        tokens[:, block] = copies @ file["dosage"][own].astype(np.float64)
        single = np.flatnonzero(file["heterozygote"][own].any(axis=1))
        mixed = np.where(codes[:, single] < 0, missing[single, 1], codes[:, single] == 1).astype(np.float64)
        tokens[:, block] += mixed @ file["heterozygote"][own][single].astype(np.float64)
        position += copies @ file["axes"][own].astype(np.float64)
    return tokens, position


def _file(of: RiskNetParameters, published: Published) -> Arrays:
    """PUBLISHED_INVALID for other sizes; nothing else of a file whose digest was approved is questioned."""
    file = published.read(of.design)
    v, shape = int(file["starts"][-1]) if "starts" in file else 0, (of.ancestries, of.blocks, of.columns)
    expected = {
        "starts": (of.blocks + 1,), "dosage": (v, of.columns), "heterozygote": (v, of.columns), "missing": (v, 2),
        "axes": (v, of.components), "axes_centre": (of.components,), "axes_scale": (of.components,),
        "centroids": (of.ancestries, 2), "centre": shape, "scale": shape,
    }  # fmt: skip
    if {name: array.shape for name, array in file.items()} != expected:
        raise GenopactError("PUBLISHED_INVALID", "of other sizes than the study says")
    return file


RISK_NET = RiskNetRecipe("risk-net", OUTCOME, (*SCHEMA, GROUP), RiskNetParameters, judge=ByOdds())
