"""Sites against the manifest: which allele of a record is the effect allele of which row.

A sequenced file (`forward`) is on the reference's forward strand by definition: its REF is the reference. An array is
not: its letters may be of either strand and in either order, so that a record has up to four readings. Rules:

* Each ALT counts by itself. `*`, symbolic alleles and letters other than ACGT match nothing.
* REF unlike the reference: the record matches nothing, and too many of them refuse the file, as of another build.
* An array's record with more than one possible reading (a palindromic substitution, a deletion) is decided by the
  frequencies of file and manifest, or is ambiguous and matches nothing.
* Without a reference: substitutions, and of a sequenced file also what is letter for letter in the manifest.
* A second record of a row: nobody can tell which is right, so that the row is missing for everybody (`finish`).
* A sequenced record without ALT says that nobody carries one: it matches the substitutions at its place.
* Where a record has several ALTs and REF is the effect allele, everything but the row's other allele is a copy of it:
  split records, which write the other ALTs as REF, then give the same dosages as joined ones (`read`).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from genopact_ingest.findings import Fault, require
from genopact_ingest.reference import Reference
from genopact_ingest.source import Called, Match, Record, Source
from genopact_shared import alleles
from genopact_shared.alleles import other_strand
from genopact_shared.manifest import VariantManifest
from genopact_shared.recipes.variants import CONTIG_LENGTHS

DIFFERING, DIFFERING_ARRAY, FEW = 0.005, 0.1, 2
"""The share of compared sites above which a sequenced file, or an array, is of another build; few may differ on one."""
FAR_FROM_HALF, NEAR = 0.16, 0.08
"""Frequencies decide a reading: the manifest's is farther than this from a half, the file's nearer than this to it."""
_COMPARED = 5_000
_LETTERS = frozenset("ACGT")
_LEFT_OUT = re.compile(
    r"0|(?:chr)?(?:Un_.*|EBV)|(?:GL|KI|JH|HLA-|CHR_H|NT_|NW_).*|hs\d+d\d+|NC_007605|.*_(?:alt|random|decoy|fix|hap\d+)"
)


class Reading(NamedTuple):
    """A record's letters as if this were their strand and order, and which allele of the file each of them is."""

    status: str
    ref: str
    alt: str
    ref_index: int
    alt_index: int


