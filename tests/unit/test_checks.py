"""The specification's rules for a VCF's header, records and sample cells."""

import re
from math import comb
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_ingest import cells, checks, header
from genopact_ingest.checks import Checks
from genopact_ingest.findings import Fault
from genopact_ingest.header import Definition
from tests.unit.vcf_whole import validate

META = [
    "##fileformat=VCFv4.3",
    '##INFO=<ID=AC,Number=A,Type=Integer,Description="count">',
    '##INFO=<ID=XF,Number=R,Type=Float,Description="shares">',
    '##INFO=<ID=XS,Number=1,Type=String,Description="text">',
    '##INFO=<ID=XL,Number=0,Type=Flag,Description="a flag">',
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="genotype">',
    '##FORMAT=<ID=DS,Number=A,Type=Float,Description="dosage">',
    "##contig=<ID=1,length=1000>",
    "##contig=<ID=HLA-A*01:01,length=10>",
]
COLUMNS: str = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t"
GOOD: str = "1\t10\t.\tA\tC\t.\t.\t.\tGT"


def of_header(*lines: str, first: str = META[0], last: str = f"{COLUMNS}a\tb") -> list[tuple[str, str, int | None]]:
    found = header.parse([first, *lines, last])
    return [(finding.code, finding.column, finding.row) for finding in found.findings]


def of_records(*records: str, meta: list[str] = META) -> list[tuple[str, str, int | None]]:
    """Code, column and line of each finding; the first record is line 1."""
    taken = Checks()
    assert not taken.header([*meta, f"{COLUMNS}a\tb"]).findings
    for number, record in enumerate(records, 1):
        taken.record(number, record.split("\t"))
    return [(finding.code, finding.column, finding.row) for finding in taken.finish()]


def changed(column: str, value: str) -> str:
    fields = GOOD.split("\t")
    fields[COLUMNS.split("\t").index(column)] = value
    return "\t".join(fields)


def test_a_header_says_what_it_defines() -> None:
    found = header.parse([*META, '##FILTER=<ID=q10,Description="low, \\"very\\" low">', f"{COLUMNS}Zoe\u0308\tb"])
    assert not found.findings
    assert (found.version, found.samples, found.filters) == (3, ("Zo\u00eb", "b"), frozenset({"q10"}))
    assert found.contigs == {"1": 1000, "HLA-A*01:01": 10}
    assert found.info["AC"] == Definition("A", "Count"), "the reserved key is narrower than its Type"
    assert found.info["XF"] == Definition("R", "Float")
    assert found.info["DP"] == Definition("1", "Count"), "reserved, not defined"
    assert found.formats["DS"] == Definition("A", "Float")
    assert header.parse([META[0], COLUMNS.removesuffix("\tFORMAT\t")]).samples == ()


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("#INFO=x", "##"),
        ("##", "##"),
        ("##reference=", "reference"),
        ("##fileformat=VCFv4.3", "fileformat"),
        ("##assembly=ftp://8080:8080/x", "assembly"),
        ('##INFO=<ID=A,Number=1,Type=Integer,Description="x"', "INFO"),
        ('##INFO=<ID=A,Number=1,Type=Integer,Description="x "y"">', "INFO"),
        ('##INFO=<ID=A,Number=1,Type=Integer,Description="x>', "INFO"),
        ("##INFO=<ID=A,Number=1,Type=Integer,Description=x>", "INFO/A"),
        ('##INFO=<ID=A,Type=Integer,Description="x">', "INFO"),
        ('##INFO=<ID=A,Type=Integer,Number=1,Description="x">', "INFO"),
        ('##INFO=<ID=A,ID=A,Number=1,Type=Integer,Description="x">', "INFO"),
        ('##INFO=<ID=A,Number=1,Type=Flags,Description="x">', "INFO/A"),
        ('##INFO=<ID=DP,Number=2,Type=Integer,Description="x">', "INFO/DP"),
        ('##INFO=<ID=AC,Number=A,Type=Float,Description="x">', "INFO/AC"),
        ('##FORMAT=<ID=GP,Number=2,Type=Float,Description="x">', "FORMAT/GP"),
        ('##ALT=<ID=THIS:NOT,Description="x">', "ALT"),
        ("##contig=<length=5>", "contig"),
        ("##contig=<ID=a b>", "contig"),
        ("##META=<ID=A,Number=1,Type=String,Values=x>", "META"),
        ("##SAMPLE=<Assay=x>", "SAMPLE"),
        ("##PEDIGREE=<ID=A,Father=B C>", "PEDIGREE"),
    ],
)
def test_header_faults_have_their_line(line: str, column: str) -> None:
    assert of_header(line) == [("VCF_HEADER", column, 2)]


