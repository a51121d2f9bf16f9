"""Star-allele diplotypes and phenotypes of six pharmacogenes (the table: pharmacogenes.toml).

Nothing is guessed. Every pair of haplotypes that the genotypes allow is looked at: unphased heterozygotes either way
round, an uncalled position with any letter. A phenotype is given where all of them have it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_shared.errors import GenopactError, beside, replacing
from genopact_shared.recipes.dose_features import SCHEMA
from genopact_shared.recipes.table import Codes, Dosage
from genopact_shared.recipes.variants import Build

INDETERMINATE = "Indeterminate"
MOST_UNPHASED = 8
"""Unphased heterozygotes in one gene; 2^8 pairs of haplotypes are looked at, a person with more has no call."""


class Defining(NamedTuple):
    """A variant that defines alleles. `references`: the letters of each build, which for GRCh37 may be `alt`."""

    name: str
    positions: dict[Build, int]
    ref: str
    alt: str
    references: dict[Build, str]


class Star(NamedTuple):
    """A named allele: the variants (by index) that it carries, and those that it may carry.

    `function`: a word, or an activity value; "" or "n/a" where it is not known.
    """

    name: str
    function: str
    needs: frozenset[int]
    either: frozenset[int]


class _Reading(NamedTuple):
    """What a haplotype may be; `guessed` uncalled positions are not the reference; function None: no known allele."""

    name: str
    function: str | None
    guessed: int


class Call(NamedTuple):
    """What is known of a person's gene.

    diplotypes: the pairs of alleles that the genotypes allow and that need the fewest uncalled positions to differ from
        the reference; an allele in parentheses is a combination without a name.
    not_excluded: alleles of the other allowed pairs, those that need uncalled positions to differ.
    phenotypes: of all allowed pairs.
    """

    diplotypes: tuple[str, ...] = ()
    not_excluded: tuple[str, ...] = ()
    phenotypes: tuple[str, ...] = ()

    @property
    def phenotype(self) -> str:
        """The one that all allowed pairs have, else INDETERMINATE."""
        return self.phenotypes[0] if len(self.phenotypes) == 1 else INDETERMINATE


@dataclass(frozen=True, eq=False)
class Gene:
    """A gene of the table; `stars` begins with the reference's allele."""

    name: str
    chrom: str
    variants: tuple[Defining, ...]
    stars: tuple[Star, ...]
    uncallable: Mapping[str, str]
    cumulative: bool
    rules: tuple[tuple[Any, ...], ...]

    def phenotype(self, first: str | None, second: str | None) -> str:
        """Of two functions or activity values, in any order."""
        known = sorted(each for each in (first, second) if each and each != "n/a")
        for *rule, phenotype in self.rules:
            scored = isinstance(rule[0], float)
            if len(known) == 2 and (sum(map(float, known)) >= rule[0] if scored else known == sorted(rule)):
                return str(phenotype)
        return INDETERMINATE

    def named(self, text: str) -> Call:
        """The call that a laboratory states, such as *1/*3.

        Raises:
            GenopactError: STAR_UNKNOWN; nothing is guessed from a name that is not in the table.
        """
        first, second = names = self._pair(text)
        functions = {star.name: star.function for star in self.stars} | dict(self.uncallable)
        pair, phenotype = "/".join(sorted(names, key=_natural)), self.phenotype(functions[first], functions[second])
        return Call((pair,), (), (phenotype,))

    def copies(self, texts: Sequence[str]) -> dict[str, Codes]:
        """Of each variant's `alt`, by the variant's name: (n,) int8 in n stated diplotypes; -1 unknown.

        Raises:
            GenopactError: STAR_UNKNOWN. An empty text or NA is unknown.
        """
        found = np.full((len(self.variants), len(texts)), -1, np.int8)
        for person, text in enumerate(texts):
            if text.strip() not in {"", "NA"}:
                pair = self._pair(text)
                readings = [[star for star in self.stars if star.name == name] for name in pair]
                if all(len(stars) == 1 for stars in readings):  # a name with two definitions leaves the variants open
                    (first,), (second,) = readings
                    found[:, person] = [(v in first.needs) + (v in second.needs) for v in range(len(self.variants))]
                    found[list(first.either | second.either), person] = -1
        return {variant.name: row for variant, row in zip(self.variants, found, strict=True)}

    def _pair(self, text: str) -> tuple[str, str]:
        known = {name: name for name in [*(star.name for star in self.stars), *self.uncallable]}
        known |= {match[1]: name for name in known if (match := re.search(r"\((.+)\)", name))}
        with replacing((KeyError, ValueError), GenopactError("STAR_UNKNOWN", self.name)):
            first, second = (known[each.strip()] for each in text.split("/"))
        return first, second

    def call(self, dosages: Codes, haplotypes: NDArray[np.uint8]) -> Call:
        """A person's call.

        Args:
            dosages: (k,) int8 copies of each variant's `alt`; -1 uncalled, then for all variants of the position.
            haplotypes: (k,) uint8, bit 0 the first, bit 1 the second haplotype carries it; 0 for a heterozygote of
                unknown phase. All phased heterozygotes of the gene are in one phase set.
        """
        unknown = frozenset(np.flatnonzero(dosages < 0).tolist())
        free = np.flatnonzero((dosages == 1) & (haplotypes == 0)).tolist()
        if len(free) > MOST_UNPHASED:
            return Call()
        fixed = [frozenset(np.flatnonzero((dosages == 2) | (haplotypes & bit > 0)).tolist()) for bit in (1, 2)]
        options: list[tuple[bool, list[list[_Reading]]]] = []
        for taken in product((False, True), repeat=len(free)):
            second = frozenset(compress(free, taken))
            carried = fixed[0] | (frozenset(free) - second), fixed[1] | second
            if any(len({self.variants[v].positions["GRCh38"] for v in each}) < len(each) for each in carried):
                continue  # two letters of one position lie on two haplotypes
            sides = [_readings(self, each, unknown) for each in carried]
            known = [[each for each in side if each.function is not None] for side in sides]
            options.append((True, known) if all(known) else (False, sides))
        chosen = [sides for known, sides in options if known] or [sides for _, sides in options]
        return self._summary(chosen)

    def _summary(self, options: list[list[list[_Reading]]]) -> Call:
        """Of the readings of both haplotypes, in each order of the unphased heterozygotes."""
        likely: list[tuple[int, str]] = []
        functions = set[tuple[str | None, ...]]()
        for sides in options:
            functions |= set(product(*({each.function for each in side} for side in sides)))
            least = [min(each.guessed for each in side) for side in sides]
            pairs = zip(sides, least, strict=True)
            simple = [{each.name for each in side if each.guessed == few} for side, few in pairs]
            likely += [(sum(least), "/".join(sorted(pair, key=_natural))) for pair in product(*simple)]
        fewest = min(likely, default=(0, ""))[0]
        diplotypes = {pair for guessed, pair in likely if guessed == fewest}
        names = {each.name for sides in options for side in sides for each in side}
        others = names.difference(*(pair.split("/") for pair in diplotypes))
        called, open_ = (tuple(sorted(each, key=_natural)) for each in (diplotypes, others))
        return Call(called, open_, tuple(sorted({self.phenotype(*pair) for pair in functions})))

    def calls(self, dosages: Codes, haplotypes: NDArray[np.uint8]) -> tuple[Call, ...]:
        """The calls of n people; arrays (k, n) as in `call`. Equal genotypes are looked at once."""
        columns = np.concatenate([dosages.view(np.uint8), haplotypes]).T
        distinct, person = np.unique(columns, axis=0, return_inverse=True)
        k = len(dosages)
        found = [self.call(column[:k].view(np.int8), column[k:]) for column in distinct]
        return tuple(found[at] for at in person.ravel().tolist())


