"""Reading dosages from VCF files."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import pysam
import pytest

from genopact_ingest.findings import ImportRefusedError
from genopact_ingest.panel import Calls, read_vcf
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.dose_features import SCHEMA
from genopact_shared.recipes.table import Dosage
from genopact_shared.recipes.variants import VARIANTS, Build

WANTED = [column for column in SCHEMA if isinstance(column, Dosage)]
HEADER = "##fileformat=VCFv4.2\n##contig=<ID=chr10,length=133797422>\n##contig=<ID=chr16,length=90338345>\n"
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t"
VKORC1 = "chr16\t31096368\trs9923231\tC\tT\t.\tPASS\t.\tGT"


def text(*records: str, samples: str = "a\tb\tc", header: str = HEADER) -> str:
    return header + COLUMNS + samples + "\n" + "".join(record + "\n" for record in records)


def read(tmp_path: Path, content: str | bytes, build: Build | None = None, name: str = "x.vcf") -> Calls:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_vcf(path, WANTED, build)


def refusal(tmp_path: Path, content: str | bytes, build: Build | None = None) -> str:
    with pytest.raises(ImportRefusedError) as caught:
        read(tmp_path, content, build)
    return caught.value.findings[0].code


def dosages(tmp_path: Path, record: str, calls: Sequence[str], column: str = "vkorc1_1639") -> list[int]:
    samples = "\t".join(f"s{number}" for number in range(len(calls)))
    found = read(tmp_path, text(record + "\t" + "\t".join(calls), samples=samples)).dosages[column].tolist()
    return [int(value) for value in found]


def test_every_variant_of_the_recipe_is_placed_and_has_its_letters() -> None:
    for column in WANTED:
        variant = VARIANTS[column.rsid]
        assert {column.effect, column.other} == {variant.ref, variant.alt}
        assert column.gene == variant.gene
    assert [column.rsid for column in WANTED if VARIANTS[column.rsid].palindromic] == ["rs8050894"]


def test_the_low_dose_allele_is_t_on_the_forward_strand(tmp_path: Path) -> None:
    """-1639 G>A in the literature's reverse-strand letters: A/A is T/T in a VCF."""
    assert dosages(tmp_path, VKORC1, ["0/0", "0/1", "1/1"]) == [0, 1, 2]


def test_an_effect_allele_that_is_the_reference(tmp_path: Path) -> None:
    record = "16\t31092475\t.\tA\tG\t.\t.\t.\tGT"
    assert dosages(tmp_path, record, ["0/0", "0/1", "1/1"], "vkorc1_2255") == [2, 1, 0]


def test_what_is_not_a_diploid_call_is_missing(tmp_path: Path) -> None:
    calls = [".", "./.", "0/.", "./1", "1", "0/1/1", "1|0", "1|1", "/0/1"]
    assert dosages(tmp_path, VKORC1, calls) == [-1, -1, -1, -1, -1, -1, 1, 2, 1]


def test_other_format_fields_and_dropped_trailing_fields(tmp_path: Path) -> None:
    assert dosages(tmp_path, VKORC1 + ":DP:DS", ["0/1:12:0.9", "1/1", "./.:."]) == [1, 2, -1]


def test_several_alternates(tmp_path: Path) -> None:
    record = VKORC1.replace("\tT\t", "\tA,T,*\t")
    assert dosages(tmp_path, record, ["0/2", "2/2", "1/2", "1/1", "2/3", "0/3"]) == [1, 2, 1, 0, -1, -1]


def test_an_absent_record_is_missing_and_an_invariant_one_is_not(tmp_path: Path) -> None:
    calls = read(tmp_path, text(VKORC1.replace("\tT\t", "\t.\t") + "\t0/0\t0/0\t./."))
    assert {name: found.tolist() for name, found in calls.dosages.items()} == {"vkorc1_1639": [0, 0, -1]}


@pytest.mark.parametrize(
    ("letters", "expected", "note"),
    [
        ("C\tT", [0, 1, 2], {}),
        ("T\tC", [2, 1, 0], {"exchanged_or_flipped": 1}),
        ("G\tA", [0, 1, 2], {"exchanged_or_flipped": 1}),
        ("A\tG", [2, 1, 0], {"exchanged_or_flipped": 1}),
        ("c\tt", [0, 1, 2], {}),
    ],
)
def test_exchanged_and_flipped_letters(tmp_path: Path, letters: str, expected: list[int], note: dict[str, int]) -> None:
    calls = read(tmp_path, text(VKORC1.replace("C\tT", letters) + "\t0/0\t0/1\t1/1"))
    assert calls.dosages["vkorc1_1639"].tolist() == expected
    assert calls.notes == note


