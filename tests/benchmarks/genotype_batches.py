"""genotypes.3 and genotypes.4: a minibatch of 256 x 50,000 from encrypted rows; and how a store grows.

python -m tests.benchmarks.genotype_batches

CPU times at one thread, medians of interleaved runs, warm page cache; compiled before. Batches are drawn anew each
time. The memory map is read by fancy indexing, pgenlib in the faster of its two orders.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genopact_client.genotypes.opened import Opened
from genopact_client.genotypes.sealed import Genotypes
from genopact_client.keyfile import KeyFile
from genopact_ingest.commands.genotypes import export_bed
from genopact_shared.manifest import VariantManifest

PEOPLE, VARIANTS, BATCH, ROUNDS = 5_000, 50_000, 256, 21
AT_ONCE, MISSING = 1_000, 0.005
SIZES, BUDGET, GOAL = ((1_000, 131_072), (2_000, 262_144)), 64 << 20, (50_000, 500_000)


def variants(length: int) -> VariantManifest:
    """Common and rare ones."""
    shares, dots = 0.01 + 0.49 * np.random.default_rng(1).beta(1, 3, length), (".",) * length
    return VariantManifest(
        "random", 1, "GRCh38", ".", "drawn", ("1",) * length, np.arange(1, length + 1, dtype=np.int64),
        ("A",) * length, ("C",) * length, ("alt",) * length, shares, dots, dots, dots, ("autosome",) * length,
    )  # fmt: skip


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def made(home: Path, people: int, length: int) -> tuple[Opened, dict[str, float]]:
    """Random genotypes sealed, and as a memory map, `int8`; CPU seconds of packing, sealing and unwrapping keys."""
    chance, manifest = np.random.default_rng(2), variants(length)
    keys = KeyFile.create(home / "keyfile", bytes(32))
    keys.new_many(people)
    store = Genotypes.create(home / "store", keys, manifest, "synthetic")
    writer, copy = store.writer(np.arange(people), ""), np.empty((people, length), np.int8)
    spent: dict[str, float] = {"pack": 0.0, "first call": 0.0}
    for first in range(0, length, AT_ONCE):
        where = np.arange(first, min(first + AT_ONCE, length))
        called = chance.binomial(2, manifest.frequency[where, None], (len(where), people)).astype(np.int8)
        called[chance.random(called.shape, dtype=np.float32) < MISSING] = -1
        copy[:, where] = called.T
        spent["pack" if first else "first call"] += seconds(partial(writer.add, where, called))
    copy.tofile(home / "int8")
    spent["seal"] = seconds(writer.commit)
    opened: list[Opened] = []
    spent["unwrap keys"] = seconds(lambda: opened.append(store.open(np.arange(people), manifest, lambda: True)))
    return opened[0], spent


def pgenlib_reader(opened: Opened, home: Path) -> Callable[[np.ndarray, bool], object]:
    """Reads people from a .pgen of the same genotypes, which plink2 made."""
    import pgenlib

    export_bed(opened, home / "plain")
    prefix = str(home / "plain")
    command = ["plink2", "--bfile", prefix, "--make-pgen", "--threads", "1", "--out", prefix]
    subprocess.run(command, check=True, capture_output=True)
    length = len(opened.variants)
    reader = pgenlib.PgenReader(str(home / "plain.pgen").encode(), raw_sample_ct=len(opened))

    def read(chosen: np.ndarray, by_person: bool) -> object:
        reader.change_sample_subset(chosen.astype(np.uint32))
        shape = (len(chosen), length) if by_person else (length, len(chosen))
        out = np.empty(shape, np.int8)
        reader.read_range(0, length, out, allele_idx=1, sample_maj=by_person)
        return out

    return read


def medians(
    calls: dict[str, Callable[[np.ndarray], object]], people: int, batch: int, rounds: int
) -> dict[str, list[float]]:
    """Median and least ms of interleaved calls, each with people of its own."""
    chance = np.random.default_rng(3)
    times: dict[str, list[float]] = {each: [] for each in calls}
    for turn in range(rounds + 3):
        for each, call in calls.items():
            chosen = np.sort(chance.choice(people, batch, replace=False))
            spent = seconds(partial(call, chosen))
            times[each] += [1e3 * spent] if turn >= 3 else []
    return {each: [round(statistics.median(taken), 2), round(min(taken), 2)] for each, taken in times.items()}


def batches(
    people: int = PEOPLE, length: int = VARIANTS, batch: int = BATCH, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """The rows genotypes.3.memmap, genotypes.3.pgenlib and genotypes.4."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        opened, spent = made(home, people, length)
        plain = np.memmap(home / "int8", np.int8, "r", shape=(people, length))
        pgen = pgenlib_reader(opened, home)
        dosages, tensor, source = (
            np.empty((batch, length), np.int8),
            torch.empty((batch, length)),
            torch.ones(batch, length),
        )
        half, everybody = tensor.bfloat16(), np.arange(people)
        for first in range(0, people, batch):
            some = everybody[first : first + batch]
            assert np.array_equal(opened.dosages(some, dosages), plain[some])
        encrypted = {"encrypted": lambda chosen: opened.dosages(chosen, dosages)}
        against = medians({"memmap": lambda chosen: plain[chosen], **encrypted}, people, batch, 3 * rounds)
        peers = {
            f"pgenlib, {order}": lambda i, o=order: pgen(i, o == "by person") for order in ("by variant", "by person")
        }
        readers = medians({**peers, **encrypted}, people, batch, rounds)
        tensors = medians(
            {
                "memcpy": lambda _: tensor.copy_(source),
                "float32": lambda chosen: opened.standardised(chosen, tensor),
                "bfloat16": lambda chosen: opened.standardised(chosen, half),
            },
            people, batch, rounds,
        )  # fmt: skip
    once = {"CPU s once": {each: round(taken, 3) for each, taken in spent.items()}, "people": people}
    faster = min(readers[each][0] for each in peers)
    ratios = {
        "genotypes.3.memmap": (against["encrypted"][0] / against["memmap"][0], against, once),
        "genotypes.3.pgenlib": (faster / readers["encrypted"][0], readers, {}),
        "genotypes.4": (tensors["float32"][0] / tensors["memcpy"][0], tensors, {}),
    }
    return [
        {"row": row, "value": round(value, 3), "note": {"ms, median and least": ms, **more}}
        for row, (value, ms, more) in ratios.items()
    ]


