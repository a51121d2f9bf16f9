"""The processes of a federation, each started and killed by itself: `python processes.py ROLE FOLDER ...`."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from genopact_shared.supervise import stopping

ENVIRONMENT = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


class Processes:
    """Started by name; `kill` is SIGKILL of that process alone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, dict[str, subprocess.Popen[bytes]]()

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self.command(name, [sys.executable, __file__, *arguments[:1], str(self.folder), *arguments[1:]])

    def command(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        environment = {**ENVIRONMENT, "FLWR_HOME": str(self.folder / "flower")}
        with (self.folder / f"{name}.out").open("ab") as out:
            self.running[name] = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        return self.running[name]

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        process.terminate()
        process.wait(20)

    def close(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    one = Processes(folder)
    try:
        yield one
    finally:
        one.close()


def superlink(folder: Path, port: str, runtime_port: str) -> None:
    from genopact_server.link.host import HostConfig, serve

    certificate, key = folder / "server.pem", folder / "server.key"
    serve(HostConfig(folder / "state", certificate, key, "127.0.0.1", int(port), runtime_port=int(runtime_port)))


def link(folder: Path, name: str, port: str) -> None:
    from genopact_client.link import node

    path = folder / name / "agent.sock"
    with stopping() as stop:
        node.run(node.NodeConfig(f"127.0.0.1:{port}", folder / "ca.pem", folder / f"{name}.key", path), stop)


def agent(folder: Path, name: str) -> None:
    """Echo with the site's name; while the file `slow` exists, an exchange takes until it is gone."""
    from genopact_client.agent.socket import serve

    def exchange(request: bytes) -> bytes:
        (folder / f"{name}.asked").touch()
        while (folder / "slow").exists():
            time.sleep(0.02)
        return name.encode() + b":" + request

    serve(folder / name / "agent.sock", exchange, b"").wait_for_termination()


def executor(folder: Path, runtime_port: str, seconds: str) -> None:
    """Exchange again and again and write down who answered, until the file `enough` exists."""
    from genopact_server.link import executor
    from genopact_server.link.grid import GridCourier
    from genopact_server.link.host import HostConfig

    config = HostConfig(folder / "state", folder, folder)

    def main(courier: GridCourier, info: executor.RunInfo) -> None:
        number = 0
        while not (folder / "enough").exists():
            number += 1
            request = f"{info.run_id} {number}".encode()
            sites = config.membership.registry().studies[info.study_hash]
            replies = courier.exchange(dict.fromkeys(sites, request), float(seconds))
            assert all(reply == site.encode() + b":" + request for site, reply in replies.items())
            with (folder / "exchanges").open("a") as file:
                file.write(json.dumps({"run": info.run_id, "number": number, "sites": sorted(replies)}) + "\n")
            time.sleep(0.1)

    settings = executor.ExecutorConfig(f"127.0.0.1:{runtime_port}", config.secret, config.membership, 0.2)
    executor.serve(settings, main, threading.Event())


ROLES: dict[str, Callable[..., None]] = {"superlink": superlink, "link": link, "agent": agent, "executor": executor}

if __name__ == "__main__":
    ROLES[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
