"""Generated hospitals for demonstrations and tests: no real person, and reproducible from a seed.

Sources: allele frequencies rounded from 1000 Genomes (Nature 2015;526:68-74) and CPIC's CYP2C9 table (Clin Pharmacol
Ther 2017;102:397-404); doses from the IWPC equation (N Engl J Med 2009;360:753-764) with a normal residual on the
square-root scale and a shift of each hospital; body size and drugs are plausible round numbers.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from genopact_shared.recipes.dose_features import OUTCOME, RACES, SCHEMA
from genopact_shared.recipes.equation import iwpc_weekly_dose
from genopact_shared.recipes.protocol import Choice, Codes, Column, Dosage, Floats, Table
from genopact_shared.recipes.variants import CONTIG_LENGTHS, VARIANTS

RESIDUAL_SD = 1.1
"""Of sqrt(mg/week)."""
HAPLOTYPES = ((0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1))
"""VKORC1: low-dose alleles at rs9923231, rs9934438, rs8050894, rs2359612. The third breaks the linkage in Africans."""
VKORC1 = {  # shares of the haplotypes
    "White": (0.61, 0.39, 0.0),
    "Asian": (0.10, 0.90, 0.0),
    "Black or African American": (0.74, 0.10, 0.16),
    "other or unknown": (0.56, 0.41, 0.03),
}
CYP2C9 = {  # *1, *2, *3
    "White": (0.80, 0.13, 0.07),
    "Asian": (0.96, 0.00, 0.04),
    "Black or African American": (0.965, 0.023, 0.012),
    "other or unknown": (0.89, 0.07, 0.04),
}
BODY = {  # height of women in cm (men: +13), body mass index, its spread
    "White": (163.0, 28.5, 6.0),
    "Asian": (155.0, 23.5, 3.5),
    "Black or African American": (163.0, 30.0, 7.0),
    "other or unknown": (160.0, 27.5, 6.0),
}
CONSENT_COLUMNS = (
    "person", "status", "permission", "diseases", "uses", "org_types", "commercial_use", "regions", "data",
    "valid_from", "valid_until", "form",
)  # fmt: skip
_FORM, _USES, _DATA = "BROAD|1.2", "train;validate;predict;federated_stats", "genotype;drug;ehr"
_ORGANISATIONS = "public;nonprofit;commercial"
_SINCE, _UNTIL = "2022-01-01", "2051-12-31"
CONSENTS: dict[tuple[str, ...], float] = {
    ("active", "GRU", "", _USES, _ORGANISATIONS, "allowed", "*", _DATA, _SINCE, _UNTIL, _FORM): 0.45,
    ("active", "HMB", "", _USES, _ORGANISATIONS, "allowed", "*", _DATA, _SINCE, _UNTIL, _FORM): 0.40,
    ("active", "DS", "MONDO:0005399", _USES, _ORGANISATIONS, "never", "*", _DATA, _SINCE, _UNTIL, _FORM): 0.02,
    ("active", "HMB", "", "validate", "public;nonprofit", "never", "*", _DATA, _SINCE, _UNTIL, _FORM): 0.02,
    ("active", "HMB", "", _USES, "public", "never", "*", "drug;ehr", _SINCE, _UNTIL, _FORM): 0.01,
    ("active", "GRU", "", _USES, _ORGANISATIONS, "allowed", "*", _DATA, "2014-01-01", "2019-12-31", "BROAD|1.0"): 0.02,
    **{(status, *[""] * 10): share for status, share in
       {"refused": 0.03, "withdrawn": 0.02, "not_asked": 0.02, "unknown": 0.01}.items()},
}  # fmt: skip
"""Answers after the person, and their shares: 85 % permit a general medical study, the others do not or not all."""
FLAGS = {"amiodarone": 0.05, "carbamazepine": 0.007, "phenytoin": 0.008, "rifampin": 0.003, "smoker": 0.13}


@dataclass(frozen=True)
class Hospital:
    """One generated site. `mix`: shares of RACES; `shift`: on sqrt(mg/week); `lacks`: columns that it does not have."""

    name: str
    people: int
    mix: tuple[float, float, float, float]
    shift: float = 0.0
    lacks: tuple[str, ...] = ()


HOSPITALS = (
    Hospital("northgate", 420, (0.90, 0.03, 0.04, 0.03)),
    Hospital("eastharbour", 330, (0.06, 0.88, 0.02, 0.04), shift=-0.15),
    Hospital("riverside", 600, (0.52, 0.05, 0.36, 0.07), shift=0.2, lacks=("vkorc1_1639",)),
    Hospital("hillcrest", 160, (0.80, 0.08, 0.06, 0.06), shift=-0.05, lacks=("smoker", "height_cm")),
)


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
    women, index, spread = np.array([BODY[name] for name in RACES])[race].T
    height = rng.normal(women + 13 * sex, 7.0).clip(135, 210)
    weight = (rng.normal(index, spread).clip(16, 55) * (height / 100) ** 2).clip(35, 230)
    columns: dict[str, Floats | Codes] = {
        "age_decade": np.floor(rng.normal(64, 14, n).clip(18, 95) / 10),
        "height_cm": height.round(1),
        "weight_kg": weight.round(1),
        "sex": sex.astype(np.int8),
        "race": race.astype(np.int8),
        **{name: (rng.random(n) < share).astype(np.int8) for name, share in FLAGS.items()},
        **_genotypes(rng, race),
    }
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
    _write_csv(folder / "covariates.csv", header, zip(people, *texts, strict=True))
    called = [column for column in has if isinstance(column, Dosage)]
    _write_vcf(folder / "genotypes.vcf.gz", people, {column: _calls(column, truth, rng) for column in called})
    answers = rng.choice(len(CONSENTS), truth.n, p=list(CONSENTS.values())).tolist()
    consents = ((person, *list(CONSENTS)[answer]) for person, answer in zip(people, answers, strict=True))
    _write_csv(folder / "consent.csv", CONSENT_COLUMNS, consents)
    return truth


def _genotypes(rng: Generator, race: NDArray[np.int64]) -> dict[str, Codes]:
    def draw(frequencies: Mapping[str, Sequence[float]]) -> NDArray[np.int64]:
        """(n, 2) haplotype numbers."""
        steps = np.cumsum([frequencies[name] for name in RACES], axis=1)[race]
        return np.asarray((rng.random((len(race), 2, 1)) > steps[:, None, :-1]).sum(axis=2))

    low = np.array(HAPLOTYPES)[draw(VKORC1)].sum(axis=1).astype(np.int8)
    star = draw(CYP2C9)
    names = ("vkorc1_1639", "vkorc1_1173", "vkorc1_1542", "vkorc1_2255")
    vkorc1 = {name: low[:, place].copy() for place, name in enumerate(names)}
    return vkorc1 | {f"cyp2c9_{allele}": (star == allele - 1).sum(axis=1).astype(np.int8) for allele in (2, 3)}


def _texts(column: Column, truth: Table, rng: Generator) -> list[str]:
    """Cells of one column; about 2 % of a feature's are empty."""
    values = truth.columns[column.name].tolist()
    if isinstance(column, Choice):
        texts = [column.levels[int(value)] for value in values]
    else:
        texts = [f"{value:g}" for value in values]
    empty = rng.random(truth.n) < (0.02 if column.role == "feature" else 0.0)
    return ["" if gap else text for gap, text in zip(empty, texts, strict=True)]


