"""PGEN and BGEN against the VCFs that they were made of, and against naive readings; damaged files."""

import gzip
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cyvcf2
import numpy as np
import pytest
from bgen import BgenReader, BgenWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genopact_ingest.bgen import BgenFile
from genopact_ingest.findings import ImportRefusedError
from genopact_ingest.plink import PgenFile
from genopact_ingest.ploidy import FEMALE, MALE, UNKNOWN
from genopact_ingest.source import Called, Source
from genopact_shared.errors import GenopactError
from tests.unit.harmonisers import Every, Sites, dosages

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "vcf_real_small"
TINY, UNPHASED = DATA / "tiny1000G_3202x1004.vcf.gz", DATA / "shapeit4_unphased.vcf.gz"


ABSENT = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are absent")


few = settings(max_examples=25, deadline=None)
HEADER = """##fileformat=VCFv4.3
##contig=<ID=7,length=159138663>
##FILTER=<ID=q10,Description="low">
##FORMAT=<ID=GT,Number=1,Type=String,Description="call">
##FORMAT=<ID=DS,Number=A,Type=Float,Description="copies">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tAnn\tBob\tCyd\tDee
"""
CALLS = """\
7\t100\ta\tA\tG\t.\t.\t.\tGT\t0|1\t1|0\t0/1\t1/1
7\t200\tb\tC\tT,G\t.\tPASS\t.\tGT\t1|2\t2|0\t./.\t2/2
7\t300\tc\tCAT\tC\t.\tq10\t.\tGT\t0|1\t1|0\t0/1\t1/1
7\t400\td\tT\tG,*\t.\t.\t.\tGT\t1|2\t0/1\t0|0\t2|2
"""
DOSES = """\
7\t100\ta\tA\tG\t.\t.\t.\tGT:DS\t0|1:0.9\t1|0:1\t./.:0.5\t1/1:1.75
7\t200\tb\tA\tG\t.\t.\t.\tGT:DS\t0/0:0\t0/1:1\t1/1:2\t./.:.
"""


def plink2(folder: Path, *arguments: object) -> None:
    subprocess.run(["plink2", *map(str, arguments), "--out", folder / "x"], check=True, capture_output=True)


def pgen_of(folder: Path, records: str, *options: str) -> Path:
    (folder / "x.vcf").write_text(HEADER + records)
    plink2(folder, "--vcf", folder / "x.vcf", *options, "--make-pgen")
    return folder / "x.pgen"


def read(source: Source, index: int = 1) -> Called:
    (called,) = source.batches(Every(index))
    return called


def agree(source: Source, path: Path, *, doubled: bool, but: Sequence[str] = ()) -> None:
    """A reader and cyvcf2 say the same of a biallelic file but of some people; `doubled`: haploid calls count twice."""
    vcf = cyvcf2.VCF(str(path))
    assert list(source.samples) == vcf.samples
    people = np.array([name not in but for name in vcf.samples])
    sites, genotypes = [], []
    for variant in vcf:
        sites.append((variant.CHROM, variant.POS, variant.REF, tuple(variant.ALT)))
        genotypes.append(variant.genotype.array()[people])
    first, second, phased = np.array(genotypes).transpose(2, 0, 1)
    haploid = second == -2
    second = np.where(haploid, first if doubled else 0, second)
    known = (first >= 0) & (second >= 0)
    clear = known & ((phased > 0) | (first == second) | haploid)
    one = haploid & (not doubled)
    copies = np.where(known, first + second, -1)
    every = Every()
    found = list(source.batches(every))
    assert [record[:4] for record in every.seen] == sites

    def whole(parts: Iterable[NDArray[np.generic] | None]) -> NDArray[np.generic]:
        """(variants, people); zeros for a batch without."""
        zeros = (np.zeros(called.dosages.shape) for called in found)
        return np.concatenate([none if part is None else part for part, none in zip(parts, zeros, strict=True)])[
            :, people
        ]

    np.testing.assert_array_equal(whole(called.dosages for called in found), copies)
    np.testing.assert_array_equal(whole(called.haplotypes for called in found), np.where(clear, first + 2 * second, 0))
    np.testing.assert_array_equal(whole(called.haploid for called in found), one)
    other = dosages(source, Every(0))[:, people]
    np.testing.assert_array_equal(other, np.where(known, np.where(one, 1, 2) - copies, -1))


