"""One import, from files to the store."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from genopact_client.keyfile import KeyFile
from genopact_client.people import People
from genopact_client.site import Site
from genopact_client.store.sealed import Store
from genopact_ingest.commands.covariates import Files, import_site
from genopact_ingest.findings import ImportRefusedError
from genopact_server.demo.cohort import HOSPITALS, Hospital, write_site
from genopact_shared import durable
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.dose_features import OUTCOME, SCHEMA
from genopact_shared.recipes.table import Table

PEOPLE = 40


def site(people: People, keyfile: KeyFile, store: Store) -> Site:
    """A site's folder as far as an import needs it."""
    return cast("Site", SimpleNamespace(home="home", people=people, keyfile=keyfile, store=store))


@pytest.fixture
def rooms(tmp_path: Path) -> Site:
    keyfile = KeyFile.create(tmp_path / "keyfile", bytes(32))
    store = Store.create(tmp_path / "store", keyfile, SCHEMA, "synthetic")
    return site(People(tmp_path / "people.db", keyfile), keyfile, store)


@pytest.fixture
def truth(tmp_path: Path) -> Table:
    return write_site(tmp_path / "export", Hospital("h", PEOPLE, HOSPITALS[0].mix), seed=3)


@pytest.fixture
def files(tmp_path: Path, truth: Table) -> Files:
    assert truth.n == PEOPLE
    return Files(tmp_path / "export" / "covariates.csv", (tmp_path / "export" / "genotypes.vcf.gz",))


def assert_true_or_missing(found: Table, truth: Table) -> None:
    for name, expected in truth.columns.items():
        values = found.columns[name]
        missing = np.isnan(values) if values.dtype == np.float64 else values < 0
        assert ((values == expected) | missing).all(), name
        assert missing.mean() < 0.3, name


def test_import_arrives_in_the_store(rooms: Site, files: Files, truth: Table) -> None:
    done = import_site(files, SCHEMA, rooms)
    assert (
        done.data["people"],
        done.data["new"],
        done.data["erased"],
        done.data["strangers"],
        done.data["generation"],
    ) == (PEOPLE, PEOPLE, 0, 0, 1)
    assert rooms.store.rows().tolist() == list(range(PEOPLE))
    assert_true_or_missing(rooms.store.table(rooms.store.rows()), truth)
    provenance = rooms.store.manifest()["provenance"]
    assert len(provenance) == 1
    assert provenance[0]["vcfs"][0]["build"] == "GRCh38"
    assert done.data["observed"][OUTCOME] == PEOPLE


def test_importing_again_changes_versions_and_nothing_else(rooms: Site, files: Files) -> None:
    import_site(files, SCHEMA, rooms)
    before = rooms.store.table(rooms.store.rows())
    done = import_site(files, SCHEMA, rooms)
    assert (done.data["new"], done.data["generation"]) == (0, 2)
    after = rooms.store.table(rooms.store.rows())
    for name, values in before.columns.items():
        np.testing.assert_array_equal(values, after.columns[name])
    assert len(rooms.people) == len(rooms.keyfile) == PEOPLE


