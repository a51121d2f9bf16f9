"""The coordinator's processes: the link host, and the executor that carries runs out."""

import json
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from genopact_server import certificates
from genopact_server.folder import Folder
from genopact_server.rounds import Courier, Run
from genopact_shared import durable
from genopact_shared.errors import GenopactError, require
from genopact_shared.study import Study
from genopact_shared.supervise import supervise

if TYPE_CHECKING:
    from genopact_server.link.control import Control
    from genopact_server.link.host import HostConfig

OPERATOR = "operator"
RESUBMIT_AFTER_S = 5
_log = structlog.get_logger()


def create(home: Path, name: str, address: str) -> Folder:
    """A new coordinator at `address` (host:port): keys, certificate, an operator whose token stays in the folder."""
    folder = Folder.create(home, name, address)
    certificates.issue(home / "tls", split_address(address)[0])
    durable.replace(home / "operator.token", host_config(folder).accounts.add(OPERATOR, "operator").encode())
    return folder


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`. Raises LINK_CONFIG."""
    host, _, port = address.rpartition(":")
    require(host and port.isdigit() and 0 < int(port) < 65536, "LINK_CONFIG", f"address {address!r} is not host:port")
    return host.strip("[]"), int(port)


def host_config(folder: Folder) -> "HostConfig":
    """Where the link listens: all interfaces at the address' port, loopback for the executor at the next port."""
    from genopact_server.link.host import HostConfig

    (host, port), tls = split_address(folder.card["address"]), folder.home / "tls"
    loopback = host in ("127.0.0.1", "::1", "localhost")
    own = "127.0.0.1" if loopback else "0.0.0.0"  # noqa: S104 - hospitals connect from outside
    return HostConfig(folder.home / "link", tls / "server.pem", tls / "server.key", own, port, runtime_port=port + 1)


def start(folder: Folder) -> None:
    """Both processes, until SIGTERM."""
    command = [sys.executable, "-m", "genopact_server.cli", "coordinator"]
    home = ["--home", str(folder.home)]
    supervise({"link": [*command, "link", *home], "executor": [*command, "executor", *home]})


def control(folder: Folder) -> "Control":
    """A signed-in connection to this coordinator's link host. Raises LINK_UNREACHABLE, LINK_SIGN_IN when it is used."""
    from genopact_server.link.control import Control

    token = (folder.home / "operator.token").read_text("ascii")
    root = (folder.home / "tls" / "ca.pem").read_bytes()
    return Control(folder.card["address"], root, token, host_config(folder).membership)


def ask_for(folder: Folder, study: Study, until: int | None = None) -> None:
    """Submit a run of a registered study, and note it as wanted until it has ended or reached round `until`."""
    with control(folder) as link:
        link.submit(study.canonical, study.hash, folder.approvals(study))
    durable.replace(_wanted(folder, study.hash), json.dumps({"until": until}).encode())


def serve_executor(folder: Folder) -> None:
    """Carry out submitted runs, one after another; a wanted run that was cut short is submitted again."""
    from genopact_server.link import executor

    config, busy = host_config(folder), threading.Event()

    def main(courier: Courier, info: executor.RunInfo) -> None:
        busy.set()
        try:
            carry_on(folder, info.study_hash, courier)
        finally:
            busy.clear()

    threading.Thread(target=_keep_submitting, args=(folder, busy), daemon=True).start()
    address = f"127.0.0.1:{config.runtime_port}"
    executor.serve(executor.ExecutorConfig(address, config.secret, config.membership, poll=0.5), main)


def carry_on(folder: Folder, study_hash: str, courier: Courier) -> None:
    """Resume the study's unfinished run, or start one, and take it as far as is wanted; nothing if nothing is."""
    wanted = _wanted(folder, study_hash)
    if not wanted.exists():
        return
    asked = json.loads(wanted.read_bytes())
    unfinished = [state["run"] for state in runs_of(folder, study_hash) if state["stage"] != "done"]
    known = [asked["run"]] if asked.get("run") else unfinished
    try:
        run = Run.resume(folder, known[-1], courier) if known else Run.start(folder, folder.study(study_hash), courier)
        # Whoever is killed between the run's end and the end of this function must not start another one.
        durable.replace(wanted, json.dumps(asked | {"run": run.state.run}).encode())
        run.go(asked["until"])
    except GenopactError as error:
        if not error.code.startswith("LINK_"):
            wanted.replace(wanted.with_name("failed"))
            durable.replace(wanted.with_name("failed"), error.code.encode())
        raise
    finally:
        folder.close()
    wanted.unlink()


def runs_of(folder: Folder, study_hash: str) -> list[dict[str, Any]]:
    """States of the study's runs, oldest first."""
    files = (folder.home / "runs").glob("*/state.json")
    ordered = sorted(files, key=lambda path: (path.parent / "pending").stat().st_ctime)
    states: list[dict[str, Any]] = [json.loads(path.read_bytes()) for path in ordered]
    return [state for state in states if state["study"] == study_hash]


def _wanted(folder: Folder, study_hash: str) -> Path:
    return folder.home / "studies" / study_hash / "wanted"


def _keep_submitting(folder: Folder, busy: threading.Event) -> None:
    """Submit wanted runs again that nobody carries out: after a kill of this process or of the link host."""
    idle = 0
    while True:
        time.sleep(1.0)
        wanted = list((folder.home / "studies").glob("*/wanted"))
        idle = 0 if busy.is_set() or not wanted else idle % RESUBMIT_AFTER_S + 1
        for each in wanted if idle == RESUBMIT_AFTER_S else ():
            try:
                study = folder.study(each.parent.name)
                with control(folder) as link:
                    link.submit(study.canonical, study.hash, folder.approvals(study))
            except GenopactError as error:
                _log.warning("resubmission_failed", code=error.code, study=each.parent.name)
