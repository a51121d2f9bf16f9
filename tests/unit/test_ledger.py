"""The privacy ledger: what is charged, what is affordable, and what the fast accountant says."""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genopact_client.ledger import Ledger
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.accounting import Fact, epsilon, epsilon_fast, skellam_penalty
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected

KEY = bytes(range(32))
DELTA = "0.000001"
ADDRESS = ("study", "run", 0, 0)


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
    first = ledger.reserve("study", "run", 3, 1, noised(), rows(0, 2))
    second = ledger.reserve(*ADDRESS, SGD, rows(2, 9))
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
    sequence = ledger.reserve(*ADDRESS, noised(), rows(1))
    heads.append(ledger.head)
    ledger.settle(sequence)
    heads.append(ledger.head)
    other = Ledger.create(tmp_path / "other", KEY)
    assert len({*heads, other.head}) == 4
    other.close()


def test_only_an_open_reservation_is_settled_and_once(ledger: Ledger) -> None:
    sequence = ledger.reserve(*ADDRESS, noised(), rows(1))
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
        ledger.reserve(*ADDRESS, noised(), bad)
    assert ledger.head == head


def test_nobody_can_be_charged(ledger: Ledger) -> None:
    ledger.settle(ledger.reserve(*ADDRESS, noised(), rows()))
    assert ledger.spent(0) == ()


def test_affordable_is_the_composed_epsilon_of_each_row(ledger: Ledger) -> None:
    ledger.reserve(*ADDRESS, noised(), rows(0, 1, 2))
    ledger.reserve(*ADDRESS, noised(), rows(1, 2))
    ledger.reserve(*ADDRESS, noised("5"), rows(2, 3))
    ledger.reserve(*ADDRESS, BARE, rows(4))
    asked = rows(4, 3, 2, 1, 0, 77)
    naive = [epsilon_fast([*ledger.spent(int(row)), noised("6")], DELTA) for row in asked]
    assert naive[0] == math.inf
    for cap in sorted({0, *(math.ceil(1000 * cost) + step for cost in naive[1:] for step in (-1, 0))}):
        expected = [math.ceil(1000 * cost) <= cap if cost < math.inf else False for cost in naive]
        assert list(ledger.affordable(asked, noised("6"), cap, DELTA)) == expected


def test_a_person_s_own_cap(ledger: Ledger) -> None:
    cost = math.ceil(1000 * epsilon_fast([noised()], DELTA))
    own = np.array([cost, cost - 1, 0], np.int64)
    assert list(ledger.affordable(rows(0, 1, 2), noised(), own, DELTA)) == [True, False, False]
    assert list(ledger.affordable(rows(), noised(), 10**6, DELTA)) == []


@pytest.mark.parametrize("fact", [BARE, noised("0"), noised("0.0")])
def test_nobody_can_afford_what_has_no_noise(ledger: Ledger, fact: Fact) -> None:
    assert not ledger.affordable(rows(0, 1), fact, np.iinfo(np.int64).max, DELTA).any()


def test_it_is_never_started_twice_or_silently(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(GenopactError, match="LEDGER_EXISTS"):
        Ledger.create(tmp_path / "ledger", KEY)
    with pytest.raises(GenopactError, match="LEDGER_MISSING"):
        Ledger(tmp_path / "absent", KEY)
    assert not (tmp_path / "absent").exists()


def test_a_failed_write_closes_the_ledger(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ledger.reserve(*ADDRESS, noised(), rows(0))

    def full(_file: int, data: bytes, _at: int) -> int:
        return len(data) // 2

    with monkeypatch.context() as patch:
        patch.setattr("genopact_client.ledger_file.os.pwrite", full)
        with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
            ledger.reserve(*ADDRESS, noised(), rows(1))
    with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
        ledger.reserve(*ADDRESS, noised(), rows(1))
    again = Ledger(tmp_path / "ledger", KEY)
    assert (again.spent(0), again.spent(1)) == ((noised(),), ())
    again.close()


def test_what_could_not_be_synced_is_not_acknowledged(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_file: int) -> None:
        raise OSError

    monkeypatch.setattr("genopact_client.ledger_file.os.fsync", broken)
    with pytest.raises(GenopactError, match="LEDGER_BROKEN"):
        ledger.reserve(*ADDRESS, noised(), rows(1))
    assert ledger.spent(1) == ()


@pytest.mark.parametrize("count", [1, 7, 60])
def test_the_fast_epsilon_is_that_of_loss_distributions(count: int) -> None:
    facts = [noised("9"), *[noised("12")] * (count - 1)]
    slow = epsilon(facts, DELTA)
    assert epsilon_fast(facts, DELTA) <= slow
    assert epsilon_fast(facts, DELTA) == pytest.approx(slow, rel=0.01)
    assert epsilon_fast(Counter(facts), DELTA) == epsilon_fast(facts, DELTA)


def test_the_fast_epsilon_of_known_cases() -> None:
    # mu = 1: delta(epsilon) of Balle and Wang at epsilon 4.3776 is 1e-5
    one = epsilon_fast([noised("1")], "0.00001") - skellam_penalty(noised("1"))
    assert one == pytest.approx(4.3776, abs=2e-3)
    assert epsilon_fast([], DELTA) == 0
    assert epsilon_fast([SGD, noised()], DELTA) == pytest.approx(epsilon([SGD, noised()], DELTA))
    assert epsilon_fast([SGD, noised()], DELTA) == epsilon_fast([noised(), SGD], DELTA)
    assert epsilon_fast([noised("0.0001")], DELTA) == math.inf
    costs = [epsilon_fast([noised()] * times, DELTA) for times in range(1, 12)]
    assert all(small < large for small, large in pairwise(costs))
