"""The genotype pass: where the columns of a VCF's lines are, and calls into dosages, by compiled loops.

A cell such as 0/1 or 0|1 and the separator behind it are four bytes. A line of nothing but such cells is plain: each
cell is read as one 32-bit word, so that the loops run over vectors. Any other line is read letter by letter.
Rules: a call of two alleles counts; of one counts as written and is marked haploid; of more is missing; with a missing
allele (half-calls) or with one without letters, such as `*`, is missing.
Source: VCF 4.1-4.5 (SAMtools/hts-specs) section 1.6.2.
"""

import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.findings import Fault, require
from genopact_shared.compiled import compiled

if sys.byteorder != "little":
    raise ImportError("a cell's letters must lie in a word from the lowest byte up")

Bytes = NDArray[np.uint8]
TALLY = ("half_calls", "haploid", "polyploid", "other_alleles")
"""What is counted of calls; other alleles: calls with one that has no letters."""
_CELL = np.tile(np.array([[48, 47, 48, 9], [255, 0, 255, 0], [46, 124, 46, 9]], np.uint8), 256)
"""Of each letter of plain cells: the first one allowed, whether alleles may follow it, another one allowed."""
_REASONS = {
    1: "a malformed genotype, or more fields than FORMAT has",
    2: "an allele that the record does not have",
    3: "a malformed dosage",
}


class Places(NamedTuple):
    """Of the k lines of a chunk.

    text: their columns CHROM to FORMAT, with line feeds.
    cells, ends: (k,) int64, where the first cell starts and where the line feed is.
    plain: (k,) int64, 1 if FORMAT is GT and each cell is two alleles of one letter that the record has.
    """

    text: str
    cells: NDArray[np.int64]
    ends: NDArray[np.int64]
    plain: NDArray[np.int64]


def places(chunk: Bytes, samples: int) -> Places:
    """Of a chunk of whole lines.

    Raises:
        Fault: with its line; VCF_RECORD, a line without 9 + samples columns; VCF_LINE_ENDS; VCF_UNREADABLE, not UTF-8.
    """
    most = len(chunk) // (9 + samples) + 1  # lines of empty columns, and one that is too short
    found, text = np.empty((3, most), np.int64), np.empty(len(chunk), np.uint8)
    lines, used, fault = compiled(_scan)(chunk, samples, found, text, _CELL)
    require(fault != 1, "VCF_RECORD", f"(expected {9 + samples} fields)", line=lines)
    require(fault != 2, "VCF_LINE_ENDS", line=lines)
    try:
        return Places(text[:used].tobytes().decode(), *found[:, :lines])
    except UnicodeDecodeError as error:
        raise Fault("VCF_UNREADABLE", "(not UTF-8)", line=text[: error.start].tobytes().count(b"\n")) from error


def plain_calls(chunk: Bytes, plan: NDArray[np.int64], dosages: NDArray[np.int8], haplotypes: Bytes) -> int:
    """The calls of k plain lines; returns how many are half-calls.

    plan: (4, k): where the cells start; the row to fill; the effect allele, 15 if it has two figures; alleles that make
        a call missing, as bits.
    dosages, haplotypes: (rows, n) as in `Called`; without phases haplotypes are (0, 0).
    """
    return int(compiled(_words)(chunk, plan, dosages, haplotypes))


def calls(
    line: int, cells: memoryview, copies: NDArray[np.int8], keys: int, samples: int
) -> tuple[NDArray[np.int8], Bytes, NDArray[np.bool_], NDArray[np.int64]]:
    """Dosages, haplotypes and haploid (n,) as in `Called`, and (4,) as TALLY, of a line whose FORMAT has GT first.

    line: in its chunk.
    cells: with the line feed.
    copies: by allele index: 1 the effect allele, 0 another, -1 one without letters.
    keys: of FORMAT.

    Raises:
        Fault: VCF_CALL, with its line.
    """
    out = np.empty(samples, np.int8), np.empty(samples, np.uint8), np.empty(samples, np.bool_), np.zeros(4, np.int64)
    _refuse(line, compiled(_letters)(np.frombuffer(cells, np.uint8), copies, keys, out))
    return out


