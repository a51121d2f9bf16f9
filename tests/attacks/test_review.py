"""What an older file or an empty cohort must not gain anybody.

Less information never permits more: a ledger put back, lost files of runs, or nobody left to take part.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from genopact_client.agent.exchange import Exchange
from genopact_server.rounds import Run
from genopact_shared import statements, wire
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.accounting import epsilon
from genopact_shared.wire import Reply, Request
from tests.integration.hospital import BEFORE_THIRD_STEP, Consortium, DirectCourier, consortium, hospital

TARGET = "site-b"


def reasons(one: Consortium) -> list[str]:
    """Codes of all refusals at the target."""
    site = one.hospitals[TARGET].site
    refusals = (statements.parse(entry, [site.identity.public]) for entry in site.private_log.entries())
    return [code for each in refusals if isinstance(each, statements.Refusal) for code in each.reasons]


def test_an_agent_does_not_start_on_a_ledger_older_than_its_log(tmp_path: Path) -> None:
    one = consortium(tmp_path)
    home = one.hospitals[TARGET]
    ledger, old = home.site.home / "ledger", tmp_path / "backup"
    shutil.copyfile(ledger, old)
    Run.start(one.folder, one.study, one.courier).go(until=1)
    one.hospitals[TARGET] = home = home.reopened()
    Exchange(home.site)
    home.close()
    shutil.copyfile(old, ledger)
    one.hospitals[TARGET] = home = home.reopened()
    assert home.site.ledger.spent(0) == (), "the old ledger opens, and has forgotten the round"
    with pytest.raises(GenopactError, match="LEDGER_ROLLED_BACK"):
        Exchange(home.site)
    one.close()


def test_nobody_gets_a_forgotten_persons_row_and_consent(tmp_path: Path) -> None:
    home = hospital(tmp_path / "site", "site", people=20)
    home.close()
    (home.site.home / "people.db").unlink()
    home = home.reopened()
    for _ in range(2):
        with pytest.raises(GenopactError, match="PEOPLE_MISSING"):
            home.site.people.enrol(["somebody else"])
    home.close()


def test_lost_files_of_runs_give_no_budget_back(tmp_path: Path) -> None:
    one = consortium(tmp_path)
    Run.start(one.folder, one.study, one.courier).go()
    site = one.hospitals[TARGET].site
    for path in (site.home / "runs").glob("*.json"):
        path.unlink()
    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        Run.start(one.folder, one.study, one.courier).go()
    assert "STUDY_BUDGET_SPENT" in reasons(one)
    privacy = one.study.privacy
    assert 1000 * epsilon(site.ledger.spent(0), privacy.delta) <= float(privacy.epsilon_milli or 0)
    one.close()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "recipe": {"name": "dose-net", "version": 1, "parameters": {"rounds": 1, "local_steps": 2}},
            "privacy": {"mode": "local", "epsilon_milli": 1000, "delta": "0.000001"},
            "schedule": {"quorum": 3, "deadline_s": 20},
        },
    ],
    ids=["masked sum", "network"],
)
def test_a_site_without_anybody_left_answers_like_any_other(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Silence where one patient would have been heard would be a release without noise and without a charge."""
    one = consortium(tmp_path, **changes)
    site = one.hospitals[TARGET].site
    record = site.registry.get(0)
    assert record is not None
    silent = record.model_copy(update={"status": "refused"})
    site.registry.record_many(dict.fromkeys(range(len(site.people)), silent))
    run = Run.start(one.folder, one.study, one.courier)
    run.go()
    assert (run.state.stage, run.state.attempt, reasons(one)) == ("done", 0, [])
    assert not any(site.ledger.spent(row) for row in range(len(site.people)))
    one.close()


def test_a_mask_key_of_small_order_costs_nobody_anything(tmp_path: Path) -> None:
    """One malicious site, and the charge of all others: its key agrees on a zero secret, which X25519 refuses."""
    one = consortium(tmp_path)

    class Small(DirectCourier):
        def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
            replies = super().exchange(requests, deadline)
            asked = wire.parse_envelope(Request, wire.split(requests["site-a"])[0], one.study.coordinator_key)
            if asked.op == "open":
                own = one.hospitals["site-a"].site
                reply, body = wire.unseal(Reply, replies["site-a"], own.identity.public)
                replies["site-a"] = wire.seal(reply.model_copy(update={"mask_key": "00" * 32}), body, own.identity)
            return replies

    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        Run.start(one.folder, one.study, Small(one.courier.sites)).go()
    assert "ROSTER_INVALID" in reasons(one)
    assert one.hospitals[TARGET].site.ledger.spent(0) == ()
    one.close()


def test_a_site_that_shows_an_older_log_is_refused_by_the_coordinator(tmp_path: Path) -> None:
    one, events = consortium(tmp_path), list[dict[str, Any]]()

    class Rolled(DirectCourier):
        """Answers the third step with an honest reply, but a log that began anew."""

        def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
            if len(self.carried) == BEFORE_THIRD_STEP:
                kept = next((one.folder.home / "runs").glob("*/sites/site-a.proof"))
                log = one.hospitals["site-a"].site.log
                for _ in range(50):
                    log.append(b"an entry that the coordinator has seen, and that is gone after a restore")
                kept.write_bytes(log.proof(log.size - 1))
                shrunk = one.hospitals["site-a"]
                shrunk.site.log.close()
                entries = shrunk.site.home / "log"
                (entries / "entries").unlink()
                (entries / "checkpoint").unlink()
                vars(shrunk.site).pop("log")
            return super().exchange(requests, deadline)

    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        Run.start(one.folder, one.study, Rolled(one.courier.sites), events.append).go()
    assert "LOG_ROLLED_BACK" in {event.get("code") for event in events}
    one.close()


@pytest.mark.parametrize(
    "metrics", [(), ("mae_mg",), ("patients", "mae_mg", "over_20_percent", "under_20_percent", "auc")]
)
def test_a_study_names_exactly_the_metrics_that_leave(tmp_path: Path, metrics: tuple[str, ...]) -> None:
    with pytest.raises(GenopactError, match="STUDY_INVALID"):
        consortium(tmp_path, metrics=metrics)


def test_a_delta_that_no_release_could_state_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    with pytest.raises(GenopactError, match="STUDY_INVALID"):
        consortium(
            tmp_path, privacy={"mode": "distributed", "epsilon_milli": 1000, "delta": "1e-6", "honest_minimum": 2}
        )
