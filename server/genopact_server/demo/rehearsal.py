"""A play whose agents live in this process: the same folders, commands, envelopes and logs, without links and TLS."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

from genopact_server.coordinator import create
from genopact_server.demo.play import Play
from genopact_server.rounds import Run
from genopact_shared.study import load_study
from genopact_shared.terminal import bar

AGENT = "genopact_client.agent.exchange"
"""Loaded by name, as Flower loads a ClientApp: no room of the coordinator imports the hospital's."""


class Direct:
    """A courier that calls each agent in turn."""

    def __init__(self, agents: Mapping[str, Callable[[bytes], bytes]]) -> None:
        self._agents = agents

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        """See `rounds.Courier`; nothing here is late."""
        del deadline
        return {site: self._agents[site](frame) for site, frame in requests.items()}


class Rehearsal(Play):
    """`Play` in one process, and without a withdrawal."""

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
