"""Shares of secrets: any `threshold` of them give the secret, fewer give nothing. The coordinator recovers.

Source: Shamir, "How to share a secret", 1979, over the integers modulo PRIME. An element fills 16 bytes.
"""

import secrets
from collections.abc import Iterable

PRIME = 2**128 - 159
SIZE = 16


def draw() -> int:
    """A uniform element."""
    return secrets.randbelow(PRIME)


def split(secret: int, threshold: int, holders: int) -> list[int]:
    """One share for each holder 0, 1, ...: the values at 1, 2, ... of a random polynomial that is `secret` at 0."""
    coefficients = [secret, *(draw() for _ in range(threshold - 1))]
    shares = [0] * holders
    for coefficient in reversed(coefficients):
        shares = [(value * x + coefficient) % PRIME for x, value in enumerate(shares, 1)]
    return shares


def encode(elements: Iterable[int]) -> bytes:
    """16 bytes each, big endian."""
    return b"".join(element.to_bytes(SIZE, "big") for element in elements)


def decode(data: bytes) -> list[int]:
    """The elements of `encode`. ValueError for other bytes."""
    elements = [int.from_bytes(data[at : at + SIZE], "big") for at in range(0, len(data), SIZE)]
    if len(data) % SIZE or max(elements, default=0) >= PRIME:
        raise ValueError("Expected elements of 16 bytes below the prime")
    return elements
