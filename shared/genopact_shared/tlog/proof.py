"""Self-contained inclusion proofs (c2sp.org/tlog-proof): checkpoint, index and path in one text file."""

import base64
import re
from dataclasses import dataclass
from typing import Self

from genopact_shared.errors import GenopactError
from genopact_shared.keys import VerifyKey
from genopact_shared.tlog.note import open_checkpoint, unbase64
from genopact_shared.tlog.tree import HASH_BYTES, Head, leaf_hash, verify_inclusion

HEADER = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True)
class Proof:
    """Entry `index` is in the tree of `checkpoint`. `extra` is opaque and authenticated by nothing."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """The text form, to be kept in a file with the extension .tlog-proof."""
        lines = [HEADER]
        lines += [] if self.extra is None else [f"extra {base64.b64encode(self.extra).decode('ascii')}"]
        lines += [f"index {self.index}", *(base64.b64encode(node).decode("ascii") for node in self.path), "", ""]
        return "\n".join(lines).encode() + self.checkpoint

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the text form; nothing is verified yet.

        Raises:
            GenopactError: NOTE_INVALID.
        """
        head, _, checkpoint = data.partition(b"\n\n")
        try:
            first, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise GenopactError("NOTE_INVALID", "not a proof") from error
        extra = unbase64(lines.pop(0)[6:]) if lines and lines[0].startswith("extra ") else None
        index = _INDEX.fullmatch(lines[0]) if lines else None
        path = tuple(unbase64(line) for line in lines[1:])
        if first != HEADER or index is None or any(len(node) != HASH_BYTES for node in path):
            raise GenopactError("NOTE_INVALID", "not a proof")
        return cls(int(index[1]), path, checkpoint, extra)

    def verify(self, entry: bytes, origin: str, key: VerifyKey) -> Head:
        """The head that the log signed, if `entry` is in it at `index`.

        Raises:
            GenopactError: NOTE_INVALID, SIGNATURE_INVALID, LOG_PROOF_INVALID.
        """
        head = open_checkpoint(self.checkpoint, origin, key)
        verify_inclusion(leaf_hash(entry), self.index, self.path, head)
        return head
