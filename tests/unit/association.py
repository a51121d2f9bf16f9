"""People with genotypes and a trait for tests of `gwas` and `pca`, a federation of them through the release kernel,
and what a regression of everybody together gives, written naively.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopact_client.agent.exchange import _rows
from genopact_client.release import kernel
from genopact_client.release.private import Private
from genopact_shared import wire
from genopact_shared.plan import Plan, plan_of
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes.network import NetPlan
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Codes, Floats, Table
from genopact_shared.study import Study
from tests.unit.test_plan import PLANNED, key, study

VARIANTS = "ab" * 32


@dataclass(frozen=True, eq=False)
class Held:
    """Genotypes (n, V) in memory."""

    codes: Codes

    def take(self, rows: NDArray[Any]) -> "Held":
        return Held(self.codes[rows])

    def dosages(self, some: slice) -> Codes:
        return self.codes[some].copy()


def people(n: int, count: int, seed: int = 0, missing: float = 0.05) -> Table:
    """A trait of age, sex, a component and the fourth variant; some genotypes missing."""
    rng = np.random.default_rng(seed)
    codes = rng.binomial(2, rng.uniform(0.1, 0.9, count), (n, count)).astype(np.int8)
    age, sex, component = rng.uniform(20, 80, n), rng.integers(0, 2, n).astype(np.int8), rng.normal(size=n)
    trait = 0.02 * age + sex + 0.3 * component + 0.4 * codes[:, min(3, count - 1)] + rng.normal(size=n)
    codes[rng.random((n, count)) < missing] = -1
    return Table({"age": age, "sex": sex, "pc1": component, "trait": trait}, n, Held(codes))


def cases(table: Table) -> Table:
    """The same people with a trait of 0 or 1."""
    trait = table.number("trait")
    return Table({**table.columns, "trait": (trait > np.median(trait)).astype(np.float64)}, table.n, table.genotypes)


def codes_of(table: Table) -> Codes:
    assert isinstance(table.genotypes, Held)
    return table.genotypes.codes


def gwas_study(
    count: int, mode: str = "none", recipe: str = "gwas", *,
    epsilon_milli: int | None = None, sites: Sequence[str] = tuple(PLANNED), **parameters: Any,
) -> Study:  # fmt: skip
    """A study of these parties; noise is sized for two thirds of them."""
    masked = mode not in {"none", "local"}
    privacy: dict[str, Any] = {"mode": mode, "honest_minimum": max(2, 2 * len(sites) // 3) if masked else 1}
    privacy |= {"epsilon_milli": epsilon_milli} if epsilon_milli else {}
    purpose = {
        "permission": "HMB", "uses": ["train", "federated_stats"], "organisations": ["public"], "commercial": False,
        "regions": ["DE"], "data": ["genotype"],
    }  # fmt: skip
    given = {"variants": VARIANTS, "count": count, **({"trait": "linear"} if recipe == "gwas" else {}), **parameters}
    measures = ["patients", "lambda_gc"] if recipe == "gwas" else ["variance"]
    about = {"name": recipe, "version": 1, "parameters": given}
    parties = [{"name": name, "identity": key(), "log": key(), "approver": key()} for name in sites]
    return study(
        purpose=purpose, recipe=about, outcome="trait", metrics=measures, privacy=privacy, parties=parties,
        schedule={"quorum": len(parties)},
    )  # fmt: skip


def federated(of: Study, sites: Mapping[str, Table], published: Published = NOTHING) -> tuple[Plan, Model]:
    """Every step of the plan through the kernel, site by site and batch by batch; masks that hide nothing."""
    plan = plan_of(of, {name: max(10, round(table.n, -1)) for name, table in sites.items()}, published)
    course = plan.course
    assert not isinstance(course, NetPlan)
    model = course.initial()
    for step in plan.steps:
        total = np.zeros(course.steps[step.index].dims, np.int64)
        for table in sites.values():
            rows = Private(_rows(course, step, model, table))
            body = kernel.release_sum(rows, step, step.fact, bare if step.masked else None).body
            total += wire.unpack(body, np.int64)["sum"]
        model = plan.advance(step.index, model, total, sites)[1]
    return plan, model


def bare(total: NDArray[np.int64], bits: int) -> Any:
    return {"sum": total}


def split(table: Table, sizes: Sequence[int]) -> dict[str, Table]:
    """site-a, site-b, ... with so many people each."""
    ends = np.cumsum([0, *sizes])
    assert ends[-1] == table.n
    return {
        f"site-{chr(97 + at)}": table.take(np.arange(ends[at], ends[at + 1])) for at in range(len(sizes))
    }  # fmt: skip


def least_squares(copies: Floats, covariates: Floats, trait: Floats) -> tuple[float, float]:
    """Effect and standard error of one variant, of the people who are given."""
    design = np.column_stack([copies, covariates])
    solved, _, rank, _ = np.linalg.lstsq(design, trait, rcond=None)
    rest = trait - design @ solved
    variance = rest @ rest / (len(trait) - rank) * np.linalg.pinv(design.T @ design)[0, 0]
    return float(solved[0]), float(np.sqrt(variance))


def null_model(covariates: Floats, trait: Floats) -> Floats:
    """Fitted chances, (n,), by Newton's method."""
    slopes = np.zeros(covariates.shape[1])
    for _ in range(40):
        fitted = 1 / (1 + np.exp(-covariates @ slopes))
        information = (covariates * (fitted * (1 - fitted))[:, None]).T @ covariates
        slopes += np.linalg.solve(information, covariates.T @ (trait - fitted))
    return np.asarray(1 / (1 + np.exp(-covariates @ slopes)))


def one_step(copies: Floats, covariates: Floats, trait: Floats, fitted: Floats) -> tuple[float, float]:
    """Effect and standard error of one variant after a single Newton step from the null model."""
    design, weights = np.column_stack([copies, covariates]), fitted * (1 - fitted)
    inverse = np.linalg.inv((design * weights[:, None]).T @ design)
    return float((inverse @ design.T @ (trait - fitted))[0]), float(np.sqrt(inverse[0, 0]))
