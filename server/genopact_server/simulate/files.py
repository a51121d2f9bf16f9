"""A simulated cohort as files: what each hospital has, what is public, and what only a simulation knows."""

import csv
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from genopact_server.demo.cohort import CONSENT_COLUMNS, CONSENTS
from genopact_server.simulate.haplotypes import ANCESTRIES, CHROMOSOMES, Advance
from genopact_server.simulate.people import HOSPITALS, Codes, Cohort, Mask
from genopact_server.simulate.public import Gwas
from genopact_shared import __version__
from genopact_shared.recipes.variants import CONTIG_LENGTHS

MISSING = 0.005
"""Share of a hospital's calls."""
BLOCK = 1_000_000
"""Bases of a linkage block."""
COVARIATES = ("person", "age", "sex", "disease")
REGENIE = (
    "CHROM", "GENPOS", "ID", "ALLELE0", "ALLELE1", "A1FREQ", "N", "TEST", "BETA", "SE", "CHISQ", "LOG10P", "EXTRA",
)  # fmt: skip
_CALLS = np.frombuffer(b"\t0/0\t0/1\t1/1\t./.", np.uint32)
"""By copies of ALT; the last one, -1, is missing."""
_CODES = np.array([3, 2, 0], np.uint8)
"""Of a .bed, by copies of A1."""


def write(cohort: Cohort, folder: Path, advance: Advance = lambda _: None) -> dict[str, Any]:
    """Write everything into `folder`; returns what simulation.json says.

    `advance` is called once for each hospital and once for the rest.
    """
    people = _names(cohort)
    for at, site in enumerate(HOSPITALS[: cohort.design.hospitals]):
        mine = cohort.hospital == at
        rng = default_rng([cohort.design.seed, 3, at])
        place, training, held_out = folder / "hospitals" / site.name, mine & ~cohort.held_out, mine & cohort.held_out
        place.mkdir(parents=True)
        for part, vcf, table in ((training, "genotypes", "covariates"), (held_out, "held-out", "held-out")):
            _write_vcf(place / f"{vcf}.vcf.gz", cohort, people, part, rng)
            _write(place / f"{table}.csv", [COVARIATES, *_covariates(cohort, people, part)], ",")
        answers = rng.choice(len(CONSENTS), np.count_nonzero(training), p=list(CONSENTS.values())).tolist()
        consents = zip(people[training].tolist(), answers, strict=True)
        rows = [CONSENT_COLUMNS, *((person, *list(CONSENTS)[answer]) for person, answer in consents)]
        _write(place / "consent.csv", rows, ",")
        advance(1)
    _write_public(folder / "public", cohort)
    truth = {name: value for name, value in vars(cohort).items() if isinstance(value, np.ndarray)}
    del truth["dosages"], truth["panel"]
    np.savez(folder / "truth.npz", allow_pickle=False, person=people, y=truth.pop("disease"), **truth)
    about = provenance(cohort)
    (folder / "simulation.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")
    advance(1)
    return about


def provenance(cohort: Cohort) -> dict[str, Any]:
    """Of what and with what the cohort was made, and counts."""
    design, hospitals = cohort.design, dict[str, Any]()
    for at, site in enumerate(HOSPITALS[: design.hospitals]):
        mine = cohort.hospital == at
        mix = np.bincount(cohort.ancestry[mine], minlength=len(ANCESTRIES)).tolist()
        people, held_out = int(mine.sum()), int(cohort.held_out[mine].sum())
        hospitals[site.name] = {
            "people": people, "training": people - held_out, "held_out": held_out,
            "cases": int(cohort.disease[mine].sum()), "ancestry": dict(zip(ANCESTRIES, mix, strict=True)),
        }  # fmt: skip
    used = ("numpy", "msprime") if design.method == "coalescent" else ("numpy",)
    versions = {"genopact": __version__, **{name: version(name) for name in used}}
    return {
        "format": "genopact.simulation/1", "seed": design.seed, "parameters": dict(vars(design)), "versions": versions,
        "variants": int(cohort.typed.sum()), "untyped": int((~cohort.typed).sum()),
        "causal": int(cohort.effects.any(axis=1).sum()), "panel": len(cohort.panel),
        "gwas": {name: gwas.n for name, gwas in zip(ANCESTRIES, cohort.gwas, strict=True)}, "hospitals": hospitals,
    }  # fmt: skip


def _names(cohort: Cohort) -> NDArray[np.str_]:
    """(n,) persons, numbered within their hospital."""
    sizes = np.bincount(cohort.hospital)
    return np.array([f"{HOSPITALS[at].name}-{one:05d}" for at, size in enumerate(sizes) for one in range(1, size + 1)])


def _covariates(cohort: Cohort, people: NDArray[np.str_], part: Mask) -> Iterable[Sequence[str]]:
    ages = (f"{age:.1f}" for age in cohort.age[part].tolist())
    sexes = (("female", "male")[sex] for sex in cohort.sex[part].tolist())
    return zip(people[part].tolist(), ages, sexes, map(str, cohort.disease[part].tolist()), strict=True)