@pytest.mark.parametrize(
    "line",
    [
        '##INFO=<ID=AF,Number=1,Type=Float,Description="minimac">',
        '##FORMAT=<ID=GP,Number=3,Type=Float,Description="minimac">',
        '##FORMAT=<ID=GQ,Number=1,Type=Float,Description="freebayes">',
        '##INFO=<ID=A,Number=.,Type=String,Description="x",Source="y",Version="3">',
        '##GATKCommandLine=<ID=x,CommandLine="a \'b\' "c"",Date="x">',
        "##anything=<as it likes",
        "##META=<ID=Assay,Number=.,Type=String,Values=[WholeGenome, Exome]>",
    ],
)
def test_what_widespread_writers_write_is_no_fault(line: str) -> None:
    assert of_header(line) == []


def test_the_order_of_fields_is_free_from_4_4() -> None:
    line = '##INFO=<ID=A,Type=Integer,Number=1,Description="x">'
    assert of_header(line, first="##fileformat=VCFv4.4") == []


def test_defined_twice() -> None:
    first = '##FORMAT=<ID=X,Number=1,Type=Integer,Description="x">'
    assert of_header(first, first.replace('"x"', '"y"')) == []
    assert of_header(first, first.replace("Number=1", "Number=2")) == [("VCF_HEADER", "FORMAT", 3)]
    assert of_header("##contig=<ID=1>", "##contig=<ID=1,length=3>") == []
    assert of_header("##contig=<ID=1,length=4>", "##contig=<ID=1,length=3>") == [("VCF_HEADER", "contig", 3)]


def test_version_columns_and_samples() -> None:
    for first in ("##fileformat=", "##fileformat=VCF v4.3", "##fileformat=VCFv4.6", "\ufeff##fileformat=VCFv4.3"):
        assert of_header(first=first) == [("VCF_HEADER", "fileformat", 1)]
    assert of_header(last="1\t2") == [("VCF_HEADER", "##", 2), ("VCF_HEADER", "#CHROM", 2)]
    assert of_header(last=COLUMNS.replace("POS", "AT") + "a") == [("VCF_HEADER", "#CHROM", 2)]
    assert of_header(last=COLUMNS[:-1]) == [("VCF_NO_SAMPLES", "#CHROM", 2)]
    for samples in ("a\ta", "a\t", "Zo\u00eb\tZoe\u0308"):
        assert of_header(last=COLUMNS + samples) == [("VCF_SAMPLES", "#CHROM", 2)]


