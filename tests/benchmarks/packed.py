"""The clipped gradient of a logistic loss over packed genotypes, without unpacking them or one gradient a patient.

A patient's gradient is residual * (x, 1), so its norm is |residual| * sqrt(|x|^2 + 1), and |x| never changes. Public
allele frequencies are folded into the weights: x = (dosage - 2p) / sqrt(2p(1 - p)), zero where the genotype is missing.

A prototype: no recipe trains on packed rows yet. It stands here with its tests and its measurements until one does.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_shared.compiled import compiled
from genopact_shared.recipes.table import Floats

Bytes = NDArray[np.uint8]
Single = NDArray[np.float32]
Indices = NDArray[np.int64]
Missing = NDArray[np.uint32]

CHUNK = 2048
"""Bytes of a row at a time: the weights of 8,192 variants stay in the cache, and float32 sums stay short."""

STEPS = (1 << 20) - 1
"""In the largest coefficient: eight patients' steps, times dosages up to two, add up exactly in a float32."""

GROUP = 1024
"""Patients whose steps times dosages add up in an int32."""

FIELDS = 0b01010101
FIRST, SECOND, THIRD, FOURTH = np.int32(3), np.int32(12), np.int32(48), np.int32(192)
PLACES = tuple(np.float32(0.25**place) for place in range(4))
"""What a field of a byte, left where it is, must be multiplied by."""


class LogisticSum(NamedTuple):
    """Over patients: `weights` (m,) and `intercept`, and how many were `dropped` as not finite."""

    weights: Floats
    intercept: float
    dropped: int


