"""Generated hospitals for demonstrations and tests: no real person, and reproducible from a seed.

Sources: allele frequencies rounded from 1000 Genomes (Nature 2015;526:68-74) and CPIC's CYP2C9 table (Clin Pharmacol
Ther 2017;102:397-404); doses from the IWPC equation (N Engl J Med 2009;360:753-764) with a normal residual on the
square-root scale and a shift of each hospital; body size and drugs are plausible round numbers. Tables: cohort.toml.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from genopact_shared.errors import beside
from genopact_shared.recipes.dose_features import OUTCOME, RACES, SCHEMA
from genopact_shared.recipes.equation import iwpc_weekly_dose
from genopact_shared.recipes.table import Choice, Codes, Column, Dosage, Floats, Table
from genopact_shared.recipes.variants import CONTIG_LENGTHS, VARIANTS, Variant

RESIDUAL_SD = 1.1
"""Of sqrt(mg/week)."""
_TABLES = beside(__file__)
CONSENT_COLUMNS = tuple(map(str, _TABLES["consents"]["columns"]))
CONSENTS: dict[tuple[str, ...], float] = {tuple(answer): share for share, *answer in _TABLES["consents"]["rows"]}
"""Answers after the person, and their shares."""


class Hospital(NamedTuple):
    """One generated site. `mix`: shares of RACES; `shift`: on sqrt(mg/week); `lacks`: columns that it does not have."""

    name: str
    people: int
    mix: Sequence[float]
    shift: float = 0.0
    lacks: Sequence[str] = ()


HOSPITALS = tuple(Hospital(**each) for each in _TABLES["hospitals"])


def generate(n: int, seed: int, mix: Sequence[float], shift: float = 0.0) -> Table:
    """A complete table of n people with every column of the dose recipe's schema.

    Args:
        n: people.
        seed: of numpy's generator; the same seed gives the same people.
        mix: shares of RACES, in their order; they add up to 1.
        shift: the site's own shift of sqrt(mg/week).
    """
    rng = default_rng(seed)
    race = rng.choice(len(RACES), n, p=np.asarray(mix))
    sex = rng.integers(0, 2, n)
    women, index, spread = np.array([_TABLES["body"][name] for name in RACES])[race].T
    height = rng.normal(women + 13 * sex, 7.0).clip(135, 210)
    weight = (rng.normal(index, spread).clip(16, 55) * (height / 100) ** 2).clip(35, 230)
    columns: dict[str, Floats | Codes] = {"age_decade": np.floor(rng.normal(64, 14, n).clip(18, 95) / 10)}
    columns |= {"height_cm": height.round(1), "weight_kg": weight.round(1)}
    columns |= {"sex": sex.astype(np.int8), "race": race.astype(np.int8)}
    columns |= {name: (rng.random(n) < share).astype(np.int8) for name, share in _TABLES["flags"].items()}
    columns |= _genotypes(rng, race)
    root = np.sqrt(iwpc_weekly_dose(Table(columns, n))) + shift + rng.normal(0, RESIDUAL_SD, n)
    columns[OUTCOME] = (np.round(root.clip(1.7, 12) ** 2 * 2) / 2).astype(np.float64)
    return Table(columns, n)


def write_site(folder: Path, hospital: Hospital, seed: int) -> Table:
    """Write `covariates.csv`, `genotypes.vcf.gz` (GRCh38) and `consent.csv`; returns the complete truth."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = generate(hospital.people, seed, hospital.mix, hospital.shift)
    rng = default_rng([seed, 1])
    people = [f"{hospital.name}-{number:05d}" for number in range(1, truth.n + 1)]
    has = [column for column in SCHEMA if column.name not in hospital.lacks]
    covariates = [column for column in has if not isinstance(column, Dosage)]
    texts = [_texts(column, truth, rng) for column in covariates]
    header = ("person", *(column.name for column in covariates))
    write_table(folder / "covariates.csv", zip(people, *texts, strict=True), header)
    found = [(VARIANTS[each.rsid], _calls(each, truth, rng)) for each in has if isinstance(each, Dosage)]
    found.sort(key=lambda pair: (pair[0].chrom, pair[0].positions["GRCh38"]))
    write_vcf(folder / "genotypes.vcf.gz", people, (_vcf_line(*each) for each in found), CONTIG_LENGTHS["GRCh38"])
    answers = rng.choice(len(CONSENTS), truth.n, p=list(CONSENTS.values())).tolist()
    consents = ((person, *list(CONSENTS)[answer]) for person, answer in zip(people, answers, strict=True))
    write_table(folder / "consent.csv", consents, CONSENT_COLUMNS)
    return truth


