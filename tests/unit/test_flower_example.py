"""The pattern of Flower's Opacus example, a new engine each round, against the facts of the ledger."""

from pathlib import Path

import numpy as np
import pytest

from genopact_client.ledger import Ledger
from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import SampledSgd
from tests.benchmarks.flower_example import BATCH, DELTA, composed, train

ROUNDS, ROWS = 6, 160
pytestmark = pytest.mark.filterwarnings("ignore")  # Opacus' own


def test_an_engine_a_round_reports_one_round_and_the_ledger_all(tmp_path: Path) -> None:
    reported, history = train(1.5, ROUNDS, ROWS)
    assert history == [(1.5, BATCH / ROWS, ROWS // BATCH)] * ROUNDS
    assert max(reported) == min(reported)
    ledger = Ledger.create(tmp_path / "ledger", bytes(32))
    z, rate, steps = history[0]
    fact = SampledSgd(noise_multiplier=str(z), clip="1", sampling_rate=str(rate), steps=steps)
    for number in range(ROUNDS):
        ledger.reserve("study", "run", number, 0, fact, np.zeros(1, np.int64), 20_000)
    spent = accounting.epsilon(ledger.spent(0), DELTA)
    ledger.close()
    _, second = composed(history)
    assert spent == pytest.approx(second, rel=0.02)
    assert spent > 2 * reported[-1]
    assert accounting.epsilon([fact], DELTA) == pytest.approx(reported[-1], abs=0.011)
