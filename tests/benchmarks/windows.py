"""Windows of the reference and of people's haplotypes, indels included, as tokens for sequence models.

Tokens are uint8: A 0, C 1, G 2, T 3, everything else and what lies outside the contig 4. A model's embedding takes
`torch.from_numpy(tokens).int()`.

A prototype: no recipe reads sequences yet. It stands here with its tests and its measurements until one does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genopact_shared.compiled import compiled

N = 4
UNPHASED, MISSING = 4, 5
"""Codes of a genotype beside 0 to 3, whose bits 0 and 1 say which haplotypes carry the variant."""

Tokens = NDArray[np.uint8]
Integers = NDArray[np.int64]

_TOKEN = np.full(256, N, np.uint8)
for _letters in b"ACGT", b"acgt":
    _TOKEN[list(_letters)] = range(4)


@dataclass(frozen=True, eq=False)
class Edits:
    """Variants of one contig as replacements, in the order in which they are made.

    start: (V,) int64, from 0, without the letters that REF and ALT begin with alike.
    gone: (V,) int64 letters that the variant takes away.
    letters: tokens that it puts there; those of variant v are letters[offset[v]:offset[v + 1]].
    order: (V,) int64 index of each among the given variants.
    """

    start: Integers
    gone: Integers
    offset: Integers
    letters: Tokens
    order: Integers


@dataclass(frozen=True, eq=False)
class Haplotypes:
    """tokens: (people, 2, w, width) uint8. The counts are (people,) int64, of what was met inside the windows.

    overlapping: variants of a haplotype that were left out because an earlier one had taken their place.
    unphased: heterozygous genotypes that were left out because nobody knows of which haplotype they are.
    missing: genotypes without a call, read as the reference.
    """

    tokens: Tokens
    overlapping: Integers
    unphased: Integers
    missing: Integers


def tokens(contig: bytes) -> Tokens:
    """(len,) of a contig's letters."""
    return _TOKEN[np.frombuffer(contig, np.uint8)]


def reference_windows(reference: Tokens, starts: Integers, width: int) -> Tokens:
    """(w, width) tokens of the reference from each start (from 0) on."""
    windows = np.full((len(starts), width), N, np.uint8)
    for window, start in zip(windows, starts.tolist(), strict=True):
        first, last = max(start, 0), max(start + width, 0)
        inside = reference[first:last]
        window[first - start : first - start + len(inside)] = inside
    return windows


def edits(reference: Tokens, pos: Integers, ref: Sequence[str], alt: Sequence[str]) -> Edits:
    """Variants of the contig as a VCF writes them: pos from 1, letters of ACGT, left-aligned.

    Raises:
        ValueError: if a REF is not the reference or a letter is none.
    """
    columns = [tokens("".join(column).encode()) for column in (ref, alt)]
    lengths = [np.array([len(each) for each in column], np.int64) for column in (ref, alt)]
    _require(len(pos) == len(ref) == len(alt) and not any(map(str.__eq__, ref, alt)), "variants")
    _require(all((each > 0).all() for each in lengths) and max(c.max(initial=0) for c in columns) < N, "an allele")
    _require(((pos > 0) & (pos + lengths[0] - 1 <= len(reference))).all(), "a position")
    within = np.arange(len(columns[0])) - np.repeat(np.cumsum(lengths[0]) - lengths[0], lengths[0])
    _require((reference[np.repeat(pos - 1, lengths[0]) + within] == columns[0]).all(), "a REF unlike the reference")
    alike = np.array([_alike(*pair) for pair in zip(ref, alt, strict=True)], np.int64)
    start, gone = pos - 1 + alike, lengths[0] - alike
    order = np.lexsort((gone > 0, start))  # what is inserted before a base comes before a change of the base
    kept = [str(alt[at])[int(alike[at]) :] for at in order.tolist()]
    offset = np.cumsum([0, *map(len, kept)], dtype=np.int64)
    return Edits(start[order], gone[order], offset, tokens("".join(kept).encode()), order)


def carried(dosages: NDArray[np.int8], haplotypes: Tokens, effect: Sequence[str]) -> Tokens:
    """Codes (people, V) of ALT out of calls of an effect allele.

    Args:
        dosages: (people, V) copies of the effect allele, -1 missing.
        haplotypes: (people, V) bits 0 and 1 for the haplotypes that carry it; 0 for a heterozygote of unknown phase.
        effect: (V,) "ref" or "alt". Who does not carry REF is taken to carry this ALT: right where it is the only one.
    """
    codes = np.where(dosages == 2, 3, np.where(dosages == 1, haplotypes, 0)).astype(np.uint8)
    codes = np.where(np.array([each == "ref" for each in effect], np.bool_), 3 - codes, codes)
    codes[(dosages == 1) & (haplotypes == 0)] = UNPHASED
    codes[dosages < 0] = MISSING
    return codes


