"""The contract with flwr 1.41: one exchange end to end over HTTP and TLS, in one process; handler = echo with a tag."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from flwr.app import Message

from genopact_client import app as client_app
from genopact_client.link import nodekey
from genopact_client.link.fleet import Fleet
from genopact_server.link.grid import GridCourier
from genopact_shared.channel import PIECE
from genopact_shared.errors import GenopactError
from tests.integration.federation import HASH, Federation, federation
from tests.integration.localgrid import LocalGrid

SITES = ("alpha", "beta", "gamma")


def tag(name: str) -> Callable[[bytes], bytes]:
    return lambda request: name.encode() + b":" + request


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("courier")) as one:
        one.register(*SITES, "delta")
        yield one


def exchange(
    link: Federation, handlers: Mapping[str, Callable[[bytes], bytes]], requests: Mapping[str, bytes]
) -> dict[str, bytes]:
    replies: dict[str, bytes] = {}
    with ExitStack() as sites:
        for name, handler in handlers.items():
            sites.enter_context(link.site(name, handler))
        wait_online(link, *handlers)
        assert link.run(lambda courier: replies.update(courier.exchange(requests, 20)), SITES) == "completed"
    return replies


def wait_online(link: Federation, *names: str) -> None:
    with link.control() as control:
        end = time.monotonic() + 20
        while {name for name, online in control.sites().items() if online} < set(names):
            assert time.monotonic() < end, "nodes did not come online"
            time.sleep(0.05)


def test_every_site_gets_its_own_bytes_and_answers_with_its_own(link: Federation) -> None:
    requests = {name: f"for {name}".encode() + bytes(range(256)) for name in SITES}
    replies = exchange(link, {name: tag(name) for name in SITES}, requests)
    assert replies == {name: name.encode() + b":" + requests[name] for name in SITES}


def test_large_envelopes_travel_in_pieces(link: Federation) -> None:
    request = bytes(range(256)) * (PIECE // 256) + b"and more"
    assert exchange(link, {"alpha": tag("alpha")}, {"alpha": request}) == {"alpha": b"alpha:" + request}


def test_a_site_that_refuses_fails_or_is_late_is_absent_and_the_others_count(link: Federation) -> None:
    release = threading.Event()

    def late(_: bytes) -> bytes:
        release.wait(30)
        return b"late"

    def broken(_: bytes) -> bytes:
        raise ValueError("patient 4711")

    def main(courier: GridCourier) -> None:
        assert courier.exchange(dict.fromkeys((*SITES, "nobody"), b"x"), 2.0) == {"alpha": b"alpha:x"}
        release.set()
        # The late reply belongs to no later exchange, and the site takes part again.
        assert courier.exchange({"gamma": b"y"}, 20.0) == {"gamma": b"late"}

    with link.site("alpha", tag("alpha")), link.site("beta", broken), link.site("gamma", late):
        wait_online(link, *SITES)
        assert link.run(main, SITES) == "completed"


def test_many_exchanges_in_a_run_and_another_run_with_the_same_nodes(link: Federation) -> None:
    def main(courier: GridCourier) -> None:
        for number in range(3):
            request = str(number).encode()
            assert courier.exchange({"alpha": request}, 20.0) == {"alpha": b"alpha:" + request}

    with link.site("alpha", tag("alpha")):
        wait_online(link, "alpha")
        assert link.run(main, SITES) == "completed"
        assert link.run(main, SITES) == "completed"


def test_a_failing_main_fails_its_run_with_a_code_and_the_next_run_works(link: Federation) -> None:
    def fails(_: GridCourier) -> None:
        raise GenopactError("SITE_UNAVAILABLE", "secret detail")

    assert link.run(fails, SITES) == "failed"
    assert link.run(lambda _: None, SITES) == "completed"


def test_an_agent_that_starts_late_is_waited_for_and_a_missing_one_is_a_refusal(link: Federation) -> None:
    from genopact_client.agent.socket import serve
    from genopact_client.link import node

    stop, path = threading.Event(), link.folder / "beta" / "agent.sock"
    thread = threading.Thread(target=node.run, args=(link.node_config("beta"), stop))
    thread.start()
    servers = []

    def main(courier: GridCourier) -> None:
        assert courier.exchange({"beta": b"x"}, 30.0) == {}
        starter = threading.Timer(1.0, lambda: servers.append(serve(path, tag("beta"), b"")))
        starter.start()
        assert courier.exchange({"beta": b"x"}, 30.0) == {"beta": b"beta:x"}
        starter.join()

    try:
        wait_online(link, "beta")
        assert link.run(main, SITES) == "completed"
    finally:
        stop.set()
        thread.join()
        for server in servers:
            server.stop(None).wait()


def test_registration_is_stable_and_a_name_belongs_to_one_key(link: Federation) -> None:
    pem = nodekey.public_pem(nodekey.load(link.folder / "alpha.key"))
    with link.control() as control:
        first = control.register_site("alpha", pem)
        assert control.register_site("alpha", pem) == first
        with pytest.raises(GenopactError, match="MEMBERSHIP_INVALID"):
            control.register_site("epsilon", pem)
        other = nodekey.public_pem(nodekey.create(link.folder / "other.key"))
        with pytest.raises(GenopactError, match="MEMBERSHIP_INVALID"):
            control.register_site("alpha", other)
        with pytest.raises(GenopactError, match="MEMBERSHIP_INVALID"):
            control.submit(b"", HASH, ["alpha", "nobody"])


def test_a_killed_node_takes_its_place_again_at_once(link: Federation, tmp_path: Path) -> None:
    key = nodekey.load(link.folder / "delta.key")
    killed, forgetful = (Fleet(link.address, link.root, key, tmp_path / name) for name in ("delta.node", "new.node"))
    with closing(killed._client), closing(forgetful._client):  # a killed process signs out of nothing
        number = killed.activate()
        with pytest.raises(GenopactError, match="LINK_NODE_BUSY"):
            forgetful.activate()
    with Fleet(link.address, link.root, key, tmp_path / "delta.node") as again:
        assert again.activate() == number


def test_the_client_app_is_the_same_handler_without_a_network() -> None:
    client_app.register(lambda request: b"" if request == b"no" else b"local:" + request)
    try:
        courier = GridCourier(LocalGrid(client_app.app), lambda: {"alpha": 11, "beta": 12})
        assert courier.exchange({"alpha": b"x", "beta": b"no", "gamma": b"x"}, 5.0) == {"alpha": b"local:x"}
    finally:
        client_app.register(None)


def test_a_reply_counts_only_from_the_node_that_was_asked() -> None:
    class Swapping(LocalGrid):
        """A SuperLink that hands each site's reply over as the other's."""

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            ids = list(message_ids)
            replies = super().pull_messages(ids)
            for reply, one in zip(replies, reversed(ids), strict=True):
                reply.metadata.__dict__["_reply_to_message_id"] = one
            return replies

    client_app.register(lambda request: request)
    try:
        courier = GridCourier(Swapping(client_app.app), lambda: {"alpha": 11, "beta": 12})
        assert courier.exchange({"alpha": b"x", "beta": b"y"}, 5.0) == {}
    finally:
        client_app.register(None)


def test_the_client_app_speaks_to_the_agents_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genopact_client.agent.socket import serve

    monkeypatch.setenv("GENOPACT_AGENT_SOCKET", str(tmp_path / "run" / "agent.sock"))
    server = serve(tmp_path / "run" / "agent.sock", tag("agent"), b"")
    try:
        courier = GridCourier(LocalGrid(client_app.app), lambda: {"alpha": 11})
        assert courier.exchange({"alpha": b"x"}, 5.0) == {"alpha": b"agent:x"}
    finally:
        server.stop(None).wait()


def test_nothing_of_an_envelope_or_an_exception_is_logged(
    link: Federation, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: bytes) -> bytes:
        raise ValueError("patient 4711")

    with caplog.at_level(logging.DEBUG):
        assert exchange(link, {"alpha": broken}, {"alpha": b"genome GATTACA"}) == {}
    said = caplog.text + "".join(capsys.readouterr())
    assert "exchange_refused" in said
    assert "4711" not in said
    assert "GATTACA" not in said
