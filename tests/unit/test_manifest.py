import dataclasses
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from genopact_shared import alleles, canonical, dsse
from genopact_shared.alleles import CONTIGS, contig, normalise, other_strand
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.manifest import TYPE, VariantManifest, load, parse
from tests.unit.faulty import faulty
from tests.unit.variant_rows import manifest, text

GOLDEN = Path(__file__).parents[1] / "golden" / "variants" / "small.variants"
KEY = SigningKey(bytes(range(32)))
ROWS = (
    "1 100 A G alt 0.250000 rs1 GENE1 1 autosome 0.200000 . 1.00000000e-03 -2.50000000e+00 4.00000000e-02",
    "1 100 A T ref . rs1 GENE1 1 autosome . 1.000000 . . -4.00000000e-02",
    "1 100 AT A alt 0.000000 . . 1 autosome . . . . .",
    "2 99 C CTT alt 0.500000 . . . autosome . . . . .",
    "10 5 G C ref 1.000000 . . . autosome . . . . 0.00000000e+00",
    "X 60000 T C alt 0.123457 . . . par . . . . .",
    "X 9000000 T C alt . . . . x . . . . .",
    "MT 73 A G alt 0.900000 . . . mt . . . . .",
)
COLUMNS = "af_afr af_eur pc2 pc10 weight"


def test_the_file_is_frozen(tmp_path: Path) -> None:
    """A change here needs a new format name and a migration."""
    whole = manifest(*ROWS, columns=COLUMNS)
    assert whole.encode() == GOLDEN.read_bytes()
    assert whole.digest == "62d1e37264bc905ce9ed00aaa8455b0135b178e4cd2efa0fbee42144f8c8a546"
    assert whole.sign(KEY) == GOLDEN.with_name("small.variants.dsse").read_bytes()
    assert load(GOLDEN, [KEY.public]).facts == whole.facts


