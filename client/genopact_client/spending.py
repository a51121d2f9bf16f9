"""What patients of this site have spent, in levels: everybody with the same facts is on one level."""

import math
from collections import Counter
from collections.abc import Iterable

from genopact_client.ledger import Ledger
from genopact_client.policy import Limits
from genopact_shared.privacy.accounting import Fact, epsilon, filter_budget, renyi_cost

Level = frozenset[tuple[Fact, int]]
"""Facts and how often each was charged."""


def levels(ledger: Ledger, people: int, since: int = 0) -> Counter[Level]:
    """How many of rows 0 .. people - 1 are on each level with at least one fact, of day `since` or later."""
    counted = Counter(frozenset(Counter(ledger.spent(row, since)).items()) for row in range(people))
    del counted[frozenset()]
    return counted


def epsilon_of(delta: str, *found: Level) -> str:
    """The largest epsilon of some levels, rounded up to tenths; "unbounded" without protection."""
    value = max((epsilon(Counter(dict(level)), delta) for level in found), default=0.0)
    return "unbounded" if math.isinf(value) else f"{math.ceil(value * 10) / 10:.1f}"


def can_pay(level: Level, facts: Iterable[Fact], limits: Limits) -> bool:
    """Whether a whole plan still fits the limit for life after what was spent; decided as the ledger decides."""
    order, budget = filter_budget(limits.lifetime_epsilon_milli, limits.max_delta)
    charges = Counter(dict(level)) + Counter(facts)
    return math.fsum(times * renyi_cost(fact, order) for fact, times in charges.items()) <= budget
