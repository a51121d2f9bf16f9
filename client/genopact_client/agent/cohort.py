"""Who takes part in one step: permitted by consent today, able to pay, with a row and an outcome in the store."""

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genopact_client.consent import match
from genopact_client.consent.index import NO_CAP
from genopact_client.consent.registry import Permission
from genopact_client.genotypes.opened import Opened
from genopact_client.ledger import DAY_S
from genopact_client.release.private import Private
from genopact_client.site import Site
from genopact_shared.decision import Opening
from genopact_shared.errors import GenopactError, require
from genopact_shared.plan import PlannedStep
from genopact_shared.privacy.mechanisms import Unprotected
from genopact_shared.recipes import chosen
from genopact_shared.recipes.evaluation import EvaluationParameters
from genopact_shared.recipes.table import Codes, GenotypeParameters, MatrixParameters, Table
from genopact_shared.study import Study


class Cohort(NamedTuple):
    """The rows of a step, their data, and the opening of the decision that admitted them (it stays on site)."""

    rows: NDArray[np.int64]
    table: Private[Table]
    opening: Opening


class OpenedGenotypes(NamedTuple):
    """See `table.Genotypes`; `indices`: of the opened rows."""

    opened: Opened
    indices: NDArray[np.intp]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "OpenedGenotypes":
        """Those of some patients."""
        return self._replace(indices=self.indices[rows])

    def dosages(self, some: slice) -> Codes:
        """As sealed. Raises ROWS_CLOSED as soon as one of the opened patients has withdrawn."""
        indices = self.indices[some]
        return self.opened.dosages(indices, np.empty((len(indices), len(self.opened.variants)), np.int8))


@contextmanager
def eligible(site: Site, study: Study, step: PlannedStep | None, now: int) -> Iterator[Cohort]:
    """Evaluate consent, budget and completeness now; nothing is cached between rounds. Genotypes close at the end.

    Without a step nothing will be released, so that nobody has to be able to pay.

    Raises:
        GenopactError: STORE_NOT_PUBLIC, COHORT_EMPTY, COHORT_TOO_SMALL, GENOTYPES_MISSING, MATRIX_MISSING,
            PUBLISHED_MISSING, PUBLISHED_INVALID; those of the stores.
    """
    unprotected, exact = step is not None and isinstance(step.fact, Unprotected), study.privacy.mode == "exact"
    if unprotected and not exact and site.store.manifest()["kind"] not in ("public", "synthetic"):
        raise GenopactError("STORE_NOT_PUBLIC")
    policy, on, parameters = site.policy, dt.datetime.fromtimestamp(now, dt.UTC).date(), chosen(study.recipe)[1]
    permission = site.registry.permitted(study.purpose, on)
    rows = np.intersect1d(np.flatnonzero(permission.rows), site.store.rows()).astype(np.int64)
    with ExitStack() as stack:
        store = None
        if isinstance(parameters, GenotypeParameters):
            if (design := getattr(parameters, "design", None)) is not None:
                site.published.read(design)  # before anybody is charged
            store = stack.enter_context(site.genotypes(site.genotypes_named(parameters.variants)))
            rows = np.intersect1d(rows, store.rows())
        if exact:
            rows = rows[permission.cap[rows] == NO_CAP]  # nobody who set a limit has permitted an unlimited release
        elif step is not None and not unprotected:
            limits = policy.limits
            cap = np.minimum(permission.cap[rows], limits.lifetime_epsilon_milli)
            # The site's delta, not the study's: what a life may cost must not depend on who asks.
            able = site.ledger.affordable(rows, step.fact, cap, limits.max_delta, now // DAY_S, limits.window)
            rows = rows[able]
        table = site.store.table(rows)
        if isinstance(parameters, MatrixParameters):
            table = replace(table, matrices={each.name: site.matrix(each, rows) for each in parameters.matrices})
        complete = table.known(study.outcome)
        if isinstance(parameters, EvaluationParameters) and parameters.evaluated == "held-out":
            complete &= table.codes("held_out") == 1  # nobody else is asked, or pays
        # An empty cohort releases noise alone: a refusal would tell, for nothing, that the last patient is gone.
        require(step is not None or complete.any(), "COHORT_EMPTY")
        rows, table = rows[complete], replace(table.take(complete), site=site.name)
        if exact and len(rows) < study.minimum_cohort:
            raise GenopactError("COHORT_TOO_SMALL")
        if store is not None:

            def holds() -> bool:
                return bool(site.registry.permitted(study.purpose, on).rows[rows].all())

            opened = store.open(rows, store.variants, holds)
            stack.callback(opened.close)
            table = replace(table, genotypes=OpenedGenotypes(opened, np.arange(len(rows))))
        yield Cohort(rows, Private(table), _opening(study, policy.digest, permission, rows, now))


def _opening(study: Study, policy: str, permission: Permission, rows: NDArray[np.int64], now: int) -> Opening:
    """The decision that admitted `rows`, with a fresh salt."""
    admitted = np.zeros(permission.size, dtype=np.bool_)
    admitted[rows] = True
    return Opening(
        study=study.hash, policy=policy, matcher=match.DIGEST, as_of=now, registry_root=permission.registry_root,
        registry_size=permission.size, bitmap=np.packbits(admitted).tobytes().hex(), salt=os.urandom(32).hex(),
    )  # fmt: skip
