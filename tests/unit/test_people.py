"""Patient numbers and rows."""

import hmac
import sqlite3
from pathlib import Path

import pytest

from genopact_client.keyfile import KeyFile
from genopact_client.people import People
from genopact_shared.errors import GenopactError

KEK = bytes(32)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile.create(tmp_path / "keyfile", KEK)


def test_rows_are_dense_stable_and_equal_to_slots(tmp_path: Path, keys: KeyFile) -> None:
    people = People(tmp_path / "people.db", keys)
    assert people.enrol(["MRN-7", "MRN-3"]).tolist() == [0, 1]
    assert people.enrol(["MRN-9", "MRN-3", "MRN-9"]).tolist() == [2, 1, 2]
    assert (len(people), len(keys)) == (3, 3)
    assert people.row("MRN-3") == 1
    assert people.row("MRN-4") is None
    assert people.find(["MRN-9", "nobody", " MRN-7 "]).tolist() == [2, -1, 0]
    assert People(tmp_path / "people.db", KeyFile.open(tmp_path / "keyfile", KEK)).row("MRN-9") == 2


def test_no_number_and_no_plain_hash_in_the_file(tmp_path: Path, keys: KeyFile) -> None:
    people = People(tmp_path / "people.db", keys)
    people.enrol(["MRN-SECRET-1", "MRN-SECRET-2"])
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert b"SECRET" not in data
        assert hmac.digest(b"", b"local|MRN-SECRET-1", "sha256") not in data
        assert path.stat().st_mode & 0o077 == 0


def test_an_empty_number_is_nobody(tmp_path: Path, keys: KeyFile) -> None:
    with pytest.raises(ValueError, match="empty"):
        People(tmp_path / "people.db", keys).row("  ")


def test_another_site_cannot_compute_the_same_pids(tmp_path: Path, keys: KeyFile) -> None:
    People(tmp_path / "people.db", keys).enrol(["1"])
    with pytest.raises(GenopactError, match="KEK_WRONG"):
        People(tmp_path / "people.db", KeyFile.create(tmp_path / "other", b"\1" * 32))


def test_keys_issued_before_a_crash_are_used_next(tmp_path: Path, keys: KeyFile) -> None:
    people = People(tmp_path / "people.db", keys)
    people.enrol(["a"])
    keys.new_many(2)
    assert people.enrol(["b", "c", "d"]).tolist() == [1, 2, 3]
    assert len(keys) == 4


def test_older_key_file_is_noticed(tmp_path: Path, keys: KeyFile) -> None:
    old = (tmp_path / "keyfile").read_bytes()
    People(tmp_path / "people.db", keys).enrol(["a"])
    (tmp_path / "keyfile").write_bytes(old)
    with pytest.raises(GenopactError, match="KEYFILE_ROLLED_BACK"):
        People(tmp_path / "people.db", KeyFile.open(tmp_path / "keyfile", KEK))


def test_a_database_that_is_lost_while_people_are_open_is_no_empty_one(tmp_path: Path, keys: KeyFile) -> None:
    """New people would get the rows of those forgotten."""
    people = People(tmp_path / "people.db", keys)
    people.enrol(["1", "2"])
    (tmp_path / "people.db").unlink()
    for ask in (lambda: people.enrol(["3"]), lambda: len(people), lambda: people.find(["1"])):
        with pytest.raises(sqlite3.OperationalError):
            ask()
