"""A coordinator and sites that want more than a total, and a coordinator that returns another one.

Each attack is made twice: against the protocol, where it is refused or yields nothing beyond the guarantee, and against
a copy that lacks the one thing that stops it, where it succeeds; so the test would see a break.
"""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from genopact_shared.errors import GenopactError
from genopact_shared.privacy.noise import skellam
from genopact_shared.secagg import masking, sharing, stream
from genopact_shared.secagg.masking import Masking, Opening
from genopact_shared.secagg.sharing import PRIME
from genopact_shared.secagg.tag import FIELD, tag
from tests.unit.mask_round import Adversary, Integers, Round, digests, fixed_draws, names

VICTIM = "site-00"
SIZE = 20_000
SECRET = np.arange(SIZE) % 1000
STUDIES = [(3, 2), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7)]
"""Sites and threshold; up to 2 threshold - sites - 1 of them may collude."""


def uploads(one: Round, size: int = 4) -> Round:
    """Everybody has uploaded; the victim its secret."""
    return one.mask({site: SECRET[:size] if site == VICTIM else np.full(size, at) for at, site in enumerate(one.sites)})


def ask(one: Round, spy: Adversary, sets: dict[str, dict[str, str]]) -> None:
    """Name a set to each honest site, and keep what it reveals."""
    for site, active in sets.items():
        spy.sees(site, active, one.maskings[site].reveal(one.index, active))


def knows_the_victim(spy: Adversary) -> bool:
    return bool((spy.left_of(VICTIM).view(np.int32) == spy.round.values[VICTIM]).any())


def looks_uniform(words: NDArray[np.uint32]) -> bool:
    """Each bit of the words is set in half of them, within 6.5 standard deviations."""
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, 4), axis=1)
    return bool((np.abs(bits.mean(axis=0) - 0.5) < 6.5 * 0.5 / np.sqrt(len(words))).all())


# --- the site whose masks are wanted: overlaps, drops, splits


@pytest.mark.parametrize("named", [True, False])
def test_active_and_dead_at_once(named: bool) -> None:
    """Both secrets of one site: a site answers one set a round, and a set either holds the victim or does not."""
    one = uploads(Round.open(5, 4))
    spy = Adversary(one, [])
    with_, without = digests(one.sites), digests(one.sites[1:])
    ask(one, spy, dict.fromkeys(one.sites[1:], with_ if named else without))
    for site in one.sites[1:]:
        with pytest.raises(GenopactError, match="UNMASK_REFUSED"):
            one.maskings[site].reveal(one.index, without if named else with_)
    known = spy.secrets_of(VICTIM)
    assert [secret is not None for secret in known] == ([False, True] if named else [True, False])
    assert not knows_the_victim(spy)


def test_active_and_dead_at_once_would_succeed_if_sites_answered_twice() -> None:
    one = uploads(Round.open(5, 4))
    spy = Adversary(one, [])
    kept = {site: dict(one.maskings[site]._held[one.index]) for site in one.sites[1:]}
    for active in (digests(one.sites), digests(one.sites[1:])):
        for site, held in kept.items():
            one.maskings[site]._held[one.index] = dict(held)
        ask(one, spy, dict.fromkeys(one.sites[1:], active))
        spy.opened()
    assert (spy.left_of(VICTIM).view(np.int32) == one.values[VICTIM]).all()


@pytest.mark.parametrize(("count", "threshold"), STUDIES)
def test_a_false_drop_of_a_site_whose_upload_is_held(count: int, threshold: int) -> None:
    """The most colluders, and everybody told that the victim is gone: its self mask still covers every bit."""
    one = uploads(Round.open(count, threshold), SIZE)
    colluders = one.sites[count - (2 * threshold - count - 1) :]
    spy = Adversary(one, colluders)
    gone = digests(one.sites[1:])
    ask(one, spy, {site: gone for site in one.sites[1:] if site not in colluders})
    pair, own = spy.secrets_of(VICTIM)
    assert (pair is not None, own) == (True, None)
    assert looks_uniform(spy.left_of(VICTIM))
    assert abs(np.corrcoef(spy.left_of(VICTIM).view(np.int32), SECRET)[0, 1]) < 6.5 / np.sqrt(SIZE)


