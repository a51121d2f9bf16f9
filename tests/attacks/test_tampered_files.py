"""Somebody who can write to a hospital's files, or keeps copies of them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from genopact_client import keyfile as module
from genopact_client.keyfile import KeyFile
from genopact_client.people import People
from genopact_client.store.sealed import Store
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.table import Column, Flag, Number, Table

KEK = bytes(range(32))
SCHEMA: tuple[Column, ...] = (Number("dose", "mg/week", 0, 400, "outcome"), Flag("smoker"))
ALL = np.arange(3)


def table(base: float) -> Table:
    return Table({"dose": base + np.arange(3.0), "smoker": np.array([0, 1, -1], np.int8)}, 3)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    keys = KeyFile.create(tmp_path / "keyfile", KEK)
    keys.new_many(3)
    return keys


@pytest.fixture
def home(tmp_path: Path, keys: KeyFile) -> Path:
    with Store.create(tmp_path / "store", keys, SCHEMA, "private") as store:
        store.write(ALL, table(10))
    return tmp_path / "store"


def records(home: Path, generation: int = 1) -> tuple[Path, bytearray, int]:
    path = home / f"records.{generation}"
    data = bytearray(path.read_bytes())
    return path, data, len(data) // 3


def test_exchanged_records_do_not_open(home: Path, keys: KeyFile) -> None:
    path, data, size = records(home)
    path.write_bytes(data[size : 2 * size] + data[:size] + data[2 * size :])
    with Store(home, keys) as store:
        for row in (0, 1):
            with pytest.raises(GenopactError, match="RECORD_INVALID"):
                store.table(np.array([row]))
        assert store.table(np.array([2])).number("dose").tolist() == [12]


def test_no_byte_of_a_record_can_be_changed(home: Path, keys: KeyFile) -> None:
    path, data, size = records(home)
    for place in range(size):
        changed = data.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        with Store(home, keys) as store, pytest.raises(GenopactError, match="RECORD_INVALID"):
            store.table(ALL)


def test_a_zeroed_record_is_an_error_not_a_person_of_zeros(home: Path, keys: KeyFile) -> None:
    path, data, size = records(home)
    path.write_bytes(bytes(size) + data[size:])
    with Store(home, keys) as store, pytest.raises(GenopactError, match="RECORD_INVALID"):
        store.table(ALL)


def test_yesterdays_record_does_not_open_today(home: Path, keys: KeyFile) -> None:
    _, old, size = records(home)
    with Store(home, keys) as store:
        store.write(ALL, table(50))
    path, new, _ = records(home, 2)
    path.write_bytes(old[:size] + new[size:])
    with Store(home, keys) as store, pytest.raises(GenopactError, match="RECORD_INVALID"):
        store.table(ALL)


def test_a_record_of_another_store_of_the_same_site_does_not_open(tmp_path: Path, home: Path, keys: KeyFile) -> None:
    with Store.create(tmp_path / "other", keys, SCHEMA, "private") as other:
        other.write(ALL, table(10))
    shutil.copy(tmp_path / "other" / "records.1", home / "records.1")
    with Store(home, keys) as store, pytest.raises(GenopactError, match="RECORD_INVALID"):
        store.table(ALL)


def test_a_private_store_cannot_pass_for_a_synthetic_one(tmp_path: Path, home: Path, keys: KeyFile) -> None:
    with Store.create(tmp_path / "fake", keys, SCHEMA, "synthetic") as fake:
        fake.write(ALL, table(10))
    shutil.copy(tmp_path / "fake" / "manifest.dsse", home / "manifest.dsse")
    with Store(home, keys) as store:
        assert store.manifest()["kind"] == "synthetic"
        with pytest.raises(GenopactError, match="RECORD_INVALID"):
            store.table(ALL)


def test_no_byte_of_the_manifest_can_be_changed(home: Path, keys: KeyFile) -> None:
    path = home / "manifest.dsse"
    good = path.read_bytes()
    hint = good.index(b'"keyid"')  # DSSE does not sign this hint and nothing depends on it
    for place in range(0, len(good), 7):
        if hint <= place < hint + 26:
            continue
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(GenopactError, match=r"SIGNATURE_INVALID|ENVELOPE_INVALID|CANONICAL_INVALID"):
            Store(home, keys)


def test_another_sites_manifest_does_not_open(tmp_path: Path, home: Path, keys: KeyFile) -> None:
    Store.create(tmp_path / "other", KeyFile.create(tmp_path / "k2", bytes(32)), SCHEMA, "public").close()
    shutil.copy(tmp_path / "other" / "manifest.dsse", home / "manifest.dsse")
    with pytest.raises(GenopactError, match="SIGNATURE_INVALID"):
        Store(home, keys)


def test_no_byte_of_the_key_file_can_be_changed(tmp_path: Path, keys: KeyFile) -> None:
    assert len(keys) == 3
    path = tmp_path / "keyfile"
    good = path.read_bytes()
    for place in [*range(100), 5000, len(good) - 17, len(good) - 1]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(GenopactError, match=r"KEYFILE_INVALID|KEK_WRONG"):
            KeyFile.open(path, KEK)
    for cut in (0, 23, 24, 83, 84, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(GenopactError, match="KEYFILE_INVALID"):
            KeyFile.open(path, KEK)


def test_pages_cannot_be_exchanged(tmp_path: Path, keys: KeyFile) -> None:
    keys.new_many(module.PAGE)
    path = tmp_path / "keyfile"
    data = path.read_bytes()
    page = (len(data) - 84) // 2
    path.write_bytes(data[:84] + data[84 + page :] + data[84 : 84 + page])
    with pytest.raises(GenopactError, match="KEYFILE_INVALID"):
        KeyFile.open(path, KEK)


def test_an_erased_key_is_nowhere_even_for_the_holder_of_the_kek(
    tmp_path: Path, keys: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[bytes] = []
    urandom = os.urandom

    def recorded(size: int) -> bytes:
        drawn.append(urandom(size))
        return drawn[-1]

    monkeypatch.setattr(os, "urandom", recorded)
    slots = keys.new_many(2)
    gone, kept = drawn[0][:32], drawn[0][32:]
    derived = keys.key(slots[0], "row"), keys.key(slots[0], "consent")
    path = tmp_path / "keyfile"
    os.link(path, tmp_path / "old-blocks")
    epoch_keys = [draw for draw in drawn if len(draw) == 32]
    monkeypatch.undo()
    assert gone in module._open(path.read_bytes(), KEK).keys, "the search below can fail"
    keys.erase([slots[0]])
    everything = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for secret in (gone, *derived, *epoch_keys):
        assert secret not in everything
    opened = module._open(path.read_bytes(), KEK).keys
    assert gone not in opened
    assert kept in opened
    assert not any((tmp_path / "old-blocks").read_bytes()), "the replaced file was overwritten"


def test_yesterdays_key_file_is_noticed(tmp_path: Path, home: Path, keys: KeyFile) -> None:
    path = tmp_path / "keyfile"
    yesterday = path.read_bytes()
    with Store(home, keys) as store:
        keys.erase([1])
        store.erase(1)
    path.write_bytes(yesterday)
    with pytest.raises(GenopactError, match="KEYFILE_ROLLED_BACK"):
        keys.key(1, "row")
    reopened = KeyFile.open(path, KEK)
    with pytest.raises(GenopactError, match="KEYFILE_ROLLED_BACK"):
        Store(home, reopened)


def test_yesterdays_store_does_not_bring_back_an_erased_person(tmp_path: Path, home: Path, keys: KeyFile) -> None:
    shutil.copytree(home, tmp_path / "copy")
    with Store(home, keys) as store:
        keys.erase([1])
        store.erase(1)
    with Store(tmp_path / "copy", keys) as copy:
        assert copy.rows().tolist() == [0, 2]
        with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
            copy.table(ALL)


def test_a_wrong_kek_opens_nothing(tmp_path: Path, home: Path, keys: KeyFile) -> None:
    People(tmp_path / "people.db", KeyFile.create(tmp_path / "k1", KEK)).enrol(["a"])
    with pytest.raises(GenopactError, match="PEOPLE_MISSING"):
        People(tmp_path / "lost.db", keys)
    with pytest.raises(GenopactError, match="KEK_WRONG"):
        KeyFile.open(tmp_path / "keyfile", bytes(32))
    stranger = KeyFile.create(tmp_path / "k2", bytes(32))
    stranger.new_many(3)
    with pytest.raises(GenopactError, match="SIGNATURE_INVALID"):
        Store(home, stranger)
    with pytest.raises(GenopactError, match="KEK_WRONG"):
        People(tmp_path / "people.db", stranger)


def test_nothing_of_a_record_is_at_rest_in_clear(home: Path) -> None:
    needle = np.array([11.0], "<f8").tobytes()
    assert all(needle not in path.read_bytes() for path in home.iterdir())
