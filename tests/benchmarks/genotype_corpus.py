"""genotypes.6: the specification's own good and bad files, and damaged copies of a good one.

python -m tests.benchmarks.genotype_corpus

A bad file counts as refused if a finding names its fault: a code, a column and words that TOPICS (by the file's name)
and CAUSES (by the sentence in the file) list. A refusal for something else is a miss.

Silent is a damaged copy that is read without a fault and gives other samples, sites or dosages than the whole file.
Compressed copies are damaged anywhere: random bits, cuts at every block's end and at random bytes. Plain text has no
checksum: a digit changed into another one, or a file cut between two lines, cannot be seen, is not tried here and is
not claimed; there the copies are cut within a line or lose their structure at one byte.
"""

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pysam

from genopact_ingest.checks import Checks
from genopact_ingest.findings import Finding, ImportRefusedError
from genopact_ingest.vcf import VcfFile
from tests.unit.harmonisers import Every, dosages
from tests.unit.vcf_whole import validate

DATA = Path(__file__).parents[3] / "shared" / "data"
CORPUS = DATA / "vcf_bad_corpus" / "hts-specs"
CALLS = "VCF_CALL|VCF_CELL"
RECORDS, BITS, CUTS, BREAKS = 1000, 1000, 250, 150
SEED = 6
MISSES = {  # why a bad file is not refused; each counts as missed
    "INFO AC Number is not A": "tolerated: SHAPEIT's panels (vcf_real_small) say Number=1",
    "INFO AF Number is not A": "tolerated: every file of minimac, so of the imputation servers, says Number=1",
    "FORMAT contains a non-alphanumeric character": "G_S: VCF 4.3 and later allow it; GATK's 4.2 files have MIN_DP",
    "contig ID contains illegal character": "1.*: VCF 4.3's text allows it by now; GRCh38's HLA contigs need it",
}
TOPICS = {  # the start of the file's name: code, column, words of the detail; $1 is a group of it
    "empty(_sample)?": ("VCF_HEADER", "fileformat", "empty"),
    "fileformat": ("VCF_HEADER", "fileformat", ""),
    "header_000": ("VCF_HEADER", "#CHROM", ""),
    "header_001": ("VCF_NO_SAMPLES", "#CHROM", ""),
    "meta_0": ("VCF_HEADER", "##|ALT|INFO|FORMAT|reference", ""),
    "meta_(alt|info|format|meta|sample|pedigree)_": ("VCF_HEADER", r"$1(/\w+)?", ""),
    "meta_(assembly|contig|pedigreedb)": ("VCF_HEADER", "$1", ""),
    "body_(chrom|pos|id|ref|alt|qual|filter)_": ("VCF_RECORD", "$1", ""),
    "body_info_": ("VCF_INFO", r"INFO(/\w+)?", ""),
    "body_format_": (f"VCF_RECORD|{CALLS}", "FORMAT(/GT)?", ""),
    "body_sample_": (f"{CALLS}|VCF_SAMPLES", r"FORMAT(/\w+)?|#CHROM", ""),
    "body_samples_ploidy": ("VCF_CELL", "FORMAT/PL", "number of values"),
    "body_duplicated": ("VCF_DUPLICATE", "ALT", ""),
    "body_contiguous": ("VCF_ORDER", "CHROM", ""),
    "body_unsorted": ("VCF_ORDER", "POS", ""),
    "body_no_newline": ("VCF_TRUNCATED", "", "no end"),
}
CAUSES = {  # in the sentence: the same, beside what the topic asks
    r"^(INFO|FORMAT) (\w+) (Type|Number) is not": ("VCF_HEADER", "$1/$2", "$3"),
    r"^Incorrect (\w+) (Number|Type|ID) value": ("VCF_HEADER", r"$1(/\w+)?", "$2"),
    "order of": ("VCF_HEADER", "", "order|malformed"),
    "^(contig|SAMPLE|PEDIGREE) ID (is )?missing": ("VCF_HEADER", "$1", "ID is missing"),
    "Genomes field missing": ("VCF_HEADER", "SAMPLE", "Genomes is missing"),
    "surrounded by double quotes": ("VCF_HEADER", "", "malformed: Description"),
    "quotation mark|non-escaped quote|Non-closed|linebreak": ("VCF_HEADER", "", "<key=value"),
    "^Non-description": ("VCF_HEADER", "", "malformed"),
    "key-value pair|URL": ("VCF_HEADER", "", "key=value|URL"),
    r"^INFO (\w+) (is [an]|contains|value)": ("VCF_INFO", "INFO/$1", ""),
    r"^INFO field.*Number|^Sample field.*Number": ("", "", "number of values"),
    r"^INFO field.*Type|^Sample field.*Type": ("", "", "malformed"),
    "(?<!un)duplicate": ("", "", "twice|^$"),
    "allele is out of range": ("VCF_CALL", "FORMAT/GT", "does not have"),
    "illegal values|valid genotype|missing alleles": ("VCF_CALL", "FORMAT/GT", "malformed"),
    "more fields than": ("VCF_CELL", "FORMAT", "more fields"),
    "first field is not GT": ("VCF_RECORD", "FORMAT", "not the first"),
    "names are not unique": ("VCF_SAMPLES", "", ""),
}


