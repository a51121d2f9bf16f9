"""Copies by the coalescent, with msprime: GPL, so that nothing depends on it and it is imported where it is used.

Demography: Gutenkunst et al., PLoS Genet 2009;5:e1000695, in gutenkunst.yaml. Mutation rate: Scally & Durbin, Nat Rev
Genet 2012;13:745-753.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator

from genopact_server.simulate.haplotypes import ANCESTRIES, COMMON, START, Advance, Drawn
from genopact_shared.errors import GenopactError, replacing
from genopact_shared.recipes.table import Codes

DEMOGRAPHY = Path(__file__).with_name("gutenkunst.yaml")
RECOMBINATION, MUTATION = 1.1e-8, 1.2e-8
"""For each base and generation."""


def coalescent(
    rng: Generator, people: Sequence[int], megabases: float, variants: int | None, advance: Advance = lambda _: None
) -> Drawn:
    """Some variants, or all, of those that are common in one of the ancestries. `people`: by ancestry.

    Raises:
        GenopactError: MSPRIME_MISSING.
    """
    with replacing(ImportError, GenopactError("MSPRIME_MISSING")):
        import demes  # of msprime's own dependencies
        import msprime
    samples, one = dict(zip(ANCESTRIES, people, strict=True)), int(rng.integers(1, 2**31))
    model, bases = msprime.Demography.from_demes(demes.load(DEMOGRAPHY)), round(megabases * 1e6)
    trees = msprime.sim_ancestry(
        samples, demography=model, sequence_length=bases, recombination_rate=RECOMBINATION, random_seed=one
    )
    trees = msprime.sim_mutations(trees, rate=MUTATION, model=msprime.BinaryMutationModel(), random_seed=one)
    pos, found = list[int](), list[Codes]()
    for variant in trees.variants():
        copies = variant.genotypes.reshape(-1, 2).sum(axis=1, dtype=np.int8)
        shares = [part.mean() / 2 for part in np.split(copies, np.cumsum(people)[:-1])]
        if any(COMMON <= share <= 1 - COMMON for share in shares):
            pos.append(START + int(variant.site.position))
            found.append(copies)
    advance(len(ANCESTRIES))
    kept = np.sort(rng.permutation(len(pos))[:variants])
    return np.array(pos)[kept], np.split(np.array(found)[kept], np.cumsum(people)[:-1], axis=1)