def test_a_false_drop_would_succeed_without_self_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "self_stream", lambda *_: bytes(32))
    one = uploads(Round.open(5, 4), SIZE)
    spy = Adversary(one, [])
    ask(one, spy, dict.fromkeys(one.sites[1:], digests(one.sites[1:])))
    left = spy.left_of(VICTIM)
    stream.shift(left, 0, [(bytes(32), -1)])
    assert not looks_uniform(left)
    assert (left.view(np.int32) == SECRET).all()


def test_a_dropped_site_that_is_asked_to_open_another_set() -> None:
    """Its own message for a set with itself in it: nobody else named that set, so it stays locked."""
    one = uploads(Round.open(5, 4))
    spy = Adversary(one, one.sites[3:])
    ask(one, spy, dict.fromkeys(one.sites[1:3], digests(one.sites[1:])))
    ask(one, spy, {VICTIM: digests(one.sites)})
    assert VICTIM not in spy.opened()
    assert not knows_the_victim(spy)
    with pytest.raises(GenopactError, match="UNMASK_REFUSED"):
        one.maskings[VICTIM].reveal(one.index, digests(one.sites[1:]))


@pytest.mark.parametrize("more", [0, 1], ids=["bound", "beyond"])
@pytest.mark.parametrize(("count", "threshold"), STUDIES)
def test_two_active_sets_to_two_halves(count: int, threshold: int, more: int) -> None:
    """Any split of the honest sites, colluders giving all they have: at the bound never both, one beyond it both."""
    colluding = 2 * threshold - count - 1 + more
    honest = names(count)[: count - colluding]
    broken = False
    for split in range(1, len(honest)):
        one = uploads(Round.open(count, threshold))
        spy = Adversary(one, one.sites[len(honest) :])
        ask(one, spy, dict.fromkeys(honest[:split], digests(one.sites)))
        ask(one, spy, dict.fromkeys(honest[split:], digests(one.sites[1:])))
        pair, own = spy.secrets_of(VICTIM)
        assert knows_the_victim(spy) == (None not in (pair, own))
        broken |= knows_the_victim(spy)
    assert broken == bool(more)


CARVED = {0: (2, 3), 1: (2, 4), 2: (3, 4), 3: (2, 4), 4: (3,)}
"""Five sites, threshold 3: whom each is told to be gone. Sites 2, 3 and 4 are each gone for three others."""


def carve(weak: bool, **known: int | bool) -> tuple[Adversary, bool]:
    """Sets that differ for each site, of three sites at least, whose overlap would open the total of two."""
    one = uploads(Round.open(5, 3))
    spy = Adversary(one, [], **known)  # type: ignore[arg-type]
    sets = {one.sites[at]: digests([site for i, site in enumerate(one.sites) if i not in gone])
            for at, gone in CARVED.items()}  # fmt: skip
    ask(one, spy, sets)
    spy.opened()
    pair = spy.left_of(one.sites[0]) + spy.left_of(one.sites[1])
    assert bool(spy.opened()) == weak
    return spy, bool((pair.view(np.int32) == one.values[one.sites[0]] + one.values[one.sites[1]]).all())


def test_sets_that_differ_for_each_site_open_nothing() -> None:
    """Else the total of fewer sites than agreed would open, with less noise than agreed."""
    assert carve(weak=False)[1] is False


def test_sets_that_differ_for_each_site_would_succeed_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, draw = 7, sharing.draw
    original = Masking.reveal

    def reveal(self: Masking, index: int, active: dict[str, str]) -> bytes:
        with pytest.MonkeyPatch.context() as patch:
            draws = itertools.chain([lock], iter(draw, None))
            patch.setattr(sharing, "draw", lambda: next(draws))
            return original(self, index, active)

    monkeypatch.setattr(Masking, "reveal", reveal)
    spy, found = carve(weak=True, guess=lock)
    assert len(spy.opened()) == 5
    assert found


def test_sets_that_differ_for_each_site_would_succeed_without_the_pads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "token", lambda *_: 0)
    assert carve(weak=True, unpadded=True)[1]


# --- what the adversary has seen does not depend on the victim


Views = tuple[list[bytes], tuple[list[int], int], Adversary]


