"""The reference's letters, from a local FASTA file."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from genopact_ingest.findings import Fault, require
from genopact_shared.alleles import contig
from genopact_shared.errors import replacing

_CHUNK = 1 << 18


class Reference:
    """A FASTA file, plain or bgzip, by the names of CONTIGS; a contig that it has under two names is left out.

    Raises:
        Fault: REFERENCE_UNREADABLE.
    """

    def __init__(self, path: Path) -> None:
        require(path.is_file(), "REFERENCE_UNREADABLE", "(not a regular local file)")
        with _silent(), tempfile.TemporaryDirectory(prefix="genopact-") as folder:
            self._file = _open(path, Path(folder))
        found = [(contig(name), name) for name in self._file.references]
        known = [each for each, _ in found]
        self._names = {each: name for each, name in found if each is not None and known.count(each) == 1}
        self.lengths = {each: int(self._file.get_reference_length(name)) for each, name in self._names.items()}
        """Contig -> number of bases."""
        self._chunk = lru_cache(maxsize=8)(self._read)

    def bases(self, chrom: str, start: int, stop: int) -> bytes:
        """Upper-case letters at start .. stop - 1, counted from 1; fewer where the contig ends, none of an unknown one.

        Letters are whatever the file has: compare them with A, C, G, T alone, so that N and other codes never match.
        """
        start, stop = max(start, 1) - 1, stop - 1
        first, last = start // _CHUNK, (stop - 1) // _CHUNK
        whole = b"".join(self._chunk(chrom, at) for at in range(first, last + 1))
        return whole[start - first * _CHUNK : stop - first * _CHUNK]

    def _read(self, chrom: str, at: int) -> bytes:
        if chrom not in self._names or at * _CHUNK >= self.lengths[chrom]:
            return b""
        with _silent(), replacing((ValueError, OSError), Fault("REFERENCE_UNREADABLE")):
            text = self._file.fetch(self._names[chrom], at * _CHUNK, (at + 1) * _CHUNK)
        return bytes(text.upper(), "ascii")


def _open(path: Path, folder: Path) -> Any:
    """The file with its index; one that is missing or older than the file is made anew, in `folder`."""
    import pysam
    from pysam.utils import SamtoolsError

    indexes = [path.with_name(path.name + ending) for ending in (".fai", ".gzi")]
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if any(not each.is_file() or each.stat().st_mtime < path.stat().st_mtime for each in indexes[: 1 + packed]):
        indexes = [folder / each.name for each in indexes]
    with replacing((SamtoolsError, OSError, ValueError), Fault("REFERENCE_UNREADABLE")):
        if indexes[0].parent == folder:
            pysam.faidx("--fai-idx", str(indexes[0]), "--gzi-idx", str(indexes[1]), str(path))
        return pysam.FastaFile(str(path), str(indexes[0]), str(indexes[1]) if packed else None)


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what native code prints: its messages hold paths and lines of files."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
