"""Self-contained inclusion proofs (c2sp.org/tlog-proof): checkpoint, index and path in one text file."""

import base64
from collections.abc import Iterable

HEADER = "c2sp.org/tlog-proof@v1"


def encode_proof(index: int, path: Iterable[bytes], checkpoint: bytes) -> bytes:
    """The text form, to be kept in a file with the extension .tlog-proof; the coordinator's `sitelogs` reads it."""
    lines = [HEADER, f"index {index}", *(base64.b64encode(node).decode("ascii") for node in path), "", ""]
    return "\n".join(lines).encode() + checkpoint
