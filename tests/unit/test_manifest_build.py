import gzip
import json
import math
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from genopact_server import scoring
from genopact_server.cli import app
from genopact_server.folder import Folder
from genopact_server.manifests import Draft, Fasta, difference, kind, with_counts
from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.manifest import VariantManifest, load
from tests.unit.faulty import faulty
from tests.unit.variant_rows import manifest

SCORES = Path(__file__).parents[3] / "shared" / "data" / "pgs_catalog_scores"
LETTERS = "GATTACACACACAGGGCTTCCTGAAACCCGGGTTTACGATCC"


@pytest.fixture
def fasta(tmp_path: Path) -> Fasta:
    (tmp_path / "made.fa").write_text(f">chr7\n{LETTERS.lower()}\n>chrM\nGATTACA\n>scaffold\nAC\n")
    return Fasta(tmp_path / "made.fa")


def score(path: Path, *rows: str, head: str = "#genome_build=GRCh38", columns: str = "") -> Path:
    names = f"rsID chr_name chr_position effect_allele other_allele effect_weight{columns}".split()
    path.write_text(
        "\n".join(
            ["###PGS CATALOG", head, "\t".join(names), *("\t".join(row.split()).replace("_", "") for row in rows), ""]
        )
    )
    return path


def lines(found: VariantManifest) -> list[str]:
    return [" ".join(row.split("\t")) for row in found.encode().decode().splitlines()[len(found.head) + 1 :]]


def drafted(path: Path, fasta: Fasta | None, build: str | None = None) -> tuple[list[str], Counter[str]]:
    draft = Draft(fasta)
    found = draft.manifest("small", 1, scoring.read_score(path, draft, build))
    return lines(found), +draft.left_out


def test_the_reference_says_which_letter_is_ref(tmp_path: Path, fasta: Fasta) -> None:
    path = score(
        tmp_path / "s.txt",
        "rs1 7 2 G A 0.5",
        "rs2 chr7 3 T C -1e-3",
        "rs3 7 4 t _ 0.1",
        "rs4 7 17 T _ 0.1",
        "rs5 7 18 G A/C 0.1",
        "rs6 7 19 G A/C 0.1",
        "rs7 7 11 ACAC ACA 2",
        "rs8 7 13 A ATG 2",
        "rs9 7 5 A ACA 2",
        "rs10 MT 2 A G 3",
    )
    found, left = drafted(path, fasta)
    assert found == [
        "7 2 A G alt . rs1 . . autosome 5.00000000e-01",
        "7 3 T C ref . rs2 . . autosome -1.00000000e-03",
        "7 13 A AC alt . rs7 . . autosome 2.00000000e+00",
        "7 13 A ATG ref . rs8 . . autosome 2.00000000e+00",
        "7 17 C T alt . rs4 . . autosome 1.00000000e-01",
        "7 18 T G alt . rs5 . . autosome 1.00000000e-01",
        "7 19 T G alt . rs6 . . autosome 1.00000000e-01",
        "MT 2 A G ref . rs10 . . mt 3.00000000e+00",
    ]
    assert left == {"no_other_allele": 1, "two_readings": 1}


def test_without_a_reference_only_substitutions(tmp_path: Path) -> None:
    path = score(tmp_path / "s.txt", "rs1 7 2 G A 0.5", "rs2 7 5 A ACA 2", "rs3 7 9 AC AT 1")
    assert drafted(path, None) == (["7 2 A G alt . rs1 . . autosome 5.00000000e-01"], Counter(needs_a_reference=2))
    with pytest.raises(GenopactError, match="2 variants have no other allele: give --reference"):
        drafted(score(path, "rs1 7 2 G _ 0.5", "rs2 7 3 T _ 1", "rs3 7 4 T C 1"), None)


def test_what_no_weight_for_copies_can_be_is_left_out(tmp_path: Path, fasta: Fasta) -> None:
    rows = (
        "rs1 7 2 G A 0.5 False FALSE 0.25 G1,_G2",
        "rs2 7 2 T A 0.5 True False . .",
        "rs3 7 2 C A 0.5 False TRUE . .",
        "rs4 7 3 C T nan False False . .",
        "rs5 7 3 C T inf False False . .",
        "rs6 7 3 C T x False False . .",
        "rs7 7 _ C T 1 False False . .",
        "rs8 7 -3 C T 1 False False . .",
        "rs9 HSCHR6_1 3 C T 1 False False . .",
        "rs10 6 3 DRB1*01 T 1 False False . .",
        "rs11 7 4 T C 1 False False 2 .",
    )
    path = score(tmp_path / "s.txt", *rows, columns=" is_haplotype is_recessive allelefrequency_effect locus_name")
    assert drafted(path, fasta) == (
        ["7 2 A G alt 0.250000 rs1 G1,G2 . autosome 5.00000000e-01", "7 4 T C ref . rs11 . . autosome 1.00000000e+00"],
        Counter(no_weight_for_copies=5, no_place=3, no_letters=1),
    )


