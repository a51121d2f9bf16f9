"""The specification's own files, real files and damaged ones through the checks; skipped where they are absent."""

from pathlib import Path

import pytest

from genopact_ingest import checks
from genopact_ingest.checks import Checks
from tests.benchmarks.genotype_corpus import CORPUS, DATA, MISSES, corpus, fuzz, names
from tests.unit.vcf_whole import validate

pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are absent")]
REAL = [*DATA.glob("vcf_real_small/*.vcf.gz"), *DATA.glob("getrm_pgx_vcf/*.vcf"), *DATA.glob("getrm_pgx_vcf/*chr10*")]


def test_bad_files_are_refused_by_name_and_good_ones_accepted() -> None:
    misses, refused, accepted = corpus()
    assert refused >= 0.95
    assert accepted == 1
    assert set(misses) == set(MISSES), "each miss has its reason"


def test_naming_can_fail() -> None:
    """What names one file's fault does not name another's."""
    kinds = "body_ref_000 body_alt_000 body_info_001 body_info_004 body_sample_001 body_sample_004 body_unsorted_000 "
    kinds += "body_contiguous_000 body_filter_001 header_001 meta_info_004 meta_info_005 meta_format_004 meta_alt_001"
    paths = [CORPUS / f"4.3/failed/failed_{kind}.vcf" for kind in kinds.split()]
    for path in paths:
        named = [[names(finding, other) for other in paths] for finding in validate(path)]
        assert [other == path for other in paths] in named


@pytest.mark.parametrize("path", sorted(REAL), ids=lambda path: path.name)
def test_real_files_have_no_finding(path: Path) -> None:
    assert validate(path) == ()


def test_real_records_take_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Almost no record of a panel needs its INFO looked at key by key."""
    looked, slowly = list[str](), Checks._info

    def info(self: Checks, number: int, text: str, n_alts: int) -> None:
        looked.append(text)
        slowly(self, number, text, n_alts)

    monkeypatch.setattr(checks.Checks, "_info", info)
    assert validate(DATA / "vcf_real_small" / "shapeit4_reference.vcf.gz") == ()
    assert len(looked) < 100


def test_no_damage_is_silent() -> None:
    silent, each = fuzz(0.04)
    assert silent == 0
    assert {name.partition(",")[0] for name in each} == {"bgzf", "gzip", "text"}
    assert all("refused" in found for found in each.values())
