"""Noise from a cryptographic generator: Skellam integers, and Gaussian reals for sampled steps.

Skellam noise (the difference of two independent Poisson variables) is closed under sums, so the shares of several
sites add up to exactly the distribution that the accountant assumes.
"""

import math
import os
from functools import lru_cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from genopact_shared.compiled import compiled

Words = NDArray[np.uint64]
MAX_VARIANCE = 2.0**36
TAIL_SIGMAS = 13.0
PAIRS = 1 << 14
"""Of normal values at a time: words and values stay in the cache."""

RARE = 1 << 40
"""A radius word below this, of 64 bits, is followed by 64 more."""

GUIDE_SHIFT = np.uint64(48)
"""What is left of a word are the bits that a table of 512 kB finds its magnitude by."""

ROOT_HALF = 0x3FE6A09E667F3BCD
"""The bits of sqrt(1/2)."""


def _stream() -> CipherContext:
    """AES-256-CTR under a fresh key of the operating system; never reproducible."""
    return Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()


def keystream(size: int) -> bytes:
    """`size` bytes under a fresh key."""
    return _stream().update(bytes(size))


def skellam(variance: float, size: int) -> NDArray[np.int64]:
    """Independent symmetric Skellam integers, (size,), by inversion of 64-bit uniforms.

    Args:
        variance: of each value, in squared integer units; at most 2^36.
        size: number of values.

    Guarantees:
        Each value follows the Skellam distribution up to a total variation distance below 2^-43, and 2^-48 for a
        variance up to 2^26: chances are rounded to multiples of 2^-64, and double precision gave them.

    Raises:
        ValueError: variance outside (0, 2^36].
    """
    if not 0 < variance <= MAX_VARIANCE:
        raise ValueError(f"Expected 0 < variance <= 2^36, got {variance}")
    words = np.frombuffer(keystream(9 * size), dtype=np.uint8)
    values = np.empty(size, dtype=np.int64)
    compiled(_invert)(words[: 8 * size].view(np.uint64), words[8 * size :], *_thresholds(variance), values)
    return values


def gaussian(sd: float, size: int) -> NDArray[np.float64]:
    """A new array, (size,), that `gaussian_into` has filled."""
    values = np.empty(size)
    gaussian_into(values, sd)
    return values


def gaussian_into(out: NDArray[np.float64] | NDArray[np.float32], sd: float) -> None:
    """Fill `out`, (n,), with independent centred normal values, by the method of Box and Muller.

    Args:
        out: contiguous; float32 takes the same values, rounded to its 24 bits.
        sd: standard deviation; positive and finite.

    Guarantees:
        One key of the operating system for a call, never used again. A pair of values takes 64 bits for its radius,
        128 below a chance of 2^-24 (so |z| ends at 13.3 sd), and 32 for its angle. Two radii that follow one another
        are less than 2^-38 sd apart, save with a chance of 2^-30 a pair next to zero (2^-26 sd there) and of 2^-93 in
        the tail; two angles are 2^-29.3 apart. Logarithm, sine and cosine are within 2e-10.
    Assumptions:
        The caller rounds what it adds this to onto a grid much coarser than those steps (and, with float32, than
        2^-21 sd), so that the low bits of the noise, which are not those of a normal variable, are never seen.

    Raises:
        ValueError: another sd.
    """
    if not 0 < sd < np.inf:
        raise ValueError(f"Expected a positive standard deviation, got {sd}")
    stream, transform = _stream(), compiled(_box_muller)
    zeros, buffer = memoryview(bytes(12 * PAIRS)), bytearray(12 * PAIRS)
    words = np.frombuffer(buffer, dtype=np.uint32)
    if len(out) % 2:
        out[-1] = gaussian(sd, 2)[0]
    for start in range(0, len(out) - 1, 2 * PAIRS):
        part = out[start : start + 2 * PAIRS]
        pairs = len(part) // 2
        stream.update_into(zeros[: 12 * pairs], buffer)
        radius, angle = words[: 2 * pairs].view(np.uint64), words[2 * pairs : 3 * pairs]
        x, y = part[:pairs], part[pairs : 2 * pairs]
        if transform(radius, angle, x, y, sd) < RARE:
            for i in np.flatnonzero(radius < RARE):
                fine = (int(radius[i]) << 64) + int.from_bytes(stream.update(bytes(8)), "little") + 0.5
                stretch = math.sqrt(math.log(fine * 2.0**-128) / math.log((float(radius[i]) + 0.5) * 2.0**-64))
                x[i] *= stretch
                y[i] *= stretch


