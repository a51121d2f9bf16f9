"""Measured rows: replaced by id, judged by their bar, nothing of the machine's name."""

import json
import math
import platform
import re
from pathlib import Path

import pytest

from tests.benchmarks.record import FIELDS, RESULTS, load, machine, markdown, record, table, verdict


def note(path: Path, name: str, value: float, bar: str = "<= 120") -> None:
    record(name, value, "s", bar, "make demo | tee log", seeds=(1, 2), note="a note", path=path)


def test_a_row_is_replaced_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    note(path, "b", 100.0)
    note(path, "a", 5.0)
    note(path, "b", 130.0)
    rows = load(path)
    assert [(row["id"], row["value"]) for row in rows] == [("a", 5.0), ("b", 130.0)]
    assert tuple(rows[0]) == FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", rows[0]["date"])
    assert re.fullmatch(r"[0-9a-f]{40}\+?|unknown", rows[0]["commit"])


def test_the_table_says_what_is_short(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    note(path, "fast", 100.0)
    note(path, "slow", 130.0)
    note(path, "figure", 3.0, "")
    text = (tmp_path / "results.md").read_text("utf-8")
    assert text == table(load(path))
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert " met " in lines["fast"]
    assert " short " in lines["slow"]
    assert "for information" in lines["figure"]
    assert "make demo \\| tee log" in lines["slow"]
    assert "* **slow**: a note" in text


def test_a_table_in_a_note_stays_inside_its_item(tmp_path: Path) -> None:
    inner = markdown([{"sites": "4", "what | how": "a|b"}, {"sites": "16", "what | how": ""}])
    record("modes", 1, "", "", "make", seeds=(), note=f"two rows\n\n{inner}\n", path=tmp_path / "results.json")
    note(tmp_path / "results.json", "next", 1.0)
    assert """
* **modes**: two rows

  | sites | what \\| how |
  | --- | --- |
  | 4 | a\\|b |
  | 16 |  |
* **next**: a note
""" in (tmp_path / "results.md").read_text("utf-8")


def test_a_table_has_one_head() -> None:
    with pytest.raises(ValueError, match="same keys"):
        markdown([{"a": "1"}, {"b": "1"}])


@pytest.mark.parametrize(
    ("value", "bar", "expected"),
    [
        (1, "<= 1", "met"),
        (1, "< 1", "short"),
        (2, ">= 1.5", "met"),
        (1, "> 1", "short"),
        (0.5, "== 0.5", "met"),
        (1, "", ""),
    ],
)
def test_bars(value: float, bar: str, expected: str) -> None:
    assert verdict(value, bar) == expected


@pytest.mark.parametrize("bar", ["120", "<=120", "about 5", "<= x", "<= 1; rm"])
def test_another_form_of_bar_is_refused(tmp_path: Path, bar: str) -> None:
    with pytest.raises(ValueError, match="Expected a bar"):
        note(tmp_path / "results.json", "a", 1.0, bar)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_finite_values(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        note(tmp_path / "results.json", "a", value)


def test_a_row_with_other_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"id": "a", "value": 1}]))
    with pytest.raises(ValueError, match="fields"):
        load(path)


def test_the_machine_has_no_name() -> None:
    assert platform.node() not in machine() or not platform.node()
    assert re.match(r"\d+ cores, .+, \d+ GiB, \d+ ns a loop$", machine())


def test_the_rows_of_the_project_are_sound() -> None:
    for row in load(RESULTS):
        verdict(row["value"], row["bar"])
        assert row["command"]
        assert not re.search(r"/(work|tmp|root|home)/", json.dumps(row))
