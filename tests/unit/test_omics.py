"""Matrices of features: both directions and all containers say the same, and doubtful files are refused."""

import gzip
import io
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from genopact_ingest.findings import ImportRefusedError
from genopact_ingest.omics import Omics, read_matrix

FEATURES = ("TP53", "BRCA1", "EGFR", "absent")
BOUNDS = (0.0, 100.0)
ROWS = """\
id\tBRCA1\tother\tTP53\tEGFR
MRN-1\t1.5\t9\t0\t100
MRN-2\t\t9\t1e1\tNaN
MRN-3\tNA\tNA\t.25\t7
"""
WANTED = [[0, 1.5, 100, np.nan], [10, np.nan, np.nan, np.nan], [0.25, np.nan, 7, np.nan]]
Direction = Literal["rows", "columns"]
few = settings(max_examples=50, deadline=None)


def turned(text: str) -> str:
    return "".join("\t".join(row) + "\n" for row in zip(*(line.split("\t") for line in text.splitlines()), strict=True))


def as_parquet(text: str, path: Path) -> Path:
    names, *rows = (line.split("\t") for line in text.splitlines())
    columns = list(zip(*rows, strict=True))
    values = [[None if cell in {"", "NA"} else float(cell) for cell in column] for column in columns[1:]]
    table = pa.table([pa.array(columns[0]), *(pa.array(column, pa.float64()) for column in values)], names=names)
    parquet.write_table(table, path, row_group_size=2, write_page_checksum=True)
    return path


def plain(text: str, path: Path) -> Path:
    path.write_text(text)
    return path


def gzipped(text: str, path: Path) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


def bgzipped(text: str, path: Path) -> Path:
    path.write_bytes(subprocess.run(["bgzip", "-c"], input=text.encode(), capture_output=True, check=True).stdout)
    return path


def read(path: Path, people: Direction = "rows") -> Omics:
    return read_matrix(path, FEATURES, people=people, bounds=BOUNDS)


@pytest.mark.parametrize("people", ["rows", "columns"])
@pytest.mark.parametrize("write", [plain, gzipped, bgzipped, as_parquet])
def test_every_container_and_direction(tmp_path: Path, write: Callable[[str, Path], Path], people: Direction) -> None:
    found = read(write(ROWS if people == "rows" else turned(ROWS), tmp_path / "matrix"), people)
    assert found.people == ("MRN-1", "MRN-2", "MRN-3")
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, np.array(WANTED, np.float32))
    assert found.notes == {"absent_features": 1, "other_features": 1}
    assert len(found.digest) == 64


def test_windows_line_ends(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(plain(ROWS.replace("\n", "\r\n"), tmp_path / "m")).values, WANTED)


@few
@given(st.integers(1, 7), st.integers(1, 6), st.integers(0, 2**32), st.sampled_from(["rows", "columns"]), st.booleans())
def test_any_matrix_comes_back(
    tmp_path_factory: pytest.TempPathFactory, n: int, count: int, seed: int, people: Direction, packed: bool
) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("omics")
    values = np.where(rng.random((n, count)) < 0.2, np.nan, rng.normal(50, 9, (n, count))).astype(np.float32)
    names = [f"f{at}" for at in rng.permutation(count)]
    rows = [
        [f"P{at}", *("NA" if np.isnan(cell) else repr(float(cell)) for cell in row)] for at, row in enumerate(values)
    ]
    text = "".join("\t".join(row) + "\n" for row in [["id", *names], *rows])
    text = text if people == "rows" else turned(text)
    path = (as_parquet if packed else plain)(text, folder / "matrix")
    found = read_matrix(path, sorted(names), people=people, bounds=(-1e3, 1e3))
    np.testing.assert_array_equal(found.values, values[:, np.argsort(names)])


def refused(call: Callable[[], object]) -> list[tuple[str, int | None, str]]:
    with pytest.raises(ImportRefusedError) as caught:
        call()
    assert not any(word in str(caught.value) for word in ("MRN", "secret"))
    return [(finding.code, finding.row, finding.column) for finding in caught.value.findings]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("1.5", "-1.5", ("VALUE_RANGE", 2, "2")),
        ("100\n", "100.5\n", ("VALUE_RANGE", 2, "5")),
        ("1.5", "1e99", ("VALUE_RANGE", 2, "2")),
        ("1.5", "1e999", ("VALUE_RANGE", 2, "2")),
        ("1.5", "inf", ("NUMBER_INVALID", 2, "2")),
        ("1.5", "1,5", ("NUMBER_INVALID", 2, "2")),
        ("1.5", "secret", ("NUMBER_INVALID", 2, "2")),
        ("1.5", "\u0661", ("NUMBER_INVALID", 2, "2")),
        ("\t7\n", "\n", ("CSV_RAGGED", 4, "")),
        ("id\t", "", ("CSV_RAGGED", 2, "")),
        ("MRN-1", '"MRN-1"', ("CSV_UNREADABLE", None, "")),
        ("MRN-2", "MRN-1", ("PERSON_TWICE", None, "")),
        ("MRN-2", " ", ("PERSON_MISSING", None, "")),
        ("other", "TP53", ("COLUMN_TWICE", None, "")),
        (ROWS[ROWS.index("\n") + 1 :], "", ("CSV_EMPTY", None, "")),
        (ROWS, "", ("CSV_EMPTY", None, "")),
        (ROWS, turned(ROWS), ("MATRIX_FEATURES", None, "")),
        ("\t7\n", "\t7", ("CSV_UNREADABLE", None, "")),
    ],
)
def test_one_fault(tmp_path: Path, old: str, new: str, expected: tuple[str, int | None, str]) -> None:
    assert old in ROWS
    assert refused(lambda: read(plain(ROWS.replace(old, new, 1), tmp_path / "m"))) == [expected]


