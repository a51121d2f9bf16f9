"""What anybody may have: summary statistics of people who are in no hospital."""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from genopact_server.simulate.haplotypes import Floats, Haplotypes, Ints

RARE = 5
"""Alleles that fewer of all copies are say nothing: beta 0, and a large error."""
_ROWS = 64
"""Variants that are unpacked at a time; bounds memory."""


@dataclass(frozen=True, eq=False)
class Gwas:
    """One ancestry's score tests of n people. frequency, beta, se: (V,) of ALT, beta and se on the log-odds scale."""

    n: int
    frequency: Floats
    beta: Floats
    se: Floats

    @property
    def chisq(self) -> Floats:
        """(V,) with one degree of freedom."""
        return (self.beta / self.se) ** 2

    @property
    def log10p(self) -> Floats:
        """(V,) -log10 of the two-sided p, exact where p would be 0."""
        return np.asarray(-(np.log(2) + log_ndtr(-np.abs(self.beta / self.se))) / np.log(10))


def genetic(haplotypes: Haplotypes, rows: Ints, effects: Floats, first: int) -> Floats:
    """(people from `first` on,) sums of copies times effects; effects: (rows,)."""
    total = np.zeros(haplotypes.people - first)
    for at in range(0, len(rows), _ROWS):
        total += effects[at : at + _ROWS] @ haplotypes.dosages(rows[at : at + _ROWS], first)
    return total


def score_tests(haplotypes: Haplotypes, rows: Ints, first: int, disease: Floats, covariates: Floats) -> Gwas:
    """The association of `rows` with the disease of the people from `first` on.

    The null model is linear, and the variance of its residual stands for that of each person's outcome: one pass over
    the genotypes gives what a logistic score test gives, as long as effects are small.

    Args:
        haplotypes: of one ancestry.
        rows: (V,) variants.
        first: people before it are not of the study.
        disease: (n,) 0 or 1.
        covariates: (n, c) without a constant.
    """
    n = len(disease)
    null = np.column_stack([np.ones(n), covariates])
    residual = disease - null @ np.linalg.lstsq(null, disease, rcond=None)[0]
    score, copies, squares = np.zeros((3, len(rows)))
    narrow = residual.astype(np.float32)
    for at in range(0, len(rows), _ROWS):
        mine = slice(at, at + _ROWS)
        dosages = haplotypes.dosages(rows[mine], first).astype(np.float32)
        score[mine] = dosages @ narrow
        copies[mine] = dosages.sum(axis=1)
        squares[mine] = np.einsum("ij,ij->i", dosages, dosages)
    score[np.minimum(copies, 2 * n - copies) < RARE] = 0
    spread = max(residual.var(), 1e-6)  # 0 where nobody is ill
    information = spread * np.maximum(squares - copies**2 / n, 1)
    return Gwas(n, copies / (2 * n), score / information, 1 / np.sqrt(information))
