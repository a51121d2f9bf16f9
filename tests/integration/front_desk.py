"""A hospital that is worked with from its command line alone, as its staff would."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from genopact_client.cli import app
from genopact_server.demo import cohort
from genopact_shared.keys import SigningKey
from tests.integration.hospital import MIXES, POLICY

PASSPHRASE = "a passphrase for tests"
PEOPLE = 120


@dataclass(frozen=True)
class Done:
    """How a command ended, its envelope's data, and everything that it printed."""

    exit: int
    data: dict[str, Any]
    printed: str

    @property
    def code(self) -> str:
        return str(self.data.get("code", ""))


@dataclass(frozen=True)
class Desk:
    """`folder` holds the site's home, the approver's key, the passphrase and the hospital's export."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "site-a"

    @property
    def files(self) -> Path:
        return self.folder / "export"

    @property
    def common(self) -> list[str]:
        return ["--home", str(self.home), "--passphrase-file", str(self.folder / "passphrase")]

    def __call__(self, *words: str | Path, typed: str = "", keys: bool = True) -> Done:
        """Run a command with the home (and the passphrase) of this site."""
        options = self.common if keys else self.common[:2]
        arguments = [*map(str, words), *options, "--format", "json"]
        result = CliRunner().invoke(app, arguments, input=typed, prog_name="genopact-site")
        lines = result.stdout.splitlines()
        assert len(lines) <= 1, result.output
        envelope = json.loads(lines[0]) if lines else {"data": {}}
        return Done(result.exit_code, envelope["data"], result.output)

    def study(self, **changes: Any) -> Path:
        """A study file of this site and two others; `changes` replace whole sections."""
        card = json.loads((self.home / "party.json").read_text())
        card.pop("node")
        others = [{"name": name, **_keys("identity", "log", "approver")} for name in ("site-b", "site-c")]
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
            "metrics": ["patients", "mae_mg", "over_20_percent", "under_20_percent"],
            "privacy": {"mode": "distributed", "epsilon_milli": 1000, "delta": "0.000001", "honest_minimum": 2},
            "schedule": {"quorum": 3, "deadline_s": 20},
            "expires": "2049-12-31",
            "coordinator": {"name": "hub", "address": "127.0.0.1:9443", **_keys("identity", "log")},
            "parties": [card, *others],
            **changes,
        }  # fmt: skip
        path = self.folder / "study.yaml"
        path.write_text(yaml.safe_dump(body))
        return path

    def approve(self, *words: str, **changes: Any) -> Done:
        key = self.folder / "site-a.approver.key"
        return self("approve", self.study(**changes), "--approver-key", key, "--yes", "--out", self.folder, *words)

    def policy(self, epsilon: int = 5000, lifetime: int = 5000) -> None:
        (self.home / "policy.yaml").write_text(POLICY.format(site="site-a", epsilon=epsilon, lifetime=lifetime))

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.files / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def rewrite(self, name: str, rows: Sequence[Mapping[str, str]]) -> Path:
        with (self.files / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return self.files / name

    def copied(self, folder: Path) -> "Desk":
        shutil.copytree(self.folder, folder)
        return Desk(folder)


def empty(folder: Path) -> Desk:
    """The hospital's export and a passphrase; no site yet."""
    desk = Desk(folder)
    cohort.write_site(desk.files, cohort.Hospital("site-a", PEOPLE, MIXES[0]), 7)
    (folder / "passphrase").write_text(PASSPHRASE)
    (folder / "passphrase").chmod(0o600)
    return desk


def ready(folder: Path) -> Desk:
    """A site with people, consents and a policy that permits the study."""
    desk = empty(folder)
    for words in (
        ("init", "site-a"),
        ("import", "--table", desk.files / "covariates.csv", "--vcf", desk.files / "genotypes.vcf.gz"),
        ("consent", "import", desk.files / "consent.csv"),
    ):
        done = desk(*words)
        assert done.exit == 0, done.printed
    desk.policy()
    return desk


def permitting(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Who permits the study of `Desk.study` by the consent file: the naive reference."""
    return [
        row["person"]
        for row in rows
        if row["status"] == "active" and row["permission"] in ("GRU", "HMB") and row["valid_until"] > "2027"
        and {"train", "validate"} <= set(row["uses"].split(";")) and "public" in row["org_types"].split(";")
        and {"genotype", "drug", "ehr"} <= set(row["data"].split(";"))
    ]  # fmt: skip


def _keys(*uses: str) -> dict[str, str]:
    return {use: SigningKey.generate().public.hex for use in uses}