@pytest.mark.parametrize(
    ("column", "bad"),
    [
        ("#CHROM", ["chr:1", "a b", "<1", "", "chr*1"]),
        ("POS", ["", ".", "-1", "1e3", "010", "1\u0661"]),
        ("ID", ["", "a b", ";a", "a;", "a;a"]),
        ("REF", ["", ".", "R", "A,C", "<DEL>"]),
        ("ALT", ["", "R", "C,", "C,C", "c,C", "A", "<DEL", "<a,b>", "[1:3[", "C[1:3]", "C,.", "**"]),
        ("QUAL", ["", "-1", "high", "1,5"]),
        ("FILTER", ["", "a b", "a;", "a;a", "0", "q10;0", "q10;.", ".;."]),
        ("FORMAT", ["", "DS:GT", "GT:DS:DS", "GT::DS", "GT:1X", "GT:D S"]),
    ],
)
def test_record_faults_name_their_column(column: str, bad: list[str]) -> None:
    for value in bad:
        assert of_records(GOOD, changed(column, value))[:1] == [("VCF_RECORD", column.strip("#"), 2)], value


@pytest.mark.parametrize(
    ("column", "good"),
    [
        ("#CHROM", ["<1>", "GL000.1", "HLA-A*01:01"]),
        ("POS", ["0", "1", "1001"]),
        ("ID", ["rs1;rs2", "a,b"]),
        ("REF", ["acgtn", "N"]),
        ("ALT", [".", "*", "C,<DEL>", "<DUP:TANDEM>", "]1:3]AG", "AG[<x>:3[", ".C", "CGT,*", "<*>"]),
        ("QUAL", ["0", "1e-3", ".5", "30.", "+Inf", "NaN"]),
        ("FILTER", ["PASS", "q10;s50"]),
        ("FORMAT", ["DS", "GT:XX:DS", "GT:G_S"]),
    ],
)
def test_what_the_specification_allows(column: str, good: list[str]) -> None:
    for value in good:
        assert of_records(changed(column, value)) == [], value


def test_order_bounds_and_repeats() -> None:
    at = "{}\t{}\t.\tA\tC\t.\t.\t.\tGT".format
    assert of_records(at(1, 5), at(1, 4)) == [("VCF_ORDER", "POS", 2)]
    assert of_records(at(1, 5), at(2, 4), at(1, 6)) == [("VCF_ORDER", "CHROM", 3)]
    assert of_records(at(1, 5), at("<1>", 6), at(1, 7)) == []
    assert of_records(at(1, 1002)) == [("VCF_RECORD", "POS", 1)]
    assert of_records(at(1, 5), at(1, 5)) == [("VCF_DUPLICATE", "ALT", 2)]
    assert of_records(at(1, 5), at(1, 5).replace("A\tC", "a\tc")) == [("VCF_DUPLICATE", "ALT", 2)]
    assert of_records(at(1, 5), at(2, 5), at(2, 5).replace("C", "G"), at(2, 5).replace("C", "<DEL>")) == []
    unread = at(1, 5).replace("GT", "DS")
    assert of_records(at(1, 6), unread, at(2, 1), unread) == [], "no store takes records without GT"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.text("AC", min_size=1, max_size=3), st.text("AC", min_size=1, max_size=3)))
)
def test_repeats_as_by_a_list_of_all_alleles(sites: list[tuple[int, str, str]]) -> None:
    """Against the naive reference: the letters that differ, by place, of all records before."""
    records, before, repeated = [], set(), []
    for place, ref, alt in sorted(sites):
        if ref == alt:
            continue
        records.append(f"1\t{place}\t.\t{ref}\t{alt}\t.\t.\t.\tGT")
        tail = next(i for i in range(4) if min(len(ref), len(alt)) - i <= 1 or ref[-1 - i] != alt[-1 - i])
        left, right = ref[: len(ref) - tail], alt[: len(alt) - tail]
        lead = next(i for i in range(4) if min(len(left), len(right)) - i <= 1 or left[i] != right[i])
        allele = (place + lead, left[lead:], right[lead:])
        if allele in before:
            repeated.append(len(records))
        before.add(allele)
    assert [row for code, _, row in of_records(*records) if code == "VCF_DUPLICATE"] == repeated


