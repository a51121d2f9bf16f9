"""Rows privacy.3.upload and privacy.3.cpu: what a masked total costs, with the dropouts that a study declares.

`python -m tests.benchmarks.masking` prints one JSON object for each row. CPU seconds are process time in this process.
"""

import json
import statistics
import time
from typing import Any

import numpy as np

from genopact_server.unmasking import total_of
from genopact_shared import canonical, wire
from genopact_shared.keys import SigningKey
from genopact_shared.privacy.noise import skellam
from genopact_shared.secagg.masking import Masking, Opening
from genopact_shared.wire import Reply

STUDIES = {3: (3, 2), 10: (8, 6), 50: (40, 33)}
"""Sites -> quorum, which is the threshold, and honest minimum. Sites - quorum may fail: half before the upload."""
SIZES = (100_000, 1_000_000)
ROUNDS = 20
VARIANCE = 1e6
WIDTH = 32


class Clock:
    """CPU seconds by what they were spent on."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    def __call__(self, what: str, work: Any, *arguments: Any, **named: Any) -> Any:
        start = time.process_time()
        made = work(*arguments, **named)
        self.spent.setdefault(what, []).append(time.process_time() - start)
        return made

    def median(self, what: str) -> float:
        return round(statistics.median(self.spent[what]), 4)


def framed(body: bytes, site: str) -> int:
    """Bytes of a reply to `unmask` with its signed envelope."""
    about = {"op": "unmask", "study": "a" * 64, "run": "b" * 32, "round": ROUNDS, "attempt": 0, "site": site}
    about |= {"body": canonical.digest(body), "body_size": len(body), "request": "c" * 64}
    return len(wire.seal(Reply.model_validate(about), body, SigningKey(bytes(32))))


def measure(sites: int, size: int) -> dict[str, Any]:
    """One opening and one round."""
    (quorum, _), clock, draw = STUDIES[sites], Clock(), np.random.default_rng(sites * size)
    made = {f"hospital-{number:02d}": Masking() for number in range(sites)}
    opening = Opening("run", {site: each.public for site, each in made.items()}, quorum, range(ROUNDS))
    deals = {site: clock("deal", each.deal, site, opening) for site, each in made.items()}
    for each in made.values():
        clock("join", each.join, deals)
    missing = sites - quorum
    present = sorted(made)[missing // 2 :]
    plain, uploads, bodies = np.zeros(size, np.int64), {}, {}
    for site in present:
        values = draw.integers(-(2**24), 2**24, size)
        plain += values
        uploads[site] = clock("mask", made[site].mask, 0, values, WIDTH)
        bodies[site] = wire.pack(uploads[site])
    active = {site: canonical.digest(body) for site, body in bodies.items()}
    answer = present[missing - missing // 2 :]
    reveals = {site: clock("reveal", made[site].reveal, 0, active) for site in answer}
    total, tag = clock("server", total_of, opening, 0, deals, uploads, active=active, reveals=reveals)
    for site in present[:5]:
        clock("check", made[site].check_total, 0, total, tag, active)
    noise = Clock()
    for _ in range(3):
        noise("noise", skellam, VARIANCE, size)
    return {
        "exact": bool((total == plain).all()),
        "gone": len(made) - len(present),
        "silent": len(present) - len(answer),
        "upload": round(max(map(len, bodies.values())) / (4 * size), 6),
        "message bytes": max(framed(message, site) for site, message in reveals.items()),
        "deal bytes": len(next(iter(deals.values()))),
        "CPU s": {what: clock.median(what) for what in clock.spent} | {"noise": noise.median("noise")},
    }


def main() -> list[dict[str, Any]]:
    """Both rows; a total that is not exact or a message beyond 4,096 bytes makes them worthless."""
    found = {f"{sites} x {size}": measure(sites, size) for sites in STUDIES for size in SIZES}
    broken = [name for name, each in found.items() if not each["exact"] or each["message bytes"] > 4096]
    if broken:
        raise SystemExit(f"not exact, or a message beyond 4096 bytes: {broken}")
    spent = found[f"{max(STUDIES)} x {max(SIZES)}"]["CPU s"]
    upload = max(each["upload"] for each in found.values())
    declared = [f"{sites} sites, quorum {quorum}, honest {honest}" for sites, (quorum, honest) in STUDIES.items()]
    about = f"reply bodies; {WIDTH}-bit integers (64 take twice as much), {ROUNDS} rounds an opening; {declared}"
    return [
        {"row": "privacy.3.upload", "value": upload, "note": {"all": about, **found}},
        {
            "row": "privacy.3.cpu",
            "value": round(spent["mask"] + spent["reveal"], 4),
            "note": {f"median site, {max(STUDIES)} x {max(SIZES)}, mask and reveal; in CPU s": spent},
        },
    ]


if __name__ == "__main__":
    for row in main():
        print(json.dumps(row))