def views(victim: Integers, other: Integers, dropped: bool) -> Views:
    """Every message of a round with the same secrets, and its total; three honest sites, and one that colludes."""
    with fixed_draws("views"):
        one = Round.open(4, 3)
        one.mask({VICTIM: victim, "site-01": other, **{site: np.zeros(SIZE, np.int64) for site in one.sites[2:]}})
        spy = Adversary(one, one.sites[3:])
        active = digests(one.sites[1 if dropped else 0 :])
        reveals = {site: one.maskings[site].reveal(one.index, active) for site in sorted(active)}
        for site, message in reveals.items():
            if site not in spy.colluders:
                spy.sees(site, active, message)
        total, code = one.total(active, reveals)
    return [*one.deals.values(), *reveals.values()], (total.tolist(), code), spy


@pytest.mark.parametrize("dropped", [True, False])
def test_two_victims_with_one_total_look_the_same(dropped: bool) -> None:
    """Deals, reveals and total are the same bytes; what is left of the upload is a uniform word either way."""
    flat = np.zeros(SIZE, np.int64)
    first, second = views(flat, SECRET, dropped), views(SECRET, SECRET if dropped else flat, dropped)
    assert first[:2] == second[:2]
    for *_, spy in (first, second):
        assert None in spy.secrets_of(VICTIM)
        assert looks_uniform(spy.left_of(VICTIM))


def test_all_other_sites_together_get_the_victims_noised_integers() -> None:
    """Beyond the bound nothing is left but the victim's own share of the noise: exactly that, and no more."""
    variance, data = 900.0, np.full(SIZE, 41)
    one = Round.open(4, 3)
    noised = data + skellam(variance, SIZE)
    one.mask({site: noised if site == VICTIM else np.zeros(SIZE, np.int64) for site in one.sites})
    spy = Adversary(one, one.sites[1:])
    left = spy.left_of(VICTIM).view(np.int32)
    assert (left == noised).all()
    assert abs((left - data).var() / variance - 1) < 6.5 * np.sqrt(2 / SIZE)
    assert (one.honest_total()[0] == noised).all()


# --- keys and shares that are swapped


def test_a_swapped_mask_key() -> None:
    """The coordinator shows one site its own key in another's place: no deal fits, in either direction."""
    made = {site: Masking() for site in names(4)}
    roster = {site: each.public for site, each in made.items()}
    swapped = roster | {"site-01": stream.public_of(X25519PrivateKey.generate())}
    honest, lied = (Opening("x", each, 3, range(2)) for each in (roster, swapped))
    deals = {
        site: each.deal(site, lied if site == VICTIM else honest) for site, each in made.items() if site != "site-01"
    }
    with pytest.raises(GenopactError, match="MASK_KEY_LOST"):
        made["site-01"].deal("site-01", lied)
    deals["site-01"] = made["site-01"].deal("site-01", honest)
    for site in names(4):
        with pytest.raises(GenopactError, match="DEAL_INVALID"):
            made[site].join(deals)


def swap_round_keys(one_key: X25519PrivateKey) -> Round:
    """In the deals that the victim gets, each round key is the coordinator's."""
    made = {site: Masking() for site in names(4)}
    opening = Opening("x", {site: each.public for site, each in made.items()}, 3, range(2))
    deals = {site: each.deal(site, opening) for site, each in made.items()}
    ours = one_key.public_key().public_bytes_raw()
    changed = {site: deal if site == VICTIM else ours * 2 + deal[64:] for site, deal in deals.items()}
    drawn = {site: dict(each._secrets) for site, each in made.items()}
    for site, each in made.items():
        each.join(changed if site == VICTIM else deals)
    return Round(made, opening, deals, 0, drawn)


def test_swapped_round_keys() -> None:
    with pytest.raises(GenopactError, match="DEAL_INVALID"):
        swap_round_keys(X25519PrivateKey.generate())


def test_swapped_round_keys_would_succeed_if_shares_were_sealed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seal, unseal, key = stream.seal, stream.unseal, X25519PrivateKey.generate()
    monkeypatch.setattr(stream, "seal", lambda key, text, beside=b"": seal(key, text))
    monkeypatch.setattr(stream, "unseal", lambda key, text, beside=b"": unseal(key, text))
    one = uploads(swap_round_keys(key))
    spy, active = Adversary(one, []), digests(one.sites)
    ask(one, spy, dict.fromkeys(one.sites, active))
    left = one.uploads[VICTIM]["sum"].astype(np.uint32)
    own, public = spy.secrets_of(VICTIM)[1], one.opening.read_deal(one.deals[VICTIM])[1][0]
    assert own is not None
    streams = [(masking.self_stream(own, one.opening.epoch, 0), -1)]
    agreed = stream.agree(key, public)
    streams += [(masking.pair_stream(agreed, one.opening.epoch, 0, VICTIM, site), -1) for site in one.sites[1:]]
    stream.shift(left, 0, streams)
    assert (left.view(np.int32) == one.values[VICTIM]).all()


