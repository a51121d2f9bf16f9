"""genotypes.sequences: microseconds a window and haplotype of 2,048 bases, against a fetch of each by pysam.

python -m tests.benchmarks.sequences

CPU-seconds of this process, medians of interleaved runs; what is compiled is compiled before, and reported.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.windows import Edits, edits, haplotype_windows, reference_windows, tokens

PEOPLE, BASES, VARIANTS, WINDOWS, WIDTH, ROUNDS = 500, 1_000_000, 20_000, 64, 2_048, 5
NAIVE_PEOPLE = 2


@dataclass(frozen=True, eq=False)
class Cohort:
    """A made-up contig and phased genotypes: codes (people, V) uint8 of both haplotypes."""

    contig: str
    pos: NDArray[np.int64]
    ref: list[str]
    alt: list[str]
    codes: NDArray[np.uint8]


def cohort(rng: np.random.Generator, people: int, bases: int, variants: int) -> Cohort:
    """Two thirds substitutions, the rest insertions and deletions of up to 8 bases, none overlapping another."""
    contig = "".join(rng.choice(list("ACGT"), bases).tolist())
    step = bases // variants
    pos = np.arange(variants, dtype=np.int64) * step + 1 + rng.integers(0, step - 9, variants)
    ref, alt = [], []
    for at, kind, size in zip(pos.tolist(), rng.integers(0, 6, variants), rng.integers(1, 9, variants), strict=True):
        base = contig[at - 1]
        letters = "".join(rng.choice(list("ACGT"), size).tolist())
        ref.append(contig[at - 1 : at + size] if kind == 0 else base)
        alt.append(base if kind == 0 else base + letters if kind == 1 else "CGTA"["ACGT".index(base)])
    frequency = rng.beta(0.3, 1.5, variants)
    sides = rng.random((2, people, variants)) < frequency
    return Cohort(contig, pos, ref, alt, (sides[0] + 2 * sides[1]).astype(np.uint8))


def table(made: Cohort) -> Edits:
    return edits(tokens(made.contig.encode()), made.pos, made.ref, made.alt)


def write(made: Cohort, folder: Path) -> tuple[str, str]:
    """FASTA and indexed VCF.gz."""
    import pysam

    fasta, vcf = folder / "contig.fa", folder / "people.vcf"
    fasta.write_text(">1\n" + made.contig + "\n")
    names = "\t".join(f"p{person}" for person in range(len(made.codes)))
    calls = np.array(["0|0", "1|0", "0|1", "1|1"])
    with vcf.open("w") as file:
        file.write(f"##fileformat=VCFv4.3\n##contig=<ID=1,length={len(made.contig)}>\n")
        file.write('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n')
        file.write(f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{names}\n")
        for at, (pos, ref, alt) in enumerate(zip(made.pos.tolist(), made.ref, made.alt, strict=True)):
            file.write(f"1\t{pos}\t.\t{ref}\t{alt}\t.\tPASS\t.\tGT\t" + "\t".join(calls[made.codes[:, at]]) + "\n")
    pysam.faidx(str(fasta))
    return str(fasta), str(pysam.tabix_index(str(vcf), preset="vcf", force=True))


def naively(fasta: str, vcf: str, people: int, starts: list[int], width: int) -> list[list[list[str]]]:
    """[person][haplotype][window]: the reference and the records of each window are fetched anew."""
    import pysam

    found: list[list[list[str]]] = [[[], []] for _ in range(people)]
    with pysam.FastaFile(fasta) as contig, pysam.VariantFile(vcf) as file:
        for person in range(people):
            for side in range(2):
                for start in starts:
                    letters, place = "", start
                    for record in file.fetch("1", start, start + 2 * width):
                        allele = str((record.samples[person].alleles or ())[side])
                        if record.start < place or allele == record.ref:
                            continue
                        letters += contig.fetch("1", place, record.start) + allele
                        place = record.stop
                    letters += contig.fetch("1", place, place + width)
                    found[person][side].append(letters[:width].ljust(width, "N"))
    return found


def measure(
    folder: Path, people: int = PEOPLE, bases: int = BASES, variants: int = VARIANTS, windows: int = WINDOWS,
    width: int = WIDTH, rounds: int = ROUNDS,
) -> dict[str, object]:  # fmt: skip
    """The row."""
    rng = np.random.default_rng(1)
    made = cohort(rng, people, bases, variants)
    fasta, vcf = write(made, folder)
    reference, edited = tokens(made.contig.encode()), table(made)
    # Windows begin and end where no variant is, so that a plain fetch reads the same.
    starts = np.sort(rng.choice(variants - 2 * width * variants // bases, windows, replace=False)) * (bases // variants)
    few = min(people, NAIVE_PEOPLE)
    cold = _seconds(lambda: haplotype_windows(reference, edited, made.codes[:1], starts[:1], width))
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "ours": (lambda: haplotype_windows(reference, edited, made.codes, starts, width), 2 * people * windows),
        "pysam": (lambda: naively(fasta, vcf, few, starts.tolist(), width), 2 * few * windows),
        "reference alone": (lambda: reference_windows(reference, starts, width), windows),
        "memcpy": (lambda: np.repeat(reference[None, :width], 2 * people * windows, axis=0), 2 * people * windows),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, units) in calls.items():
            times[name].append(1e6 * _seconds(call) / units)
    found = {name: round(statistics.median(each), 3) for name, each in times.items()}
    ours = haplotype_windows(reference, edited, made.codes[:few], starts, width).tokens
    naive = tokens("".join(t for p in naively(fasta, vcf, few, starts.tolist(), width) for s in p for t in s).encode())
    note = {
        "us a window and haplotype": found,
        "pysam / ours": round(found["pysam"] / found["ours"]),
        "different windows": int((ours.reshape(-1, width) != naive.reshape(-1, width)).any(axis=1).sum()),
        "people, bases, variants, windows, width": [people, bases, variants, windows, width],
        "first call, s": round(cold, 2),
    }
    return {"row": "genotypes.sequences", "value": found["ours"], "note": note}


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """One JSON object a row."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder))), flush=True)


if __name__ == "__main__":
    main()
