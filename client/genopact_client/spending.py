"""What patients of this site have spent, in levels: everybody with the same facts is on one level."""

import math
from collections import Counter
from collections.abc import Iterable

from genopact_client.ledger import Ledger
from genopact_shared.privacy.accounting import Fact, epsilon_fast

Level = frozenset[tuple[Fact, int]]
"""Facts and how often each was charged."""


def levels(ledger: Ledger, people: int) -> Counter[Level]:
    """How many of rows 0 .. people - 1 are on each level that has at least one fact."""
    counted = Counter(frozenset(Counter(ledger.spent(row)).items()) for row in range(people))
    del counted[frozenset()]
    return counted


def epsilon_of(level: Level, delta: str) -> str:
    """The level's epsilon, rounded up to tenths; "unbounded" without protection."""
    epsilon = epsilon_fast(Counter(dict(level)), delta)
    return "unbounded" if math.isinf(epsilon) else f"{math.ceil(epsilon * 10) / 10:.1f}"


def can_pay(level: Level, facts: Iterable[Fact], limit_milli: int, delta: str) -> bool:
    """Whether a whole plan still fits the limit after what was spent."""
    return epsilon_fast(Counter(dict(level)) + Counter(facts), delta) * 1000 <= limit_milli