def _box_muller(radius: Words, angle: NDArray[np.uint32], x: NDArray[Any], y: NDArray[Any], sd: float) -> int:
    """Pairs of normal values from uniform words; returns the smallest radius word. Series only, so that it vectorises.

    The two top bits of an angle are the quadrant, the others the angle in [-pi/4, pi/4) from its bisector; turning
    from the bisector to the axes is cos - sin and cos + sin, over the root of 2 that the radius then lacks.
    """
    least = radius[0]
    for i in range(len(radius)):
        least = min(least, radius[i])
        bits = np.float64((np.float64(radius[i]) + 0.5) * 2.0**-64).view(np.int64)
        exponent = (bits - ROOT_HALF) >> 52
        mantissa = np.int64(bits - (exponent << 52)).view(np.float64)  # in [sqrt(1/2), sqrt(2))
        s = (mantissa - 1.0) / (mantissa + 1.0)
        t = s * s
        log = s * (2.0 + t * (2 / 3 + t * (2 / 5 + t * (2 / 7 + t * (2 / 9 + t * (2 / 11))))))
        r = sd * math.sqrt(-(exponent * math.log(2.0) + log))
        f = (np.float64(np.int32(angle[i] & 0x3FFFFFFF)) - (2.0**29 - 0.5)) * (math.pi * 2.0**-31)
        q = f * f
        sin = f * (1.0 + q * (-1 / 6 + q * (1 / 120 + q * (-1 / 5040 + q * (1 / 362880 + q * (-1 / 39916800))))))
        cos = 1.0 + q * (-1 / 2 + q * (1 / 24 + q * (-1 / 720 + q * (1 / 40320 + q * (-1 / 3628800)))))
        x[i] = (cos - sin) * (r if angle[i] & 0x80000000 else -r)
        y[i] = (cos + sin) * (r if angle[i] & 0x40000000 else -r)
    return int(least)


def _invert(
    words: Words, signs: NDArray[np.uint8], thresholds: Words, guide: NDArray[np.int64], out: NDArray[np.int64]
) -> None:
    """The magnitude of each word, and a sign for it. `guide` leaves a few thresholds to the bisection."""
    for i in range(len(words)):
        bucket = words[i] >> GUIDE_SHIFT
        low, high = guide[bucket], guide[bucket + np.uint64(1)]
        while low < high:
            middle = (low + high) >> 1
            if thresholds[middle] <= words[i]:
                low = middle + 1
            else:
                high = middle
        magnitude = len(thresholds) - low
        out[i] = magnitude if signs[i] & 1 else -magnitude


@lru_cache(maxsize=16)
def _thresholds(variance: float) -> tuple[Words, NDArray[np.int64]]:
    """P(|X| >= k) for k = last..1, in units of 2^-64, and how many of them each value of a word's top bits exceeds."""
    orders = np.arange(int(TAIL_SIGMAS * np.sqrt(variance)) + 60, dtype=np.float64)
    mass = np.exp(_log_pmf(orders, variance))
    mass[1:] *= 2.0
    mass /= mass[::-1].sum()
    ascending = np.cumsum(np.rint(mass[:0:-1] * 2.0**64).astype(np.uint64))
    starts = np.arange(1 << (64 - int(GUIDE_SHIFT)), dtype=np.uint64) << GUIDE_SHIFT
    return ascending, np.append(np.searchsorted(ascending, starts, side="right"), len(ascending))


def _log_pmf(k: NDArray[np.float64], variance: float) -> NDArray[np.float64]:
    """log P(X = k) = log(exp(-v) I_k(v)): exact for small v, Debye's uniform expansion (DLMF 10.41.3) for large."""
    from scipy.special import ive

    if variance < 1e4:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(ive(k, variance)), dtype=np.float64)
    r = np.hypot(k, variance)
    p = k / r
    first = (3.0 - 5.0 * p**2) / (24.0 * r)
    second = (81.0 - 462.0 * p**2 + 385.0 * p**4) / (1152.0 * r**2)
    exponent = k**2 / (r + variance) - k * np.arcsinh(k / variance)
    return np.asarray(exponent - 0.5 * np.log(2.0 * np.pi * r) + np.log1p(first + second), dtype=np.float64)
