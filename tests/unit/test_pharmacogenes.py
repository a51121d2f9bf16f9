"""Star alleles: the caller against a search over all pairs of alleles, and what a file says of its positions."""

from collections.abc import Iterator, Sequence
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genopact_ingest.findings import Fault
from genopact_ingest.source import Called, Harmoniser, Record
from genopact_ingest.stars import Stars, read_stars
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.dose_features import SCHEMA
from genopact_shared.recipes.pharmacogenes import GENES, INDETERMINATE, MOST_UNPHASED, Call, Gene, dose_columns
from genopact_shared.recipes.table import Dosage
from genopact_shared.recipes.variants import VARIANTS, Build

UNPHASED, FIRST, SECOND = 0, 1, 2
EXACT = [gene for gene in GENES.values() if not gene.cumulative]


def genotypes(gene: Gene, first: str, second: str, uncalled: str = "") -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Dosages and phases of two haplotypes, each variants by name, separated by spaces."""
    index = {variant.name: at for at, variant in enumerate(gene.variants)}
    dosages, haplotypes = np.zeros(len(index), np.int8), np.zeros(len(index), np.uint8)
    for bit, names in (FIRST, first), (SECOND, second):
        for name in names.split():
            dosages[index[name]] += 1
            haplotypes[index[name]] |= bit
    for name in uncalled.split():
        dosages[index[name]], haplotypes[index[name]] = -1, 0
    return dosages, haplotypes


def call(gene: str, first: str, second: str, uncalled: str = "", phased: bool = False) -> Call:
    dosages, haplotypes = genotypes(GENES[gene], first, second, uncalled)
    return GENES[gene].call(dosages, haplotypes if phased else np.where(haplotypes == 3, 3, 0).astype(np.uint8))


HAP_B3 = "c.1129-5923C>G, c.1236G>A (HapB3)"
STAR_2 = "rs12769205 rs4244285 rs3758581"
KNOWN = [
    ("CYP2C9", "", "", "", ["*1/*1"], "Normal Metabolizer"),
    ("CYP2C9", "rs1799853", "rs1057910", "", ["*2/*3"], "Poor Metabolizer"),
    ("CYP2C9", "rs1799853", "rs1799853", "", ["*2/*2"], "Intermediate Metabolizer"),
    ("CYP2C9", "rs7900194:A", "rs7900194:T", "", ["*8/*27"], INDETERMINATE),  # two letters of one position; n/a
    ("CYP2C9", "rs114071557 rs28371686", "", "", ["*1/*36", "*5/*36"], INDETERMINATE),  # *36 leaves *5's open
    ("CYP2C19", "", "", "", ["*38/*38"], "Normal Metabolizer"),  # the reference is *38
    ("CYP2C19", STAR_2, "rs3758581", "", ["*1/*2"], "Intermediate Metabolizer"),
    ("CYP2C19", STAR_2, "rs12248560 rs3758581", "", ["*2/*17"], "Intermediate Metabolizer"),
    ("CYP2C19", "rs28399504 rs12248560 rs3758581", "rs3758581", "", ["*1/*4", "*4/*17"], "Intermediate Metabolizer"),
    ("SLCO1B1", "rs2306283 rs4149056", "", "", ["*1/*15", "*5/*37"], "Decreased Function"),
    ("SLCO1B1", "rs2306283 rs4149056 rs71581941", "rs71581941", "", ["*45/*45"], "Poor Function"),
    ("TPMT", "rs1142345:C rs1800460", "", "", ["*1/*3A", "*3B/*3C"], INDETERMINATE),  # the common ambiguity
    ("VKORC1", "rs9923231", "", "", ["-1639A/-1639G"], "-1639 AG"),
    ("DPYD", "rs3918290", "", "", ["Reference/c.1905+1G>A (*2A)"], "Intermediate Metabolizer"),
    ("DPYD", "rs1801265 rs1801159", "", "", None, "Normal Metabolizer"),  # without effect
    ("DPYD", "rs3918290 rs67376798", "", "", None, INDETERMINATE),  # on one haplotype 1.0, on two 0.5
    ("DPYD", "rs56038477 rs75017182", "", "", [f"Reference/{HAP_B3}"], "Intermediate Metabolizer"),
    ("DPYD", "rs56038477", "", "", ["(Reference + rs56038477)/Reference"], INDETERMINATE),
]  # fmt: skip


@pytest.mark.parametrize(("gene", "first", "second", "uncalled", "diplotypes", "phenotype"), KNOWN)
def test_known_genotypes(
    gene: str, first: str, second: str, uncalled: str, diplotypes: list[str] | None, phenotype: str
) -> None:
    found = call(gene, first, second, uncalled)
    assert found.phenotype == phenotype
    assert found.not_excluded == ()
    if diplotypes is not None:
        assert list(found.diplotypes) == diplotypes


def test_phase_decides_between_3a_and_3b_3c() -> None:
    assert call("TPMT", "rs1142345:C rs1800460", "", phased=True).phenotype == "Intermediate Metabolizer"
    assert call("TPMT", "rs1142345:C", "rs1800460", phased=True) == Call(("*3B/*3C",), (), ("Poor Metabolizer",))


def test_a_combination_without_a_name_has_no_phenotype() -> None:
    found = call("CYP2C9", "rs1799853 rs1057910", "", phased=True)
    assert found == Call(("(*2 + *3)/*1",), (), (INDETERMINATE,))


def test_an_uncalled_position_excludes_no_allele() -> None:
    found = call("CYP2C9", "", "", uncalled="rs1057910")
    assert found.diplotypes == ("*1/*1",)
    assert found.not_excluded == ("*3",)  # *18 and *68 have further letters, which are called
    assert found.phenotypes == ("Intermediate Metabolizer", "Normal Metabolizer", "Poor Metabolizer")
    assert found.phenotype == INDETERMINATE
    found = call("TPMT", "rs1800460", "rs1800460", uncalled="rs1142345:C rs1142345:G")
    assert found == Call(("*3B/*3B",), ("*3A",), ("Poor Metabolizer",))  # whatever is uncalled
    found = call("CYP2C19", "rs4244285 rs3758581", "rs3758581", uncalled="rs12769205")
    assert (found.diplotypes, found.phenotype) == (("*1/*2",), INDETERMINATE)  # the other one may be *35
    assert found.not_excluded == ("*35",)


def test_too_many_unphased_heterozygotes_have_no_call() -> None:
    gene = GENES["DPYD"]
    dosages = np.zeros(len(gene.variants), np.int8)
    dosages[: MOST_UNPHASED + 1] = 1
    none = np.zeros(len(dosages), np.uint8)
    assert gene.call(dosages, none) == Call()
    assert Call().phenotype == INDETERMINATE
    assert gene.call(dosages, none + FIRST).diplotypes


def pairs_naively(gene: Gene, dosages: NDArray[np.int8], haplotypes: NDArray[np.uint8]) -> dict[tuple[str, str], int]:
    """Every pair of alleles that fits the genotypes, and how many uncalled letters it needs."""
    carried, names, guessed = [], [], []
    for star in gene.stars:
        for picks in product((False, True), repeat=len(star.either)):
            variants = star.needs | {v for v, pick in zip(sorted(star.either), picks, strict=True) if pick}
            carried.append([v in variants for v in range(len(gene.variants))])
            names.append(star.name)
            guessed.append(sum(bool(dosages[v] < 0) for v in star.needs))
    a = np.array(carried, np.int8)
    fits = (a[:, None] + a[None] == dosages) & ((haplotypes == 0) | (a[:, None] + 2 * a[None] == haplotypes))
    found: dict[tuple[str, str], int] = {}
    for i, j in np.argwhere((fits | (dosages < 0)).all(axis=2)).tolist():
        pair = min(names[i], names[j]), max(names[i], names[j])
        found[pair] = min(found.get(pair, 99), guessed[i] + guessed[j])
    return found


@st.composite
def people(draw: st.DrawFn, gene: Gene, most_uncalled: int = 40) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Two alleles, perhaps a further variant, some phases unknown, some positions uncalled."""
    names = [variant.name for variant in gene.variants]
    star = st.sampled_from(gene.stars).map(lambda each: [names[v] for v in each.needs])
    more = st.lists(st.sampled_from(names), max_size=2 if gene.cumulative else draw(st.sampled_from([0, 0, 1])))
    first, second = ({*draw(star), *draw(more)} for _ in range(2))
    places = {variant.positions["GRCh38"] for variant in gene.variants}
    dark = set(draw(st.lists(st.sampled_from(sorted(places)), max_size=most_uncalled)))
    uncalled = {variant.name for variant in gene.variants if variant.positions["GRCh38"] in dark}
    dosages, haplotypes = genotypes(gene, " ".join(first), " ".join(second), " ".join(uncalled))
    unphased = np.array(draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names))))
    return dosages, np.where((dosages == 1) & unphased, 0, haplotypes).astype(np.uint8)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_calls_equal_a_search_over_all_pairs(data: st.DataObject) -> None:
    gene = data.draw(st.sampled_from(EXACT))
    dosages, haplotypes = data.draw(people(gene))
    found, naive = gene.call(dosages, haplotypes), pairs_naively(gene, dosages, haplotypes)
    if not naive:
        assert set(found.phenotypes) <= {INDETERMINATE}
        assert all("(" in each for each in found.diplotypes)
        return
    fewest = min(naive.values())
    functions = {star.name: star.function for star in gene.stars}
    assert {tuple(sorted(each.split("/"))) for each in found.diplotypes} == {p for p, g in naive.items() if g == fewest}
    said = {name for each in found.diplotypes for name in each.split("/")} | set(found.not_excluded)
    assert said == {name for pair in naive for name in pair}
    assert set(found.phenotypes) == {gene.phenotype(functions[a], functions[b]) for a, b in naive}


