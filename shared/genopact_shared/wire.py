"""What agent and coordinator say to each other: frames of a signed message and a body. See docs/wire.md.

Flower, TLS and the sockets in between are couriers; nothing here relies on them.
"""

import base64
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from genopact_shared import canonical, dsse
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.keys import SigningKey, VerifyKey
from genopact_shared.statements import Digest, RunId
from genopact_shared.study import Frozen, Name

MAGIC = b"GPX1"
MAX_ENVELOPE = 4 << 20
MAX_BODY = 500 << 20
UNAVAILABLE = b""
"""The wire's one refusal, SITE_UNAVAILABLE: no bytes, whatever the reason."""

Op = Literal["open", "deal", "join", "step", "unmask", "finish"]


class Message(Frozen):
    """What requests and replies share: which exchange they belong to, and the digest of the body beside them."""

    op: Op
    study: Digest
    run: RunId
    round: int = Field(ge=0, le=100_000)
    attempt: int = Field(ge=0, le=1_000)
    site: Name
    body: Digest
    body_size: int = Field(ge=0, le=MAX_BODY)


class Request(Message):
    """The coordinator asks one site for one thing.

    `open`: approvals of every site that takes part. `deal`: the roster's replies to `open`. `join`: their replies to
    `deal`, in the body. `step`: the aggregate that produced the model in the body, and, in its last `total_size` bytes,
    the total that it was made of; without masks also the seats. `unmask`: the replies' envelopes to `step` whose total
    is wanted, in the body. `finish`: like `step`, with the final model.
    """

    schema_: Literal["genopact.request/1"] = Field(default="genopact.request/1", alias="schema")
    nonce: RunId
    expires: int = Field(ge=0)
    approvals: tuple[str, ...] = ()
    seats: tuple[str, ...] = ()
    aggregate: str | None = None
    total_size: int = Field(default=0, ge=0, le=MAX_BODY)

    def check_fresh(self, now: float) -> None:
        """Raise REQUEST_EXPIRED once the deadline has passed."""
        require(now <= self.expires, "REQUEST_EXPIRED")


class Reply(Message):
    """A site's answer to exactly one request, named by the digest of its envelope.

    `open`: the site's mask key. `deal`: the body is its deal. `step`: the signed intent, and its proof of inclusion in
    the site's log; the body is the update. `unmask`: the body opens its part of the masks. `finish`: the body is the
    site's exchanged log.
    """

    schema_: Literal["genopact.reply/1"] = Field(default="genopact.reply/1", alias="schema")
    request: Digest
    mask_key: Digest | None = None
    intent: str | None = None
    proof: str | None = None


M = TypeVar("M", Request, Reply)
S = TypeVar("S", bound=np.generic)
TYPE = "application/vnd.genopact.{}+json"
TYPES: dict[type[Message], str] = {Request: TYPE.format("request"), Reply: TYPE.format("reply")}


def seal(message: Request | Reply, body: bytes, key: SigningKey) -> bytes:
    """A frame: magic, envelope length (4 bytes, big endian), DSSE envelope, body."""
    payload = canonical.encode(message.model_dump(mode="json", by_alias=True))
    return frame(dsse.sign(TYPES[type(message)], payload, key), body)


def frame(envelope: bytes, body: bytes) -> bytes:
    """What `split` takes apart."""
    return MAGIC + struct.pack(">I", len(envelope)) + envelope + body


def split(data: bytes) -> tuple[bytes, bytes]:
    """Envelope and body of a frame, unverified.

    Raises:
        GenopactError: FRAME_INVALID.
    """
    require(len(data) >= 8 and data[:4] == MAGIC, "FRAME_INVALID")
    (length,) = struct.unpack(">I", data[4:8])
    require(length <= min(MAX_ENVELOPE, len(data) - 8) and len(data) - 8 - length <= MAX_BODY, "FRAME_INVALID")
    return data[8 : 8 + length], data[8 + length :]


def parse_envelope(kind: type[M], envelope: bytes, *keys: VerifyKey) -> M:
    """The message of an envelope that one of `keys` signed, its body apart."""
    payload = dsse.verify(envelope, TYPES[kind], keys)
    # Key ids are hints outside the signature.
    named = [str(entry["keyid"]) for entry in canonical.decode(envelope)["signatures"]]
    if len(named) != 1 or named[0] not in {key.key_id for key in keys}:
        raise GenopactError("ENVELOPE_INVALID", "a message has one signature, under its key's own id")
    with replacing(ValidationError, GenopactError("FRAME_INVALID")):
        return kind.model_validate_json(payload)


def unseal(kind: type[M], frame: bytes, key: VerifyKey) -> tuple[M, bytes]:
    """Message and body of a frame whose signature holds and whose body is the one that was signed.

    Raises:
        GenopactError: FRAME_INVALID, ENVELOPE_INVALID, CANONICAL_INVALID, SIGNATURE_INVALID.
    """
    envelope, body = split(frame)
    message = parse_envelope(kind, envelope, key)
    require((message.body, message.body_size) == (canonical.digest(body), len(body)), "FRAME_INVALID", "another body")
    return message, body


class Peek(Frozen):
    """The fields that tell whom a frame concerns, read before its signature can be checked."""

    study: Digest
    run: RunId

    @classmethod
    def of(cls, frame: bytes) -> Self:
        """Study and run as claimed, so that the right keys can be looked up."""
        outer = canonical.decode(split(frame)[0])
        with replacing((KeyError, TypeError, ValueError), GenopactError("FRAME_INVALID")):
            claimed = canonical.decode(base64.b64decode(outer["payload"], validate=True))
            return cls(study=claimed["study"], run=claimed["run"])


def pack(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Tensors as safetensors bytes, the same for the same tensors: contiguous, in the order of their names."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})


def unpack(data: bytes, dtype: type[S], **other: type[np.generic]) -> dict[str, NDArray[S]]:
    """Tensors of one dtype, or of the `other` one of that name, as arrays of their own; else FRAME_INVALID."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with replacing((SafetensorError, ValueError, KeyError), GenopactError("FRAME_INVALID", "not safetensors")):
        tensors = load(data)
    if any(tensor.dtype != other.get(name, dtype) for name, tensor in tensors.items()):
        raise GenopactError("FRAME_INVALID", "another dtype")
    return {name: tensor.copy() for name, tensor in tensors.items()}


def join(parts: Iterable[bytes]) -> bytes:
    """Parts one after another, each after its length (4 bytes, big endian)."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def cut(data: bytes) -> list[bytes]:
    """The parts of `join`. Raises FRAME_INVALID."""
    parts, at = [], 0
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4].rjust(4, b"\xff"))
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    require(at == len(data), "FRAME_INVALID", "parts that do not fit")
    return parts
