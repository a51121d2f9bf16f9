"""What all networks share: gradients one by one, optimisers of the coordinator, and the pull to the shared model."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from genopact_client.train.private_sgd import PrivateSgd
from genopact_shared.privacy.mechanisms import Unprotected
from genopact_shared.recipes.dose_net import DOSE_NET, DoseNetParameters
from genopact_shared.recipes.network import NetParameters, NetPlan, NetSums, load, moved, weights_of
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Table
from tests.unit.dose_tables import random_table

PLANNED = {"here": 40, "there": 60}


def sums(**settings: Any) -> NetSums:
    return NetSums(DOSE_NET, DoseNetParameters(**settings), PLANNED, epsilon_milli=3000)


def awake(course: NetSums) -> Model:
    """A model without zeros, so that each weight has a gradient."""
    rng = np.random.default_rng(3)
    return {name: rng.normal(0, 0.3, values.shape) for name, values in course.initial().items()}


def held_out(table: Table, rows: list[int]) -> Table:
    flags = np.isin(np.arange(table.n), rows).astype(np.int8)
    return Table({**table.columns, "held_out": flags}, table.n)


def test_rows_are_the_gradients_of_torch_and_zeros_for_who_does_not_train() -> None:
    course, table = sums(), held_out(random_table(12, 5, missing=0.0), [4, 7])
    model = awake(course)
    rows = course.contribution(0, model, table)
    module = course.module(model).double()
    inputs, targets = (each.double() for each in DOSE_NET.tensors(table, course.parameters, course.published))
    for at in range(table.n):
        module.zero_grad()
        DOSE_NET.loss(module, inputs, targets)[at].backward()  # type: ignore[no-untyped-call]
        named = sorted(module.named_parameters())
        naive = torch.cat([torch.as_tensor(each.grad).reshape(-1) for _, each in named]).numpy()
        assert rows[at] == pytest.approx(naive * (at not in (4, 7)), abs=1e-12)
    assert np.abs(rows[0]).max() > 0


def test_a_row_has_the_same_bits_in_any_table() -> None:
    course, table = sums(), random_table(30, 6)
    model = awake(course)
    rows = course.contribution(0, model, table)
    for some in (np.arange(1), np.arange(30)[::-1], np.array([3, 17, 4])):
        assert (course.contribution(0, model, table.take(some)) == rows[some]).all()


def test_a_round_is_a_step_along_the_mean_gradient_of_the_planned_patients() -> None:
    course, table = sums(learning_rate_milli=200), random_table(20, 7)
    model = awake(course)
    total = course.contribution(0, model, table).sum(axis=0)
    after, at = course.advance(0, model, total), 0
    backwards = course.advance(0, dict(reversed(model.items())), total)
    assert all((backwards[name] == values).all() for name, values in after.items())
    for name, values in sorted(model.items()):
        part = total[at : at + values.size].reshape(values.shape)
        assert after[name] == pytest.approx(values - 0.2 * part / 100, rel=1e-12)
        at += values.size
    assert at == course.dims == course.steps[0].dims


@pytest.mark.parametrize("optimiser", ["average", "adam", "yogi"])
def test_optimisers_are_those_of_their_paper(optimiser: str) -> None:
    """One number at a time, as Reddi et al. write them."""
    settings, rng = NetParameters(optimiser=optimiser, server_rate_milli=300), np.random.default_rng(1)  # type: ignore[arg-type]
    changes = [rng.normal(size=3) for _ in range(5)]
    model: Model = {"w": np.ones(3)} | (
        {} if optimiser == "average" else {f"{of} of w": np.zeros(3) for of in ("mean", "square")}
    )
    found = model
    for change in changes:
        found = moved(settings, 0, found, {"w": change})
    for place in range(3):
        w, m, v = 1.0, 0.0, 0.0
        for change in changes:
            d = float(change[place])
            m = 0.9 * m + 0.1 * d
            v = 0.99 * v + 0.01 * d * d if optimiser == "adam" else v - 0.01 * d * d * np.sign(v - d * d)
            w += 0.3 * (d if optimiser == "average" else m / (v**0.5 + 1e-3))
        assert found["w"][place] == pytest.approx(w, rel=1e-9)
    assert set(found) == set(model)


@pytest.mark.parametrize("averaged", [0, 1, 3, 9])
def test_matrices_decay_and_the_last_model_is_the_mean_of_the_last(averaged: int) -> None:
    rng, rounds = np.random.default_rng(2), 5
    settings = NetParameters(rounds=rounds, decay_milli=200, averaged=averaged)
    model: Model = {"w": np.ones((2, 2)), "b": np.ones(2)}
    model |= {f"sum of {name}": np.zeros_like(values) for name, values in model.items()} if averaged else {}
    found, course, w, b = model, list[tuple[float, float]](), 1.0, 1.0
    for index in range(rounds):
        change = {"w": rng.normal(size=(2, 2)), "b": rng.normal(size=2)}
        found = moved(settings, index, found, change)
        w, b = 0.8 * w + change["w"][1, 0], b + change["b"][0]
        course.append((w, b))
    expected = np.mean(course[-averaged:], axis=0) if averaged else course[-1]
    assert (found["w"][1, 0], found["b"][0]) == pytest.approx(tuple(expected))
    assert set(found) == set(model)


def test_the_state_of_an_optimiser_is_no_part_of_the_network() -> None:
    course = NetPlan(DOSE_NET, DoseNetParameters(optimiser="adam"), PLANNED)
    model = course.initial()
    assert len(model) == 3 * len(weights_of(model))
    load(DOSE_NET.module(course.parameters), model)
    change = {name: values + 0.1 for name, values in weights_of(model).items()}
    after = course.advance(0, model, change)
    assert set(after) == set(model)
    assert course.outputs(after, random_table(4, 1)).shape == (4,)


def test_local_steps_are_pulled_towards_the_shared_model() -> None:
    """The more, the less they change; the change of a step is that of its own definition."""
    table, fact = random_table(40, 2, missing=0.0), Unprotected(dims=241, scale=1 << 24)

    def change(proximal: int) -> tuple[float, Model]:
        settings = DoseNetParameters(local_steps=6, sampling_rate_milli=1000, proximal_milli=proximal)
        course = NetPlan(DOSE_NET, settings, PLANNED)
        found = PrivateSgd(course, fact, "here")(course.initial(), table)
        return sum(float((values**2).sum()) for values in found.values()), found

    sizes = [change(proximal)[0] for proximal in (0, 500, 2000)]
    assert all(after < 0.9 * before for before, after in pairwise(sizes))
    assert sizes[-1] > 0
