"""Calls out of a VCF: against naive references and htslib."""

import gzip
import random
import re
import subprocess
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genopact_ingest import bgzf, genotypes
from genopact_ingest.checks import Checks
from genopact_ingest.findings import Fault, ImportRefusedError
from genopact_ingest.source import Called
from genopact_ingest.vcf import VcfFile
from tests.benchmarks import genotype_pass
from tests.unit.harmonisers import Every
from tests.unit.test_bgzf import compressed

DATA = Path(__file__).parents[3] / "shared" / "data" / "vcf_real_small"
HEADER = (
    "##fileformat=VCFv4.4\n##contig=<ID=1>\n"
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    '##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">\n'
    '##FORMAT=<ID=DS,Number={number},Type=Float,Description="Dosage">\n'
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t"
)


def document(records: list[str], samples: int, number: str = "A") -> str:
    return HEADER.format(number=number) + "\t".join(f"s{i}" for i in range(samples)) + "\n" + "".join(records)


def record(cells: list[str], alt: str = "G", form: str = "GT", passed: str = "PASS", pos: int = 5) -> str:
    return "\t".join(["1", str(pos), ".", "A", alt, ".", passed, ".", form, *cells]) + "\n"


def read(path: Path, content: str | bytes, index: int = 1, **options: Any) -> tuple[list[Called], VcfFile]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    file = VcfFile(path, **options)
    return list(file.batches(Every(index))), file


def refusal(path: Path, content: str | bytes, index: int = 1, **options: Any) -> tuple[str, int | None]:
    with pytest.raises(ImportRefusedError) as caught:
        read(path, content, index, **options)
    return caught.value.findings[0].code, caught.value.findings[0].row


def one(path: Path, cells: list[str], index: int = 1, **options: Any) -> Called:
    shape = {name: options.pop(name) for name in ("alt", "form") if name in options}
    (called,), _ = read(path, document([record(cells, **shape)], len(cells)), index, **options)
    return called


def naive(cell: str, form: str, alt: str, index: int) -> tuple[int, int, bool, int] | None:
    """Dosage, haplotypes, haploid, expected dosage of one cell; None if it is malformed."""
    alts = [] if alt == "." else alt.split(",")
    values = dict(zip(form.split(":"), cell.split(":"), strict=False))
    if not re.fullmatch(r"[/|]?(\.|0|[1-9]\d*)([/|](\.|0|[1-9]\d*))*", values["GT"]) or cell.count(":") > form.count(
        ":"
    ):
        return None
    mark = values["GT"][0] if values["GT"][0] in "/|" else ""
    call = values["GT"].removeprefix(mark)
    alleles = re.split(r"[/|]", call)
    if any(allele != "." and int(allele) > len(alts) for allele in alleles):
        return None
    real = [allele != "." and (allele == "0" or set(alts[int(allele) - 1]) <= set("ACGT")) for allele in alleles]
    has = [allele == str(index) for allele in alleles]
    known = len(alleles) <= 2 and all(real)
    phased = "/" not in mark + call or (len(alleles) == 2 and has[0] == has[1])
    haplotypes = sum(hit << side for side, hit in enumerate(has)) if known and phased else 0
    dosage = values.get("DS", ".")
    expected = 255
    if "." not in dosage.split(",") and index <= len(alts):
        numbers, haploid = [float(each) for each in dosage.split(",")], known and len(alleles) == 1
        expected = round(127 * (numbers[index - 1] if index else 2 - haploid - sum(numbers)))
    return sum(has) if known else -1, haplotypes, known and len(alleles) == 1, expected


