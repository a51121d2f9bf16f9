import gzip
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from genopact_ingest import harmonise
from genopact_ingest.findings import Fault
from genopact_ingest.harmonise import FAR_FROM_HALF, NEAR, Sites
from genopact_ingest.reference import Reference
from genopact_ingest.source import Called, Harmoniser, Match, Record
from genopact_shared.alleles import normalise, other_strand
from genopact_shared.manifest import VariantManifest
from tests.unit.faulty import faulty
from tests.unit.variant_rows import manifest

#        0        1         2         3
#        123456789012345678901234567890123456789
SEVEN = "GATTACACACACAGGGCTTNNNNNRACGTACGTTTTTTC"


def fasta(path: Path, **contigs: str) -> Reference:
    path.write_text("".join(f">{name} words\n{letters}\n" for name, letters in contigs.items()))
    return Reference(path)


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    return fasta(tmp_path / "ref.fa", chr7=SEVEN[:10].lower() + SEVEN[10:], chrM="GATTACA", decoy="ACGT")


LINES = (
    "7 2 A G alt 0.300000",
    "7 2 A T ref 0.300000",
    "7 4 TAC T alt 0.250000",
    "7 5 A C ref 0.900000",
    "7 13 A AC alt 0.100000",
    "7 17 C G alt 0.450000",
    "MT 2 A G ref 0.300000",
)
WHOLE = manifest(*LINES, reference="ab" * 32)
Case = tuple[tuple[Any, ...], list[tuple[int, int]], str | None]


SEQUENCED: list[Case] = [
    (("7", 2, "A", ("G",)), [(0, 1)], "same"),
    (("chr7", 2, "a", ("g",)), [(0, 1)], "same"),
    (("7", 2, "A", ("T",)), [(1, 0)], "same"),
    (("7", 2, "A", ("C", "G")), [(0, 2)], "not_in_manifest"),
    (("7", 2, "A", ("T", "G")), [(1, 1), (0, 2)], "same"),
    (("7", 2, "A", ("*", "G", "<DEL>", "N", "A")), [(0, 2)], "no_letters"),
    (("7", 2, "AT", ("GT", "TT", "A")), [(0, 1), (1, 2)], "normalised"),
    (("7", 1, "GA", ("GG",)), [(0, 1)], "normalised"),
    (("7", 5, "ACA", ("A",)), [(2, 1)], "normalised"),
    (("7", 10, "CAC", ("C",)), [(2, 1)], "normalised"),
    (("7", 11, "ACA", ("A", "ACC", "ACAC")), [(2, 1), (4, 3)], "not_in_manifest"),
    (("7", 4, "TAC", ("T", "TCC")), [(2, 1), (3, 2)], "same"),
    (("7", 2, "G", ("A",)), [], "reference_mismatch"),
    (("7", 2, "T", ("C",)), [], "reference_mismatch"),
    (("7", 39, "CA", ("C",)), [], "reference_mismatch"),
    (("7", 25, "R", ("A", "C")), [], "no_letters"),
    (("7", 25, "A", ("G", "C")), [], "no_letters"),
    (("7", 24, "N", ("G",)), [], "no_letters"),
    (("7", 17, "C", ("G",)), [(5, 1)], "same"),
    (("7", 2, "A", ()), [(0, 1), (1, 0)], "same"),
    (("7", 4, "T", ()), [], None),
    (("7", 5, "AC", ()), [], None),
    (("8", 8, "A", ("G",)), [], "no_letters"),
    (("8", 7, "A", ("G",)), [], "not_in_manifest"),
    (("26", 2, "A", ("G",)), [(6, 0)], "same"),
    (("chrUn_KI270302v1", 2, "A", ("G",)), [], "other_contig"),
    (("0", 0, "A", ("G",)), [], "other_contig"),
    (("HLA-A*01:01:01:01", 2, "A", ("G",)), [], "other_contig"),
]


@pytest.mark.parametrize(("record", "expected", "count"), SEQUENCED)
def test_sequenced_records(
    reference: Reference, record: tuple[Any, ...], expected: list[tuple[int, int]], count: str | None
) -> None:
    sites = Sites(WHOLE, reference, forward=True)
    assert [(row, allele) for _, row, allele in sites.match([Record(*record)])] == expected
    assert count is None or sites.counts[count]