@pytest.mark.parametrize("attack", ["row of another holder", "row of another dealer", "flipped bit", "own row"])
def test_swapped_shares(attack: str) -> None:
    made = {site: Masking() for site in names(4)}
    opening = Opening("x", {site: each.public for site, each in made.items()}, 3, range(2))
    deals = {site: each.deal(site, opening) for site, each in made.items()}
    whole, rows = deals["site-01"], opening.read_deal(deals["site-01"])[2]
    at = whole.index(rows[VICTIM])
    row = {
        "row of another holder": rows["site-02"],
        "row of another dealer": opening.read_deal(deals["site-02"])[2][VICTIM],
        "flipped bit": bytes([rows[VICTIM][0] ^ 1]) + rows[VICTIM][1:],
        "own row": bytes(len(rows[VICTIM])),
    }[attack]
    with pytest.raises(GenopactError, match="DEAL_INVALID"):
        made[VICTIM].join(deals | {"site-01": whole[:at] + row + whole[at + len(row) :]})
    made[VICTIM].join(deals)


def test_a_colluders_round_key_that_agrees_on_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its masks would be known to everybody; refused before a round is charged."""
    made = {site: Masking() for site in names(3)}
    opening = Opening("x", {site: each.public for site, each in made.items()}, 2, range(1))
    deals = {site: made[site].deal(site, opening) for site in names(2)}
    with monkeypatch.context() as patch:
        patch.setattr(stream, "public_of", lambda key: "00" * 32)
        deals["site-02"] = made["site-02"].deal("site-02", opening)
    with pytest.raises(GenopactError, match="ROSTER_INVALID"):
        made[VICTIM].join(deals)


def test_a_mask_key_that_agrees_on_nothing() -> None:
    site = Masking()
    roster = {VICTIM: site.public, "site-01": "00" * 32, "site-02": "01" + "00" * 31}
    with pytest.raises(GenopactError, match="ROSTER_INVALID"):
        site.deal(VICTIM, Opening("x", roster, 2, range(1)))


# --- replay, and smaller rosters


@pytest.mark.parametrize("other", ["run or attempt", "rounds", "threshold", "smaller roster"])
def test_a_deal_of_another_opening(other: str) -> None:
    """Refused even for the same mask keys, which an honest site never has twice."""
    made, twins = ({site: Masking() for site in names(5)} for _ in range(2))
    for site, twin in twins.items():
        twin._key, twin.public = made[site]._key, made[site].public
    roster = {site: each.public for site, each in made.items()}
    opening = Opening("x", roster, 4, range(2))
    elsewhere = {
        "run or attempt": Opening("y", roster, 4, range(2)),
        "rounds": Opening("x", roster, 4, range(1, 3)),
        "threshold": Opening("x", roster, 3, range(2)),
        "smaller roster": Opening("x", {site: roster[site] for site in names(4)}, 4, range(2)),
    }[other]
    deals = {site: each.deal(site, opening) for site, each in made.items()}
    replayed = twins["site-01"].deal("site-01", elsewhere)
    with pytest.raises(GenopactError, match="DEAL_INVALID"):
        made[VICTIM].join(deals | {"site-01": replayed})


def test_replay_across_rounds() -> None:
    """A round is masked once and in order; messages and uploads of one round open or enter no other."""
    one = uploads(Round.open(4, 3, range(4)))
    active = digests(one.sites)
    reveals = {site: one.maskings[site].reveal(one.index, active) for site in one.sites}
    held = dict(one.uploads)
    with pytest.raises(GenopactError, match="MASK_KEY_LOST"):
        one.maskings[VICTIM].mask(one.index, SECRET[:4] * 2, 32)
    one.index = 1
    uploads(one)
    with pytest.raises(GenopactError, match="UNMASK_FAILED"):
        one.total(active, reveals)
    for other in (0, 2):
        with pytest.raises(GenopactError, match="UNMASK_REFUSED"):
            one.maskings[VICTIM].reveal(other, active)
    fresh = {site: one.maskings[site].reveal(1, active) for site in one.sites}
    one.uploads[VICTIM] = held[VICTIM]
    total, code = one.total(active, fresh)
    with pytest.raises(GenopactError, match="TOTAL_FORGED"):
        one.maskings[VICTIM].check_total(1, total, code, active)


def test_resending_under_a_smaller_roster() -> None:
    """Two totals that differ by one site: a site deals, masks and opens once, and never for fewer than agreed."""
    one = uploads(Round.open(5, 4))
    smaller = Opening(one.opening.context, {site: one.opening.roster[site] for site in one.sites[:4]}, 4, range(3, 5))
    with pytest.raises(GenopactError, match="MASK_KEY_LOST"):
        one.maskings[VICTIM].deal(VICTIM, smaller)
    for active in (one.sites[:3], one.sites[1:], [*one.sites[:4], "nobody"]):
        with pytest.raises(GenopactError, match="UNMASK_REFUSED"):
            one.maskings[VICTIM].reveal(one.index, digests(active))
    one.maskings[VICTIM].reveal(one.index, digests(one.sites[:4]))
    with pytest.raises(GenopactError, match="UNMASK_REFUSED"):
        one.maskings[VICTIM].reveal(one.index, digests(one.sites))


@pytest.mark.parametrize(("count", "threshold"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (3, 4)])
def test_a_threshold_that_two_groups_could_reach(count: int, threshold: int) -> None:
    site = Masking()
    roster = {name: stream.public_of(X25519PrivateKey.generate()) for name in names(count)} | {VICTIM: site.public}
    with pytest.raises(GenopactError, match="ROSTER_INVALID"):
        site.deal(VICTIM, Opening("x", roster, threshold, range(1)))


# --- search


def search(one: Round, window: range) -> int | None:
    """A seed of the window whose self mask leaves small integers of the victim's upload, all pair masks known."""
    spy = Adversary(one, [])
    ask(one, spy, dict.fromkeys(one.sites[1:], digests(one.sites[1:])))
    left = spy.left_of(VICTIM)
    for seed in window:
        words = left.copy()
        stream.shift(words, 0, [(masking.self_stream(seed, one.opening.epoch, one.index), -1)])
        if (words < 1000).all():
            return seed
    return None


