"""A simulated cohort as files: what each hospital has, what is public, and what only a simulation knows."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from genopact_server.association import HEADER, log10p
from genopact_server.demo.cohort import CONSENT_COLUMNS, CONSENTS, write_table, write_vcf
from genopact_server.simulate.haplotypes import ANCESTRIES, CHROMOSOME, LENGTH, Advance
from genopact_server.simulate.people import HOSPITALS, Cohort
from genopact_shared import __version__
from genopact_shared.recipes.variants import CONTIG_LENGTHS

MISSING, AGELESS = 0.005, 0.01
"""Share of a hospital's calls, and of its people's ages."""
COVARIATES = ("person", "age", "sex", "disease", "held_out")
SITES = ("chrom", "pos", "id", "ref", "alt", "frequency", *(f"af_{name}" for name in ANCESTRIES))
REGENIE = [name for name in HEADER.split() if name not in {"TEST", "EXTRA"}]
_CALLS = np.frombuffer(b"\t0/0\t0/1\t1/1\t./.", np.uint32)
"""By copies of ALT; the last one, -1, is missing."""
Texts = NDArray[np.str_]


def write(cohort: Cohort, folder: Path, advance: Advance = lambda _: None) -> dict[str, Any]:
    """Write everything into `folder`; returns what simulation.json says.

    `advance` is called once for each hospital and once for the rest.
    """
    about, sites, rng = provenance(cohort), _sites(cohort), default_rng([cohort.design.seed, 1])
    ages = np.where(rng.random(len(cohort.age)) < AGELESS, "", np.strings.mod("%.1f", cohort.age))
    sexes = np.array(["female", "male"])[cohort.sex]
    people = np.array([f"{HOSPITALS[at].name}-{number:06d}" for number, at in enumerate(cohort.hospital, 1)])
    covariates = np.column_stack([people, ages, sexes, cohort.disease, cohort.held_out.astype(np.int8)])
    answers = rng.choice(np.array(list(CONSENTS)), len(people), p=list(CONSENTS.values()))
    consents = np.column_stack([people, answers])
    fixed = ["chr" + "\t".join(site) + "\t.\tPASS\t.\tGT" for site in sites]
    lengths = CONTIG_LENGTHS["GRCh38"] | {str(CHROMOSOME): LENGTH}
    for at, name in enumerate(about["hospitals"]):
        mine, place = cohort.hospital == at, folder / "hospitals" / name
        place.mkdir(parents=True)
        write_table(place / "covariates.csv", covariates[mine], COVARIATES)
        write_table(place / "consent.csv", consents[mine], CONSENT_COLUMNS)
        missing = rng.random((np.count_nonzero(mine), about["variants"])) < MISSING
        calls = (row.tobytes().decode() for row in _CALLS[np.where(missing, -1, cohort.dosages[mine]).T])
        write_vcf(place / "genotypes.vcf.gz", people[mine], map(str.__add__, fixed, calls), lengths)
        advance(1)
    _write_public(folder / "public", cohort, sites)
    arrays = {name: value for name, value in vars(cohort).items() if isinstance(value, np.ndarray)}
    del arrays["dosages"], arrays["panel"]
    np.savez(folder / "truth.npz", allow_pickle=False, person=people, **arrays)
    (folder / "simulation.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")
    advance(1)
    return about


def provenance(cohort: Cohort) -> dict[str, Any]:
    """Of what and with what the cohort was made, and counts."""
    parts = {"people": cohort.hospital >= 0, "held_out": cohort.held_out, "cases": cohort.disease == 1}
    parts |= {name: cohort.ancestry == k for k, name in enumerate(ANCESTRIES)}
    used = ("numpy", "msprime") if cohort.design.method == "coalescent" else ("numpy",)
    versions = {"genopact": __version__} | {name: version(name) for name in used}
    studied = {name: gwas.n for name, gwas in zip(ANCESTRIES, cohort.gwas, strict=True)}
    hospitals = dict[str, dict[str, int]]()
    for at, site in enumerate(HOSPITALS[: cohort.design.hospitals]):
        hospitals[site.name] = {name: int(part[cohort.hospital == at].sum()) for name, part in parts.items()}
    about = {"parameters": vars(cohort.design), "versions": versions, "variants": cohort.dosages.shape[1]}
    return about | {"studied": studied, "hospitals": hospitals}


def _sites(cohort: Cohort) -> Texts:
    """(V, 5) chromosome, position, name, REF and ALT of each typed variant."""
    columns = (cohort.chrom, cohort.pos, cohort.ref, cohort.alt)
    sites = np.column_stack([column.astype(np.str_) for column in columns])[cohort.typed]
    return np.column_stack([sites[:, :2], [":".join(site) for site in sites], sites[:, 2:]])


def _write_public(folder: Path, cohort: Cohort, sites: Texts) -> None:
    folder.mkdir()
    write_table(folder / "panel.bim", ((chrom, name, 0, pos, alt, ref) for chrom, pos, name, ref, alt in sites))
    copies, groups = cohort.panel.T, np.array(ANCESTRIES)[cohort.panel_ancestry]
    bits = np.stack([copies == 0, copies < 2], axis=2).reshape(len(sites), -1)  # 0, 1, 2 copies of A1: 3, 2, 0
    (folder / "panel.bed").write_bytes(b"\x6c\x1b\x01" + np.packbits(bits, axis=1, bitorder="little").tobytes())
    write_table(folder / "panel.fam", ((of, f"panel-{at:05d}", 0, 0, 0, -9) for at, of in enumerate(groups, 1)))
    parts = (groups != "", *(groups == of for of in ANCESTRIES))
    shares = [np.strings.mod("%.6f", copies[:, part].mean(axis=1) / 2) for part in parts]
    write_table(folder / "sites.tsv", np.column_stack([sites, *shares]), SITES)
    for of, gwas in zip(ANCESTRIES, cohort.gwas, strict=True):
        chisq = (gwas.beta / gwas.se) ** 2
        numbers = (gwas.frequency, np.full(len(chisq), gwas.n), gwas.beta, gwas.se, chisq, log10p(chisq))
        cells = [np.strings.mod("%.8g", each) for each in numbers]
        write_table(folder / f"gwas-{of}.tsv", np.column_stack([sites, *cells]), REGENIE)
