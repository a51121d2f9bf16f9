"""Public VCF files through the reader; skipped where they are absent."""

from pathlib import Path

import pysam
import pytest

from genopact_ingest.findings import ImportRefusedError
from genopact_ingest.panel import read_vcf
from genopact_shared.recipes.dose_features import SCHEMA
from genopact_shared.recipes.table import Dosage
from genopact_shared.recipes.variants import VARIANTS

DATA = Path(__file__).parents[3] / "shared" / "data"
WANTED = [column for column in SCHEMA if isinstance(column, Dosage)]
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are absent")]
GETRM = DATA / "getrm_pgx_vcf"


def by_pysam(path: Path, column: Dosage) -> list[int] | None:
    """Naive reference: letters of the called alleles at the variant's place."""
    place = VARIANTS[column.rsid].positions["GRCh38"]
    with pysam.VariantFile(str(path)) as file:
        for record in file:
            if record.pos == place:
                alleles = [sample.alleles or (None,) for sample in record.samples.values()]
                return [-1 if None in called else called.count(column.effect) for called in alleles]
    return None


@pytest.mark.parametrize("chrom", ["10", "16"])
def test_three_sequenced_people_agree_with_htslib(chrom: str) -> None:
    path = GETRM / f"PharmCAT_tutorial_get-rm_wgs_30x_grch38_chr{chrom}.vcf.bgz"
    calls = read_vcf(path, WANTED)
    assert calls.samples == ("NA18526", "NA18565", "NA18861")
    here = [column for column in WANTED if VARIANTS[column.rsid].chrom == chrom]
    assert set(calls.dosages) == {column.name for column in here}
    for column in here:
        assert calls.dosages[column.name].tolist() == by_pysam(path, column)
    if chrom == "16":  # two people from Beijing and one from Ibadan; the four alleles travel together
        assert all(found.tolist() == [2, 2, 0] for found in calls.dosages.values())


def test_one_person_without_contig_lengths() -> None:
    path = GETRM / "NA18526.preprocessed.vcf"
    with pytest.raises(ImportRefusedError, match="VCF_BUILD"):
        read_vcf(path, WANTED)
    found = {name: dosage.tolist() for name, dosage in read_vcf(path, WANTED, "GRCh38").dosages.items()}
    assert found == {"cyp2c9_2": [0], "cyp2c9_3": [0], "vkorc1_1639": [2]}


def test_the_specifications_own_files_never_crash() -> None:
    """Sites-only files are refused for that; every file with samples that the specification passes is read."""
    paths = sorted((DATA / "vcf_bad_corpus").rglob("*.vcf"))
    refused = {"passed": set[str](), "failed": set[str]()}
    for path in paths:
        try:
            read_vcf(path, WANTED, "GRCh38")
        except ImportRefusedError as error:
            refused[path.parent.name].add(error.findings[0].code)
    assert len(paths) > 600
    assert refused["passed"] <= {"VCF_NO_SAMPLES", "VCF_TRUNCATED"}
    assert refused["failed"] >= {"VCF_HEADER", "VCF_RECORD", "VCF_SAMPLES"}


def test_gzip_that_is_not_bgzf_is_refused() -> None:
    with pytest.raises(ImportRefusedError, match="VCF_NOT_BGZF"):
        read_vcf(DATA / "vcf_real_small" / "kg_phase3_chr21_start_2504x600.vcf.gz", WANTED)
