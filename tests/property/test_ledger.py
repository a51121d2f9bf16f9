"""The ledger against a dictionary of lists, through settling, reopening and torn writes."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from genopact_client.ledger import Ledger
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.accounting import Fact
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected

KEY = bytes(32)
FACTS: list[Fact] = [
    NoisedSum(noise_multiplier="8", clip="1", scale=4096, dims=10, honest_minimum=2),
    NoisedSum(noise_multiplier="9", clip="1", scale=4096, dims=10, honest_minimum=2),
    SampledSgd(noise_multiplier="2", clip="1", sampling_rate="0.05", steps=10),
    Unprotected(dims=3, scale=1),
]
ROWS = 20


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger"
        self.ledger = Ledger.create(self.path, KEY)
        self.naive: dict[int, list[tuple[int, Fact]]] = {row: [] for row in range(ROWS)}
        self.day = 0
        self.open: set[int] = set()
        self.heads = [self.ledger.head]

    @rule(
        fact=st.sampled_from(FACTS),
        rows=st.sets(st.integers(0, ROWS - 1)),
        attempt=st.integers(0, 3),
        day=st.integers(0, 9),
    )
    def reserve(self, fact: Fact, rows: set[int], attempt: int, day: int) -> None:
        self.day = max(self.day, day)
        sequence = self.ledger.reserve("study", "run", 1, attempt, fact, np.array(sorted(rows), np.int64), day)
        assert sequence not in self.open
        self.open.add(sequence)
        for row in rows:
            self.naive[row].append((self.day, fact))
        self.heads.append(self.ledger.head)

    @rule(sequence=st.integers(0, 30))
    def settle(self, sequence: int) -> None:
        try:
            self.ledger.settle(sequence)
        except GenopactError as error:
            assert (error.code, sequence in self.open) == ("LEDGER_NO_RESERVATION", False)  # noqa: PT017
        else:
            self.open.remove(sequence)
            self.heads.append(self.ledger.head)

    @rule(torn=st.integers(0, 200))
    def reopen(self, torn: int) -> None:
        """Close, leave part of a frame that was never acknowledged, open."""
        whole = self.path.read_bytes()
        self.ledger.reserve("study", "run", 1, 0, FACTS[0], np.arange(ROWS, dtype=np.int64), self.day)
        self.ledger.close()
        data = self.path.read_bytes()
        kept = min(len(whole) + torn, len(data) - 1)
        self.path.write_bytes(data[:kept])
        self.ledger = Ledger(self.path, KEY)
        assert self.ledger.cut == kept - len(whole)
        assert self.path.read_bytes() == whole

    @invariant()
    def same(self) -> None:
        for since in (0, 5):
            for row, facts in self.naive.items():
                kept = Counter(fact for day, fact in facts if day >= since)
                assert Counter(self.ledger.spent(row, since)) == kept
        assert self.ledger.open_reservations().keys() == self.open
        assert self.ledger.head == self.heads[-1]
        assert len(set(self.heads)) == len(self.heads)

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
