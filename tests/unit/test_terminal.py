"""One way to answer, to fail and to log, for both command lines."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from typer.testing import CliRunner

from genopact_shared import terminal
from genopact_shared.errors import CATALOGUE, GenopactError
from genopact_shared.terminal import Answer, Exit


@dataclass(frozen=True)
class Finding:
    code: str
    row: int


class FoundError(GenopactError):
    findings = (Finding("CSV_EMPTY", 3), Finding("PERSON_TWICE", 9))


def app_of(function: Callable[..., Answer]) -> typer.Typer:
    app, group = typer.Typer(pretty_exceptions_enable=False), typer.Typer()
    terminal.command(group, "act", example="prog group act --count 2")(function)
    app.add_typer(group, name="group")
    return app


def good(count: int = 1, *, word: str = "x") -> Answer:
    """Do something."""
    terminal.human().print("under way")
    return Answer({"count": count, "word": word}, [f"did {count} [b]{word}[/b]"], "prog group more")


def raising(error: BaseException) -> Callable[[], Answer]:
    def act() -> Answer:
        raise error

    return act


def invoke(function: Callable[..., Answer], *arguments: str) -> Any:
    return CliRunner().invoke(app_of(function), ["group", "act", *arguments])


def test_people_read_text_on_stdout_and_the_next_command_last() -> None:
    result = invoke(good, "--count", "3", "--word", "hop")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["under way", "did 3 [b]hop[/b]", "Next: prog group more"]
    assert result.stderr == ""


def test_json_is_one_envelope_on_stdout_and_the_rest_on_stderr() -> None:
    result = invoke(good, "--format", "json")
    data = {"count": 1, "word": "x", "next": "prog group more"}
    assert json.loads(result.stdout) == {
        "schema": "genopact.cli/1", "command": "group act", "status": "ok", "data": data,
    }  # fmt: skip
    assert result.stdout.count("\n") == 1
    assert result.stderr.splitlines() == ["under way", "did 1 [b]x[/b]", "Next: prog group more"]


def test_an_answer_may_end_with_another_code() -> None:
    result = invoke(lambda: Answer({"outcome": "deny"}, exit=Exit.REFUSED), "--format", "json")
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (1, "ok")


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("POLICY_REFUSED", 1), ("SIGNATURE_INVALID", 1), ("COHORT_TOO_SMALL", 1), ("KEK_WRONG", 1), ("LOG_BROKEN", 1),
        ("STUDY_UNREADABLE", 2), ("STUDY_INVALID", 2), ("CONSENT_FILE_MISSING", 2), ("IMPORT_REFUSED", 2),
        ("SITE_MISSING", 2), ("KEY_EXISTS", 2), ("USAGE", 2), ("POLICY_EXAMPLE_FAILS", 2),
        ("STORE_LOCKED", 3), ("LEDGER_LOCKED", 3), ("LINK_UNREACHABLE", 3), ("AGENT_UNREACHABLE", 3),
        ("QUORUM_LOST", 3), ("INTERNAL", 4),
    ],
)  # fmt: skip
def test_exit_codes(code: str, wanted: int) -> None:
    assert invoke(raising(GenopactError(code))).exit_code == wanted


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_error_says_cause_remedy_and_page(code: str) -> None:
    error, fault = GenopactError(code, "this one"), CATALOGUE[code]
    plain = invoke(raising(error))
    assert plain.stdout == ""
    assert plain.stderr.splitlines() == [
        f"{code}: {fault.cause} (this one)", f"Remedy: {fault.remedy}", f"More: docs/errors/{code}.md",
    ]  # fmt: skip
    envelope = json.loads(invoke(raising(error), "--format", "json").stdout)
    assert envelope["status"] == "error"
    assert envelope["data"] == {
        "code": code, "cause": fault.cause, "remedy": fault.remedy, "detail": "this one",
        "docs": f"docs/errors/{code}.md",
    }  # fmt: skip


def test_findings_are_listed_one_by_one() -> None:
    result = invoke(raising(FoundError("IMPORT_REFUSED", "2 findings")), "--format", "json")
    assert json.loads(result.stdout)["data"]["findings"] == [
        {"code": "CSV_EMPTY", "row": 3},
        {"code": "PERSON_TWICE", "row": 9},
    ]
    assert all(word in result.stderr for word in ("CSV_EMPTY", "PERSON_TWICE"))


def test_an_unexpected_error_tells_its_type_alone_unless_asked() -> None:
    secret = "patient 4711 in /srv/data"
    result = invoke(raising(RuntimeError(secret)), "--format", "json")
    assert result.exit_code == Exit.INTERNAL
    assert json.loads(result.stdout)["data"]["code"] == "INTERNAL"
    assert "4711" not in result.output
    assert "--debug" in result.stderr
    assert "4711" in invoke(raising(RuntimeError(secret)), "--debug").stderr


def test_help_shows_the_example_and_the_common_options() -> None:
    shown = re.sub(r"\s+", " ", invoke(good, "--help").stdout)
    assert "Example: prog group act --count 2" in shown
    assert all(word in shown for word in ("--format", "--debug", "--word"))


@pytest.mark.parametrize("arguments", [["--format", "json"], ["--format=json"]])
def test_a_usage_error_is_an_envelope_too(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", "group", "act", "--nonsense", *arguments])
    with pytest.raises(SystemExit) as ended:
        terminal.main(app_of(good), "prog")
    assert ended.value.code == Exit.USAGE
    envelope = json.loads(capsys.readouterr().out)
    assert (envelope["data"]["code"], envelope["status"]) == ("USAGE", "error")
    assert "--nonsense" in envelope["data"]["detail"]


def test_a_usage_error_for_people_is_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", "group", "act", "--nonsense"])
    with pytest.raises(SystemExit) as ended:
        terminal.main(app_of(good), "prog")
    out = capsys.readouterr()
    assert (ended.value.code, out.out) == (2, "")
    assert "--nonsense" in out.err


def test_a_no_is_an_envelope_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", "group", "act", "--format", "json"])
    with pytest.raises(SystemExit) as ended:
        terminal.main(app_of(raising(typer.Abort())), "prog")
    assert (ended.value.code, json.loads(capsys.readouterr().out)["data"]["detail"]) == (2, "nobody agreed")


def test_main_ends_with_the_answers_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--format", "json"]):
        monkeypatch.setattr(sys, "argv", ["prog", "group", "act", *arguments])
        with pytest.raises(SystemExit) as ended:
            terminal.main(app_of(raising(GenopactError("STORE_LOCKED"))), "prog")
        assert ended.value.code == Exit.UNAVAILABLE
    assert json.loads(capsys.readouterr().out)["data"]["code"] == "STORE_LOCKED"


@pytest.fixture
def logging(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], dict[str, Any]]]:
    terminal.configure_logging()

    def last() -> dict[str, Any]:
        line: dict[str, Any] = json.loads(capsys.readouterr().err.splitlines()[-1])
        return line

    yield last
    structlog.reset_defaults()


def test_a_log_line_has_allowed_keys_alone(logging: Callable[[], dict[str, Any]]) -> None:
    structlog.get_logger().warning(
        "refused", code="STORE_LOCKED", round=3, seconds=0.5, site="site-a", person="4711", path="/srv", error="no"
    )
    line = logging()
    assert set(line) <= set(terminal.LOGGED)
    assert {key: line[key] for key in ("event", "level", "code", "round", "seconds", "site")} == {
        "event": "refused", "level": "warning", "code": "STORE_LOCKED", "round": 3, "seconds": 0.5, "site": "site-a",
    }  # fmt: skip


@pytest.mark.parametrize("event", ["patient 4711", "4711", "/srv/site", "x" * 65, "Name", ""])
def test_an_event_that_is_no_fixed_word_is_not_repeated(event: str, logging: Callable[[], dict[str, Any]]) -> None:
    structlog.get_logger().error(event)
    assert logging()["event"] == "unnamed"


@pytest.mark.parametrize("value", ["/srv/site", "a b", {"mrn": "4711"}, ["4711"], Path("x"), "y" * 65])
def test_values_of_allowed_keys_are_plain_words(value: Any, logging: Callable[[], dict[str, Any]]) -> None:
    structlog.get_logger().error("failed", code=value)
    assert "code" not in logging()


def test_an_exception_with_its_text_is_not_logged(logging: Callable[[], dict[str, Any]]) -> None:
    try:
        raise ValueError("patient 4711")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "4711" not in json.dumps(logging())


def test_every_event_of_the_product_survives_the_filter() -> None:
    root = Path(terminal.__file__).parents[2]
    calls = [
        match
        for path in root.glob("*/genopact_*/**/*.py")
        for match in re.findall(r'_log\.\w+\(\s*"([^"]*)"', path.read_text("utf-8"))
    ]
    assert calls
    assert all(terminal.only_allowed(None, "info", {"event": event})["event"] == event for event in calls)
