"""Reading a hospital's table."""

import math
from pathlib import Path

import pytest

from genopact_ingest.findings import Finding, ImportRefusedError
from genopact_ingest.table import Covariates, read_table
from genopact_shared.errors import CATALOGUE
from genopact_shared.recipes.dose_features import SCHEMA

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
