"""What a risk model is made of: weights for a copy of each effect allele, variant by variant and block by block."""

import bisect
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from genopact_server.manifests import alleles
from genopact_shared import durable
from genopact_shared.alleles import contig
from genopact_shared.errors import GenopactError, require
from genopact_shared.manifest import VariantManifest
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.risk import RiskPlan
from genopact_shared.recipes.risk_design import CENTRE_UNIT
from genopact_shared.recipes.table import Floats

NEAR = 500_000
"""Letters from a variant to the gene that it is named after, at most."""
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Contributions:
    """Of the variants of a manifest, by ancestry (K, V): weights found and published, and frequencies."""

    variants: VariantManifest
    groups: tuple[str, ...]
    found: Floats
    published: Floats
    frequency: Floats
    genes: Sequence[str]

    @classmethod
    def of(cls, plan: RiskPlan, model: Model, variants: VariantManifest, gff: Path | None = None) -> "Contributions":
        """Of a finished model. Raises MANIFEST_INVALID for the manifest of another study."""
        if variants.digest != plan.parameters.variants:
            raise GenopactError("MANIFEST_INVALID", "the study is of other variants")
        frequency = plan.design.arrays["centre"] * (CENTRE_UNIT / 2)
        genes = variants.gene if gff is None else genes_of(variants, gff)
        return cls(variants, plan.parameters.groups, model["weights"], plan.start(model), frequency, genes)

    @property
    def variance(self) -> Floats:
        """(V,) that a variant alone gives log odds, the mean over the ancestries."""
        return np.asarray((self.found**2 * 2 * self.frequency * (1 - self.frequency)).mean(axis=0))

    def by_variant(self) -> list[Row]:
        """A row a variant, the largest variance first."""
        v, pairs, rows = self.variants, alleles(self.variants), list[Row]()
        share = self.variance / max(self.variance.sum(), 1e-300)
        for j in np.argsort(-share, kind="stable").tolist():
            other, effect = pairs[j]
            row: Row = {"chrom": v.chrom[j], "pos": str(v.pos[j]), "effect": effect, "other": other, "id": v.id[j]}
            row |= {"gene": self.genes[j], "block": v.block[j], "share": float(share[j])}
            for k, name in enumerate(self.groups):
                row |= {f"weight_{name}": float(self.found[k, j]), f"published_{name}": float(self.published[k, j])}
            rows.append(row)
        return rows

    def by_block(self, edges: Sequence[int]) -> list[Row]:
        """A row a block of the design, the largest share of variance first; `edges`: its first variants and the end."""
        v, rows, total = self.variants, list[Row](), max(self.variance.sum(), 1e-300)
        for first, last in pairwise(edges):
            largest = first + int(np.argmax(self.variance[first:last]))
            moved = np.abs(self.found - self.published)[:, first:last].sum()
            named = {gene for gene in self.genes[first:last] if gene != "."}
            rows.append(
                {
                    "chrom": v.chrom[first], "first": str(v.pos[first]), "last": str(v.pos[last - 1]),
                    "variants": str(last - first), "share": float(self.variance[first:last].sum() / total),
                    "moved": float(moved / max(np.abs(self.published[:, first:last]).sum(), 1e-300)),
                    "lead": v.id[largest], "gene": self.genes[largest], "genes": str(len(named)),
                }
            )  # fmt: skip
        return sorted(rows, key=lambda row: -float(row["share"]))

    def score_file(self, group: str) -> str:
        """A scoring file of one ancestry. Source: pgscatalog.org/downloads, format 2.0."""
        v, k = self.variants, self.groups.index(group)
        head = f"##format_version=2.0\n#genome_build={v.build}\n#variants_number={len(v)}\n#weight_type=log(OR)"
        lines = [head, "rsID\tchr_name\tchr_position\teffect_allele\tother_allele\teffect_weight"]
        for j, ((other, effect), weight) in enumerate(zip(alleles(v), self.found[k].tolist(), strict=True)):
            lines.append(f"{v.id[j]}\t{v.chrom[j]}\t{v.pos[j]}\t{effect}\t{other}\t{weight:.9g}")
        return "\n".join([*lines, ""])


def table(rows: Sequence[Row]) -> str:
    """Tab-separated, with a header."""
    lines = ["\t".join(rows[0])]
    lines += ["\t".join(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row.values()) for row in rows]
    return "\n".join([*lines, ""])


def genes_in(gff: Path) -> dict[str | None, list[tuple[int, int, str]]]:
    """First and last letter and name of the genes of each chromosome, ascending: lines of type gene of GFF3.

    Raises:
        GenopactError: SITES_MISSING, SITES_INVALID.
    """
    data = durable.read(gff, "SITES_MISSING")
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8", "replace")
    known: dict[str | None, list[tuple[int, int, str]]] = {}
    for line in text.splitlines():
        cells = line.split("\t")
        if len(cells) == 9 and cells[2] == "gene" and cells[3].isdecimal() and cells[4].isdecimal():
            said = {key: value for key, _, value in (pair.partition("=") for pair in cells[8].split(";"))}
            name = next((said[key] for key in ("gene_name", "Name", "ID") if said.get(key)), ".")
            known.setdefault(contig(cells[0]), []).append((int(cells[3]), int(cells[4]), name))
    require(bool(known), "SITES_INVALID", f"{gff}: no line of type gene")
    return {chrom: sorted(genes) for chrom, genes in known.items()}


def genes_of(variants: VariantManifest, gff: Path) -> list[str]:
    """The gene that a variant lies in, or the nearest within NEAR, by a GFF3 file's genes; else "."."""
    known = genes_in(gff)
    found, starts = [], {chrom: [gene[0] for gene in genes] for chrom, genes in known.items()}
    for chrom, pos in zip(variants.chrom, variants.pos.tolist(), strict=True):
        genes = known.get(chrom, [])
        upto = bisect.bisect_right(starts.get(chrom, []), pos + NEAR)
        near = [(max(first - pos, pos - last, 0), name) for first, last, name in genes[:upto] if last >= pos - NEAR]
        found.append(min(near)[1] if near else ".")
    return found
