"""Made-up genotype files of known people, and what they hold, read by pysam: the naive reference."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pysam
from numpy.typing import NDArray

from genopact_shared.manifest import VariantManifest

LENGTH, GAP = 2_400, 60
REPEAT = 1_000
"""Where chromosome 1 has TGAGAGAGAGAC, counted from 1; a deletion of GA there can be written in several ways."""
SECRET = "rsTHEFILESOWNWORDS"
"""In many places of each file that nobody may repeat."""
Matrix = NDArray[np.int8]


class Line(NamedTuple):
    """A record: its site, FORMAT and cells."""

    chrom: str
    pos: int
    ref: str
    alts: tuple[str, ...]
    cells: tuple[str, ...]
    form: str = "GT"


@dataclass(frozen=True)
class Region:
    """Two chromosomes and the start of X with a site every GAP letters. `names`: of the samples."""

    names: tuple[str, ...]
    seed: int = 4

    @cached_property
    def genome(self) -> dict[str, str]:
        """The same for every seed."""
        rng = np.random.default_rng(1)
        found = {chrom: "".join(rng.choice(list("ACGT"), LENGTH)) for chrom in ("chr1", "chr2", "chrX")}
        one = found["chr1"]
        found["chr1"] = one[: REPEAT - 1] + "TGAGAGAGAGAC" + one[REPEAT + 11 :]
        return found

    @cached_property
    def sites(self) -> list[tuple[str, int, str, tuple[str, ...]]]:
        """Substitutions, of which some have two ALTs; insertions and deletions in the fewest letters."""
        found = list[tuple[str, int, str, tuple[str, ...]]]()
        for chrom, letters in self.genome.items():
            for at in range(GAP, LENGTH - GAP, GAP):
                ref, kind, others = letters[at - 1], at // GAP % 7, [x for x in "ACGT" if x != letters[at - 1]]
                if chrom == "chr1" and abs(at - REPEAT) < GAP:
                    continue
                if kind == 3 and letters[at] != ref:
                    found.append((chrom, at, letters[at - 1 : at + 1], (ref,)))
                elif kind == 5:
                    found.append((chrom, at, ref, (ref + others[0],)))
                else:
                    found.append((chrom, at, ref, tuple(others[: 2 if kind == 1 else 1])))
        return sorted([*found, ("chr1", REPEAT, "TGA", ("T",))])

    def lines(self, *chroms: str) -> list[Line]:
        """Calls of everybody, phased, one of twelve missing; whichever chromosomes are asked for, the same ones."""
        rng, lines = np.random.default_rng(self.seed), list[Line]()
        for chrom, pos, ref, alts in self.sites:
            share = rng.uniform(0.1, 0.4)
            calls = (rng.random((len(self.names), 2)) < share) * rng.integers(1, len(alts) + 1, (len(self.names), 2))
            gone = rng.random(len(self.names)) < 1 / 12
            cells = tuple("./." if out else f"{a}|{b}" for (a, b), out in zip(calls.tolist(), gone, strict=True))
            lines.append(Line(chrom, pos, ref, alts, cells))
        return [line for line in lines if not chroms or line.chrom in chroms]

    def fasta(self, path: Path, shift: int = 0) -> Path:
        """`shift`: letters by which everything is moved, as in another build."""
        turned = {chrom: letters[shift:] + letters[:shift] for chrom, letters in self.genome.items()}
        path.write_text("".join(f">{chrom}\n{letters}\n" for chrom, letters in turned.items()))
        return path

    def table(self, path: Path) -> Path:
        """The study's list of sites; of every third the effect allele is REF."""
        sites = [(chrom, pos, ref, alt) for chrom, pos, ref, alts in self.sites for alt in alts]
        lines = ["chrom\tpos\tref\talt\teffect\tfrequency"]
        for at, site in enumerate(sites):
            lines.append("\t".join(map(str, (*site, *(("ref", 0.75) if at % 3 == 2 else ("alt", 0.25))))))
        path.write_text("\n".join([*lines, ""]))
        return path

    def vcf(self, path: Path, lines: Iterable[Line] | None = None) -> Path:
        """By default all lines. Plain if the name says so, else bgzip."""
        head = ["##fileformat=VCFv4.2", '##FILTER=<ID=PASS,Description="">', f"##comment={SECRET}"]
        head += ['##INFO=<ID=X,Number=1,Type=String,Description="">']
        head += ['##FORMAT=<ID=GT,Number=1,Type=String,Description="">']
        head += ['##FORMAT=<ID=DS,Number=A,Type=Float,Description="">']
        head += [f"##contig=<ID={chrom},length={LENGTH}>" for chrom in self.genome]
        head += ["#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + "\t".join(self.names)]
        for one in self.lines() if lines is None else lines:
            fixed = (one.chrom, one.pos, SECRET, one.ref, ",".join(one.alts) or ".", ".", "PASS", f"X={SECRET}")
            head.append("\t".join(map(str, (*fixed, one.form, *one.cells))))
        text = "\n".join([*head, ""]).encode()
        if path.suffix == ".vcf":
            path.write_bytes(text)
        else:
            with pysam.BGZFile(str(path), "wb", None) as file:
                file.write(text)
        return path


def places(manifest: VariantManifest) -> dict[tuple[str, int, str], int]:
    """(chrom, pos, alt) -> row; no two REFs of these sites are at one place."""
    chroms = (f"chr{chrom}" for chrom in manifest.chrom)
    return {site: row for row, site in enumerate(zip(chroms, manifest.pos.tolist(), manifest.alt, strict=True))}


def dosages(path: Path, manifest: VariantManifest, people: Sequence[str], men: Collection[str]) -> Matrix:
    """(people, V) copies of the effect alleles in a VCF whose indels are in the fewest letters; -1 missing.

    men: among them; of an allele on X they have none or all.
    """
    place, out = places(manifest), np.full((len(people), len(manifest)), -1, np.int8)
    with pysam.VariantFile(str(path)) as file:
        for record in file:
            for index, alt in enumerate(record.alts or (), 1):
                row = place.get((record.chrom, record.pos, alt), -1)
                for at, person in enumerate(people) if row >= 0 else ():
                    call = record.samples[person]["GT"]
                    copies = sum(allele == index for allele in call)
                    if None not in call and not (copies == 1 and record.chrom == "chrX" and person in men):
                        out[at, row] = copies if manifest.effect[row] == "alt" else 2 - copies
    return out
