"""The sealed store of genotypes and its batches."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genopact_client.genotypes.sealed import Genotypes
from genopact_ingest.commands.genotypes import export_bed
from genopact_shared.errors import GenopactError
from tests.benchmarks import genotype_batches
from tests.benchmarks.packed import PackedGenotypes
from tests.unit import genotype_rows as naive
from tests.unit.genotype_rows import Matrix, Room

LENGTH, PEOPLE, WIDTH = 43, 12, 16
EVERYBODY = list(range(PEOPLE))


@pytest.fixture
def truth() -> Matrix:
    return naive.genotypes(LENGTH, PEOPLE)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Room]:
    """Three blocks, the last of 11 variants."""
    made = naive.room(tmp_path, LENGTH, PEOPLE, width=WIDTH)
    yield made
    made.store.close()


@pytest.fixture
def room(empty: Room, truth: Matrix) -> Room:
    empty.write(EVERYBODY, truth)
    return empty


def files(room: Room) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in room.path.iterdir()}


def records(room: Room, row: int) -> list[bytes]:
    """What is sealed of a person, part by part."""
    now = room.store.signed
    return [
        path.read_bytes()[row * part.size : (row + 1) * part.size]
        for part, path in zip(now.parts, now.files(room.path, now.generation), strict=True)
    ]


# --- batches


@pytest.mark.parametrize("length", [1, 3, 4, 16, 17, 43, 300])
@pytest.mark.parametrize("width", [4, 16, 65_536])
def test_batches_are_what_was_written(tmp_path: Path, length: int, width: int) -> None:
    made, truth = naive.room(tmp_path, length, 70, width=width), naive.genotypes(length, 70)
    made.write(list(range(70)), truth)
    opened, wanted = made.opened(list(range(70))), np.array([69, 3, 3, 0, 41, *range(40)])
    assert np.array_equal(opened.packed(wanted), naive.packed(truth)[wanted])
    room = np.full((len(wanted) + 2, length), 99, np.int8)
    assert np.array_equal(opened.dosages(wanted, room), truth.T[wanted])
    assert (room[len(wanted) :] == 99).all()
    expected = torch.from_numpy(naive.standardised(truth, made.variants.frequency)[wanted])
    for kind in (torch.float32, torch.bfloat16):
        tensor = torch.full((len(wanted) + 2, length), 99.0, dtype=kind)
        batch = opened.standardised(wanted, tensor)
        assert batch.data_ptr() == tensor.data_ptr()
        assert torch.equal(batch, expected.to(kind))
        assert (tensor[len(wanted) :] == 99).all()


def test_people_stand_in_the_order_they_were_asked_for(room: Room, truth: Matrix) -> None:
    assert np.array_equal(room.dosages([7, 2, 11]), truth.T[[7, 2, 11]])
    assert room.opened([7, 2, 11]).rows.tolist() == [7, 2, 11]


def test_an_empty_batch_is_empty(room: Room) -> None:
    nobody = np.array([], np.int64)
    for opened in (room.opened([]), room.opened([4])):
        assert opened.dosages(nobody, np.empty((0, LENGTH), np.int8)).shape == (0, LENGTH)
        assert opened.standardised(nobody, torch.empty((0, LENGTH))).shape == (0, LENGTH)
        assert opened.packed(nobody).shape == (0, 11)


def test_room_that_does_not_fit_is_refused(room: Room) -> None:
    opened, both = room.opened([1, 2]), np.arange(2)
    for shape in ((1, LENGTH), (2, LENGTH - 1), (2, LENGTH + 1), (2 * LENGTH,)):
        with pytest.raises(ValueError, match="Expected room"):
            opened.dosages(both, np.empty(shape, np.int8))
        with pytest.raises(ValueError, match="Expected room"):
            opened.standardised(both, torch.empty(shape))
    with pytest.raises(KeyError):
        opened.standardised(both, torch.empty((2, LENGTH), dtype=torch.float64))
    with pytest.raises(IndexError):
        opened.packed(np.array([2]))


def test_monomorphic_is_zero_and_an_unknown_frequency_an_error(tmp_path: Path) -> None:
    made = naive.room(tmp_path, 3, 2)
    truth = np.array([[2, 0], [1, 1], [-1, 2]], np.int8)
    for known, number in (([0.0, 1.0, 0.25], 0), ([0.5, np.nan, 0.5], 1)):
        manifest = naive.variants(3, np.array(known))
        with Genotypes.create(tmp_path / str(number), made.keys, manifest, "public") as store:
            one = Room(store, made.keys, manifest)
            one.write([0, 1], truth)
            out = torch.ones((2, 3))
            if number:
                with pytest.raises(GenopactError, match="FREQUENCY_UNKNOWN"):
                    one.opened([0, 1]).standardised(np.arange(2), out)
                assert np.array_equal(one.dosages([0, 1]), truth.T)
            else:
                one.opened([0, 1]).standardised(np.arange(2), out)
                assert out.tolist() == [[0, 0, 0], [0, 0, np.float32(1.5 / np.sqrt(0.375))]]


def test_draws_are_poisson(room: Room) -> None:
    opened, rate = room.opened(EVERYBODY), Fraction(1, 4)
    assert opened.draw(Fraction(1)).tolist() == EVERYBODY
    drawn = [opened.draw(rate) for _ in range(600)]
    counts = np.bincount(np.concatenate(drawn), minlength=PEOPLE)
    assert (abs(counts - 150) < 6 * np.sqrt(600 * 3 / 16)).all()
    assert len({len(each) for each in drawn}) > 3


def test_packed_rows_are_what_the_packed_gradient_takes(room: Room, truth: Matrix) -> None:
    study = PackedGenotypes(room.opened(EVERYBODY).packed(np.arange(PEOPLE)), room.variants.frequency)
    x = naive.standardised(truth, room.variants.frequency)
    assert np.allclose(study.norms, np.sqrt((x**2).sum(axis=1) + 1))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_on_a_device(room: Room, truth: Matrix) -> None:
    expected = torch.from_numpy(naive.standardised(truth, room.variants.frequency))
    for kind in (torch.float32, torch.bfloat16):
        out = torch.empty((PEOPLE, LENGTH), dtype=kind, device="cuda")
        assert torch.equal(room.opened(EVERYBODY).standardised(np.arange(PEOPLE), out).cpu(), expected.to(kind))


# --- imports


@pytest.mark.parametrize("budget", [0, 400, 1 << 30])
def test_variants_come_in_any_order_and_memory_is_bounded(empty: Room, truth: Matrix, budget: int) -> None:
    rows, order = np.random.default_rng(1).permutation(PEOPLE), np.random.default_rng(2).permutation(LENGTH)
    writer = empty.store.writer(rows, "", budget)
    for some in np.array_split(order, 9):
        writer.add(some, truth[np.ix_(some, rows)])
        assert len(list(empty.path.glob("calls.*"))) <= 3
    writer.commit()
    assert np.array_equal(empty.dosages(EVERYBODY), truth.T)
    assert len(list(empty.path.glob("calls.*"))) == 3


def test_all_planes(tmp_path: Path, truth: Matrix) -> None:
    made = naive.room(tmp_path, LENGTH, PEOPLE, width=WIDTH, planes=("calls", "expected", "haplotypes"))
    chance = np.random.default_rng(3)
    expected = chance.integers(0, 256, truth.shape, dtype=np.uint8)
    haplotypes = chance.integers(0, 4, truth.shape, dtype=np.uint8)
    writer = made.store.writer(np.array(EVERYBODY), "", 300)
    for first in range(0, LENGTH, 10):
        some = np.arange(first, min(first + 10, LENGTH))
        late = first >= 30
        writer.add(some, truth[some], None if late else expected[some], None if late else haplotypes[some])
    writer.commit()
    opened = made.opened(EVERYBODY)
    expected[30:], haplotypes[30:] = 255, 0
    assert np.array_equal(opened.packed(np.arange(PEOPLE)), naive.packed(truth))
    assert np.array_equal(opened.packed(np.arange(PEOPLE), "expected"), expected.T)
    bits = opened.packed(np.arange(PEOPLE), "haplotypes")
    assert all(((bits[:, v // 4] >> (2 * (v % 4))) & 3).tolist() == haplotypes[v].tolist() for v in range(LENGTH))
    assert made.store.verify() == {"people": PEOPLE, "records": 9 * PEOPLE}


def test_what_no_source_had_is_missing(empty: Room, truth: Matrix) -> None:
    writer = empty.store.writer(np.array([1, 2]), "")
    writer.add(np.array([17, 4]), truth[[17, 4]][:, :2])
    writer.commit()
    expected = np.full((LENGTH, 2), -1, np.int8)
    expected[[17, 4]] = truth[[17, 4]][:, :2]
    assert np.array_equal(empty.dosages([1, 2]), expected.T)
    assert np.array_equal(empty.opened([1, 2]).packed(np.arange(2)), naive.packed(expected))


def test_others_keep_their_records_and_new_people_are_appended(room: Room, truth: Matrix) -> None:
    before, more = [records(room, row) for row in EVERYBODY], naive.genotypes(LENGTH, 3, seed=5)
    room.keys.new_many(8)
    room.write([19, 4, 13], more)
    after = [records(room, row) for row in range(20)]
    assert all(after[row] == before[row] for row in EVERYBODY if row != 4)
    assert after[4] != before[4]
    assert np.array_equal(room.dosages([19, 4, 13]), more.T)
    assert np.array_equal(room.dosages([3, 5]), truth.T[[3, 5]])
    assert room.store.rows().tolist() == [*EVERYBODY, 13, 19]
    with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
        room.opened([14])
    room.write([4], more[:, :1])  # version 2 of 13 and 19 still counts
    assert np.array_equal(room.again().dosages([13, 4, 0]), np.array([more[:, 2], more[:, 0], truth[:, 0]]))


def test_generations_that_have_nobody_left_keep_what_is_needed(room: Room, truth: Matrix) -> None:
    """The newest generation's people are all imported again, while older ones stay; a crash in between harms nobody."""
    room.write([1], truth[:, :1])
    writer = room.store.writer(np.array([1]), "next")
    writer.add(np.arange(LENGTH), truth[:, 5:6])
    writer.finish("source")
    again = room.again()
    assert np.array_equal(again.dosages([0, 1]), truth.T[[0, 0]])
    again.store.writer(np.array([1]), "next").commit()
    assert np.array_equal(again.again().dosages([0, 1]), truth.T[[0, 5]])


