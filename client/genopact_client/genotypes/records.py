"""What a store of genotypes holds, and how it is cut into files of sealed records.

One plane of one block of variants is a part, with a file `<plane>.<block>.<seal>` of n fixed records:

    record of row r at offset r * size:  nonce 12 | AES-256-GCM(the row's key, packed part of the row) | tag 16
    associated data:                     identity 32 | version u64 | part u32 | seal 8

The identity is a digest of store id, kind, variant manifest, V, width and planes. A row's version is the import that
sealed it. Its key is made of the key in the row's slot of the key file, the store and the version: no other row has it,
and each import has new ones. A seal is drawn whenever a part is written, and the signed manifest names the last: an
earlier state of a part does not open.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from pydantic import Field

from genopact_client.genotypes import loops
from genopact_client.store.folder import Rows
from genopact_client.store.manifest import Signed
from genopact_shared import canonical
from genopact_shared.errors import GenopactError, replacing, require

Plane = Literal["calls", "expected", "haplotypes"]
WIDTH = 65_536
"""Variants of a block: 16 KiB of calls a person, enough for AES at full speed."""
CHUNK = 32
"""Rows at a time, whose packed bytes stay in the second cache."""


class Part(NamedTuple):
    """One plane of `variants` variants from `first`, which is a multiple of four."""

    number: int
    plane: Plane
    first: int
    variants: int

    @property
    def plain(self) -> int:
        """Bytes of a packed row."""
        return self.variants if self.plane == "expected" else -(-self.variants // 4)

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return 12 + self.plain + 16


class Manifest(Signed):
    """The manifest of a store of genotypes.

    variants: digest of the variant manifest; length: V; width: variants of a block.
    planes: `calls` 2 bits, PLINK 1 codes (00 two effect alleles, 01 missing, 10 one, 11 none); `expected` uint8, 0..254
        for 0..2 effect alleles, 255 missing; `haplotypes` 2 bits, the first and the second carries the effect allele.
    seals: generation -> a seal of each part, "" before it is written; of generations that have rows, and the newest.
    plan, begun, sources, added: of an unfinished import the digest of its plan, the versions as they will be, digests
        of the sources that are safe, and a bit for each variant that they had, in hex.
    """

    TYPE: ClassVar[str] = "application/vnd.genopact.genotypes+json"
    HIDDEN: ClassVar[set[str]] = {"versions", "seals", "begun", "added"}

    format: Literal["genopact.genotypes/1"] = "genopact.genotypes/1"
    variants: str = Field(pattern=r"^[0-9a-f]{64}$")
    length: int = Field(gt=0)
    width: int = Field(gt=0, multiple_of=4)
    planes: tuple[Plane, ...] = Field(min_length=1)
    seals: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    plan: str = ""
    begun: tuple[tuple[int, int], ...] = ()
    sources: tuple[str, ...] = ()
    added: str = ""

    @property
    def identity(self) -> bytes:
        """SHA-256 of what never changes."""
        fixed = {"store", "kind", "variants", "length", "width", "planes"}
        return bytes.fromhex(canonical.digest_of(self.model_dump(mode="json", include=fixed)))

    def context(self, part: Part, version: str) -> bytes:
        """The associated data of that version's records of a part."""
        seal = bytes.fromhex(self.seals[version][part.number])
        return struct.pack(">32sQI8s", self.identity, int(version), part.number, seal)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Plane by plane."""
        cut = enumerate(product(self.planes, range(0, self.length, self.width)))
        return tuple(Part(at, plane, first, min(self.width, self.length - first)) for at, (plane, first) in cut)

    def files(self, folder: Path, generation: int) -> list[Path]:
        """Where that generation's parts are; only the newest has files of its own."""
        named = zip(self.parts, self.seals.get(str(generation), ()), strict=False)
        return [folder / f"{part.plane}.{part.first // self.width}.{seal}" for part, seal in named]


class People(NamedTuple):
    """Whose records are opened or sealed: rows (n,) and versions (n,) int64, and a key each, ready."""

    rows: Rows
    versions: Rows
    ciphers: list[AESGCM]


class Records:
    """The file of one part, mapped: n records of the versions with these seals."""

    def __init__(self, path: Path, part: Part, n: int, now: Manifest) -> None:
        with path.open("rb") as file:
            require(os.fstat(file.fileno()).st_size == n * part.size, "STORE_INVALID", "a record file is cut off")
            self._view = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        self.part, self._bytes = part, np.frombuffer(self._view, np.uint8)
        self._contexts = {int(version): now.context(part, version) for version in now.seals}
        self._plain = np.empty((CHUNK, part.plain), np.uint8)
        self._lines = [line.data for line in self._plain]

    def of(self, people: People, indices: NDArray[np.integer]) -> Iterator[tuple[int, loops.Bytes]]:
        """CHUNK people at a time: the first one's place, packed rows (k, part.plain), overwritten by the next ones.

        Raises:
            GenopactError: RECORD_INVALID.
        """
        size, view, ciphers, contexts = self.part.size, self._view, people.ciphers, self._contexts
        starts, versions = people.rows[indices] * size, people.versions[indices]
        lines = np.arange(0, size, loops.LINE)
        jobs = list(zip(indices.tolist(), starts.tolist(), versions.tolist(), strict=True))
        for first in range(0, len(jobs), CHUNK):
            some = slice(first, first + CHUNK)
            self._bytes.take(starts[some, None] + lines)  # memory is waited for once
            with replacing(InvalidTag, GenopactError("RECORD_INVALID")):
                for (index, at, version), line in zip(jobs[some], self._lines, strict=False):
                    nonce, sealed = view[at : at + 12], view[at + 12 : at + size]
                    ciphers[index].decrypt_into(nonce, sealed, contexts[version], line)
            yield first, self._plain[: len(jobs[some])]
