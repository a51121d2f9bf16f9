"""Somebody who can write to the folder of a hospital's genotypes, or keeps copies of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genopact_client.genotypes.sealed import Genotypes
from genopact_client.keyfile import GenotypePurpose, KeyFile
from genopact_client.store.sealed import Store
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.table import Flag
from tests.unit import genotype_rows as naive
from tests.unit.genotype_rows import Matrix, Room

LENGTH, WIDTH, PEOPLE = 32, 16, 3
TRUTH = naive.genotypes(LENGTH, PEOPLE)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """Two planes of one size in two blocks of one size."""
    made = naive.room(tmp_path, LENGTH, PEOPLE, width=WIDTH, planes=("calls", "haplotypes"))
    write(made, TRUTH)
    yield made
    made.store.close()


def write(room: Room, dosages: Matrix) -> None:
    writer = room.store.writer(np.arange(PEOPLE), "")
    writer.add(np.arange(LENGTH), dosages, haplotypes=(dosages == 2).astype(np.uint8) * 3)
    writer.commit()


def paths(room: Room) -> dict[str, Path]:
    """By plane and block."""
    return {path.name[:-17]: path for path in room.path.glob("*.*.*")}


def refused(room: Room, rows: list[int]) -> None:
    """Neither a batch nor a check passes."""
    with Genotypes(room.path, room.keys) as store:
        opened, everybody = room._replace(store=store).opened(rows), np.arange(len(rows))
        with pytest.raises(GenopactError, match="RECORD_INVALID"):
            _ = opened.packed(everybody), opened.packed(everybody, "haplotypes")
        with pytest.raises(GenopactError, match="RECORD_INVALID"):
            store.verify()


def test_exchanged_rows_do_not_open(room: Room) -> None:
    room.store.close()
    path = paths(room)["calls.0"]
    data = path.read_bytes()
    size = len(data) // PEOPLE
    path.write_bytes(data[size : 2 * size] + data[:size] + data[2 * size :])
    refused(room, [0])
    refused(room, [1])
    with Genotypes(room.path, room.keys) as store:
        assert np.array_equal(room._replace(store=store).dosages([2]), TRUTH.T[2:])


@pytest.mark.parametrize("other", ["calls.1", "haplotypes.0"])
def test_exchanged_blocks_and_planes_do_not_open(room: Room, other: str) -> None:
    room.store.close()
    one, two = paths(room)["calls.0"], paths(room)[other]
    first, second = one.read_bytes(), two.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    refused(room, [0])
    one.write_bytes(first)
    two.write_bytes(first)
    refused(room, [0])


def test_no_byte_of_a_record_can_be_changed(room: Room) -> None:
    room.store.close()
    path = paths(room)["haplotypes.1"]
    data = path.read_bytes()
    size = len(data) // PEOPLE
    for place in range(size, 2 * size):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        refused(room, [1])


def test_a_zeroed_record_is_an_error_not_a_person_of_zeros(room: Room) -> None:
    room.store.close()
    path = paths(room)["calls.1"]
    data = path.read_bytes()
    path.write_bytes(bytes(len(data) // PEOPLE) + data[len(data) // PEOPLE :])
    refused(room, [0])


@pytest.mark.parametrize("by", [-1, 1, -44])
def test_files_that_were_cut_off_or_extended_or_are_gone(room: Room, by: int) -> None:
    room.store.close()
    path = paths(room)["calls.1"]
    data = path.read_bytes()
    path.write_bytes(data[:by] if by < 0 else data + bytes(by))
    with pytest.raises(GenopactError, match="STORE_INVALID"):
        Genotypes(room.path, room.keys)
    path.unlink()
    with pytest.raises(GenopactError, match="STORE_INVALID"):
        Genotypes(room.path, room.keys)


def test_yesterdays_file_does_not_open_today(room: Room) -> None:
    old = paths(room)["calls.0"].read_bytes()
    write(room, TRUTH)
    room.store.close()
    paths(room)["calls.0"].write_bytes(old)
    refused(room, [0])


def test_an_earlier_state_of_the_same_import_does_not_open(room: Room) -> None:
    """Before its second half was packed, the part was sealed under the same keys: then half of it is missing."""
    writer = room.store.writer(np.arange(PEOPLE), "", 0)
    writer.add(np.arange(8), TRUTH[:8])
    writer.finish("one")
    early = room.store.signed.files(room.path, 2)[0].read_bytes()
    writer.add(np.arange(8, LENGTH), TRUTH[8:])
    writer.commit()
    room.store.close()
    paths(room)["calls.0"].write_bytes(early)
    refused(room, [0])


def test_a_file_of_another_store_of_the_same_site_does_not_open(room: Room, tmp_path: Path) -> None:
    with Genotypes.create(
        tmp_path / "other", room.keys, room.variants, "synthetic", planes=("calls", "haplotypes"), width=WIDTH
    ) as other:
        write(room._replace(store=other), TRUTH)
        stolen = paths(room._replace(store=other))
    room.store.close()
    for name, path in paths(room).items():
        shutil.copy(stolen[name], path)
    refused(room, [0])


def test_a_private_store_cannot_pass_for_a_public_one(room: Room, tmp_path: Path) -> None:
    with Genotypes.create(
        tmp_path / "fake", room.keys, room.variants, "public", planes=("calls", "haplotypes"), width=WIDTH
    ) as fake:
        write(room._replace(store=fake), TRUTH)
        theirs = paths(room._replace(store=fake))
    room.store.close()
    ours = paths(room)
    shutil.copy(tmp_path / "fake" / "manifest.dsse", room.path / "manifest.dsse")
    for name, path in theirs.items():
        ours[name].rename(room.path / path.name)
    refused(room, [0])


def test_no_byte_of_the_manifest_can_be_changed(room: Room) -> None:
    room.store.close()
    path = room.path / "manifest.dsse"
    good = path.read_bytes()
    hint = good.index(b'"keyid"')  # DSSE does not sign this hint and nothing depends on it
    for place in range(0, len(good), 11):
        if not hint <= place < hint + 26:
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            with pytest.raises(GenopactError, match=r"SIGNATURE_INVALID|ENVELOPE_INVALID|CANONICAL_INVALID"):
                Genotypes(room.path, room.keys)


def test_manifests_of_another_site_or_another_kind_of_store_do_not_open(room: Room, tmp_path: Path) -> None:
    room.store.close()
    strange = KeyFile.create(tmp_path / "strange", bytes(32))
    Genotypes.create(tmp_path / "other", strange, room.variants, "public").close()
    Store.create(tmp_path / "covariates", room.keys, (Flag("smoker"),), "public").close()
    for folder in ("other", "covariates"):
        shutil.copy(tmp_path / folder / "manifest.dsse", room.path / "manifest.dsse")
        with pytest.raises(GenopactError, match=r"SIGNATURE_INVALID|ENVELOPE_INVALID"):
            Genotypes(room.path, room.keys)


def test_the_records_of_the_erased_stay_shut_though_somebody_puts_them_back(room: Room) -> None:
    before = {path: path.read_bytes() for path in (*paths(room).values(), room.path / "manifest.dsse")}
    room.keys.erase([1])
    room.store.erase(1)
    room.store.close()
    for path, data in before.items():
        path.write_bytes(data)
    with Genotypes(room.path, room.keys) as store:
        assert store.rows().tolist() == [0, 2]
        with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
            room._replace(store=store).opened([0, 1])


def test_what_was_erased_while_another_process_held_the_store_is_zeroed_when_it_opens_next(room: Room) -> None:
    room.keys.erase([1])
    room.store.close()
    with Genotypes(room.path, room.keys) as store:
        assert store.rows().tolist() == [0, 2]
    for path in (path for path in room.path.glob("*.*.*") if path.suffix != ".dsse"):
        data = path.read_bytes()
        size = len(data) // 3
        assert not any(data[size : 2 * size])
        assert any(data[:size])


def test_a_key_file_that_was_rolled_back_is_noticed(room: Room, tmp_path: Path) -> None:
    old = (tmp_path / "keyfile").read_bytes()
    opened = room.opened([0, 2])
    room.keys.erase([1])
    room.store.erase(1)
    assert opened.packed(np.array([0])).size
    (tmp_path / "keyfile").write_bytes(old)
    with pytest.raises(GenopactError, match="KEYFILE_ROLLED_BACK"):
        opened.packed(np.array([0]))
    room.store.close()
    with pytest.raises(GenopactError, match="KEYFILE_ROLLED_BACK"):
        Genotypes(room.path, KeyFile.open(tmp_path / "keyfile", bytes(range(32))))


def test_keys_differ_between_people_stores_imports_and_purposes(room: Room) -> None:
    store = room.store.signed.store
    purposes = [GenotypePurpose(f"genotypes/{name}/{version}") for name in (store, "0" * 32) for version in (1, 2, 11)]
    keys = [key for purpose in purposes for key in room.keys.keys(range(PEOPLE), purpose)]
    assert len({*keys, *room.keys.keys(range(PEOPLE), "row")}) == 7 * PEOPLE


def test_nothing_on_disk_is_in_the_clear(room: Room) -> None:
    packed = naive.packed(TRUTH)
    for row in packed:
        for half in (row[:4].tobytes(), row[4:].tobytes()):
            assert not any(half in path.read_bytes() for path in room.path.iterdir() if path.name != "lock")
