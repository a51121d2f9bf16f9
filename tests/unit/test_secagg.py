"""Masked totals: shares, tag, streams, the total of any roster, and the frozen bytes."""

import hashlib
import hmac
import json
from collections import Counter

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genopact_server.unmasking import recover
from genopact_shared import canonical
from genopact_shared.errors import GenopactError
from genopact_shared.secagg import sharing, stream
from genopact_shared.secagg.masking import LIMITS, Masking, Opening
from genopact_shared.secagg.sharing import PRIME
from genopact_shared.secagg.tag import FIELD, LIMIT, PIECE, tag
from tests.unit.mask_round import GOLDEN, Integers, Round, digests, fixed_draws, frozen, names

elements = st.integers(0, PRIME - 1)
int64s = hnp.arrays(np.int64, st.integers(0, 40))
KEYS = [bytes([number]) * 32 for number in range(5)]


# --- shares


def naive_secret(shares: dict[int, int], prime: int = PRIME) -> int:
    """Gauss' elimination on the polynomial's coefficients."""
    rows = [[pow(holder + 1, power, prime) for power in range(len(shares))] + [y] for holder, y in shares.items()]
    for at in range(len(rows)):
        pivot = next(i for i in range(at, len(rows)) if rows[i][at])
        rows[at], rows[pivot] = rows[pivot], rows[at]
        inverse = pow(rows[at][at], -1, prime)
        rows[at] = [value * inverse % prime for value in rows[at]]
        for i in range(len(rows)):
            if i != at:
                rows[i] = [(a - rows[i][at] * b) % prime for a, b in zip(rows[i], rows[at], strict=True)]
    return rows[0][-1]


def test_the_prime_is_the_largest_below_2_to_the_128() -> None:
    """Fermat's test in 40 bases for it, and none passes above it."""

    def probably(number: int) -> bool:
        return all(pow(base, number - 1, number) == 1 for base in range(2, 42))

    assert probably(PRIME)
    assert PRIME.bit_length() == 128
    assert not any(probably(number) for number in range(PRIME + 2, 2**128, 2))


@given(st.data(), st.lists(elements, min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 4))
def test_any_threshold_of_the_holders_have_the_secrets(
    data: st.DataObject, secrets: list[int], threshold: int, more: int
) -> None:
    columns = [sharing.split(secret, threshold, threshold + more) for secret in secrets]
    chosen = data.draw(st.permutations(range(threshold + more))).copy()[:threshold]
    assert recover({holder: [column[holder] for column in columns] for holder in chosen}) == secrets
    assert naive_secret({holder: columns[0][holder] for holder in chosen}) == secrets[0]


@given(elements, elements, st.integers(2, 6))
def test_fewer_shares_fit_every_secret(secret: int, other: int, threshold: int) -> None:
    """For each other secret there is exactly one polynomial through the same threshold - 1 shares."""
    shares = sharing.split(secret, threshold, threshold)
    few = dict(enumerate(shares[:-1]))
    points = {-1: other} | few  # holder -1 stands at 0
    rows = {holder: [value] for holder, value in points.items()}
    missing = interpolate(points, threshold)
    assert recover({**{h: [v] for h, v in few.items()}, threshold - 1: [missing]}) == [other]
    assert len(rows) == threshold


