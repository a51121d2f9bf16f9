"""What a recipe is: a schema, a fixed plan of per-patient sums, a site term and a prediction.

A recipe never sums over patients itself. It returns one row per patient; the release kernel clips each row, rounds it
towards zero, sums, adds integer noise and masks. Everything else that a plan computes is a pure function of public
numbers and released totals, so that each site recomputes the shared model bit for bit.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.table import Column, Floats, Table
from genopact_shared.study import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

P = TypeVar("P", bound=Frozen)
Model = dict[str, Floats]
"""Named float64 arrays; the same names and shapes before and after every step."""
Metrics = dict[str, dict[str, float]]
"""Released metrics: group, measure, value."""


def of_kind(parameters: Frozen, kind: type[P]) -> P:
    """The same hyper-parameters, if they are of that kind; ValueError otherwise."""
    if not isinstance(parameters, kind):
        raise ValueError(f"Expected {kind.__name__}")
    return parameters


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
