"""Evaluations: each judge against a naive one, whose rows they are, and what a group's floor says."""

import hashlib
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import load
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score

from genopact_client.release.quantise import clipped_integers
from genopact_server.report.risk import THIRDS, by_class, errors, left, thirds
from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.published import Published
from genopact_shared.recipes import NETWORKS, RECIPES, chosen
from genopact_shared.recipes.dose_features import RACES, dose_mg, outcome
from genopact_shared.recipes.evaluation import Evaluation, EvaluationParameters
from genopact_shared.recipes.judges import EDGES, RISKS, ByTime
from genopact_shared.recipes.network import NetParameters, Network, weights_of
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Floats, Table
from genopact_shared.study import RecipeChoice
from tests.benchmarks.federation import Mode, planned, trained
from tests.unit import risk_people
from tests.unit.dose_tables import random_table
from tests.unit.test_deep_recipes import FILES, STUDIES
from tests.unit.test_deep_recipes import table as table_of

N = 90
PEOPLE: dict[str, tuple[str, dict[str, Any]]] = {
    name: study for name, study in STUDIES.items() if study[0] + "-evaluation" in RECIPES
} | {"dose": ("dose-net", {"hidden": 3})}


def by(recipe: str) -> str:
    return "race" if recipe in {"dose-net", "adverse-reaction"} else "group"


def people(name: str, n: int = N, seed: int = 3) -> Table:
    """As the recipe's tests make them, in three groups, some of nobody's, four fifths held out."""
    rng = np.random.default_rng(seed)
    found = random_table(n, seed) if name == "dose" else table_of(name, n, seed)
    added: dict[str, Any] = {"held_out": (rng.random(n) < 0.8).astype(np.int8)}
    added |= {"group": rng.integers(-1, 3, n).astype(np.int8)} if by(PEOPLE[name][0]) == "group" else {}
    return Table({**found.columns, **added}, n, found.genotypes, found.site, found.matrices)


def made(name: str, epsilon: float = 0, **settings: Any) -> tuple[Any, Network, Model]:
    """The plan, the network, and its weights, which are somebody's."""
    recipe, parameters = PEOPLE[name]
    tables = {site: people(name) for site in ("a", "b", "c")}
    network = cast("Network", planned(recipe, parameters, tables, "none").course)
    rng = np.random.default_rng(4)
    model = {each: rng.normal(0, 0.5, values.shape) for each, values in network.initial().items()}
    data = wire.pack(model)
    files = FILES | {hashlib.sha256(data).hexdigest(): load(data)}

    class Known:
        def read(self, digest: str) -> Any:
            return files[digest]

    given = parameters | {"model": hashlib.sha256(data).hexdigest(), "by": by(recipe)} | settings
    mode: Mode = "distributed" if epsilon else "none"
    plan = planned(f"{recipe}-evaluation", given, tables, mode, epsilon, cast("Published", Known()))
    return plan, Network(NETWORKS[recipe], network.parameters, {}, cast("Published", Known())), model


def judged(name: str, table: Table, network: Network, model: Model) -> tuple[Floats, Floats, Floats]:
    """Outputs, targets and groups of the patients who count, asked for one by one."""
    kept = [row for row in range(table.n) if table.codes("held_out")[row] == 1]
    outputs, targets, groups = [], [], []
    for row in kept:
        one = table.take(np.array([row]))
        free = Table({**one.columns, "held_out": np.zeros(1, np.int8)}, 1, one.genotypes, "", one.matrices)
        target = network.recipe.tensors(free, network.parameters, network.published)[1].numpy().astype(float)
        missing = (target == -1).all() if network.recipe.judge.__class__.__name__ == "ByClass" else False
        if missing or np.isnan(target).all():
            continue
        outputs.append(network.outputs(model, one)[0])
        targets.append(target[0])
        groups.append(int(table.codes(by(PEOPLE[name][0]))[row]))
    return np.array(outputs), np.array(targets), np.array(groups)


def survival(outlived: list[int], event: list[bool], intervals: int) -> list[float]:
    """Kaplan and Meier's estimate, patient by patient; censored ones leave before their interval counts."""
    alive, found = 1.0, []
    for at in range(intervals):
        asked = [e for t, e in zip(outlived, event, strict=True) if t > at or (t == at and e)]
        came = sum(t == at and e for t, e in zip(outlived, event, strict=True))
        alive *= 1 - came / len(asked) if asked else 1
        found.append(alive)
    return found


