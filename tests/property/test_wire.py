"""Whatever happens to a frame on its way: it is refused with a documented code, or reads as it was signed."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from genopact_client.agent.runs import RunRecord
from genopact_shared import canonical, channel, dsse, wire
from genopact_shared.errors import CATALOGUE, GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.wire import MAX_ENVELOPE, TYPES, Peek, Reply, Request
from tests.golden.wire_exchange import FOLDER, exchange, key, reply, request

FRAMES = exchange()
READERS: dict[str, Callable[[bytes], object]] = {
    "split": wire.split,
    "peek": Peek.of,
    "request": lambda data: wire.unseal(Request, data, key("coordinator").public),
    "reply": lambda data: wire.unseal(Reply, data, key("site-a").public),
    "unpack": lambda data: wire.unpack(data, np.float64),
    "canonical": canonical.decode,
    "envelope": lambda data: dsse.verify(data, TYPES[Reply], [key("site-a").public]),
    "channel": lambda data: channel.join([data[:8], data[8:]] if data[8:] else [data[:8]]),
}
DOCUMENTED = {"FRAME_INVALID", "ENVELOPE_INVALID", "CANONICAL_INVALID", "SIGNATURE_INVALID", "EXCHANGE_BROKEN",
              "EXCHANGE_TOO_LARGE"}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def read(name: str) -> tuple[Request | Reply, bytes]:
    return opened(name, FRAMES[name])


def opened(name: str, frame: bytes) -> tuple[Request | Reply, bytes]:
    if name.endswith("request"):
        return wire.unseal(Request, frame, key("coordinator").public)
    return wire.unseal(Reply, frame, key("site-a").public)


def code_of(call: Callable[[], object]) -> str:
    """The code of the error that a call ends with; empty if it succeeds."""
    try:
        call()
    except GenopactError as error:
        return error.code
    return ""


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(GenopactError) as caught:
        call()
    assert caught.value.code in DOCUMENTED
    assert caught.value.code in CATALOGUE


names = st.sampled_from(sorted(FRAMES))


@given(names, st.data())
def test_every_truncation_is_refused(name: str, data: st.DataObject) -> None:
    frame = FRAMES[name]
    refused(lambda: opened(name, frame[: data.draw(st.integers(0, len(frame) - 1))]))


@given(names, st.binary(min_size=1, max_size=40))
def test_every_appendix_is_refused(name: str, more: bytes) -> None:
    refused(lambda: opened(name, FRAMES[name] + more))


@given(names, st.data())
def test_a_flipped_bit_is_refused_or_changes_nothing_that_was_signed(name: str, data: st.DataObject) -> None:
    frame = bytearray(FRAMES[name])
    position = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[position // 8] ^= 1 << position % 8
    if code := code_of(lambda: opened(name, bytes(frame))):
        assert code in DOCUMENTED
        return
    # The key's name and the padding of base64 are outside the signature; the digest of the envelope is not.
    found = opened(name, bytes(frame))
    assert found == read(name)
    assert 8 <= position // 8 < len(frame) - found[0].body_size


@given(names, st.binary(min_size=32, max_size=32))
def test_another_key_is_refused(name: str, seed: bytes) -> None:
    message, body = read(name)
    frame = wire.seal(message, body, SigningKey(seed))
    refused(lambda: opened(name, frame))


@given(names, names)
def test_another_body_or_kind_is_refused(name: str, other: str) -> None:
    envelope, body = wire.split(FRAMES[name])
    foreign = wire.split(FRAMES[other])[1]
    if foreign != body:
        head = FRAMES[name][: len(FRAMES[name]) - len(body)]
        refused(lambda: opened(name, head + foreign))
    if name.endswith("request") != other.endswith("request"):
        refused(lambda: opened(name, FRAMES[other]))
    assert head_of(envelope) == FRAMES[name][:8]


def head_of(envelope: bytes) -> bytes:
    return b"GPX1" + len(envelope).to_bytes(4, "big")


@pytest.mark.parametrize("reader", sorted(READERS))
@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(data=b"[" * 985 + b"]" * 985)
@example(data=b'"\\ud800"')
@example(data=b"GPX1\xff\xff\xff\xff")
@example(data=b"\xff" * 8 + b"{}")
def test_nothing_but_coded_errors(reader: str, data: bytes) -> None:
    for form in (data, head_of(data) + data):
        assert code_of(partial(READERS[reader], form)) in {"", *DOCUMENTED}


@given(JSON)
def test_signed_nonsense_is_refused_too(value: Any) -> None:
    payload = json.dumps(value).encode()
    envelope = dsse.sign(TYPES[Reply], payload, key("site-a"))
    refused(lambda: wire.parse_envelope(Reply, envelope, key("site-a").public))


@given(
    st.dictionaries(st.sampled_from(["op", "round", "attempt", "site", "expires", "extra", "schema"]), JSON, min_size=1)
)
def test_fields_of_another_type_are_refused(changes: dict[str, Any]) -> None:
    message, _ = read("open.request")
    fields = message.model_dump(mode="json", by_alias=True)
    if code := code_of(lambda: canonical.encode(fields | changes)):
        assert code == "CANONICAL_INVALID"
        return
    envelope = dsse.sign(TYPES[Request], canonical.encode(fields | changes), key("coordinator"))
    if code := code_of(lambda: wire.parse_envelope(Request, envelope, key("coordinator").public)):
        assert code in DOCUMENTED
        return
    found = wire.parse_envelope(Request, envelope, key("coordinator").public)
    assert found.model_dump(mode="json", by_alias=True) == fields | changes


@given(st.integers(0, 3), st.integers(0, 3), st.integers(-1, 3), st.integers(-1, 3))
def test_positions_only_move_forward(round_: int, attempt: int, last_round: int, last_attempt: int) -> None:
    record = RunRecord(study="0" * 64, run="0" * 32, approvals=(), round=last_round, attempt=last_attempt)
    later = round_ > last_round or (round_ == last_round and attempt > last_attempt)
    assert code_of(lambda: record.check_next(round_, attempt)) == ("" if later else "REQUEST_REPLAYED")


@given(st.dictionaries(st.text(max_size=10), st.lists(st.floats(), max_size=6), max_size=4))
def test_tensors_survive_and_have_one_spelling(values: dict[str, list[float]]) -> None:
    tensors = {name: np.array(row, dtype=np.float64) for name, row in values.items() if name != "__metadata__"}
    packed = wire.pack(tensors)
    found = wire.unpack(packed, np.float64)
    assert {name: row.tobytes() for name, row in found.items()} == {
        name: row.tobytes() for name, row in tensors.items()
    }
    assert wire.pack(dict(reversed(list(tensors.items())))) == packed
    if tensors:
        refused(lambda: wire.unpack(packed, np.uint64))


def test_an_envelope_above_the_limit_is_refused() -> None:
    refused(lambda: wire.split(head_of(bytes(MAX_ENVELOPE + 1)) + bytes(MAX_ENVELOPE + 1)))
    assert wire.split(head_of(bytes(MAX_ENVELOPE)) + bytes(MAX_ENVELOPE))[1] == b""


def test_a_reply_answers_one_request() -> None:
    one, two = request("open", "site-a", 7), request("open", "site-a", 8)
    names = [wire.unseal(Reply, reply(each), key("site-a").public)[0].request for each in (one, two)]
    assert len(set(names)) == 2


def test_the_fixtures_are_these_frames() -> None:
    assert {path.stem: path.read_bytes() for path in Path(FOLDER).glob("*.frame")} == FRAMES
