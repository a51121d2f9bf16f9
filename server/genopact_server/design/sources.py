"""Public inputs of a design, in the order of a variant manifest: a panel in PLINK files, associations, a score."""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from genopact_server.design.directions import TRANSFER
from genopact_server.design.panel import Indices, Panel, blocks_of, read_plink
from genopact_server.design.posterior import Evidence, Posterior
from genopact_server.manifests import alleles
from genopact_shared import durable
from genopact_shared.alleles import contig
from genopact_shared.errors import GenopactError, require
from genopact_shared.manifest import VariantManifest

MEGABASE = 1_000_000
CROWD, TRUST = 4, 0.6
"""Published statistics of CROWD times as many people as the panel has count as TRUST of theirs: the panel's linkage is
not exactly theirs, and errors of it would pass for effects."""
LEAST_FOUND = 0.5
COLUMNS = ("CHROM", "GENPOS", "ALLELE0", "ALLELE1", "N", "BETA", "SE")
"""As regenie names them; ALLELE1 is the effect allele."""
Key = tuple[str | None, int, str, str]


def panel_of(prefix: Path, variants: VariantManifest) -> Panel:
    """A panel of PLINK 1 files; the family id of a person is the ancestry. Missing where the files lack a variant.

    Raises:
        GenopactError: PANEL_INVALID.
    """
    copies, people, sites = read_plink(prefix)
    here, dosages = _places(variants), np.full((len(people), len(variants)), -1, np.int8)
    for (chrom, _, _, pos, one, two), found in zip(sites, copies.T, strict=True):
        at, sign = here.get((contig(chrom), int(pos) if pos.isdecimal() else 0, two.upper(), one.upper()), (None, 1))
        if at is not None:
            dosages[:, at] = found if sign == 1 else np.where(found < 0, -1, 2 - found)
    require((dosages >= 0).any(axis=0).mean() >= LEAST_FOUND, "PANEL_INVALID", "it lacks most variants of the manifest")
    names = sorted({row[0] for row in people})
    ancestry = np.array([names.index(row[0]) for row in people], np.intp)
    if min(np.bincount(ancestry)) < 2:
        raise GenopactError("PANEL_INVALID", "an ancestry of one person: column 1 of .fam names ancestries")
    return Panel(dosages, ancestry, tuple(names), _contiguous(variants), tuple(row[1] for row in people))


def evidence_of(panel: Panel, variants: VariantManifest, tables: Mapping[str, Path]) -> Evidence:
    """Of association results by ancestry, with columns COLUMNS. Raises SITES_INVALID, USAGE for an unknown ancestry."""
    if unknown := set(tables) - set(panel.names):
        raise GenopactError("USAGE", f"the panel has no ancestry {', '.join(sorted(unknown))}")
    information, gradient = np.zeros(len(panel.names)), np.zeros((len(panel.names), len(variants)))
    here = _places(variants)
    for name, path in tables.items():
        k, squares, scores, crowd = panel.names.index(name), np.zeros(len(variants)), np.zeros(len(variants)), 0.0
        for row in _rows(path):
            try:
                key = contig(row["CHROM"]), int(row["GENPOS"]), row["ALLELE0"].upper(), row["ALLELE1"].upper()
                beta, se, n = float(row["BETA"]), float(row["SE"]), float(row["N"])
            except ValueError:
                continue  # NA: a variant that was not tested
            at, sign = here.get(key, (None, 1))
            if at is not None and se > 0 and math.isfinite(beta):
                squares[at], scores[at] = 1 / se**2, sign * beta / se**2
                crowd = max(crowd, n)
        f = panel.frequency[k]
        common = (squares > 0) & (2 * f * (1 - f) > 0.05)
        require(common.any(), "SITES_INVALID", f"{path}: no common variant of the manifest")
        trust = TRUST if crowd > CROWD * panel.people(k) else 1.0
        information[k] = trust * np.median(squares[common] / (2 * f * (1 - f))[common])
        gradient[k] = trust * scores / panel.sd
    return Evidence(information, gradient)


def known_score(panel: Panel, variants: VariantManifest) -> Posterior:
    """Of a published score alone, the manifest's column `weight`: as much again is taken to be unknown.

    A manifest without weights knows nothing: the directions are then those of linkage.
    """
    weights = np.nan_to_num(variants.extra.get("weight", np.zeros(len(variants))))
    mean = np.tile(weights * panel.sd, (len(panel.names), 1))
    carried = 2 * panel.frequency * (1 - panel.frequency) / panel.sd**2
    explained = (mean**2 * carried).sum(axis=1).max()
    slab = np.full(len(variants), explained / (1 - TRANSFER**2) / carried.sum(axis=1).max())
    return Posterior(mean, np.zeros((1, *mean.shape), np.float32), slab)


def _places(variants: VariantManifest) -> dict[Key, tuple[int, int]]:
    """(contig, position, other, effect allele) -> row, and 1, or -1 where the manifest counts the other allele."""
    rows = list(zip(range(len(variants)), variants.chrom, variants.pos.tolist(), alleles(variants), strict=True))
    found: dict[Key, tuple[int, int]] = {(chrom, pos, two, one): (at, -1) for at, chrom, pos, (one, two) in rows}
    found.update({(chrom, pos, *pair): (at, 1) for at, chrom, pos, pair in rows})
    return found


def _contiguous(variants: VariantManifest) -> tuple[Indices, ...]:
    """The manifest's blocks if it names any, else megabases; one that goes on elsewhere is another block."""
    named = zip(variants.chrom, variants.pos.tolist(), variants.block, strict=True)
    names = [block if block != "." else f"{chrom}-{pos // MEGABASE}" for chrom, pos, block in named]
    runs = np.cumsum([0, *(one != two for one, two in pairwise(names))])
    return blocks_of(runs.astype(str).tolist())


def _rows(path: Path) -> list[dict[str, str]]:
    lines = durable.read(path, "SITES_MISSING").decode("utf-8", "replace").splitlines()
    names, *cells = [line.split() for line in lines] or [[]]
    require(set(COLUMNS) <= set(names), "SITES_INVALID", f"{path}: the header names {', '.join(COLUMNS)}")
    require({*map(len, cells)} <= {len(names)}, "SITES_INVALID", f"{path}: a line with another number of cells")
    return [dict(zip(names, row, strict=True)) for row in cells]
