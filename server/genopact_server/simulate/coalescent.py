"""Haplotypes by the coalescent, with msprime: GPL, so that nothing depends on it and it is imported where it is used.

Demography: Gutenkunst et al., PLoS Genet 2009;5:e1000695, table 1 (out of Africa, three populations, 25 years a
generation). Mutation rate: Scally & Durbin, Nat Rev Genet 2012;13:745-753.
"""

from collections.abc import Sequence
from math import exp
from typing import Any

import numpy as np
from numpy.random import Generator

from genopact_server.simulate.haplotypes import ANCESTRIES, COMMON, Advance, Bits, Drawn, Haplotypes, regions
from genopact_shared.errors import GenopactError

RECOMBINATION, MUTATION = 1.1e-8, 1.2e-8
"""For each base and generation."""


def coalescent(rng: Generator, people: Sequence[int], megabases: float, advance: Advance = lambda _: None) -> Drawn:
    """All variants that are common in one of the ancestries. `people`: by ancestry.

    Raises:
        GenopactError: MSPRIME_MISSING.
    """
    try:
        import msprime
    except ImportError as error:
        raise GenopactError("MSPRIME_MISSING") from error
    ends = 2 * np.cumsum(people)
    starts = ends - 2 * np.array(people)
    chroms, places, packed = list[int](), list[int](), [list[Bits]() for _ in ANCESTRIES]
    for chrom, start, bases in regions(megabases):
        ancestry, mutations = rng.integers(1, 2**32 - 1, 2).tolist()
        trees = msprime.sim_ancestry(
            dict(zip(ANCESTRIES, people, strict=True)), demography=_demography(msprime), sequence_length=bases,
            recombination_rate=RECOMBINATION, random_seed=ancestry,
        )  # fmt: skip
        model = msprime.BinaryMutationModel()
        trees = msprime.sim_mutations(trees, rate=MUTATION, model=model, random_seed=mutations)
        for variant in trees.variants():
            share = np.add.reduceat(variant.genotypes, starts, dtype=np.int64) / (ends - starts)
            if np.minimum(share, 1 - share).max() >= COMMON:
                chroms.append(chrom)
                places.append(start + int(variant.site.position))
                for of, first, stop in zip(packed, starts, ends, strict=True):
                    of.append(np.packbits(variant.genotypes[first:stop].astype(np.uint8)))
    advance(len(ANCESTRIES))
    found = [Haplotypes(np.stack(bits), n) for bits, n in zip(packed, people, strict=True)]
    return Drawn(np.array(chroms), np.array(places), found)


def _demography(msprime: Any) -> Any:
    """Times in generations before now, sizes in diploid people."""
    parted, left_africa, grew = 21.2e3 / 25, 140e3 / 25, 220e3 / 25
    model = msprime.Demography()
    model.add_population(name="afr", initial_size=12_300)
    model.add_population(name="eur", initial_size=1_000 * exp(0.004 * parted), growth_rate=0.004)
    model.add_population(name="eas", initial_size=510 * exp(0.0055 * parted), growth_rate=0.0055)
    model.add_population(name="out", initial_size=2_100)
    model.add_population(name="human", initial_size=12_300)
    model.add_population(name="ancestral", initial_size=7_300)
    for pair, rate in {("afr", "eur"): 3e-5, ("afr", "eas"): 1.9e-5, ("eur", "eas"): 9.6e-5}.items():
        model.set_symmetric_migration_rate(pair, rate)
    model.add_population_split(time=parted, derived=["eur", "eas"], ancestral="out")
    model.add_symmetric_migration_rate_change(time=parted, populations=["afr", "out"], rate=25e-5)
    model.add_population_split(time=left_africa, derived=["afr", "out"], ancestral="human")
    model.add_population_split(time=grew, derived=["human"], ancestral="ancestral")
    return model