TYPED: list[Case] = [
    (("7", 2, "A", ("G",)), [(0, 1)], "same"),
    (("7", 2, "G", ("A",)), [(0, 0)], "swapped"),
    (("7", 2, "T", ("C",)), [(0, 1)], "flipped"),
    (("7", 2, "C", ("T",)), [(0, 0)], "flipped_and_swapped"),
    (("7", 5, "A", ("C",)), [(3, 0)], "same"),
    (("7", 5, "G", ("T",)), [(3, 1)], "flipped_and_swapped"),
    (("7", 2, "A", ("C",)), [], "not_in_manifest"),
    (("7", 3, "A", ("G",)), [], "not_in_manifest"),
    (("7", 2, "A", ("T",), 0.69), [(1, 0)], "same"),
    (("7", 2, "A", ("T",), 0.31), [(1, 1)], "flipped_and_swapped"),
    (("7", 2, "T", ("A",), 0.31), [(1, 1)], "swapped"),
    (("7", 2, "T", ("A",), 0.69), [(1, 0)], "flipped"),
    (("7", 2, "T", ("A",), 0.5), [], "ambiguous"),
    (("7", 2, "T", ("A",), 0.39), [], "ambiguous"),
    (("7", 2, "T", ("A",)), [], "ambiguous"),
    (("7", 17, "C", ("G",), 0.45), [], "ambiguous"),
    (("7", 2, "A", ("<DEL>",), 0.45), [], "no_letters"),
    (("7", 2, "A", (), 0.0), [], None),
    (("7", 13, "A", ("AC",), 0.1), [(4, 1)], "same"),
    (("7", 13, "AC", ("A",), 0.9), [(4, 0)], "swapped"),
    (("7", 13, "T", ("GT",), 0.1), [(4, 1)], "flipped"),
    (("7", 13, "GT", ("T",), 0.9), [(4, 0)], "flipped_and_swapped"),
    (("7", 4, "TAC", ("T",), 0.26), [(2, 1)], "same"),
    (("7", 4, "T", ("TAC",), 0.74), [(2, 0)], "swapped"),
    (("7", 6, "CAC", ("C",), 0.26), [(2, 1)], "normalised"),
    (("7", 4, "TAC", ("T",), 0.5), [], "ambiguous"),
    (("7", 4, "TAC", ("T",)), [], "ambiguous"),
    (("7", 13, "GG", ("G",), 0.1), [], "reference_mismatch"),
]


@pytest.mark.parametrize(("record", "expected", "count"), TYPED)
def test_typed_records(
    reference: Reference, record: tuple[Any, ...], expected: list[tuple[int, int]], count: str | None
) -> None:
    sites = Sites(WHOLE, reference, forward=False)
    assert [(row, allele) for _, row, allele in sites.match([Record(*record)])] == expected
    assert count is None or sites.counts[count] == 1


@pytest.mark.parametrize(
    ("forward", "record", "expected"),
    [
        (True, ("7", 2, "A", ("G",)), [(0, 1)]),
        (True, ("7", 2, "G", ("A",)), [(0, 0)]),
        (True, ("7", 2, "T", ("C",)), []),
        (True, ("7", 4, "TAC", ("T",)), [(2, 1)]),
        (True, ("7", 4, "T", ("TAC",)), []),
        (True, ("7", 5, "ACA", ("A",)), []),
        (False, ("7", 2, "T", ("C",)), [(0, 1)]),
        (False, ("7", 4, "TAC", ("T",), 0.25), []),
        (False, ("7", 2, "A", ("T",), 0.31), [(1, 1)]),
        (False, ("7", 17, "C", ("G",), 0.45), []),
    ],
)
def test_without_a_reference_and_with_a_manifest_that_had_none(
    forward: bool, record: tuple[Any, ...], expected: list[tuple[int, int]]
) -> None:
    unknown = manifest(*LINES)
    assert [
        (row, allele) for _, row, allele in Sites(unknown, None, forward=forward).match([Record(*record)])
    ] == expected


