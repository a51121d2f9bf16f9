"""Harmonisers for tests of readers: no manifest, every record is wanted."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.source import Match, Record, Source


class Every:
    """Each record is the next manifest row, counted for allele `index`; a record without it is not."""

    def __init__(self, index: int = 1) -> None:
        self.index = index
        self.seen: list[Record] = []

    def match(self, records: Sequence[Record]) -> list[Match]:
        first = len(self.seen)
        self.seen += records
        return [
            Match(at, first + at, self.index) for at, record in enumerate(records) if self.index <= len(record.alts)
        ]


class Sites:
    """The records at some positions, the manifest row being the place in the list."""

    def __init__(self, positions: Sequence[int], index: int = 1) -> None:
        self.rows = {position: row for row, position in enumerate(positions)}
        self.index = index

    def match(self, records: Sequence[Record]) -> list[Match]:
        return [
            Match(at, self.rows[record.pos], self.index) for at, record in enumerate(records) if record.pos in self.rows
        ]


def dosages(source: Source, harmoniser: Every) -> NDArray[np.int8]:
    """(variants, n) of all batches."""
    found = list(source.batches(harmoniser))
    if not found:
        return np.zeros((0, len(source.samples)), np.int8)
    assert all(called.rows.dtype == np.int64 and called.dosages.dtype == np.int8 for called in found)
    return np.concatenate([called.dosages for called in found])
