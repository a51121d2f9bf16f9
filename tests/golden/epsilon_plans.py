"""Writes epsilon_plans.json: 100 plans of every kind, with the epsilon that their composition truly costs.

python -m tests.golden.epsilon_plans

Neither dp-accounting nor the project's accountants are used. The moment generating function M(s) = E exp(s L) of the
privacy loss L is integrated for each mechanism, multiplied for the composition, and delta is Laplace's inversion

    delta(epsilon) = 1 / 2 pi  int  M(a + iu) exp(-(a + iu) epsilon) / ((a + iu) (a + iu + 1))  du

along the line through the saddle point, where the trapezoid rule converges geometrically. Noised sums are taken as
Gaussian ones: at these scales Skellam noise adds less than 1e-3 to epsilon.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).with_name("epsilon_plans.json")
Step = tuple[float, float, int]
"""Noise multiplier, sampling rate, how often."""
Direction = Literal["remove", "add"]
Complex = NDArray[np.complexfloating[Any, Any]]


def log_moments(steps: Sequence[Step], direction: Direction, s: Complex) -> Complex:
    """log M(s) of the composition, up to multiples of 2 pi i."""
    total = np.zeros(s.shape, np.complex128)
    shift = float(np.max(s.real)) + 2
    for sigma, rate, times in steps:
        if rate == 1:
            total += times * (s + s * s) / (2 * sigma * sigma)
            continue
        x = np.linspace(-13 * sigma - (shift if direction == "add" else 0), 13 * sigma + shift, 3000)
        loss = np.log1p(rate * np.expm1((2 * x - 1) / (2 * sigma * sigma)))
        log_base = -x * x / (2 * sigma * sigma) + math.log((x[1] - x[0]) / (sigma * math.sqrt(2 * math.pi)))
        log_mass, signed = (log_base + loss, loss) if direction == "remove" else (log_base, -loss)
        for part in np.array_split(np.arange(len(s)), max(1, len(s) // 500)):
            exponents = np.outer(s[part], signed) + log_mass
            peak = exponents.real.max(axis=1, keepdims=True)
            total[part] += times * (peak[:, 0] + np.log(np.exp(exponents - peak).sum(axis=1)))
    return total


def saddle(steps: Sequence[Step], direction: Direction, delta: float) -> tuple[float, float]:
    """The order at which Chernoff's bound on epsilon is best, and that bound."""
    orders = np.geomspace(0.05, 2000, 80)
    with np.errstate(all="ignore"):
        bound = [(log_moments(steps, direction, np.array([a + 0j]))[0].real - math.log(delta)) / a for a in orders]
    best = int(np.nanargmin(np.where(np.isfinite(bound), bound, np.nan)))
    return float(orders[best]), float(bound[best])


def one_way(steps: Sequence[Step], direction: Direction, delta: float, fine: float = 1.0) -> float:
    """Epsilon for one direction of add/remove; `fine` makes the line's steps smaller."""
    a, most = saddle(steps, direction, delta)
    near = log_moments(steps, direction, np.array([0.9 * a, a, 1.1 * a]) + 0j).real
    sd = math.sqrt(max(float(near[0] - 2 * near[1] + near[2]), 1e-12)) / (0.1 * a)
    width = 2 * math.pi / max(40 * sd, 40 / a) / fine
    end, peak = max(12 / sd, 200 * width), float(near[1])
    while end < 2000 / sd:
        last = a + 1j * np.linspace(0.9 * end, end, 20)
        if float((log_moments(steps, direction, last).real - peak - 2 * np.log(np.abs(last) / a)).max()) < -25:
            break
        end *= 2
    u = np.arange(0, end, width)
    s = a + 1j * u
    log_m = log_moments(steps, direction, s)
    weights = np.where(u == 0, 0.5, 1.0) * width / math.pi

    def excess(epsilon: float) -> float:
        values = np.exp(log_m - s * epsilon) / (s * (s + 1))
        return float((weights * values.real).sum()) / delta - 1

    low, high = 0.0, most * 1.01 + 1e-3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def true_epsilon(steps: Sequence[Step], delta: float, fine: float = 1.0) -> float:
    """Epsilon of a composition under add/remove: the worse direction."""
    sums = sum(times / sigma**2 for sigma, rate, times in steps if rate == 1)
    merged = [step for step in steps if step[1] < 1] + ([(1 / math.sqrt(sums), 1.0, 1)] if sums else [])
    return max(one_way(merged, direction, delta, fine) for direction in ("remove", "add"))