def test_faults_of_a_matrix_with_people_as_columns(tmp_path: Path) -> None:
    text = turned(ROWS)
    twice = text.replace("MRN-2", "MRN-1")
    assert refused(lambda: read(plain(twice, tmp_path / "m"), "columns")) == [("PERSON_TWICE", None, "")]
    large = text.replace("100", "101").replace("\t7", "\t700")
    assert refused(lambda: read(plain(large, tmp_path / "m"), "columns")) == [("VALUE_RANGE", 5, "2")]
    ignored = text.replace("\t9\t9", "\t900\t-9")
    assert read(plain(ignored, tmp_path / "m"), "columns").people == ("MRN-1", "MRN-2", "MRN-3")


@pytest.mark.parametrize(
    ("arrays", "column"),
    [
        ([pa.array([1, 2]), pa.array([1.0, 2.0])], "1"),
        ([pa.array(["a", "b"]), pa.array(["1", "2"])], "2"),
        ([pa.array(["a", "b"]), pa.array([True, False])], "2"),
    ],
)
def test_types_of_a_parquet_matrix(tmp_path: Path, arrays: list[pa.Array], column: str) -> None:
    parquet.write_table(pa.table(arrays, names=["id", "TP53"]), tmp_path / "m")
    assert refused(lambda: read(tmp_path / "m")) == [("COLUMN_TYPE", 1, column)]


