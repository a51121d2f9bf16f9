"""Private steps: the public divisor, samples, steps and their fact, the noise; networks that are refused."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from genopact_client.release.kernel import release_model
from genopact_client.release.private import Private
from genopact_client.train import private_sgd, private_sum
from genopact_client.train.private_sgd import PrivateSgd, poisson
from genopact_client.train.private_sum import MARGIN
from genopact_shared.errors import GenopactError
from genopact_shared.plan import MODEL_SCALE
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected
from genopact_shared.privacy.noise import gaussian
from genopact_shared.recipes.network import NetParameters, NetPlan
from genopact_shared.recipes.protocol import Model, Prediction
from genopact_shared.recipes.table import Column, Table
from genopact_shared.study import Frozen

Floats = NDArray[np.float64]
CLIP = 0.5
FACT = SampledSgd(noise_multiplier="1.5", clip="0.5", sampling_rate="1.0", steps=1)
OPEN = Unprotected(dims=13, scale=MODEL_SCALE)


def perceptron() -> nn.Module:
    """13 weights that are the same every time, none of them zero."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    with torch.no_grad():
        for number, weights in enumerate(module.parameters()):
            weights.copy_(torch.cos(torch.arange(weights.numel()) + number).reshape(weights.shape))
    return module


def squared(predicted: Tensor, targets: Tensor) -> Tensor:
    return (predicted.squeeze(-1) - targets) ** 2


@dataclass(frozen=True)
class Toy:
    """A network recipe with any module and loss."""

    build: Callable[[], nn.Module] = perceptron
    of: Callable[[Tensor, Tensor], Tensor] = squared
    name: str = "toy"
    version: int = 1
    measures: tuple[str, ...] = ()
    outcome: str = "y"
    schema: tuple[Column, ...] = ()
    parameters: type[Frozen] = NetParameters
    judge: None = None

    def module(self, parameters: Frozen) -> nn.Module:
        return self.build()

    def tensors(self, table: Table, parameters: Any = None, published: Any = None) -> tuple[Tensor, Tensor]:
        inputs = np.column_stack([table.number("a"), table.number("b")])
        return torch.from_numpy(inputs), torch.from_numpy(table.number("y"))

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.of(module(inputs), targets)

    def fit_personal(self, outputs: Floats, table: Table) -> Model:
        raise NotImplementedError

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:
        raise NotImplementedError


def table_of(n: int, seed: int = 0, scale: float = 1.0) -> Table:
    rng = np.random.default_rng(seed)
    return Table({name: rng.normal(0, scale, n) for name in ("a", "b", "y")}, n)


def hostile(seed: int, scale: float) -> Table:
    """Patients of very different sizes, some of them not finite."""
    table = table_of(9, seed, scale)
    columns = {name: np.array(column, dtype=np.float64) for name, column in table.columns.items()}
    columns["a"][0], columns["y"][1], columns["b"][2], columns["y"][3] = np.nan, np.inf, 1e300, -1e9
    return Table(columns, 9)


def sgd(recipe: Toy | None = None, fact: Any = FACT, planned: int = 40, **settings: Any) -> PrivateSgd:
    rate = Fraction(getattr(fact, "sampling_rate", "1"))
    base: dict[str, Any] = {"local_steps": getattr(fact, "steps", 1), "sampling_rate_milli": int(rate * 1000)}
    parameters = NetParameters(**{**base, "learning_rate_milli": 1000, **settings})
    return PrivateSgd(NetPlan(recipe or Toy(), parameters, {"here": planned, "there": 7}), fact, "here")


def flat(model: Model) -> Floats:
    return np.concatenate([model[name].ravel() for name, _ in perceptron().named_parameters()])