def naive(kind: str, name: str, outputs: Floats, targets: Floats) -> dict[str, float]:
    """The measures by their definitions."""
    n = len(targets)
    if kind == "ByClass":
        p = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        right = accuracy_score(targets, p.argmax(axis=1))
        brier = float(np.mean([((p[i] - np.eye(p.shape[1])[int(targets[i])]) ** 2).sum() / 2 for i in range(n)]))
        return {"accuracy": right, "patients": n, "brier": brier, "overconfidence": p.max(axis=1).mean() - right}
    if kind == "ByOdds":
        edges = [-math.inf, *(round(math.log(0.25), 6) + 0.4 * np.arange(-7, 8)), math.inf]
        bins = [next(k for k, (low, high) in enumerate(pairwise(edges)) if low <= each < high) for each in outputs]
        return {"patients": n, "cases": targets.sum(), "auc": roc_auc_score(targets, bins)}
    if kind == "ByTime":
        outputs = outputs.reshape(targets.shape)
        chance = [float(1 - np.prod(1 / (1 + np.exp(row)))) for row in outputs]
        risk = [sum(each >= edge for edge in (0.01, 0.03, 0.08, 0.2, 0.35, 0.55, 0.75)) for each in chance]
        order, pairs = 0.0, 0
        for i in range(n):
            for j in range(n):
                if 1 in targets[i] and targets[j][list(targets[i]).index(1)] == 0:
                    order, pairs = order + (risk[j] < risk[i]) + 0.5 * (risk[j] == risk[i]), pairs + 1
        times = [int((row == 0).sum()) for row in targets]
        happened = [bool((row == 1).any()) for row in targets]
        calibration = (1 - survival(times, happened, targets.shape[1])[-1]) / float(np.mean(chance))
        found = {"patients": n, "events": sum(1 in row for row in targets), "c_index": order / pairs}
        return found | {"calibration": calibration}
    if name == "dose":
        error = dose_mg(outputs) - dose_mg(targets)
        size, within = np.minimum(np.abs(error), 50), np.abs(error) <= 0.2 * dose_mg(targets)
        found = {"within": within.mean(), "mean_absolute_error": size.mean()}
        return found | {"patients": n, "bias": np.clip(error, -50, 50).mean()}
    size = np.array([np.nanmean(np.abs(outputs[i] - targets[i])) for i in range(n)])
    return {"patients": n, "within": (size <= 1).mean(), "mean_absolute_error": np.minimum(size, 5).mean()}


@pytest.mark.parametrize("name", PEOPLE)
def test_measures_are_those_by_definition_in_every_group(name: str) -> None:
    plan, network, model = made(name)
    course, table = plan.course, people(name)
    rows = course.contribution(0, course.initial(), table)
    found = course.metrics(course.advance(0, course.initial(), rows.sum(axis=0)))
    outputs, targets, groups = judged(name, table, network, model)
    kind = type(course.judge).__name__
    names = course.parameters.names
    for at, group in enumerate(names):
        some = groups == (at if at < len(names) - 1 else -1)
        if some.sum() == 0:
            assert found[group]["patients"] == 0
        elif len({*map(str, targets[some])}) > 1:
            for measure, value in naive(kind, name, outputs[some], targets[some]).items():
                assert found[group][measure] == pytest.approx(value, abs=1e-5), (group, measure)
    expected = naive(kind, name, outputs, targets)
    assert {measure: found["all"][measure] for measure in expected} == pytest.approx(expected, abs=1e-5)
    assert set(found["all"]) == set(course.judge.measures) == set(RECIPES[course.name].measures)