@pytest.mark.parametrize(
    ("head", "build", "found"),
    [
        ("#genome_build=hg19\t\t", None, "GRCh37"),
        ("#genome_build=GRCh38", "GRCh38", "GRCh38"),
        ("#genome_build=NR", "GRCh37", "GRCh37"),
        ("#genome_build=NR", None, None),
        ("#other=1", None, None),
        ("#genome_build=hg38", "GRCh37", None),
    ],
)
def test_builds(tmp_path: Path, head: str, build: str | None, found: str | None) -> None:
    path = score(tmp_path / "s.txt", "rs1 7 2 G A 0.5", head=head)
    if found:
        assert scoring.read_score(path, Draft(None), build) == found
    else:
        with pytest.raises(GenopactError, match="SITES_INVALID"):
            scoring.read_score(path, Draft(None), build)


def test_harmonised_positions_go_before_others(tmp_path: Path) -> None:
    head = "#genome_build=hg19\n#HmPOS_build=GRCh38"
    path = score(tmp_path / "s.txt", "rs1 7 9 G A 0.5 7 2", "rs1 7 9 G C 0.5 _ _", head=head, columns=" hm_chr hm_pos")
    draft = Draft(None)
    assert scoring.read_score(path, draft, None) == "GRCh38"
    assert draft.left_out == {"no_place": 1}
    assert draft.manifest("x", 1, "GRCh38").pos.tolist() == [2]


def test_a_score_of_another_build_is_refused(tmp_path: Path, fasta: Fasta) -> None:
    rows = [
        f"rs{at} 7 {at} {LETTERS[at + 4]} N 1".replace(" N ", f" {'ACGT'['ACGT'.index(LETTERS[at + 4]) - 1]} ")
        for at in range(1, 30)
    ]
    with pytest.raises(GenopactError, match="VARIANT_BUILD"):
        drafted(score(tmp_path / "s.txt", *rows), fasta)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8bbroken",
        b"\xff\xfe",
        b"#genome_build=GRCh38\n",
        b"rsID\teffect_allele\teffect_weight\n1\tA\t2\n",
        b"chr_name\tchr_position\teffect_allele\tdosage_1_weight\n1\t2\tA\t1\n",
        b"chr_name\tchr_position\teffect_allele\tother_allele\teffect_weight\n1\t2\tA\tC\n",
        b"chr_name\tchr_name\n1\t2\n",
    ],
)
def test_what_is_no_score_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(GenopactError, match="SITES_INVALID"):
        scoring.read_score(tmp_path / "s", Draft(None), "GRCh38")


VCF = """##fileformat=VCFv4.2
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO
chr7\t2\trs1;rs2\tA\tG,T,*\t.\t.\tDP=3;AF=0.25,0.5,0
7\t5\t.\tACA\tA\t.\t.\tAF=0.1
7\t10\t.\tCAC\tC,CG\t.\t.\t.
7\t3\t.\tG\tT\t.\t.\t.
8\t3\t.\tG\tT\t.\t.\t.
"""


def test_sites_of_a_vcf(tmp_path: Path, fasta: Fasta) -> None:
    path, draft = tmp_path / "s.vcf.gz", Draft(fasta)
    path.write_bytes(
        gzip.compress((VCF + "".join(f"7\t{at}\t.\t{LETTERS[at - 1]}\tN\t.\t.\t.\n" for at in range(20, 25))).encode())
    )
    scoring.read_sites(path, draft)
    assert draft.left_out == {"no_letters": 6, "not_on_the_reference": 2, "twice": 2}
    draft.left_out["not_on_the_reference"] = 0
    assert lines(draft.manifest("x", 1, "GRCh38")) == [
        "7 2 A G alt 0.250000 rs1 . . autosome",
        "7 2 A T alt 0.500000 rs1 . . autosome",
        "7 11 AC G alt . . . . autosome",
    ]


