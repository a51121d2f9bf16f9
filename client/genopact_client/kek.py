"""The site's key-encryption key: 32 random bytes, sealed under a passphrase (Argon2id, RFC 9106; AES-256-GCM).

file = "GENOKEK1" | salt 16 | nonce 12 | sealed key 48
"""

import os
from pathlib import Path

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from genopact_client import aead
from genopact_shared import durable
from genopact_shared.errors import require

MAGIC = b"GENOKEK1"
_MEMORY_KIB, _PASSES, _LANES = 64 * 1024, 3, 4


def create_kek(path: Path, passphrase: bytes) -> bytes:
    """A new key-encryption key, kept at `path`; KEY_EXISTS if there is one, KEK_WRONG for an empty passphrase."""
    require(not path.exists(), "KEY_EXISTS", str(path))
    kek, head = os.urandom(32), MAGIC + os.urandom(16)
    durable.replace(path, head + aead.seal(_stretch(passphrase, head), kek, head))
    return kek


def open_kek(path: Path, passphrase: bytes) -> bytes:
    """The 32-byte key-encryption key.

    Raises:
        GenopactError: KEY_MISSING, KEY_INVALID (not such a file), KEK_WRONG.
    """
    data = durable.read(path, "KEY_MISSING")
    require(len(data) == 84 and data[:8] == MAGIC, "KEY_INVALID", str(path))
    head = data[:24]
    return aead.unseal(_stretch(passphrase, head), data[24:], head, "KEK_WRONG")


def _stretch(passphrase: bytes, head: bytes) -> bytes:
    require(passphrase, "KEK_WRONG", "the passphrase is empty")
    stretch = Argon2id(salt=head[len(MAGIC) :], length=32, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY_KIB)
    return stretch.derive(passphrase)
