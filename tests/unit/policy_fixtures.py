"""Requests and studies for the tests of the site policy."""

import hashlib
from pathlib import Path
from typing import Any

from genopact_client.policy import Request
from genopact_shared.study import Study

POLICIES = Path(__file__).parents[2] / "policies" / "sites"


def request(**changes: Any) -> Request:
    """What the research hospital permits, with changes."""
    fields: dict[str, Any] = {
        "permission": "DS",
        "diseases": ("MONDO:0005148",),
        "uses": ("train",),
        "organisations": ("public",),
        "commercial": False,
        "regions": ("DE",),
        "data": ("genotype",),
        "recipe": "dose/1",
        "mode": "distributed",
        "release": "parties",
        "epsilon_milli": 1000,
        "delta": "0.000001",
        "minimum_cohort": 100,
        "honest_minimum": 2,
        "sites": 3,
    }
    return Request(**fields | changes)


def study(**changes: Any) -> Study:
    """A whole study of three sites with that request."""
    key = iter(hashlib.sha256(bytes([i])).hexdigest() for i in range(20))
    parties = tuple(
        {"name": f"site-{i}", "identity": next(key), "log": next(key), "approver": next(key)} for i in range(3)
    )
    fields: dict[str, Any] = {
        "schema": "genopact.study/1",
        "name": "doses",
        "title": "Doses",
        "contact": "office",
        "purpose": {
            "permission": "HMB",
            "uses": ("train",),
            "organisations": ("public",),
            "commercial": False,
            "regions": ("DE",),
            "data": ("genotype", "ehr"),
        },
        "outcome": "dose",
        "recipe": {"name": "dose", "version": 1},
        "privacy": {"mode": "distributed", "epsilon_milli": 1000, "honest_minimum": 2},
        "schedule": {"quorum": 3},
        "expires": "2027-12-31",
        "coordinator": {"name": "hub", "identity": next(key), "log": next(key), "address": "hub:443"},
        "parties": parties,
    }
    return Study.model_validate(fields | changes)