ALTS = ["G", "G,T", "*", "G,*", "<DEL>,T", "GAT", ".", ",".join("ACGT"[i % 4] * (2 + i) for i in range(12))]
PLAIN = [first + mark + second for first in ".0012" for mark in "/|" for second in ".0012"]
ODD = [
    ".",
    "0",
    "1",
    "/1",
    "|0",
    "/0|1",
    "|0|1",
    "/0/1",
    "0/1/1",
    "0|11",
    "12/12",
    "10",
    "./././.",
    "0/13",
    "01/0",
    "0//1",
    "1/",
    "a/b",
    "0/1/",
    "-1/0",
    "0\\1",
    "1/0:",
    "1/0:3:.:.",
    "99999999999999999999/1",
]
LINES = st.tuples(
    st.sampled_from(ALTS), st.sampled_from(["", ":DP", ":DP:DS"]), st.sampled_from([PLAIN, ODD[:12], PLAIN + ODD])
)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), samples=st.sampled_from([1, 2, 9]), index=st.sampled_from([0, 1, 2, 12]))
def test_every_cell_against_the_naive_reading(
    data: st.DataObject, samples: int, index: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, records, expected = tmp_path_factory.getbasetemp() / "cells.vcf", list[str](), list[Any]()
    for alt, more, kind in data.draw(st.lists(LINES, max_size=4)):
        alts = 0 if alt == "." else alt.count(",") + 1
        tail = {"": "", ":DP": ":7", ":DP:DS": ":7:" + ",".join(["0.0625"] * alts or ["."])}[more]
        cells = data.draw(
            st.lists(st.sampled_from([*kind, *(cell + tail for cell in kind)]), min_size=samples, max_size=samples)
        )
        reading = [naive(cell, "GT" + more, alt, index) for cell in cells]
        if index <= alts or (None in reading and not more):
            expected.append(reading)
        records.append(record(cells, alt, "GT" + more, pos=len(records) + 1))
    content = document(records, samples)
    options: dict[str, Any] = {"phases": True, "expected": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bgzf, "_READ", data.draw(st.sampled_from([40, 1 << 20])))
        if any(None in reading for reading in expected):
            assert refusal(path, content, index, **options)[0] == "VCF_CALL"
        else:
            batches, _ = read(path, content, index, **options)
            assert [row for called in batches for row in readings(called)] == expected


def readings(called: Called) -> list[list[tuple[int, int, bool, int]]]:
    assert called.haplotypes is not None
    assert called.expected is not None
    haploid = np.zeros_like(called.dosages, np.bool_) if called.haploid is None else called.haploid
    columns = (called.dosages, called.haplotypes, haploid, called.expected)
    return [list(zip(*(column[row].tolist() for column in columns), strict=True)) for row in range(len(called.rows))]


@pytest.mark.parametrize("samples", [1, 255, 256, 257, 600])
def test_a_letter_in_a_plain_line_is_seen_wherever_it_is(samples: int) -> None:
    rng = random.Random(samples)
    start = "1\t5\t.\tA\t{}\t.\tPASS\t.\tGT\t"
    for alt, last in ("G", 1), (".", 0), ("G,T", 2), (",".join("ACGT" * 3), 9):
        head = start.format(alt).encode()
        pattern = re.compile(rb"(?:[.0-%d][/|][.0-%d]\t)*" % (last, last))
        line = b"\t".join(rng.choice([b"0/0", b"0|0", b"./.", b".|0"]) for _ in range(samples)) + b"\n"
        for at in {0, 1, 2, 4 * samples - 2, *(rng.randrange(4 * samples - 1) for _ in range(12))}:
            for letter in range(256):
                changed = line[:at] + bytes([letter]) + line[at + 1 :]
                if letter == 10:
                    continue
                same = changed.count(b"\t") == samples - 1 and not changed.endswith(b"\r\n")
                try:
                    found = genotypes.places(np.frombuffer(head + changed, np.uint8), samples)
                except Fault:
                    assert not same
                else:
                    assert same
                    assert bool(found.plain[0]) == bool(pattern.fullmatch(changed[:-1] + b"\t")), (at, letter)


def test_half_calls_and_others_are_missing_and_counted(tmp_path: Path) -> None:
    plain, letters = ["0/.", "./1", "./.", "1/1", "0|1"], ["1", "0/1/1", ".", "1/0", "0/."]
    batches, file = read(tmp_path / "x", document([record(plain), record(letters), record(["1/2"] * 5, "G,*")], 5))
    assert np.concatenate([called.dosages for called in batches]).tolist() == [
        [-1, -1, -1, 2, 1],
        [1, -1, -1, 1, -1],
        [-1] * 5,
    ]
    assert batches[0].haploid is not None
    assert batches[0].haploid.tolist() == [[False] * 5, [True] + [False] * 4, [False] * 5]
    assert file.notes["half_calls"] == 3
    assert file.notes["haploid"] == file.notes["polyploid"] == 1


@pytest.mark.parametrize("more", ["", "/1/1"])
def test_haplotypes_know_only_what_is_phased_or_equal(tmp_path: Path, more: str) -> None:
    """The last cell decides how the line is read: as words or letter by letter."""
    cells = ["0|1", "1|0", "0/1", "1/0", "1/1", "1|1", "0/0", "1/2", "2|1", "2/2", "./1", "1|.", "./." + more]
    found = one(tmp_path / "x", cells, alt="G,T", phases=True).haplotypes
    assert found is not None
    assert found.tolist() == [[2, 1, 0, 0, 3, 3, 0, 0, 2, 0, 0, 0, 0]]


def test_phases_of_phase_sets_are_not_taken_for_phases_of_the_chromosome(tmp_path: Path) -> None:
    called = one(tmp_path / "x", ["0|1:5", "1|0:5", "1|1:5", "0|0:5"], form="GT:PS", phases=True)
    assert called.dosages.tolist() == [[1, 1, 2, 0]]
    assert called.haplotypes is not None
    assert called.haplotypes.tolist() == [[0, 0, 3, 0]]


def test_an_effect_allele_of_two_figures(tmp_path: Path) -> None:
    alt = ",".join("G" * length for length in range(1, 18))
    assert one(tmp_path / "x", ["./.", "0/1", "9|9"], 16, alt=alt).dosages.tolist() == [[-1, 0, 0]]
    assert one(tmp_path / "x", ["16/16", "0/16", "6/1"], 16, alt=alt).dosages.tolist() == [[2, 1, 0]]


def test_records_that_did_not_pass_are_missing(tmp_path: Path) -> None:
    records = [record(["0/1"], passed=passed) for passed in ("PASS", ".", "q10", "q10;s50", "s50")]
    path = tmp_path / "x"
    batches, file = read(path, document(records, 1))
    assert [called.rows.tolist() for called in batches] == [[0, 1]]
    assert file.notes["not_pass"] == 3
    batches, _ = read(path, document(records, 1), passed=frozenset({"q10", "s50"}))
    assert [called.rows.tolist() for called in batches] == [[0, 1, 2]]


def test_expected_dosages(tmp_path: Path) -> None:
    def ds(values: list[str], index: int = 1, alt: str = "G", form: str = "GT:DS") -> list[int]:
        found = one(tmp_path / "x", values, index, alt=alt, form=form, expected=True).expected
        assert found is not None
        return [int(value) for value in found[0]]

    assert ds(["0/1:0.5", "1/1:2", "0/0:1e-3", "0/1:.", "0/1", "./.:1.5E-01"]) == [64, 254, 0, 255, 255, 19]
    assert ds(["0/1:0.5", "1/1:2", "1:.25", "0:0"], index=0) == [190, 0, 95, 127]
    assert ds(["1/2:1.0,1.0", "0/2:0,0.75"], index=2, alt="G,T") == [127, 95]
    assert ds(["1/2:1.0,1.0", "0/2:0,0.75"], index=0, alt="G,T") == [0, 159]
    assert ds(["0.5", "2"], form="DS") == [64, 254]
    for wrong in "2.1", "2.005", "-0.1", "x", "0.5x", "nan", "1,1", "1e3", "", "1:1", "1e-", "1e", "..":
        code, row = refusal(tmp_path / "x", document([record([f"0/1:{wrong}"], form="GT:DS")], 1), expected=True)
        assert (code, row) == ("VCF_CALL", 7), wrong


def test_dosages_of_one_value_say_nothing_about_two_alternatives(tmp_path: Path) -> None:
    content = document([record(["0/2:1"], "G,T", "GT:DS"), record(["0/1:1"], "G", "GT:DS")], 1, "1")
    (called,), _ = read(tmp_path / "x", content, expected=True)
    assert called.expected is not None
    assert called.expected.tolist() == [[255], [127]]
    (called,), _ = read(tmp_path / "x", content)
    assert called.expected is None
    assert called.haplotypes is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (document([record(["0/1"]), record(["0/1", "0/1"])], 1), ("VCF_RECORD", 8)),
        (document([record(["0/1"]), record(["0/1"])], 2), ("VCF_RECORD", 7)),
        (document([record(["0/1"]), "1\t2\n"], 1), ("VCF_RECORD", 8)),
        (document([record(["0/1"]), "\n"], 1), ("VCF_RECORD", 8)),
        (document([record(["0/1"]).replace("\t5\t", "\t5_0\t")], 1), ("VCF_RECORD", 7)),
        (document([record(["0/1"]).replace("\t5\t", f"\t{'9' * 5000}\t")], 1), ("VCF_RECORD", 7)),
        (document(["\t" * 9 + "\n"] * 5000, 1), ("VCF_RECORD", 7)),
        (document([record(["0/2"])], 1), ("VCF_CALL", 7)),
        (document([record(["0/1"], form="DP")], 1), ("VCF_NO_GENOTYPES", 7)),
        (document([record(["0/0"], "<NON_REF>", passed="low")], 1), ("VCF_GVCF", 7)),
        (document([record(["0/0"], "G,<*>")], 1), ("VCF_GVCF", 7)),
        (document([record(["0/1"])], 1).replace("\n", "\r\n"), ("VCF_LINE_ENDS", 1)),
        (document([record(["0/1"]).replace("\n", "\r\n")], 1), ("VCF_LINE_ENDS", 7)),
        (document([record(["0/1"])], 1)[:-1], ("VCF_TRUNCATED", None)),
        (document([record(["0/1"], passed="?")], 1).encode().replace(b"?", b"\xff"), ("VCF_UNREADABLE", 7)),
        (document([record(["0/1"])], 2).replace("s1", "s0"), ("VCF_SAMPLES", 6)),
        (document([record(["0/1"])], 2).replace("s1", ""), ("VCF_SAMPLES", 6)),
        ("", ("VCF_HEADER", 1)),
        (HEADER.format(number="A").replace("\tFORMAT\t", "\n"), ("VCF_NO_SAMPLES", 6)),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, content: str | bytes, expected: tuple[str, int | None]) -> None:
    path = tmp_path / "x"
    assert refusal(path, content) == expected
    raw = content.encode() if isinstance(content, str) else content
    assert refusal(path, compressed(raw, 100)) == expected or not raw


