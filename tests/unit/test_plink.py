"""PLINK 1 files against a naive reading of the format, bed-reader, and both versions of PLINK."""

import hashlib
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genopact_ingest.findings import ImportRefusedError
from genopact_ingest.plink import PlinkFile
from genopact_ingest.ploidy import FEMALE, MALE, UNKNOWN
from tests.unit.harmonisers import Every, Sites, dosages

CODES = {2: 0, -1: 1, 1: 2, 0: 3}
few = settings(max_examples=60, deadline=None)


def write(folder: Path, copies: NDArray[np.int8], name: str = "x") -> Path:
    """copies: (variants, n) of A1; the .bed by the letter of the format, call after call."""
    variants, n = copies.shape
    body = bytearray()
    for row in copies.tolist():
        for start in range(0, n, 4):
            body.append(sum(CODES[call] << 2 * at for at, call in enumerate(row[start : start + 4])))
    path = folder / f"{name}.bed"
    path.write_bytes(b"\x6c\x1b\x01" + body)
    rows = [
        f"{1 + at * 22 // variants}\trs{at}\t0\t{1000 + at}\t{'ACGT'[at % 4]}\t{'CATG'[at % 4]}\n"
        for at in range(variants)
    ]
    path.with_suffix(".bim").write_text("".join(rows))
    path.with_suffix(".fam").write_text("".join(f"F{at} P{at} 0 0 {at % 3} -9\n" for at in range(n)))
    return path


def random_copies(variants: int, n: int, seed: int = 0) -> NDArray[np.int8]:
    return np.random.default_rng(seed).integers(-1, 3, (variants, n)).astype(np.int8)


def edit(path: Path, suffix: str, old: str, new: str) -> None:
    text = path.with_suffix(suffix).read_text()
    assert old in text
    path.with_suffix(suffix).write_text(text.replace(old, new, 1))


def refused(path: Path) -> tuple[str, int | None, str]:
    """The only finding, which says nothing of the file's text."""
    with pytest.raises(ImportRefusedError) as caught:
        list(PlinkFile(path).batches(Every()))
    (finding,) = caught.value.findings
    assert not any(word in str(caught.value) for word in ("P0", "P1", "rs0", str(path.parent)))
    return finding.code, finding.row, finding.column


