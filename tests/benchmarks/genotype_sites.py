"""genotypes.5: three sites that write the same people in three ways; genotypes.7: against bcftools norm and plink2.

python -m tests.benchmarks.genotype_sites [genotypes.5 genotypes.7]

genotypes.5 is generated. genotypes.7 reads the public files beside the checkout. Their reference is not there: one is
made for each, of random letters around its own REF alleles. Long gaps between sites are shortened, and each allele is
written in more letters than it needs and, where there is room for a repeat, to the right of its place.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.harmonise import FAR_FROM_HALF, NEAR, Sites
from genopact_ingest.plink import PlinkFile
from genopact_ingest.ploidy import UNKNOWN, two_copies
from genopact_ingest.reference import Reference
from genopact_ingest.vcf import VcfFile
from genopact_server.manifests import Draft, Fasta, Site
from genopact_shared.alleles import contig, normalise, other_strand
from genopact_shared.manifest import VariantManifest

DATA = Path(__file__).parents[3] / "shared" / "data"
PEOPLE, PLACES = 300, 20_000
GAP, ROOM = 40, 12
"""Bases from place to place; of these, what a repeat may fill."""
_HEAD = '##fileformat=VCFv4.2\n##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'


class Variant(NamedTuple):
    """One ALT of a place, in the fewest letters."""

    chrom: str
    pos: int
    ref: str
    alt: str


@dataclass(frozen=True, eq=False)
class Cohort:
    """people: (n, 2, p) int8 allele indexes at n places, -1 missing; letters by contig."""

    letters: dict[str, str]
    places: list[tuple[str, int, str, tuple[str, ...]]]
    people: NDArray[np.int8]
    shares: NDArray[np.float64]

    @classmethod
    def generated(cls, people: int, places: int, rng: Random) -> "Cohort":
        """Substitutions, a sixth of them palindromic, indels in repeats, and places with two ALTs."""
        letters, found = {}, []
        for chrom in ("1", "2", "13", "X"):
            text = rng.choices("ACGT", k=GAP * (places // 4 + 2))
            starts = range(GAP, GAP * (places // 4 + 1), GAP)
            found += [(chrom, at + 1, *_alleles(text, at, rng)) for at in starts]
            letters[chrom] = "".join(text)
        draw = np.random.default_rng(rng.randrange(2**32))
        shares = draw.uniform(0.02, 0.98, (len(found), 2)) / np.array([[1, 2]])
        shares[:, 0] = np.where([len(alts) > 1 for *_, alts in found], shares[:, 0] / 2, shares[:, 0])
        shares[:, 1] = np.where([len(alts) > 1 for *_, alts in found], shares[:, 1], 0)
        drawn = draw.random((len(found), 2, people))
        alleles = (drawn < shares.sum(axis=1)[:, None, None]).astype(np.int8) + (drawn < shares[:, 1, None, None])
        alleles[np.broadcast_to(draw.random((len(found), 1, people)) < 0.01, alleles.shape)] = -1
        return cls(letters, found, alleles, shares)

    def variants(self) -> Iterator[tuple[Variant, int, int]]:
        """Each ALT, its place and its index there."""
        for place, (chrom, pos, ref, alts) in enumerate(self.places):
            for index, alt in enumerate(alts, 1):
                yield Variant(chrom, pos, ref, alt), place, index

    def copies(self, place: int, index: int) -> NDArray[np.int8]:
        """(p,) copies of an ALT, -1 missing."""
        alleles = self.people[place]
        return np.where(alleles[0] < 0, -1, (alleles == index).sum(axis=0)).astype(np.int8)

    def fasta(self, path: Path) -> Path:
        """The reference, one contig of it in lower case."""
        letters = self.letters | {"2": self.letters["2"].lower()}
        path.write_text("".join(f">chr{name}\n{text}\n" for name, text in letters.items()))
        return path

    def manifest(self, fasta: Path, rng: Random) -> VariantManifest:
        """All ALTs; the effect allele is drawn, and the frequency is that of the population."""
        draft = Draft(Fasta(fasta))
        for variant, place, index in self.variants():
            effect, share = rng.choice(["alt", "ref"]), float(self.shares[place, index - 1])
            draft.add(Site(*variant, effect, share if effect == "alt" else 1 - share))
        return draft.manifest("cohort", 1, "made")


def _alleles(text: list[str], at: int, rng: Random) -> tuple[str, tuple[str, ...]]:
    """REF and ALTs at a place of `text`, which gets a repeat for an indel."""
    ref, form = text[at], rng.random()
    others = rng.sample([letter for letter in "ACGT" if letter != ref], 3)
    if form < 0.8:
        return ref, (others[0],)
    if form < 0.85:
        return ref, tuple(others[:2])
    unit = "".join(rng.choices("ACGT", k=rng.randint(1, 3)))[:-1] + others[0]  # ends unlike the base before it
    text[at + 1 : at + 1 + ROOM] = (unit * ROOM)[:ROOM]
    if form < 0.9:
        return ref + unit, (ref,)
    return ref, (ref + unit,) if form < 0.95 else (others[1], ref + unit)


def moved(text: str, pos: int, ref: str, alt: str, rng: Random) -> tuple[int, str, str]:
    """The same variant, an indel to the right of its place if there is a repeat, and with letters around it."""
    while rng.random() < 0.8 and min(len(ref), len(alt)) == 1 < len(ref + alt) - 1 and ref[0] == alt[0]:
        after = text[pos - 1 + len(ref)]
        longer = max(ref, alt, key=len)
        if after != longer[1]:
            break
        longer = after + longer[2:] + after
        pos, ref, alt = pos + 1, *((longer, after) if len(ref) > 1 else (after, longer))
    left, right = rng.randint(0, 3), rng.randint(0, 3)
    left, end = min(left, pos - 1), pos - 1 + len(ref)
    before, after = text[pos - 1 - left : pos - 1], text[end : end + right]
    return pos - left, before + ref + after, before + alt + after


_CALLS = np.frombuffer(b"".join(b"\t%c/%c" % (b".012"[a], b".012"[b]) for a in range(4) for b in range(4)), np.uint32)


def _vcf(path: Path, names: Sequence[str], lines: Sequence[tuple[str, int, str, str, NDArray[np.int8]]]) -> Path:
    """alleles: (2, p) of each line."""
    with path.open("wb") as file:
        head = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *names]
        contigs = "".join(f"##contig=<ID={chrom}>\n" for chrom in dict.fromkeys(line[0] for line in lines))
        file.write((_HEAD + contigs + "\t".join(head) + "\n").encode())
        for chrom, pos, ref, alt, alleles in lines:
            cells = _CALLS[4 * (alleles[0] + 1) + alleles[1] + 1].tobytes()
            file.write(f"{chrom}\t{pos}\t.\t{ref}\t{alt}\t.\tPASS\t.\tGT".encode() + cells + b"\n")
    return path


def joined(cohort: Cohort, path: Path, names: Sequence[str]) -> Path:
    """A sequenced site: 1, normalised, ALTs together."""
    return _vcf(path, names, [
        (chrom, pos, ref, ",".join(alts), alleles)
        for (chrom, pos, ref, alts), alleles in zip(cohort.places, cohort.people, strict=True)
    ])  # fmt: skip


def split(cohort: Cohort, path: Path, names: Sequence[str], rng: Random) -> Path:
    """Another: chr1, not normalised, each ALT by itself and the other one written as REF."""
    lines = []
    for (chrom, pos, ref, alt), place, index in cohort.variants():
        alleles = cohort.people[place]
        written = moved(cohort.letters[chrom], pos, ref, alt, rng)
        lines.append((f"chr{chrom}", *written, np.where(alleles > 0, alleles == index, alleles).astype(np.int8)))
    return _vcf(
        path, names, sorted(lines, key=lambda line: (["chr13", "chrX", "chr2", "chr1"].index(line[0]), line[1]))
    )


class Typed(NamedTuple):
    """A line of the array's .bim."""

    flipped: bool
    swapped: bool
    a1: str
    a2: str