def test_what_the_checks_find_refuses_the_file(tmp_path: Path) -> None:
    content = document([record(["0/1:7"], form="GT:DP"), record(["0/1:x"], form="GT:DP", pos=6)], 1)
    assert refusal(tmp_path / "x", content, checks=Checks()) == ("VCF_CELL", 8)
    assert read(tmp_path / "x", content)[0][0].dosages.tolist() == [[1], [1]]


def test_the_file_must_stay_as_it_was(tmp_path: Path) -> None:
    path, content = tmp_path / "x", document([record(["0/1"])], 1)
    for other in document([record(["1/1"])], 1), content.replace("s0", "s1"):
        path.write_text(content)
        file = VcfFile(path)
        before = file.digest
        assert [called.dosages.tolist() for called in file.batches(Every())] == [[[1]]]
        path.write_text(other)
        with pytest.raises(ImportRefusedError, match="VCF_CHANGED"):
            list(file.batches(Every()))
        assert file.digest == before


def table(path: Path, index: int, most: int = 300) -> NDArray[np.int8]:
    """By htslib, of the first records."""
    rows = []
    with pysam.VariantFile(str(path)) as file:
        for each in islice(file, most):
            if index > len(each.alts or ()) or not {*each.filter.keys()} <= {"PASS"}:
                continue
            calls = [sample.allele_indices or (None,) for sample in each.samples.values()]
            real = [set(allele) <= set("ACGTacgt") for allele in each.alleles or ()]
            rows.append([
                sum(allele == index for allele in call)
                if len(call) <= 2 and all(allele is not None and real[allele] for allele in call)
                else -1
                for call in calls
            ])  # fmt: skip
    return np.array(rows, np.int8)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_traps_agree_with_htslib(tmp_path: Path, index: int) -> None:
    path = tmp_path / "x.vcf"
    records = [
        record(["0/.", "./1", "0/1", "1"]),
        record(["0/1", "1|2", "./.", "2/2"], "G,*"),
        record(["0/1", "1/1", ".", "0|0"], "<DEL>"),
        record(["0/11", "11|12", "2/1", "0"], ALTS[-1]),
        record(["0/1:7", "1/1", "./.:.", "0:3"], form="GT:DP"),
        record(["0/0", "0|0", "./.", "0"], "."),
        record(["0/1/1", "1/1", "./.", "0"], "GT"),
    ]
    batches, _ = read(path, document(records, 4), index)
    found = np.concatenate([called.dosages for called in batches])
    assert np.array_equal(found, table(path, index))
    binary = tmp_path / "x.bcf"
    subprocess.run(["bcftools", "view", "-Ob", "-o", str(binary), str(path)], check=True, capture_output=True)
    assert np.array_equal(np.concatenate([each.dosages for each in VcfFile(binary).batches(Every(index))]), found)


