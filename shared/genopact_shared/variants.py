"""Where the variants of the recipes lie. Alleles are on the forward strand of the reference, as in a VCF.

VKORC1 lies on the reverse strand: the literature's -1639 G>A is C>T here, 1173 C>T is G>A, 1542 G>C is C>G and
2255 C>T is G>A (whose T is the reference's A). One haplotype carries all four low-dose alleles: T, A, G, A.
Positions: dbSNP; GRCh38 compared with 1000 Genomes calls, GRCh37 with pypgx' variant table.
"""

from dataclasses import dataclass
from typing import Literal

Build = Literal["GRCh37", "GRCh38"]

CONTIG_LENGTHS: dict[Build, dict[str, int]] = {
    "GRCh37": {"10": 135_534_747, "16": 90_354_753},
    "GRCh38": {"10": 133_797_422, "16": 90_338_345},
}
"""Tell the builds apart by a VCF header."""

_COMPLEMENT = str.maketrans("ACGT", "TGCA")


@dataclass(frozen=True)
class Variant:
    """A biallelic substitution. `positions`: 1-based, per build."""

    rsid: str
    gene: str
    chrom: str
    positions: dict[Build, int]
    ref: str
    alt: str

    @property
    def palindromic(self) -> bool:
        """Whether both strands read the same two letters, so that letters do not tell the strand."""
        return complement(self.ref) == self.alt


def complement(allele: str) -> str:
    """The same letters on the other strand (for substitutions: no reversal needed)."""
    return allele.translate(_COMPLEMENT)


def _at(rsid: str, gene: str, place: tuple[str, int, int], alleles: str) -> Variant:
    chrom, old, new = place
    return Variant(rsid, gene, chrom, {"GRCh37": old, "GRCh38": new}, alleles[0], alleles[1])


VARIANTS: dict[str, Variant] = {
    variant.rsid: variant
    for variant in (
        _at("rs1799853", "CYP2C9", ("10", 96_702_047, 94_942_290), "CT"),
        _at("rs1057910", "CYP2C9", ("10", 96_741_053, 94_981_296), "AC"),
        _at("rs2359612", "VKORC1", ("16", 31_103_796, 31_092_475), "AG"),
        _at("rs8050894", "VKORC1", ("16", 31_104_509, 31_093_188), "CG"),
        _at("rs9934438", "VKORC1", ("16", 31_104_878, 31_093_557), "GA"),
        _at("rs9923231", "VKORC1", ("16", 31_107_689, 31_096_368), "CT"),
    )
}
