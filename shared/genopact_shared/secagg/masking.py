"""One site's part in a masked total: deal shares, mask, and open the masks of one set of sites.

Source: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", 2017, the variant for
active adversaries, with two differences. Shares for all rounds are dealt once, so that a round costs one upload and one
message. What would be another message, everybody's signature under one set of survivors, is the lock of `reveal`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from genopact_shared import canonical
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.secagg import sharing, stream
from genopact_shared.secagg.tag import FIELD, LIMIT, tag

WORDS: dict[int, type[np.uint32] | type[np.uint64]] = {32: np.uint32, 64: np.uint64}
LIMITS = {32: 2**31 - 1, 64: LIMIT}
"""Bits -> the largest absolute value that a site may put in, and a total may have."""
Masked = dict[str, stream.Words]


@dataclass(frozen=True)
class Opening:
    """Who takes part in one opening of a run. `roster`: site -> mask key (hex). `rounds`: those that it may serve."""

    context: canonical.Json
    roster: Mapping[str, str]
    threshold: int
    rounds: range

    @cached_property
    def epoch(self) -> str:
        """The digest that every key is bound to."""
        rounds = [self.rounds.start, self.rounds.stop, self.rounds.step]
        about = {"context": self.context, "roster": dict(self.roster), "threshold": self.threshold, "rounds": rounds}
        return canonical.digest_of(about)

    @cached_property
    def sites(self) -> list[str]:
        """In the order of the share holders."""
        return sorted(self.roster)

    def bound(self, index: int, active: Mapping[str, str]) -> str:
        """The digest that stands for one active set, with its uploads, in one round."""
        return canonical.digest_of({"epoch": self.epoch, "round": index, "active": dict(active)})

    @property
    def row_size(self) -> int:
        """Bytes of a deal for one site."""
        return (2 * len(self.rounds) + 1) * sharing.SIZE + stream.SEAL

    def read_deal(self, deal: bytes) -> tuple[bytes, dict[int, str], dict[str, bytes]]:
        """The bytes of the public round keys, round -> key, and site -> the row for it. Raises DEAL_INVALID."""
        head, size = 32 * len(self.rounds), self.row_size
        require(len(deal) == head + len(self.roster) * size, "DEAL_INVALID")
        keys = {index: deal[32 * i : 32 * i + 32].hex() for i, index in enumerate(self.rounds)}
        rows = {site: deal[head + i * size : head + i * size + size] for i, site in enumerate(self.sites)}
        return deal[:head], keys, rows


class Masking:
    """The keys of one site for one opening. They live in memory only; a restart loses them.

    Guarantees (against a coordinator that lies, delays and replays, and `colluders` other sites that do as it says):
        From one round nothing is learned beyond the total over one set of at least `threshold` sites.
        What a site reveals opens only if `threshold` sites, colluders among them, name the same set and uploads.
        For no site both its self mask and its round key can be opened.
        Without colluders, another total than the sites' own is refused (see `tag`).
    Assumptions:
        2 * threshold > sites + colluders. Rosters and deals are signed by their sites, and rounds only move forward:
        the caller's checks.
    """

    def __init__(self) -> None:
        self._key = X25519PrivateKey.generate()
        self.public = stream.public_of(self._key)
        self._own = ""
        self._opening: Opening | None = None
        self._secrets: dict[int, tuple[int, int]] = {}
        self._held: dict[int, dict[str, tuple[int, int]]] = {}
        self._round_keys: dict[int, dict[str, str]] = {}
        self._group, self._group_part = b"", 0

    @property
    def dealt(self) -> bool:
        """Whether this site has dealt."""
        return self._opening is not None

    @property
    def joined(self) -> bool:
        """Whether everybody's deal is here."""
        return bool(self._group)

    def check_ready(self, index: int) -> Opening:
        """The opening, in which that round can still be masked. Raises MASK_KEY_LOST."""
        require(index in self._secrets, "MASK_KEY_LOST")
        return self._joined()

    def deal(self, own: str, opening: Opening) -> bytes:
        """Draw this site's secrets for all rounds; its public round keys, and sealed shares for each site.

        A deal is made once. Raises MASK_KEY_LOST if the roster does not hold this key, or after another deal;
        ROSTER_INVALID.
        """
        require(self._opening is None and opening.roster.get(own) == self.public, "MASK_KEY_LOST")
        if not max(3, len(opening.roster)) < 2 * opening.threshold <= 2 * len(opening.roster):
            raise GenopactError("ROSTER_INVALID", "its threshold is no majority of at least two")
        peers = {site: stream.agree(self._key, key) for site, key in opening.roster.items() if site != own}
        self._own, self._opening, self._group_part = own, opening, sharing.draw()
        self._secrets = {index: (sharing.draw(), sharing.draw()) for index in opening.rounds}
        keys, columns = b"", list[list[int]]()
        for pair in self._secrets.values():
            keys += bytes.fromhex(stream.public_of(round_key(pair[0], opening.epoch)))
            columns += [sharing.split(secret, opening.threshold, len(opening.roster)) for secret in pair]
        sealed = []
        for i, site in enumerate(opening.sites):
            row = [column[i] for column in columns]
            if site == own:
                self._keep(opening.rounds, own, row)
                sealed.append(bytes(opening.row_size))
            else:
                key = stream.derive(peers[site], opening.epoch, "deal", own, site)
                sealed.append(stream.seal(key, sharing.encode([*row, self._group_part]), keys))
        return keys + b"".join(sealed)

    def join(self, deals: Mapping[str, bytes]) -> None:
        """Take everybody's deal. Raises DEAL_INVALID, ROSTER_INVALID, MASK_KEY_LOST."""
        opening = self._opening
        if opening is None or self.joined:
            raise GenopactError("MASK_KEY_LOST")
        require(set(deals) == set(opening.roster), "DEAL_INVALID", "not one deal of each site")
        parts = {self._own: self._group_part}
        for site in set(deals) - {self._own}:
            head, keys, rows = opening.read_deal(deals[site])
            key = stream.derive(stream.agree(self._key, opening.roster[site]), opening.epoch, "deal", site, self._own)
            with replacing(ValueError, GenopactError("DEAL_INVALID", "not sealed for this site in this opening")):
                row = sharing.decode(stream.unseal(key, rows[self._own], head))
            for index, public in keys.items():
                stream.agree(self._key, public)  # one that agrees on nothing is refused before a round is charged
                self._round_keys.setdefault(index, {})[site] = public
            parts[site] = row.pop()
            self._keep(opening.rounds, site, row)
        self._group = sharing.encode(parts[site] for site in opening.sites)

    def mask(self, index: int, values: NDArray[np.int64], bits: int) -> Masked:
        """This site's masked integers and tag for one round; a round is masked once, and ends the earlier ones.

        Args:
            index: of the round.
            values: (d,) int64, within +-LIMITS[bits]. A total beyond that fails its tag.
            bits: 32 or 64.

        Returns:
            `sum`: (d,) uint32 or uint64. `tag`: (1,) uint64.

        Raises:
            GenopactError: MASK_KEY_LOST; RANGE_EXCEEDED.
        """
        opening = self.check_ready(index)
        if int(values.max(initial=0)) > LIMITS[bits] or int(values.min(initial=0)) < -LIMITS[bits]:
            raise GenopactError("RANGE_EXCEEDED")
        pair_secret, self_secret = self._secrets.pop(index)
        peers, key = self._round_keys.pop(index), round_key(pair_secret, opening.epoch)
        for store in (self._secrets, self._round_keys, self._held):
            for past in [each for each in store if each < index]:
                del store[past]
        words: stream.Words = values.astype(np.uint32) if bits == 32 else values.astype(np.uint64)
        keys = [(self_stream(self_secret, opening.epoch, index), 1)]
        for site, public in peers.items():
            pair = pair_stream(stream.agree(key, public), opening.epoch, index, self._own, site)
            keys.append((pair, 1 if self._own < site else -1))
        code = stream.shift(words, tag(values, *self._tag_keys(index, self._own, len(values))), keys)
        return {"sum": words, "tag": np.array([code], dtype=np.uint64)}

    def reveal(self, index: int, active: Mapping[str, str]) -> bytes:
        """This site's message for one round: what opens the total over `active`, and nothing else.

        First shares, one for each site, sealed under a key of this site's own: of the self masks of the active, of the
        round keys of the others. `locks`: shares of that key, each hidden by what its holder and this site have in
        common for exactly this set. `tokens`: what opens the locks of the others, for this set. So the shares open once
        `threshold` sites have sent tokens for the same set.

        Args:
            index: of a round that this site has masked, and no later one; answered once.
            active: site -> digest of its upload, for those whose total is wanted, this one included.

        Raises:
            GenopactError: UNMASK_REFUSED.
        """
        opening, held = self._opening, self._held.get(index, {})
        wanted = opening is not None and self._own in active and set(active) <= set(opening.roster)
        if opening is None or not held or index in self._secrets or not wanted or len(active) < opening.threshold:
            raise GenopactError("UNMASK_REFUSED")
        bound, lock = opening.bound(index, active), sharing.draw()
        del self._held[index]
        shares = sharing.encode(held[site][site in active] for site in opening.sites)
        parts = sharing.split(lock, opening.threshold, len(opening.roster))
        locks, tokens = [], []
        for site, part in zip(opening.sites, parts, strict=True):
            if site == self._own:
                locks.append(part)
                tokens.append(0)
            else:
                secret = stream.agree(self._key, opening.roster[site])
                locks.append((part + token(secret, bound, self._own, site)) % sharing.PRIME)
                tokens.append(token(secret, bound, site, self._own))
        return stream.seal(lock_key(lock, bound), shares) + sharing.encode([*locks, *tokens])

    def check_total(self, index: int, total: NDArray[np.int64], code: int, active: Mapping[str, str]) -> None:
        """Raise TOTAL_FORGED unless these are the total and the tag of what the active sites masked in a round.

        MASK_KEY_LOST before `join`.
        """
        if total.ndim == 1 and active and int(total.max(initial=0)) <= LIMIT and int(total.min(initial=0)) >= -LIMIT:
            keys = [self._tag_keys(index, site, len(total)) for site in active]
            if tag(total, keys[0][0], sum(pad for _, pad in keys)) == code:
                return
        raise GenopactError("TOTAL_FORGED")

    def _joined(self) -> Opening:
        if self._opening is None or not self.joined:
            raise GenopactError("MASK_KEY_LOST")
        return self._opening

    def _keep(self, rounds: range, dealer: str, row: list[int]) -> None:
        for i, index in enumerate(rounds):
            self._held.setdefault(index, {})[dealer] = (row[2 * i], row[2 * i + 1])

    def _tag_keys(self, index: int, site: str, dims: int) -> tuple[bytes, int]:
        """The key of a round's tags, and the pad of one site."""
        epoch = self._joined().epoch
        pad = int.from_bytes(stream.derive(self._group, epoch, "tag of", index, site), "big") % FIELD
        return stream.derive(self._group, epoch, "tag", index, dims), pad


def round_key(secret: int, epoch: str) -> X25519PrivateKey:
    """The X25519 key that grows from a shared element."""
    return X25519PrivateKey.from_private_bytes(stream.derive(secret.to_bytes(sharing.SIZE, "big"), epoch, "round key"))


def self_stream(secret: int, epoch: str, index: int) -> bytes:
    """The key of a self mask."""
    return stream.derive(secret.to_bytes(sharing.SIZE, "big"), epoch, "self", index)


def pair_stream(secret: bytes, epoch: str, index: int, one: str, other: str) -> bytes:
    """The key of the mask between two sites; the first of their names adds it, the other subtracts it."""
    return stream.derive(secret, epoch, "pair", index, *sorted((one, other)))


def lock_key(lock: int, bound: str) -> bytes:
    """The key under which a site's shares travel."""
    return stream.derive(lock.to_bytes(sharing.SIZE, "big"), bound, "shares")


def token(secret: bytes, bound: str, of: str, holder: str) -> int:
    """The element that hides `of`'s lock for one holder; off uniform by less than 2^-120."""
    return int.from_bytes(stream.derive(secret, bound, "lock", of, holder), "big") % sharing.PRIME