def dose_columns(dosages: Mapping[str, Codes]) -> dict[str, Codes]:
    """The columns of the dose recipe that these dosages, by rsid, give; called or stated alike."""
    wanted = {column.rsid: column.name for column in SCHEMA if isinstance(column, Dosage)}
    return {wanted[rsid]: dosage for rsid, dosage in dosages.items() if rsid in wanted}


@lru_cache(maxsize=1 << 16)
def _readings(gene: Gene, carried: frozenset[int], unknown: frozenset[int]) -> list[_Reading]:
    """What a haplotype may be, uncalled positions being anything."""
    full = {carried | (star.needs & unknown) for star in gene.stars if star.needs - unknown <= carried}
    return list({_reading(gene, each, len(each - carried)) for each in full | {carried}})


def _reading(gene: Gene, carried: frozenset[int], guessed: int) -> _Reading:
    """The most specific allele that explains all that is carried; cumulative: the most specific alleles."""
    held = [star for star in gene.stars if star.needs <= carried]
    exact = [star for star in held if carried - star.needs <= star.either]
    if exact and not gene.cumulative:
        best = max(exact, key=lambda star: len(star.needs))
        return _Reading(best.name, best.function, guessed)
    largest = [star for star in held if not any(star.needs < other.needs for other in held)]
    rest = carried.difference(*(star.needs for star in largest))
    name = " + ".join([*(star.name for star in largest), *(gene.variants[v].name for v in sorted(rest))])
    if gene.cumulative and not rest:
        return _Reading(name, min((star.function for star in largest), key=float), guessed)
    return _Reading(f"({name})", None, guessed)


def _natural(name: str) -> list[tuple[int, str]]:
    """*2 before *10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.findall(r"\d+|\D+", name)]


def _gene(name: str, table: dict[str, Any]) -> Gene:
    index = {variant: at for at, variant in enumerate(table["variants"])}
    variants, stars = list[Defining](), list[Star]()
    for each, (pos, ref, alt) in table["variants"].items():
        positions: dict[Build, int] = {"GRCh37": pos + table["shift37"], "GRCh38": pos}
        reference37 = alt if each in table.get("reference37", ()) else ref
        variants.append(Defining(each, positions, ref, alt, {"GRCh37": reference37, "GRCh38": ref}))
    for star, function, *carried in table["alleles"]:
        needs = frozenset(index[each] for each in carried if not each.startswith("?"))
        either = frozenset(index[each[1:]] for each in carried if each.startswith("?"))
        stars.append(Star(star, function, needs, either))
    rules, cumulative = tuple(map(tuple, table["phenotypes"])), table.get("cumulative", False)
    return Gene(name, table["chrom"], tuple(variants), tuple(stars), table.get("uncallable", {}), cumulative, rules)


GENES: dict[str, Gene] = {name: _gene(name, table) for name, table in beside(__file__).items()}
