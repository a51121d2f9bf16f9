"""The consent registry: what each person decided, and who permits a purpose today."""

import datetime as dt
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genopact_client.consent.index import ERASED, ColumnIndex
from genopact_client.consent.record import ConsentRecord, Scope, Withdrawal
from genopact_client.consent.vault import Head, Vault, silent_leaf, tree_root
from genopact_client.keyfile import KeyFile
from genopact_client.people import People
from genopact_shared.errors import GenopactError
from genopact_shared.study import Purpose


@dataclass(frozen=True)
class Permission:
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
        with self._mutex:
            self._refresh()
            for row in self._half_erased():
                self.erase(row)

    def close(self) -> None:
        """Close the database."""
        self._vault.close()

    def permitted(self, purpose: Purpose, on: dt.date) -> Permission:
        """Who permits the purpose on that day: decided anew at each call."""
        with self._mutex:
            self._refresh()
            size = self._grow()
            rows, reasons = self._index.evaluate(purpose, on)
            rows &= self._keys.alive(np.arange(size))
            return Permission(rows, self._index.cap.copy(), self._published_root().hex(), size, dict(reasons))

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
                    self._put(row, old.version + 1 if old else 1, new)
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
                    self._put(row, old.version + 1 if old else 1, None)
            clean = self._vault.scrub()
            if not self.erased(row):
                self._keys.erase([row])
            if not clean:
                raise GenopactError("CONSENT_ERASE_PENDING")

    def _check(self, row: int) -> None:
        if not 0 <= row < len(self._people):
            raise GenopactError("CONSENT_UNKNOWN_PERSON")

    def _put(self, row: int, version: int, record: ConsentRecord | None) -> None:
        leaf = self._vault.put(row, version, record)
        self._place(row, leaf, record)

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
                    head = (len(self._leaves), tree_root(self._leaves))
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
        if head != ((len(self._leaves), tree_root(self._leaves)) if self._leaves else (0, b"")):
            raise GenopactError("CONSENT_BROKEN", "the records are not those of the last write")
        self._head = self._published = head

    def _grow(self) -> int:
        """Give people who were enrolled since the last write a row and a leaf; returns the number of rows."""
        size = max(len(self._people), len(self._leaves))
        self._index.resize(size)
        self._leaves += [silent_leaf(b"none", row) for row in range(len(self._leaves), size)]
        return size

    def _published_root(self) -> bytes:
        if self._published[0] != len(self._leaves) or not self._leaves:
            self._published = (len(self._leaves), tree_root(self._leaves))
        return self._published[1]

    def _half_erased(self) -> list[int]:
        """Rows whose record or whose key is still there after the other was destroyed."""
        entries = [self._vault.entry(int(row)) for row in np.flatnonzero(self._index.profile == ERASED)]
        return [entry.row for entry in entries if entry and (entry.sealed or not self.erased(entry.row))]


def _after(old: ConsentRecord | None, new: ConsentRecord) -> ConsentRecord:
    """The new decision with the withdrawal that stays on record: the last one, dated when it was first made."""
    if old is None or old.withdrawal is None:
        return new
    again = not old.status == new.status == "withdrawn"
    if again and new.withdrawal and new.withdrawal.at > old.withdrawal.at:
        return new
    return new.model_copy(update={"withdrawal": old.withdrawal})
