"""The sealed genotypes of one site: a folder with a signed manifest, the imports into it, what opens it."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from genopact_client.genotypes import loops
from genopact_client.genotypes.loops import Bytes, Indices
from genopact_client.genotypes.opened import Opened
from genopact_client.genotypes.records import WIDTH, Manifest, Part, People, Plane, Records
from genopact_client.keyfile import GenotypePurpose, KeyFile
from genopact_client.store.folder import Folder, Rows
from genopact_client.store.manifest import Kind, runs
from genopact_shared import durable
from genopact_shared.compiled import compiled
from genopact_shared.errors import GenopactError, require
from genopact_shared.manifest import VariantManifest, parse
from genopact_shared.recipes.table import Codes

BUDGET = 1 << 30
UNKNOWN: dict[Plane, int] = {"calls": 0b01010101, "expected": 255, "haplotypes": 0}
"""A byte of unknown values, by plane."""


class Genotypes(Folder[Manifest]):
    """A row of sealed genotypes for each person, of the variants of one manifest; held by one process at a time.

    Guarantees:
        What `open` gives is what an import has sealed for exactly those people, or an error; never zeros. A crash
        leaves the store as it was before or after an import or an erasure.
    """

    _kind = Manifest

    @classmethod
    def create(
        cls, path: Path, keyfile: KeyFile, variants: VariantManifest, kind: Kind, *,
        planes: Sequence[Plane] = ("calls",), width: int = WIDTH,
    ) -> Self:  # fmt: skip
        """A new, empty store; none of this ever changes. STORE_EXISTS if there is one.

        Args:
            path: the folder.
            keyfile: the site's.
            variants: the features.
            kind: what it may serve.
            planes: what is kept; see `Manifest`.
            width: variants of a block, a multiple of four. A block of all people's calls must fit into memory.
        """
        first = Manifest(
            store=os.urandom(16).hex(), kind=kind, key_epoch=keyfile.epoch,
            variants=variants.digest, length=len(variants), width=width, planes=tuple(planes),
        )  # fmt: skip
        return cls._found(path, keyfile, first)

    @property
    def variants(self) -> VariantManifest:
        """The store's variant manifest. MANIFEST_MISSING, MANIFEST_INVALID."""
        return variants_at(self.path, self.signed.variants)

    def open(self, rows: Rows, variants: VariantManifest, guard: Callable[[], bool]) -> Opened:
        """Unwrap the keys of these people alone.

        Args:
            rows: (n,) int64, whoever is permitted now.
            variants: the store's manifest.
            guard: whether what permitted them still holds; asked before each batch.

        Raises:
            GenopactError: ROW_UNKNOWN (no record), KEY_ERASED, MANIFEST_INVALID (another manifest).
        """
        require(variants.digest == self.signed.variants, "MANIFEST_INVALID", "the store was made for another one")
        require(all(0 <= row < len(self._versions) and self._versions[row] for row in rows.tolist()), "ROW_UNKNOWN")
        return Opened(self._people(rows, self._versions), self._mapped(), variants, self.keyfile, guard)

    def verify(self) -> dict[str, int]:
        """Open every record of everybody who has a key. Counts of people and records; RECORD_INVALID."""
        people, mapped = self._people(self.rows(), self._versions), self._mapped()
        for records in mapped:
            list(records.of(people, np.arange(len(people.rows))))
        return {"people": len(people.rows), "records": len(people.rows) * len(mapped)}

    def writer(self, rows: Rows, plan: str, budget: int = BUDGET) -> "Writer":
        """Begin an import, or go on with the one that a crash has ended, if it was for the same people and plan.

        Args:
            rows: (n,) int64 of the samples, as they come in the sources.
            plan: digest of all that the import depends on: its sources, its rules.
            budget: bytes of packed parts to hold in memory; one part is held whatever it takes.

        Raises:
            GenopactError: KEY_ERASED. ValueError: nobody, or a row twice.
        """
        if not len(rows) or len(np.unique(rows)) != len(rows):
            raise ValueError("Expected people, each once")
        now, generation = self.signed, self.signed.generation + 1
        versions = np.pad(self._versions, (0, max(0, int(rows.max()) + 1 - len(self._versions))))
        versions[rows] = generation
        people, begun = self._people(rows, versions), runs(versions.tolist())
        if (now.plan, now.begun) != (plan, begun) or not self._whole(people, len(versions)):
            # As they are until this import counts, and as they will be.
            live = {str(now.generation), *map(str, self._versions.tolist()), *map(str, versions.tolist())}
            seals = {version: seals for version, seals in now.seals.items() if version in live}
            seals[str(generation)] = ("",) * len(now.parts)
            now = now.model_copy(update={"plan": plan, "begun": begun, "sources": (), "added": "", "seals": seals})
        return Writer(self, now, people, budget)

    def _people(self, rows: Rows, versions: Rows) -> People:
        keys: dict[int, bytes] = {}
        for version in np.unique(versions[rows]).tolist():
            some, purpose = rows[versions[rows] == version].tolist(), f"genotypes/{self.signed.store}/{version}"
            keys |= zip(some, self.keyfile.keys(some, GenotypePurpose(purpose)), strict=True)
        return People(rows, versions[rows], [AESGCM(keys[row]) for row in rows.tolist()])

    def _mapped(self) -> list[Records]:
        now, files = self.signed, self.signed.files(self.path, self.signed.generation)
        return [Records(path, part, len(self._versions), now) for part, path in zip(now.parts, files, strict=False)]

    def _whole(self, people: People, n: int) -> bool:
        """Whether what an unfinished import has made safe is there."""
        now = self.signed
        try:
            for part, path in zip(now.parts, now.files(self.path, now.generation + 1), strict=True):
                if not path.name.endswith("."):
                    list(Records(path, part, n, now).of(people, np.arange(len(people.rows))))
        except (GenopactError, OSError):
            return False
        return True

    def _forget(self, rows: Rows) -> None:
        """With what an unfinished import has sealed: it starts over."""
        now, begun = self.signed, {"plan": "", "begun": (), "sources": (), "added": ""}
        seals = {version: seals for version, seals in now.seals.items() if int(version) <= now.generation}
        self.signed = now.model_copy(update={**begun, "seals": seals})
        super()._forget(rows)

    def _records(self) -> Iterator[tuple[Path, int]]:
        files = self.signed.files(self.path, self.signed.generation)
        yield from zip(files, (part.size for part in self.signed.parts), strict=False)

    def _strays(self) -> set[Path]:
        now, own = self.signed, {path for plane in UNKNOWN for path in self.path.glob(f"{plane}.*.*")}
        return own - {path for after in (0, 1) for path in now.files(self.path, now.generation + after)}


