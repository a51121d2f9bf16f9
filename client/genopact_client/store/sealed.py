"""One sealed record for each person.

    record of row r at offset r * size:  nonce 12 | AES-256-GCM(person's row key, packed row) | tag 16
    associated data:                     SHA-256(store id, kind, schema) | row u64 | version u64

Which version of a record is valid stands in the signed manifest, so records that were swapped, moved between stores or
taken from an older file do not open. A write makes a new record file and becomes valid when the manifest is replaced.
"""

import os
import struct
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from genopact_client import aead
from genopact_client.keyfile import KeyFile
from genopact_client.store import schema as layout
from genopact_client.store.manifest import Kind, Manifest, load, runs
from genopact_shared import canonical, durable
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.protocol import Column, Table

Rows = NDArray[np.int64]


class Store:
    """The sealed rows of one site's people, held by one process at a time.

    Guarantees:
        `table` returns what `write` was given for exactly those rows, or raises; a missing or erased person is
        never zeros. A crash leaves the store as it was before or after a write.
    Assumptions:
        The whole folder put back to an earlier day together with its key file is not noticed here, only by the log.
    """

    def __init__(self, path: Path, keyfile: KeyFile) -> None:
        """Open and lock the store in folder `path`.

        Raises:
            GenopactError: STORE_MISSING, STORE_LOCKED, SIGNATURE_INVALID, STORE_INVALID, KEYFILE_ROLLED_BACK.
        """
        self._path, self._keyfile = path, keyfile
        if not path.is_dir():
            raise GenopactError("STORE_MISSING", str(path))
        self._unlock = weakref.finalize(self, os.close, durable.take_lock(path / "lock", "STORE_LOCKED"))
        try:
            self._adopt(load(path, keyfile))
            self._check_disk()
            self._tidy()
        except GenopactError:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, keyfile: KeyFile, schema: Sequence[Column], kind: Kind) -> Self:
        """A new, empty store; its schema and kind never change. STORE_EXISTS if there is one."""
        if (path / "manifest.dsse").exists():
            raise GenopactError("STORE_EXISTS", str(path))
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity, columns = os.urandom(16).hex(), layout.facts(schema)
        first = Manifest(store=identity, kind=kind, columns=columns, key_epoch=keyfile.epoch)
        first.save(path, keyfile)
        return cls(path, keyfile)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._unlock()

    def manifest(self) -> dict[str, Any]:
        """Facts as JSON: kind, columns, schema_digest, rows, generation, provenance."""
        return self._manifest.facts()

    def rows(self) -> Rows:
        """The rows that have a record and a key, ascending. (n,) int64."""
        present = np.flatnonzero(self._versions)
        return present[self._keyfile.alive(present)]

    def write(self, rows: Rows, table: Table, provenance: Mapping[str, Any] | None = None) -> None:
        """Seal the table's rows as the records of `rows`, as one new version; other records stay.

        Args:
            rows: (n,) int64, each once.
            table: n rows within the schema's declarations.
            provenance: JSON without floats; kept in the manifest.

        Raises:
            GenopactError: TABLE_INVALID, KEY_ERASED.
        """
        if len(rows) != table.n or len(set(rows.tolist())) != table.n:
            raise GenopactError("TABLE_INVALID", "one row number for each row of the table")
        layout.check(table, self._manifest.columns)
        generation = self._manifest.generation + 1
        size, n = self._size, max(len(self._versions), int(rows.max(initial=-1)) + 1)
        records = bytearray(self._records.read_bytes() if self._manifest.records else b"").ljust(n * size, b"\0")
        packed, keys = layout.pack(table, self._type).tobytes(), self._keyfile.keys(rows.tolist(), "row")
        width = self._type.itemsize
        for index, (row, key) in enumerate(zip(rows.tolist(), keys, strict=True)):
            plain = packed[index * width : (index + 1) * width]
            records[row * size : (row + 1) * size] = aead.seal(key, plain, self._context(row, generation))
        versions = np.concatenate([self._versions, np.zeros(n - len(self._versions), np.int64)])
        versions[rows] = generation
        durable.replace(self._path / f"records.{generation}", bytes(records))
        self._commit(
            versions,
            generation=generation,
            records=f"records.{generation}",
            provenance=(*self._manifest.provenance, {"generation": generation, "rows": table.n, **(provenance or {})}),
        )
        self._tidy()

    def table(self, rows: Rows) -> Table:
        """The rows of these people, in this order.

        Raises:
            GenopactError: ROW_UNKNOWN (no record), KEY_ERASED, RECORD_INVALID (changed or exchanged on disk).
        """
        wanted = rows.tolist()
        if not all(0 <= row < len(self._versions) and self._versions[row] for row in wanted):
            raise GenopactError("ROW_UNKNOWN")
        if not wanted:
            return layout.unpack(b"", self._type)
        keys, size = self._keyfile.keys(wanted, "row"), self._size
        with self._records.open("rb") as file:
            sealed = [os.pread(file.fileno(), size, row * size) for row in wanted]
        plain = (
            aead.unseal(key, record, self._context(row, int(self._versions[row])), "RECORD_INVALID")
            for key, record, row in zip(keys, sealed, wanted, strict=True)
        )
        return layout.unpack(b"".join(plain), self._type)

    def erase(self, row: int) -> None:
        """Forget one record: first in the manifest, then its bytes. Call `KeyFile.erase` first.

        Raises:
            GenopactError: ROW_UNKNOWN for a row that never had a record.
        """
        if not 0 <= row < len(self._versions):
            raise GenopactError("ROW_UNKNOWN")
        versions = self._versions.copy()
        versions[row] = 0
        self._commit(versions)
        self._tidy()

    @property
    def _records(self) -> Path:
        return self._path / self._manifest.records

    def _adopt(self, manifest: Manifest) -> None:
        self._manifest, self._versions = manifest, manifest.version_of_rows()
        self._type = layout.row_type(manifest.columns)
        self._size = 12 + self._type.itemsize + 16
        identity = {"store": manifest.store, "kind": manifest.kind, "schema": manifest.schema_digest}
        self._identity = bytes.fromhex(canonical.digest_of(identity))

    def _check_disk(self) -> None:
        if self._keyfile.epoch < self._manifest.key_epoch:
            raise GenopactError("KEYFILE_ROLLED_BACK", "the store has seen a newer key file")
        expected = len(self._versions) * self._size
        if expected and (not self._records.is_file() or self._records.stat().st_size != expected):
            raise GenopactError("STORE_INVALID", "the record file is missing or cut off")

    def _context(self, row: int, version: int) -> bytes:
        return self._identity + struct.pack(">QQ", row, version)

    def _commit(self, versions: Rows, **changes: Any) -> None:
        changes |= {"versions": runs(versions.tolist()), "key_epoch": self._keyfile.epoch}
        manifest = self._manifest.model_copy(update=changes)
        manifest.save(self._path, self._keyfile)
        self._adopt(manifest)

    def _tidy(self) -> None:
        """Finish what a crash may have left: remove record files that do not count, zero records that were erased."""
        for stray in set(self._path.glob("records.*")) - {self._records}:
            stray.unlink()
        gone = np.flatnonzero(self._versions == 0).tolist()
        if not gone or not self._manifest.records:
            return
        with self._records.open("r+b") as file:
            for row in gone:
                if any(os.pread(file.fileno(), self._size, row * self._size)):
                    os.pwrite(file.fileno(), bytes(self._size), row * self._size)
            os.fsync(file.fileno())