class Sites:
    """A `Harmoniser`, one for each file: `read` the file, then `finish`.

    Attributes:
        counts: alternative alleles by what they are: same, swapped, flipped, flipped_and_swapped (these match),
            ambiguous, reference_mismatch, duplicate, no_letters (in the record or the reference), not_in_manifest;
            beside these: normalised, of those that match, and other_contig, records.

    Raises:
        Fault: VARIANT_BUILD, if manifest and reference are not of one build.
    """

    def __init__(self, manifest: VariantManifest, reference: Reference | None, *, forward: bool) -> None:
        self.counts = Counter[str]()
        self._manifest, self._reference, self._forward = manifest, reference, forward
        self._rows: dict[str, dict[int, tuple[int, ...]]] = {name: {} for name in alleles.CONTIGS}
        self._pos = manifest.pos.tolist()
        for row, (chrom, pos) in enumerate(zip(manifest.chrom, self._pos, strict=True)):
            places = self._rows[chrom]
            places[pos] = (*places.get(pos, ()), row)
        self._compared_manifest = manifest.reference != "."
        self._contigs: dict[str, str] = {}
        self._found, self._twice, self._inverse = set[int](), set[int](), set[int]()
        self._compared = self._differing = 0
        if reference:
            self._compare_manifest(reference)

    def compare_lengths(self, lengths: Mapping[str, int | None]) -> None:
        """The contig lengths of a file's header against the reference's, or the build's without one.

        A mitochondrial contig of another length (hg19 has an older sequence) is left out of the file.

        Raises:
            Fault: VARIANT_BUILD.
        """
        builds = {str(build): lengths for build, lengths in CONTIG_LENGTHS.items()}
        known = self._reference.lengths if self._reference else builds.get(self._manifest.build, {})
        for name, length in lengths.items():
            contig = alleles.contig(name)
            if length is not None and contig is not None and length != known.get(contig, length):
                if contig != "MT":
                    raise Fault("VARIANT_BUILD", f"(contig {contig} has {length} bases, not {known[contig]})")
                self._contigs[name] = ""

    def match(self, records: Sequence[Record]) -> list[Match]:
        """See `Harmoniser`. Raises Fault VARIANT_CONTIG for a contig of an unknown name."""
        found, matches = self._found, list[Match]()
        for at, record in enumerate(records):
            contig = self._contigs.get(record.chrom)
            if contig is None:
                contig = self._contigs[record.chrom] = alleles.contig(record.chrom) or ""
                require(contig or _LEFT_OUT.fullmatch(record.chrom), "VARIANT_CONTIG")
            if not contig:
                self.counts["other_contig"] += 1
                continue
            here = self._rows[contig].get(record.pos, ())
            hits = self._usual(record, here) if self._forward else None
            for row, allele in self._hits(contig, record, here) if hits is None else hits:
                if row in found:
                    self._twice.add(row)
                    self.counts["duplicate"] += 1
                else:
                    found.add(row)
                    if allele < 0:
                        self._inverse.add(row)
                    matches.append(Match(at, row, allele if allele >= 0 else ~allele))
        return matches

    def read(self, source: Source) -> Iterator[Called]:
        """The batches of a source, where needed with the copies of everything but the allele of `match`.

        Raises:
            ImportRefusedError: as the source does.
        """
        for called in source.batches(self):
            rows = [at for at, row in enumerate(called.rows.tolist()) if row in self._inverse]
            self._inverse.difference_update(called.rows[rows].tolist())
            yield _others(called, rows) if rows else called

    def finish(self) -> frozenset[int]:
        """The rows that must be missing for everybody, because the file has more than one record of them.

        Raises:
            Fault: VARIANT_BUILD, if too many sites differ from the reference, or from the manifest without one.
            RuntimeError: if the source was not read by `read`.
        """
        if self._inverse:
            raise RuntimeError("batches that Sites.read did not see")
        allowed = DIFFERING * self._compared if self._forward else max(FEW, DIFFERING_ARRAY * self._compared)
        if self._differing > allowed:
            raise Fault("VARIANT_BUILD", f"({self._differing} of {self._compared} sites have other letters)")
        return frozenset(self._twice)

    def _usual(self, record: Record, here: tuple[int, ...]) -> Sequence[tuple[int, int]] | None:
        """Quickly what `_hits` says of most sequenced records; None for others.

        These are records that are letter for letter in a manifest that was compared with the reference, and seven of
        eight substitutions elsewhere: the rest of them shows the build.
        """
        if len(record.alts) == 1:
            ref, alt = record.ref, record.alts[0]
            if not here and record.pos % 8 and len(ref) == len(alt) == 1:
                self.counts["not_in_manifest"] += 1
                return ()
            for row in here if self._compared_manifest else ():
                if self._manifest.ref[row] == ref and self._manifest.alt[row] == alt:
                    self._compared += 1
                    self.counts["same"] += 1
                    return ((row, int(self._manifest.effect[row] == "alt")),)
        return None

    def _hits(self, contig: str, record: Record, here: tuple[int, ...]) -> list[tuple[int, int]]:
        """(row, effect allele) of the alleles of one record, as `_hit` has them."""
        ref, hits = record.ref.upper(), list[tuple[int, int]]()
        if self._forward and (fault := self._misfit(contig, record.pos, ref, here)):
            self.counts[fault] += len(record.alts)
            return hits
        if self._forward and not record.alts:
            nobody = Reading("same", ref, "", 0, 1)
            for row in here:
                letters = self._manifest.ref[row], self._manifest.alt[row]
                if ref in letters and {*map(len, letters)} == {1}:
                    hits.append(self._hit(row, nobody if ref == letters[0] else _exchanged(nobody, "swapped"), record))
            return hits
        for index, alt in enumerate(map(str.upper, record.alts), 1):
            if not _LETTERS.issuperset(ref + alt) or ref == alt:
                self.counts["no_letters"] += 1
            elif not here and len(ref) == len(alt) == 1:
                self.counts["not_in_manifest"] += 1
            elif isinstance(found := self._read(contig, record, Reading("same", ref, alt, 0, index)), str):
                self.counts[found] += 1
            else:
                hits.append(self._hit(*found, record))
        return hits

    def _misfit(self, contig: str, pos: int, ref: str, here: tuple[int, ...]) -> str:
        """Why REF is not the reference's, if so; without one, at the manifest's places, REF must begin as there."""
        if self._reference:
            letters = self._reference.bases(contig, pos, pos + len(ref))
            if letters == ref.encode():
                self._compared += 1
                return ""
            known = contig in self._reference.lengths and _LETTERS.issuperset(ref)
            if not known or letters.translate(None, b"ACGT"):
                return "no_letters"
        elif not here or any(ref[0] in self._beginnings(row) for row in here):
            self._compared += bool(here)
            return ""
        self._compared, self._differing = self._compared + 1, self._differing + 1
        return "reference_mismatch"

    def _read(self, contig: str, record: Record, written: Reading) -> tuple[int, Reading] | str:
        """The row and how the record is read, or why there is none."""
        small = len(written.ref) == len(written.alt) == 1
        if self._forward:  # the order may be another in a manifest that was compared with no reference
            readings = [written, _exchanged(written, "swapped")] if small else [written]
            hits = self._rows_of(contig, record.pos, readings)
            return hits[0] if hits else "not_in_manifest"
        flipped = written._replace(ref=other_strand(written.ref), alt=other_strand(written.alt), status="flipped")
        readings = [written, _exchanged(written, "swapped"), flipped, _exchanged(flipped, "flipped_and_swapped")]
        if self._reference:
            bases = partial(self._reference.bases, contig, record.pos)
            readings = [each for each in readings if bases(record.pos + len(each.ref)) == each.ref.encode()]
        elif not small:
            return "ambiguous"
        hits = self._rows_of(contig, record.pos, readings)
        if small:
            self._compared, self._differing = self._compared + 1, self._differing + (not hits)
        if len(readings if self._reference else hits) > 1 and hits:
            hits = [hit for hit in hits if self._is_near(*hit, record)]
            return hits[0] if len(hits) == 1 else "ambiguous"
        return hits[0] if hits else "not_in_manifest" if readings else "reference_mismatch"

    def _rows_of(self, contig: str, pos: int, readings: Sequence[Reading]) -> list[tuple[int, Reading]]:
        """The rows that are one of the readings, as it is written or normalised."""
        found, manifest = dict[tuple[int, Reading], None](), self._manifest
        for reading in readings:
            places = [(pos, reading.ref, reading.alt)]
            if self._reference and len(reading.ref) + len(reading.alt) > 2:
                places.append(alleles.normalise(partial(self._reference.bases, contig), *places[0]))
            for place, *letters in places:
                here = self._rows[contig].get(place, ())
                fitting = [row for row in here if [manifest.ref[row], manifest.alt[row]] == letters]
                found |= dict.fromkeys((row, reading) for row in fitting)
        return list(found)

    def _hit(self, row: int, reading: Reading, record: Record) -> tuple[int, int]:
        """The row and the effect allele; ~a: everything but allele a."""
        self.counts[reading.status] += 1
        if self._manifest.ref[row] != reading.ref or self._pos[row] != record.pos:
            self.counts["normalised"] += 1
        effect, other = reading.alt_index, reading.ref_index
        if self._manifest.effect[row] == "ref":
            effect, other = other, effect
        return row, effect if effect or len(record.alts) < 2 else ~other

    def _is_near(self, row: int, reading: Reading, record: Record) -> bool:
        """Whether the effect allele has about the manifest's frequency in this reading, and not in the other."""
        if record.frequency is None or len(record.alts) > 1:
            return False
        is_first_alt = bool(reading.alt_index) == (self._manifest.effect[row] == "alt")
        here, known = record.frequency if is_first_alt else 1 - record.frequency, float(self._manifest.frequency[row])
        return abs(known - 0.5) > FAR_FROM_HALF and abs(here - known) < NEAR

    def _beginnings(self, row: int) -> set[str]:
        """First letters that a sequenced REF can have at a row's place."""
        return {self._manifest.ref[row][0], *("" if self._compared_manifest else self._manifest.alt[row][0])}

    def _compare_manifest(self, reference: Reference) -> None:
        """Some rows of the manifest against the reference. Raises VARIANT_BUILD."""
        chrom, pos = self._manifest.chrom, self._pos
        rows = [row for row in range(0, len(pos), -(-len(pos) // _COMPARED)) if chrom[row] in reference.lengths]
        letters = {row: reference.bases(chrom[row], pos[row], pos[row] + 1).decode() for row in rows}
        differing = sum(letter not in self._beginnings(row) for row, letter in letters.items())
        if differing > (DIFFERING if self._compared_manifest else DIFFERING_ARRAY) * len(rows):
            raise Fault("VARIANT_BUILD", f"({differing} of {len(rows)} rows of the manifest are not the reference's)")


def _others(called: Called, rows: list[int]) -> Called:
    """The same calls; in these rows the copies of every other allele. Haplotypes keep what is unknown of them."""
    old = called.dosages[rows]
    haploid = np.zeros(old.shape, np.bool_) if called.haploid is None else called.haploid[rows]
    copies, dosages = 2 - haploid, called.dosages.copy()
    dosages[rows] = np.where(old >= 0, copies - old, -1)
    expected, haplotypes = called.expected, called.haplotypes
    if expected is not None:
        expected = expected.copy()
        expected[rows] = np.where(expected[rows] < 255, 127 * copies - expected[rows], 255)
    if haplotypes is not None:
        haplotypes = haplotypes.copy()
        known = (old >= 0) & ((old != 1) | (haplotypes[rows] > 0) | haploid)
        haplotypes[rows] = np.where(known, haplotypes[rows] ^ (2 * copies - 1), 0)
    return called._replace(dosages=dosages, expected=expected, haplotypes=haplotypes)


def _exchanged(reading: Reading, status: str) -> Reading:
    return Reading(status, reading.alt, reading.ref, reading.alt_index, reading.ref_index)