@lru_cache(maxsize=4)
def variants_at(path: Path, digest: str) -> VariantManifest:
    """The manifest in a store's folder. Raises MANIFEST_MISSING; MANIFEST_INVALID unless it has that digest."""
    found = parse(durable.read(path / "variants.tsv", "MANIFEST_MISSING"))
    require(found.digest == digest, "MANIFEST_INVALID", "the store was made for another one")
    return found


class Writer:
    """One import, from `Genotypes.writer`; worthless after an exception.

    Genotypes come variant by variant and are packed person by person. A part is written whole, under a new seal and a
    new name, when memory is short, a source is finished or the import is committed.

    Guarantees:
        These people get new records, in which variants that no source had are missing, under keys that no record that
        counts was sealed with. Others keep theirs to the byte. Until `commit` the store is as it was.
    """

    def __init__(self, store: Genotypes, now: Manifest, people: People, budget: int) -> None:
        self._store, self._now, self._people, self._budget = store, now, people, budget
        self._before, self._parts, self._version = store.signed, now.parts, str(now.generation + 1)
        self._n = sum(length for length, _ in now.begun)
        added = bytes.fromhex(now.added).ljust(-(-now.length // 8), b"\0")
        self._added = np.unpackbits(np.frombuffer(added, np.uint8), count=now.length)
        self._blocks: dict[int, Bytes] = {}  # by part
        self._changed: set[int] = set()

    @property
    def finished(self) -> tuple[str, ...]:
        """Digests of the sources that need not be read again."""
        return self._now.sources

    def add(
        self, variants: Indices, dosages: Codes, expected: Bytes | None = None, haplotypes: Bytes | None = None
    ) -> None:
        """Take in k variants of the n people. A plane that is not given stays unknown; one too many is left out.

        Args:
            variants: (k,) int64 rows of the variant manifest, in any order, each once in an import.
            dosages: (k, n) int8 copies of the effect allele, 0..2, -1 missing.
            expected: (k, n) uint8, 0..254 for 0..2 copies, 255 missing.
            haplotypes: (k, n) uint8, bit 0 the first and bit 1 the second carries the effect allele.

        Raises:
            GenopactError: VARIANT_TWICE. ValueError: another shape, type or value.
        """
        order = np.argsort(variants)
        places = variants[order]
        if len(places) and not 0 <= places[0] <= places[-1] < len(self._added):
            raise ValueError("Expected rows of the variant manifest")
        require(np.diff(places).all() and not self._added[places].any(), "VARIANT_TWICE")
        self._added[places] = 1
        given = {"calls": dosages.view(np.uint8), "expected": expected, "haplotypes": haplotypes}
        for part in self._parts:
            first, last = np.searchsorted(places, (part.first, part.first + part.variants))
            values = given[part.plane]
            if values is None or first == last:
                continue
            if values.dtype != np.uint8 or values.shape != (len(variants), len(self._people.rows)):
                raise ValueError(f"Expected bytes ({len(variants)}, {len(self._people.rows)}), got {values.shape}")
            block, plane = self._block(part), list(UNKNOWN).index(part.plane)
            self._changed.add(part.number)
            where, picks = places[first:last] - part.first, order[first:last]
            if compiled(loops.pack)(where, picks, np.ascontiguousarray(values), block, plane):
                raise ValueError(f"Expected {part.plane}, got other values")

    def clear(self, variants: Indices) -> None:
        """Make k variants missing for everybody: those of which a source had two records."""
        self._added[variants] = 0
        shape = (len(variants), len(self._people.rows))
        self.add(variants, np.full(shape, -1, np.int8), np.full(shape, 255, np.uint8), np.zeros(shape, np.uint8))

    def finish(self, source: str) -> None:
        """Make what was added safe from crashes. `source`: digest of a file that was added whole."""
        self._seal_changed()
        self._sign(sources=(*self._now.sources, source), added=np.packbits(self._added).tobytes().hex())

    def commit(self, provenance: Mapping[str, Any] | None = None) -> None:
        """Make this import the store's newest generation. `provenance`: JSON without floats, kept in the manifest.

        Raises:
            GenopactError: STORE_INVALID if somebody was erased meanwhile.
        """
        for part in self._parts:
            if part.number in self._changed or not self._now.seals[self._version][part.number]:
                self._seal(part)
        about = {"generation": int(self._version), "rows": len(self._people.rows), "variants": int(self._added.sum())}
        told = {**about, "sources": list(self._now.sources), **(provenance or {})}
        self._sign(
            generation=int(self._version), versions=self._now.begun, provenance=(*self._now.provenance, told),
            plan="", begun=(), sources=(), added="",
        )  # fmt: skip

    def _sign(self, **changes: Any) -> None:
        require(self._before is self._store.signed, "STORE_INVALID", "it was changed while an import was running")
        self._now = self._now.model_copy(update=changes)
        self._store.sign(**dict(self._now))
        self._now = self._before = self._store.signed

    def _block(self, part: Part) -> Bytes:
        """A part's packed rows in memory, (n, part.plain); others are sealed and dropped where memory is short."""
        # A line more a row: rows that are a power of two apart would share few places of the cache.
        n, stride = len(self._people.rows), part.plain + loops.LINE
        if part.number not in self._blocks:
            if n * (stride + sum(each.strides[0] for each in self._blocks.values())) > self._budget:
                self._seal_changed()
                self._blocks.clear()
            block = np.full((n, stride), UNKNOWN[part.plane], np.uint8)[:, : part.plain]
            if self._now.seals[self._version][part.number]:
                sealed = Records(self._file(part), part, self._n, self._now)
                for at, rows in sealed.of(self._people, np.arange(n)):
                    block[at : at + len(rows)] = rows
            elif part.plane == "calls" and part.variants % 4:
                block[:, -1] &= (1 << 2 * (part.variants % 4)) - 1
            self._blocks[part.number] = block
        return self._blocks[part.number]

    def _seal_changed(self) -> None:
        for index in sorted(self._changed):
            self._seal(self._parts[index])

    def _file(self, part: Part) -> Path:
        return self._now.files(self._store.path, int(self._version))[part.number]

    def _seal(self, part: Part) -> None:
        """Write a part under a new seal: older records as they are, then those of this import."""
        block, last, seals = self._block(part), self._file(part), list(self._now.seals[self._version])
        seals[part.number] = os.urandom(8).hex()
        self._now = self._now.model_copy(update={"seals": {**self._now.seals, self._version: tuple(seals)}})
        record, context = memoryview(bytearray(part.size)), self._now.context(part, self._version)
        older = self._now.files(self._store.path, self._now.generation)
        shared = {version for _, version in self._now.begun} - {0, int(self._version)}
        new = os.open(self._file(part), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(new, "r+b") as file:
            if shared:
                with older[part.number].open("rb") as kept:
                    shutil.copyfileobj(kept, file, 1 << 20)
            file.truncate(self._n * part.size)
            for row, cipher, line in zip(self._people.rows.tolist(), self._people.ciphers, block, strict=True):
                record[:12] = os.urandom(12)
                cipher.encrypt_into(record[:12], line, context, record[12:])
                file.seek(row * part.size)
                file.write(record)
            file.flush()
            os.fsync(new)
        durable.sync_folder(self._store.path)
        self._changed.discard(part.number)
        if last not in self._before.files(self._store.path, int(self._version)):
            last.unlink(missing_ok=True)