def test_a_search_for_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a window of 2^12 nothing is found; seeds cut to 12 bits would be."""
    assert search(uploads(Round.open(4, 3), 8), range(1 << 12)) is None
    draw = sharing.draw
    monkeypatch.setattr(sharing, "draw", lambda: draw() % (1 << 12))
    one = uploads(Round.open(4, 3), 8)
    found = search(one, range(1 << 12))
    assert found == one.secrets[VICTIM][one.index][1]


def test_the_key_space_is_full() -> None:
    """Draws reach every bit; each bit of a secret, and of what two keys agree on, changes the whole stream."""
    draws = [sharing.draw() for _ in range(200)]
    assert all(0 <= value < PRIME for value in draws)
    ones = np.array([[value >> bit & 1 for bit in range(128)] for value in draws]).sum(axis=0)
    assert (np.abs(ones - 100) < 7 * np.sqrt(50)).all()
    secret, agreed = draws[0] >> 1, bytes(range(32))
    seeds: list[Callable[[int], bytes]] = [
        lambda bit: masking.self_stream(secret ^ bit, "e", 0),
        lambda bit: masking.pair_stream((int.from_bytes(agreed, "big") ^ bit).to_bytes(32, "big"), "e", 0, "a", "b"),
        lambda bit: masking.lock_key(secret ^ bit, "e"),
    ]
    for seed, bits in zip(seeds, (127, 256, 127), strict=True):
        streams = {0: np.zeros(64, np.uint32)} | {1 << bit: np.zeros(64, np.uint32) for bit in range(bits)}
        for flipped, words in streams.items():
            stream.shift(words, 0, [(seed(flipped), 1)])
        first = streams.pop(0)
        changed = [np.unpackbits((words ^ first).view(np.uint8)).mean() for words in streams.values()]
        assert all(abs(share - 0.5) < 7 * 0.5 / np.sqrt(64 * 32) for share in changed)


# --- another total


@pytest.fixture(scope="module")
def opened() -> tuple[Round, Integers, int]:
    """A round of 64 bits with its honest total and tag; the fourth site was gone."""
    one = Round.open(4, 3, range(4))
    one.mask({site: np.array([1, -2, 3]) for site in one.sites})
    one.honest_total()
    one.index = 1
    one.mask({site: SECRET[:3] + at for at, site in enumerate(one.sites[:3])}, 64)
    total, code = one.honest_total()
    return one, total, code


Forgery = Callable[[Integers, int], tuple[Integers, int]]
FORGERIES: dict[str, Forgery] = {
    "shifted": lambda total, code: (total + np.array([0, 1, 0]), code),
    "scaled": lambda total, code: (2 * total, 2 * code % FIELD),
    "negated": lambda total, code: (-total, -code % FIELD),
    "nothing": lambda total, code: (0 * total, 0),
    "turned round": lambda total, code: (total[::-1].copy(), code),
    "another round's": lambda total, code: (np.array([4, -8, 12]), code),
    "a word's overflow": lambda total, code: (total + np.array([2**32, 0, 0]), code),
    "the field's overflow": lambda total, code: (total + np.array([0, FIELD, 0]), code),
    "the field's overflow below": lambda total, code: (total - np.array([0, 0, 3 * FIELD]), code),
    "tag forged": lambda total, code: (total, (code + 1) % FIELD),
    "another shape": lambda total, code: (total.reshape(3, 1), code),
    "no shape": lambda total, code: (total[0].reshape(()), code),
    "tag beyond the field": lambda total, code: (total, code + FIELD),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_another_total(opened: tuple[Round, Integers, int], forgery: str) -> None:
    one, total, code = opened
    wrong, wrong_code = FORGERIES[forgery](total, code)
    for site in one.sites:
        one.maskings[site].check_total(1, total, code, digests(one.uploads))
        with pytest.raises(GenopactError, match="TOTAL_FORGED"):
            one.maskings[site].check_total(1, wrong, wrong_code, digests(one.uploads))


def test_a_total_of_other_sites_or_another_round(opened: tuple[Round, Integers, int]) -> None:
    one, total, code = opened
    for index, active in ((1, one.sites), (1, one.sites[1:3]), (1, []), (0, one.sites[:3]), (2, one.sites[:3])):
        with pytest.raises(GenopactError, match="TOTAL_FORGED"):
            one.maskings[VICTIM].check_total(index, total, code, digests(active))


def test_a_site_left_out_of_the_total_that_is_said_to_be_in_it() -> None:
    """The coordinator adds up without one upload: what its masks leave is noise, and the tag says so."""
    one = uploads(Round.open(4, 3))
    active = digests(one.sites)
    reveals = {site: one.maskings[site].reveal(one.index, active) for site in one.sites}
    one.uploads["site-03"] = {"sum": np.zeros(4, np.uint32), "tag": np.zeros(1, np.uint64)}
    total, code = one.total(active, reveals)
    with pytest.raises(GenopactError, match="TOTAL_FORGED"):
        one.maskings[VICTIM].check_total(one.index, total, code, active)


def test_a_scaled_total_would_pass_without_the_tags_pads(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Masking._tag_keys
    monkeypatch.setattr(Masking, "_tag_keys", lambda self, index, site, dims: (original(self, index, site, dims)[0], 0))
    one = uploads(Round.open(3, 2))
    total, code = one.honest_total()
    one.maskings[VICTIM].check_total(one.index, 2 * total, 2 * code % FIELD, digests(one.sites))


def test_the_fields_overflow_would_pass_without_the_limit(
    opened: tuple[Round, Integers, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, total, code = opened
    monkeypatch.setattr(masking, "LIMIT", 2**63)
    one.maskings[VICTIM].check_total(1, *FORGERIES["the field's overflow"](total, code), digests(one.uploads))


def test_guessing_a_tag(opened: tuple[Round, Integers, int]) -> None:
    """Ten thousand tags for another total, chosen without the key."""
    one, total, code = opened
    group = one.maskings[VICTIM]
    wrong, tries = total + 1, np.random.default_rng(1).integers(0, FIELD, 10_000)
    honest = tag(wrong, *_keys(group, wrong))
    assert honest != code
    assert honest not in set(tries.tolist())


def _keys(group: Masking, total: Integers) -> tuple[bytes, int]:
    pads = [group._tag_keys(1, site, len(total)) for site in names(3)]
    return pads[0][0], sum(pad for _, pad in pads) % FIELD