def test_a_manifest_of_no_reference_may_have_its_letters_in_another_order(reference: Reference) -> None:
    unknown = manifest("7 2 G A alt 0.700000", "7 5 A C alt 0.100000")
    found = Sites(unknown, reference, forward=True).match(
        [Record("7", 2, "A", ("G",)), Record("7", 5, "A", ("T", "C"))]
    )
    assert found == [Match(0, 0, 0), Match(1, 1, 2)]
    found = Sites(unknown, reference, forward=True).match([Record("7", 2, "A", ()), Record("7", 5, "A", ())])
    assert found == [Match(0, 0, 0), Match(1, 1, 1)]


def test_a_second_record_is_never_used_and_the_row_is_missing(reference: Reference) -> None:
    sites = Sites(WHOLE, reference, forward=True)
    twice = [Record("7", 5, "ACA", ("A",)), Record("7", 10, "CAC", ("C", "CACC"))]
    assert sites.match(twice) == [Match(0, 2, 1)]
    assert sites.finish() == {2}
    assert sites.match([Record("7", 4, "TAC", ("T",)), Record("7", 2, "A", ("G",))]) == [Match(1, 0, 1)]
    assert sites.finish() == {2}
    assert sites.counts["duplicate"] == 2


Call = tuple[tuple[int | None, ...], bool]
"""Alleles, None missing, and whether they are phased."""


@dataclass(frozen=True)
class Written:
    """A source of one batch; the calls of each record."""

    records: list[Record]
    calls: list[list[Call]]
    samples: tuple[str, ...] = ("a",)
    digest: str = ""

    def batches(self, harmoniser: Harmoniser) -> Iterator[Called]:
        matches = harmoniser.match(self.records)
        lines = [[counted(call, match.allele) for call in self.calls[match.record]] for match in matches]
        dosages, haplotypes, haploid = np.array(lines).transpose(2, 0, 1)
        yield Called(
            np.array([match.row for match in matches]),
            dosages.astype(np.int8),
            np.where(dosages < 0, 255, 127 * dosages).astype(np.uint8),
            haplotypes.astype(np.uint8),
            haploid.astype(bool),
        )


def counted(call: Call, allele: int) -> tuple[int, int, bool]:
    """Dosage, haplotypes, haploid."""
    alleles, phased = call
    copies = [each == allele for each in alleles]
    known = None not in alleles
    told = known and (phased or len(set(copies)) == 1)
    return (
        sum(copies) if known else -1,
        sum(copy << at for at, copy in enumerate(copies)) if told else 0,
        len(copies) == 1,
    )


def test_joined_records_give_the_dosages_of_split_ones(reference: Reference) -> None:
    """Row 1 counts REF; a split record writes the other ALT as REF."""
    people: list[Call] = [((a, b), phased) for a in (0, 1, 2) for b in (0, 1, 2) for phased in (True, False)]
    people += [((0,), True), ((1,), True), ((2,), True), ((None, 1), True), ((None, None), False)]
    split: list[list[Call]] = [
        [(tuple(a if a is None else int(a == index) for a in alleles), phased) for alleles, phased in people]
        for index in (1, 2)
    ]
    joined = Written([Record("7", 2, "A", ("T", "G"))], [people])
    apart = Written([Record("7", 2, "A", ("T",)), Record("7", 2, "A", ("G",))], split)
    found = list[Called]()
    for source in (joined, apart):
        sites = Sites(WHOLE, reference, forward=True)
        found += sites.read(source)
        sites.finish()
    for name in ("rows", "dosages", "expected", "haplotypes", "haploid"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name), err_msg=name)
    assert found[0].dosages[0, :6].tolist() == [2, 2, 1, 1, 2, 2]


def test_a_source_that_is_not_read_here_does_not_finish(reference: Reference) -> None:
    sites = Sites(WHOLE, reference, forward=True)
    sites.match([Record("7", 2, "A", ("T", "G"))])
    with pytest.raises(RuntimeError, match="read"):
        sites.finish()


def test_an_unknown_contig_is_refused(reference: Reference) -> None:
    for name in ("scaffold_1", "NC_000001.11", "7p", "chr0"):
        with pytest.raises(Fault, match="VARIANT_CONTIG"):
            Sites(WHOLE, reference, forward=True).match([Record(name, 2, "A", ("G",))])