@pytest.mark.parametrize(
    ("info", "column"),
    [
        ("AC=1,2", "INFO/AC"),
        ("AC=-1", "INFO/AC"),
        ("AC=1.5", "INFO/AC"),
        ("AC", "INFO/AC"),
        ("AC=", "INFO/AC"),
        ("XF=.1", "INFO/XF"),
        ("XF=.1,x", "INFO/XF"),
        ("XL=2", "INFO/XL"),
        ("DP=2147483648", "INFO/DP"),
        ("AF=-0.1", "INFO/AF"),
        ("CIGAR=3Y", "INFO/CIGAR"),
        ("AC=1;AC=1", "INFO"),
        ("AC=1;", "INFO"),
        ("", "INFO"),
        ("A C=1", "INFO"),
        ("=1", "INFO"),
    ],
)
def test_info_faults_before_and_after_the_shape_is_known(info: str, column: str) -> None:
    """Records of equal keys are soon matched by one expression; it must find what the single ones find."""
    records = [changed("INFO", info), *[changed("INFO", "AC=1;XF=.1,.")] * 6, changed("INFO", f"XS=.;{info}")]
    records = [record.replace("\t10\t", f"\t{at}\t") for at, record in enumerate(records, 1)]
    assert of_records(*records) == [("VCF_INFO", column, 1), ("VCF_INFO", column, len(records))]


def test_a_long_info_that_fails_late_is_soon_refused() -> None:
    """Expressions that can match in many ways would never end here."""
    meta = [f'##INFO=<ID=F{at},Number={3 * (at % 2)},Type=Float,Description="x">' for at in range(38)]
    meta = [line.replace("Number=0", "Number=.") for line in meta]
    shares = ";".join(f"F{at}=" + ["12345,.,777", "."][at % 3 > 0] for at in range(38))
    records = [f"1\t{at}\t.\tA\tC\t.\t.\t{shares};AC={at}\tGT" for at in range(1, 9)]
    assert of_records(*records, meta=[*META, *meta]) == []
    last = records[-1].replace("\t8\t", "\t9\t").replace("AC=8", "AC=8x")
    assert of_records(*records, last, meta=[*META, *meta]) == [("VCF_INFO", "INFO/AC", 9)]


def test_one_record_of_many_is_found_in_a_shape() -> None:
    records = [f"1\t{at}\t.\tA\tC\t.\t.\tAC=1;DP={at};XL\tGT" for at in range(1, 20)]
    assert of_records(*records) == []
    records[12] = records[12].replace("AC=1", "AC=1,1")
    records[15] = records[15].replace(";XL", ";XL=9")
    assert of_records(*records) == [("VCF_INFO", "INFO/AC", 13), ("VCF_INFO", "INFO/XL", 16)]


def by_letters(text: str, keys: dict[str, Definition], n_alts: int, samples: int, *, modern: bool) -> bool:
    """Naive reference: each cell by expressions."""
    number = {"Integer": r"[-+]?\d+", "Float": r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf)", "Character": "."}
    whole = text.split("\t")
    for cell in whole:
        fields, ploidy = cell.split(":"), 2
        if len(fields) > len(keys):
            return False
        for (key, (count, kind)), field in zip(keys.items(), fields, strict=False):
            if key == "GT":
                if not re.fullmatch(rf"[/|]{'?' * modern or '{0}'}(\d+|\.)([/|](\d+|\.))*", field):
                    return False
                alleles = re.findall(r"\d+|\.", field)
                if any(int(allele) > max(n_alts, 1) for allele in alleles if allele != "."):
                    return False
                ploidy = 0 if field == "." else len(alleles)
                continue
            if field == "." or (modern and not field):
                continue
            values = field.split(",")
            wanted = {"A": n_alts, "R": n_alts + 1, "G": comb(n_alts + ploidy, ploidy) if ploidy else None}
            exact = wanted[count] if count in wanted else int(count) if count.isdecimal() else None
            if exact is not None and (n_alts or count.isdecimal()) and len(values) != exact:
                return False
            if not all(value == "." or re.fullmatch(number.get(kind, ".+"), value, re.I) for value in values):
                return False
            if kind == "Integer" and any(not -(2**31) + 8 <= int(value) < 2**31 for value in values if value != "."):
                return False
    return len(whole) == samples


