"""The consent registry: what each person decided, and who permits a purpose today."""

import datetime as dt
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_client.consent.index import ERASED, ColumnIndex
from genopact_client.consent.record import ConsentRecord, Scope, Withdrawal
from genopact_client.consent.vault import Head, Vault, silent_leaf
from genopact_client.keyfile import KeyFile
from genopact_client.people import People
from genopact_shared.errors import GenopactError, require
from genopact_shared.study import Purpose
from genopact_shared.tlog.tree import Tree


class Permission(NamedTuple):
    """Who permits a purpose on one day.

    `rows` (n,) bool; n = `size` = number of enrolled people = number of leaves under `registry_root`. `cap` (n,)
    int64: the person's own lifetime limit in thousandths of epsilon, very large for none. `reasons`: rows for each
    code of the matcher; a row can have several. The reasons are for the site's private log only.
    """

    rows: NDArray[np.bool_]
    cap: NDArray[np.int64]
    registry_root: str
    size: int
    reasons: dict[str, int]


class Registry:
    """The consents of one site. Threads may share it; another process's change is seen at the next question.

    Guarantees:
        A withdrawal or erasure that returned is in force for every later `permitted`.
        A person without a record, without a key, or with a record that does not open is never permitted.
    """

    def __init__(self, path: Path, keyfile: KeyFile, people: People) -> None:
        """Open or create the database; erasures that a crash cut short are finished.

        Raises:
            GenopactError: CONSENT_BROKEN.
        """
        self._keys, self._people, self._mutex = keyfile, people, threading.RLock()
        self._vault = Vault(path, keyfile)
        self._head: Head | None = None
        self._published: Head = 0, b""
        with self._mutex:
            self._refresh()
            for row in np.flatnonzero(self._index.profile == ERASED).tolist():
                entry = self._vault.entry(row)
                if entry and (entry.sealed or not self.erased(row)):  # the record or the key is still there
                    self.erase(row)

    def close(self) -> None:
        """Close the database."""
        self._vault.close()

    def permitted(self, purpose: Purpose, on: dt.date) -> Permission:
        """Who permits the purpose on that day: decided anew at each call."""
        with self._mutex:
            self._refresh()
            size = max(len(self._people), len(self._leaves))  # with those who were enrolled since the last write
            self._index.resize(size)
            self._leaves += [silent_leaf(b"none", row) for row in range(len(self._leaves), size)]
            rows, reasons = self._index.evaluate(purpose, on)
            rows &= self._keys.alive(np.arange(size))
            if self._published[0] != size or not size:
                self._published = Tree(self._leaves).head()
            return Permission(rows, self._index.cap.copy(), self._published[1].hex(), size, dict(reasons))

    def get(self, row: int) -> ConsentRecord | None:
        """A person's newest record; None if there is none or it was erased."""
        with self._mutex:
            entry = self._vault.entry(row)
            return entry.record if entry else None

    def erased(self, row: int) -> bool:
        """Whether the person's keys are gone."""
        return not self._keys.alive(np.array([row]))[0]

    def record(self, row: int, record: ConsentRecord) -> None:
        """Store a person's newest decision."""
        self.record_many({row: record})

    def record_many(self, records: Mapping[int, ConsentRecord]) -> int:
        """Store decisions, all or none; returns how many changed anything.

        A withdrawal stays on record: only a permit that begins after its day is permitted again.

        Raises:
            GenopactError: CONSENT_UNKNOWN_PERSON, CONSENT_INVALID; KEY_ERASED for an erased person.
        """
        changed = 0
        with self._writing():
            for row, record in records.items():
                self._check(row)
                old = self._vault.entry(row)
                new = ConsentRecord.parse(_after(old.record if old else None, record).encode())
                if old is None or new != old.record:
                    self._place(row, self._vault.put(row, old.version + 1 if old else 1, new), new)
                    changed += 1
        return changed

    def withdraw(self, row: int, scope: Scope, at: dt.date) -> None:
        """Record a withdrawal, in force at once whatever `at` says; scope "erase" erases the person."""
        if scope == "erase":
            self.erase(row)
            return
        with self._mutex:
            withdrawal = Withdrawal(at=at, scope=scope)
            old = self.get(row) or ConsentRecord.silent("withdrawn")
            self.record(row, old.model_copy(update={"status": "withdrawn", "withdrawal": withdrawal}))

    def erase(self, row: int) -> None:
        """Destroy a person's record and all keys of the person; repeating it does no harm.

        Raises:
            GenopactError: CONSENT_UNKNOWN_PERSON; CONSENT_ERASE_PENDING if another process still reads old pages.
        """
        with self._mutex:
            with self._writing():
                self._check(row)
                old = self._vault.entry(row)
                if old is None or old.sealed:
                    self._place(row, self._vault.put(row, old.version + 1 if old else 1, None), None)
            clean = self._vault.scrub()
            if not self.erased(row):
                self._keys.erase([row])
            require(clean, "CONSENT_ERASE_PENDING")

    def _check(self, row: int) -> None:
        require(0 <= row < len(self._people), "CONSENT_UNKNOWN_PERSON")

    def _place(self, row: int, leaf: bytes, record: ConsentRecord | None) -> None:
        self._index.put(row, record)
        self._leaves += [silent_leaf(b"none", missing) for missing in range(len(self._leaves), row + 1)]
        self._leaves[row] = leaf

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction on the newest state; an exception undoes it in memory, too."""
        with self._mutex:
            try:
                with self._vault.writing():
                    self._refresh()
                    yield
                    head = Tree(self._leaves).head()
                    self._vault.set_head(head)
            except BaseException:
                self._head = None
                raise
            self._head = self._published = head

    def _refresh(self) -> None:
        """Read everything again if the database is not in the state that memory holds.

        Raises:
            GenopactError: CONSENT_BROKEN.
        """
        with self._vault.reading():
            head = self._vault.head()
            if head == self._head:
                return
            self._head, self._index, self._leaves = None, ColumnIndex(), list[bytes]()
            self._index.resize(max(len(self._people), head[0]))
            for entry in self._vault.entries():
                self._place(entry.row, entry.leaf, entry.record)
        self._leaves += [silent_leaf(b"none", missing) for missing in range(len(self._leaves), head[0])]
        if head != (Tree(self._leaves).head() if self._leaves else (0, b"")):
            raise GenopactError("CONSENT_BROKEN", "the records are not those of the last write")
        self._head = self._published = head


def _after(old: ConsentRecord | None, new: ConsentRecord) -> ConsentRecord:
    """The new decision with the withdrawal that stays on record: the last one, dated when it was first made."""
    if old is None or old.withdrawal is None:
        return new
    again = not old.status == new.status == "withdrawn"
    if again and new.withdrawal and new.withdrawal.at > old.withdrawal.at:
        return new
    return new.model_copy(update={"withdrawal": old.withdrawal})
