"""The masks of this site's runs: in memory only, so that a restart forgets them and nothing can be asked of them twice.

What `deal` and `reveal` give is made of random secrets alone, never of patients' data. See docs/masking.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genopact_client.agent.runs import RunRecord
from genopact_client.release.kernel import Mask
from genopact_shared import canonical, statements, wire
from genopact_shared.errors import GenopactError, require
from genopact_shared.keys import VerifyKey
from genopact_shared.plan import Plan
from genopact_shared.secagg.masking import Masked, Masking
from genopact_shared.study import Study


@dataclass
class Upload:
    """The last upload of a run. `active`: site -> digest, of the set whose total this site helped to open."""

    masking: Masking
    position: tuple[int, int]
    active: dict[str, str] | None = None


class Masks:
    """The newest opening of each run at site `own`."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._held: dict[str, Masking] = {}
        self._uploads: dict[str, Upload] = {}

    def open(self, run: str) -> str:
        """A fresh mask key. What the one before could still open is gone; what it was asked for last can be checked."""
        self._held[run] = Masking()
        return self._held[run].public

    def check_seat(self, run: str, seats: Mapping[str, wire.Reply]) -> None:
        """Raise MASK_KEY_LOST unless this site's seat has the key that it holds."""
        held, seat = self._held.get(run), seats.get(self._own)
        require(held is not None and seat is not None and seat.mask_key == held.public, "MASK_KEY_LOST")

    def deal(self, study: Study, plan: Plan, seats: Mapping[str, wire.Reply]) -> bytes:
        """This site's deal to the roster. Raises MASK_KEY_LOST, ROSTER_INVALID."""
        opening, run = plan.opening(study, seats), next(iter(seats.values())).run
        self.check_seat(run, seats)
        return self._held[run].deal(self._own, opening)

    def join(self, request: wire.Request, study: Study, body: bytes) -> None:
        """Take everybody's deal. Raises MASK_KEY_LOST, ROSTER_INVALID, DEAL_INVALID."""
        deals: dict[str, bytes] = {}
        for frame in wire.cut(body):
            envelope, deal = wire.split(frame)
            reply = signed(envelope, study, request, "deal")
            if reply.site in deals or (reply.body, reply.body_size) != (canonical.digest(deal), len(deal)):
                raise GenopactError("DEAL_INVALID")
            deals[reply.site] = deal
        self._of(request).join(deals)

    def mask(self, request: wire.Request) -> Mask:
        """The mask of this round's integers. Raises MASK_KEY_LOST, so that nothing is drawn or charged."""
        masking = self._of(request)
        masking.check_ready(request.round)

        def mask(values: NDArray[np.int64], bits: int) -> Masked:
            self._uploads[request.run] = Upload(masking, (request.round, request.attempt))
            return masking.mask(request.round, values, bits)

        return mask

    def reveal(self, request: wire.Request, study: Study, plan: Plan, record: RunRecord, body: bytes) -> bytes:
        """What opens the total over the uploads whose envelopes are in the body.

        They are of this round and attempt, by sites of the roster that were shown the model that this site saw, and
        its own is among them. Raises UNMASK_REFUSED, MASK_KEY_LOST.
        """
        masking, active = self._of(request), dict[str, str]()
        for envelope in wire.cut(body):
            reply = signed(envelope, study, request, "step")
            intent = statements.parse((reply.intent or "").encode(), [_identity(study, reply.site)])
            stated = (intent.model_in, intent.mechanism) if isinstance(intent, statements.Intent) else None
            if reply.site in active or stated != (record.model_in, plan.steps[request.round].fact):
                raise GenopactError("UNMASK_REFUSED", "not one upload a site, of the same step at the same model")
            active[reply.site] = reply.body
        if record.reply is None or active.get(self._own) != record.reply:
            raise GenopactError("UNMASK_REFUSED", "not this site's upload")
        message = masking.reveal(request.round, active)
        self._uploads[request.run].active = active
        return message

    def check_total(self, last: statements.Aggregate, record: RunRecord, body: bytes) -> None:
        """Raise TOTAL_FORGED unless a total is that of the uploads that the aggregate names.

        If this site helped to open it, of just these; if it uploaded only, its own is named or the site is not. A site
        that uploaded nothing in that attempt, or was started again since, cannot tell.
        """
        seen, named = self._uploads.get(last.run), dict(zip(last.sites, last.receipts, strict=False))
        if seen is None or seen.position != (last.round, last.attempt):
            return
        expected = named | ({self._own: record.reply} if self._own in named else {})
        if named != (expected if seen.active is None else seen.active) or len(last.sites) != len(last.receipts):
            raise GenopactError("TOTAL_FORGED", "of another set of sites")
        found = wire.unpack(body, np.int64, tag=np.uint64)
        require(set(found) == {"sum", "tag"} and found["tag"].shape == (1,), "TOTAL_FORGED", "no sum and tag")
        seen.masking.check_total(last.round, found["sum"], int(found["tag"][0]), named)

    def _of(self, request: wire.Request) -> Masking:
        if (held := self._held.get(request.run)) is None or not held.dealt:
            raise GenopactError("MASK_KEY_LOST")
        return held


def seats_of(request: wire.Request, study: Study, plan: Plan) -> dict[str, wire.Reply]:
    """Site -> its reply to `open`, signed by that site for this run; at least a quorum. Raises ROSTER_INVALID."""
    seats: dict[str, wire.Reply] = {}
    for envelope in request.seats:
        seat = signed(envelope.encode(), study, request, "open")
        require(seat.mask_key is not None and seat.site not in seats and seat.site in plan.planned, "ROSTER_INVALID")
        seats[seat.site] = seat
    require(len(seats) >= study.schedule.quorum, "ROSTER_INVALID", "fewer seats than the quorum")
    return seats


def signed(envelope: bytes, study: Study, request: wire.Request, op: wire.Op) -> wire.Reply:
    """A reply that its site signed: to `op`, in this run; to anything but `open` at this very position.

    Raises:
        GenopactError: ROSTER_INVALID, and those of `wire.parse_envelope`.
    """
    reply = wire.parse_envelope(wire.Reply, envelope, *(_identity(study, party.name) for party in study.parties))
    wire.parse_envelope(wire.Reply, envelope, _identity(study, reply.site))
    moved = op != "open" and (reply.round, reply.attempt) != (request.round, request.attempt)
    if moved or (reply.op, reply.study, reply.run) != (op, request.study, request.run):
        raise GenopactError("ROSTER_INVALID", "a reply from elsewhere")
    return reply


def _identity(study: Study, site: str) -> VerifyKey:
    return VerifyKey.from_hex(study.party(site).identity)