def interpolate(points: dict[int, int], at: int) -> int:
    """The value at `at` of the polynomial with values `points` at holder + 1."""
    total = 0
    for own, value in points.items():
        term = value
        for other in points:
            if other != own:
                term = term * (at - other - 1) * pow(own - other, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def test_fewer_shares_are_distributed_the_same_for_every_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """All polynomials over a small field: two of three shares show each pair of values once, whatever the secret."""
    small = 7
    monkeypatch.setattr(sharing, "PRIME", small)
    views = []
    for secret in (0, 5):
        seen: Counter[tuple[int, ...]] = Counter()
        for first in range(small):
            for second in range(small):
                coefficients = iter((first, second))
                monkeypatch.setattr(sharing, "draw", coefficients.__next__)
                seen[tuple(sharing.split(secret, 3, 3)[:2])] += 1
        views.append(seen)
    assert views[0] == views[1]
    assert set(views[0].values()) == {1}
    assert len(views[0]) == small**2


@given(st.lists(elements, max_size=5))
def test_elements_survive_their_bytes(some: list[int]) -> None:
    assert sharing.decode(sharing.encode(some)) == some


@pytest.mark.parametrize("data", [b"x", bytes(17), b"\xff" * 16, PRIME.to_bytes(16, "big")])
def test_other_bytes_are_no_elements(data: bytes) -> None:
    with pytest.raises(ValueError, match="elements"):
        sharing.decode(data)


# --- tag and streams


def ctr(key: bytes, size: int) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def naive_tag(values: Integers, key: bytes, pad: int) -> int:
    words = ctr(key, 8 * len(values))
    total = pad
    for i, value in enumerate(values.tolist()):
        total += (int.from_bytes(words[8 * i : 8 * i + 8], "little") & FIELD) * value
    return total % FIELD


@given(int64s, st.binary(min_size=32, max_size=32), st.integers(0, FIELD))
def test_the_tag_is_that_of_big_integers(values: Integers, key: bytes, pad: int) -> None:
    assert tag(values, key, pad) == naive_tag(values, key, pad)


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 3])
@pytest.mark.parametrize("least", [-(2**63), -(2**31), 0, 5])
def test_the_tag_of_pieces_and_extremes(size: int, least: int) -> None:
    values = np.random.default_rng(size).integers(least, least + 2**62, size)
    values[:3] = least, least, 2**63 - 1
    assert tag(values, KEYS[1], 3) == naive_tag(values, KEYS[1], 3)


@given(st.lists(hnp.arrays(np.int64, 6, elements=st.integers(-(2**58), 2**58)), min_size=2, max_size=4))
def test_the_sum_of_tags_is_the_tag_of_the_sum(parts: list[Integers]) -> None:
    tags = [tag(part, KEYS[0], pad) for pad, part in enumerate(parts)]
    assert sum(tags) % FIELD == tag(np.sum(parts, axis=0), KEYS[0], sum(range(len(parts))))


