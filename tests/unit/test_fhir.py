"""Covariates out of FHIR bulk data: what counts, what is left out, and what is refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_ingest.fhir import read_fhir
from genopact_ingest.findings import ImportRefusedError
from genopact_ingest.table import Covariates
from genopact_shared.recipes.table import Choice, Column, Dosage, Flag, Number

MRN, LOINC, SNOMED, UCUM = "urn:mrn", "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
SCHEMA: tuple[Column, ...] = (
    Number("age_decade", "decades, rounded down", 0, 11),
    Number("height_cm", "cm", 50, 250),
    Choice("sex", ("female", "male")),
    Choice("race", ("White", "Asian")),
    Flag("diabetes"),
    Flag("smoker"),
    Dosage("snp", "rs9923231", "VKORC1", effect="T", other="C"),
    Number("dose", "mg/week", 0.5, 400, "outcome"),
)
MAPPING = f"""
identifier = "{MRN}"
until = 2024-07-01
[columns.age_decade]
resource = "Patient"
value = "age_decades"
[columns.sex]
resource = "Patient"
value = "gender"
levels = {{ unknown = "", other = "" }}
[columns.height_cm]
resource = "Observation"
codes = ["{LOINC}|8302-2", "{LOINC}|3137-7"]
value = "quantity"
unit = "cm"
[columns.race]
resource = "Observation"
codes = ["{LOINC}|72826-1"]
value = "concept"
levels = {{ "{SNOMED}|413773004" = "White", "{SNOMED}|413582008" = "Asian" }}
[columns.diabetes]
resource = "Condition"
codes = ["{SNOMED}|44054006"]
value = "exists"
[columns.dose]
resource = "Observation"
codes = ["local|dose"]
value = "quantity"
unit = "mg/wk"
pick = "only"
"""
Resource = dict[str, Any]


def coded(*codes: str) -> Resource:
    return {"coding": [dict(zip(("system", "code"), code.split("|"), strict=True)) for code in codes]}


def patient(key: str, **more: Any) -> Resource:
    identifiers = [{"system": "urn:other", "value": "Doe"}, {"system": MRN, "value": f"MRN-{key}"}]
    return {"resourceType": "Patient", "id": key, "identifier": identifiers, **more}


def observation(key: str, code: str, day: str = "2024-01-05", **more: Any) -> Resource:
    subject = {"reference": f"Patient/{key}"}
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": coded(code),
        "subject": subject,
        "effectiveDateTime": day,
    } | more


def height(key: str, value: float | str, day: str = "2024-01-05", unit: str = "cm", **more: Any) -> Resource:
    quantity = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    return observation(key, f"{LOINC}|8302-2", day, valueQuantity=quantity, **more)


def dose(key: str, value: float = 30, **more: Any) -> Resource:
    return observation(key, "local|dose", valueQuantity={"value": value, "unit": "mg/wk"}, **more)


def condition(key: str, **more: Any) -> Resource:
    subject = {"reference": f"https://ehr.example/fhir/Patient/{key}/_history/3"}
    code = coded("icd|E11", f"{SNOMED}|44054006")
    return {
        "resourceType": "Condition",
        "code": code,
        "subject": subject,
        "recordedDate": "2020-02-02T10:00:00+01:00",
    } | more


def status(code: str) -> Resource:
    return {"verificationStatus": coded(f"http://terminology.hl7.org/CodeSystem/condition-ver-status|{code}")}


def read(folder: Path, *resources: Resource | str, mapping: str = MAPPING, files: int = 1) -> Covariates:
    lines = [one if isinstance(one, str) else json.dumps(one) + "\n" for one in resources]
    paths = [folder / f"{at}.ndjson" for at in range(files)]
    for at, path in enumerate(paths):
        path.write_text("".join(lines[at::files]))
    (folder / "mapping.toml").write_text(mapping)
    return read_fhir(paths, folder / "mapping.toml", SCHEMA)


def refused(call: Callable[[], object]) -> list[tuple[str, int | None, str]]:
    with pytest.raises(ImportRefusedError) as caught:
        call()
    shown = "\n".join(map(str, caught.value.findings))
    assert not any(word in shown for word in ("Doe", "MRN", "secret", "9999"))
    return [(finding.code, finding.row, finding.column) for finding in caught.value.findings]


def numbers(covariates: Covariates, name: str) -> list[float | None]:
    return [None if np.isnan(value) else value for value in covariates.table.number(name).tolist()]


@pytest.mark.parametrize("files", [1, 2, 3])
def test_a_whole_export(tmp_path: Path, files: int) -> None:
    race = observation("b", f"{LOINC}|72826-1", valueCodeableConcept=coded("local|7", f"{SNOMED}|413582008"))
    found = read(
        tmp_path,
        height("a", 171.5),  # before its patient
        patient("a", gender="female", birthDate="1950-07-02"),
        patient("b", gender="male", birthDate="1950-07-01"),
        patient("c", gender="unknown", birthDate="1950"),
        height("a", 172.5, "2024-03-01T09:00:00Z"),
        height("a", 170.5, "2023-03-01"),
        race,
        condition("a"),
        condition("b", **status("confirmed")),
        dose("a"),
        {"resourceType": "Device"},
        files=files,
    )
    order = [found.people.index(f"MRN-{key}") for key in "abc"]
    assert sorted(found.people) == ["MRN-a", "MRN-b", "MRN-c"]
    table = found.table.take(np.array(order))
    assert [None if np.isnan(value) else value for value in table.number("age_decade").tolist()] == [7, 7, None]
    assert table.number("height_cm").tolist()[0] == 172.5
    assert table.codes("sex").tolist() == [0, 1, -1]
    assert table.codes("race").tolist() == [-1, 1, -1]
    assert table.codes("diabetes").tolist() == [1, 1, -1]  # nothing said is not "no"
    assert table.number("dose").tolist()[0] == 30
    assert "smoker" not in table.columns
    assert found.notes == {}
    paths = [tmp_path / "mapping.toml", *(tmp_path / f"{at}.ndjson" for at in range(files))]
    assert found.digest == hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def test_a_birthday_counts_from_its_day_on(tmp_path: Path) -> None:
    people = [patient("a", birthDate="1944-07-02"), patient("b", birthDate="1944-07-01")]
    assert numbers(read(tmp_path, *people), "age_decade") == [7, 8]


@pytest.mark.parametrize(
    ("resource", "note"),
    [
        (height("a", 99, status="entered-in-error"), "modified_or_of_another_status"),
        (height("a", 99, status="cancelled"), "modified_or_of_another_status"),
        (height("a", 99, status="preliminary"), "modified_or_of_another_status"),
        (height("a", 99, modifierExtension=[{"url": "x"}]), "modified_or_of_another_status"),
        (height("z", 99), "of_unknown_patients"),
        (height("a", 99, subject={"reference": "Group/a"}), "of_unknown_patients"),
        (height("a", 99, "2024-07-01"), "without_a_day_or_too_late"),
        (height("a", 99, "2024"), "without_a_day_or_too_late"),
        (height("a", 99, "2024-02-31"), "without_a_day_or_too_late"),
        (height("a", 99, effectiveDateTime=None), "without_a_day_or_too_late"),
        (observation("a", f"{LOINC}|8302-2"), "without_an_exact_value"),
        (observation("a", f"{LOINC}|8302-2", valueString="99 cm"), "without_an_exact_value"),
        (observation("a", f"{LOINC}|8302-2", valueQuantity={"unit": "cm"}), "without_an_exact_value"),
        (
            observation("a", f"{LOINC}|8302-2", valueQuantity={"value": 99, "unit": "cm", "comparator": "<"}),
            "without_an_exact_value",
        ),
        (observation("a", f"{LOINC}|72826-1"), "without_an_exact_value"),
        (condition("a", **status("refuted")), "modified_or_of_another_status"),
        (condition("a", **status("provisional")), "modified_or_of_another_status"),
        (condition("a", recordedDate="2024-07-02"), "without_a_day_or_too_late"),
    ],
)
def test_what_is_left_out_is_counted(tmp_path: Path, resource: Resource, note: str) -> None:
    found = read(tmp_path, patient("a"), resource)
    assert found.notes == {note: 1}
    assert numbers(found, "height_cm") == [None]
    assert found.table.codes("diabetes").tolist() == found.table.codes("race").tolist() == [-1]


@pytest.mark.parametrize("more", [{"active": False}, {"modifierExtension": [{"url": "x"}]}])
def test_patients_that_do_not_count(tmp_path: Path, more: Resource) -> None:
    found = read(tmp_path, patient("a", **more), patient("b"), height("a", 170))
    assert found.people == ("MRN-b",)
    assert found.notes == {"patients_modified_or_inactive": 1, "of_unknown_patients": 1}


def test_without_a_system_a_person_is_the_resource(tmp_path: Path) -> None:
    mapping = MAPPING.replace(f'identifier = "{MRN}"\n', "")
    assert read(tmp_path, {"resourceType": "Patient", "id": "a"}, mapping=mapping).people == ("a",)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([height("a", 1.71, unit="m")], ("UNIT_WRONG", 2, "height_cm")),
        ([height("a", 9999)], ("VALUE_RANGE", 2, "height_cm")),
        ([height("a", "secret")], ("NUMBER_INVALID", 2, "height_cm")),
        ([dose("a"), dose("a")], ("FHIR_SEVERAL", 3, "dose")),
        ([patient("a")], ("PERSON_TWICE", 2, "")),
        ([patient("b", identifier=[{"system": MRN, "value": "MRN-a"}])], ("PERSON_TWICE", 2, "")),
        ([patient("b", identifier=[{"system": "urn:other", "value": "Doe"}])], ("PERSON_MISSING", 2, "")),
        ([patient("b", identifier=[{"system": MRN, "value": one} for one in "12"])], ("PERSON_MISSING", 2, "")),
        ([patient("b", gender="secret")], ("LEVEL_UNKNOWN", 2, "sex")),
        (
            [observation("a", f"{LOINC}|72826-1", valueCodeableConcept=coded(f"{SNOMED}|9999"))],
            ("LEVEL_UNKNOWN", 2, "race"),
        ),
        (
            [
                observation(
                    "a", f"{LOINC}|72826-1", valueCodeableConcept=coded(f"{SNOMED}|413773004", f"{SNOMED}|413582008")
                )
            ],
            ("LEVEL_UNKNOWN", 2, "race"),
        ),
        ([height("a", 170) | {"subject": "Patient/a"}], ("FHIR_UNREADABLE", 2, "")),
        ([height("a", 170) | {"code": ["8302-2"]}], ("FHIR_UNREADABLE", 2, "")),
        (['{"resourceType": "Patient", "id": "b"\n'], ("FHIR_UNREADABLE", 2, "")),
        (['["8302-2"]\n'], ("FHIR_UNREADABLE", 2, "")),
        (["\\ no JSON\n"], ("FHIR_UNREADABLE", 2, "")),
        ([f'{{"8302-2": {"[" * 100_000}\n'], ("FHIR_UNREADABLE", 2, "")),
        ([json.dumps(height("a", 170))[:-20]], ("FHIR_UNREADABLE", 2, "")),
    ],
)
def test_one_fault_at_its_line(tmp_path: Path, resources: list[Resource | str], expected: tuple[str, int, str]) -> None:
    assert refused(lambda: read(tmp_path, patient("a"), *resources)) == [expected]


def test_equal_repeats_are_no_contradiction(tmp_path: Path) -> None:
    found = read(tmp_path, patient("a"), height("a", 170), height("a", 170), condition("a"), condition("a"))
    assert numbers(found, "height_cm") == [170]


def test_two_values_of_one_time_do_not_count_unless_a_later_one_does(tmp_path: Path) -> None:
    both = [height("a", 170), height("a", 171), height("a", 170, "2023-05-05")]
    found = read(tmp_path, patient("a"), *both)
    assert (numbers(found, "height_cm"), found.notes) == ([None], {"contradictory": 1})
    found = read(tmp_path, patient("a"), *both, height("a", 172, "2024-05-05"))
    assert (numbers(found, "height_cm"), found.notes) == ([172], {"contradictory": 1})


def test_an_escape_hides_no_code(tmp_path: Path) -> None:
    hidden = json.dumps(height("a", 170)).replace("8302-2", "\\u0038302-2") + "\n"
    assert numbers(read(tmp_path, patient("a"), hidden), "height_cm") == [170]


def test_all_faults_at_once_and_no_people(tmp_path: Path) -> None:
    faults = refused(lambda: read(tmp_path, patient("a"), height("a", 1, unit="m"), height("a", 9999), patient("a")))
    assert sorted(code for code, _, _ in faults) == ["PERSON_TWICE", "UNIT_WRONG", "VALUE_RANGE"]
    assert refused(lambda: read(tmp_path, height("a", 170))) == [("CSV_EMPTY", None, "")]
    absent = tmp_path / "absent.ndjson"
    assert refused(lambda: read_fhir([absent], tmp_path / "mapping.toml", SCHEMA)) == [("FHIR_UNREADABLE", None, "")]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("until = 2024-07-01\n", "", "until"),
        ("until = 2024-07-01", "until = 2024-07-41", ""),
        ("[columns.height_cm]", "[columns.hight]", "hight"),
        ('unit = "cm"\n', "", "height_cm"),
        ('value = "gender"', 'value = "quantity"', "sex"),
        ('value = "exists"', 'value = "concept"', "diabetes"),
        (f'codes = ["{SNOMED}|44054006"]\n', "", "diabetes"),
        ('pick = "only"', 'pick = "mean"', "columns.dose.pick"),
        ('"local|dose"', '"dose"', "columns.dose.codes.0"),
        ('pick = "only"', 'aggregate = "mean"', "columns.dose.aggregate"),
    ],
)
def test_a_wrong_mapping(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in MAPPING
    found = refused(lambda: read(tmp_path, patient("a"), mapping=MAPPING.replace(old, new, 1)))
    assert found == [("FHIR_MAPPING", None, expected)]


def test_the_outcome_has_to_be_mapped(tmp_path: Path) -> None:
    mapping = MAPPING[: MAPPING.index("[columns.dose]")]
    assert refused(lambda: read(tmp_path, patient("a"), mapping=mapping)) == [("COLUMN_MISSING", None, "dose")]
