"""What an outsider, a member site and a coordinator may try against the link, over real HTTP and TLS."""

import base64
import hashlib
import importlib
import io
import ssl
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from genopact_client.link import bundle, fleet, nodekey
from genopact_client.link.fleet import Delivery, Fleet
from genopact_server.link import control, executor, runtime
from genopact_server.link.control import Control
from genopact_server.link.gate import CONTROL, FLEET, RUNTIME
from genopact_server.link.grid import GridCourier
from genopact_server.link.host import Host
from genopact_shared.errors import GenopactError
from tests.integration.federation import HASH, STUDY, Federation, federation

PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf"}


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("attacks")) as one:
        one.register("alpha", "beta", "outside")
        yield one


@pytest.fixture
def outsider(link: Federation) -> Iterator[httpx.Client]:
    """Someone who has the public certificate and nothing else."""
    context = ssl.create_default_context(cadata=link.root.decode())
    with httpx.Client(base_url=f"https://{link.address}", verify=context, headers=PROTOBUF) as client:
        yield client


# --- outsiders


@pytest.mark.parametrize("token", ["", "wrong", "operator"])
def test_no_run_and_no_node_without_a_token(link: Federation, token: str) -> None:
    with Control(link.address, link.root, token, link.config.membership) as someone:
        with pytest.raises(GenopactError, match="LINK_SIGN_IN"):
            someone.register_site("evil", nodekey.public_pem(nodekey.create(link.folder / f"evil-{token}.key")))
        with pytest.raises(GenopactError, match="LINK_SIGN_IN"):
            someone.submit(STUDY, "e" * 64, [])
    assert "evil" not in link.config.membership.registry().sites


@pytest.mark.parametrize("path", sorted(CONTROL))
def test_every_control_path_wants_a_token(outsider: httpx.Client, path: str) -> None:
    assert outsider.post(path).status_code == 401


@pytest.mark.parametrize("path", sorted(FLEET))
def test_every_fleet_path_wants_the_key_of_a_site_and_its_signature(
    link: Federation, outsider: httpx.Client, path: str
) -> None:
    stranger = nodekey.public_pem(nodekey.create(link.folder / f"{path.rpartition('/')[2]}.key"))
    member = nodekey.public_pem(nodekey.load(link.folder / "alpha.key"))
    assert outsider.post(path).status_code == 401
    for pem in (stranger, member):
        headers = {"flwr-public-key": base64.b64encode(pem).decode()}
        assert outsider.post(path, headers=headers).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        *("/docs", "/openapi.json", "/health", "/", "/redoc", "/v1/fleet/register-node", "/v1/fleet/unregister-node"),
        *("/v1/control/stream-logs", "/v1/control/get-auth-tokens", "/v1/control/start-automation"),
        *("/v1/control/start-run/", "//v1/control/start-run", "/v1/control/../runtime/acquire-task", "/v1/responses"),
        *sorted(RUNTIME),
    ],
)
def test_the_public_port_has_nothing_else(outsider: httpx.Client, path: str) -> None:
    for method in ("GET", "POST"):
        answer = outsider.request(method, path)
        assert (answer.status_code, answer.content) == (404, b"")


def test_the_loopback_port_has_the_runtime_api_only_and_wants_the_secret(link: Federation) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{link.host.runtime_port}", headers=PROTOBUF) as client:
        for path in ("/docs", "/openapi.json", "/v1/runtime/responses", *sorted(CONTROL | FLEET)):
            assert client.post(path).status_code == 404
        for path in sorted(RUNTIME):
            assert client.post(path).status_code == 401


def test_acquire_task_without_the_secret_steals_no_run(link: Federation) -> None:
    with link.control() as operator:
        run_id = operator.submit(STUDY, HASH, ["alpha", "beta"])
        address = f"127.0.0.1:{link.host.runtime_port}"
        body = AcquireTaskRequest(supported_task_types={TaskType.SERVER_APP}).SerializeToString()
        url = f"http://{address}/v1/runtime/acquire-task"
        assert httpx.post(url, content=body, headers=PROTOBUF).status_code == 401
        with pytest.raises(GenopactError, match="LINK_SIGN_IN"):
            runtime.acquire(address, b"x" * 32)
        with pytest.raises(GenopactError, match="LINK_SIGN_IN"):
            executor.serve(executor.ExecutorConfig(address, b"x" * 32, link.config.membership), lambda *_: None)
        assert operator.status(run_id) == "pending"
        assert runtime.acquire(address, link.config.secret) is not None
        operator.stop(run_id)


