"""Sealed consent records in SQLite: of each person the newest version, and a commitment to all of them.

A record is sealed with AES-256-GCM under the person's own consent key; associated data bind it to its row and
version. In clear are row, version and a salted commitment, the person's leaf of an RFC 6962 tree:

    with a record     leaf_hash(salt 16 | row u64 | version u64 | status | 0x00 | SHA-256 of the record)
    without one       leaf_hash("none" or "erased" | row u64 | version u64)

Guarantees:
    A record that was changed, moved, exchanged or put back to an earlier version does not open.
Assumptions:
    A database put back as a whole looks honest from inside; its root against the witnessed log finds it.
"""

import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from genopact_client import aead
from genopact_client.consent.record import ConsentRecord, Status
from genopact_client.keyfile import KeyFile
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.tlog.tree import leaf_hash

SCHEMA = "genopact.consent/1"
SALT = 16
_PRAGMAS = ("busy_timeout=5000", "journal_mode=WAL", "secure_delete=ON", "synchronous=FULL", "temp_store=MEMORY")
_TABLES = """
CREATE TABLE IF NOT EXISTS consent (
    row INTEGER PRIMARY KEY, version INTEGER NOT NULL, leaf BLOB NOT NULL, sealed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS head (only INTEGER PRIMARY KEY CHECK (only = 0), size INTEGER NOT NULL, root BLOB NOT NULL);
INSERT OR IGNORE INTO head VALUES (0, 0, x'');
"""

Head = tuple[int, bytes]


class Entry(NamedTuple):
    """A row's newest version. `record` is None after an erasure, `sealed` is empty then."""

    row: int
    version: int
    leaf: bytes
    sealed: bytes
    record: ConsentRecord | None


class Vault:
    """The database. Not safe for several threads by itself."""

    def __init__(self, path: Path, keys: KeyFile) -> None:
        """Open or create; CONSENT_BROKEN if it is no database of ours."""
        self._keys = keys
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        with replacing(sqlite3.DatabaseError, GenopactError("CONSENT_BROKEN", "the database does not open")):
            for pragma in _PRAGMAS:
                self._db.execute(f"PRAGMA {pragma}").close()
            self._db.executescript(_TABLES)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction; other writers wait, an exception undoes it."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One state of the database, whatever others write; also inside `writing`."""
        with nullcontext() if self._db.in_transaction else self._db:
            if not self._db.in_transaction:
                self._db.execute("BEGIN")
            yield

    def head(self) -> Head:
        """Number of leaves and root at the last write; CONSENT_BROKEN."""
        rows: list[Head] = self._db.execute("SELECT size, root FROM head").fetchall()
        require(len(rows) == 1, "CONSENT_BROKEN", "the commitment is gone")
        return rows[0]

    def set_head(self, head: Head) -> None:
        """Commit to all leaves; inside `writing`."""
        self._db.execute("UPDATE head SET size = ?, root = ?", head)

    def entries(self) -> Iterator[Entry]:
        """All entries in the order of rows, opened and checked; CONSENT_BROKEN."""
        return self._opened(self._db.execute("SELECT row, version, leaf, sealed FROM consent ORDER BY row").fetchall())

    def entry(self, row: int) -> Entry | None:
        """The entry of one row; CONSENT_BROKEN."""
        rows = self._db.execute("SELECT row, version, leaf, sealed FROM consent WHERE row = ?", (row,)).fetchall()
        return next(self._opened(rows), None)

    def put(self, row: int, version: int, record: ConsentRecord | None) -> bytes:
        """Seal a version, or leave a tombstone for None; returns the leaf. Inside `writing`."""
        if record is None:
            leaf, sealed = silent_leaf(b"erased", row, version), b""
        else:
            plain = os.urandom(SALT) + record.encode()
            leaf = _leaf(plain, row, version, record.status)
            sealed = aead.seal(self._keys.key(row, "consent"), plain, _context(row, version))
        self._db.execute("INSERT OR REPLACE INTO consent VALUES (?, ?, ?, ?)", (row, version, leaf, sealed))
        return leaf

    def scrub(self) -> bool:
        """Leave no byte of replaced records in the write-ahead log; False if another process still reads it."""
        busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def _opened(self, stored: list[tuple[int, int, bytes, bytes]]) -> Iterator[Entry]:
        """Entries of database rows; a record whose key was erased has none."""
        alive = self._keys.alive(np.array([row for row, *_ in stored], np.int64))
        wanted = [row for (row, _, _, sealed), living in zip(stored, alive, strict=True) if sealed and living]
        keys = dict(zip(wanted, self._keys.keys(wanted, "consent"), strict=True))
        for row, version, leaf, sealed in stored:
            record, expected = None, silent_leaf(b"erased", row, version)
            if sealed and row not in keys:
                expected = leaf
            elif sealed:
                context, broken = _context(row, version), f"row {row} cannot be unsealed"
                plain = aead.unseal(keys[row], sealed, context, "CONSENT_BROKEN", broken)
                record = ConsentRecord.parse(plain[SALT:])
                expected = _leaf(plain, row, version, record.status)
            require(leaf == expected, "CONSENT_BROKEN", f"row {row} is not what was committed to")
            yield Entry(row, version, leaf, sealed, record)


def silent_leaf(kind: Literal[b"none", b"erased"], row: int, version: int = 0) -> bytes:
    """The leaf of a row without a record."""
    return leaf_hash(kind + struct.pack(">QQ", row, version))


def _leaf(plain: bytes, row: int, version: int, status: Status) -> bytes:
    salt, digest = plain[:SALT], sha256(plain[SALT:]).digest()
    return leaf_hash(salt + struct.pack(">QQ", row, version) + status.encode() + b"\x00" + digest)


def _context(row: int, version: int) -> bytes:
    return f"{SCHEMA}|{row}|{version}".encode()
