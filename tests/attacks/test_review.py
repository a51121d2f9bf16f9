"""What an older file or an empty cohort must not gain anybody.

Less information never permits more: a ledger put back, lost files of runs, or nobody left to take part.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from genopact_client.agent.exchange import Exchange
from genopact_server.rounds import Run
from genopact_shared import statements
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.accounting import epsilon_fast
from tests.integration.hospital import Consortium, consortium, hospital

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
    assert 1000 * epsilon_fast(site.ledger.spent(0), privacy.delta) <= float(privacy.epsilon_milli or 0)
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
