"""The coordinator's part in a masked total: put the masks together that the survivors opened, and take them off.

See docs/masking.md and genopact_shared.secagg.masking.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from genopact_shared.errors import require
from genopact_shared.secagg import sharing, stream
from genopact_shared.secagg.masking import WORDS, Masked, Opening, lock_key, pair_stream, round_key, self_stream
from genopact_shared.secagg.sharing import PRIME, SIZE


def total_of(
    opening: Opening, index: int, deals: Mapping[str, bytes], uploads: Mapping[str, Masked], *,
    active: Mapping[str, str], reveals: Mapping[str, bytes],
) -> tuple[NDArray[np.int64], int]:  # fmt: skip
    """The total of the active sites' integers, and its tag.

    Args:
        opening: as signed by the sites.
        index: of the round.
        deals: site -> deal, of the whole roster.
        uploads: site -> masked integers and tag, of the active sites; of the planned shapes and dtypes.
        active: site -> digest of its upload, as the survivors were shown it.
        reveals: site of the roster -> its message. A malformed one counts as none.

    Raises:
        GenopactError: UNMASK_FAILED when too few messages open, or a key is not the one that was dealt; DEAL_INVALID.
    """
    opened = _opened(opening, reveals, opening.bound(index, active))
    secrets = dict(zip(opening.sites, _recovered(opening, opened), strict=True))
    off = [(self_stream(secrets[site], opening.epoch, index), -1) for site in active]
    dealt = {site: opening.read_deal(deal)[1][index] for site, deal in deals.items()}
    for gone in set(opening.roster) - set(active):
        key = round_key(secrets[gone], opening.epoch)
        require(stream.public_of(key) == dealt[gone], "UNMASK_FAILED", "another round key than was dealt")
        for site in active:
            pair = pair_stream(stream.agree(key, dealt[site]), opening.epoch, index, site, gone)
            off.append((pair, -1 if site < gone else 1))
    words: stream.Words = np.zeros_like(next(uploads[site]["sum"] for site in active))
    for site in active:
        words += uploads[site]["sum"]
    tag = stream.shift(words, sum(int(uploads[site]["tag"][0]) for site in active), off)
    return words.view(np.int32 if words.dtype == WORDS[32] else np.int64).astype(np.int64), tag


def _opened(opening: Opening, reveals: Mapping[str, bytes], bound: str) -> dict[str, list[int]]:
    """Site -> its shares, of the messages that enough others have unlocked for the same set."""
    sites, sealed = opening.sites, len(opening.roster) * SIZE + stream.SEAL
    shares, locks, tokens = dict[str, bytes](), dict[str, list[int]](), dict[str, list[int]]()
    for site, message in reveals.items():
        with suppress(ValueError):
            elements = sharing.decode(message[sealed:])
            if len(elements) == 2 * len(sites):
                locks[site], tokens[site] = elements[: len(sites)], elements[len(sites) :]
                shares[site] = message[:sealed]
    parts, opened = dict[str, list[int]](), dict[str, list[int]]()
    for holder, own in tokens.items():
        parts[holder] = [row[sites.index(holder)] - own[sites.index(site)] for site, row in locks.items()]
    for site, lock in zip(shares, _recovered(opening, parts), strict=True):
        with suppress(ValueError):
            opened[site] = sharing.decode(stream.unseal(lock_key(lock, bound), shares[site]))
    return opened


def _recovered(opening: Opening, rows: Mapping[str, list[int]]) -> list[int]:
    """The secrets behind rows of shares, of which there must be enough."""
    require(len(rows) >= opening.threshold, "UNMASK_FAILED", f"{len(rows)} of {opening.threshold} messages open")
    return recover({opening.sites.index(site): rows[site] for site in sorted(rows)[: opening.threshold]})


def recover(rows: Mapping[int, Sequence[int]]) -> list[int]:
    """The secrets behind the rows of some holders, one share of each secret in a row.

    Fewer holders than the threshold give other numbers.
    """
    points, weights = [holder + 1 for holder in rows], list[int]()
    for own in points:  # Lagrange's coefficients at 0
        others = [point for point in points if point != own]
        weights.append(math.prod(others) * pow(math.prod(other - own for other in others), -1, PRIME))
    return [sum(map(operator.mul, weights, column)) % PRIME for column in zip(*rows.values(), strict=True)]
