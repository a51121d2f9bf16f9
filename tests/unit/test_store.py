"""The sealed store."""

from pathlib import Path

import numpy as np
import pytest

from genopact_client.keyfile import KeyFile
from genopact_client.store.sealed import Store
from genopact_shared import durable
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.table import Choice, Codes, Column, Dosage, Flag, Floats, Number, Table

SCHEMA: tuple[Column, ...] = (
    Number("age", "years", 0, 120),
    Choice("sex", ("female", "male")),
    Flag("smoker"),
    Dosage("snp", "rs9923231", "VKORC1", effect="T", other="C"),
    Number("dose", "mg/week", 0.5, 400, "outcome"),
)


def people(n: int, start: int = 0) -> Table:
    number = np.arange(start, start + n)
    return Table(
        {
            "age": np.where(number % 5 == 0, np.nan, number % 100).astype(np.float64),
            "sex": (number % 3 - 1).astype(np.int8),
            "snp": (number % 4 - 1).astype(np.int8),
            "dose": (number % 300 + 0.5).astype(np.float64),
        },
        n,
    )


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    keys = KeyFile.create(tmp_path / "keyfile", bytes(32))
    keys.new_many(50)
    return keys


@pytest.fixture
def store(tmp_path: Path, keys: KeyFile) -> Store:
    return Store.create(tmp_path / "store", keys, SCHEMA, "synthetic")


def assert_same(got: Table, expected: Table) -> None:
    assert got.n == expected.n
    assert list(got.columns) == [column.name for column in SCHEMA]
    for column in SCHEMA:
        if isinstance(column, Number):
            np.testing.assert_array_equal(got.columns[column.name], expected.number(column.name))
        else:
            np.testing.assert_array_equal(got.columns[column.name], expected.codes(column.name))
            assert got.columns[column.name].dtype == np.int8


def test_table_returns_what_was_written_in_the_order_asked(tmp_path: Path, keys: KeyFile, store: Store) -> None:
    rows = np.array([4, 0, 7, 2])
    store.write(rows, people(4))
    assert store.rows().tolist() == [0, 2, 4, 7]
    assert_same(store.table(rows), people(4))
    assert_same(store.table(rows[[3, 1, 1]]), people(4).take(np.array([3, 1, 1])))
    assert store.table(np.array([], np.int64)).n == 0
    store.close()
    with Store(tmp_path / "store", keys) as again:
        assert_same(again.table(rows), people(4))


def test_a_second_write_replaces_its_rows_and_keeps_the_others(tmp_path: Path, store: Store) -> None:
    store.write(np.arange(10), people(10))
    store.write(np.array([3, 12]), people(2, start=40))
    assert store.rows().tolist() == [*range(10), 12]
    assert_same(store.table(np.array([3, 12])), people(2, start=40))
    assert_same(store.table(np.array([0, 9])), people(10).take(np.array([0, 9])))
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["lock", "manifest.dsse", "records.2"]


def test_unknown_and_erased_people_are_errors_never_zeros(keys: KeyFile, store: Store) -> None:
    store.write(np.array([0, 2]), people(2))
    for row in (-1, 1, 3, 99):
        with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
            store.table(np.array([0, row]))
    keys.erase([2])
    assert store.rows().tolist() == [0]
    with pytest.raises(GenopactError, match="KEY_ERASED"):
        store.table(np.array([0, 2]))
    with pytest.raises(GenopactError, match="KEY_ERASED"):
        store.write(np.array([2]), people(1))
    with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
        store.erase(99)


def test_erase_zeroes_the_record(tmp_path: Path, keys: KeyFile, store: Store) -> None:
    store.write(np.arange(3), people(3))
    path = tmp_path / "store" / "records.1"
    before, size = path.read_bytes(), path.stat().st_size // 3
    keys.erase([1])
    store.erase(1)
    after = path.read_bytes()
    assert after == before[:size] + bytes(size) + before[2 * size :]
    with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
        store.table(np.array([1]))
    assert_same(store.table(np.array([0, 2])), people(3).take(np.array([0, 2])))
    assert store.manifest()["rows"] == 2