def test_importing_again_changes_every_ciphertext_and_key(room: Room, truth: Matrix) -> None:
    before, old = [records(room, row) for row in EVERYBODY], room.store.signed
    room.write(EVERYBODY, truth)
    for row in EVERYBODY:
        for first, second in zip(before[row], records(room, row), strict=True):
            same = np.frombuffer(first, np.uint8) == np.frombuffer(second, np.uint8)
            assert same.sum() <= 4  # by chance
    assert np.array_equal(room.dosages(EVERYBODY), truth.T)
    assert set(room.store.signed.seals) == {"1", "2"}
    assert not {*room.store.signed.seals["2"]} & {*old.seals["1"]}
    room.write(EVERYBODY, truth)
    assert set(room.store.signed.seals) == {"2", "3"}


@pytest.mark.parametrize(
    ("variants", "values"),
    [
        ([LENGTH], np.zeros((1, PEOPLE), np.int8)),
        ([-1], np.zeros((1, PEOPLE), np.int8)),
        ([0], np.zeros((2, PEOPLE), np.int8)),
        ([0], np.zeros((1, PEOPLE + 1), np.int8)),
        ([0], np.zeros((1, PEOPLE), np.int16)),
        ([0], np.full((1, PEOPLE), 3, np.int8)),
        ([0], np.full((1, PEOPLE), -2, np.int8)),
    ],
)
def test_other_shapes_types_and_values_are_refused(empty: Room, variants: list[int], values: Any) -> None:
    with pytest.raises(ValueError, match="Expected"):
        empty.store.writer(np.array(EVERYBODY), "").add(np.array(variants), values)
    assert empty.again().store.rows().size == 0