def test_damaged_bcf(tmp_path: Path) -> None:
    text, path = tmp_path / "x.vcf", tmp_path / "x.bcf"
    text.write_text(document([record(["0/1", "1/1"]) for _ in range(300)], 2))
    subprocess.run(["bcftools", "view", "-Ob", "-o", str(path), str(text)], check=True, capture_output=True)
    whole = path.read_bytes()
    assert refusal(path, whole[:-28]) == ("VCF_TRUNCATED", None)
    assert refusal(path, whole[: len(whole) // 2] + b"\0" + whole[len(whole) // 2 + 1 :])[0] == "VCF_CORRUPT"
    inside = gzip.decompress(whole)
    for damaged in inside[:-9], inside[:-9] + b"\xff" * 9, inside[:12] + b"#" + inside[13:]:
        assert refusal(path, compressed(damaged))[0] in {"VCF_UNREADABLE", "VCF_HEADER", "VCF_RECORD", "VCF_CALL"}


def test_damage_is_never_silent(tmp_path: Path) -> None:
    """Truncation at every block and bit flips anywhere: refused, or the same calls."""
    rng, path = random.Random(3), tmp_path / "x"
    records = [record([rng.choice(["0/0", "0/1", "1|1"]) for _ in range(20)], pos=at + 1) for at in range(40)]
    whole = compressed(document(records, 20).encode(), 300)
    right = np.concatenate([called.dosages for called in read(path, whole)[0]])
    cuts = [match.start() for match in re.finditer(re.escape(bgzf.END[:16]), whole)][1:]
    for cut in cuts:
        assert refusal(path, whole[:cut])[0] == "VCF_TRUNCATED"
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        try:
            found = np.concatenate([called.dosages for called in read(path, bytes(flipped))[0]])
        except ImportRefusedError:
            continue
        assert np.array_equal(found, right)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are absent")
@pytest.mark.parametrize("name", ["hail_sample", "kg_phase3_chr21_start_2504x600", "shapeit4_unphased"])
def test_public_files_agree_with_htslib(name: str, tmp_path: Path) -> None:
    path = DATA / f"{name}.vcf.gz"
    found = np.concatenate([called.dosages for called in VcfFile(path).batches(Every())])
    (tmp_path / "x.vcf").write_bytes(gzip.decompress(path.read_bytes()))
    right = table(tmp_path / "x.vcf", 1)
    assert len(right) > 100
    assert np.array_equal(found[: len(right)], right)


def test_the_benchmark_runs_and_its_readers_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = genotype_pass.measure(60, 150, rounds=1)
    assert [row["row"] for row in rows] == [f"genotypes.1.{peer}" for peer in genotype_pass.BARS]
    assert all(isinstance(row["value"], float) and row["value"] > 0 for row in rows)
