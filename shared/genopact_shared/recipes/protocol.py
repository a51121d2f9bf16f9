"""What a recipe is: a schema, a fixed plan of per-patient sums, a site term and a prediction.

A recipe never sums over patients itself. It returns one row per patient; the release kernel clips each row, rounds it
towards zero, sums, adds integer noise and masks. Everything else that a plan computes is a pure function of public
numbers and released totals, so that each site recomputes the shared model bit for bit.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genopact_shared.errors import GenopactError
from genopact_shared.published import NOTHING, Published
from genopact_shared.study import Frozen, Modality

if TYPE_CHECKING:
    from torch import Tensor, nn

P = TypeVar("P", bound=Frozen)
Role = Literal["feature", "outcome", "group"]
Floats = NDArray[np.float64]
Codes = NDArray[np.int8]
Model = dict[str, Floats]
"""Named float64 arrays; the same names and shapes before and after every step."""
PEOPLE = 256
"""Patients whose genotypes are in memory at a time."""
Metrics = dict[str, dict[str, float]]
"""Released metrics: group, measure, value."""
Values = NDArray[np.float32]
GENOTYPES = "genotypes"
"""The outcome of a recipe that learns genotypes themselves."""


@dataclass(frozen=True)
class Number:
    """A real covariate; values outside [low, high] are errors of the file."""

    name: str
    unit: str
    low: float
    high: float
    role: Role = "feature"


@dataclass(frozen=True)
class Choice:
    """One of several levels, coded by their order. As a group it also breaks metrics down."""

    name: str
    levels: tuple[str, ...]
    role: Role = "feature"


@dataclass(frozen=True)
class Flag:
    """Yes or no."""

    name: str
    role: Role = "feature"


@dataclass(frozen=True)
class Dosage:
    """Copies (0, 1, 2) of the effect allele of one variant; both alleles on the forward strand of the reference."""

    name: str
    rsid: str
    gene: str
    effect: str
    other: str
    role: Role = "feature"


Column = Number | Choice | Flag | Dosage


class GenotypeParameters(Frozen):
    """Hyper-parameters of a recipe that reads genotypes.

    `variants`: digest of the variant manifest. A field `design` is the digest of the published file that says what
    becomes of them, where the recipe needs one.
    """

    variants: str = Field(pattern=r"^[0-9a-f]{64}$")


class Matrix(Frozen):
    """A sealed matrix that a recipe reads.

    `name`: of the store. `features`: how many, and `digest`: SHA-256 of their list, a line each, as it was imported.
    `data`: of what kind they are; the study has to ask for it.
    """

    name: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    features: int = Field(ge=1, le=1 << 20)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    data: Modality


class MatrixParameters(Frozen):
    """Hyper-parameters of a recipe that reads matrices. A patient may lack any of them."""

    matrices: tuple[Matrix, ...] = Field(min_length=1, max_length=16)


def of_kind(parameters: Frozen, kind: type[P]) -> P:
    """The same hyper-parameters, if they are of that kind; ValueError otherwise."""
    if not isinstance(parameters, kind):
        raise ValueError(f"Expected {kind.__name__}")
    return parameters


def digest_of_features(names: Iterable[str]) -> str:
    """What `Matrix.digest` says of a list of features."""
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


class Genotypes(Protocol):
    """Genotypes of n patients over the V variants of one manifest, read some patients at a time."""

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Genotypes":
        """Those of some patients, by index or by mask."""
        ...

    def dosages(self, some: slice) -> Codes:
        """(b, V) int8 copies of the effect allele, -1 missing; the array is the caller's until the next call."""
        ...


@dataclass(frozen=True, eq=False)
class Copies:
    """Genotypes that are public or made up: rows of `array` (people, V) int8, all of them by default."""

    array: Codes
    rows: NDArray[np.intp] | None = None

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Copies":
        """Those of some patients."""
        return Copies(self.array, (np.arange(len(self.array)) if self.rows is None else self.rows)[rows])

    def dosages(self, some: slice) -> Codes:
        """Some patients' copies of the effect allele."""
        return self.array[some] if self.rows is None else self.array[self.rows[some]]


