"""Reading a hospital's table."""

import csv
import datetime as dt
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from genopact_ingest.fhir import read_fhir
from genopact_ingest.findings import Finding, ImportRefusedError
from genopact_ingest.omics import read_matrix
from genopact_ingest.plink import PlinkFile
from genopact_ingest.table import Covariates, read_table
from genopact_shared.errors import CATALOGUE
from genopact_shared.recipes.dose_features import SCHEMA
from genopact_shared.recipes.table import Choice, Column, Dosage, Flag, Number
from tests.unit.harmonisers import Every, dosages

GOOD = """\
person,age_decade,height_cm [cm],sex,race,smoker,vkorc1_1639,weekly_dose_mg
MRN-1,6,171.5,female,White,no,A/G,28
MRN-2,NA,,male,Asian,1,T|T,17.5
MRN-3,0,1.6e2,,"Black or African American",true,0,
"""


def read(tmp_path: Path, content: str | bytes) -> Covariates:
    path = tmp_path / "covariates.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path, SCHEMA)


def findings(tmp_path: Path, content: str | bytes) -> list[tuple[str, int | None, str]]:
    with pytest.raises(ImportRefusedError) as caught:
        read(tmp_path, content)
    return [(finding.code, finding.row, finding.column) for finding in caught.value.findings]


@pytest.mark.parametrize("content", [GOOD, "\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), GOOD + "\n\n"])
def test_a_good_file(tmp_path: Path, content: str) -> None:
    covariates = read(tmp_path, content)
    assert covariates.people == ("MRN-1", "MRN-2", "MRN-3")
    table = covariates.table
    assert set(table.columns) == set(GOOD.splitlines()[0].replace(" [cm]", "").split(",")) - {"person"}
    age, height, dose = (table.number(name).tolist() for name in ("age_decade", "height_cm", "weekly_dose_mg"))
    assert age[::2] == [6, 0]
    assert math.isnan(age[1])
    assert height[::2] == [171.5, 160]
    assert math.isnan(dose[2])
    assert table.codes("sex").tolist() == [0, 1, -1]
    assert table.codes("race").tolist() == [0, 1, 2]
    assert table.codes("smoker").tolist() == [0, 1, 1]
    assert table.codes("vkorc1_1639").tolist() == [1, 2, 0]
    assert table.codes("rifampin").tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("age_decade", "surname", ("COLUMN_UNKNOWN", 1, "2")),
        ("age_decade", "", ("COLUMN_UNKNOWN", 1, "2")),
        ("age_decade", "sex", ("COLUMN_TWICE", 1, "4")),
        ("person", "patient", ("COLUMN_MISSING", 1, "person")),
        ("weekly_dose_mg", "smoker_", ("COLUMN_MISSING", 1, "weekly_dose_mg")),
        ("[cm]", "[m]", ("UNIT_WRONG", 1, "height_cm")),
        ("sex", "sex [cm]", ("UNIT_WRONG", 1, "sex")),
        ("171.5", "1.715", ("VALUE_RANGE", 2, "height_cm")),
        ("17.5\n", "-3\n", ("VALUE_RANGE", 3, "weekly_dose_mg")),
        ("17.5\n", "0\n", ("VALUE_RANGE", 3, "weekly_dose_mg")),
        ("171.5", '"171,5"', ("NUMBER_INVALID", 2, "height_cm")),
        ("171.5", "171.5 cm", ("NUMBER_INVALID", 2, "height_cm")),
        ("171.5", "nan", ("NUMBER_INVALID", 2, "height_cm")),
        ("171.5", "inf", ("NUMBER_INVALID", 2, "height_cm")),
        ("171.5", "1_71", ("NUMBER_INVALID", 2, "height_cm")),
        ("171.5", "\u0661\u0667\u0661", ("NUMBER_INVALID", 2, "height_cm")),
        ("171.5", "1e999", ("VALUE_RANGE", 2, "height_cm")),
        ("female", "F", ("LEVEL_UNKNOWN", 2, "sex")),
        (",no,", ",maybe,", ("LEVEL_UNKNOWN", 2, "smoker")),
        ("A/G", "A/C", ("ALLELE_UNKNOWN", 2, "vkorc1_1639")),
        ("A/G", "A/T", ("ALLELE_UNKNOWN", 2, "vkorc1_1639")),
        ("A/G", "A", ("ALLELE_UNKNOWN", 2, "vkorc1_1639")),
        ("A/G", "3", ("ALLELE_UNKNOWN", 2, "vkorc1_1639")),
        ("A/G", "A/G/G", ("ALLELE_UNKNOWN", 2, "vkorc1_1639")),
        ("MRN-2", "MRN-1", ("PERSON_TWICE", 3, "person")),
        ("MRN-2", " MRN-1 ", ("PERSON_TWICE", 3, "person")),
        ("MRN-1,6", "Zo\u00eb,6,,,,,,\nZoe\u0308,6", ("PERSON_TWICE", 3, "person")),
        ("MRN-2", "", ("PERSON_MISSING", 3, "person")),
        (",17.5", "", ("CSV_RAGGED", 3, "")),
        (",17.5", ",17.5,9", ("CSV_RAGGED", 3, "")),
        ("MRN-2", "\nMRN-2", ("CSV_RAGGED", 3, "")),
    ],
)
def test_one_fault_is_found_at_its_place(tmp_path: Path, old: str, new: str, expected: tuple[str, int, str]) -> None:
    found = findings(tmp_path, GOOD.replace(old, new, 1))
    assert expected in found
    assert len(found) <= 2  # a renamed column is also a missing or unknown one


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "CSV_EMPTY"),
        ("\n\n", "CSV_EMPTY"),
        ("person,weekly_dose_mg\n", "CSV_EMPTY"),
        (GOOD.replace(",", ";"), "CSV_DELIMITER"),
        (GOOD.replace(",", "\t"), "CSV_DELIMITER"),
        (GOOD.replace("MRN-2", '"MRN-2'), "CSV_UNREADABLE"),
        (GOOD.replace("MRN-2", "MRN\0"), "CSV_UNREADABLE"),
        (GOOD.encode("utf-16"), "CSV_UNREADABLE"),
        (b"\x1f\x8b\x08\x00", "CSV_UNREADABLE"),
    ],
)
def test_files_that_are_no_such_table(tmp_path: Path, content: str | bytes, code: str) -> None:
    assert [finding[0] for finding in findings(tmp_path, content)] == [code]


