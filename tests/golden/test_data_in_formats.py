"""Frozen formats: with these random bytes, these files. A change here needs a new format name and a migration."""

import base64
import hashlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from genopact_client.kek import create_kek
from genopact_client.keyfile import KeyFile
from genopact_client.store.sealed import Store
from genopact_shared import canonical
from genopact_shared.recipes.table import Choice, Column, Dosage, Flag, Number, Table

SCHEMA: tuple[Column, ...] = (
    Number("dose", "mg/week", 0.5, 400, "outcome"),
    Choice("sex", ("female", "male")),
    Flag("smoker"),
    Dosage("snp", "rs9923231", "VKORC1", effect="T", other="C"),
)
DIGESTS = {
    "kek": "1f094f938ef2a28753b589695831cd9df5c674b5b4b29ea9e35eb73bfed52d20",
    "keyfile": "bea3b5b3889be2999d16f42fa5f48573f4bd593140185ede2e65a765af9540e5",
    "store/records.1": "bd6f02ba367e1f2001b0e76d5a722dcf93bdb87fa5e73f44f51681b50a39b950",
    "store/manifest.dsse": "35e206b1a4d7dd3ac06b62145a2c41d20c375ab83e102aeaf07bce8d9ebf1f6d",
}


@pytest.fixture
def _counted_random(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    drawn = 0

    def urandom(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_128(drawn.to_bytes(8)).digest(size)

    with monkeypatch.context() as patched:
        patched.setattr(os, "urandom", urandom)
        yield


@pytest.mark.usefixtures("_counted_random")
def test_files_are_frozen(tmp_path: Path) -> None:
    kek = create_kek(tmp_path / "kek", b"passphrase")
    keys = KeyFile.create(tmp_path / "keyfile", kek)
    keys.new_many(2)
    with Store.create(tmp_path / "store", keys, SCHEMA, "synthetic") as store:
        table = Table({"dose": np.array([17.5, np.nan]), "snp": np.array([2, -1], np.int8)}, 2)
        store.write(np.array([1, 0]), table, {"table": "00" * 32})
    files = ("kek", "keyfile", "store/records.1", "store/manifest.dsse")
    assert {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in files} == DIGESTS
    assert record_by_hand(tmp_path, kek, row=1) == struct.pack("<dbbb", 17.5, -1, -1, 2)


def record_by_hand(home: Path, kek: bytes, row: int) -> bytes:
    """A record opened from the formats' descriptions alone."""
    keyfile = (home / "keyfile").read_bytes()
    epoch = AESGCM(kek).decrypt(keyfile[24:36], keyfile[36:84], keyfile[:24])
    page = AESGCM(epoch).decrypt(bytes(12), keyfile[84:], b"GENOKEY1" + bytes(8) + keyfile[8:16])
    key = HKDFExpand(SHA256(), 32, b"genopact.person/1|row").derive(page[row * 32 : row * 32 + 32])
    envelope = json.loads((home / "store" / "manifest.dsse").read_bytes())
    manifest = json.loads(base64.b64decode(envelope["payload"]))
    schema = hashlib.sha256(canonical.encode(manifest["columns"])).hexdigest()
    facts = {"store": manifest["store"], "kind": "synthetic", "schema": schema}
    context = hashlib.sha256(canonical.encode(facts)).digest() + struct.pack(">QQ", row, 1)
    size = 12 + 11 + 16
    record = (home / "store" / "records.1").read_bytes()[row * size : (row + 1) * size]
    return AESGCM(key).decrypt(record[:12], record[12:], context)
