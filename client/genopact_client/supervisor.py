"""Agent and link as two processes: either may die and comes back, the other goes on."""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

FIRST_PAUSE_S, LAST_PAUSE_S, STEADY_S, END_S = 0.5, 30.0, 60.0, 40.0
"""Between a death and the next start, doubled each time up to the last; forgotten after a minute of life."""

_log = structlog.get_logger()


@dataclass
class Child:
    """One process. `secret` reaches it through a pipe, as the file of `--passphrase-file`."""

    name: str
    command: Sequence[str]
    secret: bytes | None = None
    process: subprocess.Popen[bytes] | None = None
    pause: float = FIRST_PAUSE_S
    due: float = field(default_factory=time.monotonic)
    began: float = 0.0

    def tend(self) -> None:
        """Start the process when it is due; after its death make it due again."""
        now = time.monotonic()
        if self.process is None and now >= self.due:
            self.process, self.began = self._spawn(), now
            _log.info(f"{self.name}_started")
        elif self.process is not None and self.process.poll() is not None:
            _log.warning(f"{self.name}_died", code=str(self.process.returncode))
            self.pause = FIRST_PAUSE_S if now - self.began > STEADY_S else self.pause
            self.process, self.due = None, now + self.pause
            self.pause = min(LAST_PAUSE_S, 2 * self.pause)

    def end(self, deadline: float) -> None:
        """Wait for the process, and kill it at the deadline."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        if self.secret is None:
            return subprocess.Popen(self.command)
        out, into = os.pipe()
        try:
            os.write(into, self.secret)
            return subprocess.Popen([*self.command, "--passphrase-file", f"/dev/fd/{out}"], pass_fds=(out,))
        finally:
            os.close(into)
            os.close(out)


def supervise(children: Sequence[Child], stop: threading.Event) -> None:
    """Keep the children running until `stop` is set, then end them."""
    try:
        while not stop.is_set():
            for child in children:
                child.tend()
            stop.wait(0.2)
    finally:
        for child in children:
            if child.process is not None:
                child.process.terminate()
        deadline = time.monotonic() + END_S
        for child in children:
            child.end(deadline)