def test_integers_with_gaps_and_nameless_people(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a", "b"]), pa.array([1, None])], names=["id", "TP53"])
    parquet.write_table(table, tmp_path / "m")
    np.testing.assert_array_equal(read(tmp_path / "m").values[:, 0], [1, np.nan])
    parquet.write_table(table.set_column(0, "id", pa.array(["a", None])), tmp_path / "m")
    assert refused(lambda: read(tmp_path / "m")) == [("PERSON_MISSING", None, "")]
    parquet.write_table(table.select(["id"]), tmp_path / "m")
    assert refused(lambda: read(tmp_path / "m"))[0][0] in {"CSV_UNREADABLE", "MATRIX_FEATURES"}


@pytest.mark.parametrize("write", [gzipped, bgzipped, as_parquet])
def test_damaged_containers(tmp_path: Path, write: Callable[[str, Path], Path]) -> None:
    """Cut anywhere: refused. A flipped bit: refused, or every value is the same, or a feature has lost its name, which
    is counted: parquet's footer has no checksum."""
    path = write(ROWS, tmp_path / "m")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    step = max(1, len(whole) // 300)
    for at in range(0, len(whole), step):
        path.write_bytes(whole[:at])
        assert refused(lambda: read(path))
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            found = read(path)
        except ImportRefusedError:
            continue
        lost = np.isnan(found.values).all(axis=0)
        np.testing.assert_array_equal(found.values, np.where(lost, np.nan, np.array(WANTED, np.float32)))
        assert lost.sum() == found.notes["absent_features"]


def test_absent_files(tmp_path: Path) -> None:
    assert refused(lambda: read(tmp_path / "m")) == [("GENOTYPES_UNREADABLE", None, "")]


@pytest.mark.parametrize("people", ["rows", "columns"])
def test_memory_grows_with_the_values_only(tmp_path: Path, people: Direction) -> None:
    def peak(n: int) -> int:
        text = io.StringIO()
        text.write("\t".join(["id", *(f"f{at}" for at in range(200))]) + "\n")
        for at in range(n):
            text.write(f"P{at}" + "\t1.25" * 200 + "\n")
        content = text.getvalue() if people == "rows" else turned(text.getvalue())
        path = plain(content, tmp_path / "m")
        del text, content
        tracemalloc.start()
        try:
            read_matrix(path, [f"f{at}" for at in range(200)], people=people, bounds=BOUNDS)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(200), peak(800)
    assert large < 4.5 * small + (4 << 20)


# --- sequences

PLACES = tuple(f"{at}" for at in range(1, 9))
FASTA = """\
>MRN-1 chr7:10-17 haplotype "1"
ACGT
acgt
>MRN-2\tsecond
NRYK-*xU

> MRN-3
TTTTTTTT
"""
CODED = [[0, 1, 2, 3, 0, 1, 2, 3], [4] * 8, [3] * 8]


def sequences(path: Path, people: Direction = "rows") -> Omics:
    return read_matrix(path, PLACES, people=people, bounds=(0, 4))


@pytest.mark.parametrize("name", ["s.fa", "s.fasta", "S.FA", "s.fa.gz", "s.fasta.gz"])
@pytest.mark.parametrize("people", ["rows", "columns"])
def test_sequences_are_codes_of_letters(tmp_path: Path, name: str, people: Direction) -> None:
    write, text = (gzipped if name.endswith(".gz") else plain), FASTA.replace(' "1"', "")
    found = sequences(write(text, tmp_path / name), people)
    assert found.people == ("MRN-1", "MRN-2", "MRN-3")
    np.testing.assert_array_equal(found.values, np.array(CODED, np.float32))
    assert found.notes == {"absent_features": 0, "other_features": 0}
    same = sequences(bgzipped(text.replace("\n", "\r\n"), tmp_path / f"b{name}"), people)
    np.testing.assert_array_equal(same.values, found.values)


@few
@given(st.lists(st.text("ACGTNacgtn-*Uz", min_size=8, max_size=8), min_size=1, max_size=5), st.integers(1, 9))
def test_any_sequences_come_back(tmp_path_factory: pytest.TempPathFactory, letters: list[str], width: int) -> None:
    lines = [
        f">P{at}\n" + "".join(f"{one[i : i + width]}\n" for i in range(0, 8, width)) for at, one in enumerate(letters)
    ]
    found = sequences(plain("".join(lines), tmp_path_factory.mktemp("fasta") / "s.fa"))
    code = {"A": 0, "C": 1, "G": 2, "T": 3}
    assert found.values.tolist() == [[code.get(each.upper(), 4) for each in one] for one in letters]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("ACGT\n", "ACG\n", ("FASTA_INVALID", 1, "")),
        ("ACGT\n", "ACGTA\n", ("FASTA_INVALID", 1, "")),
        ("NRYK-*xU\n", "", ("FASTA_INVALID", 4, "")),
        ("TTTTTTTT", "TTTTTTT", ("FASTA_INVALID", 7, "")),
        ("TTTTTTTT", "TTTTTTTTT", ("FASTA_INVALID", 7, "")),
        ("TTTTTTTT", "TTTT1TTT", ("FASTA_INVALID", 7, "")),
        ("TTTTTTTT", "TTT TTTT", ("FASTA_INVALID", 7, "")),
        ("TTTTTTTT", "TTT\tTTTT", ("FASTA_INVALID", 7, "")),
        ("TTTTTTTT", "TTTTT\u00c4TT", ("FASTA_INVALID", 7, "")),
        ("TTTTTTTT", "TTTT>TTT", ("FASTA_INVALID", 7, "")),
        (">MRN-1 chr7", "MRN-1 chr7", ("FASTA_INVALID", 1, "")),
        ("MRN-2", "MRN-1", ("PERSON_TWICE", None, "")),
        ("> MRN-3", ">", ("PERSON_MISSING", None, "")),
        ("TTTTTTTT\n", "TTTTTTTT", ("CSV_UNREADABLE", None, "")),
        (FASTA, "", ("CSV_EMPTY", None, "")),
        (FASTA, "\n\n", ("CSV_EMPTY", None, "")),
        (FASTA, ROWS, ("FASTA_INVALID", 1, "")),
    ],
)
def test_one_fault_of_sequences(tmp_path: Path, old: str, new: str, expected: tuple[str, int | None, str]) -> None:
    text = FASTA.replace(' "1"', "")
    old = text if old == FASTA else old
    assert old in text
    assert refused(lambda: sequences(plain(text.replace(old, new, 1), tmp_path / "s.fa"))) == [expected]


def test_sequences_with_quotes_that_are_cut_or_absent(tmp_path: Path) -> None:
    assert refused(lambda: sequences(plain(FASTA, tmp_path / "s.fa"))) == [("CSV_UNREADABLE", None, "")]
    assert refused(lambda: sequences(tmp_path / "none.fa")) == [("GENOTYPES_UNREADABLE", None, ".fa")]
    whole = gzipped(FASTA.replace(' "1"', ""), tmp_path / "s.fa.gz").read_bytes()
    for at in range(1, len(whole)):
        (tmp_path / "s.fa.gz").write_bytes(whole[:at])
        assert refused(lambda: sequences(tmp_path / "s.fa.gz"))
