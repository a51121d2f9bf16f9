"""The table of pharmacogenes against its sources, and three sequenced GeT-RM people end to end; skipped without them.

No consensus genotypes of these people for the six genes come with the data. What is compared with is a search over all
pairs of PharmCAT's own definitions, on letters that htslib reads.
"""

import csv
import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pysam
import pytest
from typer.testing import CliRunner

from genopact_client.cli import app
from genopact_ingest.findings import ImportRefusedError
from genopact_ingest.stars import Stars, read_stars
from genopact_ingest.vcf import VcfFile
from genopact_shared.recipes.pharmacogenes import GENES, INDETERMINATE, Call, dose_columns

DATA = Path(__file__).parents[3] / "shared" / "data"
TABLES, GETRM = DATA / "pgx_knowledge", DATA / "getrm_pgx_vcf"
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are absent")]
PEOPLE = ("NA18526", "NA18565", "NA18861")
IUPAC = {"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC"}
VKORC1 = {"rs9923231 reference (C)": "-1639G", "rs9923231 variant (T)": "-1639A"}


def definition(gene: str) -> dict[str, Any]:
    return json.loads((TABLES / "pharmcat" / "definition" / f"{gene}_translation.json").read_text())  # type: ignore[no-any-return]


def phenotypes(gene: str) -> dict[str, Any]:
    return json.loads((TABLES / "pharmcat" / "phenotype" / f"{gene}.json").read_text())  # type: ignore[no-any-return]


