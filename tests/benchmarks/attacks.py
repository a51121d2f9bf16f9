"""Rows chain.7 and privacy.4: every attack in `tests/attacks`, or in one file of it, is refused.

`python -m tests.benchmarks.attacks [tests/attacks/test_masking.py]` prints one JSON object.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main(where: str = "tests/attacks") -> dict[str, Any]:
    """Value 1 if all attack tests pass and none was left out, with their number in the note."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or ["pytest wrote nothing"])[-1]
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed)", last)}
    passed = done.returncode == 0 and set(counts) == {"passed"} and counts["passed"] > 0
    files = len(list((ROOT / where).glob("test_*.py"))) or 1
    return {"value": int(passed), "note": f"{files} file(s) of attacks: {last.strip('= ')}"}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