def activity_naively(gene: Gene, carried: frozenset[int]) -> float | None:
    """Of a DPYD haplotype: the lowest of its variants; c.1236G>A belongs to c.1129-5923C>G."""
    value = {next(iter(star.needs)): float(star.function) for star in gene.stars if len(star.needs) == 1}
    names = [variant.name for variant in gene.variants]
    proxy, causal = names.index("rs56038477"), names.index("rs75017182")
    if proxy in carried and causal not in carried:
        return None
    return min([1.0, *(value[v] for v in carried if v != proxy)])


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_cumulative_calls_equal_a_search_over_all_haplotypes(data: st.DataObject) -> None:
    gene = GENES["DPYD"]
    dosages, haplotypes = data.draw(people(gene, most_uncalled=3))
    choices = [
        [(0, 0), (0, 1), (1, 0), (1, 1)] if copies < 0 else
        [(copies // 2, copies // 2)] if copies != 1 else
        [(phase & 1, phase >> 1)] if phase else [(0, 1), (1, 0)]
        for copies, phase in zip(dosages.tolist(), haplotypes.tolist(), strict=True)
    ]  # fmt: skip
    phenotypes = set()
    for picks in product(*choices):
        first, second = (frozenset(v for v, pick in enumerate(picks) if pick[side]) for side in (0, 1))
        a, b = activity_naively(gene, first), activity_naively(gene, second)
        if a is not None and b is not None:
            score = a + b
            phenotypes.add(("Normal" if score == 2 else "Intermediate" if score >= 1 else "Poor") + " Metabolizer")
    assert set(gene.call(dosages, haplotypes).phenotypes) == (phenotypes or {INDETERMINATE})


def test_many_people_at_once() -> None:
    gene, rng = GENES["SLCO1B1"], np.random.default_rng(0)
    dosages = rng.choice(np.array([-1, 0, 0, 0, 0, 0, 1, 2], np.int8), (len(gene.variants), 40), p=None)
    dosages[8:] = 0
    haplotypes = np.where(dosages == 1, rng.integers(0, 3, dosages.shape), 0).astype(np.uint8)
    assert gene.calls(dosages, haplotypes) == tuple(gene.call(dosages[:, i], haplotypes[:, i]) for i in range(40))
    assert gene.calls(dosages[:, :0], haplotypes[:, :0]) == ()


def test_the_table_is_unambiguous() -> None:
    for gene in GENES.values():
        for build in ("GRCh37", "GRCh38"):
            references = {(variant.positions[build], variant.references[build]) for variant in gene.variants}
            assert len(references) == len({position for position, _ in references})
        assert gene.stars[0].needs == frozenset()
        fits = [(star.needs, star.needs | star.either) for star in gene.stars]
        for (least, most), (other, top) in combinations(fits, 2):  # no haplotype is two alleles
            assert not least | other <= most & top
        if gene.cumulative:
            assert all(float(star.function) <= 1 for star in gene.stars)
    for column in SCHEMA:
        if isinstance(column, Dosage) and column.name in dose_columns(GENES[column.gene].copies([])):
            variant = next(each for each in GENES[column.gene].variants if each.name == column.rsid)
            assert (variant.alt, variant.positions) == (column.effect, VARIANTS[column.rsid].positions)


def test_stated_diplotypes() -> None:
    assert GENES["CYP2C9"].named(" *3/ *1 ") == Call(("*1/*3",), (), ("Intermediate Metabolizer",))
    assert GENES["CYP2C19"].named("*17/*36").phenotype == "Intermediate Metabolizer"  # a deletion, never called here
    assert GENES["DPYD"].named("*2A/Reference").diplotypes == ("Reference/c.1905+1G>A (*2A)",)
    for text in "*1", "*1/*999", "*1/*2/*3", "1/2", "", "*1|*2", "2.0":
        with pytest.raises(GenopactError, match="STAR_UNKNOWN"):
            GENES["CYP2C9"].named(text)


def test_stated_diplotypes_fill_the_columns_of_the_dose_recipe() -> None:
    columns = dose_columns(GENES["CYP2C9"].copies(["*1/*1", "*2/*3", "*18/*35", "", "NA", "*2/*61"]))
    assert {name: column.tolist() for name, column in columns.items()} == {
        "cyp2c9_2": [0, 1, 1, -1, -1, 2],
        "cyp2c9_3": [0, 1, 1, -1, -1, 0],
    }
    assert GENES["CYP2C9"].copies(["*1/*36"])["rs28371686"].tolist() == [-1]  # *36 leaves this letter open
    assert GENES["CYP2C19"].copies(["*1/*36"])["rs3758581"].tolist() == [-1]
    with pytest.raises(GenopactError, match="STAR_UNKNOWN"):
        GENES["CYP2C9"].copies(["*1/*1", "*1/*200"])


class Lines:
    """A `Source` of records and calls as a VCF writes them."""

    samples: tuple[str, ...] = ("a", "b", "c")
    digest = ""

    def __init__(self, *lines: str, chrom: str = "chr10") -> None:
        self.lines = [line.split() for line in lines]
        self.chrom = chrom

    def batches(self, harmoniser: Harmoniser) -> Iterator[Called]:
        records = [Record(self.chrom, int(pos), ref, tuple(alts.split(",")) if alts != "." else ())
                   for pos, ref, alts, *_ in self.lines]  # fmt: skip
        for match in harmoniser.match(records):
            counts = [self.count(cell, str(match.allele)) for cell in self.lines[match.record][3:]]
            yield Called(
                np.array([match.row]),
                np.array([[dosage for dosage, _, _ in counts]], np.int8),
                haplotypes=np.array([[haplotypes for _, haplotypes, _ in counts]], np.uint8),
                haploid=np.array([[haploid for _, _, haploid in counts]]),
            )

    @staticmethod
    def count(cell: str, allele: str) -> tuple[int, int, bool]:
        called = cell.replace("|", "/").split("/")
        if "." in called:
            return -1, 0, False
        carried = [each == allele for each in called]
        phased = "|" in cell or len(set(called)) == 1
        return sum(carried), sum(2**at for at, each in enumerate(carried) if each) * phased, len(called) == 1


def read(*lines: str, build: Build = "GRCh38", chrom: str = "chr10") -> Stars:
    return read_stars(Lines(*lines, chrom=chrom), build, all_sites=True)


def row(stars: Stars, variant: str) -> object:
    return stars.dosages[variant].tolist()


def test_an_absent_record_is_no_reference_call() -> None:
    source = Lines("94942290 C T 0/1 0/0 ./.", "94981296 A C 0/0 0/1 1/1")
    strict = read_stars(source, "GRCh38")
    assert {call.phenotype for call in strict.calls["CYP2C9"]} == {INDETERMINATE}
    assert row(strict, "rs28371686") == [-1, -1, -1]
    assert len(strict.absent) == len(GENES["CYP2C9"].variants) - 2
    assert list(strict.calls) == ["CYP2C9"]
    assert {name: column.tolist() for name, column in dose_columns(strict.dosages).items()} == {
        "cyp2c9_2": [1, 0, -1], "cyp2c9_3": [0, 1, 2],
    }  # fmt: skip
    declared = read_stars(source, "GRCh38", all_sites=True)
    assert [call.diplotypes for call in declared.calls["CYP2C9"]] == [("*1/*2",), ("*1/*3",), ("*3/*3",)]
    assert declared.calls["CYP2C9"][2].not_excluded == ()  # *2 on one of them would be a combination without a name
    assert declared.calls["CYP2C19"][0].diplotypes == ("*38/*38",)
    assert list(declared.calls) == ["CYP2C9", "CYP2C19"]  # it says nothing of other chromosomes


def test_phases_are_used() -> None:
    lines = "18138997 C T 0|1 0|1 0/1", "18130687 T C 0|1 1|0 0|1"
    assert [call.phenotype.split()[0] for call in read(*lines, chrom="6").calls["TPMT"]] == [
        "Intermediate", "Poor", "Indeterminate",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["94942231 G A 0/1 1/1 0/0"], [1, 2, 0]),
        (["94942231 G . 0/0 ./. 0/0"], [0, -1, 0]),
        (["94942231 G T 0/0 0/1 1/1"], [0, -1, -1]),  # a letter that the table does not know
        (["94942231 G T,A 0/2 1/2 2/2"], [1, -1, 2]),
        (["94942231 G A,* 0/1 1/2 0/2"], [1, -1, -1]),
        (["94942231 G A 0/1 1 0/."], [1, -1, -1]),  # an autosome's haploid call, a half call
        (["94942231 g a 0/1 1/1 0/0"], [1, 2, 0]),
        (["94942231 G A 0/1 0/0 0/0", "94942231 G T 0/0 0/0 0/1"], [1, 0, -1]),  # split: T is no reference
        (["94942231 G T 0/0 0/0 0/1", "94942231 G A 0/1 1/1 0/1"], [1, 2, -1]),
        (["94942231 G A 0/1 0/0 0/0", "94942231 G A 0/1 0/0 0/0"], [-1, -1, -1]),  # which one is right?
        (["94942231 GC G 0/0 0/1 0/0"], [-1, -1, -1]),  # a deletion says nothing about the substitution
        (["94942231 GC G,AC 0/2 0/0 2/2"], [1, 0, 2]),
        (["94942231 GC G 0/0 0/1 0/0", "94942231 G A 0/1 0/0 1/1"], [1, 0, 2]),
    ],
)
def test_records_of_one_position(lines: Sequence[str], expected: list[int]) -> None:
    other = "94942290 C T 0/1 0/0 0/0"
    assert row(read_stars(Lines(*lines, other), "GRCh38"), "rs12414460") == expected


