"""Who takes part in one step: permitted by consent today, able to pay, with a row and an outcome in the store."""

import datetime as dt
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genopact_client.consent import match
from genopact_client.ledger import DAY_S
from genopact_client.release.private import Private
from genopact_client.site import Site
from genopact_shared.decision import Opening
from genopact_shared.errors import GenopactError
from genopact_shared.plan import PlannedStep
from genopact_shared.privacy.mechanisms import Unprotected
from genopact_shared.recipes.protocol import Table
from genopact_shared.study import Study


@dataclass(frozen=True)
class Cohort:
    """The rows of a step, their data, and the opening of the decision that admitted them (it stays on site)."""

    rows: NDArray[np.int64]
    table: Private[Table]
    opening: Opening


def eligible(site: Site, study: Study, step: PlannedStep | None, now: int) -> Cohort:
    """Evaluate consent, budget and completeness now; nothing is cached between rounds.

    Without a step nothing will be released, so that nobody has to be able to pay.

    Raises:
        GenopactError: STORE_NOT_PUBLIC, COHORT_EMPTY.
    """
    unprotected = step is not None and isinstance(step.fact, Unprotected)
    if unprotected and site.store.manifest()["kind"] not in ("public", "synthetic"):
        raise GenopactError("STORE_NOT_PUBLIC")
    policy, on = site.policy, dt.datetime.fromtimestamp(now, dt.UTC).date()
    permission = site.registry.permitted(study.purpose, on)
    rows = np.intersect1d(np.flatnonzero(permission.rows), site.store.rows()).astype(np.int64)
    if step is not None and not unprotected:
        limits = policy.limits
        cap = np.minimum(permission.cap[rows], limits.lifetime_epsilon_milli)
        # The site's delta, not the study's: what a life may cost must not depend on who asks.
        able = site.ledger.affordable(rows, step.fact, cap, limits.max_delta, now // DAY_S, limits.window)
        rows = rows[able]
    table = site.store.table(rows)
    complete = ~np.isnan(table.number(study.outcome))
    # An empty cohort releases noise alone: a refusal would tell, for nothing, that the last patient is gone.
    if step is None and not complete.any():
        raise GenopactError("COHORT_EMPTY")
    rows = rows[complete]
    admitted = np.zeros(permission.size, dtype=np.bool_)
    admitted[rows] = True
    opening = Opening(
        study=study.hash,
        policy=policy.digest,
        matcher=match.DIGEST,
        as_of=now,
        registry_root=permission.registry_root,
        registry_size=permission.size,
        bitmap=np.packbits(admitted).tobytes().hex(),
        salt=os.urandom(32).hex(),
    )
    return Cohort(rows, Private(table.take(complete)), opening)
