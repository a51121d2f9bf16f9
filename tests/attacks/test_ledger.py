"""Attacks on the ledger file, and a process that is killed in the middle of writing it."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genopact_client.ledger import Ledger
from genopact_client.ledger_file import HEADER, LedgerFile
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.mechanisms import NoisedSum

KEY = bytes(range(32))
FACT = NoisedSum(noise_multiplier="8", clip="1", scale=4096, dims=10, honest_minimum=2)
PEOPLE = np.arange(50, dtype=np.int64)


def frames(path: Path) -> list[bytes]:
    data, found = path.read_bytes(), []
    while data:
        size = HEADER + int.from_bytes(data[:4])
        found.append(data[:size])
        data = data[size:]
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    ledger = Ledger.create(path, KEY)
    for attempt in range(3):
        ledger.settle(ledger.reserve("study", "run", 0, attempt, FACT, PEOPLE, 20_000))
    ledger.close()
    assert len(frames(path)) == 7
    return path


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


ATTACKS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "flip a length": lambda f: [*f[:3], flipped(f[3], 2), *f[4:]],
    "flip the last length": lambda f: [*f[:-1], flipped(f[-1], 0)],
    "flip a checksum": lambda f: [*f[:3], flipped(f[3], 5), *f[4:]],
    "flip a nonce": lambda f: [*f[:3], flipped(f[3], 9), *f[4:]],
    "flip a body": lambda f: [*f[:3], flipped(f[3], 60), *f[4:]],
    "flip the last tag": lambda f: [*f[:-1], flipped(f[-1], -1 % len(f[-1]))],
    "drop a record": lambda f: [*f[:3], *f[4:]],
    "drop the first": lambda f: f[1:],
    "swap two": lambda f: [*f[:3], f[4], f[3], *f[5:]],
    "repeat the last": lambda f: [*f, f[-1]],
    "repeat one": lambda f: [*f[:2], f[1], *f[2:]],
    "zeros at the end": lambda f: [*f, bytes(64)],
    "no file at all": lambda _: [],
    "half of the first": lambda f: [f[0][:30]],
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_changed_ledger_does_not_open(path: Path, attack: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(attack(frames(path))))
    with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
        Ledger(path, KEY)
    with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
        Ledger(path, KEY)


def test_every_single_bit_flip_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(flipped(whole, at))
        with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
            Ledger(path, KEY)


def test_records_of_another_ledger_or_key_do_not_open(path: Path, tmp_path: Path) -> None:
    other = Ledger.create(tmp_path / "other", KEY)
    other.settle(other.reserve("study", "run", 0, 0, FACT, PEOPLE, 20_000))
    other.close()
    mine, theirs = frames(path), frames(tmp_path / "other")
    path.write_bytes(b"".join([mine[0], theirs[1], *mine[2:]]))
    with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
        Ledger(path, KEY)
    path.write_bytes(b"".join(mine))
    with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
        Ledger(path, bytes(32))


def test_a_ledger_put_back_shows_in_its_head(path: Path) -> None:
    kept = frames(path)
    ledger = Ledger(path, KEY)
    witnessed = ledger.head
    ledger.close()
    for lost in range(1, len(kept)):
        path.write_bytes(b"".join(kept[:-lost]))
        ledger = Ledger(path, KEY)
        assert ledger.head != witnessed
        ledger.close()


@pytest.mark.parametrize(
    "body", [{"settle": 0}, {"settle": 99}, {"ledger": "genopact.ledger/1"}, {"reserve": {"study": "s"}}, {"gift": 1}]
)
def test_a_sealed_record_that_makes_no_sense_does_not_open(path: Path, body: dict[str, object]) -> None:
    from genopact_client.ledger import _body

    file = LedgerFile(path, KEY)
    list(file.bodies())
    file.append(_body(body))
    file.close()
    with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
        Ledger(path, KEY)


def test_nothing_of_a_charge_is_in_clear(path: Path) -> None:
    assert not any(word in path.read_bytes() for word in (b"study", b"noised-sum", b"reserve"))
    assert path.stat().st_mode & 0o077 == 0


WRITER = """
import os
import sys
from pathlib import Path
import numpy as np
from genopact_client.ledger import Ledger
from genopact_shared.privacy.mechanisms import NoisedSum

fact = NoisedSum(noise_multiplier="8", clip="1", scale=4096, dims=10, honest_minimum=2)
people = np.arange(50, dtype=np.int64)
path, key = Path(sys.argv[1]), bytes(range(32))

def tell(word, number):  # one write each: two processes share the pipe
    os.write(1, f"{word} {number}\\n".encode())

def work():
    ledger = Ledger(path, key)
    while True:
        sequence = ledger.reserve("study", "run", 0, 0, fact, people, 20_000)
        tell("r", sequence)
        ledger.settle(sequence)
        tell("s", sequence)

for _ in sys.stdin:
    child = os.fork()
    if not child:
        work()
    tell("pid", child)
    os.waitpid(child, 0)
    tell("end", 0)
"""


@pytest.mark.processes
def test_a_kill_at_any_instant_loses_no_acknowledged_charge(path: Path) -> None:
    """One process forks a writer for each kill, so that Python starts once."""
    run = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdin
    assert run.stdout
    charged, torn = 3, 0
    for _ in range(20):
        run.stdin.write("go\n")
        run.stdin.flush()
        seen: list[list[str]] = []
        while not any(word == "pid" for word, _ in seen):
            seen.append(run.stdout.readline().split())
        victim = next(int(number) for word, number in seen if word == "pid")
        time.sleep(secrets.randbelow(60) / 1000)
        os.kill(victim, signal.SIGKILL)
        while seen[-1][0] != "end":
            seen.append(run.stdout.readline().split())
        reserved = {int(number) for word, number in seen if word == "r"}
        settled = {int(number) for word, number in seen if word == "s"}
        ledger = Ledger(path, KEY)
        spent = len(ledger.spent(49))
        assert charged + len(reserved) <= spent <= charged + len(reserved) + 1
        assert not settled & ledger.open_reservations().keys()
        torn += ledger.cut > 0
        ledger.close()
        charged = spent
    run.stdin.close()
    run.wait(10)
    run.stdout.close()
    assert charged > 3


@pytest.mark.processes
def test_a_second_process_is_locked_out(path: Path) -> None:
    code = "import sys; from pathlib import Path; from genopact_client.ledger import Ledger; " + (
        "Ledger(Path(sys.argv[1]), bytes(range(32)))"
    )
    ledger = Ledger(path, KEY)
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "LEDGER_LOCKED" in run.stderr
    with pytest.raises(GenopactError, match="LEDGER_LOCKED"):
        Ledger(path, KEY)
    ledger.close()
    Ledger(path, KEY).close()
