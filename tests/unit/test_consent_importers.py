"""CSV import: what is read, what is found, and that doubt denies."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genopact_client.consent.importers import COLUMNS, Finding, import_csv
from genopact_client.consent.registry import Registry
from genopact_shared.errors import GenopactError
from tests.unit.consent_fixtures import TODAY, TYPE_2, Keys, People, purpose

HEADER = "person,status,permission,diseases,uses,org_types,commercial_use,regions,data,valid_from,valid_until,form\n"
GOOD = "{},active,HMB,,train;validate,public;nonprofit,never,DE;FR,genotype;ehr,2026-01-01,2026-12-31,broad|1\n"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry(tmp_path / "consent.db", Keys(6), People(6))
    yield opened
    opened.close()


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "consent.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def load(tmp_path: Path, registry: Registry, lines: str, on: dt.date = TODAY) -> tuple[list[int], tuple[Finding, ...]]:
    report = import_csv(write(tmp_path, HEADER + lines), registry, People(6), on)
    return [int(row) for row in np.flatnonzero(registry.permitted(purpose(), TODAY).rows)], report.findings


def test_a_whole_file(tmp_path: Path, registry: Registry) -> None:
    lines = GOOD.format("p0") + "p1,refused,,,,,,,,,,\np2,not_asked,,,,,,,,,,\np3,unknown,,,,,,,,,,\n"
    lines += f"p4,active,DS,{TYPE_2},train,public,never,*,genotype,2026-01-01,2026-12-31,t2|1\n"
    assert load(tmp_path, registry, lines) == ([0], ())
    diabetes = purpose(permission="DS", diseases=(TYPE_2,))
    assert list(np.flatnonzero(registry.permitted(diabetes, TODAY).rows)) == [0, 4]
    assert registry.permitted(diabetes, TODAY).reasons["status_not_asked"] == 1


def test_columns_in_any_order_with_a_byte_order_mark(tmp_path: Path, registry: Registry) -> None:
    values = dict(zip(COLUMNS, (HEADER.strip().split(",")), strict=True))
    assert sorted(values.values()) == sorted(COLUMNS)
    order = list(reversed(HEADER.strip().split(",")))
    cells = list(reversed(GOOD.format("p3").strip().split(",")))
    text = "\ufeff" + ",".join(order) + "\r\n" + ",".join(cells) + "\r\n"
    import_csv(write(tmp_path, text), registry, People(6), TODAY)
    assert registry.permitted(purpose(), TODAY).rows[3]


@pytest.mark.parametrize(
    ("cell", "value", "field"),
    [
        ("active", "Active", "status"),
        ("active", "withdrwn", "status"),
        ("active", "", "status"),
        ("HMB", "HBM", "permission"),
        ("HMB", "", "permission"),
        ("HMB", "DS", "provisions"),
        ("train;validate", "", "uses"),
        ("train;validate", "train,", "status"),
        ("train;validate", "everything", "uses"),
        ("public;nonprofit", "", "org_types"),
        ("never", "no", "commercial_use"),
        ("never", "", "commercial_use"),
        ("DE;FR", "", "regions"),
        ("DE;FR", "Germany", "regions"),
        ("genotype;ehr", "dna", "data"),
        ("2026-01-01", "01.01.2026", "valid_from"),
        ("2026-12-31", "", "valid_until"),
        ("2026-12-31", "2025-12-31", "provisions"),
        ("broad|1", "", "form"),
        ("broad|1", "broad", "form"),
    ],
)
def test_a_line_that_is_not_understood_denies(
    tmp_path: Path, registry: Registry, cell: str, value: str, field: str
) -> None:
    assert load(tmp_path, registry, GOOD.format("p0") + GOOD.format("p1"))[0] == [0, 1]
    rows, findings = load(tmp_path, registry, GOOD.format("p1") + GOOD.format("p0").replace(cell, value, 1))
    assert rows == [1]
    assert len(findings) == 1
    assert (findings[0].line, findings[0].code) == (3, "invalid")
    assert field in findings[0].fields
    assert "p0" not in str(findings)


def test_unknown_repeated_and_erased_people_are_found(tmp_path: Path, registry: Registry) -> None:
    registry.erase(5)
    lines = "".join(GOOD.format(person) for person in ("p0", "nobody", "p1", "p1", "", "p5"))
    rows, findings = load(tmp_path, registry, lines)
    assert rows == [0]
    assert [(finding.line, finding.code) for finding in findings] == [
        (3, "unknown_person"),
        (5, "duplicate_person"),
        (6, "unknown_person"),
        (7, "erased_person"),
    ]
    assert "nobody" not in str(findings)


def test_a_stale_file_does_not_undo_a_withdrawal(tmp_path: Path, registry: Registry) -> None:
    load(tmp_path, registry, GOOD.format("p0"))
    assert load(tmp_path, registry, "p0,withdrawn,,,,,,,,,,\n")[0] == []
    assert load(tmp_path, registry, GOOD.format("p0"))[0] == []
    later = GOOD.format("p0").replace("2026-01-01", "2026-06-02")
    import_csv(write(tmp_path, HEADER + later), registry, People(6), TODAY)
    assert registry.permitted(purpose(), dt.date(2026, 6, 2)).rows[0]


def test_people_who_are_not_in_the_file_stay_as_they_are(tmp_path: Path, registry: Registry) -> None:
    load(tmp_path, registry, GOOD.format("p0"))
    assert load(tmp_path, registry, GOOD.format("p1"))[0] == [0, 1]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "CONSENT_FILE_INVALID"),
        (HEADER.replace("form", "from") + GOOD.format("p0"), "CONSENT_FILE_INVALID"),
        (HEADER.replace(",form", "") + GOOD.format("p0"), "CONSENT_FILE_INVALID"),
        (HEADER.replace("form", "form,form") + GOOD.format("p0"), "CONSENT_FILE_INVALID"),
        (HEADER.replace(",", ";") + GOOD.format("p0"), "CONSENT_FILE_INVALID"),
        ((HEADER + GOOD.format("p0") + '"open').encode(), "CONSENT_FILE_INVALID"),
        (HEADER.encode() + b"\xff\xfe", "CONSENT_FILE_INVALID"),
    ],
)
def test_a_file_that_is_no_table_changes_nothing(
    tmp_path: Path, registry: Registry, text: str | bytes, code: str
) -> None:
    root = registry.permitted(purpose(), TODAY).registry_root
    with pytest.raises(GenopactError, match=code):
        import_csv(write(tmp_path, text), registry, People(6), TODAY)
    assert registry.permitted(purpose(), TODAY).registry_root == root


def test_a_missing_file(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(GenopactError, match="CONSENT_FILE_MISSING"):
        import_csv(tmp_path / "absent.csv", registry, People(6), TODAY)
