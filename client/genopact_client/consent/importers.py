"""Consent from a CSV table, one line a person. A file is a list of changes: people who are not in it stay as they are.

person         the hospital's patient number
status         active | refused | withdrawn | not_asked | unknown; all but active need no other column
permission     GRU | HMB | DS
diseases       MONDO terms; required for DS, empty otherwise
uses           train;validate;predict;federated_stats
org_types      public;nonprofit;commercial
commercial_use never | allowed
regions        country codes, or *
data           genotype;drug;ehr;...
valid_from     first and last day, ISO 8601
valid_until
form           template|version
"""

import csv
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from genopact_client.consent.record import ConsentRecord, Status, Withdrawal
from genopact_client.consent.registry import Registry
from genopact_client.people import People
from genopact_shared.errors import GenopactError, replacing

SILENT: dict[str, Status] = {"refused": "refused", "not_asked": "not_asked", "unknown": "unknown"}
SETS = {"diseases": "diseases", "uses": "uses", "org_types": "organisations", "regions": "regions", "data": "data"}
SINGLE = ("permission", "commercial_use", "valid_from", "valid_until")
COLUMNS = ("person", "status", *SINGLE, *SETS, "form")


class Finding(NamedTuple):
    """What is wrong at a line of the file; it never holds a patient number or a value."""

    line: int
    code: Literal["unknown_person", "duplicate_person", "erased_person", "invalid"]
    fields: tuple[str, ...] = ()


class ImportReport(NamedTuple):
    """`changed`: records that are new or different. A person with a finding is denied until it is corrected."""

    changed: int
    findings: tuple[Finding, ...]


def import_csv(path: Path, registry: Registry, people: People, on: dt.date) -> ImportReport:
    """Read the whole file, then store it in one step.

    A line that cannot be understood still is the newest word about its person: the record becomes "unknown", which
    permits nothing. The same holds for a person with two lines.

    Args:
        path: a UTF-8 CSV file.
        registry: where the records go.
        people: knows the patient numbers.
        on: the day on which a person counts as withdrawn.

    Raises:
        GenopactError: CONSENT_FILE_MISSING, CONSENT_FILE_INVALID.
    """
    records, lines, findings = dict[int, ConsentRecord](), dict[int, int](), list[Finding]()
    for line, values in _lines(path):
        row = people.row(values["person"]) if values["person"] else None
        if row is None:
            findings.append(Finding(line, "unknown_person"))
            continue
        record, fields = _record(values, on)
        if row in records:
            record = ConsentRecord.silent("unknown")
            findings.append(Finding(line, "duplicate_person"))
        if fields:
            findings.append(Finding(line, "invalid", fields))
        records[row], lines[row] = record, line
    erased = [row for row in records if registry.erased(row)]
    findings += [Finding(lines[row], "erased_person") for row in erased]
    changed = registry.record_many({row: record for row, record in records.items() if row not in set(erased)})
    return ImportReport(changed, tuple(sorted(findings, key=lambda finding: finding.line)))


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    missing = GenopactError("CONSENT_FILE_MISSING", str(path))
    kinds, broken = (UnicodeDecodeError, csv.Error), GenopactError("CONSENT_FILE_INVALID", "not a UTF-8 CSV table")
    with replacing(OSError, missing), replacing(kinds, broken), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True, restkey="", restval="")
        header = [name.strip() for name in reader.fieldnames or ()]
        if sorted(header) != sorted(COLUMNS):
            odd = sorted(set(header) ^ set(COLUMNS)) or ["a column appears twice"]
            raise GenopactError("CONSENT_FILE_INVALID", ", ".join(odd))
        reader.fieldnames = header
        for values in reader:
            if values.pop("", None):
                values["status"] = "too many cells"
            yield reader.line_num, {name: value.strip() for name, value in values.items()}


def _record(values: dict[str, str], on: dt.date) -> tuple[ConsentRecord, tuple[str, ...]]:
    """A line's record, and the columns at fault if it is the silent record of an unreadable line."""
    status = values["status"]
    if status == "withdrawn":
        return ConsentRecord.silent("withdrawn", Withdrawal(at=on, scope="no_access")), ()
    if status in SILENT:
        return ConsentRecord.silent(SILENT[status]), ()
    single = {name: values[name] for name in SINGLE}
    sets = {field: [item.strip() for item in values[name].split(";") if item.strip()] for name, field in SETS.items()}
    provisions = [{"decision": "permit", "origin": "csv", **single, **sets}]
    record = ConsentRecord.silent("active").model_dump(mode="json", by_alias=True)
    record |= {"status": status if status == "active" else None, "form": values["form"], "provisions": provisions}
    empty = tuple(name for name in SETS if name != "diseases" and not values[name])
    try:
        parsed = ConsentRecord.parse(json.dumps(record).encode())
    except GenopactError as error:
        named = {field.removeprefix("provisions.0.").split(".")[0] for field in error.detail.split(", ")}
        return ConsentRecord.silent("unknown"), tuple(sorted(named.union(empty)))
    return (ConsentRecord.silent("unknown"), empty) if empty else (parsed, ())