def naive_shift(words: list[int], bits: int, tag_: int, keys: list[tuple[bytes, int]]) -> tuple[list[int], int]:
    """One word after another."""
    size = bits // 8
    for key, sign in keys:
        text = ctr(key, 16 + size * len(words))
        tag_ += sign * int.from_bytes(text[:16], "big")
        for i in range(len(words)):
            word = int.from_bytes(text[16 + size * i : 16 + size * (i + 1)], "little")
            words[i] = (words[i] + sign * word) % 2**bits
    return words, tag_ % FIELD


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("extra", [-3, -1, 0, 1, 2])
@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_shift_is_one_word_after_another(bits: int, extra: int, chunks: int) -> None:
    size = max(0, chunks * (stream.CHUNK * 8 // bits) + extra)
    drawn = np.random.default_rng(size).integers(0, 2**bits, size, dtype=np.uint64)
    words: stream.Words = drawn.astype(np.uint32) if bits == 32 else drawn
    keys: list[tuple[bytes, int]] = list(zip(KEYS, (1, -1, 1, 1, -1), strict=True))
    expected = naive_shift(words.tolist(), bits, 11, keys)
    code = stream.shift(words, 11, keys)
    assert (words.tolist(), code) == expected


def test_a_stream_taken_off_leaves_what_was_there() -> None:
    words = np.arange(70_000, dtype=np.uint32)
    code = stream.shift(words, 5, [(KEYS[0], 1), (KEYS[1], -1)])
    assert stream.shift(words, code, [(KEYS[0], -1), (KEYS[1], 1)]) == 5
    assert (words == np.arange(70_000)).all()


def test_a_key_is_for_one_use_in_one_opening() -> None:
    """Names cannot run into one another, and numbers are not their digits."""
    names_: list[tuple[str | int, ...]] = [(1, "a", "b"), (11, "a", "b"), (1, "ab"), ("1", "a", "b"), (1, "a"), ()]
    places = [("e", "pair"), ("f", "pair"), ("e", "self"), ("epair", "")]
    keys = {stream.derive(KEYS[0], epoch, use, *rest) for epoch, use in places for rest in names_}
    assert len(keys) == len(places) * len(names_)


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_a_seal_holds_text_and_what_is_beside_it(text: bytes, beside: bytes) -> None:
    sealed = stream.seal(KEYS[0], text, beside)
    assert (len(sealed), stream.unseal(KEYS[0], sealed, beside)) == (len(text) + stream.SEAL, text)
    wrong = (
        (KEYS[1], sealed, beside),
        (KEYS[0], sealed, beside + b"x"),
        (KEYS[0], sealed[:-1], beside),
        (KEYS[0], b"", b""),
    )
    for key, data, other in wrong:
        with pytest.raises(ValueError, match="sealed"):
            stream.unseal(key, data, other)


# --- totals


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([32, 64]))
def test_the_total_is_the_plain_sum(data: st.DataObject, bits: int) -> None:
    """Any roster, any majority as threshold; some gone before their upload, some silent at the end."""
    count = data.draw(st.integers(2, 7))
    threshold = data.draw(st.integers(max(2, count // 2 + 1), count))
    uploaded = data.draw(st.permutations(names(count)))[: data.draw(st.integers(threshold, count))]
    silent = data.draw(st.integers(0, len(uploaded) - threshold))
    limit = LIMITS[bits] // count
    integers = hnp.arrays(np.int64, data.draw(st.integers(0, 9)), elements=st.integers(-limit, limit))
    one = Round.open(count, threshold, range(1)).mask({site: data.draw(integers) for site in uploaded}, bits)
    total, code = one.honest_total(silent)
    assert total.tolist() == np.sum(list(one.values.values()), axis=0).tolist()
    for each in one.maskings.values():
        each.check_total(0, total, code, digests(uploaded))


@pytest.mark.parametrize(("bits", "limit"), [(32, 2**31 - 1), (64, 2**60 - 1)])
def test_the_edges_of_the_range(bits: int, limit: int) -> None:
    assert LIMITS[bits] == limit
    one = Round.open(3, 2)
    edges = np.array([limit, -limit, 0, 1])
    for beyond in (limit + 1, -limit - 1, -(2**63), 2**63 - 1):
        with pytest.raises(GenopactError, match="RANGE_EXCEEDED"):
            one.maskings[one.sites[0]].mask(one.index, np.array([0, beyond]), bits)
    one.mask({site: edges if site == one.sites[1] else np.zeros(4, np.int64) for site in one.sites}, bits)
    total, code = one.honest_total()
    assert total.tolist() == edges.tolist()
    one.maskings[one.sites[2]].check_total(one.index, total, code, digests(one.sites))


@pytest.mark.parametrize("bits", [32, 64])
def test_a_total_beyond_the_range_is_never_taken_for_a_total(bits: int) -> None:
    one = Round.open(3, 2)
    one.mask({site: np.array([LIMITS[bits], 1, 1]) for site in one.sites}, bits)
    total, code = one.honest_total()
    with pytest.raises(GenopactError, match="TOTAL_FORGED"):
        one.maskings[one.sites[0]].check_total(one.index, total, code, digests(one.sites))


@pytest.mark.parametrize("gone", ["first", "second"])
def test_one_site_too_few_opens_nothing(gone: str) -> None:
    """A site that is dropped twice as often as agreed costs the round, not a site's privacy."""
    one = Round.open(5, 4)
    one.mask({site: np.ones(3, np.int64) for site in one.sites[: 3 if gone == "first" else 5]})
    active = digests(one.sites[:4])
    if gone == "first":
        with pytest.raises(GenopactError, match="UNMASK_REFUSED"):
            one.maskings[one.sites[0]].reveal(one.index, digests(one.sites[:3]))
    else:
        reveals = {site: one.maskings[site].reveal(one.index, active) for site in one.sites[:3]}
        with pytest.raises(GenopactError, match="UNMASK_FAILED"):
            one.total(active, reveals)


def test_rounds_follow_one_another_with_other_sites_missing() -> None:
    one = Round.open(4, 3, range(5, 9))
    for missing in (0, 1, None, 3):
        present = [site for at, site in enumerate(one.sites) if at != missing]
        total, code = one.mask({site: np.array([one.index, -1]) for site in present}).honest_total()
        assert total.tolist() == [one.index * len(present), -len(present)]
        for each in one.maskings.values():
            each.check_total(one.index, total, code, digests(present))
        one.index += 1


def test_what_is_past_is_forgotten() -> None:
    one = Round.open(3, 2, range(4))
    site = one.maskings[one.sites[0]]
    one.index = 2
    one.mask({one.sites[0]: np.ones(2, np.int64)})
    assert (set(site._secrets), set(site._round_keys), set(site._held)) == ({3}, {3}, {2, 3})
    site.reveal(2, digests(one.sites[:2]))
    assert set(site._held) == {3}


def test_malformed_messages_count_as_none() -> None:
    one = Round.open(5, 3).mask({site: np.arange(3) for site in names(5)})
    active = digests(one.sites)
    reveals = {site: one.maskings[site].reveal(one.index, active) for site in one.sites}
    whole = reveals[one.sites[0]]
    for bad in (b"", whole[:-1], whole[:-16], whole + bytes(16), whole[:-16] + b"\xff" * 16):
        assert one.total(active, reveals | {one.sites[0]: bad})[0].tolist() == [0, 5, 10]
    with pytest.raises(GenopactError, match="UNMASK_FAILED"):
        one.total(active, dict.fromkeys(one.sites[:3], b"") | {site: reveals[site] for site in one.sites[3:]})


def test_shares_of_another_round_key_than_was_dealt() -> None:
    """A site that dealt wrong shares and went costs the round; its masks are not taken for what they were not."""
    one = Round.open(4, 3).mask({site: np.ones(2, np.int64) for site in names(3)})
    one.deals["site-03"] = one.deals["site-02"][:32] + one.deals["site-03"][32:]
    with pytest.raises(GenopactError, match="UNMASK_FAILED"):
        one.honest_total()


def test_before_everybody_has_joined_nothing_is_done() -> None:
    made = {site: Masking() for site in names(3)}
    one = Opening("x", {site: each.public for site, each in made.items()}, 2, range(1))
    own = made["site-00"]
    deals = {site: each.deal(site, one) for site, each in made.items()}
    assert not own.joined
    refused = (
        ("MASK_KEY_LOST", lambda: own.mask(0, np.zeros(1, np.int64), 32)),
        ("MASK_KEY_LOST", lambda: own.check_total(0, np.zeros(1, np.int64), 0, digests(names(3)))),
        ("MASK_KEY_LOST", lambda: own.check_ready(0)),
        ("UNMASK_REFUSED", lambda: own.reveal(0, digests(names(3)))),
        ("DEAL_INVALID", lambda: own.join({site: deals[site] for site in names(2)})),
        ("DEAL_INVALID", lambda: own.join(deals | {"site-01": deals["site-01"][:-1]})),
        ("MASK_KEY_LOST", lambda: Masking().join(deals)),
        ("MASK_KEY_LOST", lambda: Masking().deal("site-00", one)),
    )
    for code, attempt in refused:
        with pytest.raises(GenopactError, match=code):
            attempt()
    own.join(deals)
    own.check_ready(0)
    for late in (lambda: own.join(deals), lambda: own.check_ready(1)):
        with pytest.raises(GenopactError, match="MASK_KEY_LOST"):
            late()


# --- the frozen bytes, and what they mean, by hand


def hkdf(secret: bytes, epoch: str, use: str, *of: str | int) -> bytes:
    """RFC 5869 for one block."""
    info = json.dumps({"epoch": epoch, "names": list(of), "use": use}, separators=(",", ":")).encode()
    return hmac.digest(hmac.digest(b"genopact.mask.v2", secret, "sha256"), info + b"\x01", "sha256")


def test_no_byte_of_the_format_changes() -> None:
    assert frozen() == json.loads(GOLDEN.read_text("utf-8"))


def test_the_bytes_are_what_the_manual_says() -> None:
    """docs/masking.md step by step, for the first round of the frozen opening: secrets out of the reveals, total."""
    golden = json.loads(GOLDEN.read_text("utf-8"))
    epoch, sites, first = golden["epoch"], sorted(golden["roster"]), golden["rounds"][0]
    about = {"context": {"run": "a run"}, "roster": golden["roster"], "threshold": 3, "rounds": [3, 5, 1]}
    assert hashlib.sha256(canonical.encode(about)).hexdigest() == epoch
    active = {site: hashlib.sha256(site.encode()).hexdigest() for site in sites[:3]}
    bound = hashlib.sha256(canonical.encode({"epoch": epoch, "round": 3, "active": active})).hexdigest()
    assert bound == first["bound"]
    sealed = 16 * 4 + 16
    messages = {site: bytes.fromhex(message) for site, message in first["reveals"].items()}
    numbers = {site: [int.from_bytes(m[at : at + 16], "big") for at in range(sealed, len(m), 16)]
               for site, m in messages.items()}  # fmt: skip
    shares: dict[str, list[bytes]] = {}
    for own, site in enumerate(sites[:3]):
        parts = {at: (numbers[site][at] - numbers[holder][4 + own]) % PRIME for at, holder in enumerate(sites[:3])}
        lock = naive_secret(parts).to_bytes(16, "big")
        row = AESGCM(hkdf(lock, bound, "shares")).decrypt(bytes(12), messages[site][:sealed], b"")
        shares[site] = [row[at : at + 16] for at in range(0, 64, 16)]
    secret = [naive_secret({at: int.from_bytes(shares[site][of], "big") for at, site in enumerate(sites[:3])})
              for of in range(4)]  # fmt: skip
    words = [sum(first["uploads"][site][0][i] for site in active) % 2**32 for i in range(5)]
    tag_ = sum(first["uploads"][site][1] for site in active)
    gone = X25519PrivateKey.from_private_bytes(hkdf(secret[3].to_bytes(16, "big"), epoch, "round key"))
    assert bytes.fromhex(golden["deals"][sites[3]])[:32] == gone.public_key().public_bytes_raw()
    keys = []
    for at, site in enumerate(sites[:3]):
        keys.append((hkdf(secret[at].to_bytes(16, "big"), epoch, "self", 3), -1))
        public = X25519PublicKey.from_public_bytes(bytes.fromhex(golden["deals"][site])[:32])
        keys.append((hkdf(gone.exchange(public), epoch, "pair", 3, site, sites[3]), -1))
    words, tag_ = naive_shift(words, 32, tag_, keys)
    assert [word - (word >> 31 << 32) for word in words] == first["total"] == [3, -6, 9, 3 * 2**28, -21]
    assert tag_ == first["tag"]


def test_the_frozen_deal_holds_what_was_drawn() -> None:
    """A row of a deal opens with what two mask keys agree on, and the group's key with all parts makes the tag."""
    golden = json.loads(GOLDEN.read_text("utf-8"))
    with fixed_draws("golden"):
        keys = {site: Masking()._key for site in names(4)}
    epoch, sites, group = golden["epoch"], sorted(golden["roster"]), b""
    width, head = (2 * 2 + 1) * 16 + 16, 2 * 32
    for dealer in sites:
        deal = bytes.fromhex(golden["deals"][dealer])
        assert len(deal) == head + 4 * width
        assert deal[head + width * sites.index(dealer) :][:width] == bytes(width)
        rows = set()
        for holder in (site for site in sites if site != dealer):
            row = deal[head + width * sites.index(holder) :][:width]
            agreed = keys[holder].exchange(keys[dealer].public_key())
            rows.add(AESGCM(hkdf(agreed, epoch, "deal", dealer, holder)).decrypt(bytes(12), row, deal[:head])[-16:])
        (part,) = rows
        group += part
    last = golden["rounds"][1]
    pad = sum(int.from_bytes(hkdf(group, epoch, "tag of", 4, site), "big") % FIELD for site in sites)
    assert naive_tag(np.array(last["total"]), hkdf(group, epoch, "tag", 4, 5), pad) == last["tag"]


def test_another_length_has_another_tag() -> None:
    one = Round.open(3, 2).mask({site: np.array([5, 0]) for site in names(3)})
    total, code = one.honest_total()
    for other in (total[:1], np.append(total, 0)):
        with pytest.raises(GenopactError, match="TOTAL_FORGED"):
            one.maskings[one.sites[0]].check_total(one.index, other, code, digests(one.sites))
    assert LIMIT == 2**60 - 1
