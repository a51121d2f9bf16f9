"""The privacy ledger: which mechanisms each patient of this site went through, over all studies, for life.

It stores facts, never epsilons: an accountant that is found wrong can be replaced without losing anybody's history.
A reservation is durable before anything is drawn, and it counts as spent whether it is settled or not. Studies are
chosen one after the other, so that a Renyi filter decides what is affordable, not the epsilon of what was chosen.
"""

import math
import struct
import threading
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from genopact_client.ledger_file import LedgerFile
from genopact_shared import canonical
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.privacy.accounting import Fact, filter_budget, renyi_cost
from genopact_shared.privacy.mechanisms import Mechanism
from genopact_shared.study import Frozen

SCHEMA = "genopact.ledger/1"
DAY_S = 86_400

Rows = NDArray[np.int64]
NOBODY: Rows = np.zeros(0, np.int64)


class Charge(Frozen):
    """What is written of a reservation, beside the rows that it charges."""

    study: str
    run: str
    round: int = Field(ge=0)
    attempt: int = Field(ge=0)
    fact: Mechanism
    day: int = Field(ge=0)


class Window(NamedTuple):
    """What may be charged in this many days, today and the days before; epsilon in thousandths."""

    days: int
    epsilon_milli: int


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
        self._group = NOBODY
        self._groups: list[dict[tuple[Fact, int], int]] = [{}]
        self._known: dict[frozenset[tuple[tuple[Fact, int], int]], int] = {frozenset(): 0}
        self._day = 0
        self._open: dict[int, Charge] = {}
        self._studies: dict[str, Counter[Fact]] = {}
        self._file = LedgerFile(path, key)
        try:
            for sequence, body in enumerate(self._file.bodies()):
                self._replay(sequence, body)
        except BaseException:
            self.close()
            raise
        self.cut = self._file.cut
        """Bytes of an unacknowledged record that opening removed: an incident to log if not 0."""

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

    def extends(self, head: str) -> bool:
        """Whether the ledger holds all that it held when this was its head."""
        return self._file.extends(head)

    def of_study(self, study: str) -> Counter[Fact]:
        """How often a study charged each fact here, whatever the files of its runs say."""
        with self._mutex:
            return Counter(self._studies.get(study, ()))

    def reserve(self, study: str, run: str, round: int, attempt: int, fact: Fact, rows: Rows, day: int) -> int:  # noqa: A002, PLR0917
        """Charge `fact` to each of `rows`, durably; returns the reservation's number.

        `day` counts from 1970, UTC. Never before the newest day of the ledger: a clock set back opens no window.

        Raises:
            ValueError: rows are not int64, negative or not distinct.
            GenopactError: LEDGER_BROKEN; nothing may be drawn then.
        """
        with self._mutex:
            day = max(day, self._day)
            charge = Charge(study=study, run=run, round=round, attempt=attempt, fact=fact, day=day)
            sequence = self._file.append(_body({"reserve": charge.model_dump(mode="json")}, rows))
            self._charge(sequence, charge, rows)
        return sequence

    def settle(self, sequence: int) -> None:
        """Note that the release of a reservation was made. It changes nobody's spending.

        Raises:
            GenopactError: LEDGER_NO_RESERVATION (never made, or settled before), LEDGER_BROKEN.
        """
        with self._mutex:
            require(sequence in self._open, "LEDGER_NO_RESERVATION")
            self._file.append(_body({"settle": sequence}))
            del self._open[sequence]

    def open_reservations(self) -> dict[int, Charge]:
        """Reservations by number that were never settled: a crash, or a round that is under way."""
        with self._mutex:
            return dict(self._open)

    def spent(self, row: int, since: int = 0) -> tuple[Fact, ...]:
        """Every fact charged to a row on day `since` or later, as often as it was charged."""
        with self._mutex:
            group = self._group[row] if row < len(self._group) else 0
            return tuple(_since(self._groups[group], since).elements())

    def window_start(self, day: int, window: Window) -> int:
        """The first day of the window that ends on `day`, or on the newest day of the ledger if that is later."""
        return max(day, self._day) - window.days + 1

    def affordable(  # noqa: PLR0917 - who, what, and within which limits
        self, rows: Rows, fact: Fact, lifetime_milli: int | Rows, delta: str, day: int, window: Window | None = None
    ) -> NDArray[np.bool_]:
        """Which rows stay within their caps if `fact` is charged once more.

        Args:
            rows: (n,) int64.
            fact: what is about to be charged; an unprotected one nobody can afford, at any cap.
            lifetime_milli: cap of epsilon in thousandths, of all rows or (n,) of each.
            delta: decimal string; the site's, the same for all studies.
            day: today, as in `reserve`.
            window: the site's limit for a time, beside that for life.

        Returns:
            (n,) bool. Rows with equal charges are evaluated once for each cap.

        Guarantees:
            What is charged to a row only when this allows it is (cap, delta)-private together, and so is what is
            charged in any `window.days` days in a row, however each was chosen after seeing the ones before
            (`accounting.filter_budget`).
        Assumptions:
            Cap, delta and window stay as they are; after a change, the guarantee is that of the largest ones.
        """
        with self._mutex:
            groups = np.append(self._group, 0)[np.minimum(rows, len(self._group))]
            charges = {group: self._groups[group] for group in _present(groups)}
        caps = np.broadcast_to(np.asarray(lifetime_milli, np.int64), rows.shape)
        fits = _within(charges, groups, fact, caps, delta, 0)
        if window:
            caps = np.full(rows.shape, window.epsilon_milli, np.int64)
            fits &= _within(charges, groups, fact, caps, delta, self.window_start(day, window))
        return fits

    def _replay(self, sequence: int, body: bytes) -> None:
        malformed = ValidationError, KeyError, ValueError, struct.error, zlib.error
        with replacing(malformed, GenopactError("LEDGER_BROKEN", f"record {sequence} is malformed")):
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

    def _charge(self, sequence: int, charge: Charge, rows: Rows) -> None:
        size = int(rows.max(initial=-1)) + 1
        self._group = np.pad(self._group, (0, max(0, size - len(self._group))))
        before = self._group[rows]
        after = np.zeros(len(self._groups), np.int64)
        for group in _present(before):
            after[group] = self._group_with(group, (charge.fact, charge.day))
        self._group[rows] = after[before]
        self._day = max(self._day, charge.day)
        self._open[sequence] = charge
        self._studies.setdefault(charge.study, Counter())[charge.fact] += 1

    def _group_with(self, group: int, charge: tuple[Fact, int]) -> int:
        """The group of everybody in `group` who is charged this fact on this day once more."""
        charges = dict(self._groups[group])
        charges[charge] = charges.get(charge, 0) + 1
        number = self._known.setdefault(frozenset(charges.items()), len(self._groups))
        if number == len(self._groups):
            self._groups.append(charges)
        return number