def test_columns_say_what_the_file_says() -> None:
    found = manifest(*ROWS, columns=COLUMNS)
    assert len(found) == 8
    assert found.chrom == ("1", "1", "1", "2", "10", "X", "X", "MT")
    assert found.pos.dtype == np.int64
    assert found.alt[:3] == ("G", "T", "A")
    assert found.effect[:2] == ("alt", "ref")
    assert found.kind[5:] == ("par", "x", "mt")
    np.testing.assert_array_equal(found.frequency, [0.25, np.nan, 0, 0.5, 1, 0.123457, np.nan, 0.9])
    assert list(found.extra) == COLUMNS.split()
    assert found.extra["pc10"][0] == -2.5
    with pytest.raises(ValueError, match="read-only"):
        found.frequency[0] = 1


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([], ""),
        (["1 100 A G alt 0.25"], ""),
        (["1 100 A G alt 0.2500000"], ""),
        (["1 100 A G alt -0.000000"], ""),
        (["1 100 A G alt nan"], ""),
        (["1 100 A G alt 1.000001"], ""),
        (["1 100 A G both 0.250000"], ""),
        (["1 100 A A alt 0.250000"], ""),
        (["1 100 a G alt 0.250000"], ""),
        (["1 100 N G alt 0.250000"], ""),
        (["1 100 A * alt 0.250000"], ""),
        (["1 100 AC AG alt 0.250000"], ""),
        (["1 100 AC GC alt 0.250000"], ""),
        (["1 100 CA A alt 0.250000"], ""),
        (["1 0 A G alt 0.250000"], ""),
        (["1 -5 A G alt 0.250000"], ""),
        (["1 0100 A G alt 0.250000"], ""),
        (["1 1_0 A G alt 0.250000"], ""),
        (["1 99999999999999999999 A G alt 0.250000"], ""),
        (["chr1 100 A G alt 0.250000"], ""),
        (["23 100 A G alt 0.250000"], ""),
        (["1 100 A G alt 0.250000 . . . x"], ""),
        (["X 100 A G alt 0.250000 . . . autosome"], ""),
        (["1 100 A G alt 0.250000", "1 100 A G alt 0.250000"], ""),
        (["1 100 A G alt 0.250000", "1 100 A G ref 0.250000"], ""),
        (["1 100 A G alt .", "1 100 A C alt ."], ""),
        (["1 100 A G alt .", "1 99 A G alt ."], ""),
        (["2 100 A G alt .", "1 100 A G alt ."], ""),
        (["10 100 A G alt .", "2 100 A G alt ."], ""),
        (["1 100 A G alt .", "1 100 G A alt ."], ""),
        (["1 100 AC A alt .", "1 100 AG A alt ."], ""),
        (["1 100 A G alt . . . . autosome 1"], ""),
        (["1 100 A G alt . . . . autosome 1.0"], "weight"),
        (["1 100 A G alt . . . . autosome -0.00000000e+00"], "weight"),
        (["1 100 A G alt . . . . autosome inf"], "weight"),
        (["1 100 A G alt . . . . autosome . ."], "weight pc1"),
        (["1 100 A G alt . . . . autosome . ."], "pc10 pc2"),
        (["1 100 A G alt . . . . autosome . ."], "pc1 pc1"),
        (["1 100 A G alt . . . . autosome ."], "colour"),
    ],
)
def test_other_spellings_are_refused(rows: list[str], columns: str) -> None:
    with pytest.raises(GenopactError, match="MANIFEST_INVALID"):
        manifest(*rows, columns=columns)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"variants/1", b"variants/2"),
        (b"name=small", b"name=Small"),
        (b"name=small", b"name="),
        (b"version=1", b"version=01"),
        (b"version=1", b"version=0"),
        (b"build=GRCh38", b"build=GRCh 38"),
        (b"reference=.", b"reference=ab"),
        (b"frequencies=.", b"frequencies= x"),
        (b"##version=1\n", b""),
        (b"##version=1\n", b"##version=1\n##version=1\n"),
        (b"#chrom", b"chrom"),
        (b"\n", b"\r\n"),
        (b"\tautosome\n", b"\tautosome"),
        (b"autosome", b"auto\xc3\xa9"),
        (b"rs1", b"r\x07s"),
    ],
)
def test_other_heads_and_bytes_are_refused(old: bytes, new: bytes) -> None:
    whole = text("1 100 A G alt . rs1 . . autosome")
    assert old in whole
    parse(whole)
    with pytest.raises(GenopactError, match="MANIFEST_INVALID"):
        parse(whole.replace(old, new))


@pytest.mark.parametrize("cell", ["a b", "a\tb", "a\nb", "", "é"])
def test_no_cell_can_hold_what_ends_one(cell: str) -> None:
    """`b\\nc` in a column of two would otherwise be three lines."""
    good = manifest("1 100 A G alt .", "1 200 A G alt .")
    with pytest.raises(GenopactError, match="MANIFEST_INVALID"):
        dataclasses.replace(good, id=(cell, "."))


def test_columns_have_one_length() -> None:
    good = manifest("1 100 A G alt .", "1 200 A G alt .")
    for change in ({"gene": (".",)}, {"pos": np.array([1])}, {"extra": {"weight": np.array([1.0])}}):
        with pytest.raises(GenopactError, match="MANIFEST_INVALID"):
            dataclasses.replace(good, **change)


