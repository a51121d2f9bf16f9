"""The exact test of Hardy-Weinberg proportions."""

import numpy as np

from genopact_ingest.counts import NONE, ONE, PLAIN_X, TWO, Floats, Ints, Scan, X, Y
from genopact_shared.compiled import compiled


def exact_tests(scan: Scan) -> Floats:
    """(groups, V) p of the controls of each ancestry group, women alone on X; NaN on Y, MT and without people."""
    ancestries = np.unique(scan.groups[:, 2][scan.groups[:, 2] >= 0])
    p = np.full((len(ancestries), len(scan.kind)), np.nan)
    on_x = np.isin(scan.kind, (X, PLAIN_X))
    for row, ancestry in enumerate(ancestries):
        chosen = (scan.groups[:, 1] == 1) & (scan.groups[:, 2] == ancestry)
        every, women = (scan.counts[chosen & few].sum(axis=0, dtype=np.int64) for few in (True, scan.groups[:, 0] == 0))
        counts = np.where(on_x[:, None], women, every) * (scan.kind < Y)[:, None]
        compiled(exact_p)(counts[:, TWO], counts[:, ONE], counts[:, NONE], p[row])
    return p


def exact_p(two: Ints, one: Ints, none: Ints, p: Floats) -> None:
    """(V,) counts of genotypes to (V,) p-values, NaN without people.

    The probability of each count of heterozygotes relative to the likeliest one, by recurrence from there.
    Source: Wigginton, Cutler and Abecasis, Am J Hum Genet 2005;76:887-893.
    """
    for v in range(len(p)):
        people, rare = two[v] + one[v] + none[v], 2 * min(two[v], none[v]) + one[v]
        if people == 0:
            p[v] = np.nan
            continue
        start = rare * (2 * people - rare) // (2 * people)
        start += (rare - start) & 1
        terms = np.zeros(rare + 1)
        terms[start] = 1.0
        for h in range(start, 1, -2):  # from h to h - 2: one homozygote more of each kind
            homs = (rare - h) // 2 + 1
            terms[h - 2] = terms[h] * h * (h - 1) / (4.0 * homs * (people - h - homs + 2))
        for h in range(start, rare - 1, 2):
            homs = (rare - h) // 2
            terms[h + 2] = terms[h] * 4.0 * homs * (people - h - homs) / ((h + 2.0) * (h + 1))
        p[v] = terms[terms <= terms[one[v]] * (1 + 1e-9)].sum() / terms.sum()