def _since(charges: dict[tuple[Fact, int], int], first: int) -> Counter[Fact]:
    found: Counter[Fact] = Counter()
    for (fact, day), times in charges.items():
        if day >= first:
            found[fact] += times
    return found


def _within(  # noqa: PLR0917 - as `affordable`
    charges: dict[int, dict[tuple[Fact, int], int]], groups: Rows, fact: Fact, caps: Rows, delta: str, first: int
) -> NDArray[np.bool_]:
    """Whether each row's charges since a day and `fact` cost no more than the filter of its cap admits."""
    charged = {group: _since(each, first) for group, each in charges.items()}
    known, fits = sum(charged.values(), Counter([fact])), np.zeros(len(groups), bool)
    for cap in np.unique(caps):
        order, budget = filter_budget(int(cap), delta)
        costs = dict(zip(known, [renyi_cost(each, order) for each in known], strict=True))
        admitted = np.zeros(max(charges, default=0) + 1, bool)
        for group, facts in charged.items():
            spent = math.fsum(times * costs[each] for each, times in facts.items())
            admitted[group] = spent + costs[fact] <= budget
        fits |= admitted[groups] & (caps == cap)
    return fits


def _present(groups: Rows) -> list[int]:
    return [int(group) for group in np.flatnonzero(np.bincount(groups))]


def _body(head: canonical.Json, rows: Rows = NOBODY) -> bytes:
    """length of head u32 | head, canonical JSON | zlib of one bit a row."""
    text = canonical.encode(head)
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
