"""The privacy ledger: which mechanisms each patient of this site went through, over all studies, for life.

It stores facts, never epsilons: an accountant that is found wrong can be replaced without losing anybody's history.
A reservation is durable before anything is drawn, and it counts as spent whether it is settled or not.
"""

import struct
import threading
import zlib
from collections import Counter
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from genopact_client.ledger_file import LedgerFile
from genopact_shared import canonical
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.accounting import Fact, epsilon_fast
from genopact_shared.privacy.mechanisms import Mechanism
from genopact_shared.study import Frozen

SCHEMA = "genopact.ledger/1"

Rows = NDArray[np.int64]


class Charge(Frozen):
    """What is written of a reservation, beside the rows that it charges."""

    study: str
    run: str
    round: int = Field(ge=0)
    attempt: int = Field(ge=0)
    fact: Mechanism


class Ledger:
    """The open ledger. Threads may share it; another process cannot open it.

    Guarantees:
        At every instant, and after a crash at any instant, `spent` holds every fact whose reservation was returned.
        A ledger that was changed does not open. One that lost its newest records or was exchanged for an older one
        opens, but its `head` is not the witnessed one.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        """Open an existing ledger; `key` has 32 bytes.

        Raises:
            GenopactError: LEDGER_MISSING, LEDGER_LOCKED, LEDGER_BROKEN.
        """
        self._mutex = threading.Lock()
        self._group = np.zeros(0, np.int64)
        self._groups: list[dict[Fact, int]] = [{}]
        self._known: dict[frozenset[tuple[Fact, int]], int] = {frozenset(): 0}
        self._open: dict[int, Charge] = {}
        self._studies: dict[str, Counter[Fact]] = {}
        self._file = LedgerFile(path, key)
        try:
            for sequence, body in enumerate(self._file.bodies()):
                self._replay(sequence, body)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, key: bytes) -> Self:
        """Start a new site's ledger; LEDGER_EXISTS. A site that has trained never calls this again."""
        LedgerFile.create(path, key, _body({"ledger": SCHEMA}))
        return cls(path, key)

    def close(self) -> None:
        """Release the lock; the ledger takes nothing afterwards."""
        self._file.close()

    @property
    def head(self) -> str:
        """Digest of the last record, 64 hexadecimal digits: the ledger root of intents."""
        return self._file.head

    @property
    def cut(self) -> int:
        """Bytes of an unacknowledged record that opening removed: an incident to log if not 0."""
        return self._file.cut

    def extends(self, head: str) -> bool:
        """Whether the ledger holds all that it held when this was its head."""
        return self._file.extends(head)

    def of_study(self, study: str) -> Counter[Fact]:
        """How often a study charged each fact here, whatever the files of its runs say."""
        with self._mutex:
            return Counter(self._studies.get(study, ()))

    def reserve(  # noqa: PLR0917 - the address of a computation, what it does, and to whom
        self,
        study: str,
        run: str,
        round: int,  # noqa: A002
        attempt: int,
        fact: Fact,
        rows: Rows,
    ) -> int:
        """Charge `fact` to each of `rows`, durably; returns the reservation's number.

        Raises:
            ValueError: rows are not int64, negative or not distinct.
            GenopactError: LEDGER_BROKEN; nothing may be drawn then.
        """
        charge = Charge(study=study, run=run, round=round, attempt=attempt, fact=fact)
        body = _body({"reserve": charge.model_dump(mode="json")}, rows)
        with self._mutex:
            sequence = self._file.append(body)
            self._charge(sequence, charge, rows)
        return sequence

    def settle(self, sequence: int) -> None:
        """Note that the release of a reservation was made. It changes nobody's spending.

        Raises:
            GenopactError: LEDGER_NO_RESERVATION (never made, or settled before), LEDGER_BROKEN.
        """
        with self._mutex:
            if sequence not in self._open:
                raise GenopactError("LEDGER_NO_RESERVATION")
            self._file.append(_body({"settle": sequence}))
            del self._open[sequence]

    def open_reservations(self) -> dict[int, Charge]:
        """Reservations by number that were never settled: a crash, or a round that is under way."""
        with self._mutex:
            return dict(self._open)

    def spent(self, row: int) -> tuple[Fact, ...]:
        """Every fact charged to a row, as often as it was charged."""
        with self._mutex:
            return tuple(Counter(self._groups[self._group[row]]).elements()) if row < len(self._group) else ()

    def affordable(self, rows: Rows, fact: Fact, lifetime_epsilon_milli: int | Rows, delta: str) -> NDArray[np.bool_]:
        """Which rows stay within their cap if `fact` is charged once more.

        Args:
            rows: (n,) int64.
            fact: what is about to be charged; an unprotected one nobody can afford, at any cap.
            lifetime_epsilon_milli: cap in thousandths, of all rows or (n,) of each.
            delta: decimal string at which epsilon is composed.

        Returns:
            (n,) bool. Rows with equal charges are evaluated once.
        """
        with self._mutex:
            groups = self._groups_of(rows)
            charges = {group: Counter(self._groups[group]) for group in _present(groups)}
        milli = np.full(max(charges, default=0) + 1, np.inf)
        for group, charged in charges.items():
            charged[fact] += 1
            milli[group] = np.ceil(1000 * epsilon_fast(charged, delta))
        return np.asarray(milli[groups] <= lifetime_epsilon_milli, bool)

    def _groups_of(self, rows: Rows) -> Rows:
        padded = np.append(self._group, 0)
        return np.asarray(padded[np.where(rows < len(self._group), rows, len(self._group))], np.int64)

    def _replay(self, sequence: int, body: bytes) -> None:
        try:
            head, rows = _parsed(body)
            match head:
                case {"ledger": str(schema)} if sequence == 0 and schema == SCHEMA:
                    pass
                case {"reserve": dict(charge)} if sequence:
                    self._charge(sequence, Charge.model_validate_json(canonical.encode(charge)), rows)
                case {"settle": int(reserved)} if sequence:
                    del self._open[reserved]
                case _:
                    raise GenopactError("LEDGER_BROKEN", f"record {sequence} is of an unknown kind")
        except (ValidationError, KeyError, ValueError, struct.error, zlib.error) as error:
            raise GenopactError("LEDGER_BROKEN", f"record {sequence} is malformed") from error

    def _charge(self, sequence: int, charge: Charge, rows: Rows) -> None:
        size = int(rows.max(initial=-1)) + 1
        self._group = np.pad(self._group, (0, max(0, size - len(self._group))))
        before = self._group[rows]
        after = np.zeros(len(self._groups), np.int64)
        for group in _present(before):
            after[group] = self._group_with(group, charge.fact)
        self._group[rows] = after[before]
        self._open[sequence] = charge
        self._studies.setdefault(charge.study, Counter())[charge.fact] += 1

    def _group_with(self, group: int, fact: Fact) -> int:
        """The group of everybody in `group` who is charged `fact` once more."""
        charges = dict(self._groups[group])
        charges[fact] = charges.get(fact, 0) + 1
        number = self._known.setdefault(frozenset(charges.items()), len(self._groups))
        if number == len(self._groups):
            self._groups.append(charges)
        return number


def _present(groups: Rows) -> list[int]:
    return [int(group) for group in np.flatnonzero(np.bincount(groups))]


def _body(head: canonical.Json, rows: Rows | None = None) -> bytes:
    """length of head u32 | head, canonical JSON | zlib of one bit a row."""
    text = canonical.encode(head)
    bits = np.zeros(0, bool)
    if rows is not None:
        known = rows.dtype == np.int64 and rows.min(initial=0) >= 0
        bits = np.zeros(int(rows.max(initial=-1)) + 1 if known else 0, bool)
        bits[rows if known else []] = True
        if not known or np.count_nonzero(bits) < len(rows):
            raise ValueError("Expected distinct int64 rows of at least 0")
    return struct.pack(">I", len(text)) + text + zlib.compress(np.packbits(bits).tobytes(), 1)


def _parsed(body: bytes) -> tuple[canonical.Json, Rows]:
    (size,) = struct.unpack_from(">I", body)
    bits = np.frombuffer(zlib.decompress(body[4 + size :]), np.uint8)
    return canonical.decode(body[4 : 4 + size]), np.flatnonzero(np.unpackbits(bits)).astype(np.int64)
