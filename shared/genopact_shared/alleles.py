"""Contig names, the other strand, and the one way to write a variant: left-aligned and parsimonious."""

from collections.abc import Callable

CONTIGS = (*map(str, range(1, 23)), "X", "Y", "MT")
"""The order of a manifest."""

_ALIASES = {name: name for name in CONTIGS} | {
    "23": "X", "24": "Y", "25": "X", "XY": "X", "PAR1": "X", "PAR2": "X", "26": "MT", "M": "MT",
}  # fmt: skip
_ALIASES |= {f"chr{name}": contig for name, contig in _ALIASES.items()}
_OTHER = str.maketrans("ACGT", "TGCA")
_REACH = 64


def contig(name: str) -> str | None:
    """The name in CONTIGS of a contig as files write it (chr1, 23, PAR1, chrM); None: it is not one of them."""
    return _ALIASES.get(name)


def other_strand(allele: str) -> str:
    """The reverse complement."""
    return allele.translate(_OTHER)[::-1]


def normalise(bases: Callable[[int, int], bytes], pos: int, ref: str, alt: str) -> tuple[int, str, str]:
    """The variant left-aligned and with the fewest letters (Tan et al. 2015, doi:10.1093/bioinformatics/btv112).

    Args:
        bases: the reference's letters at positions start .. stop - 1, counted from 1, upper case.
        pos: position of the first letter, from 1.
        ref: letters of ACGT that equal the reference, at least one.
        alt: letters of ACGT other than `ref`, at least one.
    """
    left = b""
    while ref[-1] == alt[-1]:
        if len(ref) == 1 or len(alt) == 1:
            if pos == 1:
                return pos, ref, alt
            if not left:
                left = bases(max(1, pos - _REACH), pos)
            pos, letter, left = pos - 1, chr(left[-1]), left[:-1]
            ref, alt = letter + ref, letter + alt
        ref, alt = ref[:-1], alt[:-1]
    same = 0
    while same < min(len(ref), len(alt)) - 1 and ref[same] == alt[same]:
        same += 1
    return pos + same, ref[same:], alt[same:]
