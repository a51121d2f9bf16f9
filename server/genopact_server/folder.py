"""The coordinator's folder: keys, log, studies with their approvals, runs with a checkpoint a round.

coordinator.json     name, public keys, address
keys/                identity and log keys
log/                 the coordinator's log
studies/<hash>/      study.json, approvals/<site>.json
runs/<run>/          state.json, model-<round>.safetensors, pending/, events.jsonl, sites/
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from genopact_shared import canonical, durable
from genopact_shared.approval import check_approval
from genopact_shared.errors import require
from genopact_shared.keys import SigningKey
from genopact_shared.published import Published
from genopact_shared.statements import Approval
from genopact_shared.study import Study, parse_study
from genopact_shared.tlog.log import Log


@dataclass(frozen=True)
class Folder:
    """An opened coordinator folder."""

    home: Path

    @classmethod
    def create(cls, home: Path, name: str, address: str) -> "Folder":
        """A new coordinator with fresh keys. Raises COORDINATOR_EXISTS."""
        require(not (home / "coordinator.json").exists(), "COORDINATOR_EXISTS", str(home))
        for folder in ("keys", "studies", "runs"):
            (home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        card = {"name": name, "address": address}
        for use in ("identity", "log"):
            key = SigningKey.generate()
            key.save(home / "keys" / use)
            card[use] = key.public.hex
        durable.replace(home / "coordinator.json", canonical.encode(card))
        return cls(home)

    @cached_property
    def card(self) -> dict[str, str]:
        """What a study file says of its coordinator. Raises COORDINATOR_MISSING."""
        told = canonical.decode(durable.read(self.home / "coordinator.json", "COORDINATOR_MISSING"))
        return {str(key): str(value) for key, value in told.items()}

    @cached_property
    def identity(self) -> SigningKey:
        """Signs requests and statements."""
        return SigningKey.load(self.home / "keys" / "identity")

    @cached_property
    def log(self) -> Log:
        """The coordinator's log; one process at a time, until `close`."""
        return Log(self.home / "log", SigningKey.load(self.home / "keys" / "log"), f"genopact/{self.card['name']}")

    @property
    def published(self) -> Published:
        """Public files that studies name."""
        return Published(self.home / "published")

    def close(self) -> None:
        """Let another process have the log."""
        if "log" in vars(self):
            self.log.close()
            del vars(self)["log"]

    def register(self, study: Study) -> Path:
        """Keep a study; returns its folder."""
        folder = self.home / "studies" / study.hash
        (folder / "approvals").mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.replace(folder / "study.json", study.canonical)
        return folder

    def study(self, study_hash: str) -> Study:
        """A registered study. Raises STUDY_UNKNOWN."""
        return parse_study(durable.read(self.home / "studies" / study_hash / "study.json", "STUDY_UNKNOWN"))

    def accept(self, study: Study, envelope: bytes) -> Approval:
        """Keep a site's approval.

        Raises:
            GenopactError: APPROVAL_INVALID, SIGNATURE_INVALID.
        """
        approval = check_approval(envelope, study)
        durable.replace(self.register(study) / "approvals" / f"{approval.site}.json", envelope)
        return approval

    def approvals(self, study: Study) -> dict[str, bytes]:
        """Site -> approval envelope, in the study's order of parties; each is checked again."""
        folder = self.register(study) / "approvals"
        found = {party.name: folder / f"{party.name}.json" for party in study.parties}
        envelopes = {name: path.read_bytes() for name, path in found.items() if path.exists()}
        for envelope in envelopes.values():
            check_approval(envelope, study)
        return envelopes