class PackedGenotypes:
    """A study's genotypes, 2 bits each, and what is computed of them once.

    Args:
        rows: (n, ceil(m / 4)) uint8, four variants a byte, the first in the lowest bits, in the codes of PLINK 1: 00
            two effect alleles, 01 missing, 10 one, 11 none. Bits beyond the last variant are 0. They are copied.
        frequencies: (m,) public effect allele frequencies, in (0, 1).

    Attributes:
        norms: (n,) sqrt(|x|^2 + 1) of each patient.

    Raises:
        ValueError: anything else.
    """

    def __init__(self, rows: Bytes, frequencies: Floats) -> None:
        m = len(frequencies)
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != -(-m // 4) or not m:
            raise ValueError(f"Expected uint8 rows of {-(-m // 4)} bytes for {m} variants, got {rows.shape}")
        if not ((frequencies > 0) & (frequencies < 1)).all():
            raise ValueError("Expected allele frequencies in (0, 1)")
        if m % 4 and (rows[:, -1] >> (2 * (m % 4))).any():
            raise ValueError("Expected zeros beyond the last variant")
        self._mean, self._sd = 2 * frequencies, np.sqrt(2 * frequencies * (1 - frequencies))
        squares = ((np.array([[2.0], [0.0], [1.0], [0.0]]) - self._mean) / self._sd) ** 2
        squares[1] = 0.0
        self._dosages: Bytes = np.empty_like(rows, order="C")
        self.norms = np.ones(len(rows))
        self._starts = np.zeros(len(rows) + 1, np.int64)
        for row, codes in enumerate(rows):
            self._starts[row + 1] = self._starts[row] + np.bitwise_count(codes & ~(codes >> 1) & FIELDS).sum()
        self._missing = np.empty(self._starts[-1], np.uint32)
        compiled(_read, reassociate=True)(np.ascontiguousarray(rows), squares, self._dosages, self.norms, self._missing)
        self.norms = np.sqrt(self.norms)

    def clipped_sum(
        self, weights: Floats, intercept: float, outcomes: Floats, patients: Indices, clip: float
    ) -> LogisticSum:
        """The sum of some patients' gradients of the logistic loss, each clipped to `clip` in L2 norm.

        Args:
            weights: (m,) of the standardised genotypes; intercept: beside them.
            outcomes: (n,) 0 or 1.
            patients: indices, each once.
            clip: positive; infinite for data that need no protection.

        Guarantees:
            A coefficient is at most clip / max(norm, floor), floor = sqrt(m + 1) / 2, and is rounded towards zero to a
            multiple of min(1, clip / floor) / STEPS. Coefficients are added as integers, so one patient more or less
            moves the sum by at most clip * (1 + 1e-9), whoever else is in it. A patient whose residual is not finite
            adds nothing, and is counted.

        Raises:
            ValueError: another clip. IndexError: no such patient.
        """
        from scipy.special import expit

        if not clip > 0:
            raise ValueError(f"Expected a positive clip, got {clip}")
        m, n, floor = len(self._mean), len(patients), np.sqrt(len(self._mean) + 1) / 2
        largest, reach = min(1.0, clip / floor), np.minimum(1.0, clip / np.maximum(self.norms[patients], floor))
        observed, padded = outcomes[patients], np.pad(patients, (0, -n % 8))
        residuals = expit(self._margins(weights / self._sd, intercept, padded)[:n]) - observed
        finite, steps = np.isfinite(residuals), np.zeros(len(padded), np.float32)
        steps[:n] = np.trunc(np.clip(np.where(finite, residuals, 0.0), -reach, reach) / largest * STEPS)
        total, unseen = np.zeros((4, self._dosages.shape[1])), np.zeros(m)
        for first in range(0, n, GROUP):
            part, sums = slice(first, first + GROUP), np.zeros(total.shape, np.int32)
            compiled(_add_steps, reassociate=True)(self._dosages, padded[part], steps[part], sums)
            total += sums
        compiled(_add_unseen, reassociate=True)(padded, steps, self._starts, self._missing, unseen)
        unit, every = largest / STEPS, steps.sum(dtype=np.float64)
        moved = total.T.reshape(-1)[:m] - self._mean * (every - unseen)
        return LogisticSum(unit * moved / self._sd, float(unit * every), int((~finite).sum()))

    def _margins(self, slopes: Floats, intercept: float, patients: Indices) -> Floats:
        """Linear predictors; `slopes` are for dosages."""
        table, centres = np.zeros((self._dosages.shape[1], 4), np.float32), slopes * self._mean
        with np.errstate(over="ignore"):
            table.reshape(-1)[: len(slopes)] = slopes
        margins = np.full(len(patients), intercept - centres.sum())
        compiled(_add_seen, reassociate=True)(
            self._dosages, patients, np.ascontiguousarray(table.T) * np.array(PLACES)[:, None], margins
        )
        compiled(_add_missing, reassociate=True)(patients, self._starts, self._missing, centres, margins)
        return margins


def _read(rows: Bytes, squares: Floats, dosages: Bytes, norms: Floats, missing: Missing) -> None:
    """Codes to dosages (2, 0, 1, 0 in two bits), the squares that a row adds to its norm, and where it is missing."""
    at = 0
    for i in range(len(rows)):
        for j in range(squares.shape[1]):
            code = (rows[i, j >> 2] >> (2 * (j & 3))) & 3
            norms[i] += squares[code, j]
            if code == 1:
                missing[at] = j
                at += 1
        for j in range(rows.shape[1]):
            bits = ~rows[i, j]
            dosages[i, j] = (bits & FIELDS) + (bits & (bits >> 1) & FIELDS)


def _add_seen(dosages: Bytes, patients: Indices, slopes: Single, margins: Floats) -> None:
    """Slopes times dosages, missing as 0. Two patients at a time, so that slopes are loaded once for both."""
    for low in range(0, dosages.shape[1], CHUNK):
        high = min(low + CHUNK, dosages.shape[1])
        b0, b1, b2, b3 = slopes[0, low:high], slopes[1, low:high], slopes[2, low:high], slopes[3, low:high]
        for i in range(0, len(patients), 2):
            row, twin = dosages[patients[i], low:high], dosages[patients[i + 1], low:high]
            s = t = np.float32(0)
            for j in range(high - low):
                x, y = np.int32(row[j]), np.int32(twin[j])
                s += b0[j] * np.float32(np.int32(x & FIRST)) + b1[j] * np.float32(np.int32(x & SECOND))
                s += b2[j] * np.float32(np.int32(x & THIRD)) + b3[j] * np.float32(np.int32(x & FOURTH))
                t += b0[j] * np.float32(np.int32(y & FIRST)) + b1[j] * np.float32(np.int32(y & SECOND))
                t += b2[j] * np.float32(np.int32(y & THIRD)) + b3[j] * np.float32(np.int32(y & FOURTH))
            margins[i] += s
            margins[i + 1] += t


def _add_missing(patients: Indices, starts: Indices, missing: Missing, centres: Floats, margins: Floats) -> None:
    """What centring took from a missing genotype."""
    for i in range(len(patients)):
        total = 0.0
        for variant in missing[starts[patients[i]] : starts[patients[i] + 1]]:
            total += centres[variant]
        margins[i] += total


def _add_steps(dosages: Bytes, patients: Indices, steps: Single, sums: NDArray[np.int32]) -> None:
    """Steps times dosages, by place and byte; eight patients at a time, exactly. Integers are cast to stay 32 bits."""
    rows, f = dosages, np.float32
    for i in range(0, len(patients), 8):
        r0, r1, r2, r3 = rows[patients[i]], rows[patients[i + 1]], rows[patients[i + 2]], rows[patients[i + 3]]
        r4, r5, r6, r7 = rows[patients[i + 4]], rows[patients[i + 5]], rows[patients[i + 6]], rows[patients[i + 7]]
        k0, k1, k2, k3 = steps[i], steps[i + 1], steps[i + 2], steps[i + 3]
        k4, k5, k6, k7 = steps[i + 4], steps[i + 5], steps[i + 6], steps[i + 7]
        for j in range(rows.shape[1]):
            for place in range(4):
                mask = np.int32(3 << (2 * place))
                s = k0 * f(np.int32(r0[j] & mask)) + k1 * f(np.int32(r1[j] & mask))
                s += k2 * f(np.int32(r2[j] & mask)) + k3 * f(np.int32(r3[j] & mask))
                s += k4 * f(np.int32(r4[j] & mask)) + k5 * f(np.int32(r5[j] & mask))
                s += k6 * f(np.int32(r6[j] & mask)) + k7 * f(np.int32(r7[j] & mask))
                sums[place, j] = np.int32(sums[place, j] + np.int32(s * PLACES[place]))


def _add_unseen(patients: Indices, steps: Single, starts: Indices, missing: Missing, unseen: Floats) -> None:
    """Steps of the patients whose genotype is missing."""
    for i in range(len(patients)):
        step = np.float64(steps[i])
        for variant in missing[starts[patients[i]] : starts[patients[i] + 1]]:
            unseen[variant] += step
