"""Attacks on the log on disk: rollback, edits, a second writer, other keys, and death in the middle of an append."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.tlog.log import Log

KEY = SigningKey(bytes(32))
ORIGIN = "genopact.org/log/site-a"
HASH = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed log: three entries under a checkpoint, a fourth acknowledged after it."""
    with Log(tmp_path / "log", KEY, ORIGIN) as log:
        for number in range(3):
            log.append(b"entry %d" % number)
        log.checkpoint()
        log.append(b"entry 3")
    return tmp_path / "log"


def refused(folder: Path, key: SigningKey = KEY, origin: str = ORIGIN) -> str:
    before = (folder / "entries").read_bytes()
    with pytest.raises(GenopactError) as error:
        Log(folder, key, origin)
    assert (folder / "entries").read_bytes() == before, "a refused log stays as evidence"
    return error.value.code


def rewrite(folder: Path, change: Callable[[bytes], bytes]) -> None:
    (folder / "entries").write_bytes(change((folder / "entries").read_bytes()))


def test_a_second_writer_is_locked_out_until_the_first_ends(folder: Path) -> None:
    with Log(folder, KEY, ORIGIN):
        assert refused(folder) == "LOG_LOCKED"
    Log(folder, KEY, ORIGIN).close()


def test_a_second_process_is_locked_out(folder: Path) -> None:
    with Log(folder, KEY, ORIGIN):
        run = subprocess.run(
            [sys.executable, "-c", WRITER, str(folder), "1"], capture_output=True, text=True, check=False
        )
    assert run.returncode != 0
    assert "LOG_LOCKED" in run.stderr


def test_a_living_writer_cannot_be_dodged_by_putting_another_entries_file_in_place(folder: Path) -> None:
    with Log(folder, KEY, ORIGIN):
        (folder / "entries").rename(folder / "aside")
        with pytest.raises(GenopactError) as error:
            Log(folder, KEY, ORIGIN)
        assert error.value.code == "LOG_BROKEN"


RECORD = 2 + len(b"entry 0") + HASH

