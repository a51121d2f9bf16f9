"""The site's key-encryption key: 32 random bytes, sealed under a passphrase (Argon2id, RFC 9106; AES-256-GCM).

file = "GENOKEK1" | salt 16 | nonce 12 | sealed key 48
"""

import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from genopact_shared import durable
from genopact_shared.errors import GenopactError

MAGIC = b"GENOKEK1"
_MEMORY_KIB, _PASSES, _LANES = 64 * 1024, 3, 4


class Kek:
    """Creates and opens the file of a key-encryption key."""

    @staticmethod
    def create(path: Path, passphrase: bytes) -> bytes:
        """A new key-encryption key, kept at `path`; KEY_EXISTS if there is one, KEK_WRONG for an empty passphrase."""
        if path.exists():
            raise GenopactError("KEY_EXISTS", str(path))
        kek, head, nonce = os.urandom(32), MAGIC + os.urandom(16), os.urandom(12)
        durable.replace(path, head + nonce + AESGCM(_stretch(passphrase, head)).encrypt(nonce, kek, head))
        return kek

    @staticmethod
    def open(path: Path, passphrase: bytes) -> bytes:
        """The 32-byte key-encryption key.

        Raises:
            GenopactError: KEY_MISSING, KEY_INVALID (not such a file), KEK_WRONG.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise GenopactError("KEY_MISSING", str(path)) from error
        if len(data) != 84 or data[:8] != MAGIC:
            raise GenopactError("KEY_INVALID", str(path))
        head = data[:24]
        try:
            return AESGCM(_stretch(passphrase, head)).decrypt(data[24:36], data[36:], head)
        except InvalidTag as error:
            raise GenopactError("KEK_WRONG") from error


def read_passphrase(path: Path) -> bytes:
    """The passphrase in a file, without surrounding white space; refuses a file that others can read.

    Raises:
        GenopactError: KEY_MISSING, KEY_EXPOSED.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise GenopactError("KEY_EXPOSED", str(path))
        return path.read_bytes().strip()
    except FileNotFoundError as error:
        raise GenopactError("KEY_MISSING", str(path)) from error


def _stretch(passphrase: bytes, head: bytes) -> bytes:
    if not passphrase:
        raise GenopactError("KEK_WRONG", "the passphrase is empty")
    salt = head[len(MAGIC) :]
    stretch = Argon2id(salt=salt, length=32, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY_KIB)
    return stretch.derive(passphrase)