def test_a_variant_counts_once(empty: Room, truth: Matrix) -> None:
    with pytest.raises(GenopactError, match="VARIANT_TWICE"):
        empty.store.writer(np.array(EVERYBODY), "").add(np.array([3, 3]), truth[:2])
    writer = empty.store.writer(np.array(EVERYBODY), "")
    writer.add(np.array([3, 40]), truth[:2])
    with pytest.raises(GenopactError, match="VARIANT_TWICE"):
        writer.add(np.array([5, 40]), truth[:2])
    writer = empty.store.writer(np.array(EVERYBODY), "")
    writer.add(np.array([3, 40]), truth[:2])
    writer.finish("one")
    with pytest.raises(GenopactError, match="VARIANT_TWICE"):
        empty.again().store.writer(np.array(EVERYBODY), "").add(np.array([40]), truth[:1])


def test_nobody_somebody_twice_and_the_erased_are_refused(room: Room) -> None:
    for rows in ([], [1, 1]):
        with pytest.raises(ValueError, match="Expected people"):
            room.store.writer(np.array(rows, np.int64), "")
    room.keys.erase([2])
    for rows in ([2], [PEOPLE]):
        with pytest.raises(GenopactError, match="KEY_ERASED"):
            room.store.writer(np.array(rows), "")


