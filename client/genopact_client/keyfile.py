"""The key file: one 32-byte data key for each person, apart from the data it opens.

    header  "GENOKEY1" | epoch u64 | slots u64 | nonce 12 | E_n sealed under the site's key-encryption key (48)
    page p  AES-256-GCM under E_n of 4,096 keys of 32 bytes, nonce = p, associated data = magic | p | epoch

Every write draws a new epoch key E_n, seals all pages anew, replaces the file and then overwrites the old one, so
the old epoch's key is gone from this disk. A key of 32 zero bytes is an erased or never issued one.

Guarantees:
    After `erase` no key of those slots can be recovered from the file, even by the holder of the key-encryption key.
    A process that has the file open notices another process's erasure before it hands out the next key.
Assumptions:
    Copies of earlier key files (backups, snapshots, a disk that keeps overwritten blocks) are destroyed: with the
    key-encryption key they open. Going back to such a copy is noticed by a running process and by `Store`.
    Keys handed out before an erasure may stay in a process's memory until it ends.
"""

import hmac
import os
import struct
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple, NewType, Self

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from genopact_client import aead
from genopact_shared import durable
from genopact_shared.errors import GenopactError, replacing, require

GenotypePurpose = NewType("GenotypePurpose", str)
Purpose = Literal["consent", "row"] | GenotypePurpose

MAGIC = b"GENOKEY1"
PAGE = 4096
KEY = 32
_HEAD = struct.Struct(">8sQQ")
_START = _HEAD.size + 12 + KEY + 16
_SEALED_PAGE = PAGE * KEY + 16


class _State(NamedTuple):
    epoch: int
    slots: int
    keys: bytes  # slots * 32, then zeros to the end of the last page