def test_unreadable_path(tmp_path: Path) -> None:
    with pytest.raises(ImportRefusedError, match="CSV_UNREADABLE"):
        read_table(tmp_path, SCHEMA)


def test_all_faults_at_once_without_values_or_people(tmp_path: Path) -> None:
    content = "person,sex,weekly_dose_mg\nDoe John,secret,30\nDoe Jane,male,-7777\nDoe Jane,male,1\nx\n"
    with pytest.raises(ImportRefusedError) as caught:
        read(tmp_path, content)
    shown = "\n".join(map(str, caught.value.findings))
    assert [finding.code for finding in caught.value.findings] == [
        "LEVEL_UNKNOWN",
        "VALUE_RANGE",
        "PERSON_TWICE",
        "CSV_RAGGED",
    ]
    assert not any(word in shown + str(caught.value) for word in ("Doe", "secret", "7777"))
    assert all(CATALOGUE[finding.code].remedy in str(finding) for finding in caught.value.findings)


def test_a_file_without_header_does_not_show_its_first_person(tmp_path: Path) -> None:
    with pytest.raises(ImportRefusedError) as caught:
        read(tmp_path, "Doe John,6,28\n")
    assert "Doe" not in "\n".join(map(str, caught.value.findings))


def test_letters_of_a_palindromic_variant_are_refused_and_copies_are_not(tmp_path: Path) -> None:
    assert findings(tmp_path, "person,vkorc1_1542,weekly_dose_mg\na,C/G,30\n")[0][0] == "ALLELE_AMBIGUOUS"
    assert read(tmp_path, "person,vkorc1_1542,weekly_dose_mg\na,2,30\n").table.codes("vkorc1_1542").tolist() == [2]


def test_a_finding_reads_as_a_sentence() -> None:
    assert str(Finding("VALUE_RANGE", "(expected 1 to 2 cm)", 7, "height_cm")) == (
        "VALUE_RANGE at row 7, column height_cm: A value lies outside the recipe's range. (expected 1 to 2 cm) -> "
        "Check the value and its unit; leave unknown values empty."
    )


