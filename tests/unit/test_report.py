"""The report of a real small run: everything is in it, nothing is loaded by it, hostile input stays text."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from genopact_server.audit.findings import LIMITS
from genopact_server.report import write_report
from genopact_server.report.facts import RunFacts, read
from genopact_server.report.plots import VARIABLES, draw
from genopact_server.report.report import number
from genopact_server.rounds import Run
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.accounting import epsilon
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.study import Study
from tests.integration.hospital import consortium

HOSTILE = '"><script>alert(1)</script><img src=https://evil.example/x onerror=y> $\\frac{'
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    privacy = {"mode": "distributed", "epsilon_milli": 3000, "delta": "0.000001", "honest_minimum": 2}
    one = consortium(tmp_path_factory.mktemp("report"), privacy=privacy, title=f"Dose {HOSTILE}"[:200])
    run = Run.start(one.folder, one.study, one.courier)
    run.go()
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "rou')
    state = json.loads((run.path / "state.json").read_text())
    (run.path / "state.json").write_text(json.dumps(state | {"asked": [0, 1, 1, 2, 3, 4]}))
    one.close()
    return run.path, one.study


@pytest.fixture(scope="module")
def facts(finished: tuple[Path, Study]) -> RunFacts:
    return read(*finished)


def page(finished: tuple[Path, Study], out: Path, extra: dict[str, Any] | None = None) -> str:
    write_report(*finished, out, extra)
    return out.read_text("utf-8")


def test_everything_is_in_it(finished: tuple[Path, Study], facts: RunFacts, tmp_path: Path) -> None:
    _, study = finished
    extra = {
        "comparison": [
            {"hospital": "site-a", "patients": 120, "fixed": 12.4, "alone": 9.127, "federated": 8.251, "pooled": 8.013},
            {"hospital": "site-x", "patients": 90, "fixed": 12.5, "alone": 9.9, "federated": None, "pooled": 8.1},
        ],
        "comparison_unit": "mg/week",
        "calibration": [{"predicted": 20.0, "observed": 21.5, "error": 1.0}, {"predicted": 40.0, "observed": 38.0}],
        "findings": [{"check": "receipts", "verdict": "ok", "party": "site-b", "what": "every intent has one"}],
        "verdict": "ok",
        "checkpoints": {"site-a": "genopact/site-a\n9\n"},
        "attacks": [{"name": "membership", "result": 0.51, "guessing": 0.5}],
        "notes": ["Generated patients."],
    }
    text = Page(page(finished, tmp_path / "report.html", extra)).text
    expected = [study.hash, facts.state.run, facts.state.model, study.privacy.delta, *LIMITS, "Not a medical device"]
    expected += [step.fact.noise_multiplier for step in facts.plan.steps if isinstance(step.fact, NoisedSum)]
    expected += [f"{values[-1]:.6f}" for values in facts.coefficients.values()] + list(facts.coefficients)
    expected += [
        "9.13",
        "8.25",
        "8.01",
        "site-x",
        "12.4",
        "every intent has one",
        "genopact/site-a",
        "0.51",
        "Generated patients.",
    ]
    expected += ["Relatives", "k hospitals composes k times", "add or remove one patient", "honest", *facts.metrics]
    expected += [number(math.ceil(1000 * facts.spent[-1]) / 1000, 4), facts.checkpoint]
    for value in expected:
        assert value in text, value


def test_nothing_is_loaded_and_nothing_runs(finished: tuple[Path, Study], tmp_path: Path) -> None:
    hostile = {
        "comparison": [{"hospital": HOSTILE, "alone": 9.0, "federated": 8.0}],
        "comparison_unit": HOSTILE,
        "findings": [{"check": HOSTILE, "verdict": HOSTILE, "party": HOSTILE, "what": HOSTILE}],
        "verdict": HOSTILE,
        "notes": [HOSTILE],
        "checkpoints": {HOSTILE: HOSTILE},
        "calibration": [{"predicted": 1.0, "observed": 2.0}],
        "calibration_unit": HOSTILE,
        "attacks": [{"name": HOSTILE, "result": HOSTILE, "guessing": 0.5}],
    }
    text = page(finished, tmp_path / "report.html", hostile)
    parsed = Page(text)
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form", "audio", "video"} & set(
        parsed.tags
    )
    for tag, name, value in parsed.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}:
            assert value.startswith("#"), (tag, name, value)
        if name == "style":
            assert "url(http" not in value
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    policy = [value for _, name, value in parsed.attributes if name == "content" and "default-src" in value]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    assert HOSTILE in parsed.text


def test_a_voided_attempt_is_counted_as_spent(facts: RunFacts) -> None:
    steps = [step.fact for step in facts.plan.steps]
    assert facts.attempts == [1, 2, 1, 1, 1]
    assert facts.spent[-1] == pytest.approx(epsilon([*steps, steps[1]], facts.study.privacy.delta), rel=2e-3)
    assert facts.spent[-1] > facts.plan.epsilon
    assert facts.spent == sorted(facts.spent)
    assert facts.spent_now == facts.spent[-1]


def test_noise_is_that_of_every_planned_site(facts: RunFacts) -> None:
    step = facts.plan.steps[0]
    assert isinstance(step.fact, NoisedSum)
    stated = float(step.fact.noise_multiplier) * float(step.fact.clip)
    assert facts.noise(step) == pytest.approx(stated * math.sqrt(3 / 2))


def test_a_report_of_an_unfinished_run(finished: tuple[Path, Study], tmp_path: Path) -> None:
    path, study = finished
    copy = tmp_path / "runs" / "copy"
    copy.mkdir(parents=True)
    for file in ("state.json", "model-0000.safetensors", "model-0001.safetensors"):
        (copy / file).write_bytes((path / file).read_bytes())
    state = json.loads((copy / "state.json").read_text()) | {"round": 1, "stage": "training", "asked": [0]}
    (copy / "state.json").write_text(json.dumps(state))
    text = page((copy, study), tmp_path / "report.html")
    assert "run in progress" in text
    facts = read(copy, study)
    assert len(facts.models) == 2
    assert facts.spent_now == facts.spent[0] < facts.spent[-1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"privacy": {"mode": "none", "honest_minimum": 1}}, ["No noise was added", "unbounded", "moments"]),
        (
            {
                "privacy": {"mode": "local", "epsilon_milli": 4000, "honest_minimum": 1},
                "recipe": {"name": "dose-net", "version": 1, "parameters": {"rounds": 2, "hidden": 4}},
            },
            ["Each site adds all the noise itself", "round-2 (4 steps, rate 0.5)", "No metrics have been released"],
        ),
    ],
)
def test_other_modes(tmp_path: Path, changes: dict[str, Any], expected: list[str]) -> None:
    one = consortium(tmp_path, sites=2, **changes)
    run = Run.start(one.folder, one.study, one.courier)
    run.go()
    one.close()
    text = Page(page((run.path, one.study), tmp_path / "report.html")).text
    for value in [*expected, one.study.hash]:
        assert value in text, value


def test_another_study_or_no_run_is_refused(finished: tuple[Path, Study], tmp_path: Path) -> None:
    path, study = finished
    other = Study.model_validate_json(json.dumps(json.loads(study.canonical) | {"title": "another"}))
    with pytest.raises(GenopactError, match="RUN_STATE_BROKEN"):
        write_report(path, other, tmp_path / "report.html")
    with pytest.raises(GenopactError, match="RUN_UNKNOWN"):
        write_report(tmp_path, study, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_plots_follow_the_page_and_repeat() -> None:
    one, two = (draw("coefficients", "a", (4, 2), values={"x": 0.5, "<b>": -0.2}) for _ in range(2))
    assert one == two
    assert not any(colour in one for colour in VARIABLES)
    assert "var(--accent)" in one
    assert "<metadata" not in one
    assert "<b>" not in one


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (1200, "1\u202f200"), (0.12345, "0.123"), (math.inf, "unbounded"), (math.nan, "unknown"), (2.0, "2")],
)
def test_numbers_are_for_people(value: float, text: str) -> None:
    assert number(value) == text
