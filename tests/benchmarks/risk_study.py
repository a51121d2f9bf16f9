"""The frozen three-ancestry cohort as hospitals with genotypes, and its public part as a design of recipe `risk`."""

import lzma
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genopact_client.release.quantise import clipped_integers
from genopact_server.design.directions import Budget
from genopact_server.design.measure import Known, design
from genopact_server.design.panel import Panel, blocks_of
from genopact_server.design.posterior import Evidence
from genopact_shared import wire
from genopact_shared.plan import Plan, plan_of
from genopact_shared.privacy.accounting import gaussian_mu
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.privacy.noise import skellam
from genopact_shared.published import Published
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.risk import RiskPlan
from genopact_shared.recipes.risk_design import Indices, RiskDesign
from genopact_shared.recipes.table import Codes, Copies, Floats, Table
from genopact_shared.study import Privacy, RecipeChoice, Study

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "risk"
PEOPLE, REFERENCE, HOSPITALS = 24_000, 3_000, 8
NAMES, PREVALENCE, CLIP = ("afr", "eur", "eas"), 0.15, 0.45
TEMPERING = (1.0, 0.6, 0.6)
"""As `sources.TRUST` has it for 3,000, 42,000 and 5,000 people and a panel of 1,000 each."""
HONEST = 6
EVIDENCE_SHARE = 0.86


def dosages(name: str, people: int, folder: Path = FOLDER) -> Codes:
    """(people, variants) int8 copies of the alternate allele."""
    with lzma.open(folder / name) as file:
        packed = np.load(file)
    copies = (packed[:, :, None] >> np.arange(0, 8, 2, dtype=np.uint8)) & 3
    return np.ascontiguousarray(copies.reshape(len(packed), -1)[:, :people].T).astype(np.int8)


def public(seed: int, folder: Path = FOLDER) -> tuple[Panel, Evidence]:
    """The reference panel in blocks of 1 Mb, and the published statistics of that seed's phenotype."""
    published = np.load(folder / f"public_seed{seed}.npz")
    names = [f"{int(chunk)}-{int(at) // 1_000_000}" for chunk, _, at, *_ in published["meta"]]
    ancestry = published["ref_pop"].astype(np.intp)
    panel = Panel(dosages("reference_2bit.npy.xz", REFERENCE, folder), ancestry, NAMES, blocks_of(names))
    odds, trust = PREVALENCE * (1 - PREVALENCE), np.array(TEMPERING)
    gradient = trust * published["xty"] / panel.sd[:, None] * odds / published["rvar"]
    return panel, Evidence(trust * published["n"] * odds, gradient.T.astype(np.float64))


@dataclass(frozen=True, eq=False)
class Cohort:
    """24,000 people: what hospitals hold. `y`, `liability`, `population`, `hospital`, `test` (24000,)."""

    copies: Codes
    private: Any

    @classmethod
    def load(cls, seed: int, copies: Codes, folder: Path = FOLDER) -> "Cohort":
        return cls(copies, dict(np.load(folder / f"patients_seed{seed}.npz")))

    def table(self, rows: Indices) -> Table:
        """Their covariates and genotypes; those of the frozen test set are held out."""
        p = self.private
        columns: dict[str, Any] = {
            "age": 55 + 15 * p["age"][rows], "sex": (p["sex"][rows] > 0).astype(np.int8),
            "held_out": p["test"][rows].astype(np.int8), "disease": p["y"][rows].astype(np.float64),
        }  # fmt: skip
        return Table(columns, len(rows), Copies(self.copies, rows))

    @cached_property
    def hospitals(self) -> list[Indices]:
        return [np.flatnonzero(self.private["hosp"] == h) for h in range(HOSPITALS)]


class Remembered(RiskDesign):
    """A design that projects each table once: for repeated runs on the same people, in memory."""

    def features(self, table: Table) -> tuple[Floats, Indices]:
        return cast("tuple[Floats, Indices]", self._once("features", table, super().features))

    def measured(self, table: Table, ancestry: Indices) -> Floats:
        return cast(
            "Floats", self._once("measured", table, lambda each: super(Remembered, self).measured(each, ancestry))
        )

    def _once(self, what: str, table: Table, make: Any) -> Any:
        kept = vars(self).setdefault("kept", {})
        key = what, id(table)
        if key not in kept:
            kept[key] = (make(table), table)
        return kept[key][0]


@dataclass(frozen=True, eq=False)
class Setting:
    """A study of the eight hospitals. `epsilon` in thousandths."""

    epsilon: int
    delta: str
    mode: str = "distributed"

    @property
    def privacy(self) -> Privacy:
        honest = HONEST if self.mode == "distributed" else 1
        epsilon = None if self.mode == "none" else self.epsilon
        return Privacy(mode=cast("Any", self.mode), epsilon_milli=epsilon, delta=self.delta, honest_minimum=honest)


def budget(setting: Setting, training: int) -> tuple[Budget, float]:
    """Of the sum `effects`, and the standard deviation of its total's noise with every hospital in it."""
    mu = gaussian_mu(setting.epsilon / 1000, float(setting.delta)) * EVIDENCE_SHARE**0.5
    surplus = (HOSPITALS / HONEST) ** 0.5
    return Budget.of(training, mu / surplus, CLIP, PREVALENCE), CLIP / mu * surplus


def study_plan(setting: Setting, arrays: dict[str, NDArray[Any]], sizes: list[int], folder: Path) -> Plan:
    """The plan as every party of the study computes it."""
    published = Published(folder)
    digest = published.add(wire.pack(arrays))
    parameters = {
        "variants": "0" * 64, "design": digest, "directions": int(arrays["block_directions"][-1]), "groups": NAMES,
        "features": len(arrays["second_moments"]), "prevalence_milli": round(1000 * PREVALENCE), "held_out_milli": 200,
    }  # fmt: skip
    study = SimpleNamespace(recipe=RecipeChoice(name="risk", version=1, parameters=parameters), privacy=setting.privacy)
    planned = {f"hospital-{h}": size // 10 * 10 for h, size in enumerate(sizes)}
    plan = plan_of(cast("Study", study), planned, published)
    vars(plan.course)["design"] = Remembered(arrays)
    return plan


def trained(plan: Plan, tables: list[Table]) -> Model:
    """The model of one run: the hospitals' integers, each with its share of the noise, added up as masks would."""
    course = cast("RiskPlan", plan.course)
    model = course.initial()
    for step in plan.steps:
        fact, total = step.fact, np.zeros(course.steps[step.index].dims, np.int64)
        clip = float(fact.clip) if isinstance(fact, NoisedSum) else None
        for table in tables:
            rows = course.contribution(step.index, model, table)
            total += clipped_integers(rows, clip, course.steps[step.index].scale).sum(axis=0, dtype=np.int64)
            if clip is not None:
                total += skellam(step.share_variance, len(total))
        _, model = plan.advance(step.index, model, total, plan.planned)
    return model


def made(known: Known, setting: Setting, training: int) -> dict[str, NDArray[Any]]:
    """The design for a setting."""
    return design(known, *budget(setting, training))
