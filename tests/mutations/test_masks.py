"""Quick tests that kill: masks, and what opens them."""

from typing import Any

import numpy as np
import pytest

from genopact_server.unmasking import recover
from genopact_shared.errors import GenopactError
from genopact_shared.secagg.masking import Opening
from tests.unit.mask_round import Adversary, Round, digests


def test_no_two_rounds_have_a_secret_in_common() -> None:
    one = Round.open(4, 3, range(5))
    drawn = [secret for rounds in one.secrets.values() for pair in rounds.values() for secret in pair]
    assert len(set(drawn)) == len(drawn) == 4 * 5 * 2


def test_a_round_s_mask_is_its_own() -> None:
    """The same values in two rounds, without what the coordinator could take off in either."""
    one = Round.open(3, 2, range(2))
    zeros, seen = np.zeros(50, np.int64), []
    for index in range(2):
        one.index = index
        one.mask(dict.fromkeys(one.sites, zeros))
        seen += [tuple(each["sum"].tolist()) for each in one.uploads.values()]
        total, code = one.honest_total()
        assert not total.any()
        for other in (0, 1):  # the tag of zeros is the sum of pads: another round has others
            if other != index:
                with pytest.raises(GenopactError, match="TOTAL_FORGED"):
                    one.maskings["site-00"].check_total(other, total, code, digests(one.sites))
    assert len(set(seen)) == 6


def test_fewer_shares_than_the_threshold_give_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a dealt secret, and of the lock of what is revealed."""
    one = Round.open(5, 4)
    dealt = {at: [one.maskings[site]._held[one.index]["site-00"][1]] for at, site in enumerate(one.sites)}
    secret = one.secrets["site-00"][one.index][1]
    assert recover({at: dealt[at] for at in range(4)}) == [secret]
    assert recover({at: dealt[at] for at in range(3)}) != [secret]
    one.mask({site: np.ones(2, np.int64) for site in one.sites})
    spy, active = Adversary(one, one.sites[3:]), digests(one.sites)
    monkeypatch.setattr(spy, "_from", lambda parts: recover({at: [part] for at, part in parts.items()})[0])
    spy.sees("site-00", active, one.maskings["site-00"].reveal(one.index, active))
    assert spy.opened() == []


SETS = {0: (2, 3), 1: (2, 4), 2: (3, 4), 3: (2, 4), 4: (3,)}
"""Five sites, threshold 3: whom each is told to be gone."""


@pytest.mark.parametrize("known", [{}, {"guess": 0}, {"guess": 1}, {"unpadded": True}], ids=str)
def test_what_is_revealed_for_different_sets_stays_locked(known: dict[str, Any]) -> None:
    one = Round.open(5, 3)
    one.mask({site: np.full(4, at) for at, site in enumerate(one.sites)})
    spy = Adversary(one, [], **known)
    for at, gone in SETS.items():
        active = digests([site for i, site in enumerate(one.sites) if i not in gone])
        spy.sees(one.sites[at], active, one.maskings[one.sites[at]].reveal(one.index, active))
    assert spy.opened() == []


def test_a_set_is_bound_to_its_uploads_round_and_roster() -> None:
    roster = {"a": "1", "b": "2", "c": "3"}
    one, other = (Opening({"run": run}, roster, 2, range(3)) for run in ("x", "y"))
    uploads = {"a": "0" * 64, "b": "1" * 64}
    bounds = [one.bound(0, uploads), one.bound(0, uploads | {"b": "2" * 64}), one.bound(1, uploads)]
    bounds += [one.bound(0, uploads | {"c": "0" * 64}), other.bound(0, uploads)]
    assert len(set(bounds)) == 5


def test_a_site_opens_nothing_without_its_own_upload_and_nothing_twice() -> None:
    one = Round.open(5, 3)
    one.mask({site: np.ones(2, np.int64) for site in one.sites})
    own = one.maskings["site-00"]
    refused: list[dict[str, str]] = [digests(one.sites[1:]), digests(one.sites[:2]), digests([*one.sites, "nobody"])]
    for active in refused:
        with pytest.raises(GenopactError, match="UNMASK_REFUSED"):
            own.reveal(one.index, active)
    own.reveal(one.index, digests(one.sites))
    with pytest.raises(GenopactError, match="UNMASK_REFUSED"):
        own.reveal(one.index, digests(one.sites[:4]))
    with pytest.raises(GenopactError, match="MASK_KEY_LOST"):
        own.mask(one.index, np.ones(2, np.int64), 32)


def test_a_forged_total_is_refused_for_every_forgery() -> None:
    one = Round.open(3, 2)
    one.mask({site: np.array([5, -7, 11]) for site in one.sites})
    total, code = one.honest_total()
    own = one.maskings["site-00"]
    own.check_total(one.index, total, code, digests(one.sites))
    for wrong, tag in ((total + 1, code), (0 * total, 0), (2 * total, 2 * code), (total, code + 1)):
        with pytest.raises(GenopactError, match="TOTAL_FORGED"):
            own.check_total(one.index, wrong, tag, digests(one.sites))


def test_a_self_mask_covers_what_a_false_drop_leaves() -> None:
    """All others open the pairwise masks of a site whose upload is held."""
    one, size = Round.open(5, 4), 64
    one.mask({site: np.arange(size) for site in one.sites})
    spy, gone = Adversary(one, []), digests(one.sites[1:])
    for site in one.sites[1:]:
        spy.sees(site, gone, one.maskings[site].reveal(one.index, gone))
    assert spy.secrets_of("site-00")[0] is not None
    assert not (spy.left_of("site-00") == np.arange(size)).any()