def test_the_manifest_states_the_facts(empty: Room, truth: Matrix) -> None:
    writer = empty.store.writer(np.array([4, 5]), "plan")
    writer.add(np.arange(20), truth[:20, :2])
    writer.finish("ab" * 32)
    writer.commit({"software": "genopact"})
    facts = empty.store.manifest()
    told = {"generation": 1, "rows": 2, "variants": 20, "sources": ["ab" * 32], "software": "genopact"}
    assert facts["provenance"] == [told]
    assert {name: facts[name] for name in ("kind", "variants", "length", "rows", "generation", "planes")} == {
        "kind": "synthetic", "variants": empty.variants.digest, "length": LENGTH, "rows": 2, "generation": 1,
        "planes": ["calls"],
    }  # fmt: skip


def test_another_variant_manifest_is_refused(room: Room) -> None:
    with pytest.raises(GenopactError, match="MANIFEST_INVALID"):
        room.store.open(np.array([0]), naive.variants(LENGTH, np.full(LENGTH, 0.5)), lambda: True)


def test_one_process_at_a_time_and_no_second_store(room: Room, tmp_path: Path) -> None:
    with pytest.raises(GenopactError, match="STORE_LOCKED"):
        Genotypes(room.path, room.keys)
    with pytest.raises(GenopactError, match="STORE_EXISTS"):
        Genotypes.create(room.path, room.keys, room.variants, "public")
    with pytest.raises(GenopactError, match="STORE_MISSING"):
        Genotypes(tmp_path / "nowhere", room.keys)


def test_files_are_readable_by_their_owner_alone(room: Room) -> None:
    assert {path.stat().st_mode & 0o077 for path in room.path.iterdir()} == {0}


# --- withdrawal and erasure


def test_a_refusal_of_the_guard_closes_the_rows_for_good(room: Room) -> None:
    holds = True
    opened = room.store.open(np.array([1, 2]), room.variants, lambda: holds)
    assert opened.packed(np.arange(2)).shape == (2, 11)
    holds = False
    with pytest.raises(GenopactError, match="ROWS_CLOSED"):
        opened.standardised(np.arange(2), torch.empty((2, LENGTH)))
    holds = True
    for indices in (np.arange(2), np.array([], np.int64)):
        with pytest.raises(GenopactError, match="ROWS_CLOSED"):
            opened.packed(indices)


def test_an_erasure_closes_the_rows_before_the_next_batch(room: Room, truth: Matrix) -> None:
    opened, others = room.opened([1, 2]), room.opened([3, 4])
    room.keys.new_many(1)  # a key file that was written is no reason
    assert opened.packed(np.arange(2)).shape == (2, 11)
    room.keys.erase([2])
    for _ in range(2):
        with pytest.raises(GenopactError, match="KEY_ERASED"):
            opened.packed(np.array([0]))
    assert np.array_equal(others.packed(np.arange(2)), naive.packed(truth)[[3, 4]])
    with pytest.raises(GenopactError, match="KEY_ERASED"):
        room.opened([1, 2])
    assert room.store.rows().tolist() == [row for row in EVERYBODY if row != 2]
    assert room.store.verify() == {"people": PEOPLE - 1, "records": 3 * (PEOPLE - 1)}


def test_erase_zeroes_the_person_in_every_part(room: Room, truth: Matrix) -> None:
    before = [records(room, row) for row in EVERYBODY]
    room.keys.erase([5])
    room.store.erase(5)
    assert not any(map(any, records(room, 5)))
    assert all(records(room, row) == before[row] for row in EVERYBODY if row != 5)
    with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
        room.opened([5])
    with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
        room.store.erase(99)
    room.write([1], truth[:, :1])
    assert not any(map(any, records(room, 5)))


