"""agent, link and start: the site's processes; doctor: problem and solution, line by line."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import structlog
import typer

from genopact_client.commands.opening import HOME, Home, OneStudy, PassphraseFile, opened, passphrase
from genopact_client.doctor import Subject, examine
from genopact_client.installed import refuse_mixed
from genopact_client.site import Site
from genopact_shared.study import load_study
from genopact_shared.supervise import stopping, supervise
from genopact_shared.terminal import Answer, Exit, command, configure_logging, working

Address = Annotated[str, typer.Option("--address", envvar="GENOPACT_ADDRESS", help="host:port of the coordinator.")]
Roots = Annotated[Path, typer.Option("--ca", envvar="GENOPACT_CA", help="The coordinator's authority, PEM.")]
NodeKey = Annotated[Path | None, typer.Option(help="Default: link/node.key in the site's folder.")]
OneAddress = Annotated[str | None, typer.Option(help="host:port of the coordinator; default: of the studies.")]
OneRoots = Annotated[Path | None, typer.Option(help="The coordinator's authority, PEM.", envvar="GENOPACT_CA")]
Socket = Annotated[Path | None, typer.Option(help="Default: run/agent.sock in the site's folder.")]

app = typer.Typer()
_log = structlog.get_logger()


@command(app, "agent", example="genopact-site agent --home /srv/genopact", room=opened)
def agent(site: Site, *, socket: Socket = None) -> Answer:
    """Run the agent in the foreground: data, keys and ledger, and no network. SIGTERM ends it."""
    from genopact_client.agent.process import run

    configure_logging()
    refuse_mixed()
    with stopping() as stop:
        run(site, socket or site.home / "run" / "agent.sock", stop)
    return Answer()


@command(app, "link", example="genopact-site link --address coordinator.example:9443 --ca ca.pem")
def link(*, address: Address, ca: Roots, node_key: NodeKey = None, socket: Socket = None, home: Home = HOME) -> Answer:
    """Run the link in the foreground: network, and no data. SIGTERM ends it."""
    from genopact_client.link.node import NodeConfig, run

    configure_logging()
    refuse_mixed()
    key, path = node_key or home / "link" / "node.key", socket or home / "run" / "agent.sock"
    with stopping() as stop:
        run(NodeConfig(address, ca, key, path), stop)
    return Answer()


@command(app, "start", example="genopact-site start --address coordinator.example:9443 --ca ca.pem")
def start(*, address: Address, ca: Roots, home: Home = HOME, passphrase_file: PassphraseFile = None) -> Answer:
    """Run agent and link as two processes that are started again when they die. SIGTERM ends both.

    Both run under this account. Where the system allows it, the agent starts in a network namespace of its own, without
    any interface; for a store of patients use the systemd units, which also keep the link out of the site's folder.
    """
    configure_logging()
    refuse_mixed()
    secret = passphrase(passphrase_file)
    Site.open(home, secret)  # a wrong passphrase is told at once, not again and again by a child
    base = (sys.executable, "-m", "genopact_client.cli")
    with in_memory(secret) as path:
        agent = (*without_network(), *base, "agent", "--home", str(home), "--passphrase-file", str(path))
        link = (*base, "link", "--home", str(home), "--address", address, "--ca", str(ca))
        supervise({"agent": agent, "link": link})
    return Answer()


@command(app, "doctor", example="genopact-site doctor --address coordinator.example:9443 --ca ca.pem", room=opened)
def doctor(site: Site, *, study: OneStudy = None, address: OneAddress = None, ca: OneRoots = None) -> Answer:
    """Examine the site; each problem comes with its solution. Exit 1 if there is one."""
    with working("Examining"):
        checks = list(examine(Subject(site, load_study(study) if study else None, address, ca)))
    text = []
    for each in checks:
        text.append(f"{each.state:8} {each.name:14} {each.detail}")
        text += [f"{'':23} -> {each.remedy}"] if each.remedy else []
    problems = [each.name for each in checks if each.state == "problem"]
    data = {"checks": [each._asdict() for each in checks], "problems": problems}
    return Answer(data, text, exit=Exit.REFUSED if problems else Exit.OK)


def without_network() -> tuple[str, ...]:
    """The command that starts another in an empty network namespace; nothing, and a warning, where that is denied."""
    prefix = ("unshare", "--net")
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix
    _log.warning("agent_keeps_network")
    return ()


@contextmanager
def in_memory(secret: bytes) -> Iterator[Path]:
    """A file that is on no disk and that only this account can read; it ends with this process."""
    with os.fdopen(os.memfd_create("passphrase"), "wb", buffering=0) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(secret)
        yield Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
