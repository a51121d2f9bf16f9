"""Public files that a study names by their digest: what was computed from published data, once, for everybody.

A file's name is its SHA-256, so that nobody has to be trusted for it, and all who have it have the same bits.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from genopact_shared import canonical, durable
from genopact_shared.errors import GenopactError, replacing, require

Arrays = Mapping[str, NDArray[Any]]


class Published:
    """A folder of such files. `NOTHING` has none: enough for whatever follows from a study file alone."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def add(self, data: bytes) -> str:
        """Keep a file; returns its digest. PUBLISHED_INVALID if it is no set of arrays."""
        digest = canonical.digest(data)
        _parsed(data, digest)
        if self._folder is not None and not self.has(digest):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.replace(self._folder / digest, data)
        return digest

    def has(self, digest: str) -> bool:
        """Whether the file is here."""
        return self._folder is not None and (self._folder / digest).exists()

    def read(self, digest: str) -> Arrays:
        """Its arrays, not to be changed. Raises PUBLISHED_MISSING, PUBLISHED_INVALID."""
        if self._folder is None or not self.has(digest):
            raise GenopactError("PUBLISHED_MISSING", digest)
        return _read(self._folder / digest, digest)


NOTHING = Published(None)


@lru_cache(maxsize=4)
def _read(path: Path, digest: str) -> Arrays:
    return _parsed(durable.read(path, "PUBLISHED_MISSING"), digest)


def _parsed(data: bytes, digest: str) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with replacing((SafetensorError, ValueError, KeyError), GenopactError("PUBLISHED_INVALID", digest)):
        arrays = load(data)
    require(canonical.digest(data) == digest, "PUBLISHED_INVALID", f"{digest}: other bytes")
    for array in arrays.values():
        array.flags.writeable = False
    return arrays