def array(cohort: Cohort, prefix: Path, names: Sequence[str], rng: Random) -> list[Typed]:
    """A third: numbers for contigs, either strand, either order; PREFIX.bed, .bim and .fam."""
    lines, packed, bim = [], [b"\x6c\x1b\x01"], []
    for variant, place, index in cohort.variants():
        flipped, swapped = rng.random() < 0.5, rng.random() < 0.5
        alt, ref = (other_strand(each) if flipped else each for each in (variant.alt, variant.ref))
        lines.append(Typed(flipped, swapped, *((ref, alt) if swapped else (alt, ref))))
        copies = cohort.copies(place, index)
        counted = np.where(copies < 0, 3, 2 - copies if swapped else copies)
        codes = np.zeros(-(-len(names) // 4) * 4, np.uint8)
        codes[: len(names)] = np.array([3, 2, 0, 1], np.uint8)[counted]
        packed.append(np.bitwise_or.reduce(codes.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8), axis=1).tobytes())
        chrom = variant.chrom.replace("X", "23")
        bim.append(f"{chrom}\t.\t0\t{variant.pos}\t{lines[-1].a1}\t{lines[-1].a2}\n")
    prefix.with_suffix(".bed").write_bytes(b"".join(packed))
    prefix.with_suffix(".bim").write_text("".join(bim))
    prefix.with_suffix(".fam").write_text("".join(f"0 {name} 0 0 2 -9\n" for name in names))
    return lines


def dosages(source: Any, sites: Sites, manifest: VariantManifest) -> NDArray[np.int8]:
    """(V, n) of a file, -1 missing; where men have one copy it counts twice."""
    found = np.full((len(manifest), len(source.samples)), -1, np.int8)
    sex = np.full(len(source.samples), UNKNOWN)
    for called in sites.read(source):
        kinds = [manifest.kind[row] for row in called.rows.tolist()]
        found[called.rows] = two_copies(called, kinds, sex, Counter()).dosages
    found[sorted(sites.finish())] = -1
    return found


def undecided(cohort: Cohort, variant: Variant, line: Typed, share: float, known: float) -> bool:
    """Whether the stated rule drops the array's line; share: of the effect allele there, as it truly is.

    Naive: as many of the four readings as begin with the reference, and what the frequencies then say.
    """
    text = cohort.letters[variant.chrom][variant.pos - 1 :]
    readings = [strand(each) for strand in (str, other_strand) for each in (line.a1, line.a2)]
    if sum(text.startswith(reading) for reading in readings) == 1:
        return False
    return not (abs(known - 0.5) > FAR_FROM_HALF and abs(share - known) < NEAR)


def identical_rows(people: int, places: int, folder: Path, seed: int) -> dict[str, object]:
    """genotypes.5."""
    rng = Random(seed)
    cohort = Cohort.generated(people, places, rng)
    names = [f"P{at}" for at in range(people)]
    fasta = cohort.fasta(folder / "made.fa")
    manifest, reference = cohort.manifest(fasta, rng), Reference(fasta)
    typed = array(cohort, folder / "array", names, rng)
    sources: dict[str, tuple[Any, bool]] = {
        "joined": (VcfFile(joined(cohort, folder / "joined.vcf", names)), True),
        "split": (VcfFile(split(cohort, folder / "split.vcf", names, rng)), True),
        "array": (PlinkFile(folder / "array.bed"), False),
    }
    sites = {name: Sites(manifest, reference, forward=forward) for name, (_, forward) in sources.items()}
    found = {name: dosages(source, sites[name], manifest) for name, (source, _) in sources.items()}

    row_of: dict[tuple[object, ...], int] = {key: row for row, key in enumerate(_keys(manifest))}
    truth, dropped = np.empty_like(found["joined"]), np.zeros(len(manifest), np.bool_)
    planted = Counter[str]()
    lost = 0
    for (variant, place, index), line in zip(cohort.variants(), typed, strict=True):
        row, copies = row_of[tuple(variant)], cohort.copies(place, index)
        truth[row] = copies if manifest.effect[row] == "alt" else np.where(copies < 0, -1, 2 - copies)
        share = float(truth[row][copies >= 0].mean() / 2)
        dropped[row] = undecided(cohort, variant, line, share, float(manifest.frequency[row]))
        if not dropped[row] and (line.flipped or line.swapped):
            kind = "flipped_" * line.flipped + "swapped" * line.swapped
            planted[kind] += 1
            lost += not np.array_equal(found["array"][row], truth[row])
    holds = {
        "joined": np.array_equal(found["joined"], truth),
        "split": np.array_equal(found["split"], truth),
        "array": np.array_equal(found["array"][~dropped], truth[~dropped]),
        "array, dropped rows": bool((found["array"][dropped] == -1).all()),
    }
    share = 1 - lost / sum(planted.values())
    strands = [other_strand(ref) == alt for ref, alt in zip(manifest.ref, manifest.alt, strict=True)]
    note = {
        "people": people, "rows": len(manifest), "rows identical": holds, "planted on the array": dict(planted),
        "share found": share, "palindromic": int(sum(strands)),
        "palindromic dropped by the frequency rule": int(dropped[np.array(strands)].sum()),
        "indels dropped by it": int(dropped[~np.array(strands)].sum()),
        **{name: {key: times for key, times in each.counts.items() if times} for name, each in sites.items()},
    }  # fmt: skip
    return {"row": "genotypes.5", "value": share if all(holds.values()) else 0, "note": note}


class Line(NamedTuple):
    """A record with its alleles as they are written; `calls` are the GT alone."""

    chrom: str
    pos: int
    ref: str
    alts: tuple[str, ...]
    calls: list[str]


def real_files() -> list[Path]:
    """All VCF files with sequenced sites."""
    return sorted([*DATA.glob("vcf_real_small/*.vcf.gz"), *DATA.glob("getrm_pgx_vcf/*.vcf*")])


def lines_of(path: Path) -> tuple[list[str], list[Line]]:
    """Samples and records."""
    text = subprocess.run(["bcftools", "view", path], capture_output=True, check=True, text=True).stdout
    samples, lines = [], []
    for row in text.splitlines():
        if row.startswith("#CHROM"):
            samples = row.split("\t")[9:]
        elif not row.startswith("#"):
            chrom, pos, _, ref, alt, _, _, _, *cells = row.split("\t")
            calls = [cell.partition(":")[0] for cell in cells[1:]]
            lines.append(Line(chrom, int(pos), ref, tuple(alt.split(",")), calls))
    return samples, lines


def rewritten(lines: Sequence[Line], rng: Random) -> tuple[dict[str, str], list[Line]]:
    """A reference around the records, and these in more letters; a record that another one contradicts is left out."""
    letters, placed, new = dict[str, list[str]](), list[Line](), GAP
    last: tuple[str, int] = "", 0
    for line in lines:
        text = letters.setdefault(line.chrom, [])
        if line.chrom != last[0]:
            new, last = GAP, (line.chrom, line.pos)
        new, last = new + min(line.pos - last[1], 3 * GAP), (line.chrom, line.pos)
        text += [""] * (new + len(line.ref) - 1 - len(text))
        if all(old in {"", letter} for old, letter in zip(text[new - 1 :], line.ref, strict=False)):
            text[new - 1 : new - 1 + len(line.ref)] = line.ref
            placed.append(line._replace(pos=new))
    for line in placed:
        text = letters[line.chrom]
        unit = max(line.ref, line.alts[0], key=len)[1:]
        end = line.pos - 1 + len(line.ref)
        room = text[end : end + ROOM]
        if set(unit) <= set("ACGT") and len(line.alts) == 1 and len(line.ref) != len(line.alts[0]) and not any(room):
            text[end : end + ROOM] = (unit * ROOM)[:ROOM]
    whole = {
        chrom: "".join(each or rng.choice("ACGT") for each in [*text, *[""] * GAP]) for chrom, text in letters.items()
    }
    return whole, sorted((wordy(line, whole[line.chrom], rng) for line in placed), key=_in_order(whole))


def _in_order(letters: dict[str, str]) -> Callable[[Line], tuple[int, int]]:
    order = {chrom: at for at, chrom in enumerate(letters)}
    return lambda line: (order[line.chrom], line.pos)


def wordy(line: Line, text: str, rng: Random) -> Line:
    """The record in more letters, an indel with one ALT also elsewhere; one with an allele that is no letters stays."""
    if not set("".join(line.alts)) <= set("ACGT"):
        return line
    if len(line.alts) == 1:
        pos, ref, alt = moved(text, line.pos, line.ref, line.alts[0], rng)
        return line._replace(pos=pos, ref=ref, alts=(alt,))
    left, end = rng.randint(0, 3), line.pos - 1 + len(line.ref)
    before, after = text[line.pos - 1 - left : line.pos - 1], text[end : end + rng.randint(0, 3)]
    return line._replace(
        pos=line.pos - left, ref=before + line.ref + after, alts=tuple(before + alt + after for alt in line.alts)
    )


def against_others(path: Path, folder: Path, seed: int) -> Counter[str]:
    """Counts of alleles, of those that differ from bcftools norm, and of dosages that differ from plink2's."""
    samples, lines = lines_of(path)
    letters, lines = rewritten(lines, Random(seed))
    fasta, vcf, counts = folder / "made.fa", folder / "made.vcf", Counter[str](records=len(lines))
    fasta.with_name("made.fa.fai").unlink(missing_ok=True)
    fasta.write_text("".join(f">{chrom}\n{text}\n" for chrom, text in letters.items()))
    reference = Reference(fasta)
    with vcf.open("w") as file:
        head = [
            "#CHROM",
            "POS",
            "ID",
            "REF",
            "ALT",
            "QUAL",
            "FILTER",
            "INFO",
            *(["FORMAT", *samples] if samples else []),
        ]
        contigs = "".join(f"##contig=<ID={chrom},length={len(text)}>\n" for chrom, text in letters.items())
        info = '##INFO=<ID=AT,Number=A,Type=Integer,Description="Index of ALT">\n'
        file.write(_HEAD.replace("\n", f"\n{info}{contigs}", 1) + "\t".join(head) + "\n")
        for at, line in enumerate(lines):
            about = f"AT={','.join(map(str, range(1, len(line.alts) + 1)))}"
            cells = "\t".join(["\tGT", *line.calls]) if line.calls else ""
            file.write(f"{line.chrom}\t{line.pos}\t{at}\t{line.ref}\t{','.join(line.alts)}\t.\t.\t{about}{cells}\n")
    theirs = folder / "theirs.vcf"
    subprocess.run(["bcftools", "norm", "-f", fasta, "-m-", "-Ov", "-o", theirs, vcf], check=True, capture_output=True)
    normalised = dict[tuple[int, int], Variant]()
    for row in theirs.read_text().splitlines():
        if not row.startswith("#"):
            chrom, pos, name, ref, alt, _, _, about, *_ = row.split("\t", 8)
            normalised[int(name), int(about.removeprefix("AT="))] = Variant(chrom, int(pos), ref, alt)
    kept = dict[tuple[int, int], Variant]()
    for at, line in enumerate(lines):
        for index, alt in enumerate(line.alts, 1):
            if not set(alt) <= set("ACGT"):
                counts["alleles without letters"] += 1
                continue
            bases = partial(reference.bases, contig(line.chrom) or "")
            ours = Variant(line.chrom, *normalise(bases, line.pos, line.ref, alt))
            counts["alleles"] += 1
            counts["moved"] += ours.pos < line.pos
            counts["other than bcftools norm"] += ours != normalised[at, index]
            kept[at, index] = ours
    if samples:
        counts.update(dosages_against_plink2(lines, vcf, theirs, fasta, kept))
    return counts


def dosages_against_plink2(
    lines: Sequence[Line], vcf: Path, theirs: Path, fasta: Path, alleles: dict[tuple[int, int], Variant]
) -> Counter[str]:
    """Of a manifest of all these alleles; plink2 reads what bcftools norm has split.

    A call with `*` is missing here; bcftools writes it as REF.
    """
    draft, rng = Draft(Fasta(fasta)), Random(7)
    for variant in alleles.values():
        draft.add(Site(contig(variant.chrom) or "", *variant[1:], rng.choice(["alt", "ref"])))
    manifest = draft.manifest("all", 1, "made")
    ours = dosages(VcfFile(vcf), Sites(manifest, Reference(fasta), forward=True), manifest)
    row_of: dict[tuple[object, ...], int] = {key: row for row, key in enumerate(_keys(manifest))}
    starred = np.zeros(ours.shape, np.bool_)
    for (at, _), variant in alleles.items():
        stars = [str(index) for index, alt in enumerate(lines[at].alts, 1) if not set(alt) <= set("ACGT")]
        row = row_of.get((contig(variant.chrom), *variant[1:]))
        if stars and row is not None:
            starred[row] = [not set(stars).isdisjoint(call.replace("|", "/").split("/")) for call in lines[at].calls]

    options = ["--vcf-half-call", "missing", "--make-bed", "--threads", "1", "--output-chr", "MT"]
    subprocess.run(["plink2", "--vcf", theirs, *options, "--out", theirs], check=True, capture_output=True)
    n, counts = ours.shape[1], Counter[str]()
    packed = np.fromfile(f"{theirs}.bed", np.uint8)[3:].reshape(-1, -(-n // 4))
    for line, row_bytes in zip(Path(f"{theirs}.bim").read_text().splitlines(), packed, strict=True):
        chrom, _, _, pos, alt, ref = line.split()
        row = row_of.get((chrom, int(pos), ref, alt))
        if row is None:
            counts["rows of two records, or without letters"] += 1
            continue
        copies = np.array([2, -1, 1, 0], np.int8)[(row_bytes[:, None] >> np.arange(0, 8, 2) & 3).reshape(-1)[:n]]
        if manifest.effect[row] == "ref":
            copies = np.where(copies < 0, copies, 2 - copies)
        copies = np.where(starred[row], -1, copies)
        counts["dosages"] += n
        counts["calls with *"] += int(starred[row].sum())
        counts["other than plink2"] += int((copies != ours[row]).sum())
    return counts


def _keys(manifest: VariantManifest) -> Iterator[tuple[str, int, str, str]]:
    return zip(manifest.chrom, manifest.pos.tolist(), manifest.ref, manifest.alt, strict=True)


def like_others(paths: Sequence[Path], folder: Path) -> dict[str, object]:
    """genotypes.7."""
    counts = Counter[str]()
    for seed, path in enumerate(paths):
        counts.update(against_others(path, folder, seed))
    differ = counts["other than bcftools norm"] + counts["other than plink2"]
    note = {"files": len(paths), **counts, "references": "made around each file's own REF alleles, with repeats"}
    return {
        "row": "genotypes.7",
        "value": int(not differ and counts["moved"] > 0 and counts["dosages"] > 0),
        "note": note,
    }


def main(rows: Sequence[str]) -> None:
    """One JSON object a row."""
    with tempfile.TemporaryDirectory() as folder:
        if not rows or "genotypes.5" in rows:
            print(json.dumps(identical_rows(PEOPLE, PLACES, Path(folder), 5)), flush=True)
        if not rows or "genotypes.7" in rows:
            print(json.dumps(like_others(real_files(), Path(folder))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
