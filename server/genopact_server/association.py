"""Results of an association study as a table in regenie's columns, and what such a table says at a glance."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_server.manifests import alleles
from genopact_server.report.facts import RunFacts
from genopact_shared import durable
from genopact_shared.errors import GenopactError, replacing
from genopact_shared.manifest import VariantManifest
from genopact_shared.recipes.gwas import GWAS, MEDIAN
from genopact_shared.recipes.gwas_private import NoisedGwas
from genopact_shared.recipes.table import Floats

HEADER = "CHROM GENPOS ID ALLELE0 ALLELE1 A1FREQ N TEST BETA SE CHISQ LOG10P EXTRA"
CHROMS = {"X": "23", "Y": "24", "MT": "26"}


class Points(NamedTuple):
    """Of the rows of a table that have a chance: (n,) chromosome, position, -log10 of the chance, chi square."""

    chrom: NDArray[np.str_]
    position: NDArray[np.int64]
    log10p: Floats
    chisq: Floats

    @property
    def lambda_gc(self) -> float:
        """The genomic control factor; NaN of nothing."""
        return float(np.median(self.chisq) / MEDIAN) if len(self.chisq) else math.nan


def log10p(chisq: Floats) -> Floats:
    """-log10 of the chance of a larger chi square with one degree of freedom."""
    from scipy.special import log_ndtr

    return np.asarray(-(log_ndtr(-np.sqrt(chisq)) + math.log(2)) / math.log(10)) + 0.0


def lines(facts: RunFacts, manifest: VariantManifest) -> Iterator[str]:
    """The table, a line a variant after the header; ALLELE1 is the allele that effects are of.

    NA stands for a variant that does not vary, and for one with fewer people, or fewer of either allele, than the
    study's minimum cohort. The standard error of a noised result is that of sampling and noise together.

    Raises:
        GenopactError: GWAS_RUN if the run is of another recipe, is not done, or has other variants.
    """
    study, model = facts.study, facts.models[-1]
    if study.recipe.name != GWAS.name or facts.state.stage != "done":
        raise GenopactError("GWAS_RUN", f"{study.recipe.name}, {facts.state.stage}")
    if study.recipe.parameters["variants"] != manifest.digest or len(model["people"]) != len(manifest):
        raise GenopactError("GWAS_RUN", "another manifest")
    people, copies, effect = model["people"], model["copies"], model["effect"]
    error, least = model["error"] * _inflation(facts), study.minimum_cohort
    fewest = np.minimum(people, np.minimum(copies, 2 * people - copies))
    shown = (fewest >= least) & np.isfinite(effect) & (error > 0)
    chisq = np.divide(effect, error, out=np.zeros_like(effect), where=shown) ** 2
    frequency = np.divide(copies, 2 * people, out=np.zeros_like(copies), where=people > 0)
    numbers = np.column_stack([frequency, people, effect, error, chisq, log10p(chisq)])
    yield HEADER
    for at, (pair, known, row) in enumerate(zip(alleles(manifest), shown.tolist(), numbers.tolist(), strict=True)):
        chrom, position, name = manifest.chrom[at], str(manifest.pos[at]), manifest.id[at]
        if name == ".":
            name = f"{chrom}:{position}:{manifest.ref[at]}:{manifest.alt[at]}"
        share, n, *rest = [f"{value:.9g}" for value in row] if known else ["NA"] * 6
        yield " ".join([CHROMS.get(chrom, chrom), position, name, *pair, share, n, "ADD", *rest, "NA"])


def _inflation(facts: RunFacts) -> float:
    """What the noise makes of every standard error: the score's variance with it, over that without, to the half."""
    course, noise = facts.plan.course, [facts.noise(step) for step in facts.plan.steps if step.name == "scores"]
    if not isinstance(course, NoisedGwas) or not noise or noise[0] is None:
        return 1.0
    return math.sqrt(1 + noise[0] ** 2 / course.information)


def read(path: Path) -> Points:
    """A table in regenie's columns, of this or another program, separated by blanks or tabs.

    Raises:
        GenopactError: GWAS_TABLE.
    """
    text = durable.read(path, "GWAS_TABLE").decode("utf-8", "replace")
    header, *rows = (line.split() for line in text.splitlines() or [""])
    with replacing((ValueError, IndexError, OverflowError), GenopactError("GWAS_TABLE", str(path))):
        where = [header.index(name) for name in ("CHROM", "GENPOS", "LOG10P", "CHISQ")]
        cells = ([row[at] for at in where] for row in rows if row)
        known = [row for row in cells if "NA" not in row[2:]]
        chrom, position, chance, chisq = zip(*known, strict=True) if known else ((), (), (), ())
        numbers = (np.array(each, float) for each in (chance, chisq))
        return Points(np.array(chrom, np.str_), np.array(position, np.int64), *numbers)