def test_bodies_are_limited_before_they_are_read(link: Federation) -> None:
    pem = nodekey.public_pem(nodekey.load(link.folder / "alpha.key"))
    context = ssl.create_default_context(cadata=link.root.decode())
    for path, header, status in (
        ("/v1/fleet/push-object", ("content-length", str(1 << 30)), 413),
        ("/v1/fleet/push-messages", ("content-length", str(1 << 24)), 413),
        ("/v1/fleet/push-object", ("transfer-encoding", "chunked"), 411),
    ):
        with closing(HTTPSConnection(link.address, context=context, timeout=10)) as connection:
            connection.putrequest("POST", path)
            connection.putheader("flwr-public-key", base64.b64encode(pem).decode())
            connection.putheader(*header)
            connection.endheaders()  # and no body: the answer must not wait for it
            assert connection.getresponse().status == status


def test_the_runtime_api_cannot_be_opened_to_the_network(link: Federation) -> None:
    """No setting names its interface: with the link on every interface it stays on loopback."""
    settings = link.config._replace(state=link.folder / "other", host="0.0.0.0", port=0, runtime_port=0)
    sockets = Host(settings)._sockets
    assert [one.getsockname()[0] for one in sockets] == ["0.0.0.0", "127.0.0.1"]
    for one in sockets:
        one.close()


def test_a_link_without_its_certificate_does_not_start(link: Federation) -> None:
    with pytest.raises(GenopactError, match="LINK_CONFIG"):
        Host(link.config._replace(state=link.folder / "other", private_key=link.folder / "none.key"))


