"""Signed envelopes: DSSE v1.0.2 with Ed25519, in canonical JSON."""

import base64
from collections.abc import Iterable

from genopact_shared import canonical
from genopact_shared.errors import GenopactError, replacing
from genopact_shared.keys import SigningKey, VerifyKey


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, *keys: SigningKey) -> bytes:
    """An envelope over `payload`, signed by each key."""
    message = pae(payload_type, payload)
    signatures = [{"keyid": key.public.key_id, "sig": in_base64(key.sign(message))} for key in keys]
    return canonical.encode({"payload": in_base64(payload), "payloadType": payload_type, "signatures": signatures})


def verify(envelope: bytes, payload_type: str, keys: Iterable[VerifyKey], threshold: int = 1) -> bytes:
    """The payload, if at least `threshold` different keys of `keys` signed exactly these bytes for this type.

    Raises:
        GenopactError: ENVELOPE_INVALID (form or type), SIGNATURE_INVALID (too few valid signatures).
    """
    outer = canonical.decode(envelope)
    odd = KeyError, TypeError, AttributeError, ValueError
    with replacing(odd, GenopactError("ENVELOPE_INVALID", "not a DSSE envelope")):
        payload, kind = unbase64(outer["payload"]), outer["payloadType"]
        signatures = [unbase64(entry["sig"]) for entry in outer["signatures"]]
    if kind != payload_type or set(outer) != {"payload", "payloadType", "signatures"}:
        raise GenopactError("ENVELOPE_INVALID", "another payload type")
    if any(set(entry) != {"keyid", "sig"} for entry in outer["signatures"]):
        raise GenopactError("ENVELOPE_INVALID", "a signature has a key id and nothing else beside it")
    message, trusted = pae(payload_type, payload), set(keys)
    signers = {key for key in trusted if any(_holds(key, signature, message) for signature in signatures)}
    if threshold < 1 or len(signers) < threshold:
        raise GenopactError("SIGNATURE_INVALID", f"{len(signers)} of {threshold} signatures")
    return payload


def _holds(key: VerifyKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except GenopactError:
        return False
    return True


def in_base64(data: bytes) -> str:
    """In the one spelling that `unbase64` takes."""
    return base64.b64encode(data).decode("ascii")


def unbase64(text: str) -> bytes:
    """Decode base64 in its one canonical spelling: another spelling would be another digest of the same message.

    Raises:
        ValueError: any other text.
    """
    data = base64.b64decode(text, validate=True)
    if in_base64(data) != text:
        raise ValueError("not canonical base64")
    return data
