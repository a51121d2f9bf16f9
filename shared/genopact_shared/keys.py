"""Ed25519 keys (RFC 8032) and how they rest on disk."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from genopact_shared import durable
from genopact_shared.errors import GenopactError, replacing, require


@dataclass(frozen=True)
class VerifyKey:
    """A public Ed25519 key; `raw` is 32 bytes."""

    raw: bytes

    def __post_init__(self) -> None:
        require(len(self.raw) == 32, "KEY_INVALID", "a public key has 32 bytes")

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Parse 64 hexadecimal digits."""
        with replacing(ValueError, GenopactError("KEY_INVALID", "a public key is 64 hexadecimal digits")):
            return cls(bytes.fromhex(text))

    @property
    def hex(self) -> str:
        """64 hexadecimal digits."""
        return self.raw.hex()

    @property
    def key_id(self) -> str:
        """The first 16 hexadecimal digits of the key's SHA-256: a name, never a proof."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def verify(self, signature: bytes, data: bytes) -> None:
        """Return if the signature holds, else raise SIGNATURE_INVALID."""
        with replacing((InvalidSignature, ValueError), GenopactError("SIGNATURE_INVALID")):
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)


class SigningKey:
    """A private Ed25519 key, of a seed of 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = VerifyKey(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Self:
        """A new key from the operating system's generator."""
        return cls(os.urandom(32))

    def seed(self) -> bytes:
        """The 32 secret bytes."""
        return self._key.private_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """A 64-byte signature."""
        return self._key.sign(data)

    def save(self, path: Path) -> None:
        """Write the seed to a new file that only its owner reads."""
        durable.create(path, f"{self.seed().hex()}\n".encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key that `save` wrote; refuses a file that others can read.

        Raises:
            GenopactError: KEY_MISSING, KEY_EXPOSED, KEY_INVALID.
        """
        secret = durable.read_secret(path)
        with replacing(ValueError, GenopactError("KEY_INVALID", str(path))):
            return cls(bytes.fromhex(secret.decode("ascii")))
