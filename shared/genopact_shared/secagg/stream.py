"""Keys, seals and streams of the masks: X25519, HKDF-SHA-256, AES-256 in GCM and CTR mode.

A key is derived for one use in one opening of one run and used once, so every nonce is zero.
"""

from collections.abc import Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from genopact_shared import canonical
from genopact_shared.errors import GenopactError, replacing
from genopact_shared.secagg.tag import FIELD

Words = NDArray[np.uint32] | NDArray[np.uint64]
CHUNK = 1 << 16
SEAL = 16
"""Bytes by which a sealed text is longer."""
_ZEROS, _NONCE = bytes(CHUNK), bytes(12)


def derive(secret: bytes, epoch: str, use: str, *names: str | int) -> bytes:
    """A 32-byte key for one use in one opening (`epoch`) of a run."""
    info = canonical.encode({"epoch": epoch, "use": use, "names": list(names)})
    return HKDF(hashes.SHA256(), 32, b"genopact.mask.v2", info).derive(secret)


def agree(key: X25519PrivateKey, public: str) -> bytes:
    """The secret shared with a public key. Raises ROSTER_INVALID for one that agrees on nothing (of small order)."""
    with replacing(ValueError, GenopactError("ROSTER_INVALID", "a mask key that agrees on nothing")):
        return key.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public)))


def public_of(key: X25519PrivateKey) -> str:
    """64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def seal(key: bytes, text: bytes, beside: bytes = b"") -> bytes:
    """The text under AES-256-GCM, and `beside` authenticated with it. A key seals once."""
    return AESGCM(key).encrypt(_NONCE, text, beside)


def unseal(key: bytes, sealed: bytes, beside: bytes = b"") -> bytes:
    """The text of `seal`. ValueError for another key, text or `beside`."""
    with replacing(InvalidTag, ValueError("Expected what was sealed under this key")):
        return AESGCM(key).decrypt(_NONCE, sealed, beside)


def shift(words: Words, tag: int, keys: Sequence[tuple[bytes, int]]) -> int:
    """Add (sign 1) or subtract (-1) the stream of each key: to `words` in place, and to the tag that is returned.

    The first 16 bytes of a stream are for the tag (big endian), the rest for the words (little endian).

    Args:
        words: (d,) uint32 or uint64; arithmetic wraps.
        tag: modulo FIELD.
        keys: key and sign.
    """
    ciphers = [(Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor(), sign) for key, sign in keys]
    for cipher, sign in ciphers:
        tag += sign * int.from_bytes(cipher.update(bytes(16)), "big")
    at_once, buffer = CHUNK // words.itemsize, bytearray(CHUNK + 15)
    stream = np.frombuffer(buffer, dtype=words.dtype.newbyteorder("<"), count=at_once)
    for start in range(0, len(words), at_once):  # all streams over one piece, which stays in the cache
        part = words[start : start + at_once]
        for cipher, sign in ciphers:
            cipher.update_into(_ZEROS[: part.nbytes], buffer)
            (np.add if sign > 0 else np.subtract)(part, stream[: len(part)], out=part)
    return tag % FIELD
