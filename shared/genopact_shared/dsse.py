"""Signed envelopes: DSSE v1.0.2 with Ed25519, in canonical JSON."""

import base64
import binascii
from collections.abc import Iterable

from genopact_shared import canonical
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey, VerifyKey


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, *keys: SigningKey) -> bytes:
    """An envelope over `payload`, signed by each key."""
    message = pae(payload_type, payload)
    signatures = [{"keyid": key.public.key_id, "sig": _b64(key.sign(message))} for key in keys]
    return canonical.encode({"payload": _b64(payload), "payloadType": payload_type, "signatures": signatures})


def verify(envelope: bytes, payload_type: str, keys: Iterable[VerifyKey], threshold: int = 1) -> bytes:
    """The payload, if at least `threshold` different keys of `keys` signed exactly these bytes for this type.

    Raises:
        GenopactError: ENVELOPE_INVALID (form or type), SIGNATURE_INVALID (too few valid signatures).
    """
    outer = canonical.decode(envelope)
    try:
        payload, kind = base64.b64decode(outer["payload"], validate=True), outer["payloadType"]
        signatures = [base64.b64decode(entry["sig"], validate=True) for entry in outer["signatures"]]
    except (KeyError, TypeError, AttributeError, binascii.Error, ValueError) as error:
        raise GenopactError("ENVELOPE_INVALID", "not a DSSE envelope") from error
    if kind != payload_type or set(outer) != {"payload", "payloadType", "signatures"}:
        raise GenopactError("ENVELOPE_INVALID", "another payload type")
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


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
