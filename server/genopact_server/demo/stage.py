"""The processes of a demo: command lines that are run to their end, and services that are stopped in the end."""

import importlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from genopact_shared.errors import GenopactError, require
from genopact_shared.supervise import end

COORDINATOR, SITE, LOOPBACK = "genopact_server.cli", "genopact_client.cli", "127.0.0.1"
_children, _forks = threading.Lock(), multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([COORDINATOR, SITE])
"""Commands are processes of their own, forked from one that has loaded what all of them begin with."""


class Stage(AbstractContextManager["Stage"]):
    """A folder in which commands run and services write their logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._services: list[subprocess.Popen[bytes]] = []
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_HOME": str(folder / "flower")}

    def __exit__(self, *_: object) -> None:
        end(self._services, 15)  # each has children of its own to end first

    def run(self, program: str, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """Run a command with `--format json`; returns the envelope's data.

        Raises:
            GenopactError: DEMO_FAILED when it ends with another code than `expect`.
        """
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / name for name in ("stdout", "stderr")]
            line = [program, *arguments, "--format", "json"]
            done = _forks.Process(target=_command, args=(line, self.folder, self._environment, paths))
            # Two threads that look after one another's processes would read an exit code twice, and lose it.
            with _children:
                done.start()
            wait([done.sentinel])
            with _children:
                done.join()
            stdout, stderr = (path.read_text("utf-8") if path.exists() else "" for path in paths)
        if done.exitcode != expect:
            last = (stdout.strip() or stderr.strip() or "no output").splitlines()[-1]
            raise GenopactError("DEMO_FAILED", f"{' '.join(arguments)}: {last[:400]}")
        return dict(json.loads(stdout)["data"])

    def serve(self, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a service; its output goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            service = subprocess.Popen(
                [sys.executable, "-m", program, *arguments], cwd=self.folder, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._services.append(service)
        return service


def _command(line: Sequence[str], folder: Path, environment: Mapping[str, str], outputs: Sequence[Path]) -> None:
    """What a forked process does: the command line, as if it had been started in a shell."""
    os.chdir(folder)
    os.environ.update(environment)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.argv = [*line]
    importlib.import_module(line[0]).main()


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Ask until it holds. Raises DEMO_FAILED when the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() <= end, "DEMO_FAILED", f"{what} within {seconds:.0f} s")
        time.sleep(0.2)


def free_ports() -> int:
    """A loopback port that is free, and so is the next."""
    for port in range(20443, 21443, 2):
        with suppress(OSError), socket.create_server((LOOPBACK, port)), socket.create_server((LOOPBACK, port + 1)):
            return port
    raise GenopactError("DEMO_FAILED", "no free port on loopback")