def _genotypes(rng: Generator, race: NDArray[np.int64]) -> dict[str, Codes]:
    def draw(frequencies: Mapping[str, Sequence[float]]) -> NDArray[np.int64]:
        """(n, 2) haplotype numbers."""
        steps = np.cumsum([frequencies[name] for name in RACES], axis=1)[race]
        return np.asarray((rng.random((len(race), 2, 1)) > steps[:, None, :-1]).sum(axis=2))

    low = np.array(_TABLES["haplotypes"])[draw(_TABLES["vkorc1"])].sum(axis=1).astype(np.int8)
    star = draw(_TABLES["cyp2c9"])
    names = ("vkorc1_1639", "vkorc1_1173", "vkorc1_1542", "vkorc1_2255")
    vkorc1 = {name: low[:, place].copy() for place, name in enumerate(names)}
    return vkorc1 | {f"cyp2c9_{allele}": (star == allele - 1).sum(axis=1).astype(np.int8) for allele in (2, 3)}


def _texts(column: Column, truth: Table, rng: Generator) -> list[str]:
    """Cells of one column; about 2 % of a feature's are empty."""
    values = truth.columns[column.name].tolist()
    texts = [column.levels[int(value)] if isinstance(column, Choice) else f"{value:g}" for value in values]
    empty = rng.random(truth.n) < (0.02 if column.role == "feature" else 0.0)
    return ["" if gap else text for gap, text in zip(empty, texts, strict=True)]


def _calls(column: Dosage, truth: Table, rng: Generator) -> list[str]:
    """GT fields; about 1 % are missing."""
    effect_is_ref = column.effect == VARIANTS[column.rsid].ref
    alternate = 2 - truth.codes(column.name) if effect_is_ref else truth.codes(column.name)
    gaps = rng.random(truth.n) < 0.01
    return ["./." if gap else ("0/0", "0/1", "1/1")[copies] for gap, copies in zip(gaps, alternate, strict=True)]


def _vcf_line(site: Variant, calls: Sequence[str]) -> str:
    fixed = f"chr{site.chrom}\t{site.positions['GRCh38']}\t{site.rsid}\t{site.ref}\t{site.alt}\t.\tPASS\t.\tGT"
    return "\t".join([fixed, *calls])


def write_vcf(path: Path, people: Iterable[str], rows: Iterable[str], lengths: Mapping[str, int]) -> None:
    """Write lines under a header, compressed as tabix expects it. lengths: of contigs, whose names get `chr`."""
    import pysam

    head = ["##fileformat=VCFv4.2", '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">']
    head += [f"##contig=<ID=chr{name},length={size}>" for name, size in lengths.items()]
    head.append("\t".join(["#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT", *people]))
    with pysam.BGZFile(str(path), "wb", None) as file:
        file.write("".join(f"{line}\n" for line in (*head, *rows)).encode())


def write_table(path: Path, rows: Iterable[Iterable[object]], head: Iterable[str] | None = None) -> None:
    """Write cells with commas between them if the name ends in .csv, else with tabs."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t", lineterminator="\n")
        writer.writerows([head] if head else [])
        writer.writerows(rows)