def test_dry_run_reports_and_changes_nothing(tmp_path: Path, rooms: Site, files: Files) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = import_site(files, SCHEMA, rooms, dry_run=True)
    assert (done.data["new"], done.data["generation"]) == (PEOPLE, None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    shown = "\n".join(done.text)
    assert "40 people: 40 new" in shown
    assert "dry run: nothing was changed" in shown
    assert "h-000" not in shown


def test_a_refused_file_changes_nothing(rooms: Site, files: Files) -> None:
    assert files.table
    files.table.write_text(files.table.read_text().replace("female", "unclear", 1))
    with pytest.raises(ImportRefusedError, match="LEVEL_UNKNOWN"):
        import_site(files, SCHEMA, rooms)
    assert len(rooms.people) == len(rooms.keyfile) == len(rooms.store.rows()) == 0


def test_the_erased_do_not_come_back(rooms: Site, files: Files) -> None:
    import_site(files, SCHEMA, rooms)
    rooms.keyfile.erase([5])
    rooms.store.erase(5)
    done = import_site(files, SCHEMA, rooms)
    assert (done.data["new"], done.data["erased"]) == (0, 1)
    assert 5 not in rooms.store.rows()
    assert len(rooms.people) == PEOPLE


def test_table_and_vcf_are_joined_by_person_not_by_order(rooms: Site, files: Files, truth: Table) -> None:
    assert files.table
    header, *lines = files.table.read_text().splitlines()
    files.table.write_text("\n".join([header, *reversed(lines)]) + "\n")
    import_site(files, SCHEMA, rooms)
    assert_true_or_missing(rooms.store.table(rooms.store.rows()), truth.take(np.arange(PEOPLE)[::-1]))


def table(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "small.csv"
    path.write_text(content)
    return path


def test_samples_that_are_no_people_are_left_out(tmp_path: Path, rooms: Site, files: Files) -> None:
    small = Files(table(tmp_path, "person,weekly_dose_mg\nh-00002,30\nelse,20\n"), files.vcfs)
    done = import_site(small, SCHEMA, rooms)
    assert (done.data["people"], done.data["strangers"]) == (2, PEOPLE - 1)
    assert rooms.store.table(np.array([1])).codes("vkorc1_1639").tolist() == [-1]
    with pytest.raises(ImportRefusedError, match="VCF_PEOPLE"):
        import_site(Files(table(tmp_path, "person,weekly_dose_mg\nelse,20\n"), files.vcfs), SCHEMA, rooms)


def test_contradicting_dosages_are_refused(tmp_path: Path, rooms: Site, files: Files, truth: Table) -> None:
    known = int(truth.codes("cyp2c9_2")[0])
    header = "person,cyp2c9_2,weekly_dose_mg\n"
    assert (
        import_site(Files(table(tmp_path, f"{header}h-00001,{known},30\n"), files.vcfs), SCHEMA, rooms).data["people"]
        == 1
    )
    with pytest.raises(ImportRefusedError) as caught:
        import_site(Files(table(tmp_path, f"{header}h-00001,{2 - known or 1},30\n"), files.vcfs), SCHEMA, rooms)
    assert [(found.code, found.row) for found in caught.value.findings] == [("DOSAGE_CONFLICT", 2)]


def test_the_same_variant_in_two_files_is_refused(rooms: Site, files: Files) -> None:
    with pytest.raises(ImportRefusedError, match="VCF_TWICE"):
        import_site(Files(files.table, files.vcfs * 2), SCHEMA, rooms)


def test_a_table_alone_is_enough(rooms: Site, files: Files) -> None:
    done = import_site(Files(files.table), SCHEMA, rooms)
    assert "vkorc1_1639" not in done.data["observed"]
    assert (rooms.store.table(rooms.store.rows()).codes("vkorc1_1639") == -1).all()


def test_another_schema_is_refused(rooms: Site, files: Files) -> None:
    with pytest.raises(GenopactError, match="TABLE_INVALID"):
        import_site(files, SCHEMA[1:], rooms)


def test_no_number_of_a_patient_is_at_rest_in_clear(tmp_path: Path, rooms: Site, files: Files) -> None:
    import_site(files, SCHEMA, rooms)
    for path in tmp_path.rglob("*"):
        if path.is_file() and "export" not in path.parts:
            assert b"h-000" not in path.read_bytes(), path.name


class PowerCutError(Exception):
    """The machine stops."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_power_cut_at_any_durable_write_leaves_all_or_nothing(
    tmp_path: Path, rooms: Site, files: Files, truth: Table, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The first import makes three durable writes: keys, records, manifest."""
    replace = durable.replace
    store, seen = rooms.store, []
    for cut in range(4):
        left = cut

        def until_cut(path: Path, data: bytes) -> None:
            nonlocal left
            left -= 1
            if left < 0 and when == "before":
                raise PowerCutError
            replace(path, data)
            if left < 0:
                raise PowerCutError

        monkeypatch.setattr(durable, "replace", until_cut)
        again = site(rooms.people, rooms.keyfile, store)
        try:
            import_site(files, SCHEMA, again)
        except PowerCutError:
            seen.append(cut)
        monkeypatch.undo()
        store.close()
        keyfile = KeyFile.open(tmp_path / "keyfile", bytes(32))
        people = People(tmp_path / "people.db", keyfile)
        store = Store(tmp_path / "store", keyfile)
        assert len(store.rows()) in {0, PEOPLE}
        assert len(people) in {0, PEOPLE}
        assert len(keyfile) in {0, PEOPLE}
        if len(store.rows()):
            assert_true_or_missing(store.table(store.rows()), truth)
        rooms = site(people, keyfile, store)
    assert seen[0] == 0, "the first cut was in the way"
    assert import_site(files, SCHEMA, rooms).data["people"] == PEOPLE
    assert_true_or_missing(store.table(store.rows()), truth)
    assert len(rooms.people) == len(rooms.keyfile) == PEOPLE
