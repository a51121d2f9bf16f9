"""The doctor finds each seeded fault, names the right remedy for it, and finds nothing else."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from genopact_client.agent.socket import serve
from genopact_client.doctor import CHECKS
from genopact_client.site import Site
from genopact_shared import statements
from genopact_shared.errors import CATALOGUE
from genopact_shared.privacy.mechanisms import NoisedSum
from tests.integration import front_desk
from tests.integration.front_desk import PASSPHRASE, Desk

FACT = NoisedSum(noise_multiplier="0.5", clip="1", scale=1024, dims=13, honest_minimum=2)
Checks = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    desk = front_desk.ready(tmp_path_factory.mktemp("desk"))
    assert desk.approve().exit == 0
    return desk


@pytest.fixture
def desk(template: Desk, tmp_path: Path) -> Desk:
    return template.copied(tmp_path / "d")


@contextmanager
def coordinator(folder: Path) -> Iterator[tuple[str, Path]]:
    """A TLS server that shakes hands; its address and its authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def answer(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", folder / "ca.pem"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def opened(desk: Desk) -> Site:
    return Site.open(desk.home, PASSPHRASE.encode())


def examined(desk: Desk, *words: str | Path) -> tuple[int, Checks]:
    done = desk("doctor", *words)
    return done.exit, {check["name"]: check for check in done.data["checks"]}


def test_a_healthy_site_has_no_problem_and_says_what_it_cannot_tell(desk: Desk) -> None:
    ended, checks = examined(desk)
    assert list(checks) == list(CHECKS)
    assert {name for name, check in checks.items() if check["state"] != "ok"} == {"coordinator", "agent"}
    assert ended == 1, "the study's coordinator does not run here"
    assert checks["coordinator"]["state"] == "problem"
    assert checks["agent"]["state"] == "unknown"
    assert all(check["remedy"] for check in checks.values() if check["state"] != "ok")


def test_with_agent_and_coordinator_everything_is_well(desk: Desk, tmp_path: Path) -> None:
    site = opened(desk)
    rooms = (site.store, site.ledger, site.log, site.private_log)
    server = serve(desk.home / "run" / "agent.sock", lambda _: b"", b'{"site":"site-a"}')
    try:
        with coordinator(tmp_path) as (address, authority):
            ended, checks = examined(desk, "--address", address, "--ca", authority)
    finally:
        server.stop(None).wait()
        for room in rooms:
            room.close()
    assert (ended, {check["state"] for check in checks.values()}) == (0, {"ok"})
    assert checks["store"]["detail"] == "held by the agent, which answers"


def _exposed_store(desk: Desk) -> None:
    (desk.home / "store").chmod(0o755)


def _open_home(desk: Desk) -> None:
    desk.home.chmod(0o755)


def _exposed_node_key(desk: Desk) -> None:
    (desk.home / "link" / "node.key").chmod(0o640)


def _node_key_gone(desk: Desk) -> None:
    (desk.home / "link" / "node.key").unlink()


def _approver_inside(desk: Desk) -> None:
    (desk.folder / "site-a.approver.key").rename(desk.home / "mine.key")


def _identity_gone(desk: Desk) -> None:
    (desk.home / "keys" / "identity").unlink()


def _keyfile_cut(desk: Desk) -> None:
    path = desk.home / "keyfile"
    path.write_bytes(path.read_bytes()[:-8])


def _policy_example(desk: Desk) -> None:
    path = desk.home / "policy.yaml"
    path.write_text(path.read_text().replace("- expect: permit", "- expect: deny"))


def _policy_gone(desk: Desk) -> None:
    (desk.home / "policy.yaml").unlink()


def _policy_of_another(desk: Desk) -> None:
    path = desk.home / "policy.yaml"
    path.write_text(path.read_text().replace("site: site-a", "site: site-b"))


def _no_consents(desk: Desk) -> None:
    for path in desk.home.glob("consent.db*"):
        path.unlink()


def _store_gone(desk: Desk) -> None:
    (desk.home / "store" / "manifest.dsse").unlink()


def _records_cut(desk: Desk) -> None:
    path = next((desk.home / "store").glob("records.*"))
    path.write_bytes(path.read_bytes()[:-1])


def _store_locked(desk: Desk) -> Site:
    site = opened(desk)
    assert site.store.manifest()
    return site


def _ledger_gone(desk: Desk) -> None:
    (desk.home / "ledger").unlink()


def _ledger_changed(desk: Desk) -> None:
    path = desk.home / "ledger"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def _ledger_put_back(desk: Desk) -> None:
    """The ledger of before a round whose intent is in the log."""
    before, site = (desk.home / "ledger").read_bytes(), opened(desk)
    site.ledger.reserve("5" * 64, "6" * 32, 0, 0, FACT, np.arange(5), 20_000)
    _intend(site, int(time.time()))
    site.ledger.close()
    (desk.home / "ledger").write_bytes(before)


def _log_changed(desk: Desk) -> None:
    site = opened(desk)
    _intend(site, int(time.time()))
    path = desk.home / "log" / "entries"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def _clock_behind(desk: Desk) -> None:
    _intend(opened(desk), int(time.time()) + 86_400)


def _study_changed(desk: Desk) -> None:
    path = next((desk.home / "studies").glob("*/study.json"))
    path.write_bytes(path.read_bytes().replace(b"Weekly", b"Daily "))


def _budget_spent(desk: Desk) -> None:
    site = opened(desk)
    site.ledger.reserve("5" * 64, "6" * 32, 0, 0, FACT, np.arange(120), 20_000)
    site.ledger.close()


def _socket_left_behind(desk: Desk) -> None:
    (desk.home / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(desk.home / "run" / "agent.sock"))


def _intend(site: Site, at: int) -> None:
    intent = statements.Intent(
        at=at, study="5" * 64, run="6" * 32, round=0, attempt=0, step="a", request="7" * 64, site=site.name,
        decision_root="8" * 64, ledger_root=site.ledger.head, model_in="9" * 64, mechanism=FACT, nonce="a" * 32,
    )  # fmt: skip
    site.log.append(statements.sign(intent, site.identity))
    site.log.checkpoint()
    for room in (site.log, site.ledger):
        room.close()


@pytest.mark.parametrize(
    ("seed", "check", "expected"),
    [
        (_exposed_store, "folder", "chmod"),
        (_open_home, "folder", "chmod"),
        (_exposed_node_key, "node-key", "KEY_EXPOSED"),
        (_node_key_gone, "node-key", "KEY_MISSING"),
        (_approver_inside, "approver-key", "offline"),
        (_identity_gone, "keys", "KEY_MISSING"),
        (_policy_example, "policy", "POLICY_EXAMPLE_FAILS"),
        (_policy_gone, "policy", "POLICY_UNREADABLE"),
        (_policy_of_another, "policy", "POLICY_INVALID"),
        (_no_consents, "consent", "genopact-site consent import"),
        (_store_gone, "store", "STORE_MISSING"),
        (_records_cut, "store", "STORE_INVALID"),
        (_ledger_gone, "ledger", "LEDGER_MISSING"),
        (_ledger_changed, "ledger", "LEDGER_BROKEN"),
        (_ledger_put_back, "ledger-roots", "LEDGER_ROLLED_BACK"),
        (_log_changed, "logs", "LOG_BROKEN"),
        (_clock_behind, "clock", "Set the clock"),
        (_study_changed, "studies", "APPROVAL_INVALID"),
        (_budget_spent, "budget", "Leave the study"),
        (_socket_left_behind, "agent", CATALOGUE["AGENT_UNREACHABLE"].remedy),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_seeded_fault_is_found_with_its_remedy(
    seed: Callable[[Desk], Any], check: str, expected: str, desk: Desk
) -> None:
    seed(desk)
    ended, checks = examined(desk)
    found = checks[check]
    assert (ended, found["state"]) == (1, "problem")
    if expected in CATALOGUE:
        assert (found["code"], found["remedy"]) == (expected, CATALOGUE[expected].remedy)
    else:
        assert expected in found["remedy"]


def test_a_store_that_somebody_holds_without_an_agent(desk: Desk) -> None:
    site = _store_locked(desk)
    try:
        _, checks = examined(desk)
    finally:
        site.store.close()
    assert checks["store"]["state"] == "unknown"


def test_a_fault_without_a_name_is_a_problem_too(desk: Desk) -> None:
    (desk.home / "people.db").write_bytes(b"not a database" * 400)
    ended, checks = examined(desk)
    assert (ended, list(checks)) == (1, list(CHECKS))
    assert checks["consent"]["code"] == "INTERNAL"


def test_a_damaged_key_file_does_not_stop_the_other_checks(desk: Desk) -> None:
    _keyfile_cut(desk)
    ended, checks = examined(desk)
    assert (ended, list(checks)) == (1, list(CHECKS))
    assert checks["keys"]["code"] == "KEYFILE_INVALID"
    assert checks["policy"]["state"] == "ok"


def test_the_coordinator_is_told_from_a_firewall_and_from_a_stranger(desk: Desk, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    _, checks = examined(desk, "--address", f"127.0.0.1:{port}")
    assert "outgoing TCP" in checks["coordinator"]["remedy"]
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with coordinator(tmp_path) as (address, _):
        _, stranger = examined(desk, "--address", address, "--ca", tmp_path / "other.pem")
        _, unnamed = examined(desk, "--address", address)
    assert "--ca" in stranger["coordinator"]["remedy"]
    assert (stranger["coordinator"]["state"], unnamed["coordinator"]["state"]) == ("problem", "unknown")
    _, checks = examined(desk, "--address", "127.0.0.1:1", "--ca", tmp_path / "none.pem")
    assert "authority's file" in checks["coordinator"]["remedy"]
    _, checks = examined(desk, "--address", "nonsense")
    assert checks["coordinator"]["state"] == "problem"


def test_two_distributions_are_a_problem(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("genopact", "genopact_client"):
        folder = tmp_path / "both" / f"{name}-9.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9\n")
    monkeypatch.syspath_prepend(tmp_path / "both")
    _, checks = examined(desk)
    assert checks["installation"]["code"] == "DISTS_MIXED"


def test_a_full_disk_is_a_problem(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genopact_client.doctor.FREE_BYTES", 1 << 62)
    _, checks = examined(desk)
    assert checks["disk"]["state"] == "problem"
