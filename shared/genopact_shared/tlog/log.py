"""An append-only log in a directory, with one writer.

`entries` holds records: a 16-bit big-endian length, the entry, and its RFC 6962 leaf hash, by which a record that a
crash left half written is told from a whole one. `checkpoint` holds the last signed checkpoint.

Also how entries and proofs are handed over: many entries in one file, as in the entry bundles of c2sp.org/tlog-tiles,
and self-contained inclusion proofs (c2sp.org/tlog-proof): checkpoint, index and path in one text file.
"""

import os
import threading
from array import array
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from genopact_shared import dsse, durable
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.keys import SigningKey
from genopact_shared.tlog.note import open_checkpoint, sign_checkpoint
from genopact_shared.tlog.tree import HASH_BYTES, Tree, leaf_hash

LENGTH_BYTES = 2
MAX_ENTRY_BYTES = 0xFFFF
MAX_RECORD_BYTES = LENGTH_BYTES + MAX_ENTRY_BYTES + HASH_BYTES
HEADER = "c2sp.org/tlog-proof@v1"


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


def encode_proof(index: int, path: Iterable[bytes], checkpoint: bytes) -> bytes:
    """The text form, to be kept in a file with the extension .tlog-proof; the coordinator's `sitelogs` reads it."""
    lines = [HEADER, f"index {index}", *map(dsse.in_base64, path), "", ""]
    return "\n".join(lines).encode() + checkpoint


class Log(AbstractContextManager["Log"]):
    """The log of one party; `origin` is its name in checkpoints (no spaces, no plus). Threads may share it.

    Guarantees:
        An entry whose number was returned survives the end of the process and of the machine's power.
        A directory that lost or changed an entry below its signed checkpoint does not open.

    Assumptions:
        The directory is on a local file system that honours fsync and flock. A directory restored as a whole from
        yesterday's backup looks honest from inside; `must_extend` with a checkpoint that someone else holds finds it.
    """

    def __init__(self, path: Path, key: SigningKey, origin: str) -> None:
        """Open or create.

        Raises:
            GenopactError: LOG_LOCKED, LOG_BROKEN.
        """
        self.origin, self._path, self._key = origin, path, key
        self._mutex, self._tree, self._ends = threading.RLock(), Tree(), array("Q", [0])
        self.cut = 0
        """Bytes of an unacknowledged entry that opening removed; the caller records them as an incident."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.sync_folder(path.parent)
        self._file = durable.take_lock(path / "entries", "LOG_LOCKED")
        try:
            self._recover()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; the log answers nothing afterwards."""
        with self._mutex:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    @property
    def size(self) -> int:
        """Number of entries."""
        return self._tree.size

    def append(self, entry: bytes) -> int:
        """Store an entry of 1 to 65,535 bytes durably; returns its number.

        Raises:
            GenopactError: LOG_ENTRY_INVALID; LOG_WRITE_FAILED, after which the log must be opened again.
        """
        leaf = leaf_hash(entry)
        record = pack([entry]) + leaf
        with self._mutex:
            try:
                if os.pwrite(self._file, record, self._ends[-1]) != len(record):
                    raise OSError("short write")
                os.fsync(self._file)
            except OSError as error:
                # After a failed fsync the kernel may drop the pages: only reading the file again tells what is there.
                self.close()
                raise GenopactError("LOG_WRITE_FAILED", str(self._path)) from error
            self._tree.append(leaf)
            self._ends.append(self._ends[-1] + len(record))
            return self.size - 1

    def checkpoint(self) -> bytes:
        """A signed checkpoint of all entries, stored durably before it is returned."""
        with self._mutex:
            note = sign_checkpoint(self._tree.head(), self.origin, self._key)
            self._require_open()
            durable.replace(self._path / "checkpoint", note)
            return note

    def entry(self, index: int) -> bytes:
        """Entry number `index`.

        Raises:
            IndexError: no such entry.
        """
        with self._mutex:
            if not 0 <= index < self.size:
                raise IndexError(index)
            self._require_open()
            start, end = self._ends[index] + LENGTH_BYTES, self._ends[index + 1] - HASH_BYTES
            return os.pread(self._file, end - start, start)

    def entries(self) -> Iterator[bytes]:
        """All entries in order, up to the size at the time of the call."""
        return map(self.entry, range(self.size))

    def export(self) -> tuple[bytes, bytes]:
        """All entries, packed, and a checkpoint that covers exactly them."""
        with self._mutex:
            return pack(self.entries()), self.checkpoint()

    def proof(self, index: int) -> bytes:
        """The tlog-proof of an entry under a checkpoint of all entries, which is signed now."""
        with self._mutex:
            path = self._tree.inclusion(index, self.size)
            return encode_proof(index, path, self.checkpoint())

    def must_extend(self, checkpoint: bytes) -> None:
        """Return if this log contains everything that a checkpoint of it, kept elsewhere, covers.

        Raises:
            GenopactError: NOTE_INVALID, SIGNATURE_INVALID, LOG_ROLLED_BACK.
        """
        with self._mutex:
            head = open_checkpoint(checkpoint, self.origin, self._key.public)
            require(head.size <= self.size and self._tree.head(head.size) == head, "LOG_ROLLED_BACK", str(self._path))

    def _recover(self) -> None:
        """The entries have to reproduce the stored checkpoint; a new log, and only a new one, has none yet."""
        torn, signed = self._read_records(), self._path / "checkpoint"
        broken = GenopactError("LOG_BROKEN", str(self._path))
        if signed.exists():
            with replacing(GenopactError, broken):
                self.must_extend(signed.read_bytes())
        elif self.size or torn:
            raise broken
        else:
            self.checkpoint()
        if torn:
            os.ftruncate(self._file, self._ends[-1])
            os.fsync(self._file)
            self.cut = torn

    def _read_records(self) -> int:
        """Load whole records; returns how many bytes follow the last of them."""
        with open(self._file, "rb", buffering=1 << 20, closefd=False) as file:
            while header := file.read(LENGTH_BYTES):
                length = int.from_bytes(header, "big")
                body = file.read(length + HASH_BYTES)
                leaf = leaf_hash(body[:length])
                if not length or body[length:] != leaf:
                    rest = header + body + file.read(MAX_RECORD_BYTES)
                    require(_torn(rest), "LOG_BROKEN", f"entry {self.size} of {self._path}")
                    return len(rest)
                self._tree.append(leaf)
                self._ends.append(self._ends[-1] + len(header) + len(body))
        return 0

    def _require_open(self) -> None:
        require(self._file >= 0, "LOG_WRITE_FAILED", f"{self._path} is closed")


def _torn(rest: bytes) -> bool:
    """Whether the end of the file is what one interrupted append leaves: its start, or zeros in place of its end."""
    wanted = LENGTH_BYTES + int.from_bytes(rest[:LENGTH_BYTES], "big") + HASH_BYTES
    if len(rest) > MAX_RECORD_BYTES:
        return False
    return len(rest) < wanted or not any(rest) or (len(rest) == wanted and not any(rest[-HASH_BYTES:]))