def shifted(reference: Reference, shift: int) -> list[Record]:
    """Substitutions as another build places them."""
    places = [at for at in range(1, 200) if reference.bases("1", at + shift, at + shift + 1)]
    return [
        Record("1", at, reference.bases("1", at + shift, at + shift + 1).decode(), ("AG"[at % 2],)) for at in places
    ]


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_another_build_is_refused(tmp_path: Path, forward: bool, known: bool) -> None:
    letters = "".join(random.Random(1).choices("ACGT", k=400))
    reference = fasta(tmp_path / "r.fa", **{"1": letters})
    others = [next(each for each in "ACGT" if each not in {ref, other_strand(ref)}) for ref in letters]
    whole = manifest(*(f"1 {at} {letters[at - 1]} {others[at - 1]} alt ." for at in range(1, 200)), reference="ab" * 32)

    def sites_of(shift: int) -> Sites:
        sites = Sites(whole, reference if known else None, forward=forward)
        sites.match([Record("1", at, letters[at - 1 + shift], (others[at - 1 + shift],)) for at in range(1, 200)])
        return sites

    assert sites_of(0).finish() == frozenset()
    with pytest.raises(Fault, match="VARIANT_BUILD") as fault:
        sites_of(7).finish()
    assert "of 199 sites" in fault.value.detail


def test_one_differing_site_in_two_hundred_is_the_limit(tmp_path: Path) -> None:
    reference = fasta(tmp_path / "r.fa", **{"1": "A" * 1601})
    for differing, refused in ((1, False), (2, True)):
        sites = Sites(manifest("1 1 A G alt ."), reference, forward=True)
        sites.match([Record("1", 8 * at, "T" if at <= differing else "A", ("G",)) for at in range(1, 201)])
        if refused:
            with pytest.raises(Fault, match="VARIANT_BUILD"):
                sites.finish()
        else:
            sites.finish()


def test_a_manifest_of_another_build_than_the_reference_is_refused(tmp_path: Path) -> None:
    reference = fasta(tmp_path / "r.fa", **{"1": "A" * 100, "2": "C" * 100})
    Sites(manifest("1 2 A G alt .", "3 2 C G alt .", reference="ab" * 32), reference, forward=True)
    Sites(manifest("1 2 G A alt ."), reference, forward=True)
    for wrong in (manifest("1 2 G A alt .", reference="ab" * 32), manifest("2 2 G A alt .")):
        with pytest.raises(Fault, match="VARIANT_BUILD"):
            Sites(wrong, reference, forward=True)


def test_contig_lengths_of_a_header(reference: Reference) -> None:
    sites = Sites(WHOLE, reference, forward=True)
    sites.compare_lengths({"chr7": 39, "chrX": 5, "other": 3, "MT": 7, "7": None})
    sites.compare_lengths({"chrM": 16571})
    assert sites.match([Record("MT", 2, "A", ("G",)), Record("chrM", 2, "A", ("G",))]) == [Match(0, 6, 0)]
    with pytest.raises(Fault, match="VARIANT_BUILD"):
        sites.compare_lengths({"7": 40})
    without = Sites(WHOLE, None, forward=True)
    without.compare_lengths({"chr10": 133_797_422, "7": 1})
    with pytest.raises(Fault, match="VARIANT_BUILD"):
        without.compare_lengths({"chr10": 135_534_747})


# The naive reference: a variant is the sequence it makes.


def edited(letters: str, pos: int, ref: str, alt: str) -> str:
    return letters[: pos - 1] + alt + letters[pos - 1 + len(ref) :]


