"""The loops between packed rows and what is computed with. All are made for `compiled`."""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]

LINE = 64
"""Bytes of a cache line."""
TILE = 256
"""People, or packed bytes, at a time: what belongs to them stays in the first cache."""
u8, u32 = np.uint8, np.uint32


def pack(places: Indices, picks: Indices, values: Bytes, packed: Bytes, plane: int) -> int:
    """Write values of variants, variant by variant, into packed rows, person by person.

    places: (m,) ascending variants of the block; picks: (m,) where each stands in `values`.
    values: (k, n); packed: (n, bytes), changed at `places` alone; plane: 0 calls, 1 expected, 2 haplotypes.
    Returns 0 if every value was one of the plane's.
    """
    packing, field = 0 if plane == 1 else 2, u8(255) if plane == 1 else u8(3)
    offset, wrong, tile = u8(1) if plane == 0 else u8(0), u8(0), np.empty(TILE, np.uint8)
    for low in range(0, values.shape[1], TILE):
        width, at = min(TILE, values.shape[1] - low), 0
        while at < len(places):
            byte, kept = places[at] >> packing, u8(255)
            tile[:] = 0
            while at < len(places) and places[at] >> packing == byte:
                shift, line = u8(2 * (places[at] & 3)) if packing else u8(0), values[picks[at], low : low + width]
                for i in range(width):
                    tile[i] |= u8((line[i] & field) << shift)
                    wrong |= u8(line[i] + offset) & ~field
                kept ^= field << shift
                at += 1
            if plane == 0:  # copies 0, 1, 2 and missing -1, in two bits 0, 1, 2, 3, become codes 3, 2, 0, 1
                for i in range(width):
                    tile[i] = ~(tile[i] ^ ((tile[i] >> u8(1)) & u8(0x55)))
            for i in range(width):
                packed[low + i, byte] = (packed[low + i, byte] & kept) | (tile[i] & ~kept)
    return int(wrong)


def unpack(codes: Bytes, out: NDArray[np.int8], first: int) -> None:
    """Codes (k, bytes) to copies 0..2 and -1 in out (k, v) from column `first`, a word of four at a time."""
    columns = min(4 * codes.shape[1], out.shape[1] - first)
    for i in range(len(codes)):
        line, words = codes[i], out[i, first : first + columns // 4 * 4].view(np.uint32)
        for j in range(len(words)):
            # Bits of codes 00, 01, 10, 11 become 3, 0, 2, 1, one more than the copies; then one a byte is taken off.
            low, high = line[j] & u8(0x55), line[j] >> u8(1)
            more = u32(u8(~(low << u8(1) | (line[j] ^ high) & u8(0x55))))
            more |= more << u32(12)
            more = (more | more << u32(6)) & u32(0x03030303) | u32(0x80808080)
            words[j] = (more - u32(0x01010101)) ^ u32(0x80808080)
        for j in range(columns // 4 * 4, columns):
            code = (line[j >> 2] >> u8(2 * (j & 3))) & u8(3)
            out[i, first + j] = -1 if code == 1 else 2 - code + code // 2


def standardise(copies: NDArray[np.int8], table: NDArray[np.generic], out: NDArray[np.generic], first: int) -> None:
    """Copies (k, v) to table[copies, variant] in out (k, V) from column `first`; table (4, V), the last for missing.

    Two people at a time, so that the table is loaded once for both; the last of an odd number is done twice.
    """
    for start in range(first, first + copies.shape[1], 4 * TILE):
        stop = min(start + 4 * TILE, first + copies.shape[1])
        t0, t1, t2, t3 = table[0, start:stop], table[1, start:stop], table[2, start:stop], table[3, start:stop]
        for i in range(0, len(copies), 2):
            k = min(i + 1, len(copies) - 1)
            a, b = copies[i, start - first : stop - first], copies[k, start - first : stop - first]
            x, y = out[i, start:stop], out[k, start:stop]
            for j in range(len(a)):
                c, d, v0, v1, v2, v3 = u32(a[j]), u32(b[j]), t0[j], t1[j], t2[j], t3[j]
                odd, even = v3 if c & u32(2) else v1, v2 if c & u32(2) else v0
                x[j] = odd if c & u32(1) else even
                odd, even = v3 if d & u32(2) else v1, v2 if d & u32(2) else v0
                y[j] = odd if d & u32(1) else even
