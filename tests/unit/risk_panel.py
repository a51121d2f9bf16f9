"""A small made-up region for tests of recipe `risk`: a reference panel, its design, and patients of it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from genopact_server.design.directions import Budget
from genopact_server.design.measure import Known, design
from genopact_server.design.panel import Panel, blocks_of
from genopact_server.design.posterior import Posterior
from genopact_shared import wire
from genopact_shared.published import Published
from genopact_shared.recipes.table import Codes, Copies, Floats, Table

VARIANTS, LINKED, NAMES = 60, 20, ("eur", "sas")
PREVALENCE, CLIP = 0.2, 0.45


def frequencies(variants: int, rng: np.random.Generator) -> Floats:
    """(2, V): what the two ancestries have."""
    return np.asarray(rng.uniform(0.15, 0.85, variants) + np.array([[0.1], [-0.1]]), dtype=np.float64)


def drawn(frequency: Floats, ancestry: NDArray[np.intp], rng: np.random.Generator) -> Codes:
    """(n, V) copies; in blocks of LINKED variants neighbours go together."""
    field = rng.normal(size=(2, len(ancestry), frequency.shape[1]))
    for j in range(1, frequency.shape[1]):
        field[:, :, j] = 0.7 * field[:, :, j - 1] + np.sqrt(1 - 0.49) * field[:, :, j] if j % LINKED else field[:, :, j]
    return np.asarray((field < ndtri(np.clip(frequency[ancestry], 0.02, 0.98))).sum(axis=0), dtype=np.int8)


def small_panel(seed: int = 5, variants: int = VARIANTS, people: int = 240) -> Panel:
    """Two ancestries, blocks of twenty variants whose neighbours go together."""
    rng = np.random.default_rng(seed)
    ancestry = np.repeat(np.arange(2), people // 2)
    copies = drawn(frequencies(variants, rng), ancestry, rng)
    blocks = blocks_of([str(j // LINKED) for j in range(variants)])
    return Panel(copies, ancestry.astype(np.intp), NAMES, blocks)


def small_known(seed: int = 5) -> Known:
    """What is public of the small panel."""
    panel, rng = small_panel(seed), np.random.default_rng(seed)
    effects = np.tile(rng.normal(0, 0.1, VARIANTS), (2, 1))
    found = Posterior(effects, rng.normal(0, 0.05, (30, 2, VARIANTS)).astype(np.float32), np.full(VARIANTS, 0.01))
    return Known.of(panel, found, [0.5, 0.5])


def parameters_of(arrays: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe's parameters for a design, which is published in a folder."""
    digest = Published(folder).add(wire.pack(arrays))
    return {
        "variants": "0" * 64, "design": digest, "directions": int(arrays["block_directions"][-1]),
        "groups": list(NAMES), "features": len(arrays["second_moments"]), "prevalence_milli": round(1000 * PREVALENCE),
    }  # fmt: skip


def small_design(folder: Path, patients: int, mu: float, noise: float, seed: int = 5) -> dict[str, Any]:
    """A design of the small panel, published in a folder; the recipe's parameters."""
    return parameters_of(design(small_known(seed), Budget.of(patients, mu, CLIP, PREVALENCE), noise), folder)


def patients(n: int, seed: int = 1, missing: float = 0.0, panel_seed: int = 5) -> Table:
    """Of the small panel's ancestries; a fifth held out. Effects are the published ones and as much again."""
    rng, frequency = np.random.default_rng(seed), frequencies(VARIANTS, np.random.default_rng(panel_seed))
    ancestry = rng.integers(0, 2, n)
    copies = drawn(frequency, ancestry, rng)
    known = small_known(panel_seed)
    own = np.random.default_rng(panel_seed + 1).normal(0, 0.12, VARIANTS)
    x = (copies - 2 * frequency[ancestry]) / known.panel.sd
    age, sex = rng.uniform(30, 80, n), rng.integers(0, 2, n).astype(np.int8)
    odds = -1.75 + x @ (known.found.mean[0] + own) + 0.3 * (age - 55) / 15 + 0.1 * (2.0 * sex - 1)
    disease = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    copies = np.where(rng.random(copies.shape) < missing, -1, copies).astype(np.int8)
    columns = {"age": age, "sex": sex, "held_out": (rng.random(n) < 0.2).astype(np.int8), "disease": disease}
    return Table(columns, n, Copies(copies))
