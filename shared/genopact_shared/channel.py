"""How opaque bytes travel: the chunks of the agent's socket and the pieces of a courier message.

Socket: one stream of frames each way. The first is the length of the whole in 8 bytes, big endian; the others are 1 to
CHUNK bytes of it, so that a peer that stops early is told from one that has finished. An empty whole means
SITE_UNAVAILABLE. Courier: one record, `{"envelope": bytes}`, or `{"chunks": [bytes, ...]}` above PIECE bytes.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from genopact_shared.errors import GenopactError, require

EXCHANGE = "/genopact.Agent/Exchange"
HEALTH = "/genopact.Agent/Health"
RECORD = "genopact"
"""Name of the one record of a courier message."""

CHUNK = 1 << 20
PIECE = 4 << 20
LIMIT = 512 << 20
"""Largest whole that is accepted, in bytes."""

_CODES = {401: "LINK_SIGN_IN"} | dict.fromkeys((502, 503, 504), "LINK_UNREACHABLE")


@contextmanager
def http_errors(codes: Mapping[int, str] | None = None) -> Iterator[None]:
    """A SuperLink's HTTP errors as codes of the catalogue; `codes`: by status, beside those that all mean alike."""
    import httpx  # comes with Flower, whose clients use it

    try:
        yield
    except httpx.TransportError as error:
        raise GenopactError("LINK_UNREACHABLE", type(error).__name__) from error
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise GenopactError((_CODES | dict(codes or {})).get(status, "LINK_REFUSED"), str(status)) from error
    except ValueError as error:
        raise GenopactError("LINK_REFUSED", "not an answer of a SuperLink") from error


def split(data: bytes) -> Iterator[bytes]:
    """Frames of `data`: its length, then its bytes in order."""
    yield len(data).to_bytes(8, "big")
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


def join(frames: Iterable[bytes], limit: int = LIMIT) -> bytes:
    """The bytes that `split` was given.

    Raises EXCHANGE_TOO_LARGE before reading more than the first frame if it announces more than `limit` bytes, and
    EXCHANGE_BROKEN if the frames are not exactly what was announced.
    """
    stream = iter(frames)
    head = next(stream, b"")
    require(len(head) == 8, "EXCHANGE_BROKEN", "the first frame is not a length")
    total = int.from_bytes(head, "big")
    require(total <= limit, "EXCHANGE_TOO_LARGE", f"{total} bytes announced, {limit} allowed")
    whole = bytearray()
    for frame in stream:
        # An empty frame is no progress: a stream of them would never end.
        if not 0 < len(frame) <= min(CHUNK, total - len(whole)):
            raise GenopactError("EXCHANGE_BROKEN", "a frame is empty or larger than announced")
        whole += frame
    require(len(whole) == total, "EXCHANGE_BROKEN", "the stream ended early")
    return bytes(whole)


Value = int | float | str | bytes | bool | list[int] | list[float] | list[str] | list[bytes] | list[bool]
"""What Flower's ConfigRecord can hold."""


def pack(envelope: bytes) -> dict[str, Value]:
    """The content of the one record of a courier message. Raises EXCHANGE_TOO_LARGE."""
    require(len(envelope) <= LIMIT, "EXCHANGE_TOO_LARGE", f"{len(envelope)} bytes, {LIMIT} allowed")
    if len(envelope) <= PIECE:
        return {"envelope": envelope}
    return {"chunks": [envelope[start : start + PIECE] for start in range(0, len(envelope), PIECE)]}


def unpack(record: Mapping[str, object]) -> bytes:
    """The bytes that `pack` was given. Raises EXCHANGE_BROKEN for any other content, EXCHANGE_TOO_LARGE."""
    match dict(record):
        case {"envelope": bytes(envelope), **rest} if not rest:
            whole = envelope
        case {"chunks": [*chunks], **rest} if not rest and all(isinstance(chunk, bytes) for chunk in chunks):
            whole = b"".join(chunk for chunk in chunks if isinstance(chunk, bytes))
        case _:
            raise GenopactError("EXCHANGE_BROKEN", "a courier message carries one envelope and nothing else")
    require(len(whole) <= LIMIT, "EXCHANGE_TOO_LARGE", f"{len(whole)} bytes, {LIMIT} allowed")
    return whole