def test_secrets_for_loopback_do_not_go_to_a_proxy(link: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert runtime.acquire(f"127.0.0.1:{link.host.runtime_port}", link.config.secret) is None


# --- accounts


def test_an_observer_commands_nothing_and_a_removed_operator_is_out_at_once(link: Federation) -> None:
    observer, former = link.config.accounts.add("eve", "observer"), link.config.accounts.add("old", "operator")
    pem = nodekey.public_pem(nodekey.create(link.folder / "eve.key"))
    with link.control(former) as operator:
        assert operator.sites()
    link.config.accounts.remove("old")
    for token, code in ((observer, "LINK_REFUSED"), (former, "LINK_SIGN_IN")):
        with link.control(token) as someone:
            with pytest.raises(GenopactError, match=code):
                someone.register_site("evil", pem)
            with pytest.raises(GenopactError, match=code):
                someone.submit(STUDY, HASH, ["alpha", "beta"])


def test_tokens_and_secrets_do_not_rest_readable(link: Federation) -> None:
    text = (link.config.state / "accounts.json").read_text()
    assert link.token not in text
    for name in ("accounts.json", "members.json", "runtime.secret"):
        assert (link.config.state / name).stat().st_mode & 0o077 == 0


# --- a coordinator that sends code


def fab(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


GOOD = members(control.bundle(STUDY))
PROJECT = GOOD["pyproject.toml"].decode()


def test_our_own_bundle_is_admitted() -> None:
    content = control.bundle(STUDY)
    assert control.bundle(STUDY) == content
    bundle.check(content, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    "files",
    [
        {**GOOD, "genopact_client/__init__.py": b""},
        {**GOOD, "genopact_client/app.py": b"import os"},
        {**GOOD, "sitecustomize.py": b""},
        {**GOOD, "policies/../genopact_client.yaml": b""},
        {**GOOD, "policies/sub/x.yaml": b""},
        {**GOOD, "/policies/x.yaml": b""},
        {**GOOD, "policies/x.yaml\n.py": b""},
        {**GOOD, "policies/x.pth": b""},
        {**GOOD, "policies/big.yaml": b"\0" * (2 << 20)},
        {name: data for name, data in GOOD.items() if name != "pyproject.toml"},
        {**GOOD, "pyproject.toml": b"\xff"},
        {**GOOD, "pyproject.toml": b"x = ["},
        {**GOOD, "pyproject.toml": PROJECT.replace("genopact_client.app:app", "genopact_client.other:app").encode()},
        {**GOOD, "pyproject.toml": PROJECT.replace("genopact_server.app:app", "os:system").encode()},
        {**GOOD, "pyproject.toml": (PROJECT + 'agentapp = "x:y"\n').encode()},
        {**GOOD, "pyproject.toml": (PROJECT + "[build-system]\nrequires = []\n").encode()},
        {**GOOD, "pyproject.toml": (PROJECT + "[tool.flwr.app.config]\nx = 1\n").encode()},
        {**GOOD, "pyproject.toml": PROJECT.replace("version =", 'dependencies = ["evil"]\nversion =').encode()},
    ],
)
def test_any_other_bundle_is_refused(files: dict[str, bytes]) -> None:
    content = fab(files)
    with pytest.raises(GenopactError, match="BUNDLE_HAS_CODE"):
        bundle.check(content, hashlib.sha256(content).hexdigest())


def test_a_bundle_with_another_hash_or_no_zip_is_refused() -> None:
    content = control.bundle(STUDY)
    with pytest.raises(GenopactError, match="BUNDLE_HAS_CODE"):
        bundle.check(content, "0" * 64)
    with pytest.raises(GenopactError, match="BUNDLE_HAS_CODE"):
        bundle.check(content[:-30], hashlib.sha256(content[:-30]).hexdigest())


def test_a_repeated_name_is_refused() -> None:
    buffer = io.BytesIO(control.bundle(STUDY))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("pyproject.toml", PROJECT)
    content = buffer.getvalue()
    with pytest.raises(GenopactError, match="BUNDLE_HAS_CODE"):
        bundle.check(content, hashlib.sha256(content).hexdigest())


def execute(link: Federation, content: bytes, main: Callable[[GridCourier], None]) -> None:
    """Submit a bundle past our own `submit`, as a coordinator with its own tools could, and execute its run."""
    stop = Event()

    def once(courier: GridCourier, _: executor.RunInfo) -> None:
        stop.set()
        main(courier)

    with link.control() as operator:
        operator._membership.set_study(HASH, ["alpha", "beta"])
        whole = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        run_id = operator._client.StartRun(StartRunRequest(fab=whole, federation=HASH)).run_id
        settings = executor.ExecutorConfig(
            f"127.0.0.1:{link.host.runtime_port}", link.config.secret, link.config.membership, 0.1
        )
        executor.serve(settings, once, stop)
        assert operator.status(run_id) == "completed"


def test_a_shadowing_module_is_refused_by_the_node_and_nothing_of_it_runs(
    link: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = link.folder / "pwned"
    evil = f"import pathlib; pathlib.Path({str(marker)!r}).touch()\n".encode()
    shadow = {"genopact_client/__init__.py": evil, "genopact_client/app.py": evil, "genopact_server/app.py": evil}
    asked: list[bytes] = []

    def main(courier: GridCourier) -> None:
        began = time.monotonic()
        assert courier.exchange({"alpha": b"x"}, 20.0) == {}
        assert time.monotonic() - began < 20.0, "the site did not answer at all"

    before = set(sys.modules)
    with link.site("alpha", remember(asked)):
        wait_online(link, "alpha")
        execute(link, fab({**GOOD, **shadow}), main)
    assert "BUNDLE_HAS_CODE" in "".join(capsys.readouterr())  # whichever stream the log goes to
    assert asked == []
    assert not marker.exists()
    assert not any("pwned" in str(getattr(sys.modules[name], "__file__", "")) for name in set(sys.modules) - before)
    assert not str(importlib.import_module("genopact_client").__file__).startswith(str(link.folder))


def remember(asked: list[bytes]) -> Callable[[bytes], bytes]:
    def handler(request: bytes) -> bytes:
        asked.append(request)
        return b"trained"

    return handler


def wait_online(link: Federation, *names: str) -> None:
    with link.control() as operator:
        end = time.monotonic() + 20
        while {name for name, online in operator.sites().items() if online} < set(names):
            assert time.monotonic() < end
            time.sleep(0.05)


# --- studies


def test_a_site_outside_the_study_is_sent_nothing_even_if_the_coordinator_tries(link: Federation) -> None:
    asked: list[bytes] = []

    def main(courier: GridCourier) -> None:
        assert courier.exchange({"alpha": b"x", "outside": b"x"}, 20.0) == {"alpha": b"ok"}
        everybody = {name: site.node_id for name, site in link.config.membership.registry().sites.items()}
        forced = GridCourier(courier._grid, lambda: everybody)
        assert forced.exchange({"outside": b"x"}, 2.0) == {}
        assert courier._grid.get_node_ids() == [everybody["alpha"]]  # type: ignore[attr-defined]

    with link.site("alpha", lambda _: b"ok"), link.site("outside", remember(asked)):
        wait_online(link, "alpha", "outside")
        execute(link, control.bundle(STUDY), main)
    assert asked == []


def test_a_run_for_an_unknown_study_is_refused(link: Federation) -> None:
    content = control.bundle(STUDY)
    with link.control() as operator, pytest.raises(httpx.HTTPStatusError, match=r"40[34]"):
        operator._client.StartRun(
            StartRunRequest(fab=Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content), federation="f" * 64)
        )


# --- member sites


def hostile(link: Federation, act: Callable[[Fleet, Delivery], None]) -> dict[str, bytes]:
    """One exchange with alpha, which is honest, and beta, whose node receives its request and then does `act`."""
    replies: dict[str, bytes] = {}
    key = nodekey.load(link.folder / "beta.key")

    def main(courier: GridCourier) -> None:
        replies.update(courier.exchange({"alpha": b"x", "beta": b"x"}, 4.0))

    with (
        link.site("alpha", lambda _: b"honest"),
        Fleet(link.address, link.root, key, link.folder / "beta.node") as node,
    ):
        node.activate()

        def work() -> None:
            while (delivery := node.receive()) is None:
                time.sleep(0.05)
            act(node, delivery)

        thread = Thread(target=work)
        wait_online(link, "alpha", "beta")
        thread.start()
        execute(link, control.bundle(STUDY), main)
        thread.join()
    return replies


def test_a_site_cannot_reply_for_another(link: Federation) -> None:
    seen: list[Exception] = []

    def forge(node: Fleet, delivery: Delivery) -> None:
        number = link.config.membership.registry().sites["alpha"].node_id
        reply = Message(RecordDict({"genopact": ConfigRecord({"envelope": b"forged"})}), reply_to=delivery.message)
        reply.metadata.__dict__["_src_node_id"] = number
        reply.metadata.__dict__["_message_id"] = reply.object_id
        request = PushMessagesRequest(
            node=node._node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )
        with pytest.raises(httpx.HTTPStatusError) as error:
            node._client.PushMessages(request)
        seen.append(error.value)

    assert hostile(link, forge) == {"alpha": b"honest"}
    assert "401" in str(seen[0])


@pytest.mark.parametrize(
    "content",
    [
        {"genopact": ConfigRecord({"envelope": b"x", "num-examples": 3})},
        {"genopact": ConfigRecord({"envelope": b"x"}), "metrics": ConfigRecord({"loss": 0.5})},
        {"genopact": ConfigRecord({"envelope": "text"})},
        {"genopact": MetricRecord({"loss": 0.5})},
        {},
    ],
)
def test_a_reply_with_anything_beside_the_envelope_does_not_count(
    link: Federation, content: dict[str, ConfigRecord | MetricRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply_to(message: Message, envelope: bytes) -> Message:
        honest = {"genopact": ConfigRecord({"envelope": envelope})}
        return Message(RecordDict({**(content if envelope == b"hostile" else honest)}), reply_to=message)

    monkeypatch.setattr(fleet, "reply_to", reply_to)
    assert hostile(link, lambda node, delivery: node.reply(delivery, b"hostile")) == {"alpha": b"honest"}


def test_an_upload_that_never_ends_holds_nobody_up(link: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    def announce(node: Fleet, delivery: Delivery) -> None:
        node._push = lambda *_: None  # type: ignore[method-assign]
        node.reply(delivery, b"never")

    assert hostile(link, announce) == {"alpha": b"honest"}


def test_a_node_cannot_use_the_number_of_another(link: Federation) -> None:
    key = nodekey.load(link.folder / "beta.key")
    with closing(Fleet(link.address, link.root, key, link.folder / "n.node")._client) as client:
        request = ActivateNodeRequest(
            public_key=nodekey.public_pem(nodekey.load(link.folder / "alpha.key")), heartbeat_interval=30
        )
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            client.ActivateNode(request)
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            client.PushMessages(PushMessagesRequest(node=Node(node_id=1)))


# --- keys


def test_a_node_key_is_private_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    pem = nodekey.public_pem(nodekey.create(path))
    assert path.stat().st_mode & 0o077 == 0
    assert nodekey.public_pem(nodekey.load(path)) == pem
    with pytest.raises(FileExistsError):
        nodekey.create(path)
    path.chmod(0o640)
    with pytest.raises(GenopactError, match="KEY_EXPOSED"):
        nodekey.load(path)
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(GenopactError, match="KEY_INVALID"):
        nodekey.load(path)
    with pytest.raises(GenopactError, match="KEY_MISSING"):
        nodekey.load(tmp_path / "none")
