"""Somebody with write access to the consent database: every change is noticed, and nobody is permitted by it."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from genopact_client.consent.record import ConsentRecord
from genopact_client.consent.registry import Registry
from genopact_client.consent.vault import Vault
from genopact_shared.errors import GenopactError
from tests.unit.consent_fixtures import TODAY, Keys, People, provision, purpose, record

Attack = Callable[[sqlite3.Connection], object]


def stored(db: sqlite3.Connection, row: int) -> tuple[int, bytes, bytes]:
    found: tuple[int, bytes, bytes] = db.execute(
        "SELECT version, leaf, sealed FROM consent WHERE row = ?", (row,)
    ).fetchone()
    return found


def store(db: sqlite3.Connection, row: int, entry: tuple[int, bytes, bytes]) -> None:
    db.execute("INSERT OR REPLACE INTO consent VALUES (?, ?, ?, ?)", (row, *entry))


def flip(column: str, byte: int) -> Attack:
    def attack(db: sqlite3.Connection) -> None:
        _, leaf, sealed = stored(db, 0)
        data = bytearray({"leaf": leaf, "sealed": sealed}[column])
        data[byte] ^= 1
        db.execute(f"UPDATE consent SET {column} = ? WHERE row = 0", (bytes(data),))

    return attack


def swap(db: sqlite3.Connection) -> None:
    zero, one = stored(db, 0), stored(db, 1)
    store(db, 0, one)
    store(db, 1, zero)


ATTACKS: dict[str, Attack] = {
    "flip the nonce": flip("sealed", 0),
    "flip the ciphertext": flip("sealed", 60),
    "flip the tag": flip("sealed", -1),
    "flip the leaf": flip("leaf", 0),
    "swap two people": swap,
    "give one person another's record": lambda db: store(db, 1, stored(db, 0)),
    "raise a version": lambda db: db.execute("UPDATE consent SET version = 9 WHERE row = 0"),
    "delete a record": lambda db: db.execute("DELETE FROM consent WHERE row = 2"),
    "delete all records": lambda db: db.execute("DELETE FROM consent"),
    "copy a record to a new row": lambda db: store(db, 5, stored(db, 0)),
    "erase without a trace": lambda db: db.execute("UPDATE consent SET sealed = x'' WHERE row = 2"),
    "cut a record": lambda db: db.execute("UPDATE consent SET sealed = substr(sealed, 1, 5) WHERE row = 0"),
    "reset the head": lambda db: db.execute("UPDATE head SET size = 0, root = x''"),
    "delete the head": lambda db: db.execute("DELETE FROM head"),
    "shorten the tree": lambda db: db.execute("UPDATE head SET size = 2"),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_changed_database_permits_nobody(tmp_path: Path, attack: Attack, *, running: bool) -> None:
    path, keys, people = tmp_path / "consent.db", Keys(6), People(6)
    registry = Registry(path, keys, people)
    registry.record_many({0: record(), 1: ConsentRecord.silent("withdrawn"), 2: ConsentRecord.silent("refused")})
    with sqlite3.connect(path) as db:
        attack(db)
    db.close()
    if running:  # memory holds the state before the attack until the head says otherwise; a write must notice, too
        registry._head = None
        with pytest.raises(GenopactError, match="CONSENT_BROKEN"):
            registry.permitted(purpose(), TODAY)
        with pytest.raises(GenopactError, match="CONSENT_BROKEN"):
            registry.record(3, record())
    registry.close()
    with pytest.raises(GenopactError, match="CONSENT_BROKEN"):
        Registry(path, keys, people)


def test_a_sealed_record_opens_in_its_row_and_version_only(tmp_path: Path) -> None:
    path, keys = tmp_path / "consent.db", Keys(6)
    registry = Registry(path, keys, People(6))
    registry.record(0, record())
    registry.close()
    keys.key = lambda slot, purpose: bytes(32)  # type: ignore[method-assign]
    vault = Vault(path, keys)
    with vault.writing():
        vault.put(0, 1, record())
    for move in ("row = 1", "version = 2"):
        with sqlite3.connect(path) as db:
            db.execute(f"UPDATE consent SET {move}")
        db.close()
        with pytest.raises(GenopactError, match="cannot be unsealed"):
            list(vault.entries())
    vault.close()


def test_a_record_put_back_to_an_earlier_version_does_not_open(tmp_path: Path) -> None:
    path, keys, people = tmp_path / "consent.db", Keys(6), People(6)
    registry = Registry(path, keys, people)
    registry.record(0, record(provision(uses=("train",))))
    with sqlite3.connect(path) as db:
        before = stored(db, 0)
    registry.withdraw(0, "no_access", TODAY)
    registry.close()
    with sqlite3.connect(path) as db:
        store(db, 0, before)
    db.close()
    with pytest.raises(GenopactError, match="CONSENT_BROKEN"):
        Registry(path, keys, people)


def test_a_database_put_back_as_a_whole_shows_in_the_root(tmp_path: Path) -> None:
    path, keys, people = tmp_path / "consent.db", Keys(6), People(6)
    registry = Registry(path, keys, people)
    registry.record(0, record())
    registry.close()
    yesterday = path.read_bytes()
    registry = Registry(path, keys, people)
    registry.withdraw(0, "no_access", TODAY)
    witnessed = registry.permitted(purpose(), TODAY).registry_root
    registry.close()
    path.write_bytes(yesterday)
    registry = Registry(path, keys, people)
    assert registry.permitted(purpose(), TODAY).registry_root != witnessed
    registry.close()


def test_a_person_whose_key_came_back_stays_erased(tmp_path: Path) -> None:
    path, people = tmp_path / "consent.db", People(6)
    registry = Registry(path, Keys(6), people)
    registry.record(0, record())
    registry.erase(0)
    registry.close()
    restored = Keys(6)
    registry = Registry(path, restored, people)
    assert not registry.permitted(purpose(), TODAY).rows.any()
    assert restored.dead == {0}
    registry.close()


def test_a_file_that_is_no_database_does_not_open(tmp_path: Path) -> None:
    path = tmp_path / "consent.db"
    path.write_bytes(b"not a database, but long enough to be read as the first page" * 100)
    with pytest.raises(GenopactError, match="CONSENT_BROKEN"):
        Registry(path, Keys(1), People(1))