@pytest.mark.data
@ABSENT
@pytest.mark.parametrize("path", [TINY, UNPHASED], ids=["phased", "unphased"])
def test_a_real_pgen_equals_its_vcf(tmp_path: Path, path: Path) -> None:
    with gzip.open(path, "rt") as file:
        (tmp_path / "part.vcf").write_text("".join(itertools.islice(file, 3000)))
    path = tmp_path / "part.vcf"
    plink2(tmp_path, "--vcf", path, "--make-pgen")
    source = PgenFile(tmp_path / "x.pgen", phases=True)
    agree(source, path, doubled=True)


@pytest.mark.data
@ABSENT
def test_a_real_bgen_equals_its_vcf() -> None:
    file = BgenFile(DATA / "tiny1000G.bgen", reference="last", phases=True)
    agree(file, TINY, doubled=False, but=["HG03511", "NA21144"])  # its maker took their sex for another
    assert all(called.expected is None for called in file.batches(Every()))  # it was made of hard calls


@pytest.mark.parametrize("form", [["bgen-1.2", "bits=8"], ["bgen-1.2", "bits=16"], ["bgen-1.3", "bits=8"]])
@pytest.mark.parametrize("place", ["first", "last"])
def test_bgens_that_plink2_writes(tmp_path: Path, form: list[str], place: str) -> None:
    records = "".join(line + "\n" for line in CALLS.splitlines() if "," not in line and "q10" not in line)
    path = pgen_of(tmp_path, records)
    order = ["ref-first"] if place == "first" else []
    plink2(tmp_path, "--pfile", path.with_suffix(""), "--export", *form, *order, "id-paste=iid")
    called = read(BgenFile(path.with_suffix(".bgen"), reference="first" if place == "first" else "last"))
    assert called.dosages.tolist() == [[1, 1, -1, 2]]  # without phase Cyd's haplotypes are a half each: not certain
    assert called.expected is not None
    assert called.expected.tolist() == [[127, 127, 127, 254]]
    assert called.haplotypes is None