def test_a_palindromic_variant_is_read_forward_only(tmp_path: Path) -> None:
    record = "chr16\t31093188\t.\tC\tG\t.\tPASS\t.\tGT"
    assert dosages(tmp_path, record, ["0/0", "0/1", "1/1"], "vkorc1_1542") == [0, 1, 2]
    assert refusal(tmp_path, text(record.replace("C\tG", "G\tC") + "\t0/0\t0/1\t1/1")) == "VCF_ALLELES"


@pytest.mark.parametrize("letters", ["C\tA,C", "G\tT", "T\t.", "A\tC", "N\tT"])
def test_alleles_that_do_not_belong_to_the_variant(tmp_path: Path, letters: str) -> None:
    assert refusal(tmp_path, text(VKORC1.replace("C\tT", letters) + "\t0/0\t0/0\t0/0")) == "VCF_ALLELES"


def test_filtered_calls_are_missing_and_counted(tmp_path: Path) -> None:
    calls = read(tmp_path, text(VKORC1.replace("PASS", "LowQual") + "\t0/0\t0/1\t1/1"))
    assert calls.dosages["vkorc1_1639"].tolist() == [-1, -1, -1]
    assert calls.notes == {"not_pass": 1}


def test_a_deletion_at_the_same_place_does_not_count(tmp_path: Path) -> None:
    deletion = VKORC1.replace("C\tT", "CT\tC") + "\t1/1\t1/1\t1/1"
    calls = read(tmp_path, text(deletion, VKORC1 + "\t0/0\t0/1\t1/1"))
    assert calls.dosages["vkorc1_1639"].tolist() == [0, 1, 2]
    assert calls.notes == {"other_records": 1}


def test_builds(tmp_path: Path) -> None:
    old = VKORC1.replace("31096368", "31107689") + "\t0/0\t0/1\t1/1"
    plain = "##fileformat=VCFv4.3\n"
    assert read(tmp_path, text(old, header=plain), "GRCh37").dosages["vkorc1_1639"].tolist() == [0, 1, 2]
    grch37 = plain + "##contig=<ID=16,assembly=b37,length=90354753>\n"
    assert read(tmp_path, text(old, header=grch37)).build == "GRCh37"
    assert refusal(tmp_path, text(old, header=plain)) == "VCF_BUILD"
    assert refusal(tmp_path, text(old, header=grch37), "GRCh38") == "VCF_BUILD"
    assert refusal(tmp_path, text(old, header=plain), "GRCh38") == "VCF_BUILD", "the identifier gives it away"
    assert refusal(tmp_path, text(header=plain + "##contig=<ID=16,length=88827254>\n")) == "VCF_BUILD"
    assert refusal(tmp_path, text(header=grch37 + "##contig=<ID=10,length=133797422>\n")) == "VCF_BUILD"