def expected(line: int, cells: memoryview, where: tuple[int, int, int], haploid: NDArray[np.bool_]) -> Bytes:
    """(n,) expected dosages of a line, 0 to 254 for 0 to 2, 255 missing, from DS.

    where: DS is in FORMAT, from 0; how many values it has, one for each ALT; which is the effect allele's, from 0, or
        -1 for REF, which has what the ALTs leave of the ploidy.
    haploid: (n,), the call has one allele.

    Raises:
        Fault: VCF_CALL, with its line.
    """
    out = np.empty(len(haploid), np.uint8)
    _refuse(line, compiled(_dosages)(np.frombuffer(cells, np.uint8), where, haploid, out))
    return out


def _refuse(line: int, fault: int) -> None:
    if fault:
        raise Fault("VCF_CALL", f"(field {10 + fault // 4}: {_REASONS[fault % 4]})", line=line)


# numba widens what it adds or combines; the casts in the loops keep them to vectors of bytes and words.


def _scan(buf, samples, found, text, cell):  # type: ignore[no-untyped-def]
    """(lines, letters of text, the fault of the line after these: 0 none, 1 columns, 2 a carriage return)."""
    at = line = used = 0
    u8 = np.uint8
    while at < len(buf):
        tabs, alts, alt = 0, 1, at
        while tabs < 9:
            letter = buf[at]
            if letter == 10:
                return line, used, 1
            text[used] = letter
            used, at = used + 1, at + 1
            if letter == 9:
                tabs += 1
                if tabs == 4:
                    alt = at
            elif letter == 44 and tabs == 4:
                alts += 1
        text[used - 1] = 10
        if buf[alt] == 46 and buf[alt + 1] == 9:
            alts = 0
        end, bad, last = at + 4 * samples - 1, u8(1), u8(min(alts, 9))
        if end < len(buf) and buf[end] == 10 and buf[at - 2] == 84 and buf[at - 3] == 71 and buf[at - 4] == 9:
            bad = u8(0)
            for start in range(at, end, cell.shape[1]):
                tile = buf[start : min(start + cell.shape[1], end)]
                for i in range(len(tile)):
                    beyond = u8(tile[i] - cell[0, i]) > u8(cell[1, i] & last)
                    bad = u8(bad | u8(beyond & (tile[i] != cell[2, i])))
        if bad:
            end = at
            while buf[end] != 10:
                end += 1
            columns = 1
            for i in range(at, end):
                columns += buf[i] == 9
            if buf[end - 1] == 13:
                return line, used, 2
            if columns != samples:
                return line, used, 1
        found[0, line], found[1, line], found[2, line] = at, end, bad == 0
        line, at = line + 1, end + 1
    return line, used, 0


def _words(buf, plan, dosages, haplotypes):  # type: ignore[no-untyped-def]
    n, halves, u = dosages.shape[1], 0, np.uint32
    for k in range(plan.shape[1]):
        words = buf[plan[0, k] : plan[0, k] + 4 * n].view(np.uint32)
        into, effect, absent = plan[1, k], u(plan[2, k]), plan[3, k]
        out, unlike = dosages[into], u(0)
        for i in range(n):
            first, second = u(words[i] & u(15)), u(words[i] >> u(16) & u(15))
            gone = u((first == 14) | (second == 14))
            out[i] = np.int8(u(u(first == effect) + u(second == effect)) | -gone)
            unlike = u(unlike | words[i] ^ words[i] >> u(16))
        if unlike & u(16):  # of the letters only the point has not this bit
            for i in range(n):
                halves += (words[i] ^ words[i] >> u(16)) >> u(4) & u(1)
        if absent:
            for i in range(n):
                if (absent >> (words[i] & u(15)) | absent >> (words[i] >> u(16) & u(15))) & 1:
                    out[i] = -1
        if len(haplotypes):
            for i in range(n):
                has, other = u(words[i] & u(15)) == effect, u(words[i] >> u(16) & u(15)) == effect
                certain = (has == other) | (u(words[i] >> u(8) & u(255)) == 124)
                haplotypes[into, i] = u(has) | u(other) << u(1) if certain and out[i] >= 0 else 0
    return halves