@few
@given(st.integers(1, 13), st.integers(1, 9), st.integers(0, 2**32), st.booleans())
def test_codes_are_copies_of_either_allele(
    tmp_path_factory: pytest.TempPathFactory, n: int, variants: int, seed: int, padded: bool
) -> None:
    copies = random_copies(variants, n, seed)
    path = write(tmp_path_factory.mktemp("bed"), copies)
    if padded and n % 4:  # the bits after the last person say nothing
        data = bytearray(path.read_bytes())
        for at in range(3 + -(-n // 4) - 1, len(data), -(-n // 4)):
            data[at] |= 0xFF << 2 * (n % 4) & 0xFF
        path.write_bytes(data)
    file, every = PlinkFile(path), Every(1)
    np.testing.assert_array_equal(dosages(file, every), copies)
    np.testing.assert_array_equal(dosages(file, Every(0)), np.where(copies < 0, -1, 2 - copies))
    for record, row in zip(every.seen, copies, strict=True):
        known = row[row >= 0]
        assert record.frequency == (None if not known.size else pytest.approx(known.mean() / 2))
        assert (record.ref, record.alts) == ("CATG"["ACGT".index(record.alts[0])], record.alts)
    assert file.sex.tolist() == [(UNKNOWN, MALE, FEMALE)[at % 3] for at in range(n)]


def test_more_than_a_batch_and_only_what_is_wanted(tmp_path: Path) -> None:
    copies = random_copies(700, 9)
    file = PlinkFile(write(tmp_path, copies))
    positions = [1699, 1003, 1256, 1255, 1511]
    found = list(file.batches(Sites(positions)))
    assert [called.rows.tolist() for called in found] == [[1, 3], [2, 4], [0]]
    for called in found:
        np.testing.assert_array_equal(called.dosages, copies[[positions[row] - 1000 for row in called.rows]])
        assert called.dosages.flags.c_contiguous
    assert list(file.batches(Sites([7]))) == []


def test_bed_reader_agrees(tmp_path: Path) -> None:
    from bed_reader import open_bed

    path = write(tmp_path, random_copies(300, 41, 5))
    with open_bed(path, count_A1=True, num_threads=1) as peer:
        theirs = peer.read(dtype="int8").T
        assert peer.iid.tolist() == list(PlinkFile(path).samples)
    np.testing.assert_array_equal(dosages(PlinkFile(path), Every()), np.where(theirs == -127, -1, theirs))


@pytest.mark.parametrize(
    "command", [["plink1.9", "--keep-allele-order", "--recode", "A-transpose"], ["plink2", "--export", "A-transpose"]]
)
def test_plink_agrees(tmp_path: Path, command: list[str]) -> None:
    """A-transpose counts the allele of its column COUNTED."""
    path = write(tmp_path, random_copies(40, 11, 6))
    subprocess.run(
        [*command, "--bfile", path.with_suffix(""), "--out", tmp_path / "peer"], check=True, capture_output=True
    )
    rows = [line.split("\t") for line in (tmp_path / "peer.traw").read_text().splitlines()[1:]]
    every = Every()
    for row, mine, record in zip(rows, dosages(PlinkFile(path), every), every.seen, strict=True):
        theirs = np.array([-1 if cell == "NA" else int(cell) for cell in row[6:]])
        assert (record.chrom, record.pos) == (row[0], int(row[3]))
        turned = np.where(mine < 0, -1, 2 - mine)
        np.testing.assert_array_equal(turned if row[4] == record.ref else mine, theirs)
    assert len(rows) == 40


def test_the_remedy_for_a_file_by_samples(tmp_path: Path) -> None:
    """plink1.9 turns it; ours then reads the same calls."""
    copies = random_copies(8, 6, 7)
    wanted = write(tmp_path, copies, "wanted")
    path = write(tmp_path, np.ascontiguousarray(copies.T), "turned")
    path.write_bytes(b"\x6c\x1b\x00" + path.read_bytes()[3:])
    for suffix in (".bim", ".fam"):
        path.with_suffix(suffix).write_bytes(wanted.with_suffix(suffix).read_bytes())
    assert refused(path) == ("PLINK_SAMPLE_MAJOR", None, "")
    subprocess.run(
        ["plink1.9", "--bfile", tmp_path / "turned", "--keep-allele-order", "--make-bed", "--out", tmp_path / "new"],
        check=True,
        capture_output=True,
    )
    np.testing.assert_array_equal(dosages(PlinkFile(tmp_path / "new.bed"), Every()), copies)


def test_the_remedy_for_coded_indels(tmp_path: Path) -> None:
    copies = random_copies(6, 5)
    path = write(tmp_path, copies)
    edit(path, ".bim", "1001\tC\tA", "1001\tD\tI")
    subprocess.run(
        ["plink2", "--bfile", tmp_path / "x", "--snps-only", "just-acgt", "--make-bed", "--out", tmp_path / "new"],
        check=True,
        capture_output=True,
    )
    np.testing.assert_array_equal(dosages(PlinkFile(tmp_path / "new.bed"), Every()), copies[[0, 2, 3, 4, 5]])


@pytest.mark.parametrize(
    ("suffix", "old", "new", "expected"),
    [
        (".fam", "P1", "P 1", ("GENOTYPES_LINE", 2, ".fam")),
        (".fam", "F1 P1 0 0 1 -9\n", "\n", ("GENOTYPES_LINE", 2, ".fam")),
        (".fam", "P1", "0", ("GENOTYPES_SAMPLES", None, "")),
        (".fam", "F1 P1", "F0 P0", ("GENOTYPES_SAMPLES", None, "")),
        (".fam", "F4 P4 0 0 1 -9\n", "F4 P4 0 0 1 -9", ("GENOTYPES_LINE", 5, ".fam")),
        (".fam", "F4 P4 0 0 1 -9\n", "", ("PLINK_SIZE", None, "")),
        (".bim", "\t1001\t", "\t1001.5\t", ("GENOTYPES_LINE", 2, ".bim")),
        (".bim", "rs1\t", "", ("GENOTYPES_LINE", 2, ".bim")),
        (".bim", "rs1\t", "rs\t1\t", ("GENOTYPES_LINE", 2, ".bim")),
        (".bim", "1001\tC\tA", "1001\tD\tI", ("GENOTYPES_ALLELES", 2, ".bim")),
        (".bim", "1001\tC\tA", "1001\t1\t2", ("GENOTYPES_ALLELES", 2, ".bim")),
        (".bim", "1001\tC\tA", "1001\t*\tA", ("GENOTYPES_ALLELES", 2, ".bim")),
        (".bim", "1001\tC\tA", "1001\tA\tA", ("GENOTYPES_ALLELES", 2, ".bim")),
        (".bim", "1001\tC\tA", "1001\t0\tA", ("GENOTYPES_ALLELES", 2, ".bim")),
    ],
)
def test_one_fault_at_its_place(
    tmp_path: Path, suffix: str, old: str, new: str, expected: tuple[str, int | None, str]
) -> None:
    path = write(tmp_path, random_copies(6, 5))
    edit(path, suffix, old, new)
    assert refused(path) == expected


@pytest.mark.parametrize("suffix", [".bed", ".bim", ".fam"])
def test_absent_foreign_or_irregular_files(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, random_copies(6, 4))
    path.with_suffix(suffix).write_bytes(b"\xff\xfe\x00")
    assert refused(path) == ("GENOTYPES_UNREADABLE", None, suffix)
    path.with_suffix(suffix).unlink()
    assert refused(path) == ("GENOTYPES_UNREADABLE", None, suffix)
    path.with_suffix(suffix).symlink_to("/dev/null")
    assert refused(path) == ("GENOTYPES_UNREADABLE", None, suffix)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, random_copies(6, 5))
    for suffix in (".bed", ".bim", ".fam"):
        whole = path.with_suffix(suffix).read_bytes()
        for length in range(len(whole)):
            path.with_suffix(suffix).write_bytes(whole[:length])
            assert refused(path)[0] in {"PLINK_SIZE", "GENOTYPES_LINE", "GENOTYPES_UNREADABLE", "GENOTYPES_SAMPLES"}
        path.with_suffix(suffix).write_bytes(whole)
    path.write_bytes(path.read_bytes() + b"\0")
    assert refused(path)[0] == "PLINK_SIZE"


def test_a_bed_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, random_copies(300, 5))
    file = PlinkFile(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImportRefusedError, match="PLINK_SIZE"):
        list(file.batches(Every()))