def haplotype_windows(reference: Tokens, variants: Edits, codes: Tokens, starts: Integers, width: int) -> Haplotypes:
    """Both haplotypes of people in windows.

    A window begins with the haplotype's copy of the reference base at `start`, or with what follows if that base is
    deleted. Indels shift what comes after them: more of the reference is read at the right end. Where two carried
    variants overlap, the one that begins first is made; of two that begin together, the first given.

    Args:
        reference: (len,) the contig.
        variants: of the same contig.
        codes: (people, V) 0 to 5, in the order of the variants given to `edits`.
        starts: (w,) from 0; windows may overlap and reach over the contig's ends.
        width: of a window.

    Raises:
        ValueError: arrays that do not fit together.
    """
    count = len(variants.start)
    _require(codes.dtype == np.uint8 and codes.ndim == 2 and codes.shape[1] == count, "codes of other variants")
    _require(codes.max(initial=0) <= MISSING and width > 0, "a code or a width")
    _require(count == 0 or (variants.start + variants.gone).max() <= len(reference), "variants of another contig")
    if (np.diff(variants.order) != 1).any():
        codes = codes[:, variants.order]
    out = np.empty((len(codes), 2, len(starts), width), np.uint8)
    counts = np.zeros((3, len(codes)), np.int64)
    compiled(_fill)(
        reference,
        (variants.start, variants.gone, variants.offset, variants.letters),
        np.ascontiguousarray(codes),
        starts.astype(np.int64),
        _first(variants, starts),
        out,
        counts,
    )
    return Haplotypes(out, *counts)


def _first(variants: Edits, starts: Integers) -> Integers:
    """(w,) the first variant that matters to each window: one that reaches into it, or decides on one that does."""
    reach = np.maximum.accumulate(np.r_[np.iinfo(np.int64).min, variants.start + variants.gone])
    free = np.flatnonzero(reach[:-1] <= variants.start)  # no earlier variant reaches these
    first = np.searchsorted(variants.start, starts)
    before = free[np.searchsorted(free, first - 1, "right") - 1] if len(free) else first
    return np.asarray(np.where(reach[first] > starts, before, first), np.int64)


def _fill(reference, edited, codes, windows, first, out, counts):  # type: ignore[no-untyped-def]
    """Every window of every haplotype, from left to right; compiled."""
    (start, gone, offset, letters), width = edited, out.shape[3]
    for person in range(len(codes)):
        for side in range(2):
            for at in range(len(windows)):
                row, base = out[person, side, at], windows[at]
                filled = min(width, max(0, -base))
                row[:filled] = 4
                place = base + filled  # the next base of the reference
                taken = inserted = -1  # where the last variant ended; the place of the last insertion
                for v in range(first[at], len(start)):
                    if filled == width or start[v] - place >= width - filled:
                        break
                    code = codes[person, v]
                    if code > 3:
                        counts[code - 3, person] += side == 0 and start[v] >= base
                    elif code >> side & 1:
                        if start[v] < taken or (gone[v] == 0 and start[v] == inserted):
                            counts[0, person] += start[v] >= base
                            continue
                        taken = start[v] + gone[v]
                        if gone[v] == 0:
                            inserted = start[v]
                        if start[v] < base or (gone[v] == 0 and start[v] == base):
                            place = max(place, taken)
                            continue
                        kept = start[v] - place
                        row[filled : filled + kept] = reference[place : start[v]]
                        filled += kept
                        put = min(offset[v + 1] - offset[v], width - filled)
                        row[filled : filled + put] = letters[offset[v] : offset[v] + put]
                        filled += put
                        place = taken
                kept = max(0, min(width - filled, len(reference) - place))
                row[filled : filled + kept] = reference[place : place + kept]
                row[filled + kept :] = 4


def _alike(ref: str, alt: str) -> int:
    """Letters that both begin with."""
    at = 0
    while at < min(len(ref), len(alt)) and ref[at] == alt[at]:
        at += 1
    return at


def _require(holds: object, what: str) -> None:
    if not holds:
        raise ValueError(f"Not fitting together: {what}")