def tsv(content: str) -> str:
    return "".join("\t".join(row) + "\n" for row in csv.reader(io.StringIO(content)))


def same(first: Covariates, second: Covariates) -> None:
    assert first.people == second.people
    assert first.table.columns.keys() == second.table.columns.keys()
    for name, values in first.table.columns.items():
        np.testing.assert_array_equal(values, second.table.columns[name])


def test_a_tsv_says_what_the_csv_says(tmp_path: Path) -> None:
    path = tmp_path / "covariates.tsv"
    path.write_text(tsv(GOOD))
    same(read_table(path, SCHEMA), read(tmp_path, GOOD))
    path.write_text(GOOD)
    with pytest.raises(ImportRefusedError, match="CSV_DELIMITER"):
        read_table(path, SCHEMA)
    path.write_text(tsv(GOOD).replace("171.5", "1.715"))
    with pytest.raises(ImportRefusedError, match="VALUE_RANGE at row 2, column height_cm"):
        read_table(path, SCHEMA)


COLUMNS: dict[str, Sequence[object]] = {
    "person": ["MRN-1", "MRN-2", "MRN-3"],
    "age_decade": [6.0, None, 0.0],
    "height_cm [cm]": [171.5, math.nan, 160.0],
    "sex": ["female", "male", None],
    "race": ["White", "Asian", "Black or African American"],
    "smoker": [False, True, True],
    "vkorc1_1639": [1.0, 2.0, 0.0],
    "weekly_dose_mg": [28.0, 17.5, None],
}


def write_parquet(tmp_path: Path, changed: dict[str, object] | None = None) -> Path:
    arrays = {name: pa.array(values) for name, values in COLUMNS.items()} | (changed or {})
    path = tmp_path / "covariates.parquet"
    parquet.write_table(pa.table(arrays), path, write_page_checksum=True)
    return path


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"sex": pa.array(COLUMNS["sex"]).dictionary_encode()},
        {"age_decade": pa.array([6, None, 0], pa.int8())},
        {"vkorc1_1639": pa.array(["A/G", "T|T", "0"])},
        {"height_cm [cm]": pa.array(["171.5", "NA", "1.6e2"], pa.large_string())},
        {"smoker": pa.array([0.0, 1.0, 1.0], pa.float32())},
        {"rifampin": pa.nulls(3)},
    ],
    ids=lambda changed: "".join(changed) or "as it is",
)
def test_a_parquet_file_says_what_the_csv_says(tmp_path: Path, changed: dict[str, object]) -> None:
    found = read_table(write_parquet(tmp_path, changed), SCHEMA)
    wanted = read(tmp_path, GOOD)
    assert found.table.codes("rifampin").tolist() == [-1, -1, -1]
    columns = {name: values for name, values in found.table.columns.items() if name != "rifampin"}
    same(Covariates(found.people, type(found.table)(columns, 3), ""), wanted)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"age_decade": pa.array([6, None, 12])}, ("VALUE_RANGE", 4, "age_decade")),
        ({"age_decade": pa.array([6, None, math.inf])}, ("NUMBER_INVALID", 4, "age_decade")),
        ({"vkorc1_1639": pa.array([0.5, 1.0, 2.0])}, ("ALLELE_UNKNOWN", 2, "vkorc1_1639")),
        ({"smoker": pa.array([0, 2, 1])}, ("LEVEL_UNKNOWN", 3, "smoker")),
        ({"person": pa.array([7, 8, 7])}, ("PERSON_TWICE", 4, "person")),
        ({"person": pa.array([7, None, 9])}, ("PERSON_MISSING", 3, "person")),
        ({"person": pa.array([b"a", b"b", b"c"])}, ("COLUMN_TYPE", 1, "1")),
        ({"sex": pa.array([["female"], [], None])}, ("COLUMN_TYPE", 1, "4")),
        ({"surname": pa.array([dt.date(1950, 1, 1)] * 3)}, ("COLUMN_TYPE", 1, "9")),
        ({"surname": pa.array(["Doe", "Roe", "Poe"])}, ("COLUMN_UNKNOWN", 1, "9")),
    ],
)
def test_faults_of_a_parquet_file_at_their_places(
    tmp_path: Path, changed: dict[str, object], expected: tuple[str, int, str]
) -> None:
    with pytest.raises(ImportRefusedError) as caught:
        read_table(write_parquet(tmp_path, changed), SCHEMA)
    assert [(finding.code, finding.row, finding.column) for finding in caught.value.findings] == [expected]
    assert "Doe" not in str(caught.value)