def names(finding: Finding, path: Path) -> bool:
    """Whether a finding says what is wrong with a file of the corpus."""
    cause = re.search("CauseOfFailure=(.*)", path.read_text("utf-8"))
    topics = [(match, TOPICS[each]) for each in TOPICS if (match := re.match(each, path.stem.removeprefix("failed_")))]
    causes = [(match, CAUSES[each]) for each in CAUSES if cause and (match := re.search(each, cause[1]))]
    return bool(topics) and all(_fits(finding, match, asked) for match, asked in topics + causes)


def _fits(finding: Finding, match: re.Match[str], asked: tuple[str, str, str]) -> bool:
    code, column, words = (re.sub(r"\$(\d)", lambda group: re.escape(match[int(group[1])]), each) for each in asked)
    return all((
        not code or re.fullmatch(code, finding.code),
        not column or re.fullmatch(column, finding.column, re.IGNORECASE),
        re.search(words, finding.detail, re.IGNORECASE),
    ))  # fmt: skip


def corpus() -> tuple[dict[str, list[str]], float, float]:
    """Misses (bad files by cause, good files by finding), the share refused by name, the share accepted."""
    bad, good = sorted(CORPUS.glob("*/failed/*.vcf")), sorted(CORPUS.glob("*/passed/*.vcf"))
    misses: dict[str, list[str]] = {}
    for path in bad:
        if not any(names(finding, path) for finding in validate(path)):
            cause = re.search("CauseOfFailure=(.*)", path.read_text("utf-8"))
            misses.setdefault(cause[1] if cause else "", []).append(f"{path.parents[1].name}/{path.stem}")
    missed = sum(map(len, misses.values()))
    for path in good:
        if found := validate(path):
            misses.setdefault(f"refused though good: {found[0]}", []).append(f"{path.parents[1].name}/{path.stem}")
    refused_good = sum(map(len, misses.values())) - missed
    return misses, 1 - missed / len(bad), 1 - refused_good / len(good)


def outcome(path: Path) -> object:
    """What a file is read as, None if it is refused."""
    every = Every()
    try:
        source = VcfFile(path, checks=Checks())
        return dosages(source, every).tobytes(), source.samples, every.seen
    except ImportRefusedError:
        return None