class KeyFile:
    """The per-person data keys of one site. Safe to use from several threads and processes."""

    def __init__(self, path: Path, kek: bytes) -> None:
        require(len(kek) == KEY, "KEY_INVALID", "a key-encryption key has 32 bytes")
        self._path, self._kek, self._state = path, kek, _State(0, 0, b"")

    @classmethod
    def create(cls, path: Path, kek: bytes) -> Self:
        """A new, empty key file; KEY_EXISTS if there is one."""
        keys = cls(path, kek)
        with keys._lock():
            require(not path.exists(), "KEY_EXISTS", str(path))
            keys._write(0, b"")
        return keys

    @classmethod
    def open(cls, path: Path, kek: bytes) -> Self:
        """The key file at `path`.

        Raises:
            GenopactError: KEY_MISSING, KEYFILE_INVALID (damaged), KEK_WRONG.
        """
        keys = cls(path, kek)
        keys._refresh()
        return keys

    @property
    def epoch(self) -> int:
        """How often the file has been written; it only ever grows."""
        return self._refresh().epoch

    def __len__(self) -> int:
        return self._refresh().slots

    def new_many(self, count: int) -> range:
        """Issue `count` keys from the operating system's generator; their slots, which continue the last ones."""
        with self._lock():
            state = self._reload()
            slots = range(state.slots, state.slots + count)
            self._write(slots.stop, state.keys[: slots.start * KEY] + os.urandom(count * KEY))
        return slots

    def alive(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each slot, whether it has a key. (n,) bool."""
        state = self._refresh()
        keys = np.frombuffer(state.keys, np.uint8).reshape(-1, KEY)
        known = (slots >= 0) & (slots < state.slots)
        return known & keys[np.where(known, slots, 0)].any(axis=1) if len(keys) else known

    def key(self, slot: int, purpose: Purpose) -> bytes:
        """The 32-byte key of one person for one purpose: HKDF-SHA256 (RFC 5869, expand) of the person's key.

        Raises:
            GenopactError: KEY_ERASED if the slot has no key.
        """
        return self.keys([slot], purpose)[0]

    def keys(self, slots: Iterable[int], purpose: Purpose) -> list[bytes]:
        """`key` for many slots."""
        state = self._refresh()
        return [_expand(_issued(state, slot), f"genopact.person/1|{purpose}") for slot in slots]

    def site_key(self, purpose: str) -> bytes:
        """A 32-byte key of the site for one purpose: HKDF-SHA256 (expand) of the key-encryption key."""
        return _expand(self._kek, f"genopact.site/1|{purpose}")

    def erase(self, slots: Iterable[int]) -> None:
        """Destroy the keys of `slots`; slots already erased stay so, slots never issued raise KEY_ERASED."""
        with self._lock():
            state = self._reload()
            keys = bytearray(state.keys)
            for slot in slots:
                require(0 <= slot < state.slots, "KEY_ERASED", "a slot that was never issued")
                keys[slot * KEY : (slot + 1) * KEY] = bytes(KEY)
            self._write(state.slots, bytes(keys))

    def _lock(self) -> AbstractContextManager[None]:
        return durable.waiting_lock(self._path.with_name(self._path.name + ".lock"))

    def _refresh(self) -> _State:
        """The state on disk: read again only if another process has written since."""
        if self._path_epoch() == self._state.epoch:
            return self._state
        with self._lock():
            return self._reload()

    def _path_epoch(self) -> int:
        try:
            file = os.open(self._path, os.O_RDONLY)  # half the time of a file object: it is asked before each batch
        except FileNotFoundError as error:
            raise GenopactError("KEY_MISSING", str(self._path)) from error
        head = os.read(file, _HEAD.size)
        os.close(file)
        return _HEAD.unpack(head)[1] if len(head) == _HEAD.size and head.startswith(MAGIC) else -1

    def _reload(self) -> _State:
        """The state on disk. Called under the lock, so that no writer overwrites what is being read."""
        if self._path_epoch() != self._state.epoch:
            fresh = _open(self._path.read_bytes(), self._kek)
            require(fresh.epoch >= self._state.epoch, "KEYFILE_ROLLED_BACK")
            self._state = fresh
        return self._state

    def _write(self, slots: int, keys: bytes) -> None:
        """Seal everything under a new epoch key, replace the file, overwrite the old one. Called under the lock."""
        state = _State(self._state.epoch + 1, slots, keys + bytes(-len(keys) % (PAGE * KEY)))
        with self._path.open("r+b") if self._path.exists() else nullcontext() as old:
            durable.replace(self._path, _seal(state, self._kek))
            self._state = state
            if old is not None:
                old.write(bytes(os.fstat(old.fileno()).st_size))
                old.flush()
                os.fsync(old.fileno())


def _expand(key: bytes, info: str) -> bytes:
    return hmac.digest(key, info.encode() + b"\x01", "sha256")


def _issued(state: _State, slot: int) -> bytes:
    key = state.keys[slot * KEY : (slot + 1) * KEY] if 0 <= slot < state.slots else b""
    require(any(key), "KEY_ERASED")
    return key


def _page_context(page: int, epoch: int) -> bytes:
    return MAGIC + struct.pack(">QQ", page, epoch)


def _seal(state: _State, kek: bytes) -> bytes:
    head = _HEAD.pack(MAGIC, state.epoch, state.slots)
    epoch_key = os.urandom(KEY)
    parts = [head, aead.seal(kek, epoch_key, head)]
    cipher = AESGCM(epoch_key)  # new at each write: the page number is a nonce that is used once
    for page in range(len(state.keys) // (PAGE * KEY)):
        plain = state.keys[page * PAGE * KEY : (page + 1) * PAGE * KEY]
        parts.append(cipher.encrypt(page.to_bytes(12), plain, _page_context(page, state.epoch)))
    return b"".join(parts)


def _open(data: bytes, kek: bytes) -> _State:
    require(len(data) >= _START and data[:8] == MAGIC, "KEYFILE_INVALID", "no key file header")
    head, wrapped = data[: _HEAD.size], data[_HEAD.size : _START]
    _, epoch, slots = _HEAD.unpack(head)
    cipher = AESGCM(aead.unseal(kek, wrapped, head, "KEK_WRONG", "or the header of the key file is damaged"))
    pages = -(-slots // PAGE)
    require(len(data) == _START + pages * _SEALED_PAGE, "KEYFILE_INVALID", "cut off or extended")
    with replacing(InvalidTag, GenopactError("KEYFILE_INVALID", "a page is damaged")):
        parts = enumerate(data[start : start + _SEALED_PAGE] for start in range(_START, len(data), _SEALED_PAGE))
        keys = b"".join(cipher.decrypt(page.to_bytes(12), part, _page_context(page, epoch)) for page, part in parts)
    return _State(epoch, slots, keys)
