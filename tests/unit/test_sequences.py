"""Windows of haplotypes against letters that are put together one by one, and against bcftools consensus."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.benchmarks import sequences as benchmark
from tests.benchmarks.windows import MISSING, UNPHASED, carried, edits, haplotype_windows, reference_windows, tokens

Variant = tuple[int, str, str]


def text(row: NDArray[np.uint8]) -> str:
    return "".join("ACGTN"[token] for token in row.tolist())


def windows(
    contig: str, variants: Sequence[Variant], codes: Sequence[Sequence[int]], starts: Sequence[int], width: int
) -> tuple[list[list[list[str]]], tuple[list[int], list[int], list[int]]]:
    """The texts [person][haplotype][window], and the counts."""
    reference = tokens(contig.encode())
    pos, ref, alt = ([variant[column] for variant in variants] for column in range(3))
    table = edits(reference, np.array(pos, np.int64), list(map(str, ref)), list(map(str, alt)))
    genotypes = np.array(codes, np.uint8).reshape(len(codes), len(variants))
    found = haplotype_windows(reference, table, genotypes, np.array(starts, np.int64), width)
    texts = [[[text(row) for row in side] for side in person] for person in found.tokens]
    return texts, (found.overlapping.tolist(), found.unphased.tolist(), found.missing.tolist())


def naive(contig: str, variants: Sequence[Variant], codes: Sequence[int], side: int, start: int, width: int) -> str:
    """The whole haplotype as (place on the reference, letter), then the window."""
    bases: list[list[tuple[float, str]]] = [[(place, letter)] for place, letter in enumerate(contig)]
    inserted: dict[int, list[tuple[float, str]]] = {}
    made: list[tuple[int, int]] = []
    chosen = map(trimmed, variants_of(variants, codes, side))
    for place, gone, letters in sorted(chosen, key=lambda each: (each[0], each[1] > 0)):
        if any(place < stop for _, stop in made) or (gone == 0 and (place, place) in made):
            continue
        made.append((place, place + gone))
        if gone == 0:
            inserted[place] = [(place - 0.5, letter) for letter in letters]
        else:
            bases[place : place + gone] = [[(place, letter) for letter in letters], *([[]] * (gone - 1))]
    haplotype = [each for place in range(len(contig)) for each in inserted.get(place, []) + bases[place]]
    haplotype += inserted.get(len(contig), [])
    kept = "".join(letter for place, letter in haplotype if place >= start)
    return ("N" * max(0, -start) + kept + "N" * width)[:width]


def variants_of(variants: Sequence[Variant], codes: Sequence[int], side: int) -> list[Variant]:
    return [variant for variant, code in zip(variants, codes, strict=True) if code <= 3 and code >> side & 1]


def trimmed(variant: Variant) -> tuple[int, int, str]:
    pos, ref, alt = variant
    place = pos - 1
    while ref and alt and ref[0] == alt[0]:
        place, ref, alt = place + 1, ref[1:], alt[1:]
    return place, len(ref), alt


@st.composite
def genomes(draw: st.DrawFn) -> tuple[str, list[Variant], list[list[int]]]:
    letters = st.text("ACGT", min_size=1, max_size=6)
    contig = draw(st.text("ACGTN", min_size=8, max_size=60))
    variants = set()
    for pos in draw(st.lists(st.integers(1, len(contig)), max_size=12)):
        ref = contig[pos - 1 : pos - 1 + draw(st.integers(1, 6))]
        kind = draw(st.sampled_from(["replaced", "shortened", "lengthened"]))
        alt = {"replaced": draw(letters), "shortened": ref[0], "lengthened": ref[0] + draw(letters)}[kind]
        ref = ref[0] if kind == "lengthened" else ref
        if "N" not in ref and ref != alt:
            variants.add((pos, ref, alt))
    chosen = sorted(variants, key=lambda each: each[0])
    row = st.lists(st.integers(0, 5), min_size=len(chosen), max_size=len(chosen))
    return contig, chosen, draw(st.lists(row, min_size=1, max_size=3))


@settings(deadline=None, max_examples=150)
@given(genomes(), st.lists(st.integers(-9, 70), max_size=6), st.integers(1, 40))
def test_windows_equal_whole_haplotypes(
    genome: tuple[str, list[Variant], list[list[int]]], starts: list[int], width: int
) -> None:
    contig, variants, codes = genome
    found, _ = windows(contig, variants, codes, starts, width)
    for person, row in zip(found, codes, strict=True):
        for side in (0, 1):
            assert person[side] == [naive(contig, variants, row, side, start, width) for start in starts]


@settings(deadline=None, max_examples=100)
@given(st.text("ACGTNacgtnRY*", max_size=40), st.lists(st.integers(-60, 60), max_size=5), st.integers(1, 30))
def test_reference_windows(contig: str, starts: list[int], width: int) -> None:
    padded = "N" * 100 + "".join(c if c in "ACGT" else "N" for c in contig.upper()) + "N" * 200
    found = reference_windows(tokens(contig.encode()), np.array(starts, np.int64), width)
    assert found.shape == (len(starts), width)
    assert [text(row) for row in found] == [padded[100 + start :][:width] for start in starts]


@pytest.mark.parametrize(
    ("variants", "expected", "overlapping"),
    [
        ([(3, "G", "T")], "ACTTACGTAC", 0),
        ([(3, "G", "GAA")], "ACGAATACGT", 0),
        ([(3, "GTA", "G")], "ACGCGTACGT", 0),
        ([(9, "A", "ATTTT")], "ACGTACGTAT", 0),  # cut off at the right end
        ([(11, "G", "GT"), (12, "T", "A")], "ACGTACGTAC", 0),  # beyond it
        ([(3, "GTA", "G"), (11, "G", "C")], "ACGCGTACCT", 0),  # the deletion brings it into the window
        ([(3, "G", "GAA"), (3, "G", "T")], "ACTAATACGT", 0),  # a base and what follows it are no overlap
        ([(3, "GTA", "G"), (4, "T", "C")], "ACGCGTACGT", 1),  # its base is gone
        ([(3, "G", "GAA"), (3, "G", "GT")], "ACGAATACGT", 1),  # two insertions at one place
        ([(3, "GTAC", "G"), (4, "TACG", "T"), (7, "G", "A")], "ACGATACGTA", 1),  # the middle one is not made
    ],
)
def test_each_kind_of_variant(variants: list[Variant], expected: str, overlapping: int) -> None:
    found, counts = windows("ACGTACGTACGTACGT", variants, [[1] * len(variants)], [0], 10)
    assert found[0] == [[expected], ["ACGTACGTAC"]]
    assert counts[0] == [overlapping]


def test_where_a_window_begins() -> None:
    contig, deletion, insertion = "ACGTACGTACGT", (3, "GTAC", "G"), (6, "C", "CTT")
    assert windows(contig, [deletion], [[3]], [2, 3, 4, 6, 7], 4)[0][0][0] == ["GGTA", "GTAC", "GTAC", "GTAC", "TACG"]
    assert windows(contig, [insertion], [[3]], [5, 6, 7], 4)[0][0][1] == ["CTTG", "GTAC", "TACG"]
    assert windows(contig, [deletion], [[3]], [-2, 10, 12, 99], 4)[0][0][0] == ["NNAC", "GTNN", "NNNN", "NNNN"]
    # A variant that is not made because of one before the window does not come back in the window.
    chain = [(1, "ACGTA", "A"), (4, "TACG", "T")]
    assert windows(contig, chain, [[1, 1]], [4, 6], 4)[0][0][0] == ["CGTA", "GTAC"]


def test_what_is_left_out_is_counted() -> None:
    variants = [(2, "C", "T"), (4, "T", "A"), (6, "CGT", "C"), (7, "G", "A"), (12, "T", "A")]
    codes = [[UNPHASED, MISSING, 3, 1, UNPHASED], [3, 3, 3, 2, MISSING], [0] * 5]
    found, counts = windows("ACGTACGTACGTACGT", variants, codes, [0, 4], 6)
    assert found == [
        [["ACGTAC", "ACACGT"], ["ACGTAC", "ACACGT"]],
        [["ATGAAC", "ACACGT"], ["ATGAAC", "ACACGT"]],
        [["ACGTAC", "ACGTAC"], ["ACGTAC", "ACGTAC"]],
    ]
    assert counts == ([1, 1, 0], [2, 0, 0], [1, 1, 0])  # the deletion lets the second window reach the last variant


def test_carried_alternatives_from_called_effects() -> None:
    dosages = np.array([[0, 1, 1, 1, 2, -1]] * 2, np.int8)
    haplotypes = np.array([[0, 1, 2, 0, 3, 0], [0, 1, 2, 0, 0, 0]], np.uint8)
    assert carried(dosages, haplotypes, ["alt"] * 6).tolist() == [[0, 1, 2, UNPHASED, 3, MISSING]] * 2
    assert carried(dosages, haplotypes, ["ref"] * 6).tolist() == [[3, 2, 1, UNPHASED, 0, MISSING]] * 2
    assert carried(dosages, haplotypes, ["ref", *["alt"] * 5])[0].tolist() == [3, 1, 2, UNPHASED, 3, MISSING]


def test_what_does_not_fit_is_refused() -> None:
    reference = tokens(b"ACGTACGT")
    one = edits(reference, np.array([3]), ["G"], ["T"])
    for pos, ref, alt in (
        (3, "C", "T"),
        (0, "A", "C"),
        (8, "TA", "T"),
        (3, "G", "*"),
        (3, "", "T"),
        (3, "G", "G"),
        (9, "A", "C"),
    ):
        with pytest.raises(ValueError, match="fitting together"):
            edits(reference, np.array([pos]), [ref], [alt])
    unfit: list[NDArray[Any]] = [np.zeros((1, 2), np.uint8), np.full((1, 1), 6, np.uint8), np.zeros((1, 1), np.int64)]
    for codes in unfit:
        with pytest.raises(ValueError, match="fitting together"):
            haplotype_windows(reference, one, codes, np.array([0]), 4)
    with pytest.raises(ValueError, match="fitting together"):
        haplotype_windows(reference[:2], one, np.zeros((1, 1), np.uint8), np.array([0]), 4)


@pytest.mark.skipif(shutil.which("bcftools") is None, reason="bcftools is absent")
def test_equal_to_bcftools_consensus(tmp_path: Path) -> None:
    """Six people, a contig of 30 kb, a variant about every 25 bases, a third of them indels; none overlap."""
    cohort = benchmark.cohort(np.random.default_rng(7), people=6, bases=30_000, variants=1_200)
    fasta, vcf = benchmark.write(cohort, tmp_path)
    width = len(cohort.contig) + sum(map(len, cohort.alt))
    found = haplotype_windows(
        tokens(cohort.contig.encode()), benchmark.table(cohort), cohort.codes, np.array([0, 12_345]), width
    )
    assert not found.overlapping.any()
    for person, side in np.ndindex(6, 2):
        command = ["bcftools", "consensus", "-f", fasta, "-s", f"p{person}", "-H", str(side + 1), vcf]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        whole = "".join(run.stdout.split("\n")[1:])
        assert text(found.tokens[person, side, 0]).rstrip("N") == whole
        assert whole.endswith(text(found.tokens[person, side, 1]).rstrip("N"))
        assert len(set(whole)) == 4
    assert len({found.tokens[person, side, 0].tobytes() for person, side in np.ndindex(6, 2)}) == 12


def test_the_benchmark_runs(tmp_path: Path) -> None:
    row = benchmark.measure(tmp_path, people=4, bases=20_000, variants=200, windows=3, width=256, rounds=1)
    assert row["row"] == "genotypes.sequences"
    assert row["note"]["different windows"] == 0  # type: ignore[index]