def naive_sum(table: Table, clip: float) -> Floats:
    """The reference: plain autograd, one patient at a time, no hooks, no batches."""
    module, total = perceptron().double(), np.zeros(13)
    inputs, targets = Toy().tensors(table)
    for patient in range(table.n):
        module.zero_grad()
        squared(module(inputs[patient : patient + 1]), targets[patient : patient + 1])[0].backward()  # type: ignore[no-untyped-call]
        row = [float(value) for weights in module.parameters() for value in weights.grad.flatten()]  # type: ignore[union-attr]
        if all(map(math.isfinite, row)):
            length = math.sqrt(math.fsum(value * value for value in row))
            total += [value * min(1.0, clip / length) for value in row]
    return total


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No noise."""
    monkeypatch.setattr(private_sgd, "gaussian", lambda sd, size: np.zeros(size))


# --- one step without noise


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_step_follows_the_sum_of_single_patients(scale: float) -> None:
    table = table_of(30, 1, scale)
    expected = naive_sum(table, CLIP * (1 - MARGIN[torch.float64]))
    assert np.allclose(-40 * flat(sgd()(initial(), table)), expected, atol=2 / MODEL_SCALE)


def check_sensitivity(scale: float = 10.0) -> None:
    table = hostile(2, scale)
    whole = flat(sgd()(initial(), table))
    for patient in range(table.n):
        rest = flat(sgd()(initial(), table.take(np.arange(table.n) != patient)))
        assert np.linalg.norm(whole - rest) * 40 <= CLIP + 4 / MODEL_SCALE  # the grid, put on after the noise


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1000.0])
def test_a_patient_moves_a_step_by_at_most_the_clip_over_the_expected_batch(scale: float) -> None:
    check_sensitivity(scale)


@pytest.mark.usefixtures("quiet")
def test_a_patient_without_finite_gradient_counts_as_nothing() -> None:
    """One infinite record must not take the others with it."""
    table = hostile(3, 1.0)
    columns = {name: np.array(column, dtype=np.float64) for name, column in table.columns.items()}
    for patient in (0, 1, 2):  # the square of the third does not fit into a double
        columns["a"][patient] = np.nan
    with structlog.testing.capture_logs() as logs:
        change = flat(sgd()(initial(), table))
    assert logs == [{"event": "gradients_not_finite", "times": 3, "log_level": "warning"}]
    assert np.array_equal(change, flat(sgd()(initial(), Table(columns, 9))))


# --- networks and losses that mix patients


class Standardised(nn.Module):
    """Batch statistics inside the forward pass, without a layer that a validator knows."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((x - x.mean(0)) / (x.std(0) + 1.0))  # type: ignore[no-any-return]


class Folded(nn.Module):
    """Each input of a patient becomes a row of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.reshape(-1, 1)).reshape(len(x), -1).sum(1, keepdim=True)  # type: ignore[no-any-return]


class Tower(nn.Module):
    """A layer that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)  # type: ignore[no-any-return]


class Buffered(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 1))
        self.register_buffer("mean", torch.zeros(2))


def balanced(predicted: Tensor, targets: Tensor) -> Tensor:
    """Classes weighted by their counts in the batch."""
    share = (targets > 0.5).double().mean()
    return squared(predicted, targets) * torch.where(targets > 0.5, 1 - share, share)


def cox(predicted: Tensor, targets: Tensor) -> Tensor:
    """Partial likelihood: everybody at risk is in everybody's term."""
    risk = predicted.squeeze(-1)
    return torch.logcumsumexp(risk, 0) - risk + 0 * targets


REFUSED = {
    "a loss of shape (B, 1)": Toy(of=lambda predicted, targets: (predicted - targets[:, None]) ** 2),
    "a reduced loss": Toy(of=lambda predicted, targets: squared(predicted, targets).mean()),
    "class weights of the batch": Toy(of=balanced),
    "Cox": Toy(of=cox),
    "batch statistics": Toy(build=Standardised),
    "windows as rows": Toy(build=Folded),
    "batch normalisation": Toy(build=lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))),
    "an unused tower": Toy(build=Tower),
    "a buffer": Toy(build=Buffered),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_network_that_mixes_patients_is_refused(why: str) -> None:
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        sgd(REFUSED[why])(dict(NetPlan(REFUSED[why], NetParameters(), {}).initial()), table_of(4))


