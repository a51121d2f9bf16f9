"""Quick tests that kill: sums without noise are of those who permit them, of enough of them, and end their spending."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_client.agent.cohort import eligible
from genopact_server.folder import Folder
from genopact_shared.errors import GenopactError
from genopact_shared.plan import Plan, plan_of
from genopact_shared.recipes.gwas_private import design
from genopact_shared.study import Study
from tests.integration.clinics import COUNT, MINIMUM, NAMES, PEOPLE, about, clinic, taking_part
from tests.integration.hospital import Hospital, study_of
from tests.unit.association import people
from tests.unit.test_plan import PLANNED, key, study

# Under the driver loops run as they are written, where bytes wrap with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
NOW, DAY = 1_800_000_000, 20_000
EXACT = {"mode": "exact", "honest_minimum": 2}


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Hospital]:
    made = clinic(tmp_path / "site-a", "site-a", people(PEOPLE, COUNT))
    yield made
    made.close()


def planned(one: Hospital, tmp_path: Path, mode: str) -> tuple[Study, Plan]:
    folder = Folder.create(tmp_path / mode, "coordinator", "127.0.0.1:8000")
    others = [{use: key() for use in ("identity", "log", "approver")} for _ in NAMES[1:]]
    parties = [one.party, *({**each, "name": name} for each, name in zip(others, NAMES[1:], strict=True))]
    given: dict[str, Any] = {}
    if mode != "exact":
        given["design"] = one.site.published.add(design(np.full(COUNT, 0.3)))
    of = study_of(folder, parties, **about(mode=mode, **given))
    return of, plan_of(of, dict.fromkeys(NAMES, PEOPLE))


def test_exact_sums_are_of_those_who_permit_them_without_a_limit(one: Hospital, tmp_path: Path) -> None:
    of, plan = planned(one, tmp_path, "exact")
    with eligible(one.site, of, plan.steps[0], NOW) as cohort:
        assert cohort.rows.tolist() == taking_part()


def test_exact_sums_are_of_enough_patients(one: Hospital, tmp_path: Path) -> None:
    of, plan = planned(one, tmp_path, "exact")
    for row in taking_part()[MINIMUM:]:
        one.site.registry.withdraw(row, "no_new_use", dt.date(2026, 1, 1))
    with eligible(one.site, of, plan.steps[0], NOW) as cohort:
        assert len(cohort.rows) == MINIMUM
    one.site.registry.withdraw(taking_part()[0], "no_new_use", dt.date(2026, 1, 1))
    with pytest.raises(GenopactError, match="COHORT_TOO_SMALL"), eligible(one.site, of, plan.steps[0], NOW):
        pass


def test_after_an_exact_sum_nobody_in_it_pays_again(one: Hospital, tmp_path: Path) -> None:
    of, plan = planned(one, tmp_path, "exact")
    rows = np.array(taking_part(), np.int64)
    one.site.ledger.settle(one.site.ledger.reserve(of.hash, "1" * 32, 0, 0, plan.steps[0].fact, rows, DAY))
    of, plan = planned(one, tmp_path, "distributed")
    with eligible(one.site, of, plan.steps[0], NOW) as cohort:
        assert cohort.rows.tolist() == [row for row in range(PEOPLE) if row not in taking_part()]


def test_exact_statistics_are_for_a_use_that_patients_permit() -> None:
    summary = {"recipe": {"name": "cohort-summary", "version": 1}, "outcome": "call_rate", "metrics": ["patients"]}
    with pytest.raises(GenopactError, match="federated_stats"):
        study(**summary, privacy=EXACT)


def test_no_model_is_exact() -> None:
    purpose = {
        "permission": "HMB", "uses": ["federated_stats"], "organisations": ["public"], "commercial": False,
        "regions": ["DE"], "data": ["drug"],
    }  # fmt: skip
    with pytest.raises(GenopactError, match="no exact statistics"):
        study(privacy=EXACT, purpose=purpose)


def test_masks_and_counts_of_exact_sums() -> None:
    """The total alone is seen, and it is not scaled up to sites that did not answer."""
    purpose = {
        "permission": "HMB", "uses": ["federated_stats"], "organisations": ["public"], "commercial": False,
        "regions": ["DE"], "data": ["drug"],
    }  # fmt: skip
    summary = {"recipe": {"name": "cohort-summary", "version": 1}, "outcome": "call_rate", "metrics": ["patients"]}
    plan = plan_of(study(**summary, privacy=EXACT, purpose=purpose), PLANNED)
    assert (plan.steps[0].masked, plan.steps[0].bits) == (True, 64)
    total = np.full(29, 7 << 10, np.int64)
    assert set(plan.advance(0, plan.course.initial(), total, ["site-a"])[0]) == {7.0}
