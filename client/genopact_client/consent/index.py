"""The registry's column index: what every row decided, as numpy columns, for one pass over a million rows.

Real consents come from few forms and few answers, so records that differ only in dates share a profile. What the
matcher takes from dates are two bits for each provision; it runs once for each (profile, bits) that occurs.
"""

import datetime as dt
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from genopact_client.consent.match import Decision, Outcome, match
from genopact_client.consent.record import ConsentRecord, Provision, Withdrawal
from genopact_shared.study import Purpose

NO_CAP = np.iinfo(np.int64).max
NO_RECORD, ERASED = -1, -2
_UNDATED = tuple(sorted(Provision.model_fields.keys() - {"valid_from", "valid_until", "origin"}))
_SILENT = {NO_RECORD: Decision(Outcome.deny, ("no_record",)), ERASED: Decision(Outcome.deny, ("erased",))}


class ColumnIndex:
    """Columns by row; days are ordinals.

    `profile` (n,) int64, an index into the profiles or a negative code. `start`, `stop` (n, k) int32, first and last
    day of provision i. `withdrawn` (n,) int32, 0 for never. `cap` (n,) int64, the person's own limit in thousandths
    of epsilon.
    """

    def __init__(self) -> None:
        self.profile = np.empty(0, np.int64)
        self.withdrawn = np.empty(0, np.int32)
        self.cap = np.empty(0, np.int64)
        self.start = self.stop = np.empty((0, 1), np.int32)
        self._codes: dict[tuple[object, ...], int] = {}
        self._records: list[ConsentRecord] = []

    def __len__(self) -> int:
        return len(self.profile)

    def resize(self, rows: int, provisions: int = 1) -> None:
        """Make room; new cells permit nothing."""
        more, wider = max(0, rows - len(self)), max(0, provisions - self.start.shape[1])
        if more or wider:
            self.profile = np.pad(self.profile, (0, more), constant_values=NO_RECORD)
            self.withdrawn = np.pad(self.withdrawn, (0, more))
            self.cap = np.pad(self.cap, (0, more), constant_values=NO_CAP)
            self.start = np.pad(self.start, ((0, more), (0, wider)))
            self.stop = np.pad(self.stop, ((0, more), (0, wider)))

    def put(self, row: int, record: ConsentRecord | None) -> None:
        """Set one row; None is an erased one."""
        provisions = record.provisions if record else ()
        self.resize(row + 1, len(provisions))
        self.start[row], self.stop[row], self.withdrawn[row], self.cap[row] = 0, 0, 0, NO_CAP
        self.profile[row] = self._code(record) if record else ERASED
        for i, provision in enumerate(provisions):
            self.start[row, i] = provision.valid_from.toordinal()
            self.stop[row, i] = provision.valid_until.toordinal()
        if record and record.withdrawal:
            self.withdrawn[row] = record.withdrawal.at.toordinal()
        if record and record.max_epsilon_milli is not None:
            self.cap[row] = record.max_epsilon_milli

    def evaluate(self, purpose: Purpose, on: dt.date) -> tuple[NDArray[np.bool_], Counter[str]]:
        """For each row whether the matcher permits it, and how many rows have each reason."""
        day, width = on.toordinal(), self.start.shape[1]
        bits = np.hstack([(self.start <= day) & (day <= self.stop), self.start > self.withdrawn[:, None]])
        keys = (self.profile << (2 * width)) | (bits @ (np.int64(1) << np.arange(2 * width)))
        _, examples, groups, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        decisions = [self._decide(int(row), purpose, on) for row in examples]
        reasons: Counter[str] = Counter()
        for decision, count in zip(decisions, counts, strict=True):
            reasons.update(dict.fromkeys(decision.reasons, int(count)))
        return np.array([d.outcome == Outcome.permit for d in decisions], bool)[groups], reasons

    def _decide(self, row: int, purpose: Purpose, on: dt.date) -> Decision:
        code = int(self.profile[row])
        return _SILENT[code] if code < 0 else match(self._rebuilt(row), purpose, on)

    def _rebuilt(self, row: int) -> ConsentRecord:
        """The profile's record with this row's dates."""
        record, withdrawn = self._records[int(self.profile[row])], int(self.withdrawn[row])
        dated = tuple(
            provision.model_copy(update={"valid_from": _day(first), "valid_until": _day(last)})
            for provision, first, last in zip(record.provisions, self.start[row], self.stop[row], strict=False)
        )
        withdrawal = Withdrawal(at=_day(withdrawn), scope="no_access") if withdrawn else None
        return record.model_copy(update={"provisions": dated, "withdrawal": withdrawal})

    def _code(self, record: ConsentRecord) -> int:
        answers = tuple(tuple(getattr(p, name) for name in _UNDATED) for p in record.provisions)
        code = self._codes.setdefault((record.regime, record.status, record.modifiers, answers), len(self._records))
        if code == len(self._records):
            self._records.append(record)
        return code


def _day(ordinal: int | np.int32) -> dt.date:
    return dt.date.fromordinal(max(1, int(ordinal)))