KEYS = [
    {"GT": Definition("1", "String")},
    {"GT": Definition("1", "String"), "DS": Definition("A", "Float"), "PL": Definition("G", "Integer")},
    {"AD": Definition("R", "Integer"), "XC": Definition(".", "Character"), "XT": Definition(".", "String")},
]
CELLS = [
    "0/1",
    ".",
    "./.",
    "0|1:0.5:0,9,99",
    "1:.:0,1",
    "0/1:1e-3:.",
    "2|0:1,.:1,2,3,4,5,6",
    "0/0/1:1:0,0,0,0",
    "3,4:a:b c",
]
WORDS = ["0", "1", "2", "10", "/", "|", ".", ",", ":", "\t", "-", "1.5", "e", "nan", "x", "2147483648", "0/1", "0,0,0"]


@st.composite
def cell_texts(draw: st.DrawFn) -> str:
    """Cells that are well formed for some of KEYS, often spoiled at a place or two."""
    text = "\t".join(draw(st.lists(st.sampled_from(CELLS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(WORDS)) + text[at + draw(st.integers(0, 1)) :]
    return text


@settings(deadline=None, max_examples=800)
@given(st.sampled_from(KEYS), cell_texts(), st.integers(0, 2), st.sampled_from([3, 4]))
def test_cells_as_by_letters(keys: dict[str, Definition], text: str, n_alts: int, version: int) -> None:
    samples = text.count("\t") + 1
    for expected in (samples, samples + 1):
        good = by_letters(text, keys, n_alts, expected, modern=version >= 4)
        try:
            cells.check(text.encode(), cells.form(":".join(keys), keys), n_alts, expected, version)
        except Fault:
            assert not good
        else:
            assert good


@pytest.mark.parametrize(
    ("form", "text", "n_alts", "place"),
    [
        ("GT", "0/1\t0/2", 1, ("VCF_CALL", "FORMAT/GT", "(field 11: an allele that the record does not have)")),
        ("GT", "0/|1\t0/1", 1, ("VCF_CALL", "FORMAT/GT", "(field 10: a malformed genotype)")),
        ("GT:DS", "0/1:x\t0/1", 1, ("VCF_CELL", "FORMAT/DS", "(field 10: a malformed value)")),
        ("GT:DS", "0/1:1,2\t0/1", 1, ("VCF_CELL", "FORMAT/DS", "(field 10: another number of values than defined)")),
        ("GT:DS", "0/1\t0/1:1:7", 1, ("VCF_CELL", "FORMAT", "(field 11: more fields than FORMAT has)")),
        ("GT:PL", "0:1,2\t0:1,2,3", 1, ("VCF_CELL", "FORMAT/PL", "(field 11: another number of values than defined)")),
        ("GT", "0/1", 1, ("VCF_RECORD", "", "(expected 11 fields)")),
    ],
)
def test_a_cells_fault_has_its_field(form: str, text: str, n_alts: int, place: tuple[str, str, str]) -> None:
    taken = Checks()
    taken.header([*META, f"{COLUMNS}a\tb"])
    taken.record(1, changed("FORMAT", form).split("\t"))
    taken.cells(1, form, memoryview(text.encode()), n_alts)
    (finding,) = taken.finish()
    assert (finding.code, finding.column, finding.detail) == place


def test_notes_count_what_is_tolerated() -> None:
    taken = Checks()
    taken.header([*META, f"{COLUMNS}a\tb"])
    taken.record(1, ["2", "5", ".", "A", "C", ".", "q10", "NEW=1", "DS"])
    taken.record(2, ["2", "4", ".", "A", "C", ".", "q10", "NEW=1", "DS"])
    assert not taken.finish()
    named = ("INFO keys not defined", "contigs not defined", "filters not defined", "records out of order, without GT")
    assert taken.notes == dict.fromkeys(named, 1)


def file(folder: Path, *records: str, end: str = "\n", meta: list[str] = META, names: str = "a\tb") -> Path:
    path = folder / "x.vcf"
    path.write_text("\n".join([*meta, COLUMNS + names, *records]) + end, newline="")
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    calls = f"{GOOD}\t0/1\t1/1"
    assert validate(file(tmp_path, calls)) == ()
    assert [finding.code for finding in validate(file(tmp_path, calls, end=""))] == ["VCF_TRUNCATED"]
    assert [finding.code for finding in validate(file(tmp_path, calls, end="\r\n"))] == ["VCF_LINE_ENDS"]
    assert [finding.code for finding in validate(file(tmp_path, calls[:-4]))] == ["VCF_RECORD"]
    assert [finding.code for finding in validate(file(tmp_path, f"{calls}\t0/1"))] == ["VCF_RECORD"]
    assert [finding.code for finding in validate(file(tmp_path, calls, end="\n\n"))] == ["VCF_RECORD"]
    assert [finding.code for finding in validate(tmp_path / "absent")] == ["VCF_UNREADABLE"]
    (tmp_path / "x.vcf").write_bytes(file(tmp_path, calls).read_bytes().replace(b"\t.\tA", b"\t\xff\tA"))
    assert [finding.code for finding in validate(tmp_path / "x.vcf")] == ["VCF_UNREADABLE"]
    (tmp_path / "x.vcf").write_bytes(b"person,dose\n" * 1000)
    assert [finding.code for finding in validate(tmp_path / "x.vcf")] == ["VCF_HEADER"] * 2
    (tmp_path / "x.vcf").write_bytes(b"")
    assert [finding.code for finding in validate(tmp_path / "x.vcf")] == ["VCF_HEADER"]


def test_the_end_of_a_record_that_no_store_takes(tmp_path: Path) -> None:
    assert validate(file(tmp_path, changed("FORMAT", "DS") + "\t1\t0", end="")) == ()
    sites = [*META, COLUMNS.removesuffix("\tFORMAT\t"), GOOD.removesuffix("\tGT")]
    (tmp_path / "sites.vcf").write_text("\n".join(sites) + "\n")
    assert validate(tmp_path / "sites.vcf") == ()
    (tmp_path / "sites.vcf").write_text("\n".join(sites))
    assert [finding.code for finding in validate(tmp_path / "sites.vcf")] == ["VCF_TRUNCATED"]


def test_no_finding_says_a_name(tmp_path: Path) -> None:
    names = "DOE_JANE\tDOE_JOHN"
    meta = [*META, "##SAMPLE=<ID=DOE_JANE,Assay=a,Assay=b>", "##PEDIGREE=<ID=DOE_JANE,Father=DOE:JOHN>"]
    bad = ["DOE:JANE", "DOE", "D E", "DOE", "DOE", "DOE", "D E", "DOE=1;DOE=2", "GT:D*E"]
    records = [
        "\t".join([*GOOD.split("\t")[:at], word, *GOOD.split("\t")[at + 1 :], "DOE", "0/DOE"])
        for at, word in enumerate(bad)
    ]
    found = [
        *validate(file(tmp_path, *records, meta=meta, names=names)),
        *validate(file(tmp_path, names=f"{names}\tDOE_JANE")),
    ]
    assert len(found) > len(bad)
    assert not any("DOE" in str(finding) for finding in found)


def test_findings_are_bounded(tmp_path: Path) -> None:
    records = [f"1\t{at}\t.\tR\tC\t.\t.\t.\tGT\t0/9\t0/9" for at in range(1, 900)]
    assert len(validate(file(tmp_path, *records))) == checks.MOST
