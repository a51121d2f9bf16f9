"""Which disease is a kind of which: an excerpt of MONDO that ships with the client.

The excerpt is closed: between two of its terms every is-a path of the ontology is present, so "not an ancestor" is
an answer. About any other term the answer is None, and a person has to decide.
"""

from functools import cache

from genopact_shared import canonical

VERSION = "mondo-excerpt/1"

ROOT = "MONDO:0000001"
PARENTS: dict[str, tuple[str, ...]] = {
    ROOT: (),  # disease
    "MONDO:0004992": (ROOT,),  # cancer
    "MONDO:0007254": ("MONDO:0004992",),  # breast cancer
    "MONDO:0005575": ("MONDO:0004992",),  # colorectal cancer
    "MONDO:0008903": ("MONDO:0004992",),  # lung cancer
    "MONDO:0008315": ("MONDO:0004992",),  # prostate cancer
    "MONDO:0005015": (ROOT,),  # diabetes mellitus
    "MONDO:0005147": ("MONDO:0005015",),  # type 1 diabetes mellitus
    "MONDO:0005148": ("MONDO:0005015",),  # type 2 diabetes mellitus
    "MONDO:0004995": (ROOT,),  # cardiovascular disorder
    "MONDO:0005385": ("MONDO:0004995",),  # vascular disorder
    "MONDO:0005267": ("MONDO:0004995",),  # heart disorder
    "MONDO:0005010": ("MONDO:0005267", "MONDO:0005385"),  # coronary artery disorder
    "MONDO:0004981": ("MONDO:0005267",),  # atrial fibrillation
    "MONDO:0005265": (ROOT,),  # inflammatory bowel disease
    "MONDO:0005011": ("MONDO:0005265",),  # Crohn disease
    "MONDO:0005101": ("MONDO:0005265",),  # ulcerative colitis
    "MONDO:0004979": (ROOT,),  # asthma
}

DIGEST = canonical.digest_of({"version": VERSION, "parents": {term: list(up) for term, up in PARENTS.items()}})


@cache
def ancestors(term: str) -> frozenset[str]:
    """The term and everything it is a kind of, within the excerpt."""
    return frozenset({term}).union(*(ancestors(parent) for parent in PARENTS.get(term, ())))


def is_a(term: str, kind: str) -> bool | None:
    """Whether `term` is `kind` or a kind of it; None if the excerpt cannot tell."""
    if term == kind or kind in ancestors(term):
        return True
    return False if term in PARENTS and kind in PARENTS else None
