"""Small stores of genotypes for tests, and what they must give, written naively."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_client.genotypes.opened import Opened
from genopact_client.genotypes.sealed import Genotypes
from genopact_client.keyfile import KeyFile
from genopact_shared.manifest import VariantManifest

CODES = {2: 0b00, -1: 0b01, 1: 0b10, 0: 0b11}
ALLELES = "ACGT"
Matrix = NDArray[np.int8]


class Room(NamedTuple):
    """A store, and what it was made with."""

    store: Genotypes
    keys: KeyFile
    variants: VariantManifest

    @property
    def path(self) -> Path:
        return self.store.path

    def again(self) -> "Room":
        """Closed and opened."""
        self.store.close()
        return self._replace(store=Genotypes(self.path, self.keys))

    def opened(self, rows: list[int]) -> Opened:
        return self.store.open(np.array(rows, np.int64), self.variants, lambda: True)

    def dosages(self, rows: list[int]) -> Matrix:
        """(n, V)"""
        return self.opened(rows).dosages(np.arange(len(rows)), np.empty((len(rows), len(self.variants)), np.int8))

    def write(self, rows: list[int], dosages: Matrix, plan: str = "") -> None:
        """Dosages (V, n) as one import."""
        writer = self.store.writer(np.array(rows), plan)
        writer.add(np.arange(len(dosages)), dosages)
        writer.commit()


def variants(length: int, frequency: NDArray[np.float64] | None = None) -> VariantManifest:
    """On chromosome 1, position by position; the effect allele is now the reference, now the other."""
    dots, order = (".",) * length, range(length)
    ref = tuple(ALLELES[at % 4] for at in order)
    alt = tuple(ALLELES[(at + 1 + at % 3) % 4] for at in order)
    effect = tuple(("alt", "ref")[at % 2] for at in order)
    shares = np.linspace(0.05, 0.95, length) if frequency is None else frequency
    return VariantManifest(
        "small", 1, "GRCh38", ".", "made up", ("1",) * length, np.arange(1, length + 1, dtype=np.int64),
        ref, alt, effect, shares, dots, dots, dots, ("autosome",) * length,
    )  # fmt: skip


def room(folder: Path, length: int, people: int = 12, kind: Any = "synthetic", **options: Any) -> Room:
    keys = KeyFile.create(folder / "keyfile", bytes(range(32)))
    keys.new_many(people)
    manifest = variants(length)
    return Room(Genotypes.create(folder / "genotypes" / "main", keys, manifest, kind, **options), keys, manifest)


def genotypes(length: int, people: int, seed: int = 0) -> Matrix:
    """(V, n) of everything that may be, -1 to 2."""
    return np.random.default_rng(seed).integers(-1, 3, (length, people), dtype=np.int8)


def packed(dosages: Matrix) -> NDArray[np.uint8]:
    """PLINK 1 codes of (V, n), by person: (n, ceil(V / 4)), zeros beyond the last variant."""
    rows = np.zeros((dosages.shape[1], -(-len(dosages) // 4)), np.uint8)
    for variant, people in enumerate(dosages.tolist()):
        for person, copies in enumerate(people):
            rows[person, variant // 4] |= CODES[copies] << (2 * (variant % 4))
    return rows


def standardised(dosages: Matrix, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """(V, n) to (n, V) float64."""
    out = np.zeros(dosages.T.shape)
    for variant, f in enumerate(frequency.tolist()):
        for person, copies in enumerate(dosages[variant].tolist()):
            if copies >= 0 and 0 < f < 1:
                out[person, variant] = (copies - 2 * f) / np.sqrt(2 * f * (1 - f))
    return out
