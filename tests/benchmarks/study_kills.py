"""Row privacy.6: kill -9 of sites and coordinator at 200 random instants of studies; what the ledgers then miss.

`python -m tests.benchmarks.study_kills [kills]` prints one JSON object.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.e2e.mortal import PEOPLE, QUORUM, STEPS, survive

KILLS, GAP_S = 200, 0.8


def main(kills: int = KILLS) -> dict[str, Any]:
    """Charges that were missing at any look; anything else that went wrong counts as one, too."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="genopact-mortal-") as folder:
        seen = survive(Path(folder), kills, GAP_S)
    note = {
        "setting": f"{len(PEOPLE)} generated sites and a coordinator, each a process on real files; quorum {QUORUM}, "
        f"{STEPS + 1} rounds, two studies of three under masks, a kill each {GAP_S} s",
        "kills": seen.killed,
        "between a charge and its release": seen.charging,
        "studies, all resumed to their end": seen.studies,
        "patients' charges": seen.charged,
        "charged too much, %": round(100 * (1 - seen.used / seen.charged), 2),
        "noises seen, none twice": seen.draws,
        "their variance over the planned one": round(seen.noise, 3),
        "seconds": round(time.monotonic() - began),
        "faults": list(seen.faults[:5]) or "none",
    }
    return {"row": "privacy.6", "value": max(seen.under_counts, len(seen.faults)), "note": note}


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:]))))
