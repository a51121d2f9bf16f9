"""What agent and coordinator say to each other: frames of a signed message and a body. See docs/wire.md.

Flower, TLS and the sockets in between are couriers; nothing here relies on them.
"""

import base64
import struct
import time
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, ValidationError

from genopact_shared import canonical, dsse
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey, VerifyKey
from genopact_shared.study import Frozen, Name

MAGIC = b"GPX1"
MAX_ENVELOPE = 4 << 20
MAX_BODY = 500 << 20
UNAVAILABLE = b""
"""The wire's one refusal, SITE_UNAVAILABLE: no bytes, whatever the reason."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Op = Literal["open", "step", "finish"]
Tensors = dict[str, NDArray[np.float64]]


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

    `open`: approvals of every site that takes part. `step`: the roster's replies to `open`, and the aggregate that
    produced the model in the body. `finish`: that aggregate and the final model.
    """

    schema_: Literal["genopact.request/1"] = Field(default="genopact.request/1", alias="schema")
    nonce: RunId
    expires: int = Field(ge=0)
    approvals: tuple[str, ...] = ()
    seats: tuple[str, ...] = ()
    aggregate: str | None = None

    def check_fresh(self, now: float | None = None) -> None:
        """Raise REQUEST_EXPIRED once the deadline has passed."""
        if (time.time() if now is None else now) > self.expires:
            raise GenopactError("REQUEST_EXPIRED")


class Reply(Message):
    """A site's answer to exactly one request, named by the digest of its envelope.

    `open`: the site's mask key. `step`: the signed intent, and its proof of inclusion in the site's log.
    `finish`: the body is the site's exchanged log.
    """

    schema_: Literal["genopact.reply/1"] = Field(default="genopact.reply/1", alias="schema")
    request: Digest
    mask_key: Digest | None = None
    intent: str | None = None
    proof: str | None = None


M = TypeVar("M", Request, Reply)
S = TypeVar("S", bound=np.generic)
TYPES: dict[type[Message], str] = {
    Request: "application/vnd.genopact.request+json",
    Reply: "application/vnd.genopact.reply+json",
}


def seal(message: Request | Reply, body: bytes, key: SigningKey) -> bytes:
    """A frame: magic, envelope length (4 bytes, big endian), DSSE envelope, body."""
    payload = canonical.encode(message.model_dump(mode="json", by_alias=True))
    envelope = dsse.sign(TYPES[type(message)], payload, key)
    return MAGIC + struct.pack(">I", len(envelope)) + envelope + body


def split(frame: bytes) -> tuple[bytes, bytes]:
    """Envelope and body of a frame, unverified.

    Raises:
        GenopactError: FRAME_INVALID.
    """
    if len(frame) < 8 or frame[:4] != MAGIC:
        raise GenopactError("FRAME_INVALID")
    (length,) = struct.unpack(">I", frame[4:8])
    if length > min(MAX_ENVELOPE, len(frame) - 8) or len(frame) - 8 - length > MAX_BODY:
        raise GenopactError("FRAME_INVALID")
    return frame[8 : 8 + length], frame[8 + length :]


def parse_envelope(kind: type[M], envelope: bytes, *keys: VerifyKey) -> M:
    """The message of an envelope that one of `keys` signed, its body apart."""
    payload = dsse.verify(envelope, TYPES[kind], keys)
    named = dsse.signer_ids(envelope)
    if len(named) != 1 or named[0] not in {key.key_id for key in keys}:
        raise GenopactError("ENVELOPE_INVALID", "a message has one signature, under its key's own id")
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        raise GenopactError("FRAME_INVALID") from error


def unseal(kind: type[M], frame: bytes, key: VerifyKey) -> tuple[M, bytes]:
    """Message and body of a frame whose signature holds and whose body is the one that was signed.

    Raises:
        GenopactError: FRAME_INVALID, ENVELOPE_INVALID, CANONICAL_INVALID, SIGNATURE_INVALID.
    """
    envelope, body = split(frame)
    message = parse_envelope(kind, envelope, key)
    if (message.body, message.body_size) != (canonical.digest(body), len(body)):
        raise GenopactError("FRAME_INVALID", "another body")
    return message, body


class Peek(Frozen):
    """The fields that tell whom a frame concerns, read before its signature can be checked."""

    study: Digest
    run: RunId

    @classmethod
    def of(cls, frame: bytes) -> Self:
        """Study and run as claimed, so that the right keys can be looked up."""
        outer = canonical.decode(split(frame)[0])
        try:
            claimed = canonical.decode(base64.b64decode(outer["payload"], validate=True))
            return cls(study=claimed["study"], run=claimed["run"])
        except (KeyError, TypeError, ValueError) as error:
            raise GenopactError("FRAME_INVALID") from error


def pack(tensors: dict[str, NDArray[np.float64]] | dict[str, NDArray[np.uint64]]) -> bytes:
    """Tensors as safetensors bytes, the same for the same tensors: contiguous, in the order of their names."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})


def unpack(data: bytes, dtype: type[S]) -> dict[str, NDArray[S]]:
    """Tensors of one dtype, as arrays of their own; anything else is FRAME_INVALID."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise GenopactError("FRAME_INVALID", "not safetensors") from error
    if any(tensor.dtype != dtype for tensor in tensors.values()):
        raise GenopactError("FRAME_INVALID", "another dtype")
    return {name: tensor.astype(dtype) for name, tensor in tensors.items()}
