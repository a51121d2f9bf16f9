"""The registry: who is permitted now, and what survives erasure, crashes and other processes."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genopact_client.consent.record import ConsentRecord, Withdrawal
from genopact_client.consent.registry import Registry
from genopact_client.consent.vault import Vault, silent_leaf
from genopact_client.keyfile import KeyFile
from genopact_client.people import People as RealPeople
from genopact_shared.errors import GenopactError
from genopact_shared.tlog.tree import EMPTY, Tree
from tests.unit.consent_fixtures import TODAY, Keys, People, provision, purpose, record

ERASE_ME = "template-that-must-vanish|7"


@pytest.fixture
def keys() -> Keys:
    return Keys(8)


@pytest.fixture
def registry(tmp_path: Path, keys: Keys) -> Iterator[Registry]:
    opened = Registry(tmp_path / "consent.db", keys, People(8))
    yield opened
    opened.close()


def permitted(registry: Registry, on: dt.date = TODAY) -> list[int]:
    return [int(row) for row in np.flatnonzero(registry.permitted(purpose(), on).rows)]


def test_nobody_is_permitted_without_a_record(registry: Registry) -> None:
    permission = registry.permitted(purpose(), TODAY)
    assert not permission.rows.any()
    assert (permission.size, permission.reasons) == (8, {"no_record": 8})


def test_permitted_rows_reasons_and_caps(registry: Registry) -> None:
    registry.record_many(
        {
            1: record(max_epsilon_milli=700),
            3: ConsentRecord.silent("refused"),
            5: record(provision(), provision(decision="deny", valid_from=dt.date(2026, 7, 1))),
            6: record(modifiers=("IRB",)),
        }
    )
    permission = registry.permitted(purpose(), TODAY)
    assert list(np.flatnonzero(permission.rows)) == [1, 5]
    assert permission.reasons == {"permitted": 2, "no_record": 4, "status_refused": 1, "modifier": 1}
    assert permission.cap[1] == 700
    assert permission.cap[5] > 10**15
    assert permitted(registry, dt.date(2026, 7, 1)) == [1]


@pytest.mark.parametrize("scope", ["no_new_use", "no_access", "erase"])
def test_a_withdrawn_patient_is_out_of_the_next_answer(registry: Registry, scope: str) -> None:
    registry.record_many({row: record() for row in range(3)})
    before = registry.permitted(purpose(), TODAY).registry_root
    registry.withdraw(1, scope, dt.date(2030, 1, 1))  # type: ignore[arg-type]
    assert permitted(registry) == [0, 2]
    assert registry.permitted(purpose(), TODAY).registry_root != before


def test_an_old_consent_does_not_undo_a_withdrawal_but_a_new_one_does(registry: Registry) -> None:
    registry.record(0, record())
    registry.withdraw(0, "no_access", dt.date(2026, 3, 1))
    registry.record(0, record())
    assert permitted(registry) == []
    registry.record(0, ConsentRecord.silent("unknown"))
    registry.record(0, record(provision(valid_from=dt.date(2026, 3, 2))))
    assert permitted(registry) == [0]
    assert registry.get(0) == record(
        provision(valid_from=dt.date(2026, 3, 2)), withdrawal=Withdrawal(at=dt.date(2026, 3, 1), scope="no_access")
    )


def test_a_repeated_withdrawal_keeps_its_first_day_and_a_second_one_counts(registry: Registry) -> None:
    for day in (3, 4):
        registry.withdraw(0, "no_access", dt.date(2026, day, 1))
    assert registry.get(0) == ConsentRecord.silent("withdrawn", Withdrawal(at=dt.date(2026, 3, 1), scope="no_access"))
    registry.record(0, record(provision(valid_from=dt.date(2026, 3, 2))))
    registry.withdraw(0, "no_access", dt.date(2026, 5, 1))
    registry.record(0, record(provision(valid_from=dt.date(2026, 3, 2))))
    assert permitted(registry) == []


def test_another_process_is_seen_at_the_next_question(registry: Registry, tmp_path: Path, keys: Keys) -> None:
    registry.record_many({row: record() for row in range(3)})
    other = Registry(tmp_path / "consent.db", keys, People(8))
    other.withdraw(2, "no_access", TODAY)
    assert permitted(registry) == [0, 1]
    registry.withdraw(1, "no_access", TODAY)
    assert permitted(other) == [0]
    other.close()


def test_people_enrolled_later_get_a_row_and_a_leaf(tmp_path: Path) -> None:
    people = People(2)
    registry = Registry(tmp_path / "consent.db", Keys(9), people)
    registry.record(1, record())
    first = registry.permitted(purpose(), TODAY)
    people.count = 5
    second = registry.permitted(purpose(), TODAY)
    assert (first.size, second.size, len(second.rows)) == (2, 5, 5)
    assert first.registry_root != second.registry_root
    registry.close()
    again = Registry(tmp_path / "consent.db", Keys(9), people)
    assert again.permitted(purpose(), TODAY).registry_root == second.registry_root
    again.close()


def test_the_root_is_that_of_the_leaves(registry: Registry, tmp_path: Path, keys: Keys) -> None:
    registry.record_many({2: record(), 4: ConsentRecord.silent("refused")})
    registry.erase(3)
    vault = Vault(tmp_path / "consent.db", keys)
    stored = {entry.row: entry.leaf for entry in vault.entries()}
    vault.close()
    tree = Tree()
    for row in range(8):
        tree.append(stored.get(row, silent_leaf(b"none", row)))
    assert registry.permitted(purpose(), TODAY).registry_root == tree.head().root.hex()
    assert stored[3] == silent_leaf(b"erased", 3, 1)


def test_equal_records_have_different_leaves(registry: Registry, tmp_path: Path, keys: Keys) -> None:
    registry.record(0, record())
    first = registry.permitted(purpose(), TODAY).registry_root
    registry.record(0, ConsentRecord.silent("refused"))
    registry.record(0, record())
    assert registry.permitted(purpose(), TODAY).registry_root != first


def test_a_site_without_people_answers(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "consent.db", Keys(0), People(0))
    permission = registry.permitted(purpose(), TODAY)
    assert (permission.size, len(permission.rows), permission.registry_root) == (0, 0, EMPTY.root.hex())
    registry.close()


def test_many_are_stored_all_or_none(registry: Registry) -> None:
    registry.record(0, record())
    with pytest.raises(GenopactError, match="CONSENT_UNKNOWN_PERSON"):
        registry.record_many({0: ConsentRecord.silent("refused"), 99: record()})
    with pytest.raises(GenopactError, match="CONSENT_INVALID"):
        registry.record_many({1: record(), 2: record().model_copy(update={"status": "sure"})})
    assert permitted(registry) == [0]


def test_unchanged_records_are_no_new_versions(registry: Registry) -> None:
    assert registry.record_many({0: record(), 1: record()}) == 2
    assert registry.record_many({0: record(), 1: ConsentRecord.silent("refused")}) == 1


def test_an_erased_person_leaves_no_byte(tmp_path: Path) -> None:
    keyfile = KeyFile.create(tmp_path / "keyfile", bytes(32))
    people = RealPeople(tmp_path / "people.db", keyfile)
    people.enrol(["p0", "p1"])
    registry = Registry(tmp_path / "consent.db", keyfile, people)
    registry.record_many({0: record(form=ERASE_ME), 1: record()})
    registry.record(0, record(provision(valid_from=dt.date(2026, 2, 2)), form=ERASE_ME))
    vault = Vault(tmp_path / "consent.db", keyfile)
    entry = vault.entry(0)
    vault.close()
    assert entry
    secrets = [entry.sealed[12:44], entry.sealed[-32:], entry.leaf, keyfile.key(0, "consent"), ERASE_ME.encode()]
    assert any(entry.leaf in path.read_bytes() for path in tmp_path.iterdir())
    registry.erase(0)
    for path in tmp_path.iterdir():
        assert not any(secret in path.read_bytes() for secret in secrets), path.name
    assert permitted(registry) == [1]
    assert registry.get(0) is None
    with pytest.raises(GenopactError, match="KEY_ERASED"):
        registry.record(0, record())
    registry.erase(0)
    registry.close()


def test_no_field_is_in_clear(registry: Registry, tmp_path: Path) -> None:
    registry.record(0, record(form=ERASE_ME))
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(word in data for word in (b"must-vanish", b"genotype", b"2026-12-31", b"active"))


@pytest.mark.parametrize("first", ["database", "key"])
def test_an_erasure_that_a_crash_cut_short_is_finished(tmp_path: Path, first: str) -> None:
    keys = Keys(3)
    registry = Registry(tmp_path / "consent.db", keys, People(3))
    registry.record_many({row: record() for row in range(3)})
    if first == "key":
        keys.erase([1])
    else:
        registry.erase(1)
        keys.dead.clear()
    assert permitted(registry) == [0, 2]
    registry.close()
    registry = Registry(tmp_path / "consent.db", keys, People(3))
    assert permitted(registry) == [0, 2]
    assert keys.dead == {1}
    vault = Vault(tmp_path / "consent.db", keys)
    entry = vault.entry(1)
    assert entry
    assert entry.sealed == b""
    vault.close()
    registry.close()


def test_an_erasure_during_another_process_reading_is_reported(tmp_path: Path, keys: Keys) -> None:
    registry = Registry(tmp_path / "consent.db", keys, People(8))
    registry.record_many({0: record(), 1: record()})
    reader = Vault(tmp_path / "consent.db", keys)
    registry._vault._db.execute("PRAGMA busy_timeout=10").close()
    with reader.reading():
        reader.head()
        registry.record(1, ConsentRecord.silent("refused"))
        with pytest.raises(GenopactError, match="CONSENT_ERASE_PENDING"):
            registry.erase(0)
    assert 0 in keys.dead
    assert permitted(registry) == []
    registry.erase(0)
    reader.close()
    registry.close()
