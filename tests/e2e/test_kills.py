"""kill -9 of agent, link, link host and executor, each in the middle of a step of real processes over TLS."""

from collections.abc import Iterator

import pytest

from tests.e2e.town import VICTIMS, Town, town

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("kills")) as one:
        yield one


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_study_ends_by_itself_and_nobody_is_charged_too_little_or_twice(running: Town, victim: str) -> None:
    outcome = running.survive(victim)
    assert outcome.problems() == []
    assert outcome.samples > 3 * len(running.books)
