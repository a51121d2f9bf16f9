"""The Merkle tree of RFC 6962, section 2: SHA-256, roots and inclusion proofs."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Self

HASH_BYTES = 32


class Head(NamedTuple):
    """A tree's size (number of leaves) and root (32 bytes)."""

    size: int
    root: bytes


EMPTY = Head(0, hashlib.sha256().digest())


def leaf_hash(entry: bytes) -> bytes:
    """The 32-byte hash of a leaf."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The 32-byte hash of an interior node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """The hashes of all complete subtrees: level k has the roots of the aligned runs of 2^k leaves. 64 bytes a leaf."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        """`leaves`: their hashes."""
        self._levels: list[bytearray] = [bytearray()]
        for leaf in leaves:
            self.append(leaf)

    @classmethod
    def of(cls, entries: Iterable[bytes]) -> Self:
        """The tree of whole entries."""
        return cls(map(leaf_hash, entries))

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its hash: amortised one interior hash."""
        level, node = 0, leaf
        while True:
            if level == len(self._levels):
                self._levels.append(bytearray())
            row = self._levels[level]
            row += node
            if len(row) // HASH_BYTES % 2:
                return
            level, node = level + 1, node_hash(bytes(row[-2 * HASH_BYTES : -HASH_BYTES]), node)

    def head(self, size: int | None = None) -> Head:
        """The head at `size` leaves, by default all.

        Raises:
            ValueError: the tree never had that size.
        """
        size = self._within(self.size if size is None else size)
        return Head(size, self._root(0, size)) if size else EMPTY

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """PATH(index, D[size]) of RFC 6962: at most 63 hashes, from the leaf's sibling upward."""
        if not 0 <= index < self._within(size):
            raise ValueError("Expected 0 <= index < size")
        path, low, high = [], 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            left = index < middle
            path.append(self._root(middle, high) if left else self._root(low, middle))
            low, high = (low, middle) if left else (middle, high)
        return path[::-1]

    def _within(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise ValueError(f"Expected a size from 0 to {self.size}")
        return size

    def _root(self, low: int, high: int) -> bytes:
        width = high - low
        if width & (width - 1) == 0:
            level, start = width.bit_length() - 1, low // width * HASH_BYTES
            return bytes(self._levels[level][start : start + HASH_BYTES])
        middle = low + _split(width)
        return node_hash(self._root(low, middle), self._root(middle, high))


def _split(width: int) -> int:
    """The largest power of two below `width` (at least 2)."""
    return 1 << ((width - 1).bit_length() - 1)