@pytest.mark.parametrize("name", PEOPLE)
def test_those_who_trained_beside_those_held_out(name: str) -> None:
    """Measures are those of patients held out; the gap is the first measure of the others less theirs."""
    plan, table = made(name, evaluated="both")[0], people(name)
    apart = plan.course
    total = apart.contribution(0, apart.initial(), table).sum(axis=0)
    found = apart.metrics(apart.advance(0, apart.initial(), total))
    parts = []
    for held in (1, 0):
        course, some = made(name)[0].course, table.take(table.codes("held_out") == held)
        marked = Table(
            {**some.columns, "held_out": np.ones(some.n, np.int8)}, some.n, some.genotypes, "", some.matrices
        )
        rows = course.contribution(0, course.initial(), marked).sum(axis=0)
        parts.append(course.metrics(course.advance(0, course.initial(), rows)))
    main = apart.judge.measures[1]
    for group, row in found.items():
        gap = row.pop("gap", None)
        assert row.pop("trained") == pytest.approx(parts[1][group]["patients"])
        assert row == pytest.approx(parts[0][group])
        both = main in parts[0][group] and main in parts[1][group]
        assert gap == (pytest.approx(parts[1][group][main] - parts[0][group][main]) if both else None)
    assert apart.measures[-2:] == ("trained", "gap")
    assert not {"trained", "gap"} & {*made(name)[0].course.measures}
    assert plan.steps[0].fact == made(name, evaluated="both")[0].steps[0].fact


def test_a_network_that_knows_its_own_patients_has_a_gap_where_it_does() -> None:
    """Doses of one race are learned by heart: the sum says so of that race alone."""
    parameters, n = {"hidden": 1}, 2000
    table = random_table(n, 3)
    rng, columns = np.random.default_rng(5), cast("dict[str, Any]", table.columns)
    columns["race"] = rng.integers(2, size=n).astype(np.int8) * 2
    columns["held_out"] = rng.integers(2, size=n).astype(np.int8)
    known = (columns["race"] == 2) & (columns["held_out"] == 0)
    columns["weekly_dose_mg"] = np.where(known, 35.0, rng.uniform(20, 60, n))
    model = cast("Network", planned("dose-net", parameters, {"a": table}, "none").course).initial()
    data = wire.pack(weights_of(model))

    class Known:
        def read(self, digest: str) -> Any:
            return load(data)

    given = parameters | {"model": "0" * 64, "by": "race", "evaluated": "both"}
    course = planned("dose-net-evaluation", given, {"a": table}, "none", 0, cast("Published", Known())).course
    total = cast("Any", course).contribution(0, course.initial(), table).sum(axis=0)
    found = cast("Any", course).metrics({"cells": total.reshape(cast("Any", course).shape)})
    assert found[RACES[2]]["gap"] > 0.4
    assert abs(found[RACES[0]]["gap"]) < 0.1


def test_thirds_of_predicted_risk_have_kaplan_and_meier_s_curves() -> None:
    """Of 900 patients in two groups, against each third's own patients."""
    rng, intervals, n = np.random.default_rng(8), 5, 900
    bins, at, came = rng.integers(RISKS, size=n), rng.integers(intervals + 1, size=n), rng.random(n) < 0.5
    came &= at < intervals
    risk, group = rng.uniform([0, *EDGES], [*EDGES, 1], (n, RISKS))[np.arange(n), bins], rng.integers(2, size=n)
    counts, risks = np.zeros((2, RISKS, intervals + 1, 2)), np.zeros((2, RISKS))
    np.add.at(counts, (group, bins, at, came.astype(int)), 1)
    np.add.at(risks, (group, bins), risk)
    cells = np.concatenate([counts.reshape(2, -1), risks], axis=1)
    curves, points = thirds(cells, 0.0)
    order = np.cumsum(np.bincount(bins, minlength=RISKS)) - np.bincount(bins, minlength=RISKS) / 2
    for third, (name, curve) in enumerate(curves.items()):
        own = np.isin(bins, np.flatnonzero(np.floor(3 * order / n) == third))
        assert 200 < own.sum() < 400
        expected = survival(at[own].tolist(), came[own].tolist(), intervals)
        assert curve == pytest.approx(expected), name
        assert points[third]["observed"] == pytest.approx(1 - expected[-1])
        assert points[third]["predicted"] == pytest.approx(risk[own].mean())
        assert 0 < points[third]["error"] < 0.1
    assert list(curves) == [*THIRDS]
    assert thirds(cells, 100.0) == ({}, [])
    assert thirds(rng.normal(0, 100, cells.shape), 100.0) == ({}, [])
    for name, curve in thirds(cells + rng.normal(0, 2, cells.shape), 2.0)[0].items():
        assert curve == pytest.approx(curves[name], abs=0.15), name


