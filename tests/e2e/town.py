"""Three hospitals and a coordinator as real processes, and one kill -9 in the middle of a step.

The books of each hospital are read while everything runs: what left it, who was in it, and what its ledger says.
"""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genopact_client.copies import ledger_copy
from genopact_client.link import nodekey
from genopact_client.site import Site
from genopact_server import coordinator
from genopact_server.audit.bundle import export
from genopact_server.audit.findings import Report
from genopact_server.audit.verify import verify_path
from genopact_server.demo.stage import COORDINATOR, SITE, Stage
from genopact_server.evidence import bundle_of
from genopact_server.folder import Folder
from genopact_shared import canonical, durable, statements, wire
from genopact_shared.decision import Opening, verify_opening
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.accounting import Fact
from genopact_shared.study import Study
from genopact_shared.wire import Reply
from tests.integration.hospital import MIXES, PASSPHRASE, Hospital, hospital, study_of
from tests.integration.processes import free_port

VICTIMS = ("agent", "link", "superlink", "executor")
PEOPLE = {"site-a": 60, "site-b": 80, "site-c": 100}
WATCHED = "site-b"
"""The site whose agent or link is killed, and whose step is under way when the coordinator's processes are."""
STEPS = 10
FROM_ROUND = 2
ROLES = {"agent": b"agent", "link": b"link", "superlink": b"link", "executor": b"executor"}
Facts = Counter[Fact]


def until(attempt: Callable[[], Any], seconds: float, what: str, pause: float = 0.1) -> Any:
    """The first result that is true."""
    end = time.monotonic() + seconds
    while not (result := attempt()):
        assert time.monotonic() < end, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(pause)
    return result


def children(supervisor: int) -> dict[bytes, int]:
    """Role -> process of a supervisor that this module started."""
    found: dict[bytes, int] = {}
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found |= {role: int(pid) for role in set(ROLES.values()) if role in words[:5]}
    return found


def processes_in(folder: Path) -> list[int]:
    """Processes that work in a folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            found += [int(link.parent.name)] if link.readlink() == folder else []
    return [pid for pid in found if pid != os.getpid()]


@dataclass(frozen=True)
class Left:
    """One sum that left a site: for which computation, under which fact, with which patients in it."""

    run: str
    position: tuple[int, int]
    body: str
    fact: Fact
    rows: tuple[int, ...]


@dataclass
class Books:
    """What a site's outbox, openings and ledger say, read beside its agent. `frames`: replies that others received."""

    site: Site
    people: int
    frames: list[bytes] = field(default_factory=list)
    seen: dict[bytes, Left | None] = field(default_factory=dict)
    samples: int = 0
    faults: list[str] = field(default_factory=list)

    def left(self) -> list[Left]:
        """Every sum in the outbox, or received."""
        for frame in (*self.frames, *(frame for _, frame in self.site.outbox)):
            if frame not in self.seen:
                self.seen[frame] = self._left(frame)
        return [each for each in self.seen.values() if each is not None]

    def bodies(self, run: str) -> dict[Left, bytes]:
        """What of a run has left, as of the last look, with its bytes."""
        found = {left: frame for frame, left in self.seen.items() if left is not None and left.run == run}
        return {left: wire.split(frame)[1] for left, frame in found.items()}

    def charges(self) -> list[Facts]:
        """What the ledger says now, by row."""
        with ledger_copy(self.site) as ledger:
            return [Counter(ledger.spent(row)) for row in range(self.people)]

    def owing(self) -> int:
        """Charges that are missing: whoever is in a sum that left has been charged for it, once for each."""
        owed = [Facts() for _ in range(self.people)]
        for each in self.left():
            for row in each.rows:
                owed[row][each.fact] += 1
        return sum((due - paid).total() for due, paid in zip(owed, self.charges(), strict=True))

    def check(self) -> None:
        """A charge always comes before what it pays for."""
        short = self.owing()
        self.samples += 1
        self.faults += [f"{self.site.name}: {short} charges too few"] if short else []

    def _left(self, frame: bytes) -> Left | None:
        reply, body = wire.unseal(Reply, frame, self.site.identity.public)
        if reply.op != "step":
            return None
        intent = statements.parse((reply.intent or "").encode(), [self.site.identity.public])
        assert isinstance(intent, statements.Intent)
        name = f"{reply.run}-{reply.round:04d}-{reply.attempt:02d}.json"
        opening = Opening.model_validate_json((self.site.home / "openings" / name).read_bytes())
        assert verify_opening(opening, intent), "the intent commits to other patients"
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(opening.bitmap), np.uint8))
        rows = tuple(np.flatnonzero(bits).tolist())
        fact = intent.mechanism
        return Left(reply.run, (reply.round, reply.attempt), canonical.digest(body), fact, rows)