def test_crash_in_the_middle_of_an_erasure_is_finished_at_the_next_start(
    tmp_path: Path, keys: KeyFile, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(np.arange(3), people(3))
    monkeypatch.setattr(store, "_tidy", lambda: None)
    store.erase(1)
    store.close()
    size = (tmp_path / "store" / "records.1").stat().st_size // 3
    Store(tmp_path / "store", keys).close()
    assert not any((tmp_path / "store" / "records.1").read_bytes()[size : 2 * size])


@pytest.mark.parametrize("at", ["records.2", "manifest.dsse"])
def test_crash_in_the_middle_of_a_write_is_invisible(
    tmp_path: Path, keys: KeyFile, store: Store, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    store.write(np.arange(3), people(3))
    replace = durable.replace

    def crash(path: Path, data: bytes) -> None:
        if path.name == at:
            path.with_name(path.name + ".new").write_bytes(data[: len(data) // 2])
            raise OSError("power cut")
        replace(path, data)

    monkeypatch.setattr(durable, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        store.write(np.arange(4), people(4, start=20))
    monkeypatch.undo()
    store.close()
    with Store(tmp_path / "store", keys) as again:
        assert again.rows().tolist() == [0, 1, 2]
        assert_same(again.table(np.arange(3)), people(3))
        again.write(np.arange(4), people(4, start=20))
        assert_same(again.table(np.arange(4)), people(4, start=20))


def test_one_process_at_a_time(tmp_path: Path, keys: KeyFile, store: Store) -> None:
    with pytest.raises(GenopactError, match="STORE_LOCKED"):
        Store(tmp_path / "store", keys)
    store.close()
    Store(tmp_path / "store", keys).close()


def test_manifest_states_the_facts(keys: KeyFile, tmp_path: Path, store: Store) -> None:
    store.write(np.arange(3), people(3), {"table": "ab" * 32})
    facts = store.manifest()
    assert (facts["kind"], facts["rows"], facts["generation"]) == ("synthetic", 3, 1)
    assert facts["provenance"] == [{"generation": 1, "rows": 3, "table": "ab" * 32}]
    assert facts["columns"][0] == {
        "kind": "number",
        "name": "age",
        "unit": "years",
        "low": "0.0",
        "high": "120.0",
        "role": "feature",
    }
    other = Store.create(tmp_path / "other", keys, SCHEMA[:-1], "private").manifest()
    assert other["schema_digest"] != facts["schema_digest"]
    assert other["store"] != facts["store"]


@pytest.mark.parametrize(
    "columns",
    [
        {"age": np.array([121.0])},
        {"age": np.array([np.inf])},
        {"age": np.array([3], np.int8)},
        {"sex": np.array([2], np.int8)},
        {"sex": np.array([-2], np.int8)},
        {"smoker": np.array([2], np.int8)},
        {"snp": np.array([3], np.int8)},
        {"snp": np.array([1.0])},
        {"surname": np.array([1.0])},
    ],
)
def test_values_outside_the_schema_are_refused(store: Store, columns: dict[str, Floats | Codes]) -> None:
    with pytest.raises(GenopactError, match="TABLE_INVALID"):
        store.write(np.array([0]), Table(columns, 1))
    assert store.manifest()["generation"] == 0


def test_rows_and_table_must_match(store: Store) -> None:
    for rows in (np.array([0]), np.array([0, 0]), np.array([0, 1, 2])):
        with pytest.raises(GenopactError, match="TABLE_INVALID"):
            store.write(rows, people(2))


def test_missing_and_existing_stores(tmp_path: Path, keys: KeyFile, store: Store) -> None:
    with pytest.raises(GenopactError, match="STORE_MISSING"):
        Store(tmp_path / "nowhere", keys)
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # the lock of a store that did not open is released
        with pytest.raises(GenopactError, match="STORE_MISSING"):
            Store(tmp_path / "empty", keys)
    with pytest.raises(GenopactError, match="STORE_EXISTS"):
        Store.create(tmp_path / "store", keys, SCHEMA, "public")


def test_record_file_cut_off_or_missing(tmp_path: Path, keys: KeyFile, store: Store) -> None:
    store.write(np.arange(3), people(3))
    store.close()
    path = tmp_path / "store" / "records.1"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GenopactError, match="STORE_INVALID"):
        Store(tmp_path / "store", keys)
    path.unlink()
    with pytest.raises(GenopactError, match="STORE_INVALID"):
        Store(tmp_path / "store", keys)
