"""Covariates from FHIR R4 bulk data: NDJSON files of Patient, Observation and Condition.

A mapping, TOML that the hospital writes and keeps, says which resources make which column of the schema:

    identifier = "https://hospital.example/mrn"   # the system of Patient.identifier that names a person; else id
    until = 2025-01-01                            # what was observed on that day or later does not count

    [columns.height_cm]
    resource = "Observation"
    codes = ["http://loinc.org|8302-2"]
    value = "quantity"                            # quantity, concept, exists; of a Patient gender, age_decades
    unit = "cm"                                   # UCUM code that every quantity must have
    pick = "latest"                               # or "only": a second one is a finding

Nothing is invented: without a fitting resource a value is missing, also a Flag (`exists` says yes or nothing). Left out
and counted are resources with a modifierExtension, of another status than final, amended or corrected (a Condition's
verificationStatus: confirmed or none), without a day, with a comparator, without a value, of unknown patients, and two
different values of one time. A file that was cut off between two lines cannot show it.
Source: hl7.org/fhir/R4; Bulk Data Access IG 2.0.
"""

import json
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StringConstraints, ValidationError

from genopact_ingest.findings import Fault, Finding, refusal, refuse, require, sound
from genopact_ingest.plink import digest_of
from genopact_ingest.table import Covariates, array_of, cell
from genopact_shared.recipes.table import Choice, Column, Dosage, Flag, Number, Table
from genopact_shared.study import Frozen

_PATIENT = re.compile(r"(?:.*/)?Patient/([A-Za-z0-9.-]{1,64})(?:/_history/.*)?")
_DAY = re.compile(r"\d{4}-\d\d-\d\d(T.*)?", re.ASCII)
_TIMES = ("effectiveDateTime", "effectiveInstant", "onsetDateTime", "recordedDate")
_STATUS = {"final", "amended", "corrected", "confirmed"}
_NEVER = datetime.min.replace(tzinfo=UTC)
_FITS = {  # of which resources and columns a value is
    "quantity": ({"Observation"}, Number),
    "concept": ({"Observation"}, Choice | Flag | Dosage),
    "exists": ({"Observation", "Condition"}, Flag),
    "gender": ({"Patient"}, Choice),
    "age_decades": ({"Patient"}, Number),
}
_Resource = dict[str, Any]
Code = Annotated[str, StringConstraints(pattern=r"^[^|]+\|[^|]+$")]


class Rule(Frozen):
    """Which resources make a column. `levels`: from "system|code", or a gender, to the text of a table's cell."""

    resource: Literal["Patient", "Observation", "Condition"]
    value: Literal["quantity", "concept", "exists", "gender", "age_decades"]
    codes: tuple[Code, ...] = ()
    unit: str = ""
    levels: dict[str, str] = Field(default_factory=dict)
    pick: Literal["latest", "only"] = "latest"


class Rules(Frozen):
    """The mapping file."""

    until: date
    columns: dict[str, Rule]
    identifier: str | None = None


class _Said(NamedTuple):
    """What a line says of a person."""

    time: datetime
    text: str
    row: int


def read_fhir(paths: Sequence[Path], mapping: Path, schema: Sequence[Column]) -> Covariates:
    """The covariates of everybody who has a Patient resource in the files.

    `digest` is of the mapping and the files, one after another.

    Raises:
        ImportRefusedError: with every fault; `row` is the line, counted through all files in the order of `paths`.
    """
    rules = _rules(mapping, schema)
    reader = _Reader(rules)
    codes = {re.escape(code.split("|")[-1]) for rule in rules.columns.values() for code in rule.codes} or {"(?!)"}
    for wanted, take in (('"Patient"', reader.patient), ("|".join(codes), reader.clinical)):
        for row, resource in _resources(paths, re.compile(wanted.encode())):
            try:
                take(resource, row)
            except Fault as fault:
                reader.findings.append(fault.at(row))
            except (AttributeError, KeyError, TypeError) as error:
                raise refusal("FHIR_UNREADABLE", "(not as R4 has it)", row) from error
    return reader.finish(schema, digest_of(mapping, *paths))


def _rules(path: Path, schema: Sequence[Column]) -> Rules:
    try:
        rules = Rules.model_validate_json(json.dumps(tomllib.loads(path.read_text("utf-8")), default=str))
    except ValidationError as error:
        raise refusal("FHIR_MAPPING", column=".".join(map(str, error.errors()[0]["loc"]))) from error
    except (OSError, ValueError) as error:
        raise refusal("FHIR_MAPPING", "(not TOML)") from error
    declared = {column.name: column for column in schema}
    wrong = [
        Finding("FHIR_MAPPING", column=name)
        for name, rule in rules.columns.items()
        if rule.resource not in _FITS[rule.value][0]
        or not isinstance(declared.get(name), _FITS[rule.value][1])
        or bool(rule.codes) == (rule.resource == "Patient")
        or bool(rule.unit) != (rule.value == "quantity")
    ]
    outcomes = {column.name for column in schema if column.role == "outcome"}
    wrong += [Finding("COLUMN_MISSING", column=name) for name in outcomes - rules.columns.keys()]
    refuse(wrong)
    return rules


def _resources(paths: Sequence[Path], wanted: re.Pattern[bytes]) -> Iterator[tuple[int, _Resource]]:
    """The resources of the lines that hold what is wanted, with their numbers."""
    row = 0
    try:
        for path in paths:
            sound(path.is_file(), "FHIR_UNREADABLE", row=row or None)
            with path.open("rb") as file:
                for line in file:
                    row += 1
                    # An escape may hide what is wanted, and a line without an end may be cut off.
                    if wanted.search(line) or b"\\" in line or not line.endswith(b"\n"):
                        yield row, dict(json.loads(line, parse_float=str, parse_int=str))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise refusal("FHIR_UNREADABLE", row=row or None) from error


