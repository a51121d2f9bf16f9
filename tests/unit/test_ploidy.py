"""Haploid calls and sex chromosomes: every combination against the rule written out case by case."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from genopact_ingest.ploidy import FEMALE, MALE, UNKNOWN, two_copies
from genopact_ingest.source import Called

CLASSES = ("autosome", "par", "x", "y", "mt")


def rule(kind: str, sex: int, dosage: int, *, haploid: bool) -> int:
    if dosage < 0 or (kind == "y" and sex == FEMALE):
        return -1
    if haploid:
        if kind in ("autosome", "par") or (kind == "x" and sex == FEMALE):
            return -1
        return 2 * dosage
    if dosage == 1 and (kind in ("y", "mt") or (kind == "x" and sex == MALE)):
        return -1
    return dosage


CASES = [
    (kind, sex, dosage, haploid)
    for kind, sex, dosage, haploid in product(CLASSES, (FEMALE, MALE, UNKNOWN), (-1, 0, 1, 2), (False, True))
    if not (haploid and dosage == 2)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_combination(kind: str) -> None:
    cases = [case for case in CASES if case[0] == kind]
    sex = np.array([case[1] for case in cases], np.int8)
    dosages = np.array([[case[2] for case in cases]], np.int8)
    haploid = np.array([[case[3] for case in cases]])
    expected = np.where(dosages < 0, 90, dosages * 127).astype(np.uint8)  # an uncalled one may have an expectation
    haplotypes = np.where(dosages > 0, 1, 0).astype(np.uint8)
    called = Called(np.array([0]), dosages, expected, haplotypes, haploid)
    notes = Counter[str]()
    found = two_copies(called, [kind], sex, notes)
    wanted = [rule(k, s, d, haploid=h) for k, s, d, h in cases]
    assert found.dosages.tolist() == [wanted]
    assert found.expected is not None
    assert found.haplotypes is not None
    for place, (k, s, d, h) in enumerate(cases):
        two = not h and (k in ("autosome", "par") or (k == "x" and s == FEMALE))
        kept = 90 if d < 0 and two else 255
        assert found.expected[0, place] == (127 * wanted[place] if wanted[place] >= 0 else kept if d < 0 else 255)
        assert wanted[place] >= 0 or d < 0 or found.haplotypes[0, place] == 0
    for place, (k, _, d, h) in enumerate(cases):
        if h and k in ("x", "y", "mt") and wanted[place] >= 0:
            assert found.haplotypes[0, place] == (3 if d else 0)
    lost = sum(case[2] >= 0 and value < 0 for case, value in zip(cases, wanted, strict=True))
    assert sum(notes.values()) == lost


def test_ordinary_calls_pass_untouched() -> None:
    called = Called(np.array([3, 5]), np.array([[0, 1], [2, -1]], np.int8))
    assert two_copies(called, ["autosome", "par"], np.array([UNKNOWN, MALE], np.int8), Counter()) is called
