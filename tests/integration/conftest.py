"""Tests of whole rooms together; a consortium without a network."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import hospital


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Callable[..., hospital.Consortium]]:
    made: list[hospital.Consortium] = []

    def make(**changes: Any) -> hospital.Consortium:
        made.append(hospital.consortium(tmp_path / str(len(made)), **changes))
        return made[-1]

    yield make
    for each in made:
        each.close()
