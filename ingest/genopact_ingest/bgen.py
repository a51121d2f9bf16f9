"""BGEN 1.2 and 1.3 files that name their samples.

A probability becomes expected copies; a hard call is the likeliest genotype if its probability is above CERTAIN, else
missing. Blocks that zlib compressed have a checksum, zstd's may have one, the sites and the header have none: a
flipped letter of an allele is for the harmoniser to find. Compare checksums with whoever made the file.
Source: www.chg.ox.ac.uk/~gav/bgen_format, layout 2.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.findings import refusal, sound
from genopact_ingest.plink import BATCH, Calls, LocalFiles, in_steps, regular, sample_names, stacked
from genopact_ingest.source import Called, Harmoniser, Record
from genopact_shared.errors import replacing

CERTAIN = 0.9
_Read = tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]


class BgenFile(LocalFiles):
    """A `Source` of hard calls, expected dosages and phases.

    The format does not say which allele is the reference: `reference` does. qctool puts it first, and plink2's export
    last unless told otherwise. `Called.expected` is None in a batch that says no more than its hard calls.
    """

    def __init__(self, path: Path, *, reference: Literal["first", "last"] = "first", phases: bool = False) -> None:
        """Opens a file.

        Raises:
            ImportRefusedError: GENOTYPES_UNREADABLE, GENOTYPES_SAMPLES.
        """
        self._paths, self._turn, self._phases = (regular(path),), int(reference == "last"), phases
        with path.open("rb") as file, _whole():
            start, length, self._count, n, magic = struct.unpack("<4I4s", _take(file, 20))
            flags = int.from_bytes(_take(file, length - 16)[-4:], "little")
            self._compression, self._start = flags & 3, start + 4
            if magic not in {b"bgen", bytes(4)} or flags >> 2 & 15 != 2 or self._compression == 3:
                raise ValueError
            sound(flags >> 31, "GENOTYPES_SAMPLES", "(the BGEN names none)")
            _take(file, 8)
            self.samples = sample_names([_text(file, "<H") for _ in range(n)])
            if file.tell() > self._start:
                raise ValueError

    def batches(self, harmoniser: Harmoniser) -> Iterator[Called]:
        """As in `Source`; at most BATCH variants each."""
        with self._paths[0].open("rb") as file, self._paths[0].open("rb") as blocks:
            file.seek(self._start)
            sites = self._sites(file)
            while some := list(islice(sites, BATCH)):
                if matches := harmoniser.match([record for record, _, _ in some]):
                    with _whole():
                        found = [self._calls(blocks, *some[match.record], match.allele) for match in matches]
                    yield stacked(matches, found, phases=self._phases)

    def _sites(self, file: BinaryIO) -> Iterator[tuple[Record, int, int]]:
        """The records, and where their blocks lie: start and size."""
        for row in range(1, self._count + 1):
            with _whole(row):
                _, _, chrom = (_text(file, "<H") for _ in range(3))
                pos, k = struct.unpack("<IH", _take(file, 6))
                alleles = [_text(file, "<I").upper() for _ in range(k)]
                first = alleles.pop(-self._turn)  # 0 or -1
                site = Record(chrom, pos, first, tuple(alleles))
                size = int.from_bytes(_take(file, 4), "little")
                start = file.tell()
                file.seek(size, 1)
            yield site, start, size
        whole = file.tell() == self._paths[0].stat().st_size
        sound(whole, "GENOTYPES_UNREADABLE", "(it ends before or after its last variant)", column=".bgen")

    def _calls(self, file: BinaryIO, site: Record, start: int, size: int, effect: int) -> Calls:
        """`effect`: an index of the record's alleles."""
        k, n = 1 + len(site.alts), len(self.samples)
        file.seek(start)
        block = self._inflated(_take(file, size), 10 + n * (1 + 2 * k * (k + 1)))
        marks, (phased, bits) = np.frombuffer(block, np.uint8, n, 8), block[8 + n : 10 + n]
        ploidy = marks & 63
        if struct.unpack_from("<IH", block) != (n, k) or phased > 1 or bits not in {8, 16} or ploidy.max() > 2:
            raise ValueError
        width = np.array([0, k - 1, 2 * (k - 1) if phased else k * (k + 1) // 2 - 1])[ploidy]
        ends = width.cumsum()
        stored = np.frombuffer(block, f"<u{bits // 8}", offset=10 + n) / (2.0**bits - 1)
        if stored.size != ends[-1]:
            raise ValueError
        hard, copies, haplotypes = np.full(n, -1), np.full(n, -1.0), np.zeros(n, np.int64)
        for alleles in (1, 2):
            who = np.flatnonzero((ploidy == alleles) & (marks < 128))
            if who.size:
                shares = stored[ends[who] + np.arange(-int(width[who[0]]), 0)[:, None]]
                read = _by_haplotype if phased or alleles == 1 else _by_genotype
                hard[who], copies[who], haplotypes[who] = read(shares, k, (effect - self._turn) % k)
        return hard.astype(np.int8), in_steps(copies), haplotypes.astype(np.uint8), ploidy == 1

    def _inflated(self, data: bytes, limit: int) -> bytes:
        size = int.from_bytes(data[:4], "little")
        if self._compression and size > limit:
            raise ValueError
        if self._compression == 1:
            return zlib.decompress(data[4:], bufsize=size)
        if self._compression == 2:
            from pyarrow import Codec

            return bytes(Codec("zstd").decompress(data[4:], decompressed_size=size, asbytes=True))
        return data


def _by_haplotype(shares: NDArray[np.float64], k: int, effect: int) -> _Read:
    """Hard calls, copies and haplotypes, of (ploidy * (k - 1), m) probabilities of alleles but the last of each."""
    alleles = _with_rest(shares.reshape(-1, k - 1, shares.shape[1]))
    carried = alleles.argmax(axis=1) == effect
    certain = alleles.max(axis=1).prod(axis=0) > CERTAIN
    haplotypes = (1 << np.arange(len(carried))) @ carried
    return np.where(certain, carried.sum(axis=0), -1), alleles[:, effect].sum(axis=0), np.where(certain, haplotypes, 0)


def _by_genotype(shares: NDArray[np.float64], k: int, effect: int) -> _Read:
    """The same of (k(k+1)/2 - 1, m) probabilities of diploid genotypes in the order 11, 12, 22, 13, 23, 33 ..."""
    genotypes = _with_rest(shares)
    copies = np.array([(first == effect) + (second == effect) for second in range(k) for first in range(second + 1)])
    hard = np.where(genotypes.max(axis=0) > CERTAIN, copies[genotypes.argmax(axis=0)], -1)
    return hard, copies @ genotypes, np.where(hard == 2, 3, 0)


def _with_rest(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., all, m): the last probability, which is not stored, behind the (..., all but one, m)."""
    rest = 1 - shares.sum(axis=-2, keepdims=True)
    if rest.min() < -1e-9:
        raise ValueError
    return np.concatenate([shares, rest], axis=-2)


def _whole(variant: int | None = None) -> AbstractContextManager[None]:
    """Whatever goes wrong with the bytes is one refusal, with the variant's number."""
    kinds = (ValueError, IndexError, OSError, EOFError, MemoryError, struct.error, zlib.error)
    return replacing(kinds, refusal("GENOTYPES_UNREADABLE", "(damaged, or not BGEN 1.2 or 1.3)", variant, ".bgen"))


def _take(file: BinaryIO, size: int) -> bytes:
    data = file.read(max(size, 0))
    if len(data) != size:
        raise EOFError
    return data


def _text(file: BinaryIO, form: str) -> str:
    return _take(file, *struct.unpack(form, _take(file, struct.calcsize(form)))).decode()