def published(gene: str, letters: dict[int, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Every ordered pair of PharmCAT's alleles that has these unphased letters; other positions are the reference."""
    table = definition(gene)
    carried = []
    for allele in table["namedAlleles"]:
        choices = [
            IUPAC.get(letter, [letter]) if letter else [variant["ref"]]
            for letter, variant in zip(allele["alleles"], table["variants"], strict=True)
        ]
        carried += [(table["suballelesMap"].get(allele["name"], allele["name"]), each) for each in product(*choices)]
    called = [letters.get(each["position"], (each["ref"],) * 2) for each in table["variants"]]
    either = [{pair, pair[::-1]} for pair in called]
    return [
        (name, other)
        for (name, first), (other, second) in product(carried, repeat=2)
        if all(map(set.__contains__, either, zip(first, second, strict=True)))
    ]


def chromosome(chrom: str) -> Path:
    return GETRM / f"PharmCAT_tutorial_get-rm_wgs_30x_grch38_chr{chrom}.vcf.bgz"


@cache
def letters_by_htslib(path: Path, chrom: str, person: int) -> dict[int, tuple[str, ...]]:
    genes = [gene.name for gene in GENES.values() if gene.chrom == chrom]
    places = {variant["position"] for name in genes for variant in definition(name)["variants"]}
    with pysam.VariantFile(str(path)) as file:
        found = {record.pos: record.samples[person].alleles or (None,) for record in file if record.pos in places}
    return {pos: tuple(map(str, alleles)) for pos, alleles in found.items() if None not in alleles}


@cache
def stars(path: Path, *, all_sites: bool) -> Stars:
    return read_stars(VcfFile(path, phases=True), "GRCh38", all_sites=all_sites)


@pytest.mark.parametrize("name", GENES)
def test_the_table_is_the_published_one(name: str) -> None:
    gene, table, functions = GENES[name], definition(name), phenotypes(name)["haplotypes"]
    places = {(v.positions["GRCh38"], v.ref, v.alt) for v in gene.variants}
    assert places <= {(v["position"], v["ref"], alt) for v in table["variants"] for alt in v["alts"]}
    ours: set[tuple[str, str, frozenset[tuple[int, str]]]] = set()
    for star in gene.stars:
        sides = [(v, gene.variants[v].positions["GRCh38"], gene.variants[v].alt) for v in star.needs | star.either]
        ours.add((star.name, star.function, frozenset((pos, alt + "?" * (v in star.either)) for v, pos, alt in sides)))
    theirs = set()
    for allele in table["namedAlleles"]:
        name_ = table["suballelesMap"].get(allele["name"], allele["name"])
        letters = frozenset(
            (v["position"], letter if letter in v["alts"] else IUPAC[letter].replace(v["ref"], "") + "?")
            for letter, v in zip(allele["alleles"], table["variants"], strict=True)
            if letter not in {None, v["ref"]}
        )
        function = functions.get(name_, "").removesuffix(" function").removesuffix(" coumarin sensitivity")
        theirs.add((VKORC1.get(name_, name_), function, letters))
    assert ours == theirs


@pytest.mark.parametrize("name", GENES)
def test_phenotypes_are_the_published_ones(name: str) -> None:
    for row in phenotypes(name)["diplotypes"]:
        pair = [
            str(VKORC1.get(allele, allele)) for allele, copies in row["diplotypekey"].items() for _ in range(copies)
        ]
        assert GENES[name].named("/".join(pair)).phenotype == row["phenotype"]


def test_grch37_positions_are_those_of_pypgx() -> None:
    with (TABLES / "pypgx" / "variant-table.csv").open() as file:
        rows = {(row["Gene"], row["rsID"]): row for row in csv.DictReader(file)}
    compared = 0
    for gene in GENES.values():
        for variant in gene.variants:
            row = rows.get((gene.name, variant.name.split(":")[0]))
            if row is not None and len(variant.ref) == len(variant.alt):  # indels are written elsewhere there
                compared += 1
                assert row["Chromosome"] == gene.chrom
                assert variant.positions == {build: int(row[f"{build}Position"]) for build in variant.positions}
                assert variant.references == {build: row[f"{build}Allele"] for build in variant.positions}
    assert compared > 200


@pytest.mark.parametrize("name", GENES)
def test_three_people_have_the_pairs_of_the_published_definitions(name: str) -> None:
    gene = GENES[name]
    found = stars(chromosome(gene.chrom), all_sites=True)
    assert found.samples == PEOPLE
    for person, call in enumerate(found.calls[name]):
        letters = letters_by_htslib(chromosome(gene.chrom), gene.chrom, person)
        pairs = {tuple(VKORC1.get(each, each) for each in pair) for pair in published(name, letters)}
        assert {tuple(sorted(each.split("/"))) for each in call.diplotypes} == {tuple(sorted(pair)) for pair in pairs}


def test_three_people_as_declared_complete() -> None:
    """Every value by hand from the letters: rs3758581 G/G (*1), rs9923231 T/T, T/T, C/C, and three of SLCO1B1."""
    calls: dict[str, tuple[Call, ...]] = {}
    for chrom in "1", "6", "10", "12", "16":
        calls |= stars(chromosome(chrom), all_sites=True).calls
    assert {gene: [call.diplotypes for call in found] for gene, found in calls.items()} == {
        "CYP2C9": [("*1/*1",)] * 3,
        "CYP2C19": [("*1/*1",)] * 3,
        "DPYD": [("Reference/Reference",)] * 2 + [("Reference/c.85T>C (*9A)",)],
        "SLCO1B1": [("*1/*15", "*5/*37"), ("*1/*1",), ("*1/*43", "*4/*44")],
        "TPMT": [("*1/*1",)] * 3,
        "VKORC1": [("-1639A/-1639A",)] * 2 + [("-1639G/-1639G",)],
    }
    assert {gene: [call.phenotype for call in found] for gene, found in calls.items()} == {
        **dict.fromkeys(("CYP2C9", "CYP2C19", "DPYD", "TPMT"), ["Normal Metabolizer"] * 3),
        "SLCO1B1": ["Decreased Function", "Normal Function", INDETERMINATE],
        "VKORC1": ["-1639 AA", "-1639 AA", "-1639 GG"],
    }
    assert calls["SLCO1B1"][2].not_excluded == ("*45",)  # rs71581941 is ./. in this person


def test_without_the_declaration_only_vkorc1_is_certain() -> None:
    found = stars(chromosome("10"), all_sites=False)
    assert {call.phenotype for gene in ("CYP2C9", "CYP2C19") for call in found.calls[gene]} == {INDETERMINATE}
    assert "*4" in found.calls["CYP2C9"][0].not_excluded  # rs56165452 has no record
    assert "*3" not in found.calls["CYP2C9"][0].not_excluded
    columns = dose_columns(found.dosages | stars(chromosome("16"), all_sites=False).dosages)
    assert {name: column.tolist() for name, column in columns.items()} == {
        "cyp2c9_2": [0, 0, 0], "cyp2c9_3": [0, 0, 0], "vkorc1_1639": [2, 2, 0],
    }  # fmt: skip
    stated = GENES["CYP2C9"].copies([call.diplotypes[0] for call in found.calls["CYP2C9"]])
    assert dose_columns(stated)["cyp2c9_3"].tolist() == columns["cyp2c9_3"].tolist()


@pytest.mark.parametrize("person", PEOPLE)
def test_a_preprocessed_person_has_the_same_calls(person: str) -> None:
    alone = stars(GETRM / f"{person}.preprocessed.vcf", all_sites=True)
    assert set(alone.calls) == set(GENES)
    for gene in GENES.values():
        together = stars(chromosome(gene.chrom), all_sites=True).calls[gene.name][PEOPLE.index(person)]
        assert alone.calls[gene.name][0].diplotypes == together.diplotypes


def test_another_build_is_refused_or_says_nothing() -> None:
    """On GRCh37's positions the files have records of other letters, or none."""
    with pytest.raises(ImportRefusedError, match="VCF_ALLELES"):
        read_stars(VcfFile(chromosome("1")), "GRCh37", all_sites=True)
    assert read_stars(VcfFile(chromosome("10")), "GRCh37", all_sites=True).calls == {}


def test_the_command_writes_a_table_for_the_covariates(tmp_path: Path) -> None:
    out = tmp_path / "stars.csv"
    words = ["pharmacogenes", str(chromosome("10")), "--build", "GRCh38", "--out", str(out), "--all-sites"]
    done = CliRunner().invoke(app, words, prog_name="genopact-site")
    assert done.exit_code == 0, done.output
    assert not any(person in done.output for person in PEOPLE)
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["person"] for line in lines] == list(PEOPLE)
    assert all(line["CYP2C9 pairs"] == "*1/*1" and line["cyp2c9_3"] == "0" for line in lines)
    assert CliRunner().invoke(app, words, prog_name="genopact-site").exit_code == 2