@pytest.mark.parametrize("risk", [0.01, 0.05, 0.3])
def test_a_network_that_says_the_truth_is_calibrated_also_where_events_are_rare(risk: float) -> None:
    rng, n, intervals = np.random.default_rng(9), 40_000, 4
    hazard = 1 - (1 - risk * rng.uniform(0.5, 1.5, n)) ** (1 / intervals)
    came = rng.random((n, intervals)) < hazard[:, None]
    first = np.where(came.any(axis=1), came.argmax(axis=1), intervals)[:, None]
    targets = np.where(np.arange(intervals) < first, 0.0, np.where(np.arange(intervals) == first, 1.0, np.nan))
    outputs = np.repeat(np.log(hazard / (1 - hazard))[:, None], intervals, axis=1)
    of, judge = SimpleNamespace(ends_days=(1, 2, 3, 4)), ByTime()
    found = judge.measured(judge.rows(outputs, targets, of).sum(axis=0), of)
    assert found["calibration"] == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("name", ["adverse", "survival", "cnn", "dose"])
def test_noise_moves_no_gap(name: str) -> None:
    """Clipped counts pulled small groups towards a guess: gaps that were not there."""
    plan = made(name, evaluated="both")[0]
    course, table = plan.course, people(name, 400)
    total = 20 * course.contribution(0, course.initial(), table).sum(axis=0)
    true, rng = course.measured(total)["all"], np.random.default_rng(1)
    found = [course.measured(total + rng.normal(0, 2, total.size))["all"] for _ in range(300)]
    for measure in (course.judge.measures[1], "gap"):
        values = np.array([row[measure] for row in found if measure in row])
        assert len(values) > 280
        spread = values.std() / len(values) ** 0.5
        assert abs(np.median(values) - true[measure]) < 6 * spread + 0.01, measure


def test_a_gap_needs_patients_who_trained() -> None:
    """Where nobody trained, noise would otherwise be a gap with an unknown error."""
    rng, groups = np.random.default_rng(6), ("one", "two", "all")
    row = {"patients": 300.0, "accuracy": 0.8, "gap": 5.0}
    held = {name: row | {"trained": float(rng.normal(0, 3))} for name in groups}
    error = {name: {"patients": 3.0, "accuracy": 0.02, "trained": 3.0, "gap": 4.0} for name in groups}
    held["two"]["trained"] = 300.0
    found = left(held, error | {"all": {"patients": 3.0, "trained": 3.0}})
    assert [sorted(row) for row in found.values()] == [
        ["accuracy", "patients", "trained"], ["accuracy", "gap", "patients", "trained"], ["patients", "trained"],
    ]  # fmt: skip


def test_recall_and_precision_are_those_of_each_class() -> None:
    rng, classes = np.random.default_rng(2), 4
    truth, taken = rng.integers(3, size=400), rng.integers(3, size=400)  # nobody of the last class
    taken = np.where(rng.random(400) < 0.6, truth, taken)
    cells = np.zeros((2, classes**2 + 2))
    np.add.at(cells, (rng.integers(2, size=400), truth * classes + taken), 1)
    found = by_class(cells, classes, 0.5)
    for k, row in found.items():
        assert row["recall"][0] == pytest.approx(recall_score(truth == int(k), taken == int(k)))
        assert row["precision"][0] == pytest.approx(precision_score(truth == int(k), taken == int(k)))
        assert 0 < row["recall"][1] < 0.02
    assert set(found) == {"0", "1", "2"}
    never = cells.copy()
    never[:, 1:-2:classes] = 0  # the network takes nobody for class 1
    assert "precision" not in by_class(never, classes, 0.5)["1"]
    assert by_class(never, classes, 0.5)["1"]["recall"][0] == 0
    assert by_class(cells, classes, 500.0) == {}


