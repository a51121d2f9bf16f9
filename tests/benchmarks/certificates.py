"""privacy.2b: certificates of 100 golden plans against their true epsilon, and what one more round costs to account.

python -m tests.benchmarks.certificates
"""

import json
import statistics
import time
from collections import Counter
from typing import Any

from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import MECHANISM, SampledSgd
from tests.golden import epsilon_plans


def differences() -> list[tuple[float, str]]:
    """(certificate / truth - 1, kinds) of every golden plan."""
    found = []
    for plan in json.loads(epsilon_plans.PATH.read_text("utf-8")):
        facts = Counter[accounting.Fact]()
        for each in plan["facts"]:
            facts[MECHANISM.validate_python(each["fact"])] += each["times"]
        kinds = " and ".join(sorted({fact.kind for fact in facts}))
        found.append((accounting.epsilon(facts, plan["delta"]) / plan["epsilon"] - 1, kinds))
    return found


def seconds_a_round(rounds: int = 60) -> dict[str, float]:
    """CPU seconds to account a history after each of its rounds: the median, and the slowest."""
    shared = {
        "the same fact each round": ["5.0"] * rounds,
        "another noise each round": [f"{4 + index / 50:.2f}" for index in range(rounds)],
    }
    found: dict[str, float] = {}
    for name, multipliers in shared.items():
        history, spent = Counter[accounting.Fact](), list[float]()
        for z in multipliers:
            history[SampledSgd(noise_multiplier=z, clip="1", sampling_rate="0.25", steps=4)] += 1
            start = time.process_time()
            accounting.epsilon(history, "0.000001")
            spent.append(time.process_time() - start)
        found |= {f"{name}, median": round(statistics.median(spent), 3), f"{name}, most": round(max(spent), 3)}
    return found


def main() -> dict[str, Any]:
    """The row."""
    found = differences()
    kinds = sorted({kinds for _, kinds in found})
    note = {
        "plans": len(found),
        "largest and smallest relative difference": {
            kind: [f"{pick(d for d, k in found if k == kind):+.2e}" for pick in (max, min)] for kind in kinds
        },
        "none below the truth by 0.001": min(difference for difference, _ in found) > -1e-3,
        "CPU s to account one more round": seconds_a_round(),
    }
    return {"row": "privacy.2b", "value": round(max(abs(difference) for difference, _ in found), 6), "note": note}


if __name__ == "__main__":
    print(json.dumps(main()))
