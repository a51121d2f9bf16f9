"""A simulated cohort for the benchmarks of genotypes: a bgzip VCF with its FASTA and a list of its sites.

python -m tests.benchmarks.genotype_cohort 5000 50000

msprime, three populations. Of the records, 8 % are insertions or deletions, 3 % have two ALTs, 7 % fail their filter;
0.2 to 8 % of a record's calls are missing; calls are phased. REF is what the FASTA says.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SEED = 22
VERSION = 1  # of what is written: another number is another folder
FASTA, SITES = "reference.fa", "sites.tsv"
"""Names of the files beside the VCF. Sites: chrom, pos, ref, alt, frequency of alt; a line for each ALT."""
INDELS, TWO_ALTS, FAILED = 0.08, 0.03, 0.07
_HEADER = """##fileformat=VCFv4.2
##FILTER=<ID=PASS,Description="All filters passed">
##FILTER=<ID=q10,Description="Quality below 10">
##INFO=<ID=AC,Number=A,Type=Integer,Description="Copies of each ALT">
##INFO=<ID=AN,Number=1,Type=Integer,Description="Called alleles">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##contig=<ID=chr22,length={length}>
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{samples}
"""


def cohort(people: int, variants: int) -> Path:
    """The VCF, from the folder of temporary files if it was made before."""
    base = Path(tempfile.gettempdir()) / "genopact-benchmarks"
    folder = base / f"{people}x{variants}.{VERSION}"
    if not folder.is_dir():
        base.mkdir(exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=base))
        _write(new, people, variants)
        try:
            new.rename(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(new)
    return folder / "cohort.vcf.gz"


def _write(folder: Path, people: int, variants: int) -> None:
    import pysam

    positions, length, haplotypes = _simulated(people, variants)
    rng = np.random.default_rng(SEED)
    genome = rng.choice(np.frombuffer(b"ACGT", np.uint8), length)
    with (folder / FASTA).open("wb") as file:
        file.write(b">chr22\n")
        for at in range(0, length, 60):
            file.write(genome[at : at + 60].tobytes() + b"\n")
    header = _HEADER.format(length=length, samples="\t".join(f"P{number:06}" for number in range(people)))
    with pysam.BGZFile(str(folder / "cohort.vcf.gz"), "wb", None) as vcf, (folder / SITES).open("w") as sites:
        vcf.write(header.encode())
        for position, calls in zip(positions.tolist(), haplotypes, strict=True):
            ref, alts = _alleles(genome, position, rng)
            if len(alts) == 2:
                calls[people:] *= 2  # another ALT in the other half of the people
            cells = _cells(calls, rng)
            counts = [int(np.count_nonzero(cells[:, [0, 2]] == ord("0") + allele)) for allele in range(len(alts) + 1)]
            sites.writelines(
                f"chr22\t{position + 1}\t{ref}\t{alt}\t{count / sum(counts):.6f}\n"
                for alt, count in zip(alts, counts[1:], strict=True)
            )
            fixed = ("chr22", position + 1, ".", ref, ",".join(alts), rng.integers(10, 100))
            failed = "q10" if rng.random() < FAILED else "PASS"
            info = f"AC={','.join(map(str, counts[1:]))};AN={sum(counts)}"
            vcf.write("\t".join(map(str, (*fixed, failed, info, "GT", ""))).encode() + cells.tobytes())


def _simulated(people: int, variants: int) -> tuple[NDArray[np.int64], int, Iterator[NDArray[np.int8]]]:
    """Positions from 0, the contig's length, and each site's 2 * people haplotypes."""
    import msprime

    history = msprime.Demography()
    for name in ("A", "B", "C", "ancestors"):
        history.add_population(name=name, initial_size=10_000)
    history.add_population_split(time=2_000, derived=["A", "B", "C"], ancestral="ancestors")
    sizes = {"A": people - 2 * (people // 3), "B": people // 3, "C": people // 3}
    length = 80 * variants + 20_000
    while True:
        trees = msprime.sim_ancestry(
            sizes, demography=history, sequence_length=length, recombination_rate=1e-8, random_seed=SEED
        )
        trees = msprime.sim_mutations(trees, rate=1.5e-8, random_seed=SEED)
        if trees.num_sites >= variants:
            break
        length *= 2
    kept = np.sort(np.random.default_rng(SEED).permutation(trees.num_sites)[:variants])
    thinned = trees.delete_sites(np.setdiff1d(np.arange(trees.num_sites), kept))
    calls = (np.minimum(site.genotypes, 1).astype(np.int8) for site in thinned.variants())
    return thinned.sites_position.astype(np.int64), length + 10, calls


def _alleles(genome: NDArray[np.uint8], position: int, rng: np.random.Generator) -> tuple[str, list[str]]:
    """REF as the genome has it, and one or two ALTs."""
    ref, kind = chr(genome[position]), rng.random()
    others = [base for base in "ACGT" if base != ref]
    rng.shuffle(others)
    if kind < INDELS / 2:
        return ref, [ref + "".join(rng.choice(list("ACGT"), rng.integers(1, 9)))]
    if kind < INDELS:
        return bytes(genome[position : position + rng.integers(2, 10)]).decode(), [ref]
    return ref, others[: 2 if kind < INDELS + TWO_ALTS else 1]


def _cells(calls: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(people, 4) letters, the last a line feed."""
    cells = np.empty((len(calls) // 2, 4), np.uint8)
    cells[:, 0], cells[:, 1], cells[:, 2], cells[:, 3] = calls[0::2] + 48, ord("|"), calls[1::2] + 48, ord("\t")
    cells[rng.random(len(cells)) < np.exp(rng.uniform(np.log(0.002), np.log(0.08))), :3] = tuple(b"./.")
    cells[-1, 3] = ord("\n")
    return cells


if __name__ == "__main__":
    print(cohort(int(sys.argv[1]), int(sys.argv[2])))
