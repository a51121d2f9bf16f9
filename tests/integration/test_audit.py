"""Real runs, without a network, under the audit: the logs hold what the verifier expects."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from genopact_client.agent.exchange import Exchange
from genopact_server.audit.bundle import export
from genopact_server.audit.verify import verify, verify_path
from genopact_server.evidence import bundle_of
from genopact_server.rounds import Run
from tests.integration.hospital import BEFORE_THIRD_STEP, Consortium, DirectCourier

Make = Callable[..., Consortium]


def run(one: Consortium, courier: DirectCourier | None = None) -> str:
    started = Run.start(one.folder, one.study, courier or one.courier, one.events.append)
    started.go()
    return started.state.run


@pytest.mark.parametrize("mode", ["distributed", "local", "none"])
def test_an_honest_run_passes(consortium: Make, tmp_path: Path, mode: str) -> None:
    least = 2 if mode == "distributed" else 1
    privacy = {"mode": mode, "delta": "0.000001", "honest_minimum": least}
    one = consortium(privacy=privacy if mode == "none" else privacy | {"epsilon_milli": 1000})
    identity = run(one)
    export(bundle_of(one.folder, identity), tmp_path / "audit.zip")
    report = verify_path(tmp_path / "audit.zip", study_hash=one.study.hash)
    assert report.exit_code == 0, report.text()


def test_two_runs_of_one_study_extend_the_checkpoints_of_the_first(consortium: Make) -> None:
    one = consortium(privacy={"mode": "none", "honest_minimum": 1})
    first = bundle_of(one.folder, run(one))
    second = bundle_of(one.folder, run(one))
    kept = [(party, log.checkpoint) for party, log in first.logs.items()]
    report = verify(second, kept)
    assert report.exit_code == 0, report.text()
    assert sum(finding.check == "history" for finding in report.findings) == 4


def test_an_attempt_that_was_given_up_is_claimed_and_within_the_signed_epsilon(consortium: Make) -> None:
    """Two sites had released for it; the study's spare covers it, and the release claims it."""
    one = consortium()
    restarted: list[str] = []

    class Restarting(DirectCourier):
        def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
            if len(self.carried) == BEFORE_THIRD_STEP and not restarted:
                restarted.append("site-b")
                self.sites["site-b"] = Exchange(one.hospitals["site-b"].site)
            return super().exchange(requests, deadline)

    report = verify(bundle_of(one.folder, run(one, Restarting(one.courier.sites))))
    assert restarted
    assert report.exit_code == 0, report.text()
    counts = {f.party: f.what.count("6 intents") for f in report.findings if f.check == "epsilon"}
    assert counts == {"site-a": 1, "site-b": 0, "site-c": 1}
