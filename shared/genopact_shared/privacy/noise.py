"""Noise from a cryptographic generator: Skellam integers, and Gaussian reals for sampled steps.

Skellam noise (the difference of two independent Poisson variables) is closed under sums, so the shares of several
sites add up to exactly the distribution that the accountant assumes.
"""

import os
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

MAX_VARIANCE = 2.0**36
TAIL_SIGMAS = 13.0


def keystream(size: int) -> bytes:
    """`size` bytes of AES-256-CTR under a fresh key of the operating system; never reproducible."""
    cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16)))
    return cipher.encryptor().update(bytes(size))


def skellam(variance: float, size: int) -> NDArray[np.int64]:
    """Independent symmetric Skellam integers by inversion of 64-bit uniforms.

    Args:
        variance: of each value, in squared integer units; at most 2^36.
        size: number of values.

    Returns:
        int64 array of shape (size,).

    Guarantees:
        Each value follows the Skellam distribution up to a total variation distance below 2^-50.

    Raises:
        ValueError: variance outside (0, 2^36].
    """
    if not 0 < variance <= MAX_VARIANCE:
        raise ValueError(f"Expected 0 < variance <= 2^36, got {variance}")
    words = np.frombuffer(keystream(9 * size), dtype=np.uint8)
    uniform = (words[: 8 * size].view(np.uint64).astype(np.float64) + 0.5) * 2.0**-64
    ascending = _survival(variance)
    magnitude = len(ascending) - np.searchsorted(ascending, uniform, side="right")
    sign = 1 - 2 * (words[8 * size :] & 1).astype(np.int64)
    return magnitude.astype(np.int64) * sign


def gaussian(sd: float, size: int) -> NDArray[np.float64]:
    """Independent centred normal values, by the method of Box and Muller on 64-bit uniforms.

    Args:
        sd: standard deviation; positive and finite.
        size: number of values.

    Returns:
        float64 array of shape (size,), within 9.5 sd.

    Assumptions:
        The caller rounds what it adds this to onto a grid much coarser than float64's, so that the low bits of the
        noise, which are not those of a normal variable, are never seen.

    Raises:
        ValueError: another sd.
    """
    if not 0 < sd < np.inf:
        raise ValueError(f"Expected a positive standard deviation, got {sd}")
    pairs = (size + 1) // 2
    words = np.frombuffer(keystream(16 * pairs), dtype=np.uint64)
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-64
    radius, angle = sd * np.sqrt(-2.0 * np.log(uniform[:pairs])), 2.0 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


@lru_cache(maxsize=16)
def _survival(variance: float) -> NDArray[np.float64]:
    """P(|X| > k) for k = last..0, ascending: small tails first, so that they keep their relative precision."""
    orders = np.arange(int(TAIL_SIGMAS * np.sqrt(variance)) + 60, dtype=np.float64)
    mass = np.exp(_log_pmf(orders, variance))
    mass[1:] *= 2.0
    mass /= mass.sum()
    return np.concatenate([[0.0], np.cumsum(mass[:0:-1])])


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
