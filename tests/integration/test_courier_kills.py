"""kill -9 of each process in the middle of an exchange: afterwards a new exchange succeeds with every site."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from genopact_client.link import nodekey
from genopact_server.link.control import Control
from genopact_shared.errors import GenopactError
from tests.integration.federation import HASH, STUDY, certificates, host_config
from tests.integration.processes import Processes, free_port, processes

pytestmark = pytest.mark.processes
T = TypeVar("T")
SITES = ["alpha", "beta"]


def until(attempt: Callable[[], T], seconds: float = 60.0) -> T:
    """The first result that is true."""
    end = time.monotonic() + seconds
    while not (result := attempt()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return result


@dataclass
class Town:
    folder: Path
    processes: Processes
    port: str
    runtime_port: str
    token: str

    def start(self, name: str) -> None:
        role, _, site = name.partition("-")
        rest = {
            "superlink": (self.port, self.runtime_port),
            "link": (site, self.port),
            "agent": (site,),
            "executor": (self.runtime_port, "8"),
        }[role]
        self.processes.start(name, role, *rest)

    def control(self) -> Control:
        config = host_config(self.folder)
        return Control(f"127.0.0.1:{self.port}", (self.folder / "ca.pem").read_bytes(), self.token, config.membership)

    def submit(self) -> int:
        with self.control() as control:
            return control.submit(STUDY, HASH, SITES)

    def exchanges(self) -> list[dict[str, object]]:
        path = self.folder / "exchanges"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def in_an_exchange(self) -> None:
        """Return when both agents work on an exchange, which will not end before `go_on`."""
        (self.folder / "slow").touch()
        for site in SITES:
            (self.folder / f"{site}.asked").unlink(missing_ok=True)
        until(lambda: all((self.folder / f"{site}.asked").exists() for site in SITES))

    def go_on(self) -> None:
        (self.folder / "slow").unlink()

    def all_answer(self) -> None:
        """Wait for an exchange that begins after now and is answered by every site."""
        begun = len(self.exchanges()) + 1
        until(lambda: [one for one in self.exchanges()[begun:] if one["sites"] == SITES])


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    certificates(folder)
    token = host_config(folder).accounts.add("operator", "operator")
    with processes(folder) as running:
        one = Town(folder, running, str(free_port()), str(free_port()), token)
        for name in ("superlink", "executor", *(f"agent-{site}" for site in SITES)):
            one.start(name)
        with one.control() as control:

            def up() -> bool:
                try:
                    return control.sites() == {}
                except GenopactError:
                    return False

            until(up)
            for site in SITES:
                control.register_site(site, nodekey.public_pem(nodekey.create(folder / f"{site}.key")))
        for site in SITES:
            one.start(f"link-{site}")
        one.submit()
        one.all_answer()
        yield one


@pytest.mark.parametrize("name", ["link-alpha", "agent-alpha", "superlink"])
def test_the_run_goes_on_after_a_kill_and_a_restart(town: Town, name: str) -> None:
    run = town.exchanges()[-1]["run"]
    town.in_an_exchange()
    town.processes.kill(name)
    town.start(name)
    town.go_on()
    town.all_answer()
    assert town.exchanges()[-1]["run"] == run


def test_after_a_kill_of_the_executor_a_new_run_works_with_the_same_nodes(town: Town) -> None:
    before = town.exchanges()[-1]["run"]
    town.in_an_exchange()
    town.processes.kill("executor")
    town.start("executor")
    run = town.submit()
    town.go_on()
    town.all_answer()
    assert town.exchanges()[-1]["run"] == run != before


def test_after_a_kill_of_superlink_and_executor_together_a_new_run_works(town: Town) -> None:
    town.in_an_exchange()
    town.processes.kill("superlink")
    town.processes.kill("executor")
    town.start("superlink")
    town.start("executor")
    town.go_on()

    def submitted() -> int:
        try:
            return town.submit()
        except GenopactError:
            return 0

    run = until(submitted)
    town.all_answer()
    assert town.exchanges()[-1]["run"] == run


def test_a_kill_costs_at_most_the_sites_own_reply(town: Town) -> None:
    """While alpha's link is dead the other site's replies count, each time within the deadline."""
    town.processes.kill("link-alpha")
    begun = len(town.exchanges()) + 1
    until(lambda: [one for one in town.exchanges()[begun:] if one["sites"] == ["beta"]])
    town.start("link-alpha")
    town.all_answer()
