"""Reading what sites write of their logs: many entries in one file, and inclusion proofs (c2sp.org/tlog-proof)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.keys import VerifyKey
from genopact_shared.tlog.log import HEADER, LENGTH_BYTES
from genopact_shared.tlog.note import open_checkpoint, unbase64
from genopact_shared.tlog.tree import HASH_BYTES, Head, leaf_hash, node_hash

_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


def log_origin(party: str) -> str:
    """The origin of a party's exchanged log."""
    return f"genopact/{party}"


@dataclass(frozen=True)
class Proof:
    """Entry `index` is in the tree of `checkpoint`. An `extra` line, which nothing authenticates, is passed over."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the text form; nothing is verified yet.

        Raises:
            GenopactError: NOTE_INVALID.
        """
        head, _, checkpoint = data.partition(b"\n\n")
        with replacing(UnicodeDecodeError, GenopactError("NOTE_INVALID", "not a proof")):
            first, *lines = head.decode("ascii").split("\n")
        if lines and lines[0].startswith("extra "):
            unbase64(lines.pop(0)[6:])
        index = _INDEX.fullmatch(lines[0]) if lines else None
        path = tuple(unbase64(line) for line in lines[1:])
        if first != HEADER or index is None or any(len(node) != HASH_BYTES for node in path):
            raise GenopactError("NOTE_INVALID", "not a proof")
        return cls(int(index[1]), path, checkpoint)

    def verify(self, entry: bytes, origin: str, key: VerifyKey) -> Head:
        """The head that the log signed, if `entry` is in it at `index`.

        Raises:
            GenopactError: NOTE_INVALID, SIGNATURE_INVALID, LOG_PROOF_INVALID.
        """
        head = open_checkpoint(self.checkpoint, origin, key)
        verify_inclusion(leaf_hash(entry), self.index, self.path, head)
        return head


def verify_inclusion(leaf: bytes, index: int, path: Sequence[bytes], head: Head) -> None:
    """Return if `path` proves that the leaf with hash `leaf` is number `index` of the tree (RFC 9162, 2.1.3.2).

    Raises:
        GenopactError: LOG_PROOF_INVALID.
    """
    require(0 <= index < head.size, "LOG_PROOF_INVALID", "index outside the tree")
    node, last, root = index, head.size - 1, leaf
    for sibling in path:
        require(last, "LOG_PROOF_INVALID", "too many hashes")
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        node, last = node >> 1, last >> 1
    require(not last and root == head.root, "LOG_PROOF_INVALID", "the root does not follow")


def unpack(data: bytes) -> tuple[bytes, ...]:
    """The entries of `tlog.log.pack`.

    Raises:
        GenopactError: LOG_ENTRY_INVALID for an empty or cut entry.
    """
    entries, at = [], 0
    while at < len(data):
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "big")
        require(start < at <= len(data), "LOG_ENTRY_INVALID", "an empty or cut entry")
        entries.append(data[start:at])
    return tuple(entries)
