"""Who is which row: the only place where a hospital's patient number meets genopact's row number.

The database holds `pid = HMAC-SHA256(lookup key, "local|" number)` and never a number in clear; the lookup key rests
sealed under the site's key-encryption key. Row i of a person is slot i of the key file and record i of the store.
An erased person keeps the pid as a tombstone, so that a later import cannot bring the person back unnoticed.
"""

import hashlib
import hmac
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import event

from genopact_client import aead
from genopact_client.keyfile import KeyFile
from genopact_shared.errors import GenopactError

_METADATA = sa.MetaData()
_PEOPLE = sa.Table(
    "people",
    _METADATA,
    sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("pid", sa.LargeBinary(32), nullable=False, unique=True),
)
_SETTINGS = sa.Table(
    "settings", _METADATA, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.LargeBinary)
)
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
        self._keyfile = keyfile
        path.touch(mode=0o600)
        self._engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
        event.listen(self._engine, "connect", _pragmas)
        _METADATA.create_all(self._engine)
        self._lookup = self._lookup_key()
        if len(self) > len(keyfile):
            raise GenopactError("KEYFILE_ROLLED_BACK", "fewer keys than people")

    def __len__(self) -> int:
        with self._engine.connect() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(_PEOPLE)).scalar_one()

    def row(self, mrn: str) -> int | None:
        """The row of a patient number, None if it is not enrolled."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(_PEOPLE.c.row).where(_PEOPLE.c.pid == self._pid(mrn))).scalar()

    def find(self, mrns: Sequence[str]) -> NDArray[np.int64]:
        """The rows of patient numbers in their order, -1 where not enrolled. (n,)"""
        with self._engine.connect() as connection:
            known = _rows(connection)
        return np.array([known.get(self._pid(mrn), -1) for mrn in mrns], np.int64)

    def enrol(self, mrns: Sequence[str]) -> NDArray[np.int64]:
        """The rows of patient numbers in their order; those not known yet get the next rows and a key each. (n,)

        Keys are issued before people are written: a crash between leaves keys that the next enrolment uses.
        """
        pids = [self._pid(mrn) for mrn in mrns]
        with self._engine.begin() as connection:
            known = _rows(connection)
            new = [pid for pid in dict.fromkeys(pids) if pid not in known]
            rows = range(len(known), len(known) + len(new))
            if rows.stop > len(self._keyfile):
                self._keyfile.new_many(rows.stop - len(self._keyfile))
            if new:
                fresh = dict(zip(new, rows, strict=True))
                connection.execute(sa.insert(_PEOPLE), [{"row": row, "pid": pid} for pid, row in fresh.items()])
                known |= fresh
        return np.array([known[pid] for pid in pids], np.int64)

    def _pid(self, mrn: str) -> bytes:
        number = unicodedata.normalize("NFC", mrn.strip())
        if not number:
            raise ValueError("an empty patient number")
        return hmac.digest(self._lookup, f"local|{number}".encode(), hashlib.sha256)

    def _lookup_key(self) -> bytes:
        key = self._keyfile.site_key("lookup")
        with self._engine.begin() as connection:
            sealed = connection.execute(sa.select(_SETTINGS.c.value)).scalar()
            if sealed is None:
                if len(self._keyfile):
                    # New people would get the rows, and with them the consents and charges, of those forgotten.
                    raise GenopactError("PEOPLE_MISSING")
                sealed = aead.seal(key, os.urandom(32), _CONTEXT)
                connection.execute(sa.insert(_SETTINGS).values(name="lookup", value=sealed))
        return aead.unseal(key, sealed, _CONTEXT, "KEK_WRONG", "the lookup key does not open")


def _rows(connection: sa.Connection) -> dict[bytes, int]:
    return {pid: row for row, pid in connection.execute(sa.select(_PEOPLE))}


def _pragmas(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode=DELETE", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}").close()
