"""Chromosomes of which not everybody has two: one rule for haploid calls, before anything is sealed.

A row of the store counts 0, 1 or 2 copies. Where one copy is all there is, it counts twice, so that a man's X has the
scale of a woman's:

    autosome, par   a haploid call is missing
    x               haploid: a man (or unknown sex) 0 or 2, a woman missing; a man's heterozygous call is missing
    y               men as on x; women missing
    mt              haploid 0 or 2; a heterozygous call is missing
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.source import Called

FEMALE, MALE, UNKNOWN = 0, 1, -1


def two_copies(called: Called, classes: Sequence[str], sex: NDArray[np.int8], notes: Counter[str]) -> Called:
    """Calls on the scale of two copies.

    Args:
        called: as read; `haploid` tells which calls had one allele.
        classes: (k,) autosome, par, x, y or mt of each manifest row in `called`.
        sex: (n,) FEMALE, MALE or UNKNOWN.
        notes: counts how many calls each rule made missing.
    """
    kinds = np.array(classes)
    whole = (kinds == "autosome") | (kinds == "par")
    if called.haploid is None and whole.all():
        return called
    haploid = np.zeros(called.dosages.shape, np.bool_) if called.haploid is None else called.haploid
    known = called.dosages >= 0
    woman, man = (sex == FEMALE)[None, :], (sex == MALE)[None, :]
    one, x, y, mt = ~whole[:, None], (kinds == "x")[:, None], (kinds == "y")[:, None], (kinds == "mt")[:, None]
    het = known & ~haploid & (called.dosages == 1)
    rules = {"haploid_where_two_are_expected": haploid & (~one | (x & woman))}
    rules |= {"heterozygous_where_there_is_one": het & ((x & man) | y | mt), "women_on_y": y & woman}
    gone = np.zeros_like(known)
    for name, rule in rules.items():
        notes[name] += int((rule & known & ~gone).sum())
        gone |= rule
    doubled, single = haploid & one & known, (x & ~woman) | y | mt
    dosages = np.where(gone, -1, np.where(doubled, 2 * called.dosages, called.dosages)).astype(np.int8)
    expected, haplotypes = called.expected, called.haplotypes
    if expected is not None:
        twice = np.minimum(expected.astype(np.int16) * 2, 254)
        # Without a call nobody can tell whether what is expected was of one copy or of two.
        unknown = gone | (single & ~known) | (expected == 255)
        expected = np.where(unknown, 255, np.where(doubled, twice, expected)).astype(np.uint8)
    if haplotypes is not None:
        haplotypes = np.where(gone, 0, np.where(doubled, np.where(dosages == 2, 3, 0), haplotypes)).astype(np.uint8)
    return called._replace(dosages=dosages, expected=expected, haplotypes=haplotypes, haploid=None)
