"""genotypes.1: the CPU of a VCF.gz into int8 dosages, against cyvcf2, pysam's samples and bcftools.

python -m tests.benchmarks.genotype_pass [PEOPLE VARIANTS]

CPU seconds of the process and its children, best of interleaved rounds. Ours is the whole reader: inflating with CRC32,
columns, checked cells, sites through a harmoniser, batches copied into the matrix. cyvcf2 fills the same matrix;
bcftools only decodes, into /dev/null; pysam reads the first records, scaled.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from genopact_ingest.source import Match, Record
from genopact_ingest.vcf import VcfFile
from tests.benchmarks.genotype_cohort import cohort

PEOPLE, VARIANTS = 5_000, 50_000
ROUNDS, FIRST = 3, 200
EVERY_FILTER = frozenset({"PASS", "q10"})
BARS = {"cyvcf2": 10.0, "naive": 200.0, "bcftools": 4.0}


class FirstAlternative:
    """The harmoniser of a manifest that is the file: row after row, the first ALT counts."""

    def __init__(self) -> None:
        self.rows = 0

    def match(self, records: Sequence[Record]) -> list[Match]:
        self.rows += len(records)
        return [Match(at, self.rows - len(records) + at, 1) for at in range(len(records))]


def cpu_seconds(call: Callable[[], object]) -> float:
    before = _cpu()
    call()
    return _cpu() - before


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def ours(path: Path, out: NDArray[np.int8]) -> None:
    for called in VcfFile(path, passed=EVERY_FILTER).batches(FirstAlternative()):
        out[called.rows] = called.dosages


def by_cyvcf2(path: Path, out: NDArray[np.int8]) -> None:
    from cyvcf2 import VCF

    for row, record in zip(out, VCF(str(path)), strict=True):
        alleles = record.genotype.array()[:, :2]
        np.sum(alleles == 1, axis=1, out=row, dtype=np.int8)
        row[(alleles < 0).any(axis=1)] = -1


def by_pysam(path: Path, out: NDArray[np.int8]) -> None:
    """As many records as `out` has."""
    import pysam

    with pysam.VariantFile(str(path)) as file:
        for row, record in zip(out, islice(file, len(out)), strict=True):
            for at, name in enumerate(record.samples):
                call = record.samples[name]["GT"]
                row[at] = -1 if None in call else call.count(1)


def by_bcftools(path: Path) -> None:
    subprocess.run(["bcftools", "view", "-Ou", str(path)], stdout=subprocess.DEVNULL, check=True)


def inflate(path: Path) -> None:
    """Inflating alone, without checks."""
    data, at = path.read_bytes(), 0
    view = memoryview(data)
    while at < len(data):
        end = at + int.from_bytes(data[at + 16 : at + 18], "little") + 1
        isal_zlib.decompress(
            view[at + 18 : end - 8], wbits=-15, bufsize=max(1, int.from_bytes(view[end - 4 : end], "little"))
        )
        at = end


def measure(people: int = PEOPLE, variants: int = VARIANTS, rounds: int = ROUNDS) -> list[dict[str, object]]:
    """The three rows."""
    small, path = cohort(200, 500), cohort(people, variants)
    cold = cpu_seconds(lambda: ours(small, np.zeros((500, 200), np.int8)))
    found, theirs = (np.full((variants, people), 9, np.int8) for _ in range(2))
    first = np.full((min(FIRST, variants), people), 9, np.int8)
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(path, found),
        "inflate": lambda: inflate(path),
        "naive": lambda: by_pysam(path, first),
        "bcftools": lambda: by_bcftools(path),
        "cyvcf2": lambda: by_cyvcf2(path, theirs),
    }
    best = {name: min(times) for name, times in _interleaved(calls, rounds).items()}
    best["naive"] *= variants / len(first)
    if not np.array_equal(found, theirs) or not np.array_equal(found[: len(first)], first):
        raise AssertionError("the readers disagree")
    note = {
        "people": people,
        "variants": variants,
        "CPU seconds": {name: round(seconds, 3) for name, seconds in best.items()},
        "naive": f"scaled from {len(first)} records",
        "over inflating alone": round(best["ours"] / best["inflate"], 2),
        "cold start, s": round(cold, 2),
    }
    return [
        {"row": f"genotypes.1.{peer}", "value": round(best[peer] / best["ours"], 2), "note": {"bar": bar, **note}}
        for peer, bar in BARS.items()
    ]


def _interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(cpu_seconds(call))
    return times


def main() -> None:
    """One JSON object a row."""
    for row in measure(*map(int, sys.argv[1:])):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