def test_pgen_calls_alleles_and_phases(tmp_path: Path) -> None:
    file, every = PgenFile(pgen_of(tmp_path, CALLS), phases=True), Every()
    assert file.samples == ("Ann", "Bob", "Cyd", "Dee")
    (called,) = file.batches(every)
    assert called.rows.tolist() == [0, 1, 2]
    assert [record[:4] for record in every.seen] == [
        ("7", 100, "A", ("G",)),
        ("7", 200, "C", ("T", "G")),
        ("7", 400, "T", ("G", "*")),
    ]
    assert file.notes == {"not_pass": 1}
    assert called.haplotypes is not None
    assert called.expected is None
    assert called.haploid is None
    assert called.dosages.tolist() == [[1, 1, 1, 2], [1, 0, -1, 0], [-1, 1, 0, -1]]
    assert called.haplotypes.tolist() == [[2, 1, 0, 3], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert read(file, 0).dosages.tolist() == [[1, 1, 1, 0], [0, 1, -1, 0], [-1, 1, 2, -1]]
    assert read(PgenFile(tmp_path / "x.pgen"), 2).haplotypes is None
    assert read(file, 2).dosages.tolist() == [[1, 1, -1, 2], [-1, 0, 0, -1]]  # nobody has `*` for certain
    assert [called.rows.tolist() for called in file.batches(Sites([400, 9]))] == [[0]]


def test_pgen_dosages(tmp_path: Path) -> None:
    file = PgenFile(pgen_of(tmp_path, DOSES, "dosage=DS"))
    called, other = read(file), read(file, 0)
    assert called.expected is not None
    assert other.expected is not None
    assert called.dosages.tolist() == [[1, 1, -1, -1], [0, 1, 2, -1]]
    assert called.expected.tolist() == [[114, 127, 64, 222], [0, 127, 254, 255]]
    assert other.expected.tolist() == [[140, 127, 190, 32], [254, 127, 0, 255]]


def test_pgen_sex_and_names(tmp_path: Path) -> None:
    path = pgen_of(tmp_path, CALLS)
    people = path.with_suffix(".psam")
    people.write_text("##a comment\n#FID\tIID\tSEX\nf\tAnn\t2\nf\tBob\t1\ng\tAnn\tNA\ng\tDee\tm\n")
    file = PgenFile(path)
    assert file.samples == ("f_Ann", "f_Bob", "g_Ann", "g_Dee")
    assert file.sex.tolist() == [FEMALE, MALE, UNKNOWN, MALE]


def test_without_pgenlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pgenlib", None)
    with pytest.raises(GenopactError, match=r"EXTRA_MISSING.*genopact-ingest\[plink\]"):
        PgenFile(tmp_path / "x.pgen")


def refused(source: Callable[[], Source]) -> tuple[str, int | None, str]:
    with pytest.raises(ImportRefusedError) as caught:
        list(source().batches(Every()))
    (finding,) = caught.value.findings
    assert not any(word in str(caught.value) for word in ("Ann", "Bob", "tmp"))
    return finding.code, finding.row, finding.column


@pytest.mark.parametrize(
    ("suffix", "old", "new", "expected"),
    [
        (".psam", "Bob", "Ann", ("GENOTYPES_SAMPLES", None, "")),
        (".psam", "Bob\tNA\n", "", ("GENOTYPES_UNREADABLE", None, ".pgen")),
        (".psam", "Bob\tNA\n", "Bob\n", ("GENOTYPES_LINE", 3, ".psam")),
        (".psam", "#IID", "#NAME", ("GENOTYPES_LINE", 2, ".psam")),
        (".pvar", "#CHROM", "#CHR", ("GENOTYPES_LINE", None, ".pvar")),
        (".pvar", "7\t200", "7\t2e2", ("GENOTYPES_LINE", None, ".pvar")),
        (".pvar", "7\t200", "7\t\u00b2", ("GENOTYPES_LINE", None, ".pvar")),
        (".pvar", "7\t200\tb", "7\t200", ("GENOTYPES_LINE", None, ".pvar")),
        (".pvar", "T,G", "T", ("GENOTYPES_UNREADABLE", None, ".pgen")),
        (".pvar", "7\t100.*\n", "", ("GENOTYPES_UNREADABLE", None, ".pgen")),
    ],
)
def test_one_fault_of_a_pgen(
    tmp_path: Path, suffix: str, old: str, new: str, expected: tuple[str, int | None, str]
) -> None:
    path = pgen_of(tmp_path, CALLS)
    text = path.with_suffix(suffix).read_text()
    assert re.search(old, text)
    path.with_suffix(suffix).write_text(re.sub(old, new, text, count=1))
    code, row, column = refused(lambda: PgenFile(path))
    assert (code, column) == (expected[0], expected[2])
    assert expected[1] in {None, row}


FUZZ = """
import sys
from pathlib import Path
import numpy as np
from genopact_ingest.findings import ImportRefusedError
from genopact_ingest.plink import PgenFile
from tests.unit.harmonisers import Every
path, data, rng, counts = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes(), np.random.default_rng(0), [0, 0, 0]
def read():
    return [called.dosages for called in PgenFile(path, phases=True).batches(Every())][0]
whole = read()
for at in range(len(data)):
    flipped = bytearray(data)
    flipped[at] ^= 1 << int(rng.integers(8))
    for damaged in (data[:at], bytes(flipped)):
        path.write_bytes(damaged)
        try:
            found = read()
            assert len(damaged) == len(data) and found.shape == whole.shape
            counts[int((found != whole).any())] += 1
        except ImportRefusedError:
            counts[2] += 1
print(*counts)
"""


@pytest.mark.parametrize(("records", "option"), [(CALLS, []), (DOSES, ["dosage=DS"])])
def test_a_damaged_pgen_never_ends_the_process(tmp_path: Path, records: str, option: list[str]) -> None:
    """In a process of its own: every truncation is refused, every flip is refused or read as a file of that shape."""
    path = pgen_of(tmp_path, records, *option)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, *(ROOT / "ingest", ROOT / "shared")]))}
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, path], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    same, other, stopped = map(int, done.stdout.split())
    assert stopped > same + other > 0


