"""What the report of an evaluation shows: pictures by the kind of judge, gaps, the learning curve, what letters do."""

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from genopact_server.report.facts import RunFacts
from genopact_server.report.plots import draw
from genopact_server.report.report import render
from genopact_server.rounds import RunState
from genopact_shared.study import RecipeChoice
from tests.unit.test_evaluation import made, people
from tests.unit.test_plan import study

MARKS = {
    "ROC: dashed, a guess": {"adverse"}, "Precision and recall": {"adverse"}, "Kaplan and Meier": {"survival"},
    "those whom the network takes for it": {"cnn"}, "Calibration</h3>": {"adverse", "survival"},
}  # fmt: skip


def facts(name: str, weight: int, **more: Any) -> RunFacts:
    """A run that has released what `weight` times so many patients add up to, without noise."""
    plan, _, _ = made(name, evaluated="both")
    course, of = plan.course, study(privacy={"mode": "none", "honest_minimum": 1, "delta": "0.000001"})
    choice = RecipeChoice(name=course.name, version=1, parameters=course.parameters.model_dump(mode="json"))
    of = of.model_copy(update={"recipe": choice})
    model = course.advance(0, {}, weight * course.contribution(0, course.initial(), people(name)).sum(axis=0))
    state = RunState(study=of.hash, run="1" * 32, approvals={"state": "x"}, model="0" * 64, stage="done", round=1)
    given: dict[str, Any] = {"explained": {}, "learned": {}} | more
    return RunFacts(of, state, (), (), plan, (model,), MappingProxyType({}), "", None, **given)


@pytest.mark.parametrize("name", ["adverse", "survival", "cnn", "dose"])
def test_each_judge_has_its_pictures(name: str) -> None:
    page = render(facts(name, 20), {})
    assert {mark for mark in MARKS if mark in page} == {mark for mark, of in MARKS.items() if name in of}
    assert page.count("<svg") >= 1
    assert ">gap</th>" in page
    assert "less that of those held out" in page


@pytest.mark.parametrize("apart", [0.0, 1e-6, 0.01, 10.0])
@pytest.mark.parametrize("level", [0.0, 0.33, -5.0])
def test_lines_that_lie_close_leave_room_for_their_names(apart: float, level: float) -> None:
    """Names stand beside the ends, as far from each other as the picture, not the values, is high."""
    lines = {f"hospital-{at}": [level, level + at * apart] for at in range(6)}
    assert draw("trajectories", "Shares", (6.4, 2.6), values=lines, unit="share", first=1).startswith("<svg")


def test_nothing_is_drawn_of_nobody() -> None:
    page = render(facts("adverse", 0), {})
    assert "<svg" not in page
    assert "No metrics have been released yet" in page


def test_the_curve_and_the_letters_are_drawn() -> None:
    rounds = {"loss": [0.7, 0.4, 0.2], "accuracy": [0.5, None, 0.9]}
    letters = np.zeros((2, 6, 4))
    letters[0] = np.nan
    page = render(
        facts(
            "cnn",
            0,
            learned={"people": 40, "rounds": rounds},
            explained={"most": {"1": 0.5}, "letters": letters.tolist()},
        ),
        {},
    )
    assert "of 40 public people" in page
    assert "Mutagenesis in silico" in page
    assert page.count("<svg") == 3