@dataclass(frozen=True)
class Outcome:
    """What a kill did. `overcharge`: charges of one patient, at most, beyond the sums that entered a model."""

    victim: str
    round: int
    voided: int
    overcharge: int
    samples: int
    faults: tuple[str, ...]
    report: Report
    seconds: float

    def problems(self) -> list[str]:
        """What must not be; empty after a good end."""
        found = list(self.faults)
        found += [f"{self.overcharge} charges too many"] if not 0 <= self.overcharge <= 1 else []
        return found + [f"{f.check}: {f.party}: {f.what}" for f in self.report.findings if f.verdict != "ok"]


@dataclass
class Town:
    """The running processes; `survive` kills one of them in a study of its own."""

    folder: Path
    stage: Stage
    hub: Folder
    hospitals: dict[str, Hospital]
    supervisors: dict[str, int]
    books: dict[str, Books]

    def survive(self, victim: str) -> Outcome:
        """Start a study, kill the victim in the middle of a step, and wait for what happens by itself."""
        began, study = time.monotonic(), self._study(f"kill-{victim}")
        before = {name: books.charges() for name, books in self.books.items()}
        coordinator.ask_for(self.hub, study)
        with self._reading_along():
            round_ = self._strike(victim, study)
            if victim == "agent":
                self.books[WATCHED].check()  # nothing moves here until the agent has been started again
            state = self._end(study)
            until(self._whole, 60, "the restart of what was killed")
        for books in self.books.values():
            books.check()
        events = (self.hub.home / "runs" / state["run"] / "events.jsonl").read_text().splitlines()
        return Outcome(
            victim=victim,
            round=round_,
            voided=sum(json.loads(line)["event"] == "attempt-failed" for line in events),
            overcharge=self._overcharge(state["run"], before),
            samples=sum(books.samples for books in self.books.values()),
            faults=tuple(fault for books in self.books.values() for fault in books.faults),
            report=self._audit(study, state["run"]),
            seconds=time.monotonic() - began,
        )

    def _study(self, name: str) -> Study:
        privacy: dict[str, Any] = {
            "mode": "distributed",
            "epsilon_milli": 500,
            "delta": "0.000001",
            "honest_minimum": 2,
        }
        privacy["spare_attempts"] = 2  # what a kill may void; without any the study could not be finished
        shares = [1000 // STEPS] * (STEPS - 1) + [1000 - (STEPS - 1) * (1000 // STEPS)]
        recipe = {"name": "dose", "version": 1, "parameters": {"step_shares_milli": shares}}
        parties = [each.party for each in self.hospitals.values()]
        sections = {"recipe": recipe, "privacy": privacy, "schedule": {"quorum": 3, "deadline_s": 25}}
        study = study_of(self.hub, parties, name=name, **sections)
        for each in self.hospitals.values():
            self.hub.accept(study, each.approve(study))
        return study

    def _state(self, study: Study) -> dict[str, Any]:
        return next(iter(coordinator.runs_of(self.hub, study.hash)), {"stage": "none", "round": 0})

    def _strike(self, victim: str, study: Study) -> int:
        """Kill within a step: its position is taken at the watched site, and nothing of it has been aggregated."""
        owner = WATCHED if victim in ("agent", "link") else "hub"

        def struck() -> bool:
            state, failed = self._state(study), self.hub.home / "studies" / study.hash / "failed"
            assert not failed.exists(), failed.read_text()
            assert state["stage"] in ("none", "training"), "every step was over before the kill"
            if state["round"] < FROM_ROUND or not self._working(state):
                return False
            pid = children(self.supervisors[owner])[ROLES[victim]]
            os.kill(pid, signal.SIGSTOP)
            now = self._state(study)
            if now["round"] == state["round"] and (victim != "agent" or self._working(now)):
                os.kill(pid, signal.SIGKILL)
                return True
            os.kill(pid, signal.SIGCONT)
            return False

        until(struck, 60, f"a step during which to kill the {victim}", 0.002)
        return int(self._state(study)["round"])

    def _working(self, state: dict[str, Any]) -> bool:
        """Whether the watched site has taken the run's present position and not released anything for it."""
        path = self.books[WATCHED].site.home / "runs" / f"{state['run']}.json"
        if not path.exists():
            return False
        record = json.loads(path.read_bytes())
        return bool(record["round"] == state["round"] and record["reply"] is None)

    def _end(self, study: Study) -> dict[str, Any]:
        wanted = self.hub.home / "studies" / study.hash / "wanted"
        until(lambda: not wanted.exists(), 90, "the end of the run", 0.2)
        failed = wanted.with_name("failed")
        assert not failed.exists(), failed.read_text()
        state = self._state(study)
        assert state["stage"] == "done"
        return state

    def _whole(self) -> bool:
        return all(len(children(pid)) == 2 for pid in self.supervisors.values())

    @contextmanager
    def _reading_along(self) -> Iterator[None]:
        """Check all books again and again until the block ends."""
        over = threading.Event()

        def read() -> None:
            while not over.wait(0.1):
                for books in self.books.values():
                    books.check()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
        finally:
            over.set()
            reader.join()

    def _overcharge(self, run: str, before: dict[str, list[Facts]]) -> int:
        """Charges of a run that no aggregate explains, of the patient with the most."""
        used, found = self._aggregated(run), set[str]()
        worst = 0
        for name, books in self.books.items():
            counted = Counter[int]()
            for each in books.left():
                if each.body in used:
                    found.add(each.body)
                    counted.update(each.rows)
            for row, (now, then) in enumerate(zip(books.charges(), before[name], strict=True)):
                worst = max(worst, (now - then).total() - counted[row])
        assert found == used, "the coordinator has used what no outbox knows"
        return worst

    def _aggregated(self, run: str) -> set[str]:
        """Digests of the sums that entered the run's model."""
        return {body for each in aggregates(self.hub, run) for body in each.receipts}

    def _audit(self, study: Study, run: str) -> Report:
        path = self.folder / f"{study.name}.zip"
        export(bundle_of(self.hub, run), path)
        return verify_path(path, study_hash=study.hash)


def aggregates(hub: Folder, run: str) -> list[statements.Aggregate]:
    """What the coordinator's log says of a run's rounds."""
    stated: list[statements.Statement] = []
    for entry in hub.log.entries():
        with suppress(GenopactError):  # an approval: the approver's signature
            stated.append(statements.parse(entry, [hub.identity.public]))
    hub.close()
    return [each for each in stated if isinstance(each, statements.Aggregate) and each.run == run]


@contextmanager
def town(folder: Path) -> Iterator[Town]:
    """Everything running; afterwards nothing is."""
    folder = folder.resolve()
    address = f"127.0.0.1:{port_pair()}"
    hub = coordinator.create(folder / "hub", "hub", address)
    durable.replace(folder / "passphrase", PASSPHRASE)
    hospitals = {name: founded(folder / name, people) for name, people in PEOPLE.items()}
    books = {name: Books(each.site, PEOPLE[name]) for name, each in hospitals.items()}
    with Stage(folder) as stage:
        supervisors = {"hub": stage.serve("hub", COORDINATOR, "coordinator", "start", "--home", "hub").pid}
        until(lambda: enrolled(hub, hospitals), 60, "the start of the link host", 0.5)
        for name in hospitals:
            arguments = ("--address", address, "--ca", "hub/tls/ca.pem", "--passphrase-file", "passphrase")
            supervisors[name] = stage.serve(name, SITE, "start", "--home", name, *arguments).pid
        until(lambda: online(hub) == set(hospitals), 60, "the start of the sites", 0.5)
        yield Town(folder, stage, hub, hospitals, supervisors, books)
    assert not processes_in(folder), "processes were left behind"


def founded(home: Path, people: int) -> Hospital:
    """A hospital's folder with a node key, every room closed for the agent."""
    number = list(PEOPLE).index(home.name)
    made = hospital(home, home.name, people, seed=number, mix=MIXES[number])
    made.close()
    (home / "link").mkdir(mode=0o700)
    nodekey.create(home / "link" / "node.key")
    return Hospital(Site.open(home, PASSPHRASE), made.approver, made.truth)


def enrolled(hub: Folder, hospitals: dict[str, Hospital]) -> bool:
    """Enrol all sites; False while the link host does not answer."""
    try:
        with coordinator.control(hub) as control:
            for name, each in hospitals.items():
                control.register_site(name, nodekey.public_pem(nodekey.load(each.site.home / "link" / "node.key")))
    except GenopactError as error:
        if error.code != "LINK_UNREACHABLE":
            raise
        return False
    return True


def online(hub: Folder) -> set[str]:
    """Sites whose links are there."""
    with coordinator.control(hub) as control:
        return {name for name, online in control.sites().items() if online}


def port_pair() -> int:
    """A free port whose successor is free."""
    while True:
        port = free_port()
        with suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
            return port
