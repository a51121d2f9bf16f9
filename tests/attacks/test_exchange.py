"""A coordinator, or somebody on the way, that sends an agent what it must not answer.

Every refusal leaves as no bytes, stands with its code in the site's private log, and costs no patient anything; after
all of them the honest request is answered. Outsiders at the link's doors: test_link.py.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_client.agent.exchange import MAX_CLOCK_S, Exchange
from genopact_server.rounds import Run
from genopact_shared import canonical, durable, statements, wire
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey, VerifyKey
from genopact_shared.study import Study
from genopact_shared.wire import Reply, Request
from tests.integration.hospital import Consortium, DirectCourier, consortium, study_of

TARGET = "site-b"
ROUND = 2


class Stopping(DirectCourier):
    """Delivers everything before the step of one round, whose frames it keeps to itself."""

    kept: dict[str, bytes]

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        asked = canonical.decode(payload(next(iter(requests.values()))))
        if (asked["op"], asked["round"]) == ("step", ROUND):
            self.kept = dict(requests)
            raise KeyboardInterrupt
        return super().exchange(requests, deadline)


def payload(frame: bytes) -> bytes:
    """The signed bytes of a frame, unverified."""
    return base64.b64decode(canonical.decode(wire.split(frame)[0])["payload"])


@dataclass
class Siege:
    """A run that stands before the step of ROUND, and what an attacker has seen of it."""

    one: Consortium
    run: Run
    courier: Stopping

    @property
    def coordinator(self) -> SigningKey:
        return self.one.folder.identity

    @property
    def next_frame(self) -> bytes:
        """The honest request that the target has not received yet."""
        return self.courier.kept[TARGET]

    @property
    def identities(self) -> list[VerifyKey]:
        return [each.site.identity.public for each in self.one.hospitals.values()]

    @property
    def model_and_total(self) -> tuple[bytes, bytes]:
        """The two parts of the honest request's body."""
        request, body = wire.unseal(Request, self.next_frame, self.coordinator.public)
        return body[: -request.total_size], body[-request.total_size :]

    def lie(self, total: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
        """The next request with another total, the model that follows from it, and a signed aggregate of both."""
        last = statements.parse(str(self.run.state.aggregate).encode(), [self.coordinator.public])
        assert isinstance(last, statements.Aggregate)
        before = wire.unpack((self.run.path / f"model-{last.round:04d}.safetensors").read_bytes(), np.float64)
        model = wire.pack(self.run.plan.advance(last.round, before, total["sum"], last.sites)[1])
        claim = {"total": canonical.digest(wire.pack(total)), "model_out": canonical.digest(model)}
        signed = statements.sign(last.model_copy(update=claim), self.coordinator).decode()
        body = wire.pack(total)
        return self.forge(self.next_frame, model + body, aggregate=signed, total_size=len(body))

    def sent(self, op: str, round_: int, site: str = TARGET) -> tuple[bytes, bytes]:
        """A request that a site has answered, and its reply."""
        for name, request, reply in self.courier.carried:
            about = canonical.decode(payload(request))
            if (name, about["op"], about["round"]) == (site, op, round_):
                return request, reply
        raise LookupError(op)

    def forge(self, frame: bytes, body: bytes | None = None, key: SigningKey | None = None, **changes: Any) -> bytes:
        """The request of a frame with other fields, another nonce and perhaps another body, signed again."""
        request = wire.parse_envelope(Request, wire.split(frame)[0], self.coordinator.public)
        body = wire.split(frame)[1] if body is None else body
        about = {"nonce": "f" * 32, "body": canonical.digest(body), "body_size": len(body)}
        return wire.seal(request.model_copy(update=about | changes), body, key or self.coordinator)

    def seat(self, of: str, key: SigningKey, **changes: Any) -> str:
        """A site's reply to `open` with other fields, signed with a key of the attacker's choice."""
        _, reply = self.sent("open", 0, of)
        identity = self.one.hospitals[of].site.identity.public
        seat, _ = wire.unseal(Reply, reply, identity)
        return wire.split(wire.seal(seat.model_copy(update=changes), b"", key))[0].decode()

    def refuses(self, frame: bytes, code: str, exchange: Exchange | None = None) -> None:
        """No bytes, one entry in the private log, and nothing else anywhere."""
        site = self.one.hospitals[TARGET].site
        before = self._books()
        entries = site.private_log.size
        assert (exchange or self.one.exchange(TARGET))(frame) == b""
        assert site.private_log.size == entries + 1
        refusal = statements.parse(site.private_log.entry(entries), [site.identity.public])
        assert isinstance(refusal, statements.Refusal)
        assert (refusal.reasons, refusal.request) == ((code,), canonical.digest(frame))
        assert self._books() == before, "a refusal has charged, logged or stored something"

    def _books(self) -> tuple[str, int, tuple[str, ...], tuple[bytes, ...]]:
        site = self.one.hospitals[TARGET].site
        records = tuple(path.read_bytes() for path in sorted((site.home / "runs").glob("*.json")))
        return site.ledger.head, site.log.size, tuple(sorted(name for name, _ in site.outbox)), records


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    one = consortium(tmp_path_factory.mktemp("siege"), sites=4, schedule={"quorum": 3, "deadline_s": 20})
    courier = Stopping(one.courier.sites)
    run = Run.start(one.folder, one.study, courier, one.events.append)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    yield Siege(one, run, courier)
    one.close()


@pytest.fixture(autouse=True)
def mask_key_survives(siege: Siege) -> Iterator[None]:
    """What a test does to the agent's memory is undone."""
    keys = siege.one.exchange(TARGET)._masks._held
    before = dict(keys)
    yield
    keys.clear()
    keys.update(before)


# --- who asks, and for whom


def test_only_the_studys_coordinator_is_answered(siege: Siege) -> None:
    siege.refuses(siege.forge(siege.next_frame, key=SigningKey.generate()), "SIGNATURE_INVALID")
    siege.refuses(siege.forge(siege.next_frame, key=siege.one.hospitals["site-a"].site.identity), "SIGNATURE_INVALID")
    reply = siege.sent("step", 1)[1]
    siege.refuses(reply, "ENVELOPE_INVALID")


def test_a_request_for_another_site_is_not_answered(siege: Siege) -> None:
    siege.refuses(siege.courier.kept["site-a"], "FRAME_INVALID")
    siege.refuses(siege.forge(siege.next_frame, site="site-a"), "FRAME_INVALID")


@pytest.mark.parametrize("cut", [0, 3, 8, 100, -1])
def test_a_frame_that_is_cut_or_changed_is_not_answered(siege: Siege, cut: int) -> None:
    siege.refuses(siege.next_frame[:cut], "FRAME_INVALID")


def test_a_body_that_was_not_signed_is_not_answered(siege: Siege) -> None:
    body = wire.split(siege.next_frame)[1]
    start = siege.next_frame[: -len(body)]
    siege.refuses(start + body[:-1] + bytes([body[-1] ^ 1]), "FRAME_INVALID")
    siege.refuses(start + siege.sent("step", 1)[0][-len(body) :], "FRAME_INVALID")


def test_a_request_is_answered_in_its_time_only(siege: Siege) -> None:
    clock = 1_900_000_000.0
    site = siege.one.hospitals[TARGET].site
    late = Exchange(site, lambda: clock)
    late._masks = siege.one.exchange(TARGET)._masks
    siege.refuses(siege.forge(siege.next_frame, expires=int(clock) - 1), "REQUEST_EXPIRED", late)
    siege.refuses(siege.forge(siege.next_frame, expires=int(clock) + MAX_CLOCK_S + 1), "FRAME_INVALID", late)
    ended = Exchange(site, lambda: 2_600_000_000.0)
    siege.refuses(siege.forge(siege.next_frame, expires=2_600_000_010), "STUDY_EXPIRED", ended)


# --- the same again


def test_the_same_frame_again_is_answered_with_the_stored_bytes(siege: Siege) -> None:
    books = siege._books()
    for exchange in (siege.one.exchange(TARGET), Exchange(siege.one.hospitals[TARGET].site)):
        for op, round_ in (("open", 0), ("step", 0), ("step", 1)):
            request, reply = siege.sent(op, round_)
            assert exchange(request) == reply
    assert siege._books() == books


@pytest.mark.parametrize("round_", range(ROUND))
def test_a_position_is_answered_once_whatever_the_nonce(siege: Siege, round_: int) -> None:
    request, _ = siege.sent("step", round_)
    siege.refuses(siege.forge(request), "REQUEST_REPLAYED")
    siege.refuses(siege.forge(request, nonce="0" * 32), "REQUEST_REPLAYED", Exchange(siege.one.hospitals[TARGET].site))


@pytest.mark.parametrize("round_", [1, ROUND])
def test_a_request_has_one_spelling(siege: Siege, round_: int) -> None:
    """The key id beside a signature is signed by nobody: changing it must not make another request of it."""
    envelope, body = wire.split(siege.next_frame if round_ == ROUND else siege.sent("step", round_)[0])
    outer = canonical.decode(envelope)
    for changed in ({"keyid": "0" * 16}, {"note": "x"}):
        respelt = canonical.encode(outer | {"signatures": [outer["signatures"][0] | changed]})
        siege.refuses(wire.MAGIC + len(respelt).to_bytes(4, "big") + respelt + body, "ENVELOPE_INVALID")


def test_an_old_position_cannot_be_opened_again_to_change_the_mask_key(siege: Siege) -> None:
    request, _ = siege.sent("open", 0)
    before = dict(siege.one.exchange(TARGET)._masks._held)
    for round_ in range(ROUND):
        siege.refuses(siege.forge(request, round=round_), "REQUEST_REPLAYED")
    assert siege.one.exchange(TARGET)._masks._held == before


# --- the study and its approval


def test_a_study_that_the_site_has_not_approved_does_not_exist(siege: Siege) -> None:
    siege.refuses(siege.forge(siege.next_frame, study="0" * 64), "STUDY_NOT_APPROVED")
    for study in others(siege):
        assert study.name == siege.one.study.name
        assert study.hash != siege.one.study.hash
        siege.refuses(siege.forge(siege.sent("open", 0)[0], study=study.hash, run="e" * 32), "STUDY_NOT_APPROVED")


def others(siege: Siege) -> list[Study]:
    """Studies of the same name and parties: a larger epsilon, a wider purpose, another recipe setting."""
    parties = [each.party for each in siege.one.hospitals.values()]
    body = siege.one.study.model_dump(mode="json", by_alias=True)
    wider: list[dict[str, Any]] = [
        {"privacy": body["privacy"] | {"epsilon_milli": 5000}},
        {"purpose": body["purpose"] | {"commercial": True}},
        {"recipe": body["recipe"] | {"parameters": {"clip_milli": 9000}}},
    ]
    same = {"schedule": body["schedule"]}
    return [study_of(siege.one.folder, parties, **{**same, **change}) for change in wider]


def test_an_approval_cannot_be_moved_to_another_study(siege: Siege) -> None:
    """Not by the coordinator, and not by somebody who writes the site's files but lacks the approver's key."""
    studies = siege.one.hospitals[TARGET].site.studies
    for study in others(siege):
        moved = studies.approved(siege.one.study.hash).envelope
        with pytest.raises(GenopactError, match="APPROVAL_INVALID"):
            siege.one.folder.accept(study, moved)
        with pytest.raises(GenopactError, match="APPROVAL_INVALID"):
            studies.approve(study, moved)
        folder = siege.one.hospitals[TARGET].site.home / "studies" / study.hash
        folder.mkdir()
        durable.replace(folder / "study.json", study.canonical)
        durable.replace(folder / "approval.json", moved)
        siege.refuses(siege.forge(siege.sent("open", 0)[0], study=study.hash, run="e" * 32), "APPROVAL_INVALID")


@pytest.mark.parametrize("change", [(b'"epsilon_milli":1000', b'"epsilon_milli":5000'), (b'"HMB"', b'"GRU"')])
def test_the_sites_stored_study_cannot_be_changed(siege: Siege, change: tuple[bytes, bytes]) -> None:
    path = siege.one.hospitals[TARGET].site.home / "studies" / siege.one.study.hash / "study.json"
    good = path.read_bytes()
    assert good.replace(*change) != good
    try:
        path.write_bytes(good.replace(*change))
        siege.refuses(siege.next_frame, "APPROVAL_INVALID")
    finally:
        path.write_bytes(good)


def test_an_open_needs_this_sites_approval_and_valid_ones_of_the_others(siege: Siege) -> None:
    request, _ = siege.sent("open", 0)
    approvals = tuple(each.decode() for each in siege.one.folder.approvals(siege.one.study).values())
    own = next(text for text in approvals if statement(text).site == TARGET)
    stranger = statements.sign(statement(own).model_copy(update={"site": "site-a"}), SigningKey.generate()).decode()
    elsewhere = siege.one.hospitals["site-a"]
    other = statements.sign(statement(own).model_copy(update={"study": "1" * 64}), elsewhere.approver).decode()
    widened = statements.sign(statement(own).model_copy(update={"planned_cohort": 9000}), elsewhere.approver).decode()
    for run, (given, code) in enumerate(
        [
            (tuple(text for text in approvals if text != own), "APPROVAL_INVALID"),
            ((own, stranger), "SIGNATURE_INVALID"),
            ((*approvals, other), "APPROVAL_INVALID"),
            ((*approvals, widened), "SIGNATURE_INVALID"),
            ((*approvals, own), "APPROVAL_INVALID"),
            ((own,), "ROSTER_INVALID"),
        ]
    ):
        siege.refuses(siege.forge(request, run=f"{run:032x}", approvals=given), code)
    siege.refuses(siege.forge(request, round=ROUND, approvals=approvals[:-1]), "RUN_CHANGED")


def statement(text: str) -> statements.Approval:
    claimed = canonical.decode(base64.b64decode(canonical.decode(text.encode())["payload"]))
    return statements.Approval.model_validate(claimed["predicate"])


def test_a_policy_that_was_narrowed_after_the_approval_ends_new_attempts(siege: Siege) -> None:
    path = siege.one.hospitals[TARGET].site.home / "policy.yaml"
    good = path.read_text()
    request = siege.forge(siege.sent("open", 0)[0], round=ROUND)
    try:
        path.write_text(good.replace("max_epsilon_milli: 5000", "max_epsilon_milli: 500"))
        siege.refuses(request, "POLICY_REFUSED")
    finally:
        path.write_text(good)


# --- the model


def test_the_model_is_what_the_last_aggregate_says(siege: Siege) -> None:
    model, total = siege.model_and_total
    moved = wire.pack({name: tensor + 0.5 for name, tensor in wire.unpack(model, np.float64).items()})
    siege.refuses(siege.forge(siege.next_frame, moved + total), "MODEL_NOT_LINKED")
    siege.refuses(siege.forge(siege.next_frame, model, total_size=0), "MODEL_NOT_LINKED")
    siege.refuses(siege.forge(siege.next_frame, total_size=len(model + total) + 1), "FRAME_INVALID")
    siege.refuses(siege.forge(siege.next_frame, aggregate=None), "CANONICAL_INVALID")
    before = wire.parse_envelope(Request, wire.split(siege.sent("step", 1)[0])[0], siege.coordinator.public)
    siege.refuses(siege.forge(siege.next_frame, aggregate=before.aggregate), "MODEL_NOT_LINKED")
    siege.refuses(siege.forge(siege.next_frame, round=ROUND + 1), "MODEL_NOT_LINKED")
    siege.refuses(siege.forge(siege.next_frame, round=99), "FRAME_INVALID")
    siege.refuses(siege.forge(siege.next_frame, op="finish"), "FRAME_INVALID")


def test_an_aggregate_is_one_of_this_run_with_this_sites_update_from_the_model_it_saw(siege: Siege) -> None:
    last = statements.parse(str(siege.run.state.aggregate).encode(), [siege.coordinator.public])
    assert isinstance(last, statements.Aggregate)
    own = canonical.digest(wire.split(siege.sent("step", ROUND - 1)[1])[1])
    lies: list[dict[str, Any]] = [
        {"run": "e" * 32},
        {"round": ROUND},
        {"study": "1" * 64},
        {"model_in": "2" * 64},
        {"total": "3" * 64},
    ]
    for lie in lies:
        signed = statements.sign(last.model_copy(update=lie), siege.coordinator).decode()
        siege.refuses(siege.forge(siege.next_frame, aggregate=signed), "MODEL_NOT_LINKED")
    kept = [(site, each) for site, each in zip(last.sites, last.receipts, strict=True) if each != own]
    without = {"sites": tuple(site for site, _ in kept), "receipts": tuple(each for _, each in kept)}
    for lie in (without, {"receipts": (*last.receipts[:-1], "4" * 64)}):
        signed = statements.sign(last.model_copy(update=lie), siege.coordinator).decode()
        siege.refuses(siege.forge(siege.next_frame, aggregate=signed), "TOTAL_FORGED")
    foreign = statements.sign(last, SigningKey.generate()).decode()
    siege.refuses(siege.forge(siege.next_frame, aggregate=foreign), "SIGNATURE_INVALID")


@pytest.mark.parametrize("change", ["shifted", "doubled", "forged tag"])
def test_a_coordinator_that_colludes_with_no_site_cannot_return_a_wrong_sum(siege: Siege, change: str) -> None:
    """It signs what it likes, and computes the model that would follow: the tag of the total gives it away."""
    found = wire.unpack(siege.model_and_total[1], np.int64, tag=np.uint64)
    if change == "shifted":
        found["sum"][0] += 1
    elif change == "doubled":
        found = {name: 2 * tensor for name, tensor in found.items()}
    else:
        found["tag"] ^= np.uint64(1)
    siege.refuses(siege.lie(found), "TOTAL_FORGED")


def test_a_site_that_was_not_asked_to_open_checks_the_total_too(tmp_path: Path) -> None:
    """A quorum suffices to open: the coordinator must not show the others another total."""
    one = consortium(tmp_path, sites=4, schedule={"quorum": 3, "deadline_s": 20})

    class Sparing(Stopping):
        def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
            if canonical.decode(payload(next(iter(requests.values()))))["op"] == "unmask":
                requests = {site: frame for site, frame in requests.items() if site != TARGET}
            return super().exchange(requests, deadline)

    courier = Sparing(one.courier.sites)
    run = Run.start(one.folder, one.study, courier, one.events.append)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    siege = Siege(one, run, courier)
    found = wire.unpack(siege.model_and_total[1], np.int64, tag=np.uint64)
    found["sum"][0] += 1
    siege.refuses(siege.lie(found), "TOTAL_FORGED")
    last = statements.parse(str(run.state.aggregate).encode(), [siege.coordinator.public])
    assert isinstance(last, statements.Aggregate)
    own = last.sites.index(TARGET)
    another = {"receipts": tuple("4" * 64 if n == own else each for n, each in enumerate(last.receipts))}
    signed = statements.sign(last.model_copy(update=another), siege.coordinator).decode()
    siege.refuses(siege.forge(siege.next_frame, aggregate=signed), "TOTAL_FORGED")
    assert one.exchange(TARGET)(siege.next_frame) != b""
    one.close()


def test_a_planted_model_is_refused_although_the_coordinator_signs_it(siege: Siege) -> None:
    """Each site makes the next model itself, of the total and the model that it saw."""
    model, total = siege.model_and_total
    planted = wire.pack({name: np.full_like(each, 9.0) for name, each in wire.unpack(model, np.float64).items()})
    last = statements.parse(str(siege.run.state.aggregate).encode(), [siege.coordinator.public])
    lie = last.model_copy(update={"model_out": canonical.digest(planted)})
    signed = statements.sign(lie, siege.coordinator).decode()
    siege.refuses(siege.forge(siege.next_frame, planted + total, aggregate=signed), "MODEL_NOT_LINKED")


def test_a_later_attempt_is_at_the_same_model(siege: Siege) -> None:
    """The model of a round is checked once; another one under a signed aggregate comes too late."""
    site = siege.one.hospitals[TARGET].site
    runs = siege.one.exchange(TARGET)._runs
    record = runs.get(siege.run.state.run)
    assert record is not None
    model, total = siege.model_and_total
    seen = {"round": ROUND, "attempt": 0, "model_in": canonical.digest(model)}
    planted = wire.pack({name: np.full_like(each, 9.0) for name, each in wire.unpack(model, np.float64).items()})
    last = statements.parse(str(siege.run.state.aggregate).encode(), [siege.coordinator.public])
    signed = statements.sign(last.model_copy(update={"model_out": canonical.digest(planted)}), siege.coordinator)
    try:
        runs.put(record.model_copy(update=seen))
        lie = siege.forge(siege.next_frame, planted + total, aggregate=signed.decode(), attempt=1)
        siege.refuses(lie, "MODEL_NOT_LINKED")
        assert site.ledger.spent(0)
    finally:
        runs.put(record)


def test_masks_are_opened_once_for_one_set_with_this_sites_own_upload(siege: Siege) -> None:
    request, _ = siege.sent("unmask", ROUND - 1)
    uploads = wire.cut(wire.split(request)[1])
    site = siege.one.hospitals[TARGET].site
    own = next(each for each in uploads if wire.parse_envelope(Reply, each, *siege.identities).site == TARGET)
    fewer = wire.join(each for each in uploads if each != own)
    for body, code in (
        (wire.join(uploads[:3]), "UNMASK_REFUSED"),  # another set, after the first was opened
        (wire.join(uploads), "UNMASK_REFUSED"),  # the same set again
        (fewer, "UNMASK_REFUSED"),  # a false drop of this site, whose upload is held
        (wire.join([*uploads, own]), "UNMASK_REFUSED"),
        (wire.join([]), "UNMASK_REFUSED"),
        (b"\0\0\1", "FRAME_INVALID"),
    ):
        siege.refuses(siege.forge(request, body), code)
    siege.refuses(siege.forge(request), "MASK_KEY_LOST", Exchange(site))
    siege.refuses(siege.forge(request, round=ROUND - 2), "UNMASK_REFUSED")
    siege.refuses(siege.forge(request, attempt=1), "UNMASK_REFUSED")


def test_the_first_model_is_rebuilt_and_compared(siege: Siege) -> None:
    """A run that starts from a model of the coordinator's choice gets nothing."""
    request, _ = siege.sent("open", 0)
    assert siege.one.exchange(TARGET)(siege.forge(request, run="d" * 32)) != b"", "a new run may be opened"
    first = siege.forge(siege.sent("step", 0)[0], run="d" * 32)
    chosen = wire.pack({"coefficients": np.full(13, 9.0), "metrics": np.zeros(17)})
    siege.refuses(siege.forge(first, chosen), "MODEL_NOT_LINKED")
    siege.refuses(siege.forge(first, total_size=1), "MODEL_NOT_LINKED")
    siege.refuses(siege.forge(first, run="c" * 32), "RUN_UNKNOWN")


# --- the roster


def test_every_seat_is_signed_by_its_own_site_for_this_run(siege: Siege) -> None:
    seats = [siege.seat(name, each.site.identity) for name, each in siege.one.hospitals.items()]
    own, identity = seats[1], siege.one.hospitals["site-a"].site.identity
    rosters: list[tuple[list[str], str]] = [
        ([*seats, siege.seat("site-a", SigningKey.generate(), site="outsider")], "SIGNATURE_INVALID"),
        ([*seats, siege.seat("site-a", identity, site="site-c")], "SIGNATURE_INVALID"),
        ([*seats[1:], siege.seat("site-a", SigningKey.generate(), mask_key="9" * 64)], "SIGNATURE_INVALID"),
        ([*seats[1:], siege.seat("site-a", identity, run="e" * 32)], "ROSTER_INVALID"),
        ([*seats[1:], siege.seat("site-a", identity, op="step")], "ROSTER_INVALID"),
        ([*seats[1:], siege.seat("site-a", identity, round=1)], "ROSTER_INVALID"),
        ([*seats[1:], siege.seat("site-a", identity, mask_key=None)], "ROSTER_INVALID"),
        ([*seats, seats[0]], "ROSTER_INVALID"),
        ([own], "ROSTER_INVALID"),
        (seats[:2], "ROSTER_INVALID"),
        ([], "ROSTER_INVALID"),
    ]
    for given, code in rosters:
        siege.refuses(siege.forge(siege.sent("deal", 0)[0], round=ROUND, seats=tuple(given)), code)


def test_a_seat_with_another_key_of_this_site_unmasks_nothing(siege: Siege) -> None:
    """Only the key of the last `open` is used, and it has to be the one that the others see."""
    site = siege.one.hospitals[TARGET].site
    others = [siege.seat(name, each.site.identity) for name, each in siege.one.hospitals.items() if name != TARGET]
    deal = siege.forge(siege.sent("deal", 0)[0], round=ROUND)
    siege.refuses(siege.forge(deal, seats=tuple(others)), "MASK_KEY_LOST")
    replaced = siege.seat(TARGET, site.identity, mask_key="9" * 64)
    siege.refuses(siege.forge(deal, seats=(*others, replaced)), "MASK_KEY_LOST")
    siege.refuses(deal, "MASK_KEY_LOST")  # a second deal of the same opening
    siege.refuses(siege.forge(siege.sent("join", 0)[0], round=ROUND), "ROSTER_INVALID")
    assert siege.one.exchange(TARGET)(siege.forge(siege.sent("open", 0)[0], round=ROUND)) != b""
    siege.refuses(siege.next_frame, "MASK_KEY_LOST")
    siege.refuses(siege.next_frame, "MASK_KEY_LOST", Exchange(site))


def test_after_all_this_the_honest_request_is_answered_and_charged_once(siege: Siege) -> None:
    site = siege.one.hospitals[TARGET].site
    before = len(site.ledger.spent(0))
    reply, body = wire.unseal(Reply, siege.one.exchange(TARGET)(siege.next_frame), site.identity.public)
    assert (reply.op, reply.round) == ("step", ROUND)
    assert wire.unpack(body, np.uint32, tag=np.uint64)["sum"].any()
    assert len(site.ledger.spent(0)) == before + 1 == ROUND + 1
