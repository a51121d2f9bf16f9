"""Row chain.6: what kill -9 of each process in the middle of a step leaves behind.

`python -m tests.benchmarks.kills` prints one JSON object.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.town import PEOPLE, STEPS, VICTIMS, Outcome, town


def main() -> dict[str, Any]:
    """Value 1 if all four studies ended by themselves with right books and logs, else 0 and the reason."""
    outcomes: list[Outcome] = []
    try:
        with tempfile.TemporaryDirectory(prefix="genopact-kills-") as folder, town(Path(folder)) as one:
            outcomes += [one.survive(victim) for victim in VICTIMS]
    except AssertionError as failure:
        return {"value": 0, "note": f"after {len(outcomes)} of {len(VICTIMS)} kills: {failure}"}
    problems = [f"{each.victim}: {problem}" for each in outcomes for problem in each.problems()]
    if problems:
        return {"value": 0, "note": "; ".join(problems)[:600]}
    kills = ", ".join(
        f"{each.victim} (attempts void {each.voided}, charged too much {each.overcharge}, {each.seconds:.0f} s)"
        for each in outcomes
    )
    what = f"{len(PEOPLE)} generated hospitals, {sum(PEOPLE.values())} people, {STEPS + 1} rounds and one SIGKILL each"
    samples = f"{outcomes[-1].samples} ledger samples at or above what had left"
    return {"value": 1, "note": f"{what}: {kills}; {samples}; every audit exit 0; no process left behind"}


if __name__ == "__main__":
    print(json.dumps(main()))