class _Reader:
    """Takes all patients first, then what is said of them."""

    def __init__(self, rules: Rules) -> None:
        self._rules, self.findings, self._notes = rules, list[Finding](), Counter[str]()
        self._people, self._rows = dict[str, int](), dict[str, int]()  # by name and by Patient.id
        self._said = dict[tuple[str, int], _Said]()

    def patient(self, resource: _Resource, row: int) -> None:
        """A person; other resources are passed over."""
        if resource["resourceType"] != "Patient":
            return
        if resource.get("modifierExtension") or resource.get("active") is False:
            self._notes["patients_modified_or_inactive"] += 1
            return
        system, names = self._rules.identifier, [resource["id"]]
        if system is not None:
            names = [entry["value"] for entry in resource.get("identifier", ()) if entry.get("system") == system]
        require(len(names) == 1 and names[0].strip(), "PERSON_MISSING", "(not exactly one identifier of the system)")
        name, person = unicodedata.normalize("NFC", names[0].strip()), len(self._people)
        require(name not in self._people and resource["id"] not in self._rows, "PERSON_TWICE")
        self._people[name] = self._rows[resource["id"]] = person
        born, until = _time(resource.get("birthDate")), self._rules.until
        for column, rule in self._rules.columns.items():
            if rule.value == "gender":
                gender: str = resource.get("gender", "")
                self._say(column, person, _Said(_NEVER, rule.levels.get(gender, gender), row))
            elif rule.value == "age_decades" and born:
                years = until.year - born.year - ((until.month, until.day) < (born.month, born.day))
                self._say(column, person, _Said(_NEVER, str(years // 10), row))

    def clinical(self, resource: _Resource, row: int) -> None:
        """An observation or a condition; other resources are passed over."""
        kind, codes = resource["resourceType"], _codes(resource.get("code"))
        columns = self._rules.columns.items()
        rules = [(name, rule) for name, rule in columns if rule.resource == kind and not codes.isdisjoint(rule.codes)]
        if not rules:
            return
        status = {resource.get("status")}
        if kind == "Condition":
            status = {entry["code"] for entry in resource.get("verificationStatus", {}).get("coding", ())}
        time = _time(next((resource[name] for name in _TIMES if name in resource), None))
        subject = _PATIENT.fullmatch(resource["subject"]["reference"])
        person = self._rows.get(subject[1]) if subject else None
        if resource.get("modifierExtension") or not status <= _STATUS:
            self._notes["modified_or_of_another_status"] += 1
        elif person is None:
            self._notes["of_unknown_patients"] += 1
        elif time is None or time.date() >= self._rules.until:
            self._notes["without_a_day_or_too_late"] += 1
        else:
            for name, rule in rules:
                if (text := _text(rule, resource, name)) is None:
                    self._notes["without_an_exact_value"] += 1
                else:
                    self._say(name, person, _Said(time, text, row))

    def _say(self, column: str, person: int, said: _Said) -> None:
        former, rule = self._said.setdefault((column, person), said), self._rules.columns[column]
        if former is said or rule.value == "exists":
            return
        require(rule.pick != "only", "FHIR_SEVERAL", f"(another is in line {former.row})", column)
        if former.time == said.time and former.text != said.text:
            self._notes["contradictory"] += 1
            self._said[column, person] = said._replace(text="")  # neither counts
        elif former.time < said.time:
            self._said[column, person] = said

    def finish(self, schema: Sequence[Column], digest: str) -> Covariates:
        """All columns of the mapping."""
        arrays, nothing = {}, _Said(_NEVER, "", 0)
        for column in schema:
            if column.name in self._rules.columns:
                said = [self._said.get((column.name, person), nothing) for person in self._people.values()]
                arrays[column.name] = array_of(column, [cell(column, one.text, one.row, self.findings) for one in said])
        refuse(self.findings or [Finding("CSV_EMPTY")] * (not self._people))
        return Covariates(tuple(self._people), Table(arrays, len(self._people)), digest, self._notes)


def _codes(concept: _Resource | None) -> set[str]:
    """The codings of a CodeableConcept as "system|code"."""
    return {f"{entry.get('system')}|{entry.get('code')}" for entry in (concept or {}).get("coding", ())}


def _time(text: str | None) -> datetime | None:
    """A FHIR date with its day, or an instant; a day alone is its first moment."""
    if text is not None and _DAY.fullmatch(text):
        with suppress(ValueError):
            found = datetime.fromisoformat(text)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def _text(rule: Rule, resource: _Resource, column: str) -> str | None:
    """A table's cell; None without an exact value."""
    if rule.value == "exists":
        return "1"
    if rule.value == "concept":
        codes = _codes(resource.get("valueCodeableConcept"))
        texts = {rule.levels[code] for code in codes if code in rule.levels}
        if codes and len(texts) != 1:
            raise Fault("LEVEL_UNKNOWN", f"(known: {', '.join(sorted(rule.levels.values()))})", column)
        return texts.pop() if codes else None
    quantity = resource.get("valueQuantity", {})
    if "value" not in quantity or "comparator" in quantity:
        return None
    require(quantity.get("code", quantity.get("unit")) == rule.unit, "UNIT_WRONG", f"(expected {rule.unit})", column)
    return str(quantity["value"])
