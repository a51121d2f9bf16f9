"""Pairwise masks: integers modulo 2^64 that cancel in the total over one roster.

First form: every site of the roster has to answer, else the attempt is void and a new one with a new roster follows.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from genopact_shared import canonical
from genopact_shared.errors import GenopactError

Words = NDArray[np.uint64]


class MaskKey:
    """An X25519 key of one site for one run; lives in memory only."""

    def __init__(self) -> None:
        self._key = X25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw().hex()

    def check(self, peers: Iterable[str]) -> None:
        """Return if a secret can be agreed on with each public key. Raises ROSTER_INVALID (a point of small order)."""
        for public in peers:
            try:
                self._key.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public)))
            except ValueError as error:
                raise GenopactError("ROSTER_INVALID", "a mask key that agrees on nothing") from error

    def mask(self, own: str, peers: Mapping[str, str], context: canonical.Json, size: int) -> Words:
        """The sum of this site's pair masks.

        Args:
            own: this site's name.
            peers: name -> public mask key (hex) of every site of the roster, this one included.
            context: what the mask is for (study, run, round, attempt); the roster is bound in here.
            size: number of values.

        Returns:
            (size,) uint64. Over all sites of the roster these add up to zero modulo 2^64.
        """
        bound = {"context": context, "roster": dict(peers)}
        total = np.zeros(size, dtype=np.uint64)
        for name, public in peers.items():
            if name != own:
                stream = self._stream(public, {**bound, "pair": sorted([own, name])}, size)
                total = total + stream if own < name else total - stream
        return total

    def _stream(self, public: str, info: canonical.Json, size: int) -> Words:
        secret = self._key.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public)))
        key = HKDF(hashes.SHA256(), 32, b"genopact.mask.v1", canonical.encode(info)).derive(secret)
        stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * size))
        return np.frombuffer(stream, dtype="<u8").astype(np.uint64)


def wrap(values: NDArray[np.int64]) -> Words:
    """Signed integers as residues modulo 2^64."""
    return values.view(np.uint64)


def unmask(parts: Iterable[Words]) -> NDArray[np.int64]:
    """The signed total of the masked vectors of a whole roster; right if it lies within +-2^63."""
    total: Words | None = None
    for part in parts:
        total = part.copy() if total is None else total + part
    if total is None:
        raise ValueError("Expected at least one masked vector")
    return total.view(np.int64)
