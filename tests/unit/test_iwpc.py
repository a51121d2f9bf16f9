"""The loader of the public warfarin table, and the measured rows that need no noise."""

import csv
from pathlib import Path

import numpy as np
import pytest

from genopact_server.validation.iwpc import SOURCE, SPLITS, TABLE, Cohort, load, write_csv
from genopact_shared.recipes.dose_features import OUTCOME, SCHEMA, features
from genopact_shared.recipes.equation import iwpc_weekly_dose
from tests.benchmarks.iwpc_rows import DATA, EXACT, Setting, chain_2, epsilon_of, federated

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA / TABLE).exists(), reason="the public warfarin table is not beside the checkout"),
]
LEAKS = ("INR on Reported Therapeutic Dose of Warfarin", "Comorbidities", "Medications", "Race (Reported)")


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return load(DATA)


def test_rows_sites_and_splits_are_the_frozen_ones(cohort: Cohort) -> None:
    assert cohort.table.n == 4404
    assert len(np.unique(cohort.sites)) == 16
    assert cohort.splits.shape == (4404, 20)
    assert set(np.unique(cohort.splits)) == {0, 1, 2, 3}
    assert set(cohort.table.columns) == {column.name for column in SCHEMA}
    assert np.nanmin(cohort.table.number(OUTCOME)) > 0


def test_the_published_equation_has_its_known_error(cohort: Cohort) -> None:
    dose = iwpc_weekly_dose(cohort.table)
    complete = ~np.isnan(dose)
    assert complete.sum() == 3310
    assert np.abs(dose - cohort.table.number(OUTCOME))[complete].mean() == pytest.approx(8.269, abs=5e-4)


def test_citation_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    load(DATA)
    assert "N Engl J Med 2009;360:753-764" in capsys.readouterr().out


def test_leaks_are_never_read(cohort: Cohort, tmp_path: Path) -> None:
    """The file without the columns that leak, loaded alike."""
    with (DATA / TABLE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(name in rows[0] for name in LEAKS)
    kept = [name for name in rows[0] if name not in LEAKS]
    with (tmp_path / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    for name in (SOURCE, SPLITS):
        (tmp_path / name).write_bytes((DATA / name).read_bytes())
    assert (features(load(tmp_path).table) == features(cohort.table)).all()


def test_splits_of_other_patients_are_refused(tmp_path: Path) -> None:
    for name in (SOURCE, TABLE):
        (tmp_path / name).write_bytes((DATA / name).read_bytes())
    lines = (DATA / SPLITS).read_text().splitlines(keepends=True)
    (tmp_path / SPLITS).write_text("".join([lines[0], *reversed(lines[1:])]))
    with pytest.raises(ValueError, match="other patients"):
        load(tmp_path)


@pytest.mark.parametrize(("site", "lacks"), [(9, {"height_cm", "vkorc1_1639"}), (13, {"weight_kg", "height_cm"})])
def test_site_file_says_what_the_site_has(cohort: Cohort, tmp_path: Path, site: int, lacks: set[str]) -> None:
    n = write_csv(cohort, cohort.sites == site, tmp_path / "site.csv")
    with (tmp_path / "site.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    own = cohort.table.take(cohort.sites == site)
    assert len(rows) == n == own.n
    assert not lacks & rows[0].keys()
    assert [row["person"] for row in rows] == cohort.person[cohort.sites == site].tolist()
    assert [float(row[OUTCOME]) for row in rows] == pytest.approx(own.number(OUTCOME).tolist())
    copies = [int(row["cyp2c9_2"]) if row["cyp2c9_2"] else -1 for row in rows]
    assert copies == own.codes("cyp2c9_2").tolist()
    assert {row["sex"] for row in rows} <= {"", "female", "male"}


def test_federation_without_noise_is_within_the_bar_of_pooled_ridge(cohort: Cohort) -> None:
    row = chain_2(cohort)
    assert row["value"] <= 0.05
    assert row["note"]["mae"]["pooled_ridge"] == pytest.approx(8.643, abs=1e-3)


def test_the_noise_is_real_and_its_cost_is_the_budget(cohort: Cohort) -> None:
    training = np.isin(cohort.splits[:, 0], (1, 2))
    setting = Setting(1000)
    exact, first, second = (federated(cohort, training, s)["coefficients"] for s in (EXACT, setting, setting))
    assert (first != second).all()
    assert 0 < np.linalg.norm(first - exact) < 2
    from genopact_shared.recipes.dose import DOSE, DoseParameters

    assert 0.95 < epsilon_of(DOSE.plan(DoseParameters(), 1, 1000).steps, 1000) <= 1
