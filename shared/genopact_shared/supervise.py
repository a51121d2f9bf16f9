"""Keep child processes running: each is started again when it ends, with a growing pause; SIGTERM ends all."""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

_log = structlog.get_logger()
FIRST_PAUSE_S, LAST_PAUSE_S, STEADY_S = 0.5, 30.0, 60.0
GRACE_S = 10.0


@dataclass
class _Child:
    command: Sequence[str]
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    due: float = 0.0
    pause: float = FIRST_PAUSE_S

    def tend(self, name: str) -> None:
        """Start the process if it is due; notice its end."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            _log.warning("process_ended", step=name, code=self.process.returncode)
            self.pause = FIRST_PAUSE_S if now - self.started > STEADY_S else min(LAST_PAUSE_S, self.pause * 2)
            self.process, self.due = None, now + self.pause
        if self.process is None and now >= self.due:
            self.process, self.started = subprocess.Popen(self.command, stdin=subprocess.DEVNULL), now


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def supervise(commands: Mapping[str, Sequence[str]]) -> None:
    """Run the commands until SIGTERM or SIGINT; when one ends, the others go on and it is started again."""
    children = {name: _Child(command) for name, command in commands.items()}
    with stopping() as stop:
        while not stop.wait(0.1):
            for name, child in children.items():
                child.tend(name)
    end([child.process for child in children.values() if child.process is not None])


def end(processes: "Sequence[subprocess.Popen[bytes]]", grace_s: float = GRACE_S) -> None:
    """SIGTERM to all, and SIGKILL to those that have not ended after so long."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
