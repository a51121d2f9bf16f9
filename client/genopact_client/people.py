"""Who is which row: the only place where a hospital's patient number meets genopact's row number.

The database holds `pid = HMAC-SHA256(lookup key, "local|" number)` and never a number in clear; the lookup key rests
sealed under the site's key-encryption key. Row i of a person is slot i of the key file and record i of the store.
An erased person keeps the pid as a tombstone, so that a later import cannot bring the person back unnoticed.
"""

import hmac
import os
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genopact_client import aead
from genopact_client.keyfile import KeyFile
from genopact_shared.errors import require

_PRAGMAS = "PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;"
_TABLES = """
CREATE TABLE IF NOT EXISTS people (row INTEGER NOT NULL PRIMARY KEY, pid BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS settings (name TEXT NOT NULL PRIMARY KEY, value BLOB);
"""
_CONTEXT = b"genopact.lookup/1"


class People:
    """The people of one site, by row. Rows are dense: 0 .. n-1."""

    def __init__(self, path: Path, keyfile: KeyFile) -> None:
        """Open or create the database.

        Args:
            path: the SQLite file.
            keyfile: gives each person a key, and seals the lookup key.

        Raises:
            GenopactError: KEK_WRONG; KEYFILE_ROLLED_BACK if there are more people than keys; PEOPLE_MISSING if there
                are keys of people, but the database is new.
        """
        self._path, self._keyfile = path, keyfile
        path.touch(mode=0o600)
        with self._connected() as database:
            database.executescript(_TABLES)  # once: a database that is lost while people are open is no empty one
        self._lookup = self._lookup_key()
        require(len(self) <= len(keyfile), "KEYFILE_ROLLED_BACK", "fewer keys than people")

    def __len__(self) -> int:
        with self._connected() as database:
            return int(database.execute("SELECT count(*) FROM people").fetchone()[0])

    def row(self, mrn: str) -> int | None:
        """The row of a patient number, None if it is not enrolled."""
        with self._connected() as database:
            found = database.execute("SELECT row FROM people WHERE pid = ?", (self._pid(mrn),)).fetchone()
        return found and int(found[0])

    def find(self, mrns: Sequence[str]) -> NDArray[np.int64]:
        """The rows of patient numbers in their order, -1 where not enrolled. (n,)"""
        with self._connected() as database:
            known = _rows(database)
        return np.array([known.get(self._pid(mrn), -1) for mrn in mrns], np.int64)

    def enrol(self, mrns: Sequence[str]) -> NDArray[np.int64]:
        """The rows of patient numbers in their order; those not known yet get the next rows and a key each. (n,)

        Keys are issued before people are written: a crash between leaves keys that the next enrolment uses.
        """
        pids = [self._pid(mrn) for mrn in mrns]
        with self._connected() as database, database:
            database.execute("BEGIN IMMEDIATE")
            known = _rows(database)
            new = [pid for pid in dict.fromkeys(pids) if pid not in known]
            fresh = dict(zip(new, range(len(known), len(known) + len(new)), strict=True))
            known |= fresh
            if len(known) > len(self._keyfile):
                self._keyfile.new_many(len(known) - len(self._keyfile))
            database.executemany("INSERT INTO people (pid, row) VALUES (?, ?)", fresh.items())
        return np.array([known[pid] for pid in pids], np.int64)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own: threads may share the object."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as database:
            database.executescript(_PRAGMAS)
            yield database

    def _pid(self, mrn: str) -> bytes:
        number = unicodedata.normalize("NFC", mrn.strip())
        if not number:
            raise ValueError("an empty patient number")
        return hmac.digest(self._lookup, f"local|{number}".encode(), "sha256")

    def _lookup_key(self) -> bytes:
        key = self._keyfile.site_key("lookup")
        with self._connected() as database, database:
            database.execute("BEGIN IMMEDIATE")
            found = database.execute("SELECT value FROM settings WHERE name = 'lookup'").fetchone()
            if found is None:
                # New people would get the rows, and with them the consents and charges, of those forgotten.
                require(not len(self._keyfile), "PEOPLE_MISSING")
                found = (aead.seal(key, os.urandom(32), _CONTEXT),)
                database.execute("INSERT INTO settings VALUES ('lookup', ?)", found)
        return aead.unseal(key, found[0], _CONTEXT, "KEK_WRONG", "the lookup key does not open")


def _rows(database: sqlite3.Connection) -> dict[bytes, int]:
    return dict(database.execute("SELECT pid, row FROM people"))