TAMPERINGS: dict[str, Callable[[bytes], bytes]] = {
    "signed entries cut away": lambda data: data[: 2 * RECORD],
    "all entries cut away": lambda data: b"",
    "a signed entry edited": lambda data: data.replace(b"entry 1", b"entry X"),
    "two entries swapped": lambda data: data[RECORD : 2 * RECORD] + data[:RECORD] + data[2 * RECORD :],
    "an entry removed": lambda data: data[RECORD:],
    "an entry repeated": lambda data: data[:RECORD] + data,
    "the last signed entry torn": lambda data: data[: 3 * RECORD - 1],
    "an unsigned entry edited": lambda data: data.replace(b"entry 3", b"entry X"),
    "a long tail of nothing": lambda data: data + bytes(1 << 17),
    "rubbish appended": lambda data: data + b"\x00\x01a" + b"\xff" * 40,
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_tampered_log_does_not_open(folder: Path, name: str) -> None:
    rewrite(folder, TAMPERINGS[name])
    assert refused(folder) == "LOG_BROKEN"


def test_an_edit_with_a_fitting_leaf_hash_is_found_by_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    with Log(tmp_path / "fork", KEY, ORIGIN) as fork:
        for number in (0, 7, 2, 3):
            fork.append(b"entry %d" % number)
    shutil.copy(tmp_path / "fork" / "entries", folder / "entries")
    assert refused(folder) == "LOG_BROKEN"


def test_a_log_without_its_checkpoint_does_not_open(folder: Path) -> None:
    (folder / "checkpoint").unlink()
    assert refused(folder) == "LOG_BROKEN"


def test_an_edited_checkpoint_does_not_open(folder: Path) -> None:
    (folder / "checkpoint").write_bytes((folder / "checkpoint").read_bytes().replace(b"\n3\n", b"\n2\n"))
    assert refused(folder) == "LOG_BROKEN"


def test_another_key_or_name_cannot_take_over_a_log(folder: Path) -> None:
    assert refused(folder, SigningKey.generate()) == "LOG_BROKEN"
    assert refused(folder, KEY, "genopact.org/log/site-b") == "LOG_BROKEN"


def test_a_whole_folder_from_yesterday_opens_but_does_not_extend_what_others_saw(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "backup")
    with Log(folder, KEY, ORIGIN) as log:
        log.append(b"entry 4")
        seen = log.checkpoint()
    with Log(tmp_path / "backup", KEY, ORIGIN) as log:
        with pytest.raises(GenopactError) as error:
            log.must_extend(seen)
        assert error.value.code == "LOG_ROLLED_BACK"
        log.append(b"another entry 4")
        with pytest.raises(GenopactError) as error:
            log.must_extend(seen)
        assert error.value.code == "LOG_ROLLED_BACK", "a fork of the same length is no better"


@pytest.mark.parametrize(
    "tail", [b"\x00", b"\x00\x09", b"\x00\x09entry", b"\x00\x01a" + b"\x11" * 31, bytes(3), bytes(4096)]
)
def test_a_torn_tail_is_cut_reported_and_written_over(folder: Path, tail: bytes) -> None:
    rewrite(folder, lambda data: data + tail)
    with Log(folder, KEY, ORIGIN) as log:
        assert (log.size, log.cut, log.append(b"entry 4")) == (4, len(tail), 4)
    with Log(folder, KEY, ORIGIN) as log:
        assert (log.cut, [*log.entries()][3:]) == (0, [b"entry 3", b"entry 4"])


def test_a_failed_fsync_acknowledges_nothing_and_closes_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Log(folder, KEY, ORIGIN) as log:

        def fail(_: int) -> None:
            raise OSError(5, "no such luck")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(GenopactError) as error:
                log.append(b"entry 4")
        assert error.value.code == "LOG_WRITE_FAILED"
        with pytest.raises(GenopactError):
            log.append(b"entry 4")
        with pytest.raises(GenopactError):
            log.checkpoint()


def test_an_entry_is_synced_before_it_is_acknowledged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    write, sync = os.pwrite, os.fsync

    def noted_write(file: int, data: bytes, at: int) -> int:
        calls.append("write")
        return write(file, data, at)

    def noted_sync(file: int) -> None:
        calls.append("sync")
        sync(file)

    monkeypatch.setattr(os, "pwrite", noted_write)
    monkeypatch.setattr(os, "fsync", noted_sync)
    with Log(folder, KEY, ORIGIN) as log:
        calls.clear()
        log.append(b"entry 4")
        assert calls == ["write", "sync"]


WRITER = """
import sys
from pathlib import Path
from genopact_shared.keys import SigningKey
from genopact_shared.tlog.log import Log
log = Log(Path(sys.argv[1]), SigningKey(bytes(32)), "genopact.org/log/site-a")
start = log.size
for number in range(int(sys.argv[2])):
    index = log.append(b"%d:" % (start + number) + b"x" * (number * 997 % 60_000))
    if number % 7 == 0:
        log.checkpoint()
    print(index, flush=True)
"""


@pytest.mark.processes
def test_killing_the_writer_at_any_instant_loses_no_acknowledged_entry(tmp_path: Path) -> None:
    rng = random.Random(7)
    acknowledged = 0
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "100000"], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(rng.randrange(1, 40)):
            acknowledged = int(writer.stdout.readline()) + 1
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout.read().splitlines(keepends=True):
            acknowledged = int(line) + 1 if line.endswith(b"\n") else acknowledged
        writer.wait()
        writer.stdout.close()
        with Log(tmp_path, KEY, ORIGIN) as log:
            assert acknowledged <= log.size <= acknowledged + 1
            assert all(log.entry(i).startswith(b"%d:" % i) for i in range(log.size))


def test_death_within_the_write_itself_leaves_a_tail_that_is_cut(tmp_path: Path) -> None:
    """Every prefix of an append: what a kill between two pages of one write can leave."""
    with Log(tmp_path / "log", KEY, ORIGIN) as log:
        log.append(b"first")
        whole = (tmp_path / "log" / "entries").stat().st_size
        log.append(b"second" * 20)
    full = (tmp_path / "log" / "entries").read_bytes()
    for cut in range(whole, len(full)):
        (tmp_path / "log" / "entries").write_bytes(full[:cut])
        with Log(tmp_path / "log", KEY, ORIGIN) as log:
            assert (log.size, log.cut) == (1, cut - whole)
