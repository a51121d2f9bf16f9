"""Alone, federated, pooled: on held-out patients, which is only possible because everybody's data is at hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genopact_shared.recipes.dose import DOSE
from genopact_shared.recipes.protocol import Model, SumPlan
from genopact_shared.recipes.table import Table

FIXED_MG = 35.0
ERRORS = ("hospital", "patients", "fixed", "alone", "federated", "pooled")


def trained(plan: SumPlan, tables: Sequence[Table]) -> Model:
    """What a plan makes of tables that lie side by side, without clip and noise."""
    model = plan.initial()
    for index in range(len(plan.steps)):
        total = np.sum([plan.contribution(index, model, table).sum(axis=0) for table in tables], axis=0)
        model = plan.advance(index, model, total)
    return model


def fit(tables: Sequence[Table]) -> Model:
    """The dose recipe on such tables."""
    return trained(DOSE.plan(DOSE.parameters(), sum(table.n for table in tables), None), tables)


def compare(
    train: Mapping[str, Table], test: Mapping[str, Table], shared: Model, personal: Mapping[str, Model]
) -> list[dict[str, Any]]:
    """Mean absolute error in mg/week on each hospital's held-out patients, a row of ERRORS each.

    `personal` has the site terms of those that took part; `federated` is None for the others.
    """
    recipe, pooled, rows = DOSE, fit(list(train.values())), []
    for name, table in test.items():
        own, dose = personal.get(name), table.number(recipe.outcome)

        def error(model: Model, own: Model | None = None, table: Table = table, dose: Any = dose) -> float:
            return float(np.abs(recipe.predict(model, own, table).value - dose).mean())

        fixed, alone = float(np.abs(FIXED_MG - dose).mean()), error(fit([train[name]]))
        together = None if own is None else error(shared, own)
        on_pooled = error(pooled, recipe.fit_personal(pooled, train[name]))
        rows.append(dict(zip(ERRORS, (name, train[name].n, fixed, alone, together, on_pooled), strict=True)))
    return rows
