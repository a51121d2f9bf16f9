"""One sealed record for each person.

    record of row r at offset r * size:  nonce 12 | AES-256-GCM(person's row key, packed row) | tag 16
    associated data:                     SHA-256(store id, kind, schema) | row u64 | version u64

Which version of a record is valid stands in the signed manifest, so records that were swapped, moved between stores or
taken from an older file do not open. A write makes a new record file and becomes valid when the manifest is replaced.

A row is packed in the schema's order, little-endian. Number: 8 bytes, IEEE double, NaN missing. Choice, Flag, Dosage:
one signed byte, -1 missing.
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from genopact_client import aead
from genopact_client.keyfile import KeyFile
from genopact_client.store.folder import Folder, Rows
from genopact_client.store.manifest import Kind, Manifest, runs
from genopact_shared import canonical, durable
from genopact_shared.errors import GenopactError, require
from genopact_shared.recipes.table import Column, Table


class Store(Folder[Manifest]):
    """The sealed covariates of one site's people.

    Guarantees:
        `table` returns what `write` was given for exactly those rows, or raises; a missing or erased person is
        never zeros. A crash leaves the store as it was before or after a write.
    """

    _kind = Manifest

    @classmethod
    def create(cls, path: Path, keyfile: KeyFile, schema: Sequence[Column], kind: Kind) -> Self:
        """A new, empty store; its schema and kind never change. STORE_EXISTS if there is one."""
        identity, columns = os.urandom(16).hex(), facts(schema)
        first = Manifest(store=identity, kind=kind, columns=columns, key_epoch=keyfile.epoch)
        return cls._found(path, keyfile, first)

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
        _check(table, self.signed.columns)
        generation = self.signed.generation + 1
        size, n = self._size, max(len(self._versions), int(rows.max(initial=-1)) + 1)
        records = bytearray(self._file.read_bytes() if self.signed.records else b"").ljust(n * size, b"\0")
        packed, keys = _pack(table, self._type).tobytes(), self.keyfile.keys(rows.tolist(), "row")
        width = self._type.itemsize
        for index, (row, key) in enumerate(zip(rows.tolist(), keys, strict=True)):
            plain = packed[index * width : (index + 1) * width]
            records[row * size : (row + 1) * size] = aead.seal(key, plain, self._context(row, generation))
        versions = np.concatenate([self._versions, np.zeros(n - len(self._versions), np.int64)])
        versions[rows] = generation
        name, last = f"records.{generation}", {"generation": generation, "rows": table.n, **(provenance or {})}
        durable.replace(self.path / name, bytes(records))
        history = (*self.signed.provenance, last)
        self.sign(versions=runs(versions.tolist()), generation=generation, records=name, provenance=history)

    def table(self, rows: Rows) -> Table:
        """The rows of these people, in this order.

        Raises:
            GenopactError: ROW_UNKNOWN (no record), KEY_ERASED, RECORD_INVALID (changed or exchanged on disk).
        """
        wanted = rows.tolist()
        require(all(0 <= row < len(self._versions) and self._versions[row] for row in wanted), "ROW_UNKNOWN")
        if not wanted:
            return _unpack(b"", self._type)
        keys, size = self.keyfile.keys(wanted, "row"), self._size
        with self._file.open("rb") as file:
            sealed = [os.pread(file.fileno(), size, row * size) for row in wanted]
        contexts = (self._context(row, int(self._versions[row])) for row in wanted)
        records = zip(keys, sealed, contexts, strict=True)
        plain = (aead.unseal(key, record, context, "RECORD_INVALID") for key, record, context in records)
        return _unpack(b"".join(plain), self._type)

    @property
    def _file(self) -> Path:
        return self.path / self.signed.records

    def _records(self) -> Iterator[tuple[Path, int]]:
        if self.signed.records:
            yield self._file, self._size

    def _strays(self) -> set[Path]:
        return set(self.path.glob("records.*")) - {self._file}

    def _context(self, row: int, version: int) -> bytes:
        return self._identity + struct.pack(">QQ", row, version)

    def _adopt(self, manifest: Manifest) -> None:
        super()._adopt(manifest)
        kinds = [(column["name"], "<f8" if column["kind"] == "number" else "i1") for column in manifest.columns]
        self._type = np.dtype(kinds)
        self._size = 12 + self._type.itemsize + 16
        identity = {"store": manifest.store, "kind": manifest.kind, "schema": manifest.schema_digest}
        self._identity = bytes.fromhex(canonical.digest_of(identity))


def facts(schema: Sequence[Column]) -> tuple[dict[str, Any], ...]:
    """The schema as JSON without floats: kind, name and every declared property, reals as decimal strings."""
    return tuple({"kind": type(column).__name__.lower(), **_plain(asdict(column))} for column in schema)


def _pack(table: Table, kind: np.dtype[np.void]) -> NDArray[np.void]:
    """The rows of a table, (n,) of `kind`; columns that the table lacks are missing throughout."""
    packed = np.empty(table.n, kind)
    for name in kind.names or ():
        packed[name] = table.number(name) if kind[name] == np.float64 else table.codes(name)
    return packed


def _unpack(rows: bytes, kind: np.dtype[np.void]) -> Table:
    """The table of packed rows."""
    packed = np.frombuffer(rows, kind)
    return Table({name: packed[name].copy() for name in kind.names or ()}, len(packed))


def _check(table: Table, columns: Sequence[dict[str, Any]]) -> None:
    """Refuse columns that the schema (as `facts`) does not have and values outside what it declares.

    Raises:
        GenopactError: TABLE_INVALID.
    """
    declared = {column["name"]: column for column in columns}
    for name, values in table.columns.items():
        require(name in declared, "TABLE_INVALID", f"column {name} is not in the schema")
        low, high, kind = _bounds(declared[name])
        if values.dtype != kind or not (np.isnan(values) | ((values >= low) & (values <= high))).all():
            raise GenopactError("TABLE_INVALID", f"column {name}: a value outside its declaration")


def _bounds(column: dict[str, Any]) -> tuple[float, float, type[np.generic]]:
    if column["kind"] == "number":
        return float(column["low"]), float(column["high"]), np.float64
    highest = {"choice": len(column.get("levels", ())) - 1, "dosage": 2}
    return -1, highest.get(column["kind"], 1), np.int8


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return repr(float(value)) if isinstance(value, int | float) else value
