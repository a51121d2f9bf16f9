"""Many entries in one file, as in the entry bundles of c2sp.org/tlog-tiles: a 16-bit big-endian length before each."""

from collections.abc import Iterable

from genopact_shared.errors import require

LENGTH_BYTES = 2
MAX_ENTRY_BYTES = 0xFFFF


def pack(entries: Iterable[bytes]) -> bytes:
    """Concatenate entries.

    Raises:
        GenopactError: LOG_ENTRY_INVALID for an entry that is empty or above 65,535 bytes.
    """
    parts = []
    for entry in entries:
        require(0 < len(entry) <= MAX_ENTRY_BYTES, "LOG_ENTRY_INVALID", f"{len(entry)} bytes")
        parts.append(len(entry).to_bytes(LENGTH_BYTES, "big") + entry)
    return b"".join(parts)
