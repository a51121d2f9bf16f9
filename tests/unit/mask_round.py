"""Sites that mask together, and what an adversary makes of all it has seen. Used by unit tests, attacks, benchmarks.

python -m tests.unit.mask_round      writes tests/golden/masking.json again, after a deliberate change of the format
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from genopact_server.unmasking import recover, total_of
from genopact_shared import canonical
from genopact_shared.secagg import masking, sharing, stream
from genopact_shared.secagg.masking import Masked, Masking, Opening
from genopact_shared.secagg.sharing import PRIME, SIZE

GOLDEN = Path(__file__).parents[1] / "golden" / "masking.json"
Integers = NDArray[np.int64]


def names(count: int) -> list[str]:
    return [f"site-{number:02d}" for number in range(count)]


def digests(sites: list[str] | Mapping[str, Any]) -> dict[str, str]:
    """Stands for the digests of uploads: the protocol takes any."""
    return {site: canonical.digest(site.encode()) for site in sites}


@dataclass
class Round:
    """One opening and one round of it. `secrets`: what each site had drawn, before it forgot."""

    maskings: dict[str, Masking]
    opening: Opening
    deals: dict[str, bytes]
    index: int
    secrets: dict[str, dict[int, tuple[int, int]]]
    values: dict[str, Integers] = field(default_factory=dict)
    uploads: dict[str, Masked] = field(default_factory=dict)

    @classmethod
    def open(cls, count: int, threshold: int, rounds: range = range(3, 5), context: str = "a run") -> "Round":
        """Everybody has joined."""
        maskings = {site: Masking() for site in names(count)}
        roster = {site: each.public for site, each in maskings.items()}
        opening = Opening({"run": context}, roster, threshold, rounds)
        deals = {site: each.deal(site, opening) for site, each in maskings.items()}
        for each in maskings.values():
            each.join(deals)
        drawn = {site: dict(each._secrets) for site, each in maskings.items()}
        return cls(maskings, opening, deals, rounds.start, drawn)

    @property
    def sites(self) -> list[str]:
        return self.opening.sites

    def mask(self, values: Mapping[str, Integers], bits: int = 32) -> "Round":
        """These sites upload."""
        self.values = dict(values)
        self.uploads = {site: self.maskings[site].mask(self.index, each, bits) for site, each in values.items()}
        return self

    def total(self, active: Mapping[str, str], reveals: Mapping[str, bytes]) -> tuple[Integers, int]:
        return total_of(self.opening, self.index, self.deals, self.uploads, active=active, reveals=reveals)

    def honest_total(self, silent: int = 0) -> tuple[Integers, int]:
        """Over everybody that uploaded; the last `silent` of these do not answer any more."""
        active = digests(self.uploads)
        answer = list(active)[: len(active) - silent]
        return self.total(active, {site: self.maskings[site].reveal(self.index, active) for site in answer})


class Adversary:
    """The coordinator with all memory of its colluders: takes apart whatever sites have sent.

    Against weakened sites: `guess` is tried as everybody's lock; `unpadded` reads the parts of locks as they stand.
    """

    def __init__(
        self, round_: Round, colluders: list[str], *, guess: int | None = None, unpadded: bool = False
    ) -> None:
        self.round, self.colluders, self.guess, self.unpadded = round_, colluders, guess, unpadded
        self._seen: dict[str, tuple[dict[str, str], bytes]] = {}
        self._shares: dict[tuple[str, int], dict[str, int]] = {}
        for holder in colluders:
            for dealer, pair in round_.maskings[holder]._held[round_.index].items():
                for kind in (0, 1):
                    self._shares.setdefault((dealer, kind), {})[holder] = pair[kind]

    def sees(self, site: str, active: Mapping[str, str], message: bytes) -> None:
        """A site has revealed for a set of the adversary's choice."""
        self._seen[site] = (dict(active), message)

    def opened(self) -> list[str]:
        """The sites whose shares lie open; 0 is the round key's, 1 the self mask's."""
        found = []
        for site, (active, message) in self._seen.items():
            bound = self.round.opening.bound(self.round.index, active)
            locks = [lock for lock in (self._lock(site, bound, message), self.guess) if lock is not None]
            for lock in locks:
                try:
                    row = stream.unseal(masking.lock_key(lock, bound), message[: self._sealed])
                except ValueError:
                    continue
                found.append(site)
                for dealer, share in zip(self.round.sites, sharing.decode(row), strict=True):
                    self._shares.setdefault((dealer, int(dealer in active)), {})[site] = share
                break
        return found

    def secrets_of(self, site: str) -> tuple[int | None, int | None]:
        """What it knows of a site's round key and self mask."""
        if site in self.colluders:
            return self.round.secrets[site][self.round.index]
        self.opened()
        pair, self_secret = (self._recovered((site, kind)) for kind in (0, 1))
        return pair, self_secret

    def left_of(self, site: str) -> NDArray[np.uint32]:
        """A site's upload without every stream that the adversary can compute: the best that it has."""
        words, opening, index = self.round.uploads[site]["sum"].astype(np.uint32), self.round.opening, self.round.index
        pair, self_secret = self.secrets_of(site)
        streams = [] if self_secret is None else [(masking.self_stream(self_secret, opening.epoch, index), -1)]
        for other in set(self.round.sites) - {site}:
            if (agreed := self._agreed(site, pair, other)) is not None:
                key = masking.pair_stream(agreed, opening.epoch, index, site, other)
                streams.append((key, -1 if site < other else 1))
        stream.shift(words, 0, streams)
        return words

    @property
    def _sealed(self) -> int:
        return len(self.round.sites) * SIZE + stream.SEAL

    def _agreed(self, one: str, pair: int | None, other: str) -> bytes | None:
        """What two sites' round keys agree on, from either side's secret."""
        epoch, index = self.round.opening.epoch, self.round.index
        for secret, peer in ((pair, other), (self.secrets_of(other)[0], one)):
            if secret is not None:
                public = self.round.opening.read_deal(self.round.deals[peer])[1][index]
                return stream.agree(masking.round_key(secret, epoch), public)
        return None

    def _lock(self, site: str, bound: str, message: bytes) -> int | None:
        """A site's lock from its own part, the colluders' tokens, and those of sites that named the same set."""
        sites, elements = self.round.sites, sharing.decode(message[self._sealed :])
        own, parts = sites.index(site), {}
        for place, holder in enumerate(sites):
            if holder == site or self.unpadded:
                parts[place] = elements[place]
            elif holder in self.colluders:
                agreed = stream.agree(self.round.maskings[holder]._key, self.round.opening.roster[site])
                parts[place] = elements[place] - masking.token(agreed, bound, site, holder)
            elif holder in self._seen:
                active, other = self._seen[holder]
                if self.round.opening.bound(self.round.index, active) == bound:
                    parts[place] = elements[place] - sharing.decode(other[self._sealed :])[len(sites) + own]
        return self._from({place: part % PRIME for place, part in parts.items()})

    def _recovered(self, of: tuple[str, int]) -> int | None:
        return self._from({self.round.sites.index(site): share for site, share in self._shares.get(of, {}).items()})

    def _from(self, parts: dict[int, int]) -> int | None:
        if len(parts) < self.round.opening.threshold:
            return None
        (secret,) = recover({place: [part] for place, part in parts.items()})
        return secret


