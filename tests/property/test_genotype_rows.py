"""Packed rows and the store of genotypes for arbitrary contents."""

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from genopact_client.genotypes import loops
from genopact_client.genotypes.sealed import Genotypes
from genopact_shared.compiled import compiled
from genopact_shared.errors import GenopactError
from tests.unit import genotype_rows as naive
from tests.unit.genotype_rows import Matrix, Room

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
matrices = st.tuples(st.integers(1, 40), st.integers(1, 300)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(-1, 2), fill=st.integers(-1, 2))
)


@few
@given(matrices, st.data())
def test_packing_is_the_naive_one_in_any_order(dosages: Matrix, data: st.DataObject) -> None:
    length, people = dosages.shape
    packed = np.zeros((people, -(-length // 4)), np.uint8)
    order = np.array(data.draw(st.permutations(range(length))))
    for some in np.array_split(order, data.draw(st.integers(1, 5))):
        picks = np.argsort(some)
        assert not compiled(loops.pack)(some[picks], picks, dosages[some].view(np.uint8), packed, 0)
    assert np.array_equal(packed, naive.packed(dosages))
    first, copies = data.draw(st.integers(0, 3)), np.full((people, length + 5), 99, np.int8)
    compiled(loops.unpack)(packed, copies[:, : first + length].copy(), first)
    room = np.full((people, first + length), 99, np.int8)
    compiled(loops.unpack)(packed, room, first)
    assert np.array_equal(room[:, first:], dosages.T)
    assert (room[:, :first] == 99).all()


@few
@given(arrays(np.int8, (5, 3), elements=st.integers(-128, 127)), st.sampled_from([0, 1, 2]))
def test_packing_tells_other_values(values: Matrix, plane: int) -> None:
    given_, picks = values.view(np.uint8), np.arange(5)
    allowed = {0: (values >= -1) & (values <= 2), 1: values == values, 2: (values >= 0) & (values <= 3)}[plane]
    packed = np.zeros((3, 5), np.uint8)
    assert bool(compiled(loops.pack)(picks, picks, given_, packed, plane)) == (not allowed.all())


@few
@given(matrices, arrays(np.float64, 40, elements=st.floats(0, 1).map(lambda f: round(f, 6))))
def test_standardising_is_the_naive_one(dosages: Matrix, shares: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as name:
        made = naive.room(Path(name), 1, dosages.shape[1])
        manifest = naive.variants(len(dosages), shares[: len(dosages)])
        with Genotypes.create(Path(name) / "s", made.keys, manifest, "public", width=8) as store:
            one = Room(store, made.keys, manifest)
            one.write(list(range(dosages.shape[1])), dosages)
            everybody = np.arange(dosages.shape[1])
            out = one.opened(everybody.tolist()).standardised(everybody, torch.empty(dosages.T.shape))
            expected = naive.standardised(dosages, manifest.frequency).astype(np.float32)
            assert np.array_equal(out.numpy(), expected)
        made.store.close()


class StoreMachine(RuleBasedStateMachine):
    """Imports, erasures, crashes and openings, against a dictionary."""

    LENGTH, PEOPLE = 11, 6

    def __init__(self) -> None:
        super().__init__()
        self.folder = contextlib.ExitStack()
        home = Path(self.folder.enter_context(tempfile.TemporaryDirectory()))
        self.room = naive.room(home, self.LENGTH, self.PEOPLE, width=4)
        self.people: dict[int, list[int]] = {}
        self.erased: set[int] = set()

    @rule(
        rows=st.sets(st.integers(0, PEOPLE - 1), min_size=1),
        seed=st.integers(0, 99),
        budget=st.sampled_from([0, 10**6]),
    )
    def write(self, rows: set[int], seed: int, budget: int) -> None:
        wanted, dosages = list(rows), naive.genotypes(self.LENGTH, len(rows), seed)
        if rows & self.erased:
            with pytest.raises(GenopactError, match="KEY_ERASED"):
                self.room.store.writer(np.array(wanted), "", budget)
            return
        writer = self.room.store.writer(np.array(wanted), str(seed), budget)
        if "one" not in writer.finished:
            writer.add(np.array([9, 2, 5]), dosages[[9, 2, 5]])
            writer.finish("one")
        rest = np.array([0, 1, 3, 4, 6, 7, 8, 10])
        writer.add(rest, dosages[rest])
        writer.commit()
        self.people |= dict(zip(wanted, dosages.T.tolist(), strict=True))

    @rule(rows=st.sets(st.integers(0, PEOPLE - 1), min_size=1), seed=st.integers(0, 99))
    def begin(self, rows: set[int], seed: int) -> None:
        if not rows & self.erased:
            writer = self.room.store.writer(np.array(list(rows)), str(seed))
            if "one" not in writer.finished:
                writer.add(np.array([9, 2, 5]), naive.genotypes(self.LENGTH, len(rows), seed)[[9, 2, 5]])
                writer.finish("one")

    @rule(row=st.integers(0, PEOPLE - 1))
    def erase(self, row: int) -> None:
        self.room.keys.erase([row])
        self.erased.add(row)
        if self.people.pop(row, None):
            self.room.store.erase(row)

    @rule()
    def open_again(self) -> None:
        self.room = self.room.again()

    @invariant()
    def holds(self) -> None:
        rows = sorted(self.people)
        assert self.room.store.rows().tolist() == rows
        assert self.room.dosages(rows).tolist() == [self.people[row] for row in rows]
        assert self.room.store.verify()["people"] == len(rows)

    def teardown(self) -> None:
        self.room.store.close()
        self.folder.close()


StoreMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=10, deadline=None)
TestStoreMachine = StoreMachine.TestCase