@dataclass(frozen=True, eq=False)
class Table:
    """Covariates of n patients, one array per column that the site has; a column of the schema may be absent.

    Number: float64, NaN missing. Choice, Flag and Dosage: int8, -1 missing. All of shape (n,). `genotypes`: of the same
    patients in the same order, where the recipe asks for them. `site`: whose patients they are, as the study names it.
    `matrices`: by name, (n, F) float32, NaN missing; a patient without one has NaN throughout.

    Raises:
        GenopactError: TABLE_INVALID for another shape or dtype.
    """

    columns: Mapping[str, Floats | Codes]
    n: int
    genotypes: Genotypes | None = None
    site: str = ""
    matrices: Mapping[str, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if column.shape != (self.n,) or column.dtype not in (np.float64, np.int8):
                raise GenopactError("TABLE_INVALID", f"column {name}: {column.dtype} of shape {column.shape}")
        for name, values in self.matrices.items():
            if values.ndim != 2 or len(values) != self.n or values.dtype != np.float32:
                raise GenopactError("TABLE_INVALID", f"matrix {name}: {values.dtype} of shape {values.shape}")

    def number(self, name: str) -> Floats:
        """(n,) float64; all NaN where the site has no such column."""
        return self.columns.get(name, np.full(self.n, np.nan)).astype(np.float64)

    def codes(self, name: str) -> Codes:
        """(n,) int8; all -1 where the site has no such column."""
        return self.columns.get(name, np.full(self.n, -1, dtype=np.int8)).astype(np.int8)

    def known(self, name: str) -> NDArray[np.bool_]:
        """(n,) who has a value of an outcome: a column, a matrix (at least one number of it), or GENOTYPES."""
        column = self.columns.get(name, self.matrices.get(name))
        if column is None:
            return np.full(self.n, name == GENOTYPES)
        found: NDArray[np.bool_] = column >= 0 if column.dtype == np.int8 else ~np.isnan(column)
        return found if found.ndim == 1 else np.asarray(found.any(axis=1))

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Table":
        """The table of some rows, by index or by mask."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        matrices = {name: values[rows] for name, values in self.matrices.items()}
        genotypes = self.genotypes and self.genotypes.take(rows)
        return Table(columns, int(np.arange(self.n)[rows].size), genotypes, self.site, matrices)

    def dosages(self) -> Iterator[tuple[slice, Codes]]:
        """Genotypes, PEOPLE patients at a time: which, and their (b, V) int8. Raises GENOTYPES_MISSING."""
        if self.genotypes is None:
            raise GenopactError("GENOTYPES_MISSING")
        for first in range(0, self.n, PEOPLE):
            some = slice(first, min(first + PEOPLE, self.n))
            yield some, self.genotypes.dosages(some)


@dataclass(frozen=True)
class SumStep:
    """One sum over all patients of all sites.

    `clip`: L2 bound of a patient's row. `weight`: share of the privacy budget (of mu^2); a plan's weights add up to 1,
    so a step's noise multiplier is 1 / (mu sqrt(weight)). `scale`: fixed-point units per 1.0.
    """

    name: str
    dims: int
    clip: float
    weight: float
    scale: int


def finest_scale(clip: float, weight: float, epsilon_milli: int, finest: int = 1 << 12) -> int:
    """The finest power of two at which noise fits the sampler: its multiplier is below 8 / (epsilon sqrt(weight))."""
    noise = clip * 8000 / (epsilon_milli * math.sqrt(weight))
    return max(1, min(finest, 1 << max(0, math.frexp(2.0**18 / noise)[1] - 1)))


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predictions in the outcome's unit with the bounds of an 80 % interval; float64 (n,) each.

    Of several outcomes (n, k): probabilities of classes or of hazards, values of many drugs.
    """

    value: Floats
    low: Floats
    high: Floats


class SumPlan(Protocol):
    """A recipe with its public numbers fixed: hyper-parameters, planned cohort, budget. Built alike by everybody."""

    @property
    def steps(self) -> tuple[SumStep, ...]:
        """All sums in order, those for metrics last."""
        ...

    def initial(self) -> Model:
        """The model before the first sum."""
        ...

    def contribution(self, index: int, model: Model, table: Table) -> Floats:
        """(n, dims) float64 rows of step `index` before clipping; each depends on its own patient and the model."""
        ...

    def advance(self, index: int, model: Model, total: Floats) -> Model:
        """The next model, from the released (dims,) total; the same bits on every machine."""
        ...

    def metrics(self, model: Model) -> Metrics:
        """The metrics that the sums have released so far."""
        ...


class Judge(Protocol):
    """How predictions of a network are met with outcomes, see `judges`.

    `measures`: "patients", then the one that a floor is for, more of which is better. `norm`: of a row, at most.
    """

    @property
    def measures(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def norm(self) -> float: ...  # noqa: D102

    def size(self, of: Any) -> int:
        """Of a row, by the network's parameters."""
        ...

    def rows(self, outputs: Floats, targets: Floats, of: Any) -> Floats:
        """(n, size) of patients with an outcome; row i depends on patient i alone."""
        ...

    def measured(self, total: Floats, of: Any) -> dict[str, float]:
        """Measures, from a noised (size,) sum; fewer of them where too little is left of it."""
        ...


class Recipe(Protocol):
    """What every recipe has."""

    @property
    def name(self) -> str:
        """Its name in study files."""
        ...

    @property
    def version(self) -> int:
        """Raised with every change of results."""
        ...

    @property
    def outcome(self) -> str:
        """The column that it predicts."""
        ...

    @property
    def measures(self) -> tuple[str, ...]:
        """The metrics that it releases beside the model; a study names them, so that approvers read them."""
        ...

    @property
    def schema(self) -> tuple[Column, ...]:
        """The covariates and the outcome."""
        ...

    @property
    def parameters(self) -> type[Frozen]:
        """The type of its hyper-parameters."""
        ...


@runtime_checkable
class Predictor(Protocol):
    """What can be done with a finished model: a recipe, or the plan of one whose predictions need published files."""

    @property
    def name(self) -> str:
        """The recipe's name."""
        ...

    def fit_personal(self, model: Model, table: Table) -> Model:
        """The site's own term on the finished shared model; it never leaves the site."""
        ...

    def predict(self, model: Model, personal: Model | None, table: Table) -> Prediction:
        """Predictions for every row; the outcome column is not read."""
        ...


class SumRecipe(Recipe, Protocol):
    """A model that is trained by released sums. It, or its plan, is a `Predictor`."""

    def plan(
        self, parameters: Frozen, planned_total: int, epsilon_milli: int | None, published: Published = NOTHING
    ) -> SumPlan:
        """The plan for `planned_total` patients (from the approvals, never counted) and a budget; None: no noise.

        Its steps follow from the first three alone; `published` is read when rows or models are computed.
        """
        ...


class NetRecipe(Recipe, Protocol):
    """A network that is trained by private steps at each site; released as a model delta."""

    @property
    def judge(self) -> Judge | None:
        """How it is evaluated; None for one that predicts no outcome."""
        ...

    def module(self, parameters: Frozen) -> "nn.Module":
        """The network with its first weights, the same at every site."""
        ...

    def tensors(self, table: Table, parameters: Frozen, published: Published) -> "tuple[Tensor, Tensor]":
        """Inputs (n, ...) and targets (n, ...) of all patients; without an outcome NaN throughout, or class -1.

        `published`: where the files are that the parameters name.
        """
        ...

    def loss(self, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """(B,): one loss per patient that depends on that patient only, never reduced."""
        ...

    def fit_personal(self, outputs: Floats, table: Table) -> Model:
        """The site's own term on the finished network, from its (n, ...) outputs; it never leaves the site."""
        ...

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:
        """Predictions from the finished network's (n, ...) outputs."""
        ...
