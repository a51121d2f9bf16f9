"""A linear authentication code over the total, under a key that the sites share and the coordinator does not know.

Each site tags its own integers; the sum of the tags is the tag of the sum. Source: Wegman and Carter, 1981, universal
hashing with a one-time pad, over the prime field of 2^61 - 1.

Guarantees:
    Without the key, another total of integers within +-LIMIT passes with a chance of at most 2^-60 a try.
Assumptions:
    A key serves one vector length and one round, a pad one vector. Any one site that gives away the key voids the code;
    it says nothing about what a site put in.
"""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

FIELD = 2**61 - 1
LIMIT = FIELD // 2
"""Integers beyond it would share their residue, and so their tag, with others."""
PIECE = 1 << 14


def tag(values: NDArray[np.int64], key: bytes, pad: int) -> int:
    """The code of (d,) integers under 32 bytes of key for this round, plus the pad of whoever contributes them."""
    cipher, total = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor(), pad
    for start in range(0, len(values), PIECE):
        piece = values[start : start + PIECE]
        coefficients = np.frombuffer(cipher.update(bytes(8 * len(piece))), dtype="<u8") & np.uint64(FIELD)
        total += _dot(coefficients, piece)
    return total % FIELD


def _dot(coefficients: NDArray[np.uint64], values: NDArray[np.int64]) -> int:
    """The exact sum of products, by halves of 32 bits and the halves of their products."""
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    least = int(values.min(initial=0))
    shifted = (values - least).view(np.uint64)  # no sign; wraps to the right word
    words = [shifted] if int(shifted.max(initial=0)) <= int(low) else [shifted & low, shifted >> high]
    total = least * int((coefficients & low).sum()) + (least * int((coefficients >> high).sum()) << 32)
    for i, half in enumerate((coefficients & low, coefficients >> high)):
        for j, word in enumerate(words):
            product = half * word
            total += (int((product & low).sum()) + (int((product >> high).sum()) << 32)) << 32 * (i + j)
    return total
