"""Canonical JSON, keys and envelopes."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genopact_shared import canonical, dsse, wire
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey, VerifyKey

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_canonical_bytes_decode_to_the_value_and_back(value: object) -> None:
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert canonical.encode(json.loads(data)) == data


@given(st.dictionaries(st.text(), st.integers(-9, 9), min_size=2, max_size=6))
def test_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert canonical.digest_of(dict(reversed(value.items()))) == canonical.digest_of(value)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b'{"a":1,"a":1}', b'{"b":1,"a":2}', b"1.0", b"1e3", b"NaN", b'{"a": 1}', b"9007199254740993",
        b"\xff", b"[" * 9994 + b"]" * 9994, b'{"a":' * 994 + b"1" + b"}" * 994,
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_a_code(data: bytes) -> None:
    with pytest.raises(GenopactError, match="CANONICAL_INVALID"):
        canonical.decode(data)


@pytest.mark.parametrize("value", [1.5, {"a": [0.1]}, {1: "a"}, 2**60])
def test_what_cannot_be_signed_is_not_encoded(value: object) -> None:
    with pytest.raises(GenopactError, match="CANONICAL_INVALID"):
        canonical.encode(value)


@given(st.binary(max_size=64), st.text(min_size=1, max_size=20))
def test_an_envelope_holds_for_its_bytes_type_and_key_only(payload: bytes, kind: str) -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    envelope = dsse.sign(kind, payload, key)
    assert dsse.verify(envelope, kind, [other.public, key.public]) == payload
    for wrong_kind, wrong_key in ((kind, other), (kind + "x", key)):
        with pytest.raises(GenopactError):
            dsse.verify(envelope, wrong_kind, [wrong_key.public])


def test_a_threshold_counts_keys_not_signatures() -> None:
    first, second = SigningKey.generate(), SigningKey.generate()
    twice = dsse.sign("t", b"x", first, first)
    with pytest.raises(GenopactError, match="SIGNATURE_INVALID"):
        dsse.verify(twice, "t", [first.public, second.public], threshold=2)
    with pytest.raises(GenopactError, match="SIGNATURE_INVALID"):
        dsse.verify(twice, "t", [first.public], threshold=0)
    both = dsse.sign("t", b"x", first, second)
    assert dsse.verify(both, "t", [first.public, second.public], threshold=2) == b"x"


def test_a_payload_cannot_be_read_as_another_type() -> None:
    """DSSE's length prefixes: moving a byte between type and payload changes what was signed."""
    key = SigningKey.generate()
    outer = json.loads(dsse.sign("ab", b"c", key))
    outer["payloadType"], outer["payload"] = "a", base64.b64encode(b"bc").decode()
    with pytest.raises(GenopactError, match="SIGNATURE_INVALID"):
        dsse.verify(canonical.encode(outer), "a", [key.public])


def test_a_courier_cannot_respell_a_message() -> None:
    """Another spelling would be another request digest, so that a stored answer would not be found again."""
    key = SigningKey.generate()
    body = b""
    reply = wire.Reply(
        op="open", study="0" * 64, run="1" * 32, round=0, attempt=0, site="a", body=canonical.digest(body), body_size=0,
        request="2" * 64,
    )  # fmt: skip
    envelope = wire.split(wire.seal(reply, body, key))[0]
    assert wire.parse_envelope(wire.Reply, envelope, key.public) == reply
    outer = json.loads(envelope)
    other_id = {**outer, "signatures": [{**outer["signatures"][0], "keyid": "0" * 16}]}
    extra = {**outer, "signatures": [*outer["signatures"], {"keyid": "0" * 16, "sig": "AAAA"}]}
    sig = outer["signatures"][0]["sig"]
    padded = {**outer, "signatures": [{**outer["signatures"][0], "sig": sig[:-3] + chr(ord(sig[-3]) + 1) + "=="}]}
    for respelt in (other_id, extra, padded):
        with pytest.raises(GenopactError, match=r"ENVELOPE_INVALID|SIGNATURE_INVALID"):
            wire.parse_envelope(wire.Reply, canonical.encode(respelt), key.public)


def test_a_key_rests_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    key, path = SigningKey.generate(), tmp_path / "key"
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).public == key.public
    with pytest.raises(FileExistsError):
        key.save(path)
    path.chmod(0o640)
    with pytest.raises(GenopactError, match="KEY_EXPOSED"):
        SigningKey.load(path)
    with pytest.raises(GenopactError, match="KEY_MISSING"):
        SigningKey.load(tmp_path / "none")
    path.write_text("xyz")
    path.chmod(0o600)
    with pytest.raises(GenopactError, match="KEY_INVALID"):
        SigningKey.load(path)
    with pytest.raises(GenopactError, match="KEY_INVALID"):
        VerifyKey.from_hex("00" * 31)
