"""Studies whose sites and coordinator are killed with SIGKILL at random instants.

Each site's `Exchange` and the coordinator's loop are processes of their own on real folders, forked from this warm one,
so that a start takes milliseconds. All frames pass through here: what was carried is known whatever sites write down.
"""

import json
import os
import pickle
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from genopact_client.agent.exchange import Exchange
from genopact_client.agent.process import _open_rooms
from genopact_client.site import Site
from genopact_server.audit.verify import verify
from genopact_server.coordinator import carry_on, runs_of
from genopact_server.evidence import bundle_of
from genopact_server.folder import Folder
from genopact_server.rounds import Run
from genopact_shared import canonical, wire
from genopact_shared.errors import GenopactError
from genopact_shared.plan import plan_of
from genopact_shared.privacy.noise import skellam
from genopact_shared.study import Study
from tests.e2e.noise import Draw, draws, repeated_masks, repeated_noise, size_of_noise
from tests.e2e.town import Books, aggregates
from tests.integration.hospital import MIXES, Hospital, hospital, study_of

FORK = get_context("fork")
PEOPLE = {"site-a": 60, "site-b": 80, "site-c": 100, "site-d": 70}
COORDINATOR = "coordinator"
STEPS, SPARES, QUORUM = 6, 100, 3
MODES = ("distributed", "distributed", "local")
"""Of the studies, in turn: under masks, and in the clear, where the noise of each reply can be seen."""
PATIENCE_S = 240.0
"""For one study, kills included."""
Life = Callable[[Any], None]


@dataclass(frozen=True)
class Survived:
    """What the kills left. `charging`: how many came between a charge and what it pays for.

    `under_counts`: charges that were missing at any look, added up. `used`: charges for sums that entered a model.
    """

    killed: dict[str, int]
    charging: int
    studies: int
    under_counts: int
    charged: int
    used: int
    draws: int
    noise: float
    faults: tuple[str, ...]


def survive(folder: Path, kills: int, gap: float, seed: int = 0) -> Survived:
    """As many studies as it takes for that many kills, and one at least."""
    one = Mortals.founded(folder, gap, seed)
    while not one.studies or one.killed.total() < kills:
        one.study(kills - one.killed.total())
    charged = sum(paid.total() for each in one.agents.values() for paid in each.books.charges())
    return Survived(
        killed=dict(one.killed),
        charging=one.charging,
        studies=len(one.studies),
        under_counts=one.under_counts,
        charged=charged,
        used=one.used,
        draws=len(one.noise),
        noise=size_of_noise(one.noise),
        faults=tuple(one.faults),
    )


class Mortal:
    """A process that is started again after each kill; `pipe` is our end of the way to it."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def start(self) -> None:
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=self._run, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def kill(self) -> list[bytes]:
        """Returns what it had sent whole before."""
        self.process.kill()
        self.process.join()
        sent: list[bytes] = []
        with suppress(EOFError, OSError):
            while True:
                sent.append(self.pipe.recv_bytes())
        self.pipe.close()
        return sent

    def _run(self, theirs: Any) -> None:
        self.pipe.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        self._life(theirs)


@dataclass
class Agent:
    """A site's agent. `queue`: exchange and frame, the first of which is in its hands. `carried`: request and reply."""

    home: Hospital
    queue: deque[tuple[int, bytes]] = field(default_factory=deque)
    carried: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mortal = Mortal(self._live)
        self.books = Books(self.home.site, self.home.truth.n)

    def ask(self, number: int, frame: bytes) -> None:
        self.queue.append((number, frame))
        if len(self.queue) == 1:
            self.mortal.pipe.send_bytes(frame)

    def take(self, reply: bytes) -> int:
        """Note the reply to the first of the queue; returns its exchange."""
        number, frame = self.queue.popleft()
        if reply:
            self.carried.append((frame, reply))
            self.books.frames.append(reply)
        return number

    def go_on(self) -> None:
        """Hand it the first of the queue."""
        if self.queue:
            self.mortal.pipe.send_bytes(self.queue[0][1])

    def computing(self) -> bool:
        """Whether a position is taken, and perhaps charged, and nothing has been released for it."""
        files = list((self.home.site.home / "runs").glob("*.json"))
        record = json.loads(max(files, key=lambda path: path.stat().st_mtime_ns).read_bytes()) if files else {}
        return record.get("round", -1) >= 0 and record["reply"] is None

    def joined(self, run: str) -> bool:
        """Whether it has opened a run."""
        return (self.home.site.home / "runs" / f"{run}.json").exists()

    def _live(self, pipe: Any) -> None:
        site = Site(self.home.site.home, self.home.site.name, self.home.site.kek)
        _open_rooms(site)
        exchange = Exchange(site)
        with suppress(EOFError):
            while True:
                pipe.send_bytes(exchange(pipe.recv_bytes()))


