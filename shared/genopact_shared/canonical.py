"""Canonical JSON (RFC 8785) for every byte that is signed or hashed.

Numbers are integers only: reals travel as integers in milli-units or as decimal strings, because two
implementations that print a float differently would disagree about a hash.
"""

import hashlib
import json
from typing import Any, NoReturn

import rfc8785

from genopact_shared.errors import GenopactError, replacing, require

Json = Any


def encode(value: Json) -> bytes:
    """Canonical bytes of a JSON value made of dict, list, str, int, bool and None.

    Raises:
        GenopactError: CANONICAL_INVALID for floats, integers beyond 2^53 and non-string keys.
    """
    _refuse_floats(value)
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise GenopactError("CANONICAL_INVALID", str(error)) from error


def decode(data: bytes) -> Json:
    """The value of canonical bytes; anything that does not re-encode to the same bytes is refused.

    Raises:
        GenopactError: CANONICAL_INVALID.
    """
    with replacing((ValueError, RecursionError), GenopactError("CANONICAL_INVALID", "not JSON")):
        value = json.loads(data, parse_float=_no_float, parse_constant=_no_float)
        canonical = encode(value)
    require(canonical == data, "CANONICAL_INVALID", "not in canonical form")
    return value


def digest(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Json) -> str:
    """SHA-256 of the canonical bytes of a JSON value."""
    return digest(encode(value))


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"not an integer: {text}")


def _refuse_floats(value: Json) -> None:
    if isinstance(value, float):
        raise GenopactError("CANONICAL_INVALID", "a float in signed data")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for child in children:
        _refuse_floats(child)