def _sites(cohort: Cohort) -> list[tuple[str, str, str, str, str]]:
    """Chromosome, position, name, REF and ALT of each typed variant."""
    columns = (cohort.chrom, cohort.pos, cohort.ref, cohort.alt)
    rows = zip(*(column[cohort.typed].tolist() for column in columns), strict=True)
    return [(str(chrom), str(pos), f"{chrom}:{pos}:{ref}:{alt}", ref, alt) for chrom, pos, ref, alt in rows]


def _write_vcf(path: Path, cohort: Cohort, people: NDArray[np.str_], part: Mask, rng: Generator) -> None:
    lengths = {int(name): size for name, size in CONTIG_LENGTHS["GRCh38"].items()}
    lengths |= {name: size for name, (size, _) in CHROMOSOMES.items()}
    lines = ["##fileformat=VCFv4.2", '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">']
    lines += [f"##contig=<ID=chr{name},length={size}>" for name, size in sorted(lengths.items())]
    lines.append("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + "\t".join(people[part].tolist()))
    dosages = np.ascontiguousarray(cohort.dosages[part].T)
    dosages[rng.random(dosages.shape, np.float32) < MISSING] = -1
    for (chrom, pos, name, ref, alt), calls in zip(_sites(cohort), dosages, strict=True):
        fixed = f"chr{chrom}\t{pos}\t{name}\t{ref}\t{alt}\t.\tPASS\t.\tGT"
        lines.append(fixed + _CALLS[calls].tobytes().decode())
    write_bgzf(path, "".join(line + "\n" for line in lines))


def write_bgzf(path: Path, text: str) -> None:
    """Compressed as tabix and every reader of VCF expect it."""
    import pysam

    with pysam.BGZFile(str(path), "wb", None) as file:
        file.write(text.encode())


def _write_public(folder: Path, cohort: Cohort) -> None:
    folder.mkdir()
    sites = _sites(cohort)
    _write_bed(folder / "panel.bed", cohort.panel)
    _write(folder / "panel.bim", ((chrom, name, "0", pos, alt, ref) for chrom, pos, name, ref, alt in sites))
    sexes = default_rng([cohort.design.seed, 4]).integers(1, 3, len(cohort.panel)).tolist()
    groups = [ANCESTRIES[k] for k in cohort.panel_ancestry.tolist()]
    people = enumerate(zip(groups, sexes, strict=True), 1)
    _write(folder / "panel.fam", ((of, f"panel-{at:05d}", "0", "0", str(sex), "-9") for at, (of, sex) in people))
    shares = [cohort.panel[cohort.panel_ancestry == k].mean(axis=0) / 2 for k in range(len(ANCESTRIES))]
    head = ("chrom", "pos", "ref", "alt", "effect", "frequency", "id", "gene", "block")
    rows: list[Sequence[str]] = [(*head, *(f"af_{name}" for name in ANCESTRIES))]
    for (chrom, pos, name, ref, alt), *each in zip(sites, *(share.tolist() for share in shares), strict=True):
        shown = [f"{share:.6f}" for share in (sum(each) / len(each), *each)]
        block = f"chr{chrom}-{int(pos) // BLOCK}"
        rows.append((f"chr{chrom}", pos, ref, alt, "alt", shown[0], name, ".", block, *shown[1:]))
    _write(folder / "sites.tsv", rows)
    for name, gwas in zip(ANCESTRIES, cohort.gwas, strict=True):
        _write_gwas(folder / f"gwas-{name}.tsv", sites, gwas)


def _write_gwas(path: Path, sites: Iterable[tuple[str, str, str, str, str]], gwas: Gwas) -> None:
    columns = (gwas.frequency, gwas.beta, gwas.se, gwas.chisq, gwas.log10p)
    rows: list[Sequence[str]] = [REGENIE]
    for (chrom, pos, name, ref, alt), *numbers in zip(sites, *(column.tolist() for column in columns), strict=True):
        share, *tested = (f"{number:.6g}" for number in numbers)
        rows.append((chrom, pos, name, ref, alt, share, str(gwas.n), "ADD", *tested, "NA"))
    _write(path, rows)


def _write_bed(path: Path, dosages: Codes) -> None:
    """PLINK 1, variant after variant, A1 is ALT."""
    codes = np.zeros((dosages.shape[1], -(-len(dosages) // 4), 4), np.uint8)
    codes.reshape(len(codes), -1)[:, : len(dosages)] = _CODES[dosages.T]
    packed = (codes << np.array([0, 2, 4, 6], np.uint8)).sum(axis=2, dtype=np.uint8)
    path.write_bytes(b"\x6c\x1b\x01" + packed.tobytes())


def _write(path: Path, rows: Iterable[Sequence[str]], delimiter: str = "\t") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
