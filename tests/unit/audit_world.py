"""A small honest world: three sites, a coordinator, three rounds, a release; editable before it is signed."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from genopact_server.audit.bundle import Bundle, ExportedLog
from genopact_server.audit.findings import Report
from genopact_server.statements import Charge, Release, RunOpened, StudyRegistered
from genopact_shared import canonical
from genopact_shared.keys import SigningKey
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd
from genopact_shared.statements import FIRST, Aggregate, Approval, Intent, Receipt, RegistryRoot, Statement, sign
from genopact_shared.study import Study
from genopact_shared.tlog.log import pack
from genopact_shared.tlog.note import sign_checkpoint
from genopact_shared.tlog.tree import Tree

SITES = ("site-a", "site-b", "site-c")
HUB = "hub"
RUN, ROUNDS = "ab" * 16, (1, 2, 3)
FACT = NoisedSum(noise_multiplier="9.3", clip="1", scale=65536, dims=10, honest_minimum=3)
CLAIM = 800
Edit = Callable[[Statement], Statement | None]


def key(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def study(**changes: Any) -> Study:
    def keys(party: str, *uses: str) -> dict[str, str]:
        return {use: key(f"{party}/{use}").public.hex for use in uses}

    body: dict[str, Any] = {
        "schema": "genopact.study/1",
        "name": "example",
        "title": "An example",
        "contact": "office@example.org",
        "purpose": {
            "permission": "HMB", "uses": ["train"], "organisations": ["public"],
            "commercial": False, "regions": ["*"], "data": ["genotype"],
        },
        "outcome": "outcome",
        "recipe": {"name": "linear", "version": 1},
        "privacy": {"mode": "distributed", "epsilon_milli": 1000, "honest_minimum": 3},
        "schedule": {"quorum": 3},
        "expires": "2030-12-31",
        "coordinator": {"name": HUB, "address": "hub.example.org:443", **keys(HUB, "identity", "log")},
        "parties": [{"name": site, **keys(site, "identity", "log", "approver")} for site in SITES],
    }  # fmt: skip
    return Study.model_validate_json(json.dumps(body | changes))


@dataclass
class World:
    """The logs of three sites and a coordinator after one run; `edit` changes statements before they are signed."""

    edit: Edit = lambda statement: statement
    study: Study = field(default_factory=study)
    approvals: list[bytes] = field(default_factory=list)
    logs: dict[str, list[bytes]] = field(default_factory=lambda: {name: [] for name in (*SITES, HUB)})
    clock: int = 1_700_000_000

    def put(self, party: str, statement: Statement, use: str = "identity") -> bytes:
        """Sign a statement, log it unless `edit` drops it; the envelope of what was meant if it was dropped."""
        self.clock += 1
        edited = self.edit(statement)
        envelope = sign(edited or statement, key(f"{party}/{use}"))
        if edited is not None:
            self.logs[party].append(envelope)
        return envelope

    def play(self) -> "World":
        """Approve, open, three rounds, release."""
        self.put(HUB, StudyRegistered(at=self.clock, study=self.study.hash, text=digest("yaml")))
        for site in SITES:
            approval = Approval(
                at=self.clock, study=self.study.hash, site=site, planned_cohort=500, policy=digest("policy")
            )
            self.approvals.append(self.put(site, approval, "approver"))
            self.put(site, RegistryRoot(at=self.clock, site=site, root=digest("registry")))
        approved = tuple(map(canonical.digest, self.approvals))
        self.put(HUB, RunOpened(at=self.clock, study=self.study.hash, run=RUN, sites=SITES, approvals=approved))
        previous = dict.fromkeys(SITES, FIRST)
        for number in ROUNDS:
            updates = []
            for site in SITES:
                updates.append(digest(f"update {site} {number}"))
                previous[site] = self.step(site, number, 0, previous[site])
            models: dict[str, Any] = {"model_in": digest(f"model {number - 1}"), "model_out": digest(f"model {number}")}
            total = digest(f"total {number}")
            models |= {"sites": SITES, "receipts": tuple(updates), "total": total}
            self.put(HUB, Aggregate(**self.work(number, 0), **models))
        self.put(
            HUB,
            Release(
                at=self.clock,
                study=self.study.hash,
                run=RUN,
                model=digest("model 3"),
                epsilon_milli=None if self.study.privacy.mode == "none" else CLAIM,
                delta="0.000001",
                mechanisms=(Charge(mechanism=FACT, times=len(ROUNDS)),),
            ),
        )
        return self

    def work(self, number: int, attempt: int) -> dict[str, Any]:
        at, study = self.clock, self.study.hash
        return {"at": at, "study": study, "run": RUN, "round": number, "attempt": attempt, "step": "gradient"}

    def step(self, site: str, number: int, attempt: int, previous: str) -> str:
        """Intent and receipt of one site; the digest of the receipt."""
        request = digest(f"request {site} {number} {attempt}")
        intent = Intent(
            **self.work(number, attempt),
            request=request,
            site=site,
            decision_root=digest("decision"),
            ledger_root=digest("ledger"),
            model_in=digest(f"model {number - 1}"),
            mechanism=FACT,
            nonce=request[:32],
        )
        intended = canonical.digest(self.put(site, intent))
        update = digest(f"update {site} {number}" + (f" {attempt}" if attempt else ""))
        outcome: dict[str, Any] = {"outcome": "released", "update": update, "prev": previous, "intent": intended}
        return canonical.digest(
            self.put(site, Receipt(**self.work(number, attempt), request=request, site=site, **outcome))
        )

    def exported(self, party: str, use: str = "log") -> ExportedLog:
        entries = self.logs[party]
        return ExportedLog(
            pack(entries), sign_checkpoint(Tree.of(entries).head(), f"genopact/{party}", key(f"{party}/{use}"))
        )

    def bundle(self, **changes: Any) -> Bundle:
        logs = {party: self.exported(party) for party in self.logs}
        bundle = Bundle(self.study, tuple(self.approvals), logs, self.saved(), digest("model 3"))
        return replace(bundle, **changes)

    def saved(self, cut: int = 2) -> tuple[tuple[str, bytes], ...]:
        """A checkpoint of each log from when it was `cut` entries shorter."""
        shorter = {party: World(logs={party: entries[: len(entries) - cut]}) for party, entries in HONEST_LOGS.items()}
        return tuple((party, world.exported(party).checkpoint) for party, world in shorter.items())


HONEST_LOGS: dict[str, list[bytes]] = {}
HONEST_LOGS |= World().play().logs


def editing(kind: type[Statement], site: str | None = None, number: int | None = None, /, **update: Any) -> Edit:
    """Change the fields of one statement; without fields, drop it."""

    def edit(statement: Statement) -> Statement | None:
        named = site in {None, getattr(statement, "site", None)} and number in {None, getattr(statement, "round", None)}
        if not isinstance(statement, kind) or not named:
            return statement
        return statement.model_copy(update=update) if update else None

    return edit


def statements(world: World, party: str, kind: type[Any]) -> list[Any]:
    from genopact_shared.statements import parse

    keys = [key(f"{party}/identity").public, key(f"{party}/approver").public]
    return [s for s in (parse(entry, keys) for entry in world.logs[party]) if isinstance(s, kind)]


def violated(report: Report) -> set[str]:
    return {finding.check for finding in report.findings if finding.verdict == "violated"}


FAINT = FACT.model_copy(update={"noise_multiplier": "2.0"})
FLOOR = FACT.model_copy(update={"honest_minimum": 1})
UNAVAILABLE = {"outcome": "unavailable", "update": None}
SGD = SampledSgd(noise_multiplier="9.3", clip="1", sampling_rate="0.1", steps=1)