def _letters(buf, copies, keys, out):  # type: ignore[no-untyped-def]
    """0, or cell << 2 | reason."""
    dosages, haplotypes, haploid, tally = out
    at = 0
    for i in range(len(dosages)):
        ploidy, points, first, second, phased = 0, 0, 0, 0, True
        if buf[at] == 47 or buf[at] == 124:  # of VCF 4.4: how the first allele is phased
            phased, at = buf[at] == 124, at + 1
        while True:
            copy, start, allele = -1, at, 0
            if buf[at] == 46:
                points, at = points + 1, at + 1
            else:
                while 48 <= buf[at] <= 57:
                    allele, at = 10 * allele + buf[at] - 48, at + 1
                    if allele >= len(copies):
                        return i << 2 | 2
                if at == start or (at > start + 1 and buf[start] == 48):
                    return i << 2 | 1
                copy = copies[allele]
            ploidy += 1
            if ploidy == 1:
                first = copy
            else:
                second = copy
            if buf[at] != 47 and buf[at] != 124:
                break
            phased, at = phased and buf[at] == 124, at + 1
        if buf[at] != 9 and buf[at] != 10 and buf[at] != 58:
            return i << 2 | 1
        known = ploidy <= 2 and first >= 0 and second >= 0
        dosages[i] = first + second if known else -1
        haplotypes[i] = first | second << 1 if known and (phased or first == second) else 0
        haploid[i] = known and ploidy == 1
        tally[0] += ploidy == 2 and points == 1
        tally[1] += haploid[i]
        tally[2] += ploidy > 2
        tally[3] += ploidy <= 2 and points == 0 and not known
        more = 1
        while buf[at] != 9 and buf[at] != 10:
            more, at = more + (buf[at] == 58), at + 1
        if more > keys:
            return i << 2 | 1
        at += 1
    return 0


def _dosages(buf, where, haploid, out):  # type: ignore[no-untyped-def]
    """0, or cell << 2 | reason."""
    key, values, value = where
    at = 0
    for i in range(len(out)):
        before, count, total, chosen, absent = key, 0, 0.0, 0.0, False
        while before and buf[at] != 9 and buf[at] != 10:
            before, at = before - (buf[at] == 58), at + 1
        while before == 0:
            number, unit, digits = 0.0, 1.0, 0
            if buf[at] == 46 and not 48 <= buf[at + 1] <= 57:
                absent, at = True, at + 1
            else:
                point = False
                while 48 <= buf[at] <= 57 or (buf[at] == 46 and not point):
                    if buf[at] == 46:
                        point = True
                    else:
                        number, digits, unit = 10 * number + buf[at] - 48, digits + 1, 10 * unit if point else unit
                    at += 1
                if digits and buf[at] | 32 == 101:  # a small number's exponent
                    if buf[at + 1] != 45 or not 48 <= buf[at + 2] <= 57:
                        return i << 2 | 3
                    power, at = 0, at + 2
                    while 48 <= buf[at] <= 57:
                        power, at = min(10 * power + buf[at] - 48, 999), at + 1
                    unit *= 10.0**power
                if digits == 0 or not number / unit <= 2 - haploid[i]:
                    return i << 2 | 3
            total += number / unit
            if count == value:
                chosen = number / unit
            count += 1
            if buf[at] != 44:
                break
            at += 1
        if before == 0 and buf[at] != 9 and buf[at] != 10 and buf[at] != 58:
            return i << 2 | 3
        out[i] = 255
        if count and not absent:
            rest = 2 - haploid[i] - total
            if count != values or rest < -0.01:
                return i << 2 | 3
            out[i] = np.rint(127 * (chosen if value >= 0 else max(rest, 0.0)))
        while buf[at] != 9 and buf[at] != 10:
            at += 1
        at += 1
    return 0