def test_deletions_and_positions_with_two_alternatives() -> None:
    stars = read("94949281 GA G 0/1 1/1 0/0", "94942309 G A,T 1|2 0/1 0/0", "94942234 G A 0/0 1/1 0/1",
                 "94942205 CAATGGAAAGA C,CA 0/1 0/2 0/0")  # fmt: skip
    assert row(stars, "rs9332131") == [1, 2, 0]
    assert row(stars, "rs7900194:A") == [1, 1, 0]
    assert row(stars, "rs7900194:T") == [1, 0, 0]
    assert row(stars, "rs72558189:T") == [0, 0, 0]  # its record calls the other alternative only
    assert row(stars, "rs1304490498") == [1, -1, 0]


def test_where_grch37_has_the_other_reference() -> None:
    """rs3758581 is A on GRCh38 (*38) and G on GRCh37 (*1)."""
    assert row(read("96602623 G A 0/0 0|1 1/1", build="GRCh37"), "rs3758581") == [2, 1, 0]
    assert row(read("96602623 G . 0/0 0/0 0/0", build="GRCh37"), "rs3758581") == [2, 2, 2]
    absent = read("96702047 C T 0/0 0/0 0/0", build="GRCh37")
    assert row(absent, "rs3758581") == [2, 2, 2]
    assert absent.calls["CYP2C19"][0].diplotypes == ("*1/*1",)
    absent = read("97915614 C T 0/0 0/0 0/0", build="GRCh37", chrom="1")
    assert absent.calls["DPYD"][0].diplotypes == ("c.85T>C (*9A)/c.85T>C (*9A)",)
    assert read("1 A C 0/0 0/0 0/0", build="GRCh37").calls == {}  # nothing shows that this is the build
    split = "96602623 G A 0/0 0|1 1/1", "96602623 G T 0/0 0|0 0/0"
    assert row(read(*split, build="GRCh37"), "rs3758581") == [2, 1, 0]


def test_another_reference_is_refused() -> None:
    with pytest.raises(Fault, match="VCF_ALLELES"):
        read("94942290 T C 0/1 0/0 0/0")
