"""One append-only file of sealed, chained records.

    frame   length u32 | CRC-32 of the length | nonce 12 | AES-256-GCM of (digest of the frame before, 32 | body)

Associated data are the format's name and the frame's number. The checksum tells a length that was damaged from a
frame that a crash cut off: only the latter may be removed, because nobody was told that it was written.

Guarantees:
    A body whose number was returned survives the end of the process and of the machine's power.
    A frame that was changed, moved, removed from the middle or taken from another file does not open.
Assumptions:
    A file that lost whole frames at its end looks honest from inside; `head` against the witnessed log finds it.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from genopact_client import aead
from genopact_shared import durable
from genopact_shared.errors import GenopactError, require

CONTEXT = b"genopact.ledger/1"
NONCE, TAG, DIGEST, HEADER = 12, 16, 32, 8
LEAST, MOST = NONCE + DIGEST + TAG, 1 << 30


class LedgerFile:
    """The file, locked and open for appending. Not safe for several threads by itself."""

    def __init__(self, path: Path, key: bytes) -> None:
        """Open and lock; `bodies` has to be read to its end before anything is appended.

        Raises:
            GenopactError: LEDGER_MISSING, LEDGER_LOCKED.
        """
        require(path.exists(), "LEDGER_MISSING", str(path))
        self.cut = 0
        """Bytes of an unacknowledged frame that opening removed; the caller records them as an incident."""
        self._path, self._key, self._read = path, key, False
        self._count, self._end, self._last = 0, 0, bytes(DIGEST)
        self._heads: set[bytes] = set()
        self._file = durable.take_lock(path, "LEDGER_LOCKED")

    @staticmethod
    def create(path: Path, key: bytes, body: bytes) -> None:
        """A new file with its first body; LEDGER_EXISTS if there is one."""
        require(not path.exists(), "LEDGER_EXISTS", str(path))
        durable.replace(path, _sealed(key, 0, bytes(DIGEST), body))

    @property
    def head(self) -> str:
        """Digest of the last frame, 64 hexadecimal digits: it commits to every frame before."""
        return self._last.hex()

    def extends(self, head: str) -> bool:
        """Whether `head` was that of this file after one of its frames."""
        return bytes.fromhex(head) in self._heads

    def close(self) -> None:
        """Release the lock; nothing can be appended afterwards."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def bodies(self) -> Iterator[bytes]:
        """All bodies in order; then removes a frame that a crash cut off.

        Raises:
            GenopactError: LEDGER_BROKEN.
        """
        data = self._path.read_bytes()
        while (frame := self._frame(data)) is not None:
            yield self._opened(frame)
        require(self._count, "LEDGER_BROKEN", "not even the first record is whole")
        self.cut = len(data) - self._end
        if self.cut:
            os.ftruncate(self._file, self._end)
            os.fsync(self._file)
        self._read = True

    def append(self, body: bytes) -> int:
        """Seal and fsync; returns the frame's number.

        Raises:
            GenopactError: LEDGER_BROKEN; the file has to be opened again.
        """
        require(self._file >= 0 and self._read, "LEDGER_BROKEN", "closed after a failure, or never read")
        frame = _sealed(self._key, self._count, self._last, body)
        try:
            if os.pwrite(self._file, frame, self._end) != len(frame):
                raise OSError("short write")
            os.fsync(self._file)
        except OSError as error:
            # After a failed fsync only reading the file again tells what is on the disk.
            self.close()
            raise GenopactError("LEDGER_BROKEN", "a write failed") from error
        self._advance(frame)
        return self._count - 1

    def _frame(self, data: bytes) -> bytes | None:
        """The next frame, None at the end or where one was cut off."""
        header = data[self._end : self._end + HEADER]
        if len(header) < HEADER:
            return None
        length, check = struct.unpack(">II", header)
        if check != zlib.crc32(header[:4]) or not LEAST <= length <= MOST:
            raise GenopactError("LEDGER_BROKEN", f"record {self._count} has no length")
        frame = data[self._end : self._end + HEADER + length]
        return frame if len(frame) == HEADER + length else None

    def _opened(self, frame: bytes) -> bytes:
        fault = f"record {self._count} does not open"
        plain = aead.unseal(self._key, frame[HEADER:], _context(self._count), "LEDGER_BROKEN", fault)
        if plain[:DIGEST] != self._last:
            raise GenopactError("LEDGER_BROKEN", f"record {self._count} does not follow the one before")
        self._advance(frame)
        return plain[DIGEST:]

    def _advance(self, frame: bytes) -> None:
        self._count, self._end, self._last = self._count + 1, self._end + len(frame), sha256(frame).digest()
        self._heads.add(self._last)


def _context(number: int) -> bytes:
    return CONTEXT + struct.pack(">Q", number)


def _sealed(key: bytes, number: int, last: bytes, body: bytes) -> bytes:
    sealed = aead.seal(key, last + body, _context(number))
    length = struct.pack(">I", len(sealed))
    return length + struct.pack(">I", zlib.crc32(length)) + sealed
