"""Shares of secrets: any `threshold` of them give the secret, fewer give nothing.

Source: Shamir, "How to share a secret", 1979, over the integers modulo PRIME. An element fills 16 bytes.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence

PRIME = 2**128 - 159
SIZE = 16


def draw() -> int:
    """A uniform element."""
    return secrets.randbelow(PRIME)


def split(secret: int, threshold: int, holders: int) -> list[int]:
    """One share for each holder 0, 1, ...: the values at 1, 2, ... of a random polynomial that is `secret` at 0."""
    coefficients = [secret, *(draw() for _ in range(threshold - 1))]
    shares = []
    for x in range(1, holders + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * x + coefficient) % PRIME
        shares.append(value)
    return shares


def recover(rows: Mapping[int, Sequence[int]]) -> list[int]:
    """The secrets behind the rows of some holders, one share of each secret in a row.

    Fewer holders than the threshold give other numbers.
    """
    weights, columns = _weights(rows), zip(*rows.values(), strict=True)
    return [sum(w * share for w, share in zip(weights, column, strict=True)) % PRIME for column in columns]


def encode(elements: Iterable[int]) -> bytes:
    """16 bytes each, big endian."""
    return b"".join(element.to_bytes(SIZE, "big") for element in elements)


def decode(data: bytes) -> list[int]:
    """The elements of `encode`. ValueError for other bytes."""
    elements = [int.from_bytes(data[at : at + SIZE], "big") for at in range(0, len(data), SIZE)]
    if len(data) % SIZE or max(elements, default=0) >= PRIME:
        raise ValueError("Expected elements of 16 bytes below the prime")
    return elements


def _weights(holders: Iterable[int]) -> list[int]:
    """Lagrange's coefficients at 0: `sum(weight * share)` over these holders is the secret."""
    points, found = [holder + 1 for holder in holders], []
    for own in points:
        above = below = 1
        for other in points:
            if other != own:
                above, below = above * other % PRIME, below * (other - own) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return found
