"""A run of a network recipe as a study makes it: plans, private steps or sums at each site, the coordinator's part."""

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np

from genopact_client.release.kernel import release_model
from genopact_client.release.private import Private
from genopact_client.release.quantise import clipped_integers
from genopact_client.train.private_sgd import PrivateSgd
from genopact_server.aggregate import combine
from genopact_shared.plan import Plan, plan_of
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.privacy.noise import skellam
from genopact_shared.published import NOTHING, Published
from genopact_shared.recipes import NETWORKS, RECIPES
from genopact_shared.recipes.network import NetPlan, NetSums
from genopact_shared.recipes.protocol import Model, Prediction
from genopact_shared.recipes.table import Matrix, Table, Values, digest_of_features
from genopact_shared.study import Privacy, RecipeChoice, Study

DELTA = "0.000001"
Mode = Literal["none", "local", "distributed"]


def matrix(name: str, features: list[str], data: str) -> dict[str, Any]:
    """As a study file names it."""
    about = {"name": name, "features": len(features), "digest": digest_of_features(features), "data": data}
    return Matrix.model_validate(about).model_dump(mode="json")


def planned(
    recipe: str, parameters: Mapping[str, Any], tables: Mapping[str, Table], mode: Mode, epsilon: float = 0,
    published: Published = NOTHING,
) -> Plan:  # fmt: skip
    """The plan; cohorts are declared to the next ten, and two thirds of the sites are honest."""
    privacy = Privacy(
        mode=mode, epsilon_milli=None if mode == "none" else round(1000 * epsilon), delta=DELTA,
        honest_minimum=max(2, len(tables) * 2 // 3) if mode == "distributed" else 1,
    )  # fmt: skip
    version = (RECIPES.get(recipe) or NETWORKS[recipe]).version
    choice = RecipeChoice(name=recipe, version=version, parameters=dict(parameters))
    study = cast("Study", SimpleNamespace(recipe=choice, privacy=privacy))
    return plan_of(study, {site: max(10, round(table.n, -1)) for site, table in tables.items()}, published)


def trained(plan: Plan, tables: Mapping[str, Table], rounds: int | None = None) -> Model:
    """The model after all rounds, or the first of them; masks, which cancel, are left out."""
    model = plan.course.initial()
    for step in plan.steps[:rounds]:
        if isinstance(plan.course, NetPlan):
            bodies = {}
            for site, table in tables.items():
                local = PrivateSgd(plan.course, step.fact, site)
                bodies[site] = release_model(Private(table).derive(partial(local, model)), step.fact, local.done).body
            _, model = combine(plan, step.index, model, bodies, None)
            continue
        fact, course = step.fact, cast("NetSums", plan.course)
        assert isinstance(fact, NoisedSum)
        total = np.zeros(fact.dims, np.int64)
        for table in tables.values():
            rows = clipped_integers(course.contribution(step.index, model, table), float(fact.clip), fact.scale)
            total += rows.sum(axis=0, dtype=np.int64) + skellam(step.share_variance, fact.dims)
        _, model = plan.advance(step.index, model, total, plan.planned)
    return model


def predicted(plan: Plan, model: Model, table: Table) -> Prediction:
    return plan.recipe.predict(model, None, table)


def with_matrices(n: int, columns: Mapping[str, Any], matrices: Mapping[str, Any]) -> Table:
    held: dict[str, Values] = {name: np.asarray(values, np.float32) for name, values in matrices.items()}
    return Table(columns, n, matrices=held)