def test_a_crash_in_the_middle_of_an_erasure_is_finished(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.keys.erase([5])
    monkeypatch.setattr(room.store, "_tidy", lambda: None)
    room.store.erase(5)
    assert any(map(any, records(room, 5)))
    assert not any(map(any, records(room.again(), 5)))


def test_an_erasure_during_an_import_ends_the_import(room: Room, truth: Matrix) -> None:
    writer = room.store.writer(np.array([1, 2]), "")
    writer.add(np.arange(LENGTH), truth[:, :2])
    room.keys.erase([5])
    room.store.erase(5)
    with pytest.raises(GenopactError, match="STORE_INVALID"):
        writer.commit()
    assert not any(map(any, records(room.again(), 5)))


def test_an_unfinished_import_of_everybody_leaves_records_of_every_age(empty: Room, truth: Matrix) -> None:
    """Records of an import before the last one open by its seal until the new import counts."""
    people = list(range(truth.shape[1]))
    empty.write(people, truth, "first")
    again = truth[:, :1].copy()
    again[0] = 1
    empty.write([0], again, "second")
    writer = empty.store.writer(np.array(people), "third")
    writer.add(np.arange(2), truth[:2])
    writer.finish("one")
    expected = truth.T.copy()
    expected[0, 0] = 1
    assert np.array_equal(empty.again().dosages(people), expected)


def test_an_erasure_takes_what_an_unfinished_import_has_sealed(room: Room, truth: Matrix) -> None:
    before = {path.name for path in room.store.path.iterdir()}
    writer = room.store.writer(np.array([1, 2]), "plan")
    writer.add(np.arange(LENGTH), truth[:, :2])
    writer.finish("source")
    assert {path.name for path in room.store.path.iterdir()} > before
    room.keys.erase([1])
    room.store.erase(1)
    assert {path.name for path in room.store.path.iterdir()} == before
    assert room.store.writer(np.array([2]), "plan").finished == ()


def test_what_a_source_had_twice_is_missing_for_everybody(room: Room, truth: Matrix) -> None:
    writer = room.store.writer(np.array([1, 2]), "")
    writer.add(np.arange(LENGTH), truth[:, :2])
    writer.clear(np.array([0, 3]))
    writer.commit()
    found = room.opened([1, 2]).dosages(np.arange(2), np.empty((2, LENGTH), np.int8))
    expected = truth[:, :2].T.copy()
    expected[:, [0, 3]] = -1
    assert np.array_equal(found, expected)


# --- crashes


class PowerCut(BaseException):
    """Nothing catches it."""


CALLS = ("open", "fsync", "replace", "copy_file_range", "urandom", "unlink", "pwrite")


def cut_after(monkeypatch: pytest.MonkeyPatch, count: int) -> Callable[[], int]:
    """From the call with that number on, every one fails; returns how many there were."""
    made = 0

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            if made > count:
                raise PowerCut
            return function(*given, **named)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, wrapped(getattr(os, name)))
    return lambda: made


def import_again(room: Room, truth: Matrix) -> None:
    """A second import, of old and new people, in two sources, with too little memory."""
    writer = room.store.writer(np.array([14, 3, 4]), "plan", 200)
    for source, some in (("one", np.arange(20)), ("two", np.arange(20, LENGTH))):
        if source not in writer.finished:
            for part in np.array_split(some, 3):
                writer.add(part, truth[part][:, :3])
            writer.finish(source)
    writer.commit()


