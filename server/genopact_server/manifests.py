"""Variant manifests out of lists of sites: compared with the reference, in the fewest letters, in order."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genopact_shared import wire
from genopact_shared.alleles import CONTIGS, contig, normalise
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.manifest import FIXED, VariantManifest

MOST_DIFFERING = 0.1
"""Where more of the sites than this share differ from the reference, the list is of another build."""
BUILDS = {"hg19": "GRCh37", "hg37": "GRCh37", "hg38": "GRCh38"}
_LETTERS = frozenset("ACGT")
_PSEUDOAUTOSOMAL = {
    ("GRCh37", "X"): ((60_001, 2_699_520), (154_931_044, 155_260_560)),
    ("GRCh37", "Y"): ((10_001, 2_649_520), (59_034_050, 59_363_566)),
    ("GRCh38", "X"): ((10_001, 2_781_479), (155_701_383, 156_030_895)),
    ("GRCh38", "Y"): ((10_001, 2_781_479), (56_887_903, 57_217_415)),
}


class Site(NamedTuple):
    """One variant; the fields are those of the manifest."""

    chrom: str
    pos: int
    ref: str
    alt: str
    effect: str = "alt"
    frequency: float = math.nan
    id: str = "."
    gene: str = "."
    block: str = "."
    extra: Mapping[str, float] = {}


class Fasta:
    """A reference on the researcher's disk. Raises REFERENCE_UNREADABLE."""

    def __init__(self, path: Path) -> None:
        import pysam

        with replacing((OSError, ValueError), GenopactError("REFERENCE_UNREADABLE", str(path))):
            if not path.is_file():
                raise OSError
            self._file = pysam.FastaFile(str(path))
        named = [(contig(name), name) for name in self._file.references]
        once = Counter(known for known, _ in named)
        self.names = {known: name for known, name in named if known and once[known] == 1}

    def bases(self, chrom: str, start: int, stop: int) -> bytes:
        """Upper-case letters at start .. stop - 1, counted from 1; fewer where the contig ends."""
        if chrom not in self.names:
            return b""
        return bytes(self._file.fetch(self.names[chrom], max(start, 1) - 1, stop - 1).upper(), "ascii")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `>NAME`, a line end and the letters of each contig, in the order of CONTIGS."""
        digest = hashlib.sha256()
        for chrom in filter(self.names.__contains__, CONTIGS):
            digest.update(b">%b\n" % chrom.encode())
            digest.update(bytes(self._file.fetch(self.names[chrom]).upper(), "ascii"))
        return digest.hexdigest()


class Draft:
    """Sites on their way into a manifest; `left_out` counts the others by reason."""

    def __init__(self, fasta: Fasta | None) -> None:
        self.fasta, self.left_out = fasta, Counter[str]()
        self._sites: dict[tuple[str, int, str, str], Site | None] = {}

    def add(self, site: Site) -> None:
        """A variant on the forward strand; one that comes twice is left out."""
        if not _LETTERS.issuperset(site.ref + site.alt) or not site.ref or not site.alt or site.ref == site.alt:
            return self.leave("no_letters")
        if site.chrom not in CONTIGS or site.pos < 1:
            return self.leave("no_place")
        if self.fasta and self.fasta.bases(site.chrom, site.pos, site.pos + len(site.ref)) != site.ref.encode():
            return self.leave("not_on_the_reference")
        try:
            known = partial(self.fasta.bases, site.chrom) if self.fasta else lambda *_: b""
            pos, ref, alt = normalise(known, *site[1:4])
        except IndexError:  # there is no letter to the left
            return self.leave("needs_a_reference")
        key = site.chrom, pos, ref, alt
        if key in self._sites:
            self.leave("twice", 1 + (self._sites[key] is not None))
        self._sites[key] = None if key in self._sites else site._replace(pos=pos, ref=ref, alt=alt)
        return None

    def leave(self, reason: str, times: int = 1) -> None:
        """Count a variant that stays out."""
        self.left_out[reason] += times

    def manifest(self, name: str, version: int, build: str, frequencies: str = ".") -> VariantManifest:
        """The manifest of what was added.

        Raises:
            GenopactError: VARIANT_BUILD, if too many sites differ from the reference; SITES_INVALID, if none is left.
        """
        found = [site for site in self._sites.values() if site]
        differing = self.left_out["not_on_the_reference"]
        if differing > MOST_DIFFERING * (differing + len(found)):
            raise GenopactError("VARIANT_BUILD", f"{differing} of {differing + len(found)} sites have other letters")
        found.sort(key=lambda site: (CONTIGS.index(site.chrom), *site[1:4]))
        clashes = {a[:2] for a, b in pairwise(found) if a[:2] == b[:2] and not b.ref.startswith(a.ref)}
        self.leave("two_references", sum(site[:2] in clashes for site in found))
        found = [site for site in found if site[:2] not in clashes]
        require(found, "SITES_INVALID", f"no variant is left: {dict(self.left_out)}")
        *fixed, extra = zip(*found, strict=True)
        table: dict[str, Any] = dict(zip(Site._fields, fixed, strict=False))
        columns = {column for each in extra for column in each}
        return VariantManifest(
            name=name, version=version, build=build, frequencies=frequencies,
            reference=self.fasta.digest if self.fasta else ".",
            **table | {"pos": np.array(table["pos"], np.int64), "frequency": np.array(table["frequency"], float)},
            kind=tuple(kind(build, site.chrom, site.pos) for site in found),
            extra={column: np.array([each.get(column, math.nan) for each in extra]) for column in columns},
        )  # fmt: skip


def kind(build: str, chrom: str, pos: int) -> str:
    """The class of a place; of an unknown build nothing is pseudoautosomal."""
    if any(first <= pos <= last for first, last in _PSEUDOAUTOSOMAL.get((build, chrom), ())):
        return "par"
    return {"X": "x", "Y": "y", "MT": "mt"}.get(chrom, "autosome")


def alleles(manifest: VariantManifest) -> list[tuple[str, str]]:
    """(other allele, effect allele) of each variant."""
    rows = zip(manifest.ref, manifest.alt, manifest.effect, strict=True)
    return [(ref, alt) if effect == "alt" else (alt, ref) for ref, alt, effect in rows]


def with_counts(manifest: VariantManifest, model: bytes, source: str) -> VariantManifest:
    """The next version, with frequencies of the pooled counts that a study released.

    Args:
        manifest: V variants.
        model: safetensors with `copies` of the effect allele and `people`, (V,) float64 each. Where noise has
            taken them out of range the nearest frequency is meant, and none where nobody is left.
        source: what the head says of the frequencies.

    Raises:
        GenopactError: SITES_INVALID, FRAME_INVALID.
    """
    arrays = wire.unpack(model, np.float64)
    shape = (len(manifest),)
    if not {"copies", "people"} <= set(arrays) or {arrays["copies"].shape, arrays["people"].shape} != {shape}:
        raise GenopactError("SITES_INVALID", f"the model has no arrays copies and people of {len(manifest)} numbers")
    copies, people = arrays["copies"], arrays["people"]
    known = (people >= 1) & np.isfinite(copies) & np.isfinite(people)
    frequency = np.full(shape, np.nan)
    frequency[known] = np.clip(copies[known] / (2 * people[known]), 0, 1)
    facts = {field: getattr(manifest, field) for field in VariantManifest.__dataclass_fields__}
    return VariantManifest(**facts | {"version": manifest.version + 1, "frequency": frequency, "frequencies": source})


def difference(old: VariantManifest, new: VariantManifest) -> Iterator[tuple[str, str]]:
    """(added, removed or changed; what) for each variant, in the order of the new one, then what was removed."""
    before, after = _lines(old), _lines(new)
    for key, cells in after.items():
        if key not in before:
            yield "added", key
        elif changes := {name: (before[key].get(name, "."), cells.get(name, ".")) for name in before[key] | cells}:
            said = [f"{name} {one} -> {two}" for name, (one, two) in changes.items() if one != two]
            if said:
                yield "changed", f"{key}: {', '.join(said)}"
    yield from (("removed", key) for key in before if key not in after)


def _lines(manifest: VariantManifest) -> dict[str, dict[str, str]]:
    """chrom:pos ref>alt -> the other cells by column."""
    names = (*FIXED, *manifest.extra)
    rows: Iterable[str] = manifest.encode().decode().splitlines()[-len(manifest) :]
    table = (dict(zip(names, row.split("\t"), strict=True)) for row in rows)
    return {f"{row.pop('chrom')}:{row.pop('pos')} {row.pop('ref')}>{row.pop('alt')}": row for row in table}
