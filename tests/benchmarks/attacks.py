"""Row chain.7: every attack in `tests/attacks` is refused.

`python -m tests.benchmarks.attacks` prints one JSON object.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main() -> dict[str, Any]:
    """Value 1 if all attack tests pass and none was left out, with their number in the note."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/attacks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or ["pytest wrote nothing"])[-1]
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed)", last)}
    passed = done.returncode == 0 and set(counts) == {"passed"} and counts["passed"] > 0
    files = len(list((ROOT / "tests/attacks").glob("test_*.py")))
    return {"value": int(passed), "note": f"{files} files of attacks: {last.strip('= ')}"}


if __name__ == "__main__":
    print(json.dumps(main()))
