"""The sample part of a record: each value's form, and how many there are, in one compiled pass over the bytes.

Source: VCF 4.1-4.5 (SAMtools/hts-specs) section 1.6.2. Not checked: strings and commas in what is one; counts of
local alleles and of base modifications; counts by alleles where ALT is `.` (whose calls may then be 0 or 1), by
genotypes where GT is a single `.`.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.findings import Fault, require
from genopact_ingest.header import Definition
from genopact_shared.compiled import compiled

TEXT = Definition("1", "String")  # in which many writers leave commas
_KEY = re.compile(r"[A-Za-z_][0-9A-Za-z_.]*")
_REASONS = (
    "more fields than FORMAT has",
    "a malformed genotype",
    "an allele that the record does not have",
    "a malformed value",
    "another number of values than defined",
)
_LARGEST = 2147483647  # BCF reserves the eight least numbers
_COUNTS = {"A": -1, "R": -2, "G": -3} | {str(count): count for count in range(100)}
_FREE = -9
_CALL, _STRING = 22, 20
_STARTS = {"Integer": 2, "Count": 2, "Float": 5, "Share": 5, "Character": 18}
# State, letter, next state: 0 is a fault, `d` a digit, `s` a sign, `p` a phase, `*` anything, others in both cases.
_MOVES = (
    "2d4 2s3 2.1 3d4 4d4 5d7 5s6 5.8 5i13 5n15 6d7 6.9 6i13 6n15 7d7 7.10 7e11 8d10 9d10 10d10 10e11 11d12 11s21 "
    "12d12 21d12 13n14 14f17 15a16 16n17 17i17 17n17 17t17 17y17 18*1 20*19 19*19 22d23 22.24 23d23 23p25 24p25 "
    "25d23 25.24"
)
_ACCEPTED = [1, 4, 7, 8, 10, 12, 17, 19, 23, 24]
_LETTERS = {"d": "0123456789", "s": "+-", "p": "/|"}


class Form(NamedTuple):
    """A FORMAT column. starts, counts: (k,) int64, of each key its first state and how many values it has."""

    keys: list[str]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]


def form(text: str, formats: Mapping[str, Definition]) -> Form:
    """Of a FORMAT column.

    Raises:
        Fault: VCF_RECORD, if a key is malformed or there twice, or GT is not the first.
    """
    keys = text.split(":")
    require(all(map(_KEY.fullmatch, keys)), "VCF_RECORD", "(a malformed key)", "FORMAT")
    require(len(set(keys)) == len(keys), "VCF_RECORD", "(a key twice)", "FORMAT")
    require("GT" not in keys[1:], "VCF_RECORD", "(GT is not the first key)", "FORMAT")
    defined = [formats.get(key, TEXT) for key in keys]
    starts = [_STARTS.get(each.value, _STRING) for each in defined]
    starts[0] = _CALL if keys[0] == "GT" else starts[0]
    counts = [_FREE if each == TEXT else _COUNTS.get(each.number, _FREE) for each in defined]
    return Form(keys, np.array(starts), np.array(counts))


def check(cells: memoryview | bytes, form: Form, n_alts: int, samples: int, version: int) -> None:
    """All sample columns of a record, without the line's end.

    Raises:
        Fault: VCF_CALL, VCF_CELL or VCF_RECORD, with the line's field, never a sample's name.
    """
    data, modern = np.frombuffer(cells, np.uint8), version >= 4
    limits = np.array([n_alts, samples, modern])
    place = compiled(_scan)(data, _table(modern=modern), form.starts, form.counts, limits)
    require(place != -2, "VCF_RECORD", f"(expected {9 + samples} fields)")
    if place >= 0:
        cell, field, reason = place >> 32, place >> 3 & 0xFFFFFFF, place & 7
        key = form.keys[min(field, len(form.keys) - 1)]
        code = "VCF_CALL" if key == "GT" and reason else "VCF_CELL"
        raise Fault(code, f"(field {10 + cell}: {_REASONS[reason]})", f"FORMAT/{key}" if reason else "FORMAT")


@cache
def _table(*, modern: bool) -> NDArray[np.uint8]:
    """(26, 256) uint8: the next state; in the column of the tab, which is never read, whether a value may end."""
    table = np.zeros((26, 256), np.uint8)
    for move in (_MOVES + " 22p25" * modern).split():
        state, letter, following = re.split(r"(\D)", move)
        reads = _LETTERS.get(letter, letter + letter.upper())
        table[int(state), slice(None) if letter == "*" else list(map(ord, reads))] = int(following)
    table[:, 9] = np.isin(np.arange(26), _ACCEPTED)
    return table


def _scan(buf, table, starts, counts, limits):  # type: ignore[no-untyped-def]
    """-1: well formed; -2: another number of cells; else cell << 32 | field << 3 | reason."""
    at = cell = 0
    n, n_alts, modern = len(buf), limits[0], limits[2]
    while True:
        ploidy, field, letter = 2, 0, np.uint8(58)
        while letter == 58:
            here = cell << 32 | field << 3
            if field == len(starts):
                return here
            first, state, values, number = at, starts[field], 1, 0
            call = state == _CALL
            largest = max(n_alts, 1) if call else _LARGEST
            while True:
                letter = np.uint8(9) if at == n else buf[at]
                if 48 <= letter <= 57:
                    number = min(number * 10 + int(letter) - 48, 1 << 40)
                elif letter == 45 and not call:
                    largest = _LARGEST - 7
                elif number > largest and (call or state == 4):
                    return here | 2 if call else here | 3
                if letter == 9 or letter == 58:
                    break
                if letter == 44 and not call:
                    state, values = starts[field] if table[state, 9] else 0, values + 1
                    number, largest = 0, _LARGEST
                else:
                    if call and (letter == 47 or letter == 124):
                        number, values = 0, values + (at > first)
                    state = table[state, letter]
                at += 1
            if not table[state, 9] and (call or not modern or at > first):
                return here | 1 if call else here | 3
            alone = at == first or (at == first + 1 and buf[first] == 46)
            if call:
                ploidy = 0 if alone else values
            elif not alone:
                count = counts[field]
                if count == -3:
                    count = 1 if n_alts and ploidy else _FREE
                    for i in range(ploidy):
                        count = count * (n_alts + i + 1) // (i + 1)
                elif count == -1 or count == -2:
                    count = n_alts - 1 - count if n_alts else _FREE
                if count >= 0 and values != count:
                    return here | 4
            if letter == 58:
                field, at = field + 1, at + 1
        cell += 1
        if at == n:
            return -1 if cell == limits[1] else -2
        at += 1
