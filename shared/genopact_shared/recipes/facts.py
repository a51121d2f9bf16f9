"""What a recipe says of itself, see `protocol.Recipe`; a recipe derives from it and adds what it does."""

from typing import NamedTuple

from genopact_shared.recipes.protocol import Judge, Model, P, of_kind
from genopact_shared.recipes.table import Choice, Column, Floats, Table
from genopact_shared.study import Frozen

GROUP = Choice("group", tuple("0123456789"), "group")
"""The study says what its groups are."""


class Facts(NamedTuple):
    """`version` is raised with every change of results."""

    name: str
    outcome: str
    schema: tuple[Column, ...]
    parameters: type[Frozen]
    measures: tuple[str, ...] = ()
    version: int = 1
    judge: Judge | None = None


class NoSiteTerm:
    """Of a network that is the same at every site."""

    def fit_personal(self, outputs: Floats, table: Table) -> Model:  # noqa: ARG002
        """Nothing."""
        return {}


def planned(parameters: Frozen, kind: type[P], planned_total: int) -> P:
    """Hyper-parameters of that kind, for a cohort of somebody; ValueError otherwise."""
    if planned_total < 1:
        raise ValueError("Expected a planned cohort of at least 1")
    return of_kind(parameters, kind)