def by_letter(path: Path, effect: int) -> tuple[list[list[int]], list[list[float]], list[list[int]], list[list[bool]]]:
    """Naive reference: each person by itself, from the probabilities that another library reads."""
    table: list[list[tuple[int, float, int, bool]]] = []
    for variant in BgenReader(path, delay_parsing=False):
        k, row = len(variant.alleles), list[tuple[int, float, int, bool]]()
        for copies, shares in zip(variant.ploidy.tolist(), variant.probabilities.astype(float), strict=True):
            orders = [tuple(reversed(order)) for order in itertools.combinations_with_replacement(range(k), copies)]
            genotypes = sorted((tuple(sorted(order)) for order in orders), key=lambda order: order[::-1])
            if variant.is_phased:
                both = shares[: copies * k].reshape(copies, k)
                genotypes = list(itertools.product(range(k), repeat=copies))
                shares = np.array(  # noqa: PLW2901
                    [np.prod([both[h, a] for h, a in enumerate(order)]) for order in genotypes]
                )
            if np.isnan(shares[0]):
                row.append((-1, 255, 0, copies == 1))
                continue
            counted = [order.count(effect) for order in genotypes]
            expected = sum(share * count for share, count in zip(shares, counted, strict=False))
            best = int(np.argmax(shares[: len(genotypes)]))
            carried = [int(allele == effect) for allele in genotypes[best]]
            certain = shares[best] > 0.9
            clear = certain and (variant.is_phased or copies == 1 or len(set(carried)) == 1)
            bits = sum(bit << place for place, bit in enumerate(carried)) if clear else 0
            row.append((counted[best] if certain else -1, expected * 127, bits, copies == 1))
        table.append(row)
    return tuple([[person[field] for person in row] for row in table] for field in range(4))  # type: ignore[return-value]


