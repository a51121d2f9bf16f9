"""The frozen bytes of a design, and the frozen bits of what `risk` computes from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_shared import canonical, wire
from tests.golden import risk_bits
from tests.golden.risk_bits import FOLDER

DATA = (FOLDER / "tiny.design").read_bytes()
FROZEN: dict[str, Any] = json.loads((FOLDER / "bits.json").read_text("utf-8"))


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    return risk_bits.bits(risk_bits.plan(tmp_path, DATA))


def test_the_design_s_bytes_are_those_of_its_arrays() -> None:
    assert wire.pack(risk_bits.arrays()) == DATA
    assert canonical.digest(DATA).startswith("65c864f129b1849e")


@pytest.mark.parametrize("what", list(FROZEN))
def test_the_bits_are_the_frozen_ones(found: dict[str, Any], what: str) -> None:
    assert found[what] == FROZEN[what]
    assert list(found) == list(FROZEN)


def test_the_frozen_bits_say_something() -> None:
    """Both ancestries, rows of everybody who trains and of nobody else, every model another one."""
    assert set(FROZEN["ancestry"]) == {0, 1}
    training = [0, 1, 4, 5]
    for name in ("head-1", "moments", "effects"):
        rows = np.array([[float.fromhex(value) for value in row] for row in FROZEN[name]])
        assert np.flatnonzero(rows.any(axis=1)).tolist() == training
    assert [row for row, _ in FROZEN["metrics"]] == [2]
    models = [json.dumps(model) for model in FROZEN["models"]]
    assert len(set(models)) == len(models) == 11
    assert all(np.isfinite(float.fromhex(value)) for row in FROZEN["models"][9] for value in row)
