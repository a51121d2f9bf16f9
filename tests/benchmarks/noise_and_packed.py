"""privacy.1b: nanoseconds a value of Gaussian noise; a private logistic step from packed rows over torch's own step.

python -m tests.benchmarks.noise_and_packed

Process times at one thread, medians of interleaved runs; what is compiled is compiled before, and reported.
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from genopact_shared.privacy import noise
from tests.benchmarks.packed import PackedGenotypes

VALUES, SKELLAMS = 5_000_000, 500_000
VARIANTS, BATCH, MISSING = 100_032, 1024, 0.01
CLIP, RATE, NOISE, GRID = 1.0, 0.1, 1.0, 2.0**24
ROUNDS = 21


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Of interleaved runs, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(each) for name, each in times.items()}


def noise_row() -> dict[str, object]:
    out, out32, tensor = np.empty(VALUES), np.empty(VALUES, np.float32), torch.empty(VALUES)
    plain = np.random.default_rng()
    cold = seconds(lambda: noise.gaussian_into(out[:2], 1.0))
    calls: dict[str, Callable[[], object]] = {
        "gaussian_into": lambda: noise.gaussian_into(out, 1.0),
        "gaussian_into float32": lambda: noise.gaussian_into(out32, 1.0),
        "gaussian, a new array": lambda: noise.gaussian(1.0, VALUES),
        "keystream alone": lambda: [noise.keystream(12 * noise.PAIRS) for _ in range(VALUES // (2 * noise.PAIRS))],
        "torch.normal_": tensor.normal_,
        "numpy standard_normal": lambda: plain.standard_normal(out=out),
    }
    powers = (6, 20, 36)
    skellams: dict[str, Callable[[], object]] = {
        f"skellam, variance 2^{power}": partial(noise.skellam, 2.0**power, SKELLAMS) for power in powers
    }
    for call in (*calls.values(), *skellams.values()):
        call()
    found = {name: 1e9 * each / VALUES for name, each in medians(calls).items()}
    found |= {name: 1e9 * each / SKELLAMS for name, each in medians(skellams).items()}
    value = found.pop("gaussian_into")
    note = {"ns a value": {name: round(each, 2) for name, each in found.items()}, "first call, s": round(cold, 2)}
    return {"row": "privacy.1b.noise_ns", "value": round(value, 3), "note": note}


def genotypes(missing: float) -> tuple[np.ndarray, np.ndarray]:
    """Packed rows (BATCH, VARIANTS / 4) of common and rare variants, and their frequencies."""
    rng = np.random.default_rng(1)
    frequencies = 0.01 + 0.49 * rng.beta(1, 3, VARIANTS)
    rows = np.empty((BATCH, VARIANTS // 4), np.uint8)
    for row in rows:
        alleles = rng.binomial(2, frequencies)
        codes = np.where(rng.random(VARIANTS) < missing, 1, np.array([3, 2, 0])[alleles]).astype(np.uint8)
        row[:] = np.bitwise_or.reduce(codes.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8), axis=1)
    return rows, frequencies


def torch_step(rows: np.ndarray, frequencies: np.ndarray, outcomes: np.ndarray) -> Callable[[], None]:
    """Torch's gradient step on the same genotypes as float32, standardised, without privacy."""
    inputs = np.empty((BATCH, VARIANTS), np.float32)
    for at, row in enumerate(rows):
        dosages = np.array([2.0, np.nan, 1.0, 0.0])[(row[:, None] >> np.array([0, 2, 4, 6])).reshape(-1) & 3]
        x = (dosages - 2 * frequencies) / np.sqrt(2 * frequencies * (1 - frequencies))
        inputs[at] = np.nan_to_num(x)
    data, targets = torch.from_numpy(inputs), torch.from_numpy(outcomes.astype(np.float32))
    module = torch.nn.Linear(VARIANTS, 1)
    optimiser = torch.optim.SGD(module.parameters(), lr=RATE)

    def step() -> None:
        optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(module(data).squeeze(-1), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def packed_step(rows: np.ndarray, frequencies: np.ndarray, outcomes: np.ndarray) -> Callable[[], None]:
    """The clipped sum, noise, the grid, and the move."""
    study, patients = PackedGenotypes(rows, frequencies), np.arange(BATCH)
    now, drawn = np.zeros(VARIANTS + 1), np.empty(VARIANTS + 1)

    def step() -> None:
        total = study.clipped_sum(now[:-1], float(now[-1]), outcomes, patients, CLIP)
        noise.gaussian_into(drawn, NOISE * CLIP)
        drawn[:-1] += total.weights
        drawn[-1] += total.intercept
        now[:] -= RATE / BATCH / GRID * np.rint(drawn * GRID)

    return step


def packed_row() -> dict[str, object]:
    outcomes = np.random.default_rng(2).integers(0, 2, BATCH).astype(float)
    rows, frequencies = genotypes(MISSING)
    full, _ = genotypes(0.0)
    private = packed_step(rows, frequencies, outcomes)
    cold = seconds(private)
    found = medians({
        "torch": torch_step(rows, frequencies, outcomes),
        "packed": private,
        "packed, none missing": packed_step(full, frequencies, outcomes),
    })  # fmt: skip
    note = {
        "ms": {name: round(1e3 * each, 2) for name, each in found.items()},
        "missing": MISSING,
        "ratio, none missing": round(found["packed, none missing"] / found["torch"], 3),
        "first call, s": round(cold, 2),
        "bytes a patient": rows.shape[1],
    }
    return {"row": "privacy.1b.packed", "value": round(found["packed"] / found["torch"], 3), "note": note}


def main() -> None:
    """One JSON object a row."""
    torch.set_num_threads(1)
    for row in (noise_row, packed_row):
        print(json.dumps(row()), flush=True)


if __name__ == "__main__":
    main()
