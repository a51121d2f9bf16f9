"""Against bcftools norm and plink2 on public files, and three generated sites against each other."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from genopact_ingest import harmonise
from genopact_ingest.findings import Fault
from tests.benchmarks import genotype_sites
from tests.benchmarks.genotype_sites import DATA, identical_rows, like_others, real_files
from tests.unit.faulty import faulty

TOOLS = pytest.mark.skipif(not all(map(shutil.which, ["bcftools", "plink2"])), reason="bcftools or plink2 is absent")
SMALL = ("gnomad", "hail_sample.vcf", "NA18526", "tiny1000G")


@TOOLS
@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are absent")
def test_a_sample_of_the_real_files(tmp_path: Path) -> None:
    paths = [path for path in real_files() if any(part in path.name for part in SMALL)]
    row = like_others(paths, tmp_path)
    assert row["value"] == 1, row


@TOOLS
@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are absent")
@pytest.mark.parametrize("what", ["other than bcftools norm", "other than plink2"])
def test_a_fault_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "other than plink2":
        monkeypatch.setattr(genotype_sites, "Sites", faulty(harmonise, "effect, other = other, effect", "pass").Sites)
    else:
        monkeypatch.setattr(genotype_sites, "normalise", lambda bases, pos, ref, alt: (pos, ref, alt))
    row: dict[str, Any] = like_others([path for path in real_files() if "hail_sample.vcf" in path.name], tmp_path)
    assert row["value"] == 0
    assert row["note"][what] > 0


def test_three_sites_give_one_store(tmp_path: Path) -> None:
    row = identical_rows(40, 800, tmp_path, 1)
    assert row["value"] == 1, row


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ref=other_strand(written.ref)", "ref=written.ref"),
        ("abs(known - 0.5) > FAR_FROM_HALF and abs(here - known) < NEAR", "True"),
        ("places.append(alleles.normalise(", "str(alleles.normalise("),
        ("effect, other = other, effect", "pass"),
        ("yield _others(called, rows) if rows else called", "yield called"),
    ],
)
def test_three_sites_would_show_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    monkeypatch.setattr(genotype_sites, "Sites", faulty(harmonise, old, new).Sites)
    with suppress(Fault):  # so many sites may not fit that the file looks like one of another build
        assert identical_rows(40, 800, tmp_path, 1)["value"] != 1