def _calls(column: Dosage, truth: Table, rng: Generator) -> list[str]:
    """GT fields; about 1 % are missing."""
    effect_is_ref = column.effect == VARIANTS[column.rsid].ref
    alternate = 2 - truth.codes(column.name) if effect_is_ref else truth.codes(column.name)
    gaps = rng.random(truth.n) < 0.01
    return ["./." if gap else ("0/0", "0/1", "1/1")[copies] for gap, copies in zip(gaps, alternate, strict=True)]


def _write_vcf(path: Path, people: Sequence[str], calls: Mapping[Dosage, list[str]]) -> None:
    import pysam

    lines = ["##fileformat=VCFv4.2", '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">']
    lines += [f"##contig=<ID=chr{name},length={size}>" for name, size in CONTIG_LENGTHS["GRCh38"].items()]
    lines.append("\t".join([*["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"], *people]))
    sites = sorted(calls, key=lambda column: (VARIANTS[column.rsid].chrom, VARIANTS[column.rsid].positions["GRCh38"]))
    for column in sites:
        site = VARIANTS[column.rsid]
        fixed = (
            f"chr{site.chrom}",
            str(site.positions["GRCh38"]),
            site.rsid,
            site.ref,
            site.alt,
            ".",
            "PASS",
            ".",
            "GT",
        )
        lines.append("\t".join((*fixed, *calls[column])))
    with pysam.BGZFile(str(path), "wb", None) as file:
        file.write("".join(line + "\n" for line in lines).encode())


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
