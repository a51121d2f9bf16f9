"""Agent and link as processes: locks, no network, kills, and a supervisor that brings either back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from genopact_client.commands.serve import without_network
from genopact_client.link.socket import AgentChannel
from genopact_client.site import Site
from genopact_server.link.grid import GridCourier
from genopact_shared import canonical, statements, wire
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.study import Study, load_study
from genopact_shared.wire import Reply, Request
from tests.integration import front_desk
from tests.integration.federation import Federation, federation
from tests.integration.front_desk import PASSPHRASE, Desk
from tests.integration.processes import ENVIRONMENT

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("default::ResourceWarning")]
RUN = "6" * 32


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, SigningKey]:
    """A site that has approved a study of a coordinator whose key the test holds."""
    desk, key = front_desk.ready(tmp_path_factory.mktemp("desk")), SigningKey.generate()
    hub = {"name": "hub", "identity": key.public.hex, "log": SigningKey.generate().public.hex, "address": "127.0.0.1:1"}
    card = {k: v for k, v in json.loads((desk.home / "party.json").read_text()).items() if k != "node"}
    privacy = {"mode": "local", "epsilon_milli": 1000, "delta": "0.000001", "honest_minimum": 1}
    done = desk.approve(coordinator=hub, parties=[card], privacy=privacy, schedule={"quorum": 1, "deadline_s": 20})
    assert done.exit == 0, done.printed
    return desk, key


@pytest.fixture
def desk(template: tuple[Desk, SigningKey], tmp_path: Path) -> Desk:
    return template[0].copied(tmp_path / "d")


@pytest.fixture
def coordinator(template: tuple[Desk, SigningKey]) -> SigningKey:
    return template[1]


@contextmanager
def process(desk: Desk, *words: str | Path, keys: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    common = desk.common if keys else desk.common[:2]
    with (desk.folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "genopact_client.cli", *map(str, words), *common]
        running = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
    return found


def health(desk: Desk) -> bytes:
    try:
        with AgentChannel(desk.home / "run" / "agent.sock") as channel:
            return channel.health(1.0)
    except GenopactError:
        return b""


def ask(desk: Desk, frame: bytes) -> bytes:
    with AgentChannel(desk.home / "run" / "agent.sock") as channel:
        return channel.exchange(frame, 30.0)


def approved(desk: Desk) -> tuple[Study, str]:
    envelope = next((desk.home / "studies").glob("*/approval.json")).read_bytes().decode()
    return load_study(desk.folder / "study.yaml"), envelope


def request(desk: Desk, key: SigningKey, op: str, attempt: int, **more: Any) -> bytes:
    study, _ = approved(desk)
    body = more.pop("content", b"")
    about = {"study": study.hash, "run": RUN, "round": 0, "attempt": attempt, "site": "site-a"}
    about |= {"op": op, "body": canonical.digest(body), "body_size": len(body), "nonce": os.urandom(16).hex()}
    return wire.seal(Request.model_validate({**about, "expires": int(time.time()) + 300, **more}), body, key)


def open_request(desk: Desk, key: SigningKey, attempt: int = 0) -> bytes:
    return request(desk, key, "open", attempt, approvals=(approved(desk)[1],))


def step_request(desk: Desk, key: SigningKey, opened: bytes, attempt: int = 0) -> bytes:
    from genopact_shared.plan import plan_of

    study, envelope = approved(desk)
    identity = Site.open(desk.home, PASSPHRASE.encode()).identity.public
    model = plan_of(study, {"site-a": statements_of(envelope, study)}).course.initial()
    wire.unseal(Reply, opened, identity)
    seat = wire.split(opened)[0].decode()
    return request(desk, key, "step", attempt, seats=(seat,), content=wire.pack(model))


def statements_of(envelope: str, study: Study) -> int:
    from genopact_shared.approval import check_approval

    return check_approval(envelope.encode(), study).planned_cohort


def sockets(pid: int) -> set[str]:
    links = Path(f"/proc/{pid}/fd").iterdir()
    targets = (str(link.readlink()) for link in links if link.is_symlink())
    return {target[8:-1] for target in targets if target.startswith("socket:")}


def network(pid: int) -> set[str]:
    """Inodes of the process's TCP, UDP and raw sockets."""
    inodes: set[str] = set()
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        path = Path(f"/proc/{pid}/net/{table}")
        if path.exists():
            inodes |= {line.split()[9] for line in path.read_text().splitlines()[1:]}
    return inodes & sockets(pid)


def children(pid: int) -> dict[str, int]:
    """Name of the command -> pid of the direct children."""
    found: dict[str, int] = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        found |= {word.decode(): int(child) for word in words if word in (b"agent", b"link")}
    return found


def test_the_agent_answers_and_has_no_network(desk: Desk, coordinator: SigningKey) -> None:
    with process(desk, "agent") as agent:
        assert json.loads(wait_for(lambda: health(desk)))["site"] == "site-a"
        assert ask(desk, b"nonsense") == b""
        opened = ask(desk, open_request(desk, coordinator))
        assert opened
        assert ask(desk, step_request(desk, coordinator, opened))
        assert sockets(agent.pid), "it has its unix socket"
        assert network(agent.pid) == set()
    assert agent.returncode == 0
    assert not (desk.home / "run" / "agent.sock").exists()
    log = (desk.folder / "log").read_text()
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["agent_ready", "refused", "agent_stopped"]
    assert not any(row["person"] in log for row in desk.rows("consent.csv"))
    assert str(desk.folder) not in log


def test_the_watch_on_network_sockets_sees_one(tmp_path: Path) -> None:
    """The test above can fail."""
    import socket

    with socket.create_server(("127.0.0.1", 0)):
        assert network(os.getpid())