@st.composite
def manifests(draw: st.DrawFn) -> VariantManifest:
    letters = st.text("ACGT", min_size=1, max_size=3)
    places = st.tuples(st.integers(0, 24), st.integers(2, 30))
    found: dict[tuple[int, int, str, str], None] = {}
    reference = draw(st.text("ACGT", min_size=60, max_size=60))
    for at, pos in draw(st.lists(places, min_size=1, max_size=12)):
        ref, alt = reference[pos - 1 : pos - 1 + draw(st.integers(1, 3))], draw(letters)
        if ref != alt:
            found[(at, *normalise(lambda a, b: reference[a - 1 : b - 1].encode(), pos, ref, alt))] = None
    assume(found)
    rows, n = sorted(found), len(found)
    floats = st.lists(st.one_of(st.just(math.nan), st.floats(0, 1)), min_size=n, max_size=n).map(np.array)
    words = st.lists(
        st.text(st.characters(codec="ascii", exclude_categories=("Z", "C")), min_size=1), min_size=n, max_size=n
    )
    loadings = st.lists(st.floats(-1e300, 1e300), min_size=n, max_size=n).map(np.array)
    kinds = [
        draw(st.sampled_from({"X": ("x", "par"), "Y": ("y", "par"), "MT": ("mt",)}.get(CONTIGS[at], ("autosome",))))
        for at, *_ in rows
    ]
    extra: dict[str, Any] = draw(
        st.fixed_dictionaries({}, optional={"weight": loadings, "pc1": loadings, "af_eur": floats, "pc12": loadings})
    )
    return VariantManifest(
        draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)), draw(st.integers(1, 10**9 - 1)), "GRCh37",
        draw(st.sampled_from([".", "0a" * 32])), draw(st.sampled_from([".", "gnomAD 4.1, nfe"])),
        tuple(CONTIGS[at] for at, *_ in rows), np.array([pos for _, pos, *_ in rows]),
        tuple(ref for *_, ref, _ in rows), tuple(alt for *_, alt in rows),
        tuple(draw(st.lists(st.sampled_from(["ref", "alt"]), min_size=n, max_size=n))), draw(floats),
        tuple(draw(words)), tuple(draw(words)), tuple(draw(words)), tuple(kinds), extra,
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(manifests())
def test_what_is_encoded_is_parsed(whole: VariantManifest) -> None:
    again = parse(whole.encode())
    assert again.digest == whole.digest
    for each in dataclasses.fields(VariantManifest):
        if each.name != "extra":
            np.testing.assert_array_equal(getattr(again, each.name), getattr(whole, each.name))
    assert list(again.extra) == list(whole.extra)
    for name, column in whole.extra.items():
        np.testing.assert_array_equal(again.extra[name], column)


@settings(deadline=None, max_examples=150)
@given(at=st.integers(0, len(text(*ROWS, columns=COLUMNS)) - 1), byte=st.integers(0, 255))
def test_an_edited_byte_is_refused_or_another_manifest(at: int, byte: int) -> None:
    whole = text(*ROWS, columns=COLUMNS)
    edited = whole[:at] + bytes([byte]) + whole[at + 1 :]
    assume(edited != whole)
    with suppress(GenopactError):
        found = parse(edited)
        assert found.encode() == edited
        assert found.digest != parse(whole).digest


def test_a_signed_manifest_opens_with_the_right_key_alone(tmp_path: Path) -> None:
    path, whole = tmp_path / "m.variants", manifest(*ROWS, columns=COLUMNS)
    with pytest.raises(GenopactError, match="MANIFEST_MISSING"):
        load(path, [KEY.public])
    path.write_bytes(whole.encode())
    with pytest.raises(GenopactError, match="MANIFEST_MISSING"):
        load(path, [KEY.public])
    envelope = tmp_path / "m.variants.dsse"
    envelope.write_bytes(whole.sign(KEY))
    assert load(path, [SigningKey.generate().public, KEY.public]).digest == whole.digest
    for keys in ([], [SigningKey.generate().public]):
        with pytest.raises(GenopactError, match="SIGNATURE_INVALID"):
            load(path, keys)
    other = manifest("1 100 A G alt .")
    envelope.write_bytes(other.sign(KEY))
    with pytest.raises(GenopactError, match="another file was signed"):
        load(path, [KEY.public])


def test_signed_facts_must_be_the_files_own(tmp_path: Path) -> None:
    """The right digest beside another build, which a careless signer might write."""
    path, whole = tmp_path / "m.variants", manifest("1 100 A G alt .")
    path.write_bytes(whole.encode())
    lie = dsse.sign(TYPE, canonical.encode(whole.facts | {"build": "GRCh37"}), KEY)
    (tmp_path / "m.variants.dsse").write_bytes(lie)
    with pytest.raises(GenopactError, match="other facts were signed"):
        load(path, [KEY.public])


