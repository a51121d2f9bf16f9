"""What moves a network: completeness, planted motifs, `genopact model explain` and `export` with good and bad input."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from genopact_server.cli import app
from genopact_server.commands import model as commands
from genopact_server.report.attribution import contributions, mutations
from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.dose_features import RACES
from genopact_shared.recipes.network import NetPlan, columns
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Floats, Table
from tests.benchmarks.federation import planned, trained, with_matrices
from tests.unit.test_deep_recipes import LENGTH, SEQUENCE, course, table

MOTIF, AT = (0, 2, 0, 2, 0, 2), 7


@pytest.fixture(scope="module")
def learnt() -> tuple[NetPlan, Model, Any]:
    """A network that has learnt a motif at one place, and sequences that have it or not."""
    rng, n = np.random.default_rng(4), 240
    letters, carries = rng.integers(4, size=(n, LENGTH)), rng.integers(2, size=n).astype(np.int8)
    letters[np.ix_(np.flatnonzero(carries), np.arange(AT, AT + 6))] = MOTIF
    seen = with_matrices(n, {"class": carries}, {"letters": letters})
    settings = SEQUENCE | {"optimiser": "adam", "server_rate_milli": 50, "learning_rate_milli": 100, "rounds": 20}
    plan = planned("sequence-cnn", settings, {"a": seen}, "none")
    return cast("NetPlan", plan.course), trained(plan, {"a": seen}), seen


def awake(plan: NetPlan) -> Model:
    rng = np.random.default_rng(5)
    return {name: values + rng.normal(0, 0.3, values.shape) for name, values in plan.initial().items()}


@pytest.mark.parametrize("name", ["cnn", "rnn", "transformer", "late", "attention", "survival, hidden", "cells"])
def test_contributions_add_up_to_what_all_features_change_together(name: str) -> None:
    plan, people = cast("NetPlan", course(name)), table(name, 5)
    model = awake(plan)
    inputs = plan.recipe.tensors(people, plan.parameters, plan.published)[0].double()
    module = plan.module(model).double()
    with torch.no_grad():
        moved = columns((module(inputs) - module(inputs * 0)).numpy())
    for output in range(moved.shape[1]):
        rows = contributions(plan, model, people, output)
        assert rows.shape == (5, *inputs.shape[1:2])
        assert np.allclose(rows.sum(axis=1), moved[:, output], atol=2e-2)


def test_a_planted_motif_is_what_moves_the_network(learnt: tuple[NetPlan, Model, Any]) -> None:
    plan, model, seen = learnt
    own = np.arange(LENGTH)[AT : AT + 6]
    carriers = seen.take(seen.codes("class") == 1)
    sizes = np.abs(contributions(plan, model, carriers, 1)).mean(axis=0)
    assert set(np.argsort(-sizes)[:5].tolist()) <= set(own.tolist())
    found = mutations(plan, model, seen)[1]
    for letter, place in zip(MOTIF, own, strict=True):
        others = [each for each in range(4) if each != letter]
        assert found[place, others].max() < 0
        assert found[place, others].mean() < 5 * min(0.0, found[: AT - 3].mean())


def test_mutations_are_those_of_one_sequence_and_letter_after_another() -> None:
    plan, people = cast("NetPlan", course("cnn")), table("cnn", 6)
    model, letters = awake(plan), people.matrices["letters"]

    def output(rows: Floats) -> Floats:
        return plan.outputs(model, with_matrices(len(rows), {}, {"letters": rows}))

    before, found = output(letters.astype(np.float64)), mutations(plan, model, people)
    for k in range(2):
        own = [row for row in range(6) if before[row].argmax() == k]
        for place in (0, 9, LENGTH - 1):
            for letter in range(4):
                moved = []
                for row in own:
                    changed = letters[row : row + 1].astype(np.float64)
                    changed[0, place] = letter
                    moved.append(output(changed)[0, k] - before[row, k])
                assert found[k, place, letter] == pytest.approx(
                    np.mean(moved) if own else np.nan, abs=1e-5, nan_ok=True
                )


# --- commands


def told(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--format", "json"])
    return cast("dict[str, Any]", json.loads(done.stdout))


def fasta(path: Path, letters: Floats) -> Path:
    path.write_text(
        "".join(f">{row}\n{''.join('ACGTN'[int(at)] for at in each)}\n" for row, each in enumerate(letters))
    )
    return path


@pytest.fixture
def finished(learnt: tuple[NetPlan, Model, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(commands, "network_of", lambda *_: (*learnt[:2], tmp_path / "model-1.safetensors"))
    return learnt[2]


def test_explain_writes_tables_and_pictures(finished: Any, tmp_path: Path) -> None:
    people = fasta(tmp_path / "public.fa", finished.matrices["letters"][:30])
    data = told("model", "explain", "run", "--matrix", f"letters={people}", "--out", tmp_path / "motif")["data"]
    assert data["people"] == 30
    assert {int(place) for place in list(data["most"])[:4]} <= set(range(AT + 1, AT + 7))
    rows = [line.split("\t") for line in (tmp_path / "motif-letters.tsv").read_text().splitlines()]
    assert rows[0] == ["class", "place", "A", "C", "G", "T"]
    assert len(rows) == 1 + 2 * LENGTH
    features = (tmp_path / "motif-features.tsv").read_text().splitlines()
    assert len(features) == 1 + 2 * LENGTH
    for picture in ("features", "letters"):
        assert (tmp_path / f"motif-{picture}.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (">a\nACGT\n", "MATRIX_FEATURES"),
        ("person\ta\tb\nx\t1\t2\n", "MATRIX_FEATURES"),
        ("person\t" + "\t".join(map(str, range(LENGTH))) + "\nx" + "\tno" * LENGTH + "\n", "MATRIX_FEATURES"),
        ("person\t" + "\t".join(map(str, range(LENGTH))) + "\n", "MATRIX_FEATURES"),
        ("person\t" + "\t".join(map(str, range(LENGTH))) + "\nx\t1\n", "MATRIX_FEATURES"),
        ("", "MATRIX_FEATURES"),
        (None, "MATRIX_MISSING"),
    ],
)
def test_files_that_do_not_fit_are_refused(finished: Any, tmp_path: Path, text: str | None, code: str) -> None:
    path = tmp_path / "public.tsv"
    if text is not None:
        path.write_text(text)
    answer = told("model", "explain", "run", "--matrix", f"letters={path}", "--out", tmp_path / "x")
    assert answer["data"]["code"] == code
    assert not [*tmp_path.glob("x*")]


def test_another_matrix_is_refused(finished: Any, tmp_path: Path) -> None:
    answer = told("model", "explain", "run", "--matrix", "rna=public.tsv", "--out", tmp_path / "x")
    assert answer["data"]["code"] == "USAGE"


def losses(plan: NetPlan, model: Model, people: Table) -> Floats:
    return plan.losses(model, *plan.recipe.tensors(people, plan.parameters, plan.published))


def classes(path: Path, seen: Any, rows: list[int], extra: str = "") -> Path:
    text = "".join(f"{row}\t{seen.columns['class'][row]}\tx\n" for row in rows)
    path.write_text("person\tclass\tweather\n" + text + extra)
    return path


def test_the_curve_is_each_round_s_fit_to_the_public(
    learnt: tuple[NetPlan, Model, Any], finished: Any, tmp_path: Path
) -> None:
    plan, last, seen = learnt
    for number, model in enumerate((plan.initial(), awake(plan), last)):
        (tmp_path / f"model-{number:04d}.safetensors").write_bytes(wire.pack(model))
    people = fasta(tmp_path / "public.fa", seen.matrices["letters"][:60])
    # In another order, with people of whom one file knows nothing.
    table_ = classes(tmp_path / "classes.tsv", seen, [*range(49, -1, -1)], "nobody\t1\tx\n59\t\tx\n")
    data = told("model", "curve", "run", "--matrix", f"letters={people}", "--table", table_)["data"]
    assert data["people"] == 50
    own = seen.take(np.arange(50))
    expected = [losses(plan, model, own).mean() for model in (plan.initial(), awake(plan), last)]
    assert data["rounds"]["loss"] == pytest.approx(expected)
    right = (plan.outputs(last, own).argmax(axis=1) == own.codes("class")).mean()
    assert data["rounds"]["accuracy"][-1] == pytest.approx(right)
    assert expected[-1] < expected[0]
    assert json.loads((tmp_path / "learned.json").read_text()) == data


@pytest.mark.parametrize("text", ["person\tclass\n0\tten\n", "person\tclass\n0\n", "person\tclass\nx\t1\n", "", None])
def test_outcomes_that_do_not_fit_are_refused(finished: Any, tmp_path: Path, text: str | None) -> None:
    people, path = fasta(tmp_path / "public.fa", finished.matrices["letters"][:3]), tmp_path / "classes.tsv"
    if text is not None:
        path.write_text(text)
    answer = told("model", "curve", "run", "--matrix", f"letters={people}", "--table", path)
    assert answer["data"]["code"] == "USAGE"
    assert not [*tmp_path.glob("*.json")]


def test_curves_of_recipes_of_columns_and_of_outcomes_in_matrices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = cast("NetPlan", course("adverse"))
    monkeypatch.setattr(commands, "network_of", lambda *_: (plan, plan.initial(), tmp_path / "model-1.safetensors"))
    (tmp_path / "model-0000.safetensors").write_bytes(wire.pack(plan.initial()))
    (tmp_path / "people.tsv").write_text("person\tweekly_dose_mg\trace\nx\t20\tAsian\ny\t60\t\nz\t\t\n")
    found = told("model", "curve", "run", "--table", tmp_path / "people.tsv")["data"]
    assert found["people"] == 2
    columns = {"weekly_dose_mg": np.array([20.0, 60.0]), "race": np.array([RACES.index("Asian"), -1], np.int8)}
    expected = losses(plan, plan.initial(), Table(columns, 2)).mean()
    assert found["rounds"]["loss"] == [pytest.approx(expected)]
    cells = cast("NetPlan", course("cells"))
    monkeypatch.setattr(commands, "network_of", lambda *_: (cells, cells.initial(), tmp_path / "model-1.safetensors"))
    assert told("model", "curve", "run")["data"]["code"] == "USAGE"
    (tmp_path / "model-0000.safetensors").write_bytes(wire.pack(cells.initial()))
    given = []
    for at, (name, names) in enumerate({"genome": "abcd", "response": "xyz"}.items()):
        rows = [f"{person}" + f"\t{at + row}" * len(names) for row, person in enumerate("pqr")]
        (tmp_path / name).write_text("\n".join(["\t".join(["person", *names]), *rows, ""]))
        given += ["--matrix", f"{name}={tmp_path / name}"]
    found = told("model", "curve", "run", *given)["data"]
    assert found["people"] == 3
    assert found["rounds"]["within"] == [pytest.approx(1 / 3)]  # it says 0 of 1, 2 and 3


def test_matrices_are_joined_by_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whom one file lacks has nothing there; whoever has two rows is refused."""
    plan = cast("NetPlan", course("late"))
    monkeypatch.setattr(commands, "network_of", lambda *_: (plan, awake(plan), tmp_path / "model-1.safetensors"))
    rows = {"rna": {"a": 1.0, "b": 2.0}, "protein": {"c": 3.0, "b": 4.0}}
    given = []
    for name, held in rows.items():
        lines = [f"{person}" + f"\t{value}" * 5 for person, value in held.items()]
        (tmp_path / name).write_text("\n".join(["person\ta\tb\tc\td\te", *lines, ""]))
        given.append(f"{name}={tmp_path / name}")
    people, found, _ = commands._measured(plan, given)
    assert people == ["a", "b", "c"]
    assert found.matrices["rna"][:, 0].tolist() == [1.0, 2.0, pytest.approx(np.nan, nan_ok=True)]
    assert found.matrices["protein"][:, 0].tolist() == [pytest.approx(np.nan, nan_ok=True), 4.0, 3.0]
    (tmp_path / "rna").write_text((tmp_path / "rna").read_text() + "a" + "\t1" * 5 + "\n")
    with pytest.raises(GenopactError, match="somebody has two rows"):
        commands._measured(plan, given)


