"""Files that survive a crash: replaced whole or not at all, and locked by one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genopact_shared.errors import GenopactError, require


def replace(path: Path, data: bytes) -> None:
    """Put `data` at `path`, fsynced, readable by its owner only; a crash leaves the old file or the new one."""
    new = path.with_name(path.name + ".new")
    _write(new, data, os.O_TRUNC)
    new.replace(path)
    sync_folder(path.parent)


def create(path: Path, data: bytes) -> None:
    """Put `data` at `path`, fsynced, readable by its owner only. Raises FileExistsError rather than replace a file."""
    _write(path, data, os.O_EXCL)
    sync_folder(path.parent)


def _write(path: Path, data: bytes, flag: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, missing: str) -> bytes:
    """The bytes at `path`; raises the code `missing` if they cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise GenopactError(missing, f"{path}: {error.strerror}") from error


def read_secret(path: Path) -> bytes:
    """The bytes at `path` without white space around them; KEY_MISSING, KEY_EXPOSED if others can read the file."""
    data = read(path, "KEY_MISSING")
    require(not path.stat().st_mode & 0o077, "KEY_EXPOSED", str(path))
    return data.strip()


def sync_folder(folder: Path) -> None:
    """Make creations, renames and removals in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_lock(path: Path, code: str) -> int:
    """An open descriptor that holds the exclusive lock of `path`; raises `code` if somebody else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise GenopactError(code) from error
    return descriptor


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of `path`, waiting for it; it also excludes other threads of this process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