def test_sites_of_a_table(tmp_path: Path) -> None:
    path, draft = tmp_path / "s.tsv", Draft(None)
    path.write_text(
        "#chrom\tpos\tref\talt\teffect\tfrequency\tgene\tpc1\taf_eur\tother\n"
        "chrX\t100000\tA\tG\tA\t0.5\tG 1\t-2\t0.25\t9\n"
        "2\t7\tA\tG\tref\t\t\t\t\t\n"
        "2\t6\tAT\tA\t\t7\t\t\t\t\n"
        "2\t6\tATT\tAT\t\t7\t\t\t\t\n"
        "2\t5\ta\tg\tT\t\t\t\t\t\n"
        "2\t9\tC\tG\talt\t\t\t\t\t\n"
        "2\t9\tA\tG\talt\t\t\t\t\t\n"
    )
    scoring.read_sites(path, draft)
    found = draft.manifest("x", 1, "GRCh38")
    assert draft.left_out == {"no_effect_allele": 1, "twice": 2, "two_references": 2}
    assert list(found.extra) == ["af_eur", "pc1"]
    assert lines(found) == [
        "2 7 A G ref . . . . autosome . .",
        "X 100000 A G ref 0.500000 . G1 . par 0.250000 -2.00000000e+00",
    ]
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(GenopactError, match="SITES_INVALID"):
        scoring.read_sites(path, draft)
    with pytest.raises(GenopactError, match="no variant is left"):
        Draft(None).manifest("x", 1, "GRCh38")


def test_classes_of_places() -> None:
    assert [kind("GRCh38", "X", pos) for pos in (10_000, 10_001, 2_781_479, 2_781_480, 155_701_383)] == [
        "x",
        "par",
        "par",
        "x",
        "par",
    ]
    assert [kind("GRCh37", *place) for place in (("Y", 10_001), ("Y", 3_000_000), ("MT", 5), ("1", 60_001))] == [
        "par",
        "y",
        "mt",
        "autosome",
    ]
    assert kind("made", "X", 100_000) == "x"


def test_pooled_counts_give_frequencies() -> None:
    old = manifest(*(f"1 {at} A G alt 0.100000" for at in range(1, 7)))
    model = {"copies": np.array([10, 0, 200, -3, 500, 5.0]), "people": np.array([100, 100, 100, 100, 100, 0.0])}
    new = with_counts(old, wire.pack(model), "study x")
    assert (new.version, new.frequencies, new.name) == (2, "study x", "small")
    np.testing.assert_array_equal(new.frequency, [0.05, 0, 1, 0, 1, math.nan])
    for wrong in ({"copies": model["copies"]}, model | {"people": np.ones(5)}, {"sum": np.ones(6)}):
        with pytest.raises(GenopactError, match="SITES_INVALID"):
            with_counts(old, wire.pack(wrong), "x")
    with pytest.raises(GenopactError, match="FRAME_INVALID"):
        with_counts(old, b"nothing", "x")


def test_differences() -> None:
    old = manifest("1 1 A G alt 0.100000", "1 2 A G alt .", "1 3 A G alt .")
    new = manifest("1 1 A G ref 0.200000", "1 3 A G alt .", "1 4 A G alt .")
    assert list(difference(old, new)) == [
        ("changed", "1:1 A>G: effect alt -> ref, frequency 0.100000 -> 0.200000"),
        ("added", "1:4 A>G"),
        ("removed", "1:2 A>G"),
    ]
    wider = manifest(
        "1 1 A G alt 0.100000 . . . autosome 0.500000",
        "1 2 A G alt . . . . autosome .",
        "1 3 A G alt . . . . autosome .",
        columns="af_eur",
    )
    assert list(difference(old, wider)) == [("changed", "1:1 A>G: af_eur . -> 0.500000")]
    assert list(difference(old, old)) == []


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["manifest", *map(str, arguments), "--format", "json"])


