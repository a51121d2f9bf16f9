"""What was measured: `docs/results.json`, one row an id, and the table that is made of it.

from tests.benchmarks.record import record
record("demo-seconds", 74.2, "s", "<= 120", "make demo", seeds=(), note="nine processes")
"""

import datetime as dt
import json
import math
import operator
import os
import platform
import re
import subprocess
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genopact_shared import durable

ROOT = Path(__file__).parents[2]
RESULTS, TABLE = ROOT / "docs/results.json", ROOT / "docs/results.md"
FIELDS = ("id", "value", "unit", "bar", "command", "seeds", "machine", "date", "commit", "note")
COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}
_BAR = re.compile(r"(<=|>=|<|>|==) (-?[0-9.]+)")
HEAD = """# Results

Each row names the command that measures it, its seeds, the machine and the commit. A bar that is not reached stands
here as short. `tests/benchmarks/record.py` writes this page from `results.json`.

"""


def record(
    id: str,  # noqa: A002 - the column's name
    value: float,
    unit: str,
    bar: str,
    command: str,
    *,
    seeds: Sequence[int],
    note: str,
    path: Path = RESULTS,
) -> dict[str, Any]:
    """Insert or replace the row `id`, write the table beside `path`, and return the row.

    `bar` is a comparison with a number, such as "<= 120", or empty for a figure without one.

    Raises:
        ValueError: a bar of another form, or a value that is not finite.
    """
    verdict(value, bar)
    row = {
        "id": id, "value": value, "unit": unit, "bar": bar, "command": command, "seeds": list(seeds),
        "machine": machine(), "date": dt.datetime.now(dt.UTC).date().isoformat(), "commit": commit(), "note": note,
    }  # fmt: skip
    rows = {old["id"]: old for old in load(path)} | {id: row}
    text = json.dumps([rows[name] for name in sorted(rows)], indent=1, ensure_ascii=False, allow_nan=False)
    durable.replace(path, (text + "\n").encode())
    durable.replace(path.with_suffix(".md"), table(load(path)).encode())
    return row


def load(path: Path = RESULTS) -> list[dict[str, Any]]:
    """All rows; ValueError for a row with other fields."""
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
    for row in rows:
        if set(row) != set(FIELDS):
            raise ValueError(f"Expected the fields {', '.join(FIELDS)} in {row.get('id')}")
    return rows


def verdict(value: float, bar: str) -> str:
    """met, short, or empty without a bar."""
    if not math.isfinite(value):
        raise ValueError(f"Expected a finite value, got {value}")
    if not bar:
        return ""
    form = _BAR.fullmatch(bar)
    if form is None:
        raise ValueError(f"Expected a bar such as '<= 120', got {bar!r}")
    return "met" if COMPARE[form[1]](value, float(form[2])) else "short"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """results.md."""
    lines = [
        HEAD + "| what | value | bar | verdict | command | seeds | commit | date |",
        "|---|--:|--:|---|---|---|---|---|",
    ]
    for row in rows:
        value = f"{row['value']:.6g} {row['unit']}".strip()
        seeds = _seeds(row["seeds"])
        cells = (row["id"], value, row["bar"] or "none", verdict(row["value"], row["bar"]) or "for information",
                 f"`{row['command']}`", seeds, row["commit"][:12], row["date"])  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    # Indented, a table in a note stays inside its item.
    notes = [textwrap.indent(f"* **{row['id']}**: {row['note']}", "  ").strip() for row in rows if row["note"]]
    machines = sorted({row["machine"] for row in rows})
    lines += (
        ["", *notes, "", *[f"Machine: {each}." for each in machines]]
        if rows
        else ["", "Nothing has been recorded yet."]
    )
    return "\n".join(lines).rstrip() + "\n"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table for a note: the first row's keys, then a line a row. ValueError if a row has other keys."""
    if any(list(row) != list(rows[0]) for row in rows):
        raise ValueError("Expected rows with the same keys")
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or "none"


def step_ns() -> float:
    """Nanoseconds a step of an empty loop takes, the best of five: virtual machines differ from day to day."""
    best = math.inf
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(1_000_000):
            pass
        best = min(best, time.perf_counter() - begun)
    return best * 1000


def machine() -> str:
    """Cores, processor, memory, and how fast it is at the moment; no host name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text("utf-8"), re.MULTILINE) if info.exists() else []
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    name = names[0] if names else platform.machine()
    return f"{os.cpu_count()} cores, {name}, {memory:.0f} GiB, {step_ns():.0f} ns a loop"


def commit() -> str:
    """The newest commit that changed more than docs, `+` if such files differ from it; `unknown` outside a checkout."""
    code = [".", ":!docs"]
    newest, changed = (
        subprocess.run(
            ["git", *each, "--", *code], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        for each in (["log", "-1", "--format=%H"], ["status", "--porcelain"])
    )
    return (newest or "unknown") + ("+" if changed else "")
