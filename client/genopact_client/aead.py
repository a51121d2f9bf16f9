"""How everything at rest is sealed: AES-256-GCM, a random nonce of 12 bytes before the ciphertext."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from genopact_shared.errors import GenopactError


def seal(key: bytes, plain: bytes, context: bytes) -> bytes:
    """nonce 12 | ciphertext | tag 16, bound to `context`."""
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plain, context)


def unseal(key: bytes, sealed: bytes, context: bytes, code: str, detail: str = "") -> bytes:
    """What `seal` was given; raises `code` for another key, another context or other bytes."""
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], context)
    except (InvalidTag, ValueError) as error:
        raise GenopactError(code, detail) from error