@pytest.mark.parametrize(
    ("name", "known"),
    [("chr1", "1"), ("1", "1"), ("23", "X"), ("chrX", "X"), ("24", "Y"), ("25", "X"), ("XY", "X"), ("PAR2", "X"),
     ("26", "MT"), ("M", "MT"), ("chrM", "MT"), ("chrMT", "MT"), ("0", None), ("chr0", None), ("01", None),
     ("x", None), ("", None), ("1_KI270706v1_random", None)],
)  # fmt: skip
def test_contig_names(name: str, known: str | None) -> None:
    assert contig(name) == known


def test_the_other_strand_is_complemented_and_reversed() -> None:
    assert other_strand("AACG") == "CGTT"


def naive(reference: str, pos: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Of all ways to write the same sequence as one exchange of letters, the leftmost with the fewest letters.

    `pos` from 1; each way replaces reference[i:j] by some letters, all three not empty before the contig's start.
    """
    mutated = reference[: pos - 1] + alt + reference[pos - 1 + len(ref) :]
    change = len(mutated) - len(reference)
    ways = []
    for start in range(len(reference)):
        for stop in range(start + 1, len(reference) + 1):
            letters = mutated[start : stop + change]
            same = reference[:start] == mutated[:start] and reference[stop:] == mutated[stop + change :]
            if letters and stop + change > start and same:
                ways.append((stop - start + len(letters), start, letters))
    size, start, letters = min(ways)
    return start + 1, reference[start : start + size - len(letters)], letters


places = st.text("AC", min_size=3, max_size=14).flatmap(
    lambda reference: st.tuples(
        st.just(reference), st.integers(1, len(reference)), st.integers(1, 4), st.text("AC", min_size=1, max_size=5)
    )
)


def check(normalise: Any, reference: str, pos: int, length: int, alt: str) -> None:
    ref = reference[pos - 1 : pos - 1 + length]
    if ref != alt:
        found = normalise(lambda start, stop: reference[start - 1 : stop - 1].encode(), pos, ref, alt)
        assert found == naive(reference, pos, ref, alt)


@settings(deadline=None, max_examples=400)
@given(places)
@example(("CAAAA", 4, 1, "AA"))
@example(("AAAA", 3, 2, "A"))
def test_normalised_is_the_shortest_leftmost_way_to_write_it(case: tuple[str, int, int, str]) -> None:
    check(normalise, *case)


def test_a_shift_goes_beyond_one_piece_of_the_reference() -> None:
    reference = "G" + "CA" * 500 + "T"
    assert normalise(lambda a, b: reference[a - 1 : b - 1].encode(), 901, "ACA", "A") == (1, "GCA", "G")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("while ref[-1] == alt[-1]:", "while len(ref) > 1 and ref[-1] == alt[-1]:"),
        ("if len(ref) == 1 or len(alt) == 1:", "if len(ref) == 1:"),
        ("pos, letter, left = pos - 1,", "pos, letter, left = pos,"),
        ("ref[same] == alt[same]:", "False:"),
        ("return pos + same, ref[same:]", "return pos, ref[same:]"),
        ("if pos == 1:", "if pos == 2:"),
    ],
)
def test_planted_faults_are_found(old: str, new: str) -> None:
    wrong = faulty(alleles, old, new).normalise
    cases = [
        ("CAAAA", 4, 1, "AA"),
        ("CACACA", 3, 3, "C"),
        ("GCAT", 2, 2, "CG"),
        ("GAAAA", 1, 2, "GAA"),
        ("GTTA", 3, 1, "TT"),
        ("CAAC", 3, 2, "A"),
    ]
    assert any(fails(wrong, *case) for case in cases)


def fails(normalise: Any, *case: Any) -> bool:
    try:
        check(normalise, *case)
    except (AssertionError, IndexError):
        return True
    return False
