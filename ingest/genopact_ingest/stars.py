"""The defining positions of the pharmacogenes out of a sequenced file, as star alleles and phenotypes.

A position is called for a person if the letters of its records account for both haplotypes. It is uncalled where the
call is missing or has one allele, where it has a letter that the table does not know (`*` too), where two records claim
one variant, and where there is no record: an absent record is no reference call. Only a file that the site declares
to hold every variant of its people (`all_sites`) reads absent records as the reference; its indels must then be
left-aligned, since one that is written elsewhere would be absent too.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.findings import require
from genopact_ingest.source import Match, Record, Source
from genopact_shared.alleles import contig
from genopact_shared.recipes.pharmacogenes import GENES, Call
from genopact_shared.recipes.table import Codes
from genopact_shared.recipes.variants import Build

Place = tuple[str, int]


class Stars(NamedTuple):
    """n samples in the file's order, and the genes of which the file has something; files of other genes add theirs.

    dosages: (n,) int8 copies of the table's `alt` by variant, -1 uncalled.
    calls: n calls by gene.
    absent: the variants of these genes at positions without a record.
    """

    samples: tuple[str, ...]
    dosages: dict[str, Codes]
    calls: dict[str, tuple[Call, ...]]
    absent: tuple[str, ...]


class _Copies(NamedTuple):
    """(n,) copies of one letter and (n,) haplotypes that carry it, as in `Called`."""

    dosages: Codes
    haplotypes: NDArray[np.uint8]


class _Letters:
    """A `Harmoniser`.

    rows: what each of its rows counts, as position and letters, the reference's letters too.
    chroms: of the file.
    """

    def __init__(self, build: Build) -> None:
        self.rows, self.chroms = list[tuple[Place, str]](), set[str]()
        self.references, self.letters = dict[Place, str](), defaultdict[Place, set[str]](set)
        for gene in GENES.values():
            for variant in gene.variants:
                place = gene.chrom, variant.positions[build]
                self.references[place] = variant.references[build]
                self.letters[place] |= {variant.ref, variant.alt}

    def match(self, records: Sequence[Record]) -> list[Match]:
        """See `Harmoniser`. Raises Fault VCF_ALLELES where REF is not the reference."""
        matches: list[Match] = []
        for at, record in enumerate(records):
            place = contig(record.chrom) or "", record.pos
            self.chroms.add(place[0])
            if place not in self.references:
                continue
            ref, short = record.ref.upper(), self.references[place]
            require(ref.startswith(short) or short.startswith(ref), "VCF_ALLELES", f"({place[0]}:{place[1]})")
            written = [ref, *(alt.upper() for alt in record.alts)]
            tail = ref.removeprefix(short) if ref.startswith(short) else "-"
            hits = [letters for letters in sorted(self.letters[place]) if letters + tail in written]
            if tail and len(hits) < 2:
                continue  # a longer or shorter record of another variant says nothing about this one
            for letters in hits:
                matches.append(Match(at, len(self.rows), written.index(letters + tail)))
                self.rows.append((place, letters))
        return matches


def read_stars(source: Source, build: Build, *, all_sites: bool = False) -> Stars:
    """The star alleles of every sample.

    Args:
        source: a file on the reference's forward strand, opened with phases where it has them. Phased calls of one
            person are taken as one phase set.
        build: the file's reference, which the header's contig lengths or the harmoniser have confirmed.
        all_sites: the site declares that, on the chromosomes of the file, a position without a record is the reference
            for everybody. It does not hold for a file with no record at any position of the table: that file may be of
            another build.

    Raises:
        ImportRefusedError: of the file.
    """
    letters, n = _Letters(build), len(source.samples)
    found = defaultdict[Place, dict[str, list[_Copies]]](lambda: defaultdict(list))
    for called in source.batches(letters):
        for at, row in enumerate(called.rows.tolist()):
            place, here = letters.rows[row]
            alone = np.zeros(n, np.bool_) if called.haploid is None else called.haploid[at]
            haplotypes = np.zeros(n, np.uint8) if called.haplotypes is None else called.haplotypes[at]
            found[place][here].append(_Copies(np.where(alone, np.int8(-1), called.dosages[at]), haplotypes))
    complete = all_sites and bool(found)
    copies, calls, absent = dict[str, Codes](), dict[str, tuple[Call, ...]](), list[str]()
    for gene in GENES.values():
        places = [(gene.chrom, variant.positions[build]) for variant in gene.variants]
        if not (complete and gene.chrom in letters.chroms) and found.keys().isdisjoint(places):
            continue
        columns = list[_Copies]()
        for variant, place in zip(gene.variants, places, strict=True):
            reference = variant.references[build]
            if place in found:
                columns.append(_letter(found[place], reference, variant.alt))
            else:
                absent.append(variant.name)
                dosage, carried = (-1, 0) if not complete else (2, 3) if reference == variant.alt else (0, 0)
                columns.append(_Copies(np.full(n, dosage, np.int8), np.full(n, carried, np.uint8)))
            copies[variant.name] = columns[-1].dosages
        calls[gene.name] = gene.calls(*map(np.stack, zip(*columns, strict=True)))
    return Stars(source.samples, copies, calls, tuple(absent))


def _letter(rows: dict[str, list[_Copies]], reference: str, wanted: str) -> _Copies:
    """Of one letter of a position, from all letters that its records have.

    Each of k records calls the letters of the others the reference: 2 (k - 1) copies of it are that.
    """
    missing = np.any([each.dosages < 0 for each in chain(*rows.values())], axis=0)
    whole = {letters: each[0] for letters, each in rows.items()}
    several, carried = map(np.stack, zip(*rows[reference], strict=True))
    copies = several.sum(axis=0) - 2 * (len(several) - 1)
    whole[reference] = _Copies(copies.astype(np.int8), np.bitwise_and.reduce(carried))
    missing |= np.sum([each.dosages for each in whole.values()], axis=0) != 2
    missing |= any(len(each) > 1 for letters, each in rows.items() if letters != reference)
    dosages, haplotypes = whole.get(wanted, _Copies(np.zeros_like(several[0]), np.zeros_like(carried[0])))
    return _Copies(np.where(missing, np.int8(-1), dosages), np.where(missing, np.uint8(0), haplotypes))