def grown(people: int, length: int, budget: int = BUDGET) -> dict[str, float]:
    """CPU seconds of writing and reading a store of this size, peak MiB of this process above its start, bytes on disk.

    Run in a process of its own; genotypes are one batch again and again, which costs nothing to make.
    """
    called = np.random.default_rng(2).integers(-1, 3, (512, people), dtype=np.int8)
    with tempfile.TemporaryDirectory() as name:
        keys = KeyFile.create(Path(name) / "keyfile", bytes(32))
        keys.new_many(people)

        def taken(length: int) -> dict[str, float]:
            store = Genotypes.create(Path(name) / str(length), keys, variants(length), "synthetic")
            Path("/proc/self/clear_refs").write_text("5")  # resets the mark
            before, start = resident("VmRSS"), time.process_time()
            writer = store.writer(np.arange(people), "", budget)
            for first in range(0, length, 512):
                some = np.arange(first, min(first + 512, length))
                writer.add(some, called[: len(some)])
            writer.commit()
            write, above = time.process_time() - start, resident("VmHWM") - before
            read = min(seconds(store.verify) for _ in range(3))
            disk = sum(path.stat().st_size for path in store.path.iterdir())
            return {"write": write, "read": read, "MiB": above, "disk": disk}

        taken(512)  # what is compiled is compiled now
        return {"people": people, "variants": length, **taken(length)}


def resident(field: str) -> float:
    """MiB of this process, now (VmRSS) or at most since the mark was reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def growth() -> dict[str, Any]:
    """Two sizes, the second four times the first, and what they say of GOAL.

    Time grows as people x variants: a line through both sizes. Disk is people x (variants / 4 + 28 for each block of
    65,536). Memory is the budget, or one block (at GOAL 782 MiB), and 3 KB for each person's key.
    """
    command = [sys.executable, "-m", "tests.benchmarks.genotype_batches"]
    small, large = (
        json.loads(subprocess.run([*command, *map(str, size)], check=True, capture_output=True, text=True).stdout)
        for size in SIZES
    )
    cells = [each["people"] * each["variants"] for each in (small, large, {"people": GOAL[0], "variants": GOAL[1]})]
    said: dict[str, Any] = {"sizes": [small, large]}
    for what in ("write", "read"):
        slope = (large[what] - small[what]) / (cells[1] - cells[0])
        said[f"{what}, CPU s"] = round(large[what] + slope * (cells[2] - cells[1]), 1)
        said[f"{what}, ns a genotype"] = round(1e9 * slope, 3)
    said["memory, GB"] = round((max(1 << 30, GOAL[0] * 65_536 / 4) + 3_000 * GOAL[0]) / 1e9, 2)
    said["disk, GB"] = round(GOAL[0] * (GOAL[1] / 4 + 28 * -(-GOAL[1] // 65_536)) / 1e9, 3)
    return said


def main() -> None:
    """One JSON object a row; with two numbers, people and variants, what a store of that size takes."""
    if sys.argv[1:]:
        print(json.dumps(grown(int(sys.argv[1]), int(sys.argv[2]))))
        return
    for row in batches():
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