@pytest.mark.parametrize("name", PEOPLE)
def test_a_row_is_a_patient_s_own_within_the_norm_and_nobody_else_s(name: str) -> None:
    course, table = made(name)[0].course, people(name)
    rows = course.contribution(0, course.initial(), table)
    some = np.array([31, 2, 17, 5])
    assert (course.contribution(0, course.initial(), table.take(some)) == rows[some]).all()
    norms = np.linalg.norm(rows, axis=1)
    assert norms.max() <= course.judge.norm <= course.steps[0].clip
    assert (norms[table.codes("held_out") != 1] == 0).all()
    assert 30 < (norms > 0).sum() <= (table.codes("held_out") == 1).sum()
    everybody = made(name, evaluated="all")[0].course
    assert (np.linalg.norm(everybody.contribution(0, everybody.initial(), table), axis=1) > 0).sum() > (norms > 0).sum()


@pytest.mark.parametrize("name", ["cnn", "adverse", "survival", "cells"])
def test_clipping_moves_no_row(name: str) -> None:
    plan = made(name, 3)[0]
    course, fact = plan.course, plan.steps[0].fact
    assert isinstance(fact, NoisedSum)
    assert 2.8 < plan.epsilon <= 3
    rows = course.contribution(0, course.initial(), people(name))
    integers = clipped_integers(rows, float(fact.clip), fact.scale)
    assert np.abs(integers - rows * fact.scale).max() <= 1


def test_a_private_evaluation_tells_a_good_network_from_one_that_fails_a_group() -> None:
    """Of 3,000 patients, with noise; the planted network is wrong about one race, and the floor says so."""
    rng = np.random.default_rng(1)
    parameters = {"hidden": 1}
    tables = {site: random_table(1000, seed) for seed, site in enumerate(("a", "b", "c"))}
    for each in tables.values():
        race = rng.integers(2, size=each.n).astype(np.int8) * 2
        cast("dict[str, Any]", each.columns)["race"] = race
        # White patients need what the network says, 35 mg; the others half of it.
        cast("dict[str, Any]", each.columns)["weekly_dose_mg"] = np.where(race == 0, rng.normal(35, 2, each.n), 17.0)
    model = cast("Network", planned("dose-net", parameters, tables, "none").course).initial()
    data = wire.pack(weights_of(model))

    class Known:
        def read(self, digest: str) -> Any:
            return load(data)

    given = parameters | {"model": "0" * 64, "by": "race", "evaluated": "all", "floor_milli": 800}
    plan = planned("dose-net-evaluation", given, tables, "distributed", 1, cast("Published", Known()))
    released = trained(plan, tables)
    course = cast("Evaluation", plan.course)
    found = course.metrics(released)
    assert found[RACES[0]]["within"] > 0.8 > found["all"]["within"] > found[RACES[2]]["within"]
    assert found[RACES[2]]["bias"] == pytest.approx(18, abs=9)
    step = plan.steps[0]
    spread = math.sqrt(step.share_variance * 3) / cast("NoisedSum", step.fact).scale
    error = errors(course.measured, released["cells"], spread, sampled=False)
    assert abs(found["all"]["patients"] - 3000) < 5 * error["all"]["patients"]


@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize("name", PEOPLE)
def test_that_nobody_is_judged_is_a_row_of_zeros_like_any_other(name: str, held: int) -> None:
    """A fault would tell the coordinator, for nothing, that the last such patient is gone."""
    plan, network, model = made(name)
    table = people(name)
    marked = Table({**table.columns, "held_out": np.full(N, held, np.int8)}, N, table.genotypes, "", table.matrices)
    rows = plan.course.contribution(0, plan.course.initial(), marked)
    assert rows.any() == bool(held)
    for none in (marked.take(np.array([], np.intp)), marked):
        network.fit_personal(model, none)
        assert plan.course.contribution(0, {}, none).shape == (none.n, rows.shape[1])
    assert plan.course.fit_personal({}, marked) == {}


@pytest.mark.parametrize("wrong", ["nothing", "shape", "nan", "name"])
def test_a_wrong_file_is_refused_before_anybody_is_charged(wrong: str) -> None:
    course, _, model = (made("cnn")[0].course, *made("cnn")[1:])
    first = next(iter(model))
    broken: dict[str, Model] = {
        "nothing": {}, "shape": model | {first: np.zeros(3)}, "nan": model | {first: model[first] * np.nan},
        "name": {**model, "another": np.zeros(2)},
    }  # fmt: skip

    class Known:
        def read(self, digest: str) -> Any:
            return broken[wrong]

    network = replace(course.network, published=cast("Published", Known()))
    with pytest.raises(GenopactError, match=r"PUBLISHED_INVALID|FRAME_INVALID"):
        Evaluation(network, course.judge, course.parameters, None).initial()