def test_a_second_agent_is_refused_and_the_first_goes_on(desk: Desk, coordinator: SigningKey) -> None:
    with process(desk, "agent"):
        wait_for(lambda: health(desk))
        second = desk("agent")
        assert (second.exit, second.code) == (3, "STORE_LOCKED")
        assert "Stop the agent" in second.data["remedy"]
        assert ask(desk, open_request(desk, coordinator))


@pytest.mark.parametrize("code", ["LEDGER_LOCKED", "LOG_LOCKED"])
def test_each_room_has_one_holder(code: str, desk: Desk) -> None:
    site = Site.open(desk.home, PASSPHRASE.encode())
    room = site.ledger if code == "LEDGER_LOCKED" else site.log
    try:
        done = desk("agent")
    finally:
        room.close()
    assert (done.exit, done.code) == (3, code)
    assert not (desk.home / "run").exists()


def test_a_broken_policy_keeps_the_agent_from_starting(desk: Desk) -> None:
    (desk.home / "policy.yaml").write_text("schema: other")
    done = desk("agent")
    assert (done.exit, done.code) == (2, "POLICY_INVALID")


def test_a_killed_agent_comes_back_with_every_charge(desk: Desk, coordinator: SigningKey) -> None:
    with process(desk, "agent") as agent:
        wait_for(lambda: health(desk))
        step = step_request(desk, coordinator, ask(desk, open_request(desk, coordinator)))
        reply = ask(desk, step)
        assert reply
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    assert (desk.home / "run" / "agent.sock").exists(), "a killed agent leaves its socket behind"
    with process(desk, "agent"):
        wait_for(lambda: health(desk))
        assert ask(desk, step) == reply, "the stored bytes, not a second release"
        assert ask(desk, step_request(desk, coordinator, ask(desk, open_request(desk, coordinator, 1)), 1)) != reply
        levels = desk("ledger", "show").data["levels"]
    assert sum(fact["times"] for fact in levels[0]["facts"]) == 2
    kinds = [entry["kind"] for entry in desk("log", "show").data["entries"]]
    assert kinds == ["approval", "intent", "receipt", "intent", "receipt"]
    assert desk("doctor").data["problems"] == ["coordinator"]


def test_what_a_crash_cut_off_is_put_on_record(desk: Desk) -> None:
    site = Site.open(desk.home, PASSPHRASE.encode())
    site.log.append(statements.sign(statements.RegistryRoot(at=1, site="site-a", root="5" * 64), site.identity))
    site.log.close()
    with (desk.home / "log" / "entries").open("ab") as file:
        file.write(b"\x01\x00torn")
    with process(desk, "agent"):
        wait_for(lambda: health(desk))
    entries = desk("log", "show", "--private").data["entries"]
    assert [(each["kind"], each["code"]) for each in entries] == [("incident", "LOG_CUT")]


def test_the_supervisor_brings_back_agent_and_link(desk: Desk, coordinator: SigningKey, tmp_path: Path) -> None:
    """Through TLS and back: `start`, both children killed one after the other, and again."""
    folder = tmp_path / "f"
    folder.mkdir()
    with federation(folder) as fed:
        with fed.control() as control:
            pem = json.loads((desk.home / "party.json").read_text())["node"].encode()
            control.register_site("site-a", pem)
        start = ("start", "--address", fed.address, "--ca", folder / "ca.pem")
        with process(desk, *start) as supervisor:
            assert carried(fed, desk, open_request(desk, coordinator, 0))
            first = wait_for(lambda: children(supervisor.pid) if len(children(supervisor.pid)) == 2 else None)
            assert network(first["agent"]) == set()
            own, agents = (Path(f"/proc/{pid}/ns/net").readlink() for pid in ("self", first["agent"]))
            assert (own != agents) == bool(without_network()), "an empty namespace where the system allows one"
            assert network(first["link"])
            os.kill(first["agent"], signal.SIGKILL)
            assert carried(fed, desk, open_request(desk, coordinator, 1))
            second = wait_for(lambda: children(supervisor.pid) if len(children(supervisor.pid)) == 2 else None)
            assert second["link"] == first["link"], "one dies, the other goes on"
            os.kill(second["link"], signal.SIGKILL)
            assert carried(fed, desk, open_request(desk, coordinator, 2))
            third = wait_for(lambda: children(supervisor.pid) if len(children(supervisor.pid)) == 2 else None)
            assert third["agent"] == second["agent"]
        assert supervisor.returncode == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in third.values())
    assert PASSPHRASE not in (desk.folder / "log").read_text()


def carried(fed: Federation, desk: Desk, frame: bytes) -> bool:
    """Send a frame to the site until it is answered or half a minute is over."""
    study, replies = load_study(desk.folder / "study.yaml"), dict[str, bytes]()

    def main(courier: GridCourier) -> None:
        end = time.monotonic() + 45
        while not replies and time.monotonic() < end:
            replies.update({name: reply for name, reply in courier.exchange({"site-a": frame}, 15.0).items() if reply})

    fed.run(main, ("site-a",), study.hash)
    return bool(replies)


def test_start_tells_a_wrong_passphrase_at_once(desk: Desk) -> None:
    (desk.folder / "passphrase").write_text("another")
    done = desk("start", "--address", "127.0.0.1:1", "--ca", "ca.pem")
    assert (done.exit, done.code) == (1, "KEK_WRONG")


def test_a_link_without_its_key_or_certificate_is_refused(desk: Desk) -> None:
    done = desk("link", "--address", "127.0.0.1:1", "--ca", desk.folder / "none.pem", keys=False)
    assert done.code == "LINK_CONFIG"
    (desk.home / "link" / "node.key").chmod(0o644)
    assert desk("link", "--address", "127.0.0.1:1", "--ca", "x", keys=False).code == "KEY_EXPOSED"