def test_a_crash_at_any_step_of_an_import_leaves_the_store_as_it_was(
    room: Room, truth: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.keys.new_many(3)
    room.store.close()
    good, more = tmp_path / "good", naive.genotypes(LENGTH, 3, seed=9)
    shutil.copytree(room.path, good)
    count, ended, resumed, new = 0, False, 0, truth.T.copy()
    new[[3, 4]] = more.T[[1, 2]]
    while not ended:
        shutil.rmtree(room.path)
        shutil.copytree(good, room.path)
        one = room._replace(store=Genotypes(room.path, room.keys))
        with monkeypatch.context() as patched:
            calls = cut_after(patched, count)
            try:
                import_again(one, more)
                ended = calls() <= count
            except PowerCut:
                pass
        one = one.again()
        done = one.store.signed.generation == 2
        assert np.array_equal(one.dosages(EVERYBODY), new if done else truth.T), count
        resumed += bool(one.store.signed.sources)
        if not done:
            import_again(one, more)
        assert np.array_equal(one.dosages(EVERYBODY), new), count
        assert np.array_equal(one.dosages([14]), more.T[:1]), count
        assert len(files(one)) == 5  # three parts, the manifest, the lock
        one.store.close()
        count += 1
    assert count > 60
    assert resumed > 20


def test_an_import_goes_on_after_the_last_finished_source(empty: Room, truth: Matrix) -> None:
    writer = empty.store.writer(np.array(EVERYBODY), "plan")
    writer.add(np.arange(18), truth[:18])
    writer.finish("one")
    writer.add(np.arange(18, 30), truth[18:30])  # lost
    again = empty.again()
    assert again.store.rows().size == 0
    with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
        again.opened([0])
    second = again.store.writer(np.array(EVERYBODY[::-1]), "plan")
    assert second.finished == ("one",)
    second.add(np.arange(18, LENGTH), truth[18:, ::-1])
    second.commit()
    assert np.array_equal(again.dosages(EVERYBODY), truth.T)
    assert again.store.signed.provenance[0]["variants"] == LENGTH
    assert again.store.writer(np.array(EVERYBODY), "plan").finished == ()


@pytest.mark.parametrize("change", ["plan", "people", "erased", "damaged", "cut", "gone"])
def test_an_import_that_cannot_go_on_starts_over(empty: Room, truth: Matrix, change: str) -> None:
    people = np.array(EVERYBODY[1:])
    empty.write([0], truth[:, :1])
    writer = empty.store.writer(people, "plan")
    writer.add(np.arange(18), truth[:18, 1:])
    writer.finish("one")
    part = next(path for path in empty.path.glob("calls.1.*") if path.name[8:] in empty.store.signed.seals["2"])
    match change:
        case "erased":
            empty.keys.erase([0])
            empty.store.erase(0)
        case "damaged":
            data = bytearray(part.read_bytes())
            data[-20] ^= 1
            part.write_bytes(data)
        case "cut":
            part.write_bytes(part.read_bytes()[:-1])
        case "gone":
            part.unlink()
        case _:
            pass
    again, truth = empty.again(), truth[:, 1:]
    if change == "people":
        people, truth = people[1:], truth[:, 1:]
    second = again.store.writer(people, "other" if change == "plan" else "plan")
    assert second.finished == ()
    second.add(np.arange(LENGTH), truth)
    second.commit()
    assert np.array_equal(again.again().dosages(people.tolist()), truth.T)


# --- export


@pytest.mark.parametrize("width", [16, 65_536])
def test_export_is_read_by_others(tmp_path: Path, truth: Matrix, width: int) -> None:
    from bed_reader import open_bed

    made, rows = naive.room(tmp_path, LENGTH, PEOPLE, width=width), [7, 0, 11, 4, 5]
    made.write(EVERYBODY, truth)
    export_bed(made.opened(rows), tmp_path / "out")
    expected = np.where(truth < 0, np.nan, truth.astype(np.float64)).T[rows]
    with open_bed(tmp_path / "out.bed") as bed:
        assert np.array_equal(bed.read(dtype="float64"), expected, equal_nan=True)
        assert bed.iid.tolist() == [f"row{row}" for row in rows]
        effects = [
            made.variants.ref[v] if made.variants.effect[v] == "ref" else made.variants.alt[v] for v in range(LENGTH)
        ]
        assert bed.allele_1.tolist() == effects
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("out.*")} == {0}
    for program, flags in (("plink1.9", ["--keep-allele-order", "--recode", "A"]), ("plink2", ["--export", "A"])):
        if not shutil.which(program):
            continue
        arguments = [program, "--bfile", str(tmp_path / "out"), *flags, "--out", str(tmp_path / program)]
        subprocess.run(arguments, check=True, capture_output=True)
        header, *lines = [line.split() for line in (tmp_path / f"{program}.raw").read_text().splitlines()]
        counted = [name.rsplit("_", 1)[1] for name in header[6:]]
        copies = np.array([[np.nan if cell == "NA" else float(cell) for cell in line[6:]] for line in lines])
        flipped = np.array([letter != effect for letter, effect in zip(counted, effects, strict=True)])
        assert np.array_equal(np.where(flipped, 2 - copies, copies), expected, equal_nan=True)
    with pytest.raises(FileExistsError):
        export_bed(made.opened(rows), tmp_path / "out")


@pytest.mark.skipif(not shutil.which("plink2"), reason="plink2 is not installed")
def test_the_benchmark_runs() -> None:
    rows = genotype_batches.batches(people=90, length=103, batch=20, rounds=1)
    assert [row["row"] for row in rows] == ["genotypes.3.memmap", "genotypes.3.pgenlib", "genotypes.4"]
    assert all(row["value"] > 0 for row in rows)
    size = genotype_batches.grown(60, 1000, budget=0)
    assert size["disk"] > 60 * (250 + 28)
