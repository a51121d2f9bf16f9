"""The chunk codec of the socket and of courier messages, and the socket itself against a hostile peer."""

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genopact_client.agent.socket import serve
from genopact_client.link.socket import AgentChannel
from genopact_shared import channel
from genopact_shared.channel import CHUNK, EXCHANGE, join, pack, split, unpack
from genopact_shared.errors import GenopactError

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 3]


@pytest.mark.parametrize("size", SIZES)
def test_split_and_join_are_inverse_at_every_border(size: int) -> None:
    data = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    frames = list(split(data[:size]))
    assert all(len(frame) <= CHUNK for frame in frames)
    assert join(frames) == data[:size]


@given(st.binary(max_size=200))
def test_join_accepts_any_cut_into_non_empty_frames(data: bytes) -> None:
    assert join([len(data).to_bytes(8, "big"), *(bytes([byte]) for byte in data)]) == data


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([], "EXCHANGE_BROKEN"),
        ([b"\0" * 7], "EXCHANGE_BROKEN"),
        ([(3).to_bytes(8, "big"), b"ab"], "EXCHANGE_BROKEN"),
        ([(3).to_bytes(8, "big"), b"abcd"], "EXCHANGE_BROKEN"),
        ([(3).to_bytes(8, "big"), b"", b"abc"], "EXCHANGE_BROKEN"),
        ([(3).to_bytes(8, "big"), b"abc", b""], "EXCHANGE_BROKEN"),
        ([(0).to_bytes(8, "big"), b"a"], "EXCHANGE_BROKEN"),
        ([(2 * CHUNK).to_bytes(8, "big"), b"a" * (CHUNK + 1)], "EXCHANGE_BROKEN"),
        ([(1 << 40).to_bytes(8, "big"), b"a"], "EXCHANGE_TOO_LARGE"),
    ],
)
def test_join_refuses_anything_else(frames: list[bytes], code: str) -> None:
    with pytest.raises(GenopactError) as error:
        join(frames)
    assert error.value.code == code


def test_join_reads_no_further_than_the_announcement_of_too_much() -> None:
    def frames() -> Iterator[bytes]:
        yield (11).to_bytes(8, "big")
        raise AssertionError("read on")

    with pytest.raises(GenopactError, match="EXCHANGE_TOO_LARGE"):
        join(frames(), limit=10)


@pytest.mark.parametrize("size", [0, 1, 10, 11, 20, 21])
def test_pack_and_unpack_are_inverse(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "PIECE", 10)
    packed = pack(bytes(range(size)))
    assert list(packed) == (["envelope"] if size <= 10 else ["chunks"])
    assert unpack(packed) == bytes(range(size))


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"envelope": "text"},
        {"envelope": b"a", "num-examples": 3},
        {"chunks": [b"a", 3]},
        {"chunks": [b"a"], "envelope": b"a"},
    ],
)
def test_unpack_refuses_other_content(record: dict[str, object]) -> None:
    with pytest.raises(GenopactError, match="EXCHANGE_BROKEN"):
        unpack(record)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agent.sock"


def test_the_socket_carries_large_messages_both_ways_and_only_its_group_may_use_it(path: Path) -> None:
    server = serve(path, lambda request: request[::-1] + b"!", b"ready")
    try:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o710
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with AgentChannel(path) as agent:
            for size in SIZES:
                request = b"ab" * (size // 2) + b"c" * (size % 2)
                assert agent.exchange(request, 10) == request[::-1] + b"!"
            assert agent.health() == b"ready"
    finally:
        server.stop(None).wait()


def test_an_exception_becomes_the_refusal_and_nothing_of_it_crosses(path: Path) -> None:
    def broken(_: bytes) -> bytes:
        raise ValueError("patient 4711")

    server = serve(path, broken, b"")
    try:
        with AgentChannel(path) as agent:
            assert agent.exchange(b"x", 10) == b""
    finally:
        server.stop(None).wait()


def test_too_much_and_broken_off_requests_never_reach_the_agent(path: Path) -> None:
    seen: list[bytes] = []

    def keep(request: bytes) -> bytes:
        seen.append(request)
        return b"ok"

    server = serve(path, keep, b"", limit=100)
    try:
        with AgentChannel(path) as agent, grpc.insecure_channel(f"unix:{path}") as raw:
            assert agent.exchange(b"x" * 100, 10) == b"ok"
            assert agent.exchange(b"x" * 101, 10) == b""
            hostile = raw.stream_stream(EXCHANGE)
            assert join(hostile(iter([(9).to_bytes(8, "big"), b"abc"]), timeout=10)) == b""
            with pytest.raises(grpc.RpcError):
                list(raw.stream_stream("/genopact.Agent/Other")(iter([b""]), timeout=10))
        assert seen == [b"x" * 100]
    finally:
        server.stop(None).wait()


def test_one_exchange_at_a_time_and_health_meanwhile(path: Path) -> None:
    inside, most, lock, release = [0], [0], threading.Lock(), threading.Event()

    def slow(request: bytes) -> bytes:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        release.wait(10)
        with lock:
            inside[0] -= 1
        return request

    server = serve(path, slow, b"alive")
    try:
        with AgentChannel(path) as agent:
            answers: list[bytes] = []
            threads = [threading.Thread(target=lambda: answers.append(agent.exchange(b"x", 10))) for _ in range(2)]
            for thread in threads:
                thread.start()
            assert agent.health(10) == b"alive"
            release.wait(0.5)  # long enough for a second exchange to come in, were it let in
            release.set()
            for thread in threads:
                thread.join()
        assert answers == [b"x", b"x"]
        assert most == [1]
    finally:
        server.stop(None).wait()


def test_a_socket_left_by_a_killed_agent_is_replaced_but_no_other_file(path: Path) -> None:
    serve(path, lambda request: request, b"").stop(None).wait()
    serve(path, lambda request: request, b"").stop(None).wait()
    path.unlink(missing_ok=True)
    path.write_text("a file")
    with pytest.raises(GenopactError, match="AGENT_SOCKET"):
        serve(path, lambda request: request, b"")
    assert path.read_text() == "a file"


def test_no_agent_is_an_error_with_a_code(path: Path) -> None:
    with AgentChannel(path) as agent, pytest.raises(GenopactError, match="AGENT_UNREACHABLE"):
        agent.exchange(b"x", 5)