@pytest.mark.parametrize("name", ["cnn", "rnn", "transformer", "late", "attention", "survival, hidden", "cells"])
def test_an_exported_network_gives_the_same_outputs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    plan, path = cast("NetPlan", course(name)), tmp_path / "network.onnx"
    model = awake(plan)
    monkeypatch.setattr(commands, "network_of", lambda *_: (plan, model, tmp_path))
    told("model", "export", "run", "--out", path)
    session, people = onnxruntime.InferenceSession(str(path)), table(name, 6)
    inputs = plan.recipe.tensors(people, plan.parameters, plan.published)[0].numpy()
    for row, expected in zip(inputs, columns(plan.outputs(model, people)), strict=True):
        found = np.ravel(cast("Floats", session.run(None, {"person": row[None]})[0]))
        assert np.allclose(found, expected, atol=1e-4)


def test_an_export_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = cast("NetPlan", course("cnn"))
    monkeypatch.setattr(commands, "network_of", lambda *_: (plan, awake(plan), tmp_path))
    monkeypatch.setattr(commands, "TOLERANCE", -1.0)
    answer = told("model", "export", "run", "--out", tmp_path / "network.onnx")
    assert answer["data"]["code"] == "ONNX_DIFFERS"
    assert not (tmp_path / "network.onnx").exists()
