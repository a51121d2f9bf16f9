"""The privacy ledger: what is charged and when, what is affordable for life and in a window."""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genopact_client.ledger import Ledger, Window
from genopact_client.spending import Level, epsilon_of, levels
from genopact_server.audit.accountant import epsilon_bounds
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.accounting import Fact, epsilon, filter_budget, renyi_cost
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected

KEY = bytes(range(32))
DELTA = "0.000001"
ADDRESS = ("study", "run", 0, 0)
DAY = 20_000


def noised(multiplier: str = "8", dims: int = 10) -> NoisedSum:
    return NoisedSum(noise_multiplier=multiplier, clip="1", scale=4096, dims=dims, honest_minimum=2)


SGD = SampledSgd(noise_multiplier="2", clip="1", sampling_rate="0.05", steps=10)
BARE = Unprotected(dims=3, scale=1)


def rows(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.create(tmp_path / "ledger", KEY)
    yield opened
    opened.close()


def test_a_reservation_counts_as_spent_settled_or_not(ledger: Ledger, tmp_path: Path) -> None:
    first = ledger.reserve("study", "run", 3, 1, noised(), rows(0, 2), DAY)
    second = ledger.reserve(*ADDRESS, SGD, rows(2, 9), DAY)
    ledger.settle(first)
    charge = ledger.open_reservations()[second]
    assert (list(ledger.open_reservations()), charge.fact, charge.round) == ([second], SGD, 0)
    head = ledger.head
    ledger.close()
    again = Ledger(tmp_path / "ledger", KEY)
    for opened in (ledger, again):
        assert [opened.spent(row) for row in (0, 1, 2, 9, 10)] == [(noised(),), (), (noised(), SGD), (SGD,), ()]
        assert list(opened.open_reservations()) == [second]
        assert (opened.head, opened.cut) == (head, 0)
    again.close()


def test_the_head_moves_with_every_record_and_differs_between_ledgers(ledger: Ledger, tmp_path: Path) -> None:
    heads = [ledger.head]
    sequence = ledger.reserve(*ADDRESS, noised(), rows(1), DAY)
    heads.append(ledger.head)
    ledger.settle(sequence)
    heads.append(ledger.head)
    other = Ledger.create(tmp_path / "other", KEY)
    assert len({*heads, other.head}) == 4
    other.close()


def test_only_an_open_reservation_is_settled_and_once(ledger: Ledger) -> None:
    sequence = ledger.reserve(*ADDRESS, noised(), rows(1), DAY)
    for wrong in (0, sequence + 1, -1):
        with pytest.raises(GenopactError, match="LEDGER_NO_RESERVATION"):
            ledger.settle(wrong)
    ledger.settle(sequence)
    with pytest.raises(GenopactError, match="LEDGER_NO_RESERVATION"):
        ledger.settle(sequence)


@pytest.mark.parametrize("bad", [rows(1, 1), rows(-1), np.array([True, False]), np.array([1.0])])
def test_rows_that_are_no_row_numbers_charge_nobody(ledger: Ledger, bad: NDArray[np.int64]) -> None:
    head = ledger.head
    with pytest.raises(ValueError, match="distinct int64 rows"):
        ledger.reserve(*ADDRESS, noised(), bad, DAY)
    assert ledger.head == head


def test_nobody_can_be_charged(ledger: Ledger) -> None:
    ledger.settle(ledger.reserve(*ADDRESS, noised(), rows(), DAY))
    assert ledger.spent(0) == ()


def naive_fits(facts: Iterable[Fact], cap: int) -> bool:
    order, budget = filter_budget(cap, DELTA)
    return sum(renyi_cost(fact, order) for fact in facts) <= budget


def test_affordable_is_what_the_filter_of_each_row_admits(ledger: Ledger) -> None:
    ledger.reserve(*ADDRESS, noised(), rows(0, 1, 2), DAY)
    ledger.reserve(*ADDRESS, noised(), rows(1, 2), DAY + 1)
    ledger.reserve(*ADDRESS, noised("5"), rows(2, 3), DAY)
    ledger.reserve(*ADDRESS, SGD, rows(3), DAY)
    ledger.reserve(*ADDRESS, BARE, rows(4), DAY)
    asked = rows(4, 3, 2, 1, 0, 77)
    seen = set()
    for cap in range(0, 3000, 20):
        expected = [naive_fits([*ledger.spent(int(row)), noised("6")], cap) for row in asked]
        assert list(ledger.affordable(asked, noised("6"), cap, DELTA, DAY)) == expected
        seen.add(tuple(expected))
    assert len(seen) == 6
    assert seen >= {(False,) * 6, (False, *(True,) * 5)}


def test_a_person_s_own_cap(ledger: Ledger) -> None:
    cost = next(cap for cap in range(10_000) if naive_fits([noised()], cap))
    own = np.array([cost, cost - 1, 0], np.int64)
    assert list(ledger.affordable(rows(0, 1, 2), noised(), own, DELTA, DAY)) == [True, False, False]
    assert list(ledger.affordable(rows(), noised(), 10**6, DELTA, DAY)) == []


@settings(max_examples=12, deadline=None)
@given(st.integers(300, 8000), st.data())
def test_whoever_is_asked_only_while_affordable_stays_below_the_cap(cap: int, data: st.DataObject) -> None:
    """An adversary chooses every release after the last one; loss distributions judge what was admitted."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.create(Path(folder) / "ledger", KEY)
        for _ in range(25):
            z = str(data.draw(st.integers(2_000, 40_000)) / 1000)
            fact = noised(z) if data.draw(st.booleans()) else SGD.model_copy(update={"noise_multiplier": z})
            if ledger.affordable(rows(0), fact, cap, DELTA, DAY)[0]:
                ledger.reserve(*ADDRESS, fact, rows(0), DAY)
        assert 1000 * epsilon(ledger.spent(0), DELTA) <= cap + 1e-3
        ledger.close()


WINDOW = Window(days=30, epsilon_milli=1000)


def charged_until_refused(ledger: Ledger, day: int) -> int:
    for times in range(100):
        if not ledger.affordable(rows(0), noised(), 10**5, DELTA, day, WINDOW)[0]:
            return times
        ledger.reserve(*ADDRESS, noised(), rows(0), day)
    raise AssertionError


def test_a_window_opens_again_and_a_life_does_not(ledger: Ledger, tmp_path: Path) -> None:
    full = charged_until_refused(ledger, DAY)
    assert full > 1
    assert naive_fits([noised()] * full, 1000) > naive_fits([noised()] * (full + 1), 1000)
    assert charged_until_refused(ledger, DAY + 29) == 0
    assert len(ledger.spent(0, ledger.window_start(DAY + 29, WINDOW))) == full
    assert ledger.spent(0, ledger.window_start(DAY + 30, WINDOW)) == ()
    ledger.close()
    again = Ledger(tmp_path / "ledger", KEY)
    assert charged_until_refused(again, DAY + 30) == full
    assert len(again.spent(0)) == 2 * full
    assert not again.affordable(rows(0), noised(), 1000, DELTA, DAY + 90, WINDOW)[0]
    assert again.affordable(rows(1), noised(), 1000, DELTA, DAY + 30, WINDOW)[0]
    again.close()


def test_every_window_holds_not_only_calendar_ones(ledger: Ledger) -> None:
    """Spent little by little: over any 30 days in a row the filter of the window was kept."""
    for day in range(DAY, DAY + 100, 3):
        if ledger.affordable(rows(0), noised("9"), 10**5, DELTA, day, WINDOW)[0]:
            ledger.reserve(*ADDRESS, noised("9"), rows(0), day)
    days = [charge.day for charge in ledger.open_reservations().values()]
    assert len(days) > 10
    for first in range(DAY, DAY + 100):
        assert naive_fits([noised("9")] * sum(first <= day < first + 30 for day in days), 1000)


def test_a_clock_that_is_set_back_opens_no_window(ledger: Ledger, tmp_path: Path) -> None:
    charged_until_refused(ledger, DAY)
    assert charged_until_refused(ledger, DAY - 400) == 0
    ledger.reserve(*ADDRESS, noised(), rows(5), DAY - 400)
    assert {charge.day for charge in ledger.open_reservations().values()} == {DAY}
    ledger.close()
    again = Ledger(tmp_path / "ledger", KEY)
    assert charged_until_refused(again, 0) == 0
    again.close()


def test_local_and_distributed_rounds_add_up_in_one_history(ledger: Ledger) -> None:
    """A patient of a study with masked sums, one with a site's own sums, and one with sampled steps pays for all."""
    masked, own = noised("9"), noised("9").model_copy(update={"honest_minimum": 1, "clip": "3"})
    for fact in (masked, own, SGD, masked):
        ledger.reserve(*ADDRESS, fact, rows(0), DAY)
    spent = ledger.spent(0)
    assert Counter(spent) == Counter([masked, own, SGD, masked])
    both, sums, steps = (epsilon(facts, DELTA) for facts in (spent, [masked, own, masked], [SGD]))
    assert max(sums, steps) < both < sums + steps
    bounds = epsilon_bounds(spent, DELTA)  # the audit's accountant, which shares no code
    assert 0.99 * both < bounds.low <= both <= 1.002 * bounds.high
    order, _ = filter_budget(1000, DELTA)
    assert naive_fits(spent, 1000) == (sum(renyi_cost(fact, order) for fact in spent) <= filter_budget(1000, DELTA)[1])


def test_a_million_rows_with_few_histories_are_judged_by_history(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = np.arange(1_000_000, dtype=np.int64)
    for times in range(6):
        ledger.reserve(*ADDRESS, noised(str(8 + times)), everybody[:: times + 1], DAY)
    calls: list[Fact] = []

    def counted(fact: Fact, order: int) -> float:
        calls.append(fact)
        return 0.001 * order

    monkeypatch.setattr("genopact_client.ledger.renyi_cost", counted)
    caps = np.where(everybody % 2, 500, 900)
    assert ledger.affordable(everybody, noised(), caps, DELTA, DAY, WINDOW).shape == everybody.shape
    assert len(calls) == 3 * 6  # two caps and a window; the fact itself is among the six


@pytest.mark.parametrize("fact", [BARE, noised("0"), noised("0.0")])
def test_nobody_can_afford_what_has_no_noise(ledger: Ledger, fact: Fact) -> None:
    assert not ledger.affordable(rows(0, 1), fact, 10**12, DELTA, DAY).any()


def test_it_is_never_started_twice_or_silently(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(GenopactError, match="LEDGER_EXISTS"):
        Ledger.create(tmp_path / "ledger", KEY)
    with pytest.raises(GenopactError, match="LEDGER_MISSING"):
        Ledger(tmp_path / "absent", KEY)
    assert not (tmp_path / "absent").exists()


def test_a_failed_write_closes_the_ledger(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ledger.reserve(*ADDRESS, noised(), rows(0), DAY)

    def full(_file: int, data: bytes, _at: int) -> int:
        return len(data) // 2

    with monkeypatch.context() as patch:
        patch.setattr("genopact_client.ledger_file.os.pwrite", full)
        with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
            ledger.reserve(*ADDRESS, noised(), rows(1), DAY)
    with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
        ledger.reserve(*ADDRESS, noised(), rows(1), DAY)
    again = Ledger(tmp_path / "ledger", KEY)
    assert (again.spent(0), again.spent(1)) == ((noised(),), ())
    again.close()


def test_what_could_not_be_synced_is_not_acknowledged(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_file: int) -> None:
        raise OSError

    monkeypatch.setattr("genopact_client.ledger_file.os.fsync", broken)
    with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
        ledger.reserve(*ADDRESS, noised(), rows(1), DAY)
    assert ledger.spent(1) == ()


def test_epsilon_of_known_cases() -> None:
    # mu = 1: delta(epsilon) of Balle and Wang at epsilon 4.3776 is 1e-5
    assert epsilon([noised("1").model_copy(update={"scale": 1 << 20})], "0.00001") == pytest.approx(4.3776, abs=2e-3)
    assert epsilon([SGD, noised()], DELTA) == epsilon([noised(), SGD], DELTA)
    assert epsilon(Counter([SGD, SGD]), DELTA) == epsilon([SGD, SGD], DELTA)
    assert epsilon([noised("0.0001")], DELTA) == math.inf
    costs = [epsilon([noised()] * times, DELTA) for times in range(1, 12)]
    assert all(small < large for small, large in pairwise(costs))


def test_spending_is_shown_for_life_and_for_a_window(ledger: Ledger) -> None:
    ledger.reserve(*ADDRESS, noised("4"), rows(0, 1), DAY)
    ledger.reserve(*ADDRESS, noised(), rows(1, 2), DAY + 40)
    whole, recent = levels(ledger, 5), levels(ledger, 5, ledger.window_start(DAY + 40, WINDOW))
    assert (sorted(whole.values()), list(recent.values())) == ([1, 1, 1], [2])
    shown = [epsilon_of(DELTA, *each) for each in (list(whole), list(recent), list[Level]())]
    assert shown == [
        f"{math.ceil(10 * epsilon(each, DELTA)) / 10:.1f}" for each in ([noised("4"), noised()], [noised()], [])
    ]
    ledger.reserve(*ADDRESS, BARE, rows(3), DAY + 40)
    assert epsilon_of(DELTA, *levels(ledger, 5)) == "unbounded"