def test_errors_of_sums_are_those_of_the_noise() -> None:
    """Means of numbers between 0 and 1 are no counts: drawing them as such gave errors sixteen times too large."""
    plan, _, _ = made("dose", 1)
    course, fact = plan.course, plan.steps[0].fact
    rng, spread = np.random.default_rng(2), 30.0
    cells = np.zeros(course.shape)
    cells[0] = [900, 300, 200, 460]
    told = errors(course.measured, cells, spread, sampled=False)[RACES[0]]
    repeated = [course.measured(cells + rng.normal(0, spread, cells.shape))[RACES[0]] for _ in range(400)]
    for measure in ("patients", "within", "mean_absolute_error", "bias"):
        assert told[measure] == pytest.approx(np.std([each[measure] for each in repeated]), rel=0.25)
    assert fact.dims == cells.size


def test_networks_without_an_outcome_have_no_evaluation_and_the_others_do() -> None:
    without = {name for name in NETWORKS if f"{name}-evaluation" not in RECIPES}
    assert without == {"rare-variant-autoencoder", "synthetic-genomes"}
    assert {recipe for recipe, _ in PEOPLE.values()} == {*NETWORKS} - without - {"risk-net"}


def test_risk_is_evaluated_by_its_genotypes(tmp_path: Any) -> None:
    """Also of a table in which nobody is judged, and where everybody is held out."""
    network = risk_people.plan(tmp_path)
    published, table = network.published, risk_people.table(80, 5)
    digest = published.add(wire.pack(weights_of(network.initial())))
    given = network.parameters.model_dump(mode="json") | {"model": digest, "by": "group", "evaluated": "all"}
    course = planned("risk-net-evaluation", given, {"a": table}, "none", published=published).course
    rows = cast("Evaluation", course).contribution(0, {}, table)
    assert rows.sum() == np.isfinite(table.number("disease")).sum()
    assert not cast("Evaluation", course).contribution(0, {}, table.take(np.array([], np.intp))).any()
    held = Table({**table.columns, "held_out": np.ones(80, np.int8)}, 80, table.genotypes)
    assert network.fit_personal(network.initial(), held)["calibration"].tolist() == [0, 1]


def test_groups_are_a_column_s_levels_and_no_outcome_s() -> None:
    good = {"model": "0" * 64, "by": "race"}
    chosen(RecipeChoice(name="dose-net-evaluation", version=2, parameters=good))
    for change in ({"by": "class"}, {"by": "weekly_dose_mg"}, {"model": "no"}, {"floor_milli": 1001}, {"groups": 0}):
        with pytest.raises(GenopactError, match="STUDY_INVALID"):
            chosen(RecipeChoice(name="dose-net-evaluation", version=2, parameters=good | change))
    parameters = STUDIES["cnn"][1] | {"model": "0" * 64, "by": "class"}
    with pytest.raises(GenopactError, match="STUDY_INVALID"):
        chosen(RecipeChoice(name="sequence-cnn-evaluation", version=2, parameters=parameters))


def test_a_model_of_another_network_is_refused() -> None:
    course, other = made("adverse")[0].course, made("adverse, hidden")[0].course
    network = replace(other.network, published=course.network.published)
    with pytest.raises(GenopactError, match="FRAME_INVALID"):
        Evaluation(network, course.judge, course.parameters, None).contribution(0, {}, people("adverse"))


def test_what_is_asked_has_names_that_no_network_uses() -> None:
    asked = set(EvaluationParameters.model_fields) - set(NetParameters.model_fields) | {"levels", "names"}
    assert not any(
        asked & {*dir(network.parameters), *network.parameters.model_fields} for network in NETWORKS.values()
    )


def test_outcomes_are_read_on_the_network_s_own_scale() -> None:
    table = random_table(30, 2)
    assert dose_mg(outcome(table)) == pytest.approx(table.number("weekly_dose_mg"), nan_ok=True)
