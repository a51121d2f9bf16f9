"""The demo: four hospitals and a coordinator as real processes with TLS, from empty folders to a verified audit.

`Rehearsal` has its agents in this process: the same folders, commands, envelopes and logs, without links and TLS.
"""

import csv
import importlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from genopact_server.coordinator import control, create
from genopact_server.demo.cast import Cast, Player, policy
from genopact_server.demo.compare import compare
from genopact_server.demo.stage import COORDINATOR, SITE, Stage, free_ports, wait_until
from genopact_server.folder import Folder
from genopact_server.report.facts import read_model
from genopact_server.rounds import Run
from genopact_shared import durable
from genopact_shared.errors import require
from genopact_shared.study import load_study
from genopact_shared.terminal import bar

COLUMNS = ("hospital", "patients", "35 mg for all", "alone", "federated", "pooled")
Answer = TypeVar("Answer")
AGENT = "genopact_client.agent.exchange"
"""Loaded by name, as Flower loads a ClientApp: no room of the coordinator imports the hospital's."""


@dataclass
class Play:
    """One performance in a folder; `scenes`: its methods in their order."""

    scenes: ClassVar[tuple[str, ...]] = ("coordinator", "hospitals", "approvals", "training", "audit", "comparison")

    stage: Stage
    cast: Cast
    console: Console
    template: Path | None = None
    recipe: str = "dose"
    quorum: int = 0
    """Of sites; 0: as the template has it."""
    began: float = field(default_factory=time.monotonic)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def pause(self) -> int:
        """Rounds before the withdrawal; a study without noise has but two."""
        return 1 if self.cast.privacy["mode"] == "none" else 2

    @property
    def folder(self) -> Path:
        """Where everything happens."""
        return self.stage.folder

    def perform(self, scenes: Iterable[str] = ()) -> dict[str, Any]:
        """All scenes, or some, in order; returns what the command line reports."""
        for scene in scenes or self.scenes:
            getattr(self, scene)()
        self.result["seconds"] = round(time.monotonic() - self.began, 1)
        return self.result

    def coordinator(self) -> None:
        """A coordinator with its own certificate authority; its two processes come up."""
        address = f"127.0.0.1:{free_ports()}"
        self._hub("coordinator", "init", "hub", "--address", address)
        self.stage.serve("hub", COORDINATOR, "coordinator", "start", "--home", "hub")
        self.result["address"] = address
        self._say("coordinator", f"{address}, TLS, sign-in, no code ever sent")

    def hospitals(self) -> None:
        """Each hospital makes its folder, imports its files, records its consents, writes its policy."""
        durable.replace(self.folder / "passphrase", b"only for the demo\n")
        # A play that is told aside shows no bar.
        with bar("hospitals import", len(self.cast.players)) if self.console.is_terminal else nullcontext(bool) as step:
            for imported, consented in self._each(self._found):
                self.result.setdefault("people", []).append(imported["people"])
                self.result.setdefault("consents", []).append(consented["changed"])
                step(1)
        people, consents = (sum(self.result[each]) for each in ("people", "consents"))
        text = f"{people} people from VCF and CSV, {consents} consents, all sealed"
        self._say("hospitals", f"{len(self.cast.players)}, {text}")

    def approvals(self) -> None:
        """One study file with everybody's keys; each hospital reads it and approves, or its policy refuses."""
        name = self._template()
        cards = [option for player in self.cast.players for option in ("--card", f"{player.name}/party.json")]
        self.result["study"] = self._hub("study", "compose", "template.yaml", *cards, "--out", "study.yaml")["study"]
        answers = dict(zip((player.name for player in self.cast.players), self._each(self._approve), strict=True))
        approved = [name for name, answer in answers.items() if "file" in answer]
        refused = {name: answer for name, answer in answers.items() if "file" not in answer}
        self.result |= {"approved": approved, "refused": sorted(refused)}
        self._hub("study", "accept", "study.yaml", *(f"approval-{name}-{site}.json" for site in approved))
        reasons = "".join(f"; {name} refused: {answer['detail']}" for name, answer in refused.items())
        self._say("study", f"{self.result['study'][:12]} approved by {', '.join(approved)}{reasons}")

    def _template(self) -> str:
        """Write template.yaml, the study without parties; returns its name."""
        text = (self.template or files("genopact_server.demo").joinpath(f"{self.recipe}.yaml")).read_text("utf-8")
        body: dict[str, Any] = yaml.safe_load(text) | {"privacy": self.cast.privacy}
        body["schedule"] |= {"quorum": self.quorum} if self.quorum else {}
        (self.folder / "template.yaml").write_text(yaml.safe_dump(body, sort_keys=False), "utf-8")
        return str(body["name"])

    def training(self) -> None:
        """Links and agents come up; training, a withdrawal in the middle, training to the end."""
        self._sites()
        state = self._train("--until-round", str(self.pause))
        leaver = self.cast.players[0]
        self.result |= {"run": state["run"], "leaver": self._consenting(leaver)}
        self._at(leaver, "consent", "withdraw", self.result["leaver"])
        self._say("withdrawal", f"{self.result['leaver']} at {leaver.name} withdrew after round {self.pause}")
        self._train()

    def _sites(self) -> None:
        """Agents and links of those who approved come up."""
        paths = [f"{name}/party.json" for name in self.result["approved"]]
        self._hub("coordinator", "enrol", *paths)
        for name in self.result["approved"]:
            arguments = ("--address", self.result["address"], "--ca", "hub/tls/ca.pem", "--home", name)
            self.stage.serve(name, SITE, "start", *arguments, "--passphrase-file", "passphrase")
            if name == self.result["approved"][0] and not _compiled():
                # Python compiles what a link loads once, not once a site.
                wait_until(partial(self._online, name), 60, f"the link of {name} did not come online")
        wait_until(lambda: self._online(*self.result["approved"]), 60, "the links did not come online")
        self._say("sites", f"{len(paths)} agents, {len(paths)} links, each a process of its own")

    def audit(self) -> None:
        """The bundle verifies offline; opened decisions show the patient before, and not after, the withdrawal."""
        self.verify()
        before, after = (self._permitted(number) for number in (self.pause - 1, self.pause))
        require((before, after) == (True, False), "DEMO_FAILED", "the withdrawal did not take effect in the next round")
        self.result["withdrawn_in_next_round"] = False
        shown = f"the opened decision roots show the patient in round {self.pause}, not in round {self.pause + 1}"
        self._say("opening", shown)

    def verify(self) -> None:
        """The bundle, verified by a command that asks nobody."""
        self._hub("audit", "export", self.result["run"], "audit.zip")
        report = self.stage.run(COORDINATOR, "audit", "verify", "audit.zip", "--study", self.result["study"])
        self.result["audit"] = report["verdict"]
        self._say("audit", f"{report['verdict']}: {len(report['findings'])} findings, none against the study")

    def comparison(self) -> None:
        """The table, and the report with it."""
        run = self.folder / "hub" / "runs" / self.result["run"]
        shared = read_model(max(run.glob("model-*.safetensors")))
        terms = Path("runs", self.result["run"], "personal.safetensors")
        personal = {name: read_model(self.folder / name / terms) for name in self.result["approved"]}
        train, test = ({p.name: getattr(p, part) for p in self.cast.players} for part in ("train", "test"))
        rows = compare(train, test, shared, personal)
        told = [{key: "refused" if value is None else value for key, value in row.items()} for row in rows]
        self.console.print(grid("Mean absolute error, mg/week, on held-out patients", COLUMNS, told, 2))
        self._report(rows, "--extra", "comparison.json")

    def _report(self, rows: list[dict[str, Any]], *extra: str) -> None:
        """Keep the table, write the report."""
        (self.folder / "comparison.json").write_text(json.dumps(rows), "utf-8")
        self.result |= {"rows": rows, "report": str(self.folder / "report.html")}
        self._hub("study", "report", self.result["run"], "--out", self.result["report"], *extra)

    def _each(self, scene: Callable[[Player], Answer]) -> Iterator[Answer]:
        """A scene at every hospital; first at one alone, which compiles and caches what the others then only load."""
        with ThreadPoolExecutor(2) as pool:
            yield scene(self.cast.players[0])
            yield from pool.map(scene, self.cast.players[1:])

    def _hub(self, *arguments: str) -> dict[str, Any]:
        """A command at the coordinator."""
        return self.stage.run(COORDINATOR, *arguments, "--home", "hub")

    def _at(self, player: Player, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """A command at a hospital that needs its keys."""
        site = ("--home", player.name, "--passphrase-file", "passphrase")
        return self.stage.run(SITE, *arguments, *site, expect=expect)

    def _found(self, player: Player) -> tuple[dict[str, Any], dict[str, Any]]:
        self._at(player, "init", player.name, "--kind", self.cast.kind, "--recipe", self.recipe)
        allowed = policy(player, self.cast.privacy, self.recipe)
        durable.replace(self.folder / player.name / "policy.yaml", allowed.encode())
        source = player.folder.relative_to(self.folder)
        vcf = ("--vcf", f"{source}/genotypes.vcf.gz") if player.vcf else ()
        imported = self._at(player, "import", "--table", f"{source}/covariates.csv", *vcf)
        return imported, self._at(player, "consent", "import", f"{source}/consent.csv")

    def _approve(self, player: Player) -> dict[str, Any]:
        expect = int(player.epsilon_milli < int(str(self.cast.privacy.get("epsilon_milli") or 0)))
        key = ("--approver-key", f"{player.name}.approver.key", "--yes")
        return self._at(player, "approve", "study.yaml", *key, expect=expect)

    def _online(self, *names: str) -> bool:
        with control(Folder(self.folder / "hub")) as link:
            online = {name for name, here in link.sites().items() if here}
        return online >= set(names)

    def _train(self, *arguments: str) -> dict[str, Any]:
        return self._hub("study", "run", "study.yaml", *arguments)

    def _consenting(self, player: Player) -> str:
        """The first person whose consent covers the study."""
        people = csv.DictReader((player.folder / "consent.csv").read_text("utf-8").splitlines())
        wide = (p for p in people if p["status"] == "active" and p["permission"] in ("GRU", "HMB"))
        fit = (p for p in wide if "train" in p["uses"] and "genotype" in p["data"] and "nonprofit" in p["org_types"])
        return next(p["person"] for p in fit if p["valid_until"] > "2030")

    def _permitted(self, round_: int) -> bool:
        person = ("--person", self.result["leaver"])
        opened = self._at(self.cast.players[0], "open", self.result["run"], str(round_), "0", *person)
        return bool(opened["permitted"])

    def _say(self, scene: str, text: str) -> None:
        seconds = time.monotonic() - self.began
        self.console.print(Text.assemble((f"{scene:12}", "bold"), f" {text}", (f"  {seconds:.0f} s", "dim")))


class Direct:
    """A courier that calls each agent in turn."""

    def __init__(self, agents: Mapping[str, Callable[[bytes], bytes]]) -> None:
        self._agents = agents

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        """See `rounds.Courier`; nothing here is late."""
        del deadline
        return {site: self._agents[site](frame) for site, frame in requests.items()}


class Rehearsal(Play):
    """`Play` with its agents in this process, and without a withdrawal."""

    def audit(self) -> None:
        """Nobody withdraws, so that the bundle is all."""
        self.verify()

    def coordinator(self) -> None:
        """A folder is all that is needed."""
        self.hub = create(self.folder / "hub", "hub", "127.0.0.1:1024")

    def training(self) -> None:
        """All rounds, agent by agent."""
        load = importlib.import_module(AGENT).in_process
        secret: Path = self.folder / "passphrase"
        courier = Direct({name: load(self.folder / name, secret) for name in self.result["approved"]})
        with bar("training", 11 if self.recipe == "risk" else 3) as step:
            run = Run.start(self.hub, load_study(self.folder / "study.yaml"), courier, lambda _: step(1))
            run.go()
        self.hub.close()
        self.result["run"] = run.state.run
        self._say("training", f"{len(self.result['approved'])} sites in one process, {len(run.plan.steps)} rounds")


def _compiled() -> bool:
    """Whether Python has kept what it made of a link's modules."""
    found = find_spec("genopact_client.link.node")
    return found is not None and found.cached is not None and Path(found.cached).exists()


def grid(title: str, columns: Iterable[str], rows: Iterable[Mapping[str, Any]], digits: int) -> Grid:
    """A comparison as a table."""
    table = Grid(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name == "hospital" else "right")
    for row in rows:
        table.add_row(*(f"{value:.{digits}f}" if isinstance(value, float) else str(value) for value in row.values()))
    return table
