"""Rows privacy.2 and privacy.2.survived: mutants of the privacy path that their tests kill, and false alarms.

`python -m tests.benchmarks.mutations [draws]` prints one JSON object a line. Each statistical test is repeated a
thousand times on the product as it is.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.mutations.driver import outcomes
from tests.mutations.mutants import DECOYS, MUTANTS

DRAWS = 1000


def alarms(check: Callable[[], None], draws: int) -> int:
    """How often a test fails by chance."""
    found = 0
    for _ in range(draws):
        try:
            check()
        except AssertionError:
            found += 1
    return found


def main(draws: int = DRAWS) -> list[dict[str, Any]]:
    """Both rows."""
    from tests.mutations.checks import CHECKS

    began = time.monotonic()
    found = outcomes()
    seconds = time.monotonic() - began
    verdicts = {each["name"]: each["verdict"] for each in found}
    killed = sum(verdicts.get(each.name) == "killed" for each in MUTANTS)
    clean = [verdict for name, verdict in verdicts.items() if name.startswith("no mutant")]
    told = all(verdicts.get(each.name) == each.verdict for each in DECOYS) and clean == ["clean", "clean"]
    with ProcessPoolExecutor(2) as pool:
        counts = list(pool.map(alarms, CHECKS, [draws] * len(CHECKS)))
    note = {
        "mutants": len(MUTANTS),
        "seconds": round(seconds, 1),
        "CPU seconds": round(sum(each["seconds"] for each in found), 1),
        "killing tests pass without a mutant": told,
        "statistical tests": len(CHECKS),
        f"false alarms in {draws} draws of each": sum(counts),
    }
    return [
        {"row": "privacy.2", "value": killed if told and not sum(counts) else 0, "note": note},
        {"row": "privacy.2.survived", "value": len(MUTANTS) - killed, "note": {"mutants": len(MUTANTS)}},
    ]


if __name__ == "__main__":
    for row in main(*map(int, sys.argv[1:])):
        print(json.dumps(row))
