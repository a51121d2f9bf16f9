"""Small hospitals for tests: site folders with people, consents and approvals, and a courier without a network."""

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genopact_client.agent.exchange import Exchange
from genopact_client.consent.record import ConsentRecord, Provision
from genopact_client.site import Site
from genopact_client.store.sealed import Store
from genopact_server.demo import cohort
from genopact_server.folder import Folder
from genopact_shared import statements
from genopact_shared.keys import SigningKey
from genopact_shared.recipes import RECIPES
from genopact_shared.recipes.dose_features import SCHEMA
from genopact_shared.recipes.table import Table
from genopact_shared.study import Study, parse_study

PASSPHRASE = b"a passphrase for tests"
MIXES = ((0.9, 0.03, 0.04, 0.03), (0.06, 0.88, 0.02, 0.04), (0.5, 0.05, 0.38, 0.07), (0.8, 0.08, 0.06, 0.06))

POLICY = """
schema: genopact.site-policy/1
site: {site}
allow:
  permissions: [GRU, HMB, DS]
  diseases: ["*"]
  uses: [train, validate, federated_stats]
  organisations: [public, nonprofit]
  commercial: never
  regions: ["*"]
  data: [genotype, drug, ehr]
  recipes: [dose/1, dose-net/1, risk/1, risk-net/1, gwas/1, pca/1, cell-response/1, dose-net-evaluation/2]
  modes: [none, local, distributed]
  releases: [parties]
limits:
  max_epsilon_milli: {epsilon}
  lifetime_epsilon_milli: {lifetime}
  max_delta: "0.00001"
  minimum_cohort: 20
  minimum_honest: 2
  minimum_sites: 1
examples:
  base: {{permission: HMB, diseases: [], uses: [train], organisations: [public], commercial: false, regions: [DE],
    data: [genotype, drug], recipe: dose/1, mode: distributed, release: parties, epsilon_milli: 100,
    delta: "0.000001", minimum_cohort: 50, honest_minimum: 2, sites: 3}}
  cases:
    - expect: permit
    - {{change: {{commercial: true}}, expect: deny, because: commercial}}
"""


@dataclass
class Hospital:
    """A site folder with its approver's key, opened by one exchange at a time."""

    site: Site
    approver: SigningKey
    truth: Table

    @property
    def party(self) -> dict[str, str]:
        return {**self.site.card(), "approver": self.approver.public.hex}

    def approve(self, study: Study, planned: int | None = None) -> bytes:
        approval = statements.Approval(
            at=1_700_000_000,
            study=study.hash,
            site=self.site.name,
            planned_cohort=planned or max(10, round(self.truth.n, -1)),
            policy=self.site.policy.digest,
        )
        envelope = statements.sign(approval, self.approver)
        self.site.studies.approve(study, envelope)
        return envelope

    def reopened(self) -> "Hospital":
        """The same folder as a new process would open it."""
        self.close()
        return Hospital(Site.open(self.site.home, PASSPHRASE), self.approver, self.truth)

    def close(self) -> None:
        for room in ("store", "ledger", "log", "private_log", "registry"):
            if room in vars(self.site):
                getattr(self.site, room).close()


def consenting(permission: str = "HMB") -> ConsentRecord:
    provision = Provision(
        decision="permit",
        permission=permission,  # type: ignore[arg-type]
        diseases=(),
        uses=("train", "validate", "federated_stats"),
        organisations=("public", "nonprofit"),
        commercial_use="never",
        regions=("*",),
        data=("genotype", "drug", "ehr"),
        valid_from=dt.date(2020, 1, 1),
        valid_until=dt.date(2050, 1, 1),
        origin="test|1",
    )
    silent = ConsentRecord.silent("active")
    return silent.model_copy(update={"provisions": (provision,), "form": "test|1"})


