"""Generated people for the tests of quality control: independent variants, families, men and women."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.counts import People
from genopact_shared.manifest import VariantManifest

Dosages = NDArray[np.int8]
CODE = np.array([1, 3, 2, 0], np.uint8)
"""PLINK-1 code of dosage -1, 0, 1, 2, at dosage + 1."""


def manifest(
    frequency: NDArray[np.float64], kinds: Sequence[str], extra: Mapping[str, Any] | None = None
) -> VariantManifest:
    """Variants a megabase apart, so that each is a window of its own; kinds in the order of the chromosomes."""
    size = len(frequency)
    chroms = {"autosome": "1", "x": "X", "par": "X", "y": "Y", "mt": "MT"}
    return VariantManifest(
        name="made-up", version=1, build="GRCh38", reference=".", frequencies=".",
        chrom=tuple(chroms[kind] for kind in kinds), pos=np.arange(1, size + 1, dtype=np.int64) * 1_000_000,
        ref=("A",) * size, alt=("G",) * size, effect=("alt",) * size, frequency=frequency, id=(".",) * size,
        gene=(".",) * size, block=(".",) * size, kind=tuple(kinds), extra=dict(extra or {}),
    )  # fmt: skip


def packed(dosages: Dosages) -> NDArray[np.uint8]:
    """(n, V) dosages, -1 missing, as PLINK-1 rows; the padding is noise, which nobody may read."""
    codes = np.pad(CODE[dosages + 1], ((0, 0), (0, -dosages.shape[1] % 4)), constant_values=2)
    rows: NDArray[np.uint8] = np.bitwise_or.reduce(
        codes.reshape(len(codes), -1, 4) << np.array([0, 2, 4, 6], np.uint8), axis=2
    )
    return rows


def chunks(dosages: Dosages, size: int = 37) -> Iterator[NDArray[np.uint8]]:
    rows = packed(dosages)
    yield from (rows[at : at + size] for at in range(0, len(rows), size))


def gamete(parent: Dosages, rng: np.random.Generator) -> Dosages:
    """One allele at each of independent variants."""
    return (rng.random(parent.shape) < parent / 2).astype(np.int8)


def children(mothers: Dosages, fathers: Dosages, rng: np.random.Generator) -> Dosages:
    return gamete(mothers, rng) + gamete(fathers, rng)


def drawn(
    n: int, frequency: NDArray[np.float64], kinds: Sequence[str], sex: NDArray[np.int8], rng: np.random.Generator
) -> Dosages:
    """(n, V) in Hardy-Weinberg proportions; men have 0 or 2 on X and Y, women miss Y."""
    dosages = rng.binomial(2, frequency, (n, len(frequency))).astype(np.int8)
    single = 2 * rng.binomial(1, frequency, dosages.shape).astype(np.int8)
    kind, man = np.array(kinds), sex == 1
    dosages = np.where((kind == "mt") | (kind == "y") | ((kind == "x") & man[:, None]), single, dosages)
    return np.where((kind == "y") & ~man[:, None], -1, dosages).astype(np.int8)


def people(n: int, sex: NDArray[np.int8] | None = None, **more: Any) -> People:
    return People(np.arange(n, dtype=np.int64), np.full(n, -1, np.int8) if sex is None else sex, **more)