@few
@given(
    st.integers(1, 6),
    st.integers(2, 4),
    st.booleans(),
    st.sampled_from([8, 16]),
    st.sampled_from([None, "zlib", "zstd"]),
    st.booleans(),
    st.integers(0, 2**32),
)
@pytest.mark.filterwarnings("ignore")
def test_bgen_against_a_naive_reading(
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    k: int,
    phased: bool,
    bits: int,
    compression: str | None,
    haploid: bool,
    seed: int,
) -> None:
    rng, path = np.random.default_rng(seed), tmp_path_factory.mktemp("bgen") / "x.bgen"
    ploidy = rng.integers(1, 3, n).astype(np.uint8) if haploid else np.full(n, 2, np.uint8)
    most = int(ploidy.max())
    with BgenWriter(path, n, [f"P{at}" for at in range(n)], compression) as writer:
        for at in range(3):
            shares = np.full((n, most * k if phased else k * (k + 1) // 2 if most == 2 else k), np.nan)
            for row, copies in enumerate(ploidy.tolist()):
                size = k if phased or copies == 1 else k * (k + 1) // 2
                drawn = rng.dirichlet(np.full(size, rng.choice([0.05, 1])), copies if phased else 1)
                shares[row, : drawn.size] = drawn.ravel() if rng.random() > 0.1 else np.nan
            writer.add_variant(f"v{at}", f"rs{at}", "7", 100 + at, list("ACGT"[:k]), shares, ploidy, phased, bits)
    effect = int(rng.integers(k))
    called = read(BgenFile(path, phases=True), effect)
    hard, expected, haplotypes, one = by_letter(path, effect)
    assert called.dosages.tolist() == hard
    assert called.haplotypes is not None
    assert called.haplotypes.tolist() == haplotypes
    hard_only = np.where(called.dosages < 0, 255, called.dosages * np.int16(127))
    np.testing.assert_allclose(hard_only if called.expected is None else called.expected, expected, atol=0.51)
    assert (called.haploid is None) == (1 not in ploidy)
    if called.haploid is not None:
        assert called.haploid.tolist() == one
    turned = read(BgenFile(path, reference="last", phases=True), (effect + 1) % k)
    np.testing.assert_array_equal(turned.dosages, called.dosages)


def bgen(folder: Path, compression: str | None = "zlib", samples: list[str] | None = None) -> Path:
    path = folder / "x.bgen"
    with BgenWriter(path, 5, samples, compression) as writer:
        for at in range(4):
            shares = np.random.default_rng(at).dirichlet([0.1] * 3, 5)
            writer.add_variant(f"v{at}", f"rs{at}", "7", 100 + at, ["A", "CT"], shares)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
def test_a_damaged_bgen(tmp_path: Path, compression: str | None) -> None:
    """Cut anywhere: refused. A flip is refused; or it is outside the blocks, whose calls are then the same; or there
    was no checksum."""
    path = bgen(tmp_path, compression, list("abcde"))
    whole, called = path.read_bytes(), read(BgenFile(path))
    refusals = silent = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at])
        assert refused(lambda: BgenFile(path))[0] in {"GENOTYPES_UNREADABLE", "GENOTYPES_SAMPLES"}
        for bit in {at % 8, (at + 3) % 8}:
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                found = read(BgenFile(path))
            except ImportRefusedError:
                refusals += 1
                continue
            assert found.dosages.shape == called.dosages.shape
            silent += bool((found.dosages != called.dosages).any() or (found.expected != called.expected).any())  # type: ignore[union-attr]
    assert refusals > 250
    assert (silent == 0) == (compression == "zlib")
    path.write_bytes(whole + b"\0")
    assert refused(lambda: BgenFile(path)) == ("GENOTYPES_UNREADABLE", None, ".bgen")


@pytest.mark.filterwarnings("ignore")
def test_bgens_without_or_with_repeated_names(tmp_path: Path) -> None:
    assert refused(lambda: BgenFile(bgen(tmp_path)))[0] == "GENOTYPES_SAMPLES"
    assert refused(lambda: BgenFile(bgen(tmp_path, samples=list("abcda"))))[0] == "GENOTYPES_SAMPLES"
    assert refused(lambda: BgenFile(tmp_path))[0] == "GENOTYPES_UNREADABLE"


@pytest.mark.filterwarnings("ignore")
def test_a_block_may_not_claim_more_than_its_people_need(tmp_path: Path) -> None:
    path = bgen(tmp_path, "zstd", list("abcde"))
    data = bytearray(path.read_bytes())
    at = data.index(b"\x02\x00\x01\x00\x00\x00A\x02\x00\x00\x00CT") + 13
    assert int.from_bytes(data[at + 4 : at + 8], "little") == 8 + 5 + 2 + 10
    data[at + 4 : at + 8] = (4_000_000_000).to_bytes(4, "little")
    path.write_bytes(data)
    assert refused(lambda: BgenFile(path)) == ("GENOTYPES_UNREADABLE", None, ".bgen")


def test_nothing_native_speaks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = pgen_of(tmp_path, CALLS)
    shutil.copy(path, tmp_path / "whole")
    path.write_bytes((tmp_path / "whole").read_bytes()[:-3])
    assert refused(lambda: PgenFile(path))[0] == "GENOTYPES_UNREADABLE"
    assert capfd.readouterr() == ("", "")