def hospital(
    home: Path, name: str, people: int = 120, *, seed: int = 1, kind: str = "private", epsilon: int = 5000,
    lifetime: int = 5000, mix: Sequence[float] = MIXES[0],
) -> Hospital:  # fmt: skip
    site = Site.create(home, name, PASSPHRASE)
    (home / "policy.yaml").write_text(POLICY.format(site=name, epsilon=epsilon, lifetime=lifetime))
    truth = cohort.generate(people, seed, mix)
    rows = site.people.enrol([f"{name}-{number}" for number in range(people)])
    store = Store.create(home / "store", site.keyfile, SCHEMA, kind)  # type: ignore[arg-type]
    store.write(rows, truth)
    store.close()
    site.registry.record_many({int(row): consenting() for row in rows})
    return Hospital(site, SigningKey.generate(), truth)


def study_of(folder: Folder, parties: Sequence[Mapping[str, str]], **changes: Any) -> Study:
    """A dose study of these parties; `changes` replace whole sections."""
    mode = changes.get("privacy", {}).get("mode", "distributed")
    body = {
        "schema": "genopact.study/1",
        "name": "warfarin",
        "title": "Weekly warfarin dose",
        "contact": "study office",
        "purpose": {
            "permission": "HMB", "uses": ["train", "validate"], "organisations": ["public"], "commercial": False,
            "regions": ["DE"], "data": ["genotype", "drug", "ehr"],
        },
        "outcome": "weekly_dose_mg",
        "recipe": {"name": "dose", "version": 1},
        "metrics": RECIPES["dose"].measures if changes.get("recipe", {}).get("name", "dose") == "dose" else (),
        "privacy": {
            "mode": "distributed", "epsilon_milli": 1000, "delta": "0.000001", "honest_minimum": 2, "spare_attempts": 1,
        },
        "schedule": {"quorum": 3 if mode == "distributed" else 1, "deadline_s": 20},
        "expires": "2049-12-31",
        "coordinator": folder.card,
        "parties": [dict(party) for party in parties],
        **changes,
    }  # fmt: skip
    return parse_study(json.dumps(body).encode())


BEFORE_THIRD_STEP = 21
"""Frames of three sites under masks: open, deal, join, and twice step and unmask."""


class DirectCourier:
    """Calls each site's exchange in this process. `tamper` may replace or drop frames on their way."""

    def __init__(self, sites: Mapping[str, Callable[[bytes], bytes]]) -> None:
        self.sites = dict(sites)
        self.carried: list[tuple[str, bytes, bytes]] = []

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        replies: dict[str, bytes] = {}
        for name, frame in requests.items():
            if name in self.sites:
                replies[name] = self.sites[name](frame)
                self.carried.append((name, frame, replies[name]))
        return replies


@dataclass
class Consortium:
    """Hospitals, a coordinator's folder, a study that all have approved, and their exchanges."""

    folder: Folder
    hospitals: dict[str, Hospital]
    study: Study
    courier: DirectCourier
    events: list[dict[str, Any]]

    def exchange(self, name: str) -> Exchange:
        found = self.courier.sites[name]
        assert isinstance(found, Exchange)
        return found

    def close(self) -> None:
        for each in self.hospitals.values():
            each.close()
        if "log" in vars(self.folder):
            self.folder.log.close()


def consortium(path: Path, sites: int = 3, **changes: Any) -> Consortium:
    folder = Folder.create(path / "coordinator", "coordinator", "127.0.0.1:8000")
    kind = "public" if changes.get("privacy", {}).get("mode") == "none" else "private"
    hospitals = {
        name: hospital(path / name, name, seed=index, kind=kind, mix=MIXES[index % 4])
        for index, name in enumerate(f"site-{letter}" for letter in "abcdefgh"[:sites])
    }
    study = study_of(folder, [each.party for each in hospitals.values()], **changes)
    for each in hospitals.values():
        folder.accept(study, each.approve(study))
    courier = DirectCourier({name: Exchange(each.site) for name, each in hospitals.items()})
    return Consortium(folder, hospitals, study, courier, [])


def outcomes(hospitals: Mapping[str, Hospital]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate([each.truth.number("weekly_dose_mg") for each in hospitals.values()])