GOOD = text(VKORC1 + "\t0/0\t0/1\t1/1")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "VCF_HEADER"),
        ("person,dose\n1,2\n", "VCF_HEADER"),
        (HEADER, "VCF_HEADER"),
        (GOOD.replace("VCFv4.2", "VCFv3.3"), "VCF_HEADER"),
        (GOOD.replace("#CHROM\t", "#CHROM "), "VCF_HEADER"),
        (GOOD.replace("\n", "\r\n"), "VCF_LINE_ENDS"),
        (GOOD[:-1], "VCF_TRUNCATED"),
        (GOOD.replace("a\tb\tc", "a\tb\ta"), "VCF_SAMPLES"),
        (GOOD.replace("a\tb\tc", "a\t\tc"), "VCF_SAMPLES"),
        (GOOD.replace("a\tb\tc", "a\tZo\u00eb\tZoe\u0308"), "VCF_SAMPLES"),
        (GOOD.replace("\tFORMAT\ta\tb\tc", ""), "VCF_NO_SAMPLES"),
        (GOOD.replace("\tFORMAT\ta\tb\tc", "\tFORMAT"), "VCF_NO_SAMPLES"),
        (GOOD.replace("\tGT\t", "\tDS\t"), "VCF_NO_GENOTYPES"),
        (GOOD.replace("\tGT\t", "\tDP:GT\t"), "VCF_NO_GENOTYPES"),
        (GOOD.replace("\t1/1", ""), "VCF_RECORD"),
        (GOOD.replace("\t1/1", "\t1/1\t1/1"), "VCF_RECORD"),
        (GOOD + "\n", "VCF_RECORD"),
        (GOOD.replace("31096368", "031096368"), "VCF_RECORD"),
        (GOOD.replace("31096368", "-1"), "VCF_RECORD"),
        (GOOD.replace("\tC\t", "\t.\t"), "VCF_RECORD"),
        (GOOD.replace("\tT\t", "\tT,\t"), "VCF_RECORD"),
        (GOOD.replace("\t.\tPASS", "\thigh\tPASS"), "VCF_RECORD"),
        (GOOD.replace("1/1", "1/2"), "VCF_CALL"),
        (GOOD.replace("1/1", "1/x"), "VCF_CALL"),
        (GOOD.replace("1/1", ""), "VCF_CALL"),
        (GOOD.replace("1/1", "1/\u0661"), "VCF_CALL"),
        (GOOD.replace("1/1", "-1/1"), "VCF_CALL"),
        (GOOD + GOOD.splitlines()[-1] + "\n", "VCF_TWICE"),
        (GOOD.replace("\tT\t", "\tT,<NON_REF>\t"), "VCF_GVCF"),
        (GOOD.replace("\tT\t", "\t<*>\t"), "VCF_GVCF"),
        (GOOD.encode() + b"\xff\n", "VCF_UNREADABLE"),
        (gzip.compress(GOOD.encode()), "VCF_NOT_BGZF"),
        (b"\x1f\x8b", "VCF_NOT_BGZF"),
    ],
)
def test_bad_files_are_refused_with_a_code(tmp_path: Path, content: str | bytes, code: str) -> None:
    assert refusal(tmp_path, content) == code


def test_a_fault_names_its_line_and_never_a_sample(tmp_path: Path) -> None:
    with pytest.raises(ImportRefusedError) as caught:
        read(tmp_path, GOOD.replace("a\tb\tc", "Jane\tJohn\tJim").replace("1/1", "1/7"))
    assert caught.value.findings[0].row == 5
    assert "row 5, column vkorc1_1639" in str(caught.value)
    assert not any(name in str(caught.value) for name in ("Jane", "John", "Jim"))


def bgzip(tmp_path: Path, content: str) -> bytes:
    with pysam.BGZFile(str(tmp_path / "whole.gz"), "wb", None) as file:
        file.write(content.encode())
    return (tmp_path / "whole.gz").read_bytes()


def test_bgzf_is_read_whole_or_refused(tmp_path: Path) -> None:
    whole = bgzip(tmp_path, GOOD)
    assert read(tmp_path, whole).dosages["vkorc1_1639"].tolist() == [0, 1, 2]
    for cut in range(1, len(whole)):
        assert refusal(tmp_path, whole[:cut]) in {"VCF_TRUNCATED", "VCF_NOT_BGZF", "VCF_HEADER"}


def test_a_flipped_byte_is_never_silent(tmp_path: Path) -> None:
    whole = bgzip(tmp_path, GOOD)
    expected = read(tmp_path, whole).dosages["vkorc1_1639"].tolist()
    for place in range(len(whole)):
        changed = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        try:
            assert read(tmp_path, changed).dosages["vkorc1_1639"].tolist() == expected  # a byte without meaning
        except ImportRefusedError:
            continue
        assert place < 18, "only gzip's header has bytes without meaning"


def test_only_local_regular_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.vcf", Path("https://example.org/x.vcf")):
        with pytest.raises(ImportRefusedError) as caught:
            read_vcf(path, WANTED)
        assert caught.value.findings[0].code == "VCF_UNREADABLE"


def test_a_variant_without_a_known_place_is_refused(tmp_path: Path) -> None:
    column = Dosage("new", "rs1", "GENE", effect="A", other="C")
    with pytest.raises(GenopactError, match="VARIANT_UNKNOWN"):
        read_vcf(tmp_path / "x.vcf", [column])