def naive(letters: str, whole: VariantManifest, record: Record, forward: bool) -> list[tuple[int, int]]:
    """Rows whose sequence is that of a reading of the record."""
    sequences = {
        edited(letters, int(pos), ref, alt): row
        for row, (pos, ref, alt) in enumerate(zip(whole.pos, whole.ref, whole.alt, strict=True))
    }
    found = []
    for index, alt in enumerate(record.alts, 1):
        written, readings = [(record.ref, 0), (alt, index)], []
        for strand in (str, other_strand)[: 1 if forward else 2]:
            for (ref, ref_index), (other, alt_index) in (written, written[::-1])[: 1 if forward else 2]:
                if letters[record.pos - 1 :].startswith(strand(ref)):
                    row = sequences.get(edited(letters, record.pos, strand(ref), strand(other)))
                    readings.append((row, ref_index, alt_index))
        hits = [(row, *indexes) for row, *indexes in readings if row is not None]
        if len(readings) > 1:
            hits = [hit for hit in hits if near(whole, record, *hit)]
        if len(hits) == 1:
            row, ref_index, alt_index = hits[0]
            effect = alt_index if whole.effect[row] == "alt" else ref_index
            found.append((row, effect or (index if len(record.alts) > 1 else 0)))
    return found


def near(whole: VariantManifest, record: Record, row: int, ref_index: int, alt_index: int) -> bool:
    effect = alt_index if whole.effect[row] == "alt" else ref_index
    if record.frequency is None or len(record.alts) > 1:
        return False
    here = record.frequency if effect == 1 else 1 - record.frequency
    known = float(whole.frequency[row])
    return abs(known - 0.5) > FAR_FROM_HALF and abs(here - known) < NEAR


@st.composite
def worlds(draw: st.DrawFn) -> tuple[str, VariantManifest, list[Record], bool]:
    letters = draw(st.text("ACT", min_size=12, max_size=24))
    some = st.text("ACT", min_size=1, max_size=3)
    found = set()
    for _ in range(draw(st.integers(1, 6))):
        pos = draw(st.integers(1, len(letters)))
        ref, alt = letters[pos - 1 : pos - 1 + draw(st.integers(1, 3))], draw(some)
        if ref != alt:
            found.add(normalise(lambda a, b: letters[a - 1 : b - 1].encode(), pos, ref, alt))
    assume(found)
    shares = st.integers(0, 100).map(lambda share: f"{share / 100:.6f}")
    lines = [
        f"1 {pos} {ref} {alt} {draw(st.sampled_from(['ref', 'alt']))} {draw(shares)}" for pos, ref, alt in sorted(found)
    ]
    forward, records = draw(st.booleans()), []
    for pos, ref, alt in draw(st.lists(st.sampled_from(sorted(found)), min_size=1, max_size=6)):
        stretch = draw(st.integers(0, 3))
        start, end = max(1, pos - stretch), min(len(letters), pos + len(ref) - 1 + draw(st.integers(0, 3)))
        before, after = letters[start - 1 : pos - 1], letters[pos - 1 + len(ref) : end]
        written = [before + ref + after, before + alt + after, *draw(st.lists(some, max_size=1))]
        if not forward:
            written = [other_strand(each) if draw(st.booleans()) else each for each in written[:2]]
            written = written[:: draw(st.sampled_from([1, -1]))]
        if len(set(written)) == len(written):
            records.append(
                Record(
                    "1",
                    start,
                    written[0],
                    tuple(written[1:]),
                    draw(st.none() | st.integers(0, 100).map(lambda n: n / 100)),
                )
            )
    return letters, manifest(*lines, reference="ab" * 32), records, forward


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("naive")


def agrees(module: Any, folder: Path, world: tuple[str, VariantManifest, list[Record], bool]) -> None:
    letters, whole, records, forward = world
    reference = fasta(folder / "r.fa", **{"1": letters})
    for record in records:
        sites = module.Sites(whole, reference, forward=forward)
        expected = naive(letters, whole, record, forward)
        once = list({row: (row, allele) for row, allele in reversed(expected)}.values())[::-1]
        assert sorted(match[1:] for match in sites.match([record])) == sorted(once)
        sites._inverse.clear()
        assert sites.finish() == {row for row, _ in expected if [row_ for row_, _ in expected].count(row) > 1}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds())
