"""Records, purposes, keys and people for the tests of consent."""

import datetime as dt
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopact_client.consent.record import ConsentRecord, Provision
from genopact_client.keyfile import KeyFile
from genopact_client.people import People as Enrolled
from genopact_shared.errors import GenopactError
from genopact_shared.study import Purpose

TODAY = dt.date(2026, 6, 1)
DIABETES, TYPE_2, BREAST_CANCER, CANCER = "MONDO:0005015", "MONDO:0005148", "MONDO:0007254", "MONDO:0004992"
STRANGE = "MONDO:9999999"


def provision(**changes: Any) -> Provision:
    """A wide permit with changes."""
    fields: dict[str, Any] = {
        "decision": "permit",
        "permission": "HMB",
        "diseases": (),
        "uses": ("train", "validate"),
        "organisations": ("public", "nonprofit"),
        "commercial_use": "never",
        "regions": ("DE", "FR"),
        "data": ("genotype", "ehr"),
        "valid_from": dt.date(2026, 1, 1),
        "valid_until": dt.date(2026, 12, 31),
        "origin": "test",
    }
    return Provision(**fields | changes)


def record(*provisions: Provision, **changes: Any) -> ConsentRecord:
    """An active opt-in with these provisions, or with the default one."""
    fields: dict[str, Any] = {"provisions": provisions or (provision(),), "form": "broad|1"}
    return ConsentRecord.silent("active").model_copy(update=fields | changes)


def purpose(**changes: Any) -> Purpose:
    """What `provision()` permits."""
    fields: dict[str, Any] = {
        "permission": "HMB",
        "uses": ("train",),
        "organisations": ("public",),
        "commercial": False,
        "regions": ("DE",),
        "data": ("genotype",),
    }
    return Purpose(**fields | changes)


def odd_purpose(**changes: Any) -> Purpose:
    """A purpose that no study file can hold."""
    return Purpose.model_construct(**purpose().model_dump() | changes)


class Keys(KeyFile):
    """A key file in memory."""

    def __init__(self, people: int) -> None:
        self.dead: set[int] = set()
        self.people = people

    def key(self, slot: int, purpose: str) -> bytes:
        if slot in self.dead or not 0 <= slot < self.people:
            raise GenopactError("KEY_ERASED")
        return hashlib.sha256(f"{slot}{purpose}".encode()).digest()

    def keys(self, slots: Iterable[int], purpose: str) -> list[bytes]:
        return [self.key(slot, purpose) for slot in slots]

    def alive(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.array([0 <= slot < self.people and slot not in self.dead for slot in slots], bool)

    def erase(self, slots: Iterable[int]) -> None:
        self.dead |= set(slots)


class People(Enrolled):
    """Patient number p<i> is row i."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def row(self, mrn: str) -> int | None:
        known = {f"p{i}": i for i in range(self.count)}
        return known.get(mrn)
