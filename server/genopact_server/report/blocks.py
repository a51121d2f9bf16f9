"""Which blocks of the genome move a network's predictions: integrated gradients over the tokens of `risk-net`.

Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017; computed by captum (extra `explain`).
"""

from typing import NamedTuple

import numpy as np

from genopact_shared.errors import GenopactError
from genopact_shared.recipes.network import NetPlan
from genopact_shared.recipes.protocol import PEOPLE, Floats, Model, Table, of_kind
from genopact_shared.recipes.risk_net import RiskNetParameters

STEPS = 64
"""Points of the path, by Gauss and Legendre."""


class BlockShare(NamedTuple):
    """What a block does over some patients, in log odds: in the mean, and without regard to sign."""

    block: int
    mean: float
    mean_absolute: float


def contributions(plan: NetPlan, model: Model, table: Table) -> Floats:
    """(n, blocks) float64 log odds that each block adds to a patient's prediction; private, as the table is.

    On the straight path from the public mean of every token (of the patient's ancestry, with the patient's covariates)
    to the patient's own. The row adds up to what all blocks change together.

    Raises:
        GenopactError: EXTRA_MISSING without captum; those of the recipe's `tensors`.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise GenopactError("EXTRA_MISSING", "pip install 'genopact[explain]'") from error
    of = of_kind(plan.parameters, RiskNetParameters)
    inputs = plan.recipe.tensors(table, of, plan.published)[0].double()
    start, size = inputs.clone(), of.blocks * of.columns
    start[:, :size] = 0.0
    gradients = IntegratedGradients(plan.module(model).double())
    rows = np.empty(tuple(inputs.shape))
    for first in range(0, len(rows), PEOPLE):
        some = slice(first, first + PEOPLE)
        rows[some] = gradients.attribute(inputs[some], start[some], n_steps=STEPS).numpy()
    tokens = rows[:, :size].reshape(len(rows), of.blocks, of.columns)
    return np.asarray(tokens.sum(axis=2), dtype=np.float64)


def by_block(rows: Floats) -> list[BlockShare]:
    """The blocks of `contributions`, those that matter most first."""
    means, sizes = rows.mean(axis=0), np.abs(rows).mean(axis=0)
    return [BlockShare(block, float(means[block]), float(sizes[block])) for block in np.argsort(-sizes).tolist()]