def damaged(kind: str, whole: bytes, scale: float) -> Iterator[tuple[str, bytes]]:
    """Copies with one damage each."""
    rng = random.Random(SEED)
    count = {name: round(each * scale) for name, each in {"bits": BITS, "cuts": CUTS, "breaks": BREAKS}.items()}
    if kind == "text":
        yield from _broken(whole, rng, count)
        return
    for at in rng.sample(range(8 * len(whole)), count["bits"]):
        copy = bytearray(whole)
        copy[at // 8] ^= 1 << at % 8
        yield "a bit", bytes(copy)
    for at in rng.sample(range(len(whole)), count["cuts"]):
        yield "a cut", whole[:at]
    for at in _ends(whole) if kind == "bgzf" else ():
        yield "a cut at a block's end", whole[:at]


def _ends(whole: bytes) -> Iterator[int]:
    """Where BGZF's blocks end, but for the last."""
    at = 0
    while at < len(whole) - 28:
        at += int.from_bytes(whole[at + 16 : at + 18], "little") + 1
        yield at


def _broken(whole: bytes, rng: random.Random, count: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    inner = [at for at in rng.sample(range(1, len(whole)), count["cuts"]) if whole[at - 1] != 10]
    for at in inner:
        yield "a cut within a line", whole[:at]
    tabs = [match.start() for match in re.finditer(b"[\t\n]", whole)]
    for at in rng.sample(tabs, count["breaks"]):
        other = b"\n" if whole[at] == 9 else b"\t"
        for name, letter in {"space": b" ", "nothing": b"", "the other": other, "two": whole[at : at + 1] * 2}.items():
            yield f"{name} for a tab or line feed", whole[:at] + letter + whole[at + 1 :]
    calls = [match.start() for match in re.finditer(rb"(?<=\t\d)[|/](?=\d[\t\n])", whole)]
    for at in rng.sample(calls, count["breaks"]):
        for shift, letter in (
            (0, b"-"),
            (0, b"7"),
            (1, b"9"),
            (1, b"x"),
            (-1, b"|"),
            (1, b"\0"),
            (1, b"\xff"),
            (1, b""),
        ):
            yield "a letter of a call", whole[: at + shift] + letter + whole[at + shift + 1 :]


def fuzz(scale: float = 1.0) -> tuple[int, dict[str, dict[str, int]]]:
    """Silent outcomes, and of each kind of damage how many copies were refused, read alike, and silent."""
    lines = gzip.decompress((DATA / "vcf_real_small" / "shapeit4_unphased.vcf.gz").read_bytes()).splitlines(
        keepends=True
    )
    header = sum(line.startswith(b"#") for line in lines)
    text = b"".join(lines[: header + round(RECORDS * scale)])
    with TemporaryDirectory() as folder:
        path, compressed = Path(folder, "x.vcf"), Path(folder, "x.vcf.gz")
        path.write_bytes(text)
        pysam.tabix_compress(str(path), str(compressed), force=True)
        copies = {"bgzf": compressed.read_bytes(), "gzip": gzip.compress(text), "text": text}
        whole, found = outcome(path), Counter[tuple[str, str]]()
        assert whole is not None
        for kind, content in copies.items():
            path.write_bytes(content)
            assert outcome(path) == whole
            for name, copy in damaged(kind, content, scale):
                path.write_bytes(copy)
                got = outcome(path)
                found[f"{kind}, {name}", "refused" if got is None else "alike" if got == whole else "silent"] += 1
    each = {name: {what: number for (of, what), number in found.items() if of == name} for name, _ in found}
    return sum(number for (_, what), number in found.items() if what == "silent"), each


def main() -> None:
    """One JSON object a row."""
    misses, refused, accepted = corpus()
    why = {cause: {"files": paths, "why": MISSES.get(cause, "")} for cause, paths in misses.items()}
    silent, each = fuzz()
    note = {"corpus": "hts-specs test/vcf, 4.1-4.3 failed, 4.1-4.5 passed", "misses": why}
    print(json.dumps({"row": "genotypes.6.refused", "value": round(refused, 4), "note": note}))
    print(json.dumps({"row": "genotypes.6.accepted", "value": round(accepted, 4), "note": {}}))
    print(json.dumps({"row": "genotypes.6.silent", "value": silent, "note": {"copies": each, "seed": SEED}}))


if __name__ == "__main__":
    main()