@contextmanager
def fixed_draws(label: str) -> Iterator[None]:
    """Every secret is the same in every process."""
    numbers = itertools.count()

    def draw() -> int:
        return int.from_bytes(hashlib.sha256(f"{label} {next(numbers)}".encode()).digest(), "big") % PRIME

    class Key:
        from_private_bytes = X25519PrivateKey.from_private_bytes

        @staticmethod
        def generate() -> X25519PrivateKey:
            return X25519PrivateKey.from_private_bytes(hashlib.sha256(f"{label} key {draw()}".encode()).digest())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "draw", draw)
        patch.setattr(masking, "X25519PrivateKey", Key)
        yield


def frozen() -> dict[str, Any]:
    """Every byte of an opening of four sites: a round of 32 bits that one misses, a round of 64 bits that all mask."""
    with fixed_draws("golden"):
        one = Round.open(4, 3, range(3, 5))
        made: dict[str, Any] = {
            "epoch": one.opening.epoch,
            "roster": dict(one.opening.roster),
            "deals": {site: deal.hex() for site, deal in one.deals.items()},
            "rounds": [],
        }
        for bits, silent in ((32, 0), (64, 1)):
            active = names(4)[: 3 if bits == 32 else 4]
            one.mask({site: np.array([1, -2, 3 * at, 2**28, -7], np.int64) for at, site in enumerate(active)}, bits)
            set_ = digests(active)
            reveals = {site: one.maskings[site].reveal(one.index, set_) for site in active[silent:]}
            total, tag = one.total(set_, reveals)
            uploads = {site: [each["sum"].tolist(), int(each["tag"][0])] for site, each in one.uploads.items()}
            made["rounds"].append({
                "index": one.index,
                "bound": one.opening.bound(one.index, set_),
                "uploads": uploads,
                "reveals": {site: message.hex() for site, message in reveals.items()},
                "total": total.tolist(),
                "tag": tag,
            })  # fmt: skip
            one.index += 1
        return made


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(frozen(), indent=1) + "\n", "utf-8")