# --- samples


def test_a_sample_holds_each_patient_with_the_sampling_rate() -> None:
    draws = [poisson(400, Fraction(1, 4)) for _ in range(300)]
    sizes = np.array([len(draw) for draw in draws], dtype=np.float64)
    assert abs(sizes.mean() - 100) < 6 * math.sqrt(75 / 300)
    assert 0.6 < sizes.var() / 75 < 1.5  # a fixed size has no variance
    each = np.bincount(np.concatenate(draws), minlength=400)
    assert 0.7 < each.var() / (300 * 0.25 * 0.75) < 1.3
    assert all(len(np.unique(draw)) == len(draw) for draw in draws)


@pytest.mark.parametrize("milli", [1, 93, 333, 999, 1000])
def test_trap_h_a_rate_is_a_fraction_and_every_step_is_made(milli: int) -> None:
    """No step is lost to int(1 / rate), and no patient to the rounding of a rate."""
    fact = FACT.model_copy(update={"steps": 3, "sampling_rate": f"{milli / 1000:.3f}"})
    one = sgd(fact=fact, sampling_rate_milli=milli)
    one(initial(), table_of(5))
    assert one.done == fact
    short = int(Fraction(milli, 1000) * 2**64)
    assert 0 <= Fraction(milli, 1000) - Fraction(short, 2**64) < Fraction(1, 2**64)


def test_rate_one_takes_everybody_and_nobody_can_be_taken_from_an_empty_table() -> None:
    assert np.array_equal(poisson(50, Fraction(1)), np.arange(50))
    assert len(poisson(0, Fraction(1, 2))) == 0


# --- the steps


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("n", [0, 1, 60])
def test_the_divisor_is_public(n: int) -> None:
    """However many patients there are, their sum is divided by the planned cohort times the sampling rate."""
    table = table_of(n, 6)
    change = flat(sgd(planned=40)(initial(), table))
    expected = -naive_sum(table, CLIP * (1 - MARGIN[torch.float64])) / 40
    assert np.allclose(change, expected, atol=1e-6)


def test_without_protection_it_is_gradient_descent() -> None:
    """The reference: torch's own optimiser on the sum of the losses."""
    table = table_of(30, 8, 0.5)
    module = perceptron().double()
    inputs, targets = Toy().tensors(table)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.2 / 30)
    for _ in range(6):
        optimiser.zero_grad()
        squared(module(inputs), targets).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    expected = np.concatenate([weights.detach().numpy().ravel() for weights in module.parameters()]) - flat(initial())
    change = sgd(fact=OPEN, planned=30, local_steps=6, learning_rate_milli=200)(initial(), table)
    assert np.allclose(flat(change), expected, atol=1e-5)


def initial() -> Model:
    """In the order of names, as it comes from the wire: not that of the module."""
    named = dict(perceptron().named_parameters())
    return {name: named[name].detach().numpy().astype(np.float64) for name in sorted(named)}


def test_the_steps_that_were_made_are_the_steps_that_leave() -> None:
    """A lost or an additional step is another fact."""
    for steps in (1, 2, 93):
        fact = FACT.model_copy(update={"steps": steps, "sampling_rate": "0.25"})
        one = sgd(fact=fact)
        change = one(initial(), table_of(3))
        assert one.done == fact
        assert release_model(Private(change), fact, one.done).fact == fact
    short = sgd(fact=FACT.model_copy(update={"steps": 3}), local_steps=2)
    change = short(initial(), table_of(3))
    with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
        release_model(Private(change), short.fact, short.done)


