"""A locked folder of sealed records under a signed manifest: what every store is."""

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from genopact_client.keyfile import KeyFile
from genopact_client.store.manifest import Signed, runs
from genopact_shared import durable
from genopact_shared.errors import GenopactError, require

Rows = NDArray[np.int64]
M = TypeVar("M", bound=Signed)


class Folder(ABC, Generic[M]):
    """The rows of one site's people, held by one process at a time.

    Assumptions:
        The whole folder put back to an earlier day together with its key file is not noticed here, only by the log.
    """

    _kind: type[M]

    def __init__(self, path: Path, keyfile: KeyFile) -> None:
        """Open and lock the store in folder `path`, and finish what a crash has left.

        Raises:
            GenopactError: STORE_MISSING, STORE_LOCKED, SIGNATURE_INVALID, STORE_INVALID, KEYFILE_ROLLED_BACK.
        """
        self.path, self.keyfile = path, keyfile
        require(path.is_dir(), "STORE_MISSING", str(path))
        self._unlock = weakref.finalize(self, os.close, durable.take_lock(path / "lock", "STORE_LOCKED"))
        try:
            self._adopt(self._kind.load(path, keyfile))
            if keyfile.epoch < self.signed.key_epoch:
                raise GenopactError("KEYFILE_ROLLED_BACK", "the store has seen a newer key file")
            for file, size in self._records():
                if not file.is_file() or file.stat().st_size != len(self._versions) * size:
                    raise GenopactError("STORE_INVALID", "a record file is missing or cut off")
            if not self.keyfile.alive(there := np.flatnonzero(self._versions)).all():
                self._forget(there[~self.keyfile.alive(there)])  # erased while another process held the store
            self._tidy()
        except GenopactError:
            self.close()
            raise

    @classmethod
    def _found(cls, path: Path, keyfile: KeyFile, first: Signed) -> Self:
        require(not (path / "manifest.dsse").exists(), "STORE_EXISTS", str(path))
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        """The manifest's facts as JSON."""
        return self.signed.facts()

    def rows(self) -> Rows:
        """The rows that have a record and a key, ascending. (n,) int64."""
        present = np.flatnonzero(self._versions)
        return present[self.keyfile.alive(present)]

    def erase(self, row: int) -> None:
        """Forget one person: first in the manifest, then the bytes. Call `KeyFile.erase` first.

        Raises:
            GenopactError: ROW_UNKNOWN for a row that never had a record.
        """
        require(0 <= row < len(self._versions), "ROW_UNKNOWN")
        self._forget(np.array([row]))

    def _forget(self, rows: Rows) -> None:
        versions = self._versions.copy()
        versions[rows] = 0
        self.sign(versions=runs(versions.tolist()))

    def sign(self, **changes: Any) -> None:
        """Replace the manifest, the moment at which a write becomes valid, and remove what no longer counts."""
        manifest = self.signed.model_copy(update={**changes, "key_epoch": self.keyfile.epoch})
        manifest.save(self.path, self.keyfile)
        self._adopt(manifest)
        self._tidy()

    def _adopt(self, manifest: M) -> None:
        self.signed, self._versions = manifest, manifest.version_of_rows()

    @abstractmethod
    def _records(self) -> Iterable[tuple[Path, int]]:
        """The files that count, with the size of a record in each."""

    @abstractmethod
    def _strays(self) -> Iterable[Path]:
        """Record files that do not count."""

    def _tidy(self) -> None:
        """Finish what a crash may have left: remove record files that do not count, zero records that were erased."""
        for stray in self._strays():
            stray.unlink()
        gone = np.flatnonzero(self._versions == 0).tolist()
        for path, size in self._records() if gone else ():
            with path.open("r+b") as file:
                for row in gone:
                    if any(os.pread(file.fileno(), size, row * size)):
                        os.pwrite(file.fileno(), bytes(size), row * size)
                os.fsync(file.fileno())
