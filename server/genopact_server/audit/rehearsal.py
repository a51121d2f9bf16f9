"""A rehearsal: the study's own plan on made-up patients, with canaries whose presence an attacker guesses.

Recipe, parameters, clip, noise and door are the study's; data go through the hospitals' kernel, which is loaded by
name, as Flower loads a ClientApp. Consents, ledgers and links are left out, and so are the masks, which cancel in all
that this attacker sees: an audit is hundreds of runs, and to found hospitals takes longer than all of them together.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_server.audit.canaries import LEVELS, Evidence, Flags, Showing, show
from genopact_server.demo import cohort
from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.plan import MODEL_SCALE, Plan, PlannedStep, plan_of
from genopact_shared.privacy.mechanisms import NoisedSum, Unprotected
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes import chosen, dose_features
from genopact_shared.recipes import table as tables
from genopact_shared.recipes.evaluation import Evaluation
from genopact_shared.recipes.network import NetPlan, Network
from genopact_shared.recipes.protocol import Model, SumPlan
from genopact_shared.recipes.risk import RiskPlan
from genopact_shared.recipes.table import Copies, Floats, Table
from genopact_shared.study import Frozen, Study

POOL = 40
"""Made-up records for each canary that is chosen."""
Seen = tuple[Model, Floats, Floats]
"""The next model; (d,) what the observer saw less what it knew, in units of the stated noise; (m, d) what each canary
adds to that."""


class Observer(NamedTuple):
    """The coordinator with all sites but `honest_minimum`, or any reader of one site's releases in mode local.

    That is who the certificate holds against. It knows every bystander and every canary; only the coins are unknown to
    it. `crowd`: the bystanders of each honest site; canaries join the first. `outcome`: the column that is predicted.
    """

    plan: Plan
    crowd: Mapping[str, Table]
    canaries: Table
    outcome: str

    def run(self, included: Flags, target: int) -> tuple[Floats, Flags, Floats]:
        """One run with the canaries that `included`, (m,), says: its row of `Evidence`."""
        first = model = self.plan.course.initial()
        seen, shifts = [], []
        for step in self.plan.steps:
            fact: Any = step.fact
            act = self._sum if isinstance(fact, NoisedSum) else self._change
            model, noised, shift = act(step, fact, model, included)
            seen.append(noised)
            shifts.append(shift)
        y, a = np.concatenate(seen), np.concatenate(shifts, axis=1)
        others = included & (np.arange(len(a)) != target)
        told = a[target] @ (y - others @ a) > np.array(LEVELS) * (a[target] @ a[target])
        return ratios(y, a), told == included[target], self._errors(first) - self._errors(model)

    def _sum(self, step: PlannedStep, fact: NoisedSum, model: Model, included: Flags) -> Seen:
        """The total of the honest sites, scaled up to everybody as for sites that are missing."""
        course: Any = self.plan.course
        own = course.contribution(step.index, model, self.canaries)
        total, known = np.zeros(fact.dims), np.zeros(fact.dims)
        for place, table in enumerate(self.crowd.values()):
            others = course.contribution(step.index, model, table)
            rows = np.concatenate([others, own[included]]) if place == 0 else others
            released = _client("release.kernel").release_sum(_private(rows), replace(step, bits=0), fact, None)
            total += wire.unpack(released.body, np.int64)["sum"] / fact.scale
            known += _clipped(others, fact.clip, fact.scale).sum(axis=0)
        planned = self.plan.planned
        up = sum(planned.values()) / sum(planned[site] for site in self.crowd)
        deviation = float(fact.noise_multiplier) * float(fact.clip)
        following = course.advance(step.index, model, total * up)
        return following, (total - known) / deviation, _clipped(own, fact.clip, fact.scale) / deviation

    def _change(self, step: PlannedStep, fact: Any, model: Model, included: Flags) -> Seen:
        """One site's change of a network, undone to noised gradients, which are taken as those at the round's start."""
        course: Any = self.plan.course
        (site, crowd), rate = next(iter(self.crowd.items())), float(fact.sampling_rate)
        everybody = _joined(crowd, self.canaries)
        steps = _client("train.private_sgd").PrivateSgd(course, fact, site)
        change = steps(model, everybody.take(np.concatenate([np.ones(crowd.n, dtype=np.bool_), included])))
        released = _client("release.kernel").release_model(_private(change), fact, steps.done)
        update = wire.unpack(released.body, np.float64)
        stride = course.parameters.learning_rate_milli / 1000 / (self.plan.planned[site] * rate)
        total = -np.concatenate([update[name].ravel() for name in sorted(update)]) / stride
        rows = rate * fact.steps * _clipped(course.gradients(model, everybody), fact.clip, MODEL_SCALE)
        known, own = rows[: crowd.n].sum(axis=0), rows[crowd.n :]
        deviation = float(fact.noise_multiplier) * float(fact.clip) * fact.steps**0.5
        return course.advance(step.index, model, update), (total - known) / deviation, own / deviation

    def _errors(self, model: Model) -> Floats:
        if isinstance(course := self.plan.course, Network):
            return course.losses(model, *course.recipe.tensors(self.canaries, course.parameters, course.published))
        if isinstance(course, Evaluation):
            return np.zeros(self.canaries.n)  # it learns nothing
        predicted = self.plan.recipe.predict(model, None, self.canaries).value
        return np.asarray(np.abs(predicted - self.canaries.number(self.outcome)), dtype=np.float64)


def ratios(y: Floats, shifts: Floats) -> Floats:
    """(m,) log-likelihood ratios of each coin, the other canaries counted as Gaussian noise of the same covariance.

    With S = 1 + A'A / 4 and S_i without canary i: a_i' S_i^-1 (y - sum of the others' halves - a_i / 2), by Woodbury's
    and Sherman and Morrison's formulas in the m x m matrix A A'.
    """
    gram = shifts @ shifts.T
    inverse = np.linalg.inv(np.eye(len(gram)) + gram / 4)
    own = np.einsum("ij,ji->i", gram, inverse)
    return np.asarray(inverse @ (shifts @ (y - shifts.sum(axis=0) / 2)) / (1 - own / 4), dtype=np.float64)


def rehearse(
    study: Study, planned: Mapping[str, int], canaries: int, runs: int, tick: Callable[[], object] = bool, *,
    published: Published = NOTHING,
) -> Showing:  # fmt: skip
    """Run the study's plan `runs` times, each time with fresh coins for the same canaries.

    Args:
        study: any study with a budget.
        planned: site -> planned cohort, of the sites that take part.
        canaries: how many are planted in a run.
        runs: independent runs; what they show adds up.
        tick: called after each run.
        published: files that the recipe names.

    Guarantees:
        No patient takes part: bystanders and canaries are made up here.

    Raises:
        GenopactError: PLAN_IMPOSSIBLE, also for a study without noise.
    """
    plan = plan_of(study, planned, published)
    if study.privacy.epsilon_milli is None:
        raise GenopactError("PLAN_IMPOSSIBLE", "without noise there is nothing to rehearse: epsilon is unbounded")
    watching, rng = observer(study, plan, canaries), np.random.default_rng()
    included = rng.random((runs, canaries)) < 0.5
    found = []
    for number, coins in enumerate(included):
        found.append(watching.run(coins, number % canaries))
        tick()
    scores, told, gains = (np.array(each) for each in zip(*found, strict=True))
    shape = all(isinstance(step.fact, NoisedSum) for step in plan.steps)
    return show(Evidence(included, scores, told, gains), study, plan.epsilon, shape=shape)


def observer(study: Study, plan: Plan, canaries: int) -> Observer:
    """Bystanders as the plan counts them, and canaries near the clip in directions far apart."""
    recipe, parameters = chosen(study.recipe)
    rng, sites = np.random.default_rng(), list(plan.planned)
    honest = sites[: study.privacy.honest_minimum]
    draw = partial(_drawn, recipe.schema, parameters, _variants(plan.course), rng)
    crowd = {site: _patients(plan.planned[site], rng, draw, recipe.outcome) for site in honest}
    pool = draw(POOL * canaries)
    return Observer(plan, crowd, pool.take(_far_apart(_first_rows(plan, pool), canaries)), recipe.outcome)


def _variants(course: SumPlan | NetPlan) -> int:
    """How many variants a plan reads: a network's published file has a row for each. Raises PUBLISHED_MISSING."""
    if isinstance(course, RiskPlan):
        return course.design.variants
    network = course.network if isinstance(course, Evaluation) else course
    if not isinstance(network, Network) or not isinstance(network.parameters, tables.GenotypeParameters):
        return 0
    given = network.parameters.model_dump()
    return int(given.get("count") or max(map(len, network.published.read(given["design"]).values())))


def _patients(n: int, rng: np.random.Generator, draw: Callable[[int], Table], outcome: str) -> Table:
    if outcome == dose_features.OUTCOME:
        return cohort.generate(n, int(rng.integers(1 << 32)), cohort.HOSPITALS[0].mix)
    return draw(n)


def _drawn(schema: tuple[tables.Column, ...], of: Frozen, variants: int, rng: np.random.Generator, n: int) -> Table:
    """Uniform over the schema, with genotypes of so many variants; a number that is the outcome is one of its ends.

    Matrices hold 0 to 4: letters, or numbers near those that recipes expect.
    """
    columns: dict[str, Any] = {}
    for column in schema:
        if isinstance(column, tables.Number):
            ends = rng.choice([float(column.low), float(column.high)], n)
            columns[column.name] = ends if column.role == "outcome" else rng.uniform(column.low, column.high, n)
        else:
            columns[column.name] = rng.integers(len(column.levels), size=n).astype(np.int8)
    genotypes = Copies(rng.integers(3, size=(n, variants), dtype=np.int8)) if variants else None
    wanted = of.matrices if isinstance(of, tables.MatrixParameters) else ()
    matrices = {each.name: rng.integers(5, size=(n, each.features)).astype(np.float32) for each in wanted}
    return Table(columns, n, genotypes, matrices=matrices)


def _joined(one: Table, other: Table) -> Table:
    columns: dict[str, Any] = {name: np.concatenate([each, other.columns[name]]) for name, each in one.columns.items()}
    matrices = {name: np.concatenate([each, other.matrices[name]]) for name, each in one.matrices.items()}
    held = [each.genotypes.dosages(slice(0, each.n)) for each in (one, other) if each.genotypes is not None]
    return Table(columns, one.n + other.n, Copies(np.concatenate(held)) if held else None, matrices=matrices)


def _first_rows(plan: Plan, table: Table) -> Floats:
    """(n, d) clipped contributions to the first step, in units of the clip."""
    course, model, fact = plan.course, plan.course.initial(), plan.steps[0].fact
    rows = course.gradients(model, table) if isinstance(course, NetPlan) else course.contribution(0, model, table)
    return rows if isinstance(fact, Unprotected) else _clipped(rows, fact.clip, MODEL_SCALE) / float(fact.clip)


def _far_apart(rows: Floats, count: int) -> NDArray[np.intp]:
    """Rows whose norm is near 1, each as far from the directions of those before it as possible."""
    norms = np.linalg.norm(rows, axis=1)
    rows = rows / np.maximum(norms, 1)[:, None]
    worst, found = 1 - norms, [int(norms.argmax())]
    while len(found) < count:
        worst = np.maximum(worst, np.abs(rows @ rows[found[-1]]))
        worst[found[-1]] = np.inf
        found.append(int(worst.argmin()))
    return np.array(found)


def _clipped(rows: Floats, clip: str, scale: int) -> Floats:
    """What the hospitals' code makes of each row before it adds them up; an attacker knows the code that runs."""
    return np.asarray(_client("release.quantise").clipped_integers(rows, float(clip), scale) / scale)


def _client(name: str) -> Any:
    return importlib.import_module(f"genopact_client.{name}")


def _private(value: object) -> Any:
    return _client("release.private").Private(value)