def test_the_commands(tmp_path: Path, fasta: Fasta) -> None:
    Folder.create(tmp_path / "hub", "hub", "localhost:1")
    signer = Folder(tmp_path / "hub").identity.public
    first, second = tmp_path / "one.variants", tmp_path / "two.variants"
    path = score(tmp_path / "s.txt", "rs1 7 2 G A 0.5", "rs2 7 3 C T _")
    built = run(
        "build",
        first,
        "--name",
        "one",
        "--score",
        path,
        "--home",
        tmp_path / "hub",
        "--reference",
        tmp_path / "made.fa",
    )
    assert built.exit_code == 0, built.output
    said = json.loads(built.stdout)["data"]
    assert said["left_out"] == {"no_weight_for_copies": 1}
    found = load(first, [signer])
    assert (found.digest, found.reference) == (said["digest"], fasta.digest)
    assert (
        json.loads(run("build", first, "--name", "one", "--score", path, "--home", tmp_path / "hub").stdout)["data"][
            "code"
        ]
        == "MANIFEST_EXISTS"
    )

    SigningKey.generate().save(tmp_path / "key")
    (tmp_path / "pooled").write_bytes(wire.pack({"copies": np.array([3.0]), "people": np.array([2.0])}))
    again = run(
        "build",
        second,
        "--old",
        first,
        "--counts",
        tmp_path / "pooled",
        "--key",
        tmp_path / "key",
        "--frequencies",
        "pilot",
    )
    assert again.exit_code == 0, again.output
    changed = json.loads(run("diff", first, second).stdout)["data"]
    assert changed == {
        "head": ["version 1 -> 2", "frequencies . -> pilot"],
        "added": [],
        "removed": [],
        "changed": ["7:2 A>G: frequency . -> 0.750000"],
    }

    shown = json.loads(run("show", second).stdout)["data"]
    assert (shown["signature"], shown["variants"], shown["frequencies_known"]) == ("not checked", 1, 1)
    assert json.loads(run("show", first, "--signer", signer.hex).stdout)["data"]["signature"] == "holds"
    assert json.loads(run("show", second, "--signer", signer.hex).stdout)["data"]["code"] == "SIGNATURE_INVALID"
    assert json.loads(run("show", tmp_path / "none").stdout)["data"]["code"] == "MANIFEST_MISSING"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--name", "x"],
        ["--score", "s"],
        ["--name", "x", "--score", "s", "--sites", "t"],
        ["--old", "m"],
        ["--counts", "c", "--name", "x"],
        ["--name", "x", "--score", "s", "--old", "m", "--counts", "c"],
    ],
)
def test_sources_are_given_one_at_a_time(tmp_path: Path, options: list[str]) -> None:
    assert json.loads(run("build", tmp_path / "m", *options).stdout)["data"]["code"] == "USAGE"
    assert not (tmp_path / "m").exists()


def test_a_list_of_sites_needs_a_build(tmp_path: Path) -> None:
    (tmp_path / "s.vcf").write_text(VCF)
    SigningKey.generate().save(tmp_path / "key")
    options = ["--name", "x", "--sites", tmp_path / "s.vcf", "--key", tmp_path / "key"]
    assert json.loads(run("build", tmp_path / "m", *options).stdout)["data"]["code"] == "USAGE"
    assert run("build", tmp_path / "m", *options, "--build", "GRCh38").exit_code == 0


@pytest.mark.data
@pytest.mark.skipif(not SCORES.is_dir(), reason="the public data sets are absent")
def test_published_scores() -> None:
    expected = {
        "PGS000001_hmPOS_GRCh37.txt": 77, "PGS000001_hmPOS_GRCh37.txt.gz": 77, "PGS000001_hmPOS_GRCh38.txt": 77,
        "PGS000001_hmPOS_GRCh38.txt.gz": 77, "PGS000002_hmPOS_GRCh37.txt.gz": 77, "PGS000002_hmPOS_GRCh38.txt.gz": 77,
        "PGS000802_hmPOS_GRCh37.txt": 5, "OPGS002493.txt.gz": 23, "OPGS017309.txt": 697,
        "OPGS017309_hmPOS_GRCh38.txt.gz": 697, "OPGS019828.txt": 1, "OPGS019828_hmPOS_GRCh38.txt.gz": 1,
    }  # fmt: skip
    found = {}
    for path in SCORES.glob("*.txt*"):
        draft = Draft(None)
        with suppress(GenopactError):
            build = scoring.read_score(path, draft, None)
            found[path.name] = len(draft.manifest("x", 1, build))
    assert found == expected


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (scoring, "if len(fits) == 1 else", "if fits else"),
        (scoring, '(effect, other, "ref")]', '(effect, other, "alt")]'),
        (scoring, "len(effect) == 1 and ref != effect", "True"),
    ],
)
def test_planted_faults_are_found(
    tmp_path: Path, fasta: Fasta, monkeypatch: pytest.MonkeyPatch, module: Any, old: str, new: str
) -> None:
    monkeypatch.setattr(scoring, "read_score", faulty(module, old, new).read_score)
    with pytest.raises((AssertionError, GenopactError)):
        test_the_reference_says_which_letter_is_ref(tmp_path, fasta)
