"""What moves a network's outputs: integrated gradients over its inputs, and every change of one letter of a sequence.

Made of public people, so that what is shown follows from public data and a released model; of patients, rows would be
as private as they are. Sources: Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017, by captum (extra
`explain`); Zhou and Troyanskaya, "Predicting effects of noncoding variants", 2015, for mutagenesis in silico.
"""

import numpy as np

from genopact_shared.errors import GenopactError, replacing
from genopact_shared.recipes.network import NetPlan, columns
from genopact_shared.recipes.protocol import Model, of_kind
from genopact_shared.recipes.risk_net import RiskNetParameters
from genopact_shared.recipes.sequence import LETTERS, SequenceParameters
from genopact_shared.recipes.table import PEOPLE, Floats, Table

STEPS = 64
"""Points of the path, by Gauss and Legendre."""


def contributions(plan: NetPlan, model: Model, table: Table, output: int = 0) -> Floats:
    """(n, features) float64 that each feature adds to one output; a row adds up to what all of them change together.

    On the straight path from a person of whom nothing is known (for `risk-net`: with the public mean of every token of
    the same ancestry and the same covariates) to the person. Features: blocks of `risk-net`, places of a sequence, else
    the network's inputs.

    Raises:
        GenopactError: EXTRA_MISSING without captum; those of the recipe's `tensors`.
    """
    with replacing(ImportError, GenopactError("EXTRA_MISSING", "pip install 'genopact[explain]'")):
        from captum.attr import IntegratedGradients
    of, inputs = plan.parameters, plan.recipe.tensors(table, plan.parameters, plan.published)[0].double()
    start, module = inputs * 0, plan.module(model).double()
    if isinstance(of, RiskNetParameters):
        start[:, of.blocks * of.columns :] = inputs[:, of.blocks * of.columns :]
    gradients, parts = IntegratedGradients(module), list[Floats]()
    target = None if module(inputs[:1]).dim() == 1 else output
    for first in range(0, len(inputs), PEOPLE):
        some = slice(first, first + PEOPLE)
        parts.append(gradients.attribute(inputs[some], start[some], target=target, n_steps=STEPS).numpy())
    rows = np.concatenate(parts)
    if isinstance(of, RiskNetParameters):
        rows = rows[:, : of.blocks * of.columns].reshape(len(rows), of.blocks, of.columns)
    return np.asarray(rows.sum(axis=2) if rows.ndim == 3 else rows, dtype=np.float64)


def mutations(plan: NetPlan, model: Model, table: Table) -> Floats:
    """(classes, places, 4): how much a letter at a place changes a class's output.

    The mean over the sequences that the network takes for that class; 0 for the letter that stands there, NaN for a
    class of no sequence.
    """
    of = of_kind(plan.parameters, SequenceParameters)
    name, before = of.matrices[0].name, columns(plan.outputs(model, table))
    letters, taken = table.matrices[name], before.argmax(axis=1)
    found = np.full((before.shape[1], letters.shape[1], LETTERS), np.nan)
    for place in range(letters.shape[1]):
        for letter in range(LETTERS):
            changed = letters.copy()
            changed[:, place] = letter
            moved = columns(plan.outputs(model, Table(table.columns, table.n, matrices={name: changed}))) - before
            for k in np.unique(taken).tolist():
                found[k, place, letter] = moved[taken == k, k].mean()
    return found