def test_rows_are_those_of_the_same_sequence(
    folder: Path, world: tuple[str, VariantManifest, list[Record], bool]
) -> None:
    (folder / "r.fa.fai").unlink(missing_ok=True)
    agrees(harmonise, folder, world)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            'readings = [written, _exchanged(written, "swapped"), flipped,',
            'readings = [written, _exchanged(written, "swapped"),',
        ),
        ("ref=other_strand(written.ref)", "ref=other_strand(written.ref)[::-1]"),
        ("places.append(alleles.normalise(", "str(alleles.normalise("),
        ("abs(known - 0.5) > FAR_FROM_HALF and ", ""),
        ("is_first_alt = bool(reading.alt_index) ==", "is_first_alt = bool(reading.ref_index) =="),
        ("else ~other", "else 0"),
        ("if allele < 0:", "if False:"),
        ("effect, other = other, effect", "pass"),
        ("if len(readings if self._reference else hits) > 1 and hits:", "if False:"),
        ("if row in found:", "if False:"),
        ('int(self._manifest.effect[row] == "alt")', "1"),
        ("ref and self._manifest.alt[row] == alt:\n                    self", "ref:\n                    self"),
        ("if self._differing > allowed:", "if False:"),
        ("if letters == ref.encode():", "if True:"),
    ],
)
def test_planted_faults_are_found(old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = faulty(harmonise, old, new)
    monkeypatch.setitem(globals(), "Sites", wrong.Sites)
    reference = fasta(tmp_path / "ref.fa", chr7=SEVEN, chrM="GATTACA")
    failed = [fails(test_sequenced_records, reference, *case) for case in SEQUENCED]
    failed += [fails(test_typed_records, reference, *case) for case in TYPED]
    failed.append(fails(test_a_second_record_is_never_used_and_the_row_is_missing, reference))
    failed.append(fails(test_joined_records_give_the_dosages_of_split_ones, reference))
    failed.append(fails(test_another_build_is_refused, tmp_path, True, True))
    assert any(failed)


def fails(check: Any, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except (AssertionError, Fault, pytest.fail.Exception):
        return True
    return False


# The reference.


def test_a_reference_by_its_contigs_names(tmp_path: Path) -> None:
    letters = "acgtnRyK" * 20_000
    here = fasta(tmp_path / "a.fa", chr1=letters, chrM="ACGT", chrUn_1="A", X="A", chrX="C")
    assert here.lengths == {"1": 160_000, "MT": 4}
    assert here.bases("1", 1, 9) == b"ACGTNRYK"
    assert here.bases("1", 65_530, 65_545) == letters[65_529:65_544].upper().encode()
    assert here.bases("1", 65_537, 65_537) == b""
    assert here.bases("1", 1, 200_000) == letters.upper().encode()
    assert here.bases("1", 159_999, 160_100) == b"YK"
    assert here.bases("MT", 0, 3) == b"AC"
    assert here.bases("X", 1, 2) == here.bases("9", 1, 2) == here.bases("1", 300_000, 300_001) == b""


def test_indexes_are_made_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scratch = tmp_path / "in" / "a.fa", tmp_path / "scratch"
    path.parent.mkdir()
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert fasta(path, **{"1": "ACGT"}).bases("1", 2, 4) == b"CG"
    assert [each.name for each in path.parent.iterdir()] == ["a.fa"]
    assert list(scratch.iterdir()) == []
    path.with_name("a.fa.fai").write_text("1\t4\t9\t4\t5\n")
    os.utime(path.with_name("a.fa.fai"), (1, 1))  # of an older file
    assert Reference(path).bases("1", 2, 4) == b"CG"


@pytest.mark.skipif(not shutil.which("bgzip"), reason="bgzip is not installed")
def test_a_compressed_reference(tmp_path: Path) -> None:
    fasta(tmp_path / "a.fa", **{"1": "ACGT" * 40_000})
    subprocess.run(["bgzip", tmp_path / "a.fa"], check=True)
    assert Reference(tmp_path / "a.fa.gz").bases("1", 100_001, 100_005) == b"ACGT"


def test_what_is_no_reference_is_refused_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(os.urandom(500))
    (tmp_path / "gzip").write_bytes(gzip.compress(b">1\nACGT\n"))
    (tmp_path / "ragged").write_bytes(b">1\nACGT\nA\nACGT\n")
    for name in ("empty", "binary", "gzip", "ragged", "absent", "http://localhost/a.fa", "."):
        with pytest.raises(Fault, match="REFERENCE_UNREADABLE"):
            Reference(tmp_path / name if ":" not in name else Path(name))
    assert capfd.readouterr() == ("", "")
