"""Which disease is a kind of which: an excerpt of MONDO (diseases.toml) that ships with the client.

The excerpt is closed: between two of its terms every is-a path of the ontology is present, so "not an ancestor" is
an answer. About any other term the answer is None, and a person has to decide.
"""

from functools import cache

from genopact_shared import canonical
from genopact_shared.errors import beside

_EXCERPT = beside(__file__)
PARENTS: dict[str, list[str]] = _EXCERPT["parents"]
DIGEST = canonical.digest_of(_EXCERPT)


@cache
def ancestors(term: str) -> frozenset[str]:
    """The term and everything it is a kind of, within the excerpt."""
    return frozenset({term}).union(*(ancestors(parent) for parent in PARENTS.get(term, ())))


def is_a(term: str, kind: str) -> bool | None:
    """Whether `term` is `kind` or a kind of it; None if the excerpt cannot tell."""
    if term == kind or kind in ancestors(term):
        return True
    return False if term in PARENTS and kind in PARENTS else None