def test_indels_monomorphic_and_unplaced_variants(tmp_path: Path) -> None:
    copies = random_copies(6, 5)
    copies[2] = [0, -1, 0, 0, 0]
    path = write(tmp_path, copies)
    edit(path, ".bim", "1001\tC\tA", "1001\tcat\tc")
    edit(path, ".bim", "1002\tG\tT", "1002\t0\tT")
    edit(path, ".bim", "1003\tT\tG", "1003\tT\t0")
    edit(path, ".bim", "1004", "-1004")
    edit(path, ".bim", "19\trs5", "0\trs5")
    file, every = PlinkFile(path), Every()
    np.testing.assert_array_equal(dosages(file, every), copies[:2])
    assert [(record.pos, record.ref, record.alts) for record in every.seen] == [
        (1000, "C", ("A",)),
        (1001, "C", ("CAT",)),
        (1002, "T", ()),
    ]
    assert file.notes == {"without_reference": 1, "without_place": 2}
    np.testing.assert_array_equal(dosages(file, Every(0))[2], [2, -1, 2, 2, 2])
    assert file.notes == {"without_reference": 1, "without_place": 2}


def test_samples_are_called_by_family_only_where_they_must(tmp_path: Path) -> None:
    path = write(tmp_path, random_copies(2, 3))
    assert PlinkFile(path).samples == ("P0", "P1", "P2")
    edit(path, ".fam", "P2", "P1")
    assert PlinkFile(path).samples == ("F0_P0", "F1_P1", "F2_P1")
    edit(path, ".fam", "F0 P0", "F0 Zoe\u0308")
    assert PlinkFile(path).samples[0] == "F0_Zo\u00eb"


def test_the_digest_is_of_all_three_files(tmp_path: Path) -> None:
    path = write(tmp_path, random_copies(2, 3))
    parts = [path.with_suffix(suffix).read_bytes() for suffix in (".bed", ".bim", ".fam")]
    assert PlinkFile(path).digest == hashlib.sha256(b"".join(parts)).hexdigest()
    before = PlinkFile(path).digest
    edit(path, ".fam", "-9", "1")
    assert PlinkFile(path).digest != before


def test_a_flipped_bit_in_the_calls_is_another_digest(tmp_path: Path) -> None:
    """What the format cannot show: the calls change by one, and only the checksum tells."""
    path = write(tmp_path, random_copies(6, 5))
    before, digest = dosages(PlinkFile(path), Every()), PlinkFile(path).digest
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    assert (dosages(PlinkFile(path), Every()) != before).sum() == 1
    assert PlinkFile(path).digest != digest


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dosages(PlinkFile(write(tmp_path, random_copies(6, 5))), Every())
    assert capfd.readouterr() == ("", "")
