"""Where the variants of the recipes lie (variants.toml)."""

from typing import Literal, NamedTuple

from genopact_shared.alleles import other_strand
from genopact_shared.errors import beside

Build = Literal["GRCh37", "GRCh38"]


class Variant(NamedTuple):
    """A biallelic substitution on the forward strand of the reference. `positions`: 1-based, per build."""

    rsid: str
    gene: str
    chrom: str
    positions: dict[Build, int]
    ref: str
    alt: str

    @property
    def palindromic(self) -> bool:
        """Whether both strands read the same two letters, so that letters do not tell the strand."""
        return other_strand(self.ref) == self.alt


_TABLE = beside(__file__)
CONTIG_LENGTHS: dict[Build, dict[str, int]] = _TABLE["contig_lengths"]
"""Tell the builds apart by a VCF header."""

VARIANTS: dict[str, Variant] = {entry["rsid"]: Variant(**entry) for entry in _TABLE["variants"]}