def test_steps_are_made_once_under_the_fact_of_their_plan() -> None:
    one = sgd()
    one(initial(), table_of(3))
    summed = NoisedSum(noise_multiplier="1", clip="1", scale=1, dims=1, honest_minimum=1)
    rate = sgd(fact=FACT, sampling_rate_milli=999)
    for refused in (one, replace(sgd(), fact=summed), rate):
        with pytest.raises(GenopactError, match="KERNEL_REFUSED"):
            refused(initial(), table_of(3))
    with pytest.raises(GenopactError, match="FRAME_INVALID"):
        sgd()({**initial(), "more": np.zeros(1)}, table_of(3))


# --- the noise


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 1500), nn.Tanh(), nn.Linear(1500, 1))


def pure_noise(steps: int = 1) -> Floats:
    """The change that a site without any patient releases, in units of the noise's standard deviation of one step."""
    fact = FACT.model_copy(update={"steps": steps})
    one = sgd(Toy(build=wide), fact)
    start = {name: np.zeros(weights.shape) for name, weights in wide().named_parameters()}
    change = np.concatenate([values.ravel() for values in one(start, table_of(0)).values()])
    return change / (1.5 * CLIP / 40)


def check_noise(steps: int = 1) -> None:
    noise = pure_noise(steps)
    sized = noise / math.sqrt(steps)
    assert abs(sized.var() - 1) < 6 * math.sqrt(2 / len(sized))
    assert stats.kstest(sized, "norm").pvalue > 1e-6
    for half in (sized[:3000], sized[3000:]):
        assert abs(half.var() - 1) < 6 * math.sqrt(2 / len(half))


def check_fresh() -> None:
    first, second = pure_noise(), pure_noise()
    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(len(first))


@pytest.mark.parametrize("steps", [1, 4])
def test_a_step_without_patients_is_noise_of_the_planned_size(steps: int) -> None:
    check_noise(steps)


def test_no_two_rounds_share_their_noise() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    first = pure_noise()
    torch.manual_seed(0)
    np.random.seed(0)
    assert (first != pure_noise()).any()
    check_fresh()


real_add, real_noise = private_sum._add, gaussian


def check_quietly() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private_sgd, "gaussian", lambda sd, size: np.zeros(size))
        check_sensitivity()


FIXED = np.random.default_rng(0).normal(0, 1, 6001)


def half_noised(sd: float, size: int) -> Floats:
    return np.concatenate([real_noise(sd, size // 2), np.zeros(size - size // 2)])


MUTATIONS: dict[str, tuple[object, str, object, Callable[[], None]]] = {
    "no clip": (private_sum, "_add", lambda total, uses, bound, m: real_add(total, uses, None, m), check_quietly),
    "a clip for each layer": (
        private_sum,
        "_add",
        lambda total, uses, bound, m: sum(real_add(total, {weight: use}, bound, m) for weight, use in uses.items()),
        check_quietly,
    ),
    "no noise": (private_sgd, "gaussian", lambda sd, size: np.zeros(size), check_noise),
    "half the noise": (private_sgd, "gaussian", lambda sd, size: real_noise(sd / 2, size), check_noise),
    "noise on half of the weights": (private_sgd, "gaussian", half_noised, check_noise),
    "noise that forgets the clip": (private_sgd, "gaussian", lambda sd, size: real_noise(sd / CLIP, size), check_noise),
    "uniform noise": (
        private_sgd,
        "gaussian",
        lambda sd, size: np.random.default_rng().uniform(-1, 1, size) * sd * 3**0.5,
        check_noise,
    ),
    "the same noise twice": (private_sgd, "gaussian", lambda sd, size: sd * FIXED[:size], check_fresh),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_checks_catch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, wrong, check = MUTATIONS[name]
    check()
    monkeypatch.setattr(where, what, wrong)
    with pytest.raises(AssertionError):
        check()


def test_nothing_of_opacus_that_is_unsafe_is_used() -> None:
    text = "".join(each.read_text("utf-8") for each in Path(str(private_sgd.__file__)).parent.glob("*.py"))
    for word in (
        "ghost",
        "secure_mode",
        "PrivacyEngine",
        "manual_seed",
        "torch.normal",
        "randn",
        "np.random",
        "torch.load",
    ):
        assert word not in text
