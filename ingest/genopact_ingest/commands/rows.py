"""Who of a file's people is which row of the site, and opened rows some people at a time."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from genopact_client.genotypes import Opened
from genopact_client.site import Site
from genopact_shared.errors import GenopactError

CHUNK = 256
"""People at a time."""


def known_people(site: Site, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Rows of the people whom this site knows and has not erased, and their places in `names`, in the order of `names`.

    Raises:
        GenopactError: VCF_PEOPLE if it knows nobody.
    """
    rows = site.people.find(names)
    places = np.flatnonzero((rows >= 0) & site.keyfile.alive(rows))
    if not len(places):
        raise GenopactError("VCF_PEOPLE", "import the table of covariates first")
    return rows[places], places


def chunks(opened: Opened) -> Iterator[NDArray[np.uint8]]:
    """Packed calls of CHUNK people at a time."""
    for at in range(0, len(opened), CHUNK):
        yield opened.packed(np.arange(at, min(at + CHUNK, len(opened))))
