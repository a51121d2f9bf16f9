"""The key file and the key-encryption key."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from genopact_client.kek import create_kek, open_kek
from genopact_client.keyfile import PAGE, KeyFile
from genopact_shared import durable
from genopact_shared.errors import GenopactError

KEK = bytes(range(32))


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile.create(tmp_path / "keyfile", KEK)


def test_slots_are_dense_and_keys_differ(keys: KeyFile) -> None:
    assert keys.new_many(1).start == 0
    assert keys.new_many(3) == range(1, 4)
    assert len(keys) == 4
    every = [keys.key(slot, purpose) for slot in range(4) for purpose in ("consent", "row")]
    assert len(set(every)) == 8
    assert {len(key) for key in every} == {32}


def test_reopened_file_gives_the_same_keys_across_pages(tmp_path: Path, keys: KeyFile) -> None:
    keys.new_many(PAGE + 1)
    again = KeyFile.open(tmp_path / "keyfile", KEK)
    for slot in (0, PAGE - 1, PAGE):
        assert again.key(slot, "row") == keys.key(slot, "row")


def test_derivation_is_hkdf_expand(monkeypatch: pytest.MonkeyPatch, keys: KeyFile) -> None:
    monkeypatch.setattr(os, "urandom", lambda n: b"\x07" * n)
    slot = keys.new_many(1).start
    for purpose in ("consent", "row"):
        expected = HKDFExpand(SHA256(), 32, f"genopact.person/1|{purpose}".encode()).derive(b"\x07" * 32)
        assert keys.key(slot, purpose) == expected
    assert keys.site_key("lookup") == HKDFExpand(SHA256(), 32, b"genopact.site/1|lookup").derive(KEK)


def test_erased_and_unissued_slots_have_no_key(keys: KeyFile) -> None:
    keys.new_many(3)
    kept = keys.key(2, "row")
    keys.erase([1])
    keys.erase([1])
    assert keys.key(2, "row") == kept
    assert keys.alive(np.array([-1, 0, 1, 2, 3])).tolist() == [False, True, False, True, False]
    for slot in (-1, 1, 3):
        with pytest.raises(GenopactError, match="KEY_ERASED"):
            keys.key(slot, "row")
    for slot in (-1, 3):
        with pytest.raises(GenopactError, match="KEY_ERASED"):
            keys.erase([slot])
    assert keys.new_many(1).start == 3, "an erased slot is never issued again"


def test_another_process_erasing_is_noticed_before_the_next_key(tmp_path: Path, keys: KeyFile) -> None:
    keys.new_many(2)
    agent = KeyFile.open(tmp_path / "keyfile", KEK)
    agent.key(0, "row")
    keys.erase([0])
    with pytest.raises(GenopactError, match="KEY_ERASED"):
        agent.key(0, "row")
    assert agent.new_many(1).start == 2
    assert len(keys) == 3


def test_every_write_is_a_new_epoch_and_leaves_one_private_file(tmp_path: Path, keys: KeyFile) -> None:
    epochs = [keys.epoch]
    for write in (lambda: keys.new_many(1), lambda: keys.erase([0])):
        write()
        epochs.append(keys.epoch)
    assert epochs == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keyfile", "keyfile.lock"]
    assert (tmp_path / "keyfile").stat().st_mode & 0o077 == 0


def test_crash_before_the_rename_keeps_the_old_file(
    tmp_path: Path, keys: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.new_many(1)
    kept = keys.key(0, "row")

    def crash(_self: Path, _target: Path) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        keys.erase([0])
    monkeypatch.undo()
    assert KeyFile.open(tmp_path / "keyfile", KEK).key(0, "row") == kept


def test_wrong_kek_missing_file_and_existing_file(tmp_path: Path, keys: KeyFile) -> None:
    with pytest.raises(GenopactError, match="KEK_WRONG"):
        KeyFile.open(tmp_path / "keyfile", os.urandom(32))
    with pytest.raises(GenopactError, match="KEY_MISSING"):
        KeyFile.open(tmp_path / "other", KEK)
    with pytest.raises(GenopactError, match="KEY_EXISTS"):
        KeyFile.create(tmp_path / "keyfile", KEK)
    with pytest.raises(GenopactError, match="KEY_INVALID"):
        KeyFile.open(tmp_path / "keyfile", b"short")


def test_kek_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    kek = create_kek(tmp_path / "kek", b"correct horse")
    assert len(kek) == 32
    assert open_kek(tmp_path / "kek", b"correct horse") == kek
    assert kek not in (tmp_path / "kek").read_bytes()
    assert (tmp_path / "kek").stat().st_mode & 0o077 == 0
    for wrong in (b"correct horses", b""):
        with pytest.raises(GenopactError, match="KEK_WRONG"):
            open_kek(tmp_path / "kek", wrong)
    with pytest.raises(GenopactError, match="KEY_EXISTS"):
        create_kek(tmp_path / "kek", b"another")
    with pytest.raises(GenopactError, match="KEK_WRONG"):
        create_kek(tmp_path / "empty", b"")
    (tmp_path / "bad").write_bytes(b"x" * 84)
    with pytest.raises(GenopactError, match="KEY_INVALID"):
        open_kek(tmp_path / "bad", b"p")
    with pytest.raises(GenopactError, match="KEY_MISSING"):
        open_kek(tmp_path / "none", b"p")


def test_each_byte_of_the_kek_file_matters(tmp_path: Path) -> None:
    create_kek(tmp_path / "kek", b"p")
    good = (tmp_path / "kek").read_bytes()
    for place in (0, 8, 24, 40, 83):
        (tmp_path / "kek").write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(GenopactError, match=r"KEK_WRONG|KEY_INVALID"):
            open_kek(tmp_path / "kek", b"p")


def test_passphrase_file(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    with pytest.raises(GenopactError, match="KEY_MISSING"):
        durable.read_secret(path)
    path.write_bytes(b" secret words \n")
    path.chmod(0o644)
    with pytest.raises(GenopactError, match="KEY_EXPOSED"):
        durable.read_secret(path)
    path.chmod(0o600)
    assert durable.read_secret(path) == b"secret words"


def test_writers_of_the_same_file_never_lose_a_key(tmp_path: Path, keys: KeyFile) -> None:
    """Each thread opens the file for itself, as a process would; locks are held by open file, not by thread."""

    def issue(_worker: int) -> list[tuple[int, bytes]]:
        own = KeyFile.open(tmp_path / "keyfile", KEK)
        return [(slot, own.key(slot, "row")) for _ in range(8) for slot in own.new_many(3)]

    with ThreadPoolExecutor(4) as pool:
        issued = [entry for entries in pool.map(issue, range(4)) for entry in entries]
    assert sorted(slot for slot, _ in issued) == list(range(4 * 8 * 3))
    assert all(keys.key(slot, "row") == key for slot, key in issued)


def test_a_reader_sees_whole_files_while_another_erases(tmp_path: Path, keys: KeyFile) -> None:
    """The replaced file is overwritten with zeros: a reader must never take those for a file."""
    keys.new_many(40)
    kept, stop = keys.key(39, "row"), threading.Event()

    def read(_reader: int) -> int:
        own, reads = KeyFile.open(tmp_path / "keyfile", KEK), 0
        while not stop.is_set():
            assert own.key(39, "row") == kept
            assert KeyFile.open(tmp_path / "keyfile", KEK).alive(np.array([39])).all()
            reads += 1
        return reads

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read, number) for number in range(2)]
        try:
            for slot in range(39):
                keys.erase([slot])
        finally:
            stop.set()
        assert all(reader.result() > 0 for reader in readers)
    assert keys.alive(np.arange(40)).tolist() == [False] * 39 + [True]