@dataclass
class PipeCourier:
    """The coordinator's end: all requests of an exchange at once, then all replies."""

    pipe: Any

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        self.pipe.send(dict(requests))
        replies: dict[str, bytes] = self.pipe.recv()
        return replies


@dataclass
class Mortals:
    """The consortium. `gap`: mean seconds between kills, which come as a Poisson process: no instant is likelier."""

    hub: Folder
    agents: dict[str, Agent]
    gap: float
    chance: random.Random
    studies: list[Study] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    charging: int = 0
    under_counts: int = 0
    used: int = 0
    noise: list[Draw] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def founded(cls, folder: Path, gap: float, seed: int) -> "Mortals":
        hub = Folder.create(folder / "hub", "hub", "127.0.0.1:8000")
        agents = {}
        for number, (name, people) in enumerate(PEOPLE.items()):
            made = hospital(folder / name, name, people, seed=number, lifetime=10**6, mix=MIXES[number])
            made.close()
            site = Site(made.site.home, name, made.site.kek)
            agents[name] = Agent(Hospital(site, made.approver, made.truth))
        return cls(hub, agents, gap, random.Random(seed))

    def study(self, kills: int) -> Study:
        """Carry one study out, with at most so many kills; then look into all books and audit its logs."""
        study = self._ordered()
        # What is compiled, imported or cached here needs no time after each start.
        skellam(100.0, 1)
        plan_of(study, PEOPLE)
        self._wanted(study).write_text('{"until": null}')
        self._coordinator = Mortal(partial(self._coordinate, study.hash))
        self._asked, self._replies, self._exchange = dict[str, bytes](), dict[str, bytes](), 0
        everybody = [self._coordinator, *(each.mortal for each in self.agents.values())]
        for each in everybody:
            each.start()
        try:
            self._carry(study, kills)
        finally:
            for each in everybody:
                each.kill()
            for agent in self.agents.values():
                agent.queue.clear()
        for agent in self.agents.values():
            self._check(agent)
        self._audit(study)
        return study

    def _ordered(self) -> Study:
        mode = MODES[len(self.studies) % len(MODES)]
        shares = [1000 // STEPS] * (STEPS - 1) + [1000 - (STEPS - 1) * (1000 // STEPS)]
        privacy = {"mode": mode, "epsilon_milli": 3000, "delta": "0.000001", "spare_attempts": SPARES}
        study = study_of(
            self.hub,
            [each.home.party for each in self.agents.values()],
            name=f"study-{len(self.studies)}",
            recipe={"name": "dose", "version": 1, "parameters": {"step_shares_milli": shares}},
            privacy=privacy | {"honest_minimum": 2 if mode == "distributed" else 1},
            schedule={"quorum": QUORUM, "deadline_s": 600, "attempts": 100},
        )
        for each in self.agents.values():
            self.hub.accept(study, each.home.approve(study))
        self.studies.append(study)
        return study

    def _wanted(self, study: Study) -> Path:
        return self.hub.home / "studies" / study.hash / "wanted"

    def _coordinate(self, study: str, pipe: Any) -> None:
        with suppress(GenopactError):  # it stands in the file `failed`
            carry_on(Folder(self.hub.home), study, PipeCourier(pipe))

    def _carry(self, study: Study, kills: int) -> None:
        """Carry frames until the study has ended, and kill in between."""
        left, next_kill, end, alive = kills, self._instant(), time.monotonic() + PATIENCE_S, True
        while alive and time.monotonic() < end:
            ways = {agent.mortal.pipe: agent for agent in self.agents.values()}
            ends = [*ways, self._coordinator.pipe]
            for pipe in wait(ends, max(0.0, next_kill - time.monotonic()) if left else 1.0):
                try:
                    message = pipe.recv_bytes()  # type: ignore[union-attr]
                except EOFError:
                    assert pipe not in ways, f"{ways[pipe].home.site.name} ended by itself"
                    alive = False
                    break
                if pipe in ways:
                    self._arrived(ways[pipe], message)
                    ways[pipe].go_on()
                else:
                    self._send(message)
            if alive and left and time.monotonic() >= next_kill:
                self._strike()
                left, next_kill = left - 1, self._instant()
        states = runs_of(self.hub, study.hash)
        if [state["stage"] for state in states] != ["done"]:
            failed = self._wanted(study).with_name("failed")
            code = failed.read_text() if failed.exists() else "no end"
            self.faults.append(f"{study.name}: {code} in round {[state['round'] for state in states]}")
            self._wanted(study).unlink(missing_ok=True)

    def _instant(self) -> float:
        return time.monotonic() + self.chance.expovariate(1 / self.gap)

    def _send(self, message: bytes) -> None:
        self._asked, self._replies = pickle.loads(message), {}
        self._exchange += 1
        for site, frame in self._asked.items():
            self.agents[site].ask(self._exchange, frame)

    def _arrived(self, agent: Agent, reply: bytes) -> None:
        """What an agent has sent goes to the coordinator, if it still waits for it."""
        if agent.take(reply) == self._exchange and self._asked:
            self._replies[agent.home.site.name] = reply
            if len(self._replies) == len(self._asked):
                self._asked = {}
                with suppress(BrokenPipeError):
                    self._coordinator.pipe.send(self._replies)

    def _strike(self) -> None:
        """Kill one process, look into its books as the kill has left them, and start it again.

        A frame that a site had in its hands is given to it once more, as links do, or is not; the last one of a run
        always is, because the coordinator asks for a site's log once. What the coordinator had sent is delivered all
        the same, and nobody waits for the replies.
        """
        victim = self.chance.choice([COORDINATOR, *self.agents])
        self.killed[victim] += 1
        if victim == COORDINATOR:
            for message in self._coordinator.kill():
                self._send(message)
            self._asked = {}
            self._coordinator.start()
            return
        agent = self.agents[victim]
        for reply in agent.mortal.kill():
            self._arrived(agent, reply)
        self.charging += bool(agent.queue) and agent.computing()
        self._check(agent)
        if agent.queue and self.chance.random() < 0.5 and self._asked_for(agent) != "finish":
            self._arrived(agent, wire.UNAVAILABLE)
        agent.mortal.start()
        agent.go_on()

    def _asked_for(self, agent: Agent) -> str:
        return wire.unseal(wire.Request, agent.queue[0][1], self.hub.identity.public)[0].op

    def _check(self, agent: Agent) -> None:
        """What has left is paid for, said once, and kept."""
        name, short = agent.home.site.name, agent.books.owing()
        self.under_counts += short
        if short:
            self.faults.append(f"{name}: {short} charges too few")
        said = Counter(
            (run, position) for run, position, _ in {(e.run, e.position, e.body) for e in agent.books.left()}
        )
        self.faults += [f"{name}: two replies at {where}" for where, times in said.items() if times > 1]
        for request, reply in agent.carried:
            if agent.home.site.outbox.get(canonical.digest(wire.split(request)[0])) != reply:
                self.faults.append(f"{name}: a reply that its outbox does not hold")

    def _audit(self, study: Study) -> None:
        """Verify the logs of a run that has ended; add up which charges it used, and what noise it showed.

        A site that was away when the run was opened, and was not needed later, has no log to hand over.
        """
        books = {name: each.books for name, each in self.agents.items()}
        truth = {name: each.home.truth for name, each in self.agents.items()}
        for state in runs_of(self.hub, study.hash):
            joined = {name for name, each in self.agents.items() if each.joined(state["run"])}
            for found in verify(bundle_of(Folder(self.hub.home), state["run"])).findings:
                if found.verdict != "ok" and not (found.check == "log" and found.party in {*self.agents} - joined):
                    self.faults.append(f"{study.name}: {found.check}: {found.party}: {found.what}")
            run, rounds = Run.resume(self.hub, state["run"], PipeCourier(None)), aggregates(self.hub, state["run"])
            self.noise += draws(run, rounds, books, truth)
            uploads = {name: each.bodies(state["run"]) for name, each in books.items()}
            entered = {body for each in rounds for body in each.receipts}
            self.used += sum(len(left.rows) for each in uploads.values() for left in each if left.body in entered)
            for name, each in uploads.items():
                masked = [body for left, body in each.items() if run.plan.steps[left.position[0]].masked]
                self.faults += [f"{name}: a mask was used twice"] * repeated_masks(masked)
        if repeats := repeated_noise(self.noise):
            self.faults.append(f"{repeats} times the same noise, or none")