def steps_of(facts: Sequence[dict[str, Any]]) -> list[Step]:
    """The composition behind the facts of a plan, each with its `times`."""
    return [
        (float(fact["noise_multiplier"]), float(fact.get("sampling_rate", "1")), fact.get("steps", 1) * times)
        for times, fact in ((each["times"], each["fact"]) for each in facts)
    ]


def _plan(rng: np.random.Generator, kind: int, target: float, delta: float) -> list[dict[str, Any]]:
    """Facts of a kind (0 sums, 1 sampled steps, 2 both) whose noise is scaled so that they cost about `target`."""
    shapes: list[dict[str, Any]] = []
    if kind != 1:
        for _ in range(int(rng.integers(1, 4))):
            fact = {
                "kind": "noised-sum", "clip": str(rng.choice(["1", "2.5"])),
                "scale": int(1 << rng.integers(12, 17)), "dims": int(rng.choice([12, 87, 1000, 100_000])),
                "honest_minimum": int(rng.choice([1, 2, 7])),
            }  # fmt: skip
            shapes.append({"times": int(rng.integers(1, 20)), "fact": fact, "z": float(rng.uniform(1, 3))})
    if kind != 0:
        for _ in range(int(rng.integers(1, 4 - kind))):
            rate, steps = str(rng.choice(["0.0016", "0.01", "0.05", "0.1", "0.25", "0.5"])), int(rng.integers(1, 10))
            fact = {"kind": "sampled-sgd", "clip": "1", "sampling_rate": rate, "steps": steps}
            times = int(rng.integers(20, 80))
            z = float(rate) * math.sqrt(steps * times) * float(rng.uniform(0.5, 1))
            shapes.append({"times": times, "fact": fact, "z": z})

    def at(factor: float) -> list[dict[str, Any]]:
        return [
            {"times": each["times"], "fact": each["fact"] | {"noise_multiplier": f"{max(0.5, factor * each['z']):.3f}"}}
            for each in shapes
        ]

    low, high = 0.01, 1000.0
    for _ in range(18):
        middle = math.sqrt(low * high)
        cost = max(saddle(steps_of(at(middle)), direction, delta)[1] for direction in ("remove", "add"))
        low, high = (middle, high) if cost > target else (low, middle)
    return at(high)


def main() -> None:
    """Write the file."""
    rng = np.random.default_rng(20_261_122)
    plans = []
    for number, target in enumerate(np.geomspace(0.11, 20, 100)):
        delta = str(rng.choice(["0.00001", "0.000001", "0.0000001", "0.000000001"]))
        facts, cost, finer = list[dict[str, Any]](), 0.0, 1.0
        while not math.isclose(cost, finer, rel_tol=1e-7):  # a few rare steps of large losses: the line is too short
            facts = _plan(rng, number % 3, float(target), float(delta))
            cost, finer = (true_epsilon(steps_of(facts), float(delta), fine) for fine in (1.0, 1.7))
        plans.append({"delta": delta, "epsilon": float(f"{cost:.9g}"), "facts": facts})
        print(number, delta, plans[-1]["epsilon"], len(facts), flush=True)
    PATH.write_text("[\n" + ",\n".join(json.dumps(each) for each in plans) + "\n]\n", "utf-8")


if __name__ == "__main__":
    main()