def test_a_number_too_large_for_a_float_is_no_person(tmp_path: Path) -> None:
    """9007199254740993 would become its neighbour; a float that large is not written as a whole number."""
    path = write_parquet(tmp_path, {"person": pa.array([float(2**53), 1.0, 2.0])})
    assert read_table(path, SCHEMA).people == ("9007199254740992.0", "1", "2")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    """Pages with a checksum: cut anywhere it is refused, a flipped bit is refused or changes no value."""
    path = write_parquet(tmp_path)
    whole, wanted = path.read_bytes(), read_table(path, SCHEMA)
    rng, refused = np.random.default_rng(0), 0
    for at in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            found = read_table(path, SCHEMA)
        except ImportRefusedError:
            refused += 1
        else:
            same(found, wanted)
        if at % 9 == 0:
            path.write_bytes(whole[:at])
            with pytest.raises(ImportRefusedError):
                read_table(path, SCHEMA)
    assert refused > len(whole) // 12


PAGE = (Path(__file__).parents[2] / "docs" / "input-files.md").read_text("utf-8")


def example(form: str) -> str:
    """The page's only block of a form."""
    (block,) = re.findall(rf"^```{form}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(block)


def test_the_pages_table_is_read(tmp_path: Path) -> None:
    table = read(tmp_path, example("csv")).table
    assert read(tmp_path, example("csv")).people == ("MRN-1001", "MRN-1002", "MRN-1003")
    assert table.codes("vkorc1_1639").tolist() == [1, 2, -1]
    assert table.codes("cyp2c9_3").tolist() == [0, 1, 1]
    assert table.codes("race").tolist() == [0, 1, 3]


@pytest.mark.parametrize("column", SCHEMA, ids=lambda column: column.name)
def test_the_page_has_every_column(column: Column) -> None:
    """With its range and unit, its levels, or its alleles."""
    (said,) = re.findall(rf"^\| `{column.name}` \| (.*) \|$", PAGE, re.MULTILINE)
    match column:
        case Number(unit=unit, low=low, high=high):
            assert said.startswith(f"{low:g} to {high:g} {unit}")
        case Choice(levels=levels):
            assert said == ", ".join(levels)
        case Dosage(effect=effect, other=other, rsid=rsid):
            assert said.startswith(f"copies of {effect} at {rsid} (other allele {other})")
        case Flag():
            assert said.startswith("yes or no")


def test_the_pages_codes_exist() -> None:
    codes = re.findall(r"^\| (`[A-Z_`, ]+`) \|", PAGE, re.MULTILINE)
    assert len(codes) > 20
    assert {code.strip("`") for row in codes for code in row.split(", ")} <= CATALOGUE.keys()


def test_the_pages_other_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "mapping.toml").write_text(example("toml"))
    (tmp_path / "export.ndjson").write_text(example("json"))
    found = read_fhir([tmp_path / "export.ndjson"], tmp_path / "mapping.toml", SCHEMA)
    assert (found.people, found.notes) == (("MRN-1001",), {})
    assert found.table.number("age_decade").tolist() == [6]
    assert found.table.number("height_cm").tolist() == [171.5]
    assert found.table.codes("sex").tolist() == [0]
    (tmp_path / "matrix.tsv").write_text(example("tsv"))
    matrix = read_matrix(tmp_path / "matrix.tsv", ["EGFR", "TP53"], people="rows", bounds=(0, 20))
    assert matrix.values.tolist() == [[7, 5.25], [6.5, 4.75]]
    for suffix in ("bim", "fam"):
        (tmp_path / f"x.{suffix}").write_text(example(suffix))
    (tmp_path / "x.bed").write_bytes(b"\x6c\x1b\x01\x38\x0b")  # from the last person's two bits to the first's
    file, every = PlinkFile(tmp_path / "x.bed"), Every()
    assert dosages(file, every).tolist() == [[2, 1, 0], [0, 1, 2]]
    assert file.samples == ("MRN-1001", "MRN-1002", "MRN-1003")
    assert [record[:4] for record in every.seen] == [("16", 31096368, "C", ("T",)), ("10", 94942290, "C", ("T",))]
