"""The round loop: open, one exchange a release, a checkpoint after each, resume after a kill.

A run's state is durable before anything is sent, and the very frames of an attempt are kept until it has ended, so a
restarted loop asks the same questions again and the sites answer with the bytes they have stored: no second charge.
"""

import json
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from genopact_server.aggregate import check_update, combine, opened_total, shares
from genopact_server.folder import Folder
from genopact_server.sitelogs import Proof, log_origin
from genopact_server.statements import Charge, Release, RunOpened, StudyRegistered
from genopact_shared import canonical, durable, statements, wire
from genopact_shared.approval import check_approval
from genopact_shared.errors import GenopactError, require, suppressing
from genopact_shared.keys import VerifyKey
from genopact_shared.plan import Plan, plan_of
from genopact_shared.privacy import accounting
from genopact_shared.recipes.protocol import Model
from genopact_shared.statements import Digest, RunId
from genopact_shared.study import Frozen, Study, read
from genopact_shared.tlog.note import open_checkpoint
from genopact_shared.wire import Op, Reply, Request

Answers = dict[str, tuple[Reply, bytes, bytes]]
"""Site -> reply, its envelope, its body."""
Events = Callable[[dict[str, Any]], None]


class Courier(Protocol):
    """Carries frames to sites and theirs back; a site that does not answer in time is absent from the result."""

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        """Site -> frame in both directions; `deadline` in seconds from now."""
        ...


class RunState(Frozen):
    """Where a run stands. `attempt` is the next one of `round`, or the one whose frames are pending.

    `asked`: the planned step of every attempt at a release, used or void: what a patient has paid at most.
    """

    study: Digest
    run: RunId
    approvals: dict[str, str]
    round: int = 0
    attempt: int = 0
    model: Digest
    aggregate: str | None = None
    seats: dict[str, str] = Field(default_factory=dict)
    asked: tuple[int, ...] = ()
    stage: Literal["training", "finishing", "done"] = "training"


def read_state(path: Path) -> RunState:
    """Where the run in that folder stands. Raises RUN_UNKNOWN, RUN_STATE_BROKEN."""
    return read(RunState, durable.read(path / "state.json", "RUN_UNKNOWN"), "RUN_STATE_BROKEN", f"{path}: ")


class Run:
    """One run of one study in a coordinator's folder."""

    def __init__(self, folder: Folder, state: RunState, courier: Courier, watch: Events | None = None) -> None:
        self.path = folder.home / "runs" / state.run
        self.study: Study = folder.study(state.study)
        self._folder, self.state, self._courier, self._watch = folder, state, courier, watch
        approvals = [check_approval(text.encode(), self.study) for text in state.approvals.values()]
        planned = {each.site: each.planned_cohort for each in approvals}
        self.plan: Plan = plan_of(self.study, planned, folder.published)
        self._identities = {party.name: VerifyKey.from_hex(party.identity) for party in self.study.parties}

    @classmethod
    def start(cls, folder: Folder, study: Study, courier: Courier, watch: Events | None = None) -> "Run":
        """A new run with the sites that have approved. Raises QUORUM_LOST if they are too few."""
        approvals = folder.approvals(study)
        if len(approvals) < study.schedule.quorum:
            raise GenopactError("QUORUM_LOST", f"{len(approvals)} approvals, {study.schedule.quorum} needed")
        texts = {site: envelope.decode() for site, envelope in approvals.items()}
        state = RunState(study=study.hash, run=secrets.token_hex(16), approvals=texts, model="0" * 64)
        run = cls(folder, state, courier, watch)
        (run.path / "pending").mkdir(mode=0o700, parents=True)
        (run.path / "sites").mkdir(mode=0o700)
        run._note(StudyRegistered(at=_now(), study=study.hash, text=canonical.digest(study.canonical)))
        for envelope in approvals.values():
            folder.log.append(envelope)
        digests = tuple(canonical.digest(envelope) for envelope in approvals.values())
        run._note(RunOpened(at=_now(), study=study.hash, run=state.run, sites=tuple(approvals), approvals=digests))
        run._save(model=run._keep_model(0, run.plan.course.initial()))
        return run

    @classmethod
    def resume(cls, folder: Folder, run: str, courier: Courier, watch: Events | None = None) -> "Run":
        """The run of that identity, where it stands. Raises RUN_UNKNOWN, RUN_STATE_BROKEN."""
        resumed = cls(folder, read_state(folder.home / "runs" / run), courier, watch)
        resumed.model()
        return resumed

    def model(self) -> Model:
        """The current model. Raises RUN_STATE_BROKEN if the file is not the one that was aggregated."""
        body = (self.path / f"model-{self.state.round:04d}.safetensors").read_bytes()
        require(canonical.digest(body) == self.state.model, "RUN_STATE_BROKEN", "the model file was changed")
        return wire.unpack(body, np.float64)

    def go(self, until: int | None = None) -> Model:
        """Carry the run to its end, or to round `until`; calling it again later goes on. Raises QUORUM_LOST."""
        while self.state.stage == "training":
            if until is not None and self.state.round >= until:
                self._events({"event": "paused", "round": self.state.round})
                return self.model()
            if self.state.round == len(self.plan.steps):
                self._save(stage="finishing", attempt=0)
            else:
                self._round()
        if self.state.stage == "finishing":
            self._finish()
        return self.model()

    def _round(self) -> None:
        """One release: attempts until a quorum has answered, and, under masks, has opened its total."""
        step, started = self.plan.steps[self.state.round], time.monotonic()
        for _ in range(self.study.schedule.attempts):
            if not self.state.seats:
                self._open()
            if len(self.state.seats) >= self.study.schedule.quorum:
                if not self._pending("step"):
                    self._save(asked=(*self.state.asked, step.index))
                seats = () if step.masked else tuple(self.state.seats.values())
                answers = self._ask("step", self.state.seats, seats=seats, **self._model_and_total())
                if len(answers) >= self.study.schedule.quorum:
                    answers, total = self._unmask(answers) if step.masked else (answers, None)
                    if total is not None or not step.masked:
                        self._aggregate(answers, total, time.monotonic() - started)
                        return
            self._abandon()
        raise GenopactError("QUORUM_LOST", f"round {self.state.round}")

    def _open(self) -> None:
        """Collect the seats of an attempt; under masks, let the seated sites deal their secrets to one another."""
        answers = self._ask("open", self.state.approvals, approvals=tuple(self.state.approvals.values()))
        seats = {site: envelope.decode() for site, (reply, envelope, _) in answers.items() if reply.mask_key}
        enough = len(seats) >= self.study.schedule.quorum
        if enough and self.plan.steps[self.state.round].masked:
            deals = self._ask("deal", seats, seats=tuple(seats.values()))
            enough = set(deals) == set(seats)
            if enough:
                frames = wire.join(wire.frame(envelope, body) for _, envelope, body in deals.values())
                durable.replace(self.path / "deals", frames)
                self._ask("join", seats, body=frames)
        self._forget_pending()
        self._save(seats=seats if enough else {})

    def _unmask(self, answers: Answers) -> tuple[Answers, bytes | None]:
        """The uploads of one set of sites, and their total, if enough of these have opened its masks.

        The set is asked for once: a restarted loop finds it in the frames that it has sent.
        """
        asked = next(iter(self._pending("unmask").values()), None)
        uploads = {envelope: site for site, (_, envelope, _) in answers.items()}
        body = wire.join(uploads) if asked is None else wire.split(asked)[1]
        active = {uploads[each]: answers[uploads[each]] for each in wire.cut(body) if each in uploads}
        if len(active) < max(self.study.schedule.quorum, len(wire.cut(body))):
            return active, None
        reveals = _bodies(self._ask("unmask", active, body=body))
        keys, texts = self._identities, self.state.seats.items()
        seats = {site: wire.parse_envelope(Reply, text.encode(), keys[site]) for site, text in texts}
        dealt = map(wire.split, wire.cut((self.path / "deals").read_bytes()))
        deals = {wire.parse_envelope(Reply, envelope, *keys.values()).site: deal for envelope, deal in dealt}
        opening, round_ = self.plan.opening(self.study, seats), self.state.round
        try:
            return active, opened_total(opening, self.plan.steps[round_], deals, _bodies(active), reveals)
        except GenopactError as refused:
            self._events({"event": "unmask-failed", "round": round_, "code": refused.code})
            return active, None

    def _abandon(self) -> None:
        """Void this attempt: what was computed for it stays charged, and nothing of it is used."""
        void = {"round": self.state.round, "attempt": self.state.attempt, "seated": sorted(self.state.seats)}
        self._events({"event": "attempt-failed"} | void)
        self._forget_pending()
        self._save(seats={}, attempt=self.state.attempt + 1)

    def _aggregate(self, answers: Answers, total: bytes | None, seconds: float) -> None:
        """Add up, advance the model, put it on record, and make the checkpoint."""
        index, before, model = self.state.round, self.state.model, self.model()
        step, sites = self.plan.steps[index], [site for site in self.plan.planned if site in answers]
        updates = {site: answers[site][2] for site in sites}
        record, model = combine(self.plan, index, model, updates, total)
        digest = self._keep_model(index + 1, model)
        if total is not None:
            durable.replace(self.path / f"total-{index + 1:04d}.safetensors", total)
        receipts = tuple(canonical.digest(body) for body in updates.values())
        aggregate = statements.Aggregate(
            at=_now(), **self._position(), step=step.name, model_in=before, sites=tuple(sites), receipts=receipts,
            total=canonical.digest(record), model_out=digest,
        )  # fmt: skip
        envelope = self._note_once(aggregate)
        # Whoever was missing may have lost its keys, and comes back with the next opening.
        seats = self.state.seats if set(sites) == set(self.state.seats) else {}
        self._save(round=index + 1, attempt=0, model=digest, aggregate=envelope.decode(), seats=seats)
        self._forget_pending()
        metrics = self.plan.course.metrics(model)
        last = {"event": "round", "round": index + 1, "of": len(self.plan.steps), "step": step.name}
        known = {"metrics": metrics, "shares": shares(self.plan, record, updates)}
        self._events(last | {"sites": sites, "seconds": round(seconds, 3), **known})

    def _finish(self) -> None:
        """Send the final model, collect the sites' exchanged logs, put the release on record."""
        answers = self._ask("finish", self.state.approvals, **self._model_and_total())
        for site, (_, _, body) in answers.items():
            durable.replace(self.path / "sites" / f"{site}.log", body)
        self._forget_pending()
        facts, privacy = [self.plan.steps[index].fact for index in self.state.asked], self.study.privacy
        epsilon = None if privacy.epsilon_milli is None else math.ceil(accounting.epsilon(facts, privacy.delta) * 1000)
        charges = tuple(Charge(mechanism=fact, times=times) for fact, times in Counter(facts).items())
        state = self.state
        release = Release(
            at=_now(), study=state.study, run=state.run, model=state.model, epsilon_milli=epsilon, delta=privacy.delta,
            mechanisms=charges,
        )  # fmt: skip
        self._note_once(release)
        self._folder.log.checkpoint()
        self._save(stage="done")
        self._events({"event": "done", "sites": sorted(answers), "model": self.state.model})

    def _ask(self, op: Op, sites: Iterable[str], body: bytes = b"", **about: Any) -> Answers:
        """Exchange one request with each site; the frames outlive this process until the attempt ends."""
        frames = self._pending(op)
        for site in sites:
            if site not in frames:
                frames[site] = self._frame(op, site, body, about)
                durable.replace(self.path / "pending" / f"{self._prefix(op)}{site}.frame", frames[site])
        replies = self._courier.exchange(frames, float(self.study.schedule.deadline_s))
        answers: Answers = {}
        for site, frame in replies.items():
            try:
                answers[site] = self._check(site, frames[site], frame)
            except GenopactError as refused:
                self._events({"event": "reply-refused", "site": site, "code": refused.code})
        return answers

    def _frame(self, op: Op, site: str, body: bytes, about: dict[str, Any]) -> bytes:
        request = Request(
            **self._position(), op=op, site=site, body=canonical.digest(body), body_size=len(body),
            nonce=secrets.token_hex(16), expires=_now() + 3 * self.study.schedule.deadline_s,
            aggregate=None if op == "open" else self.state.aggregate, **about,
        )  # fmt: skip
        return wire.seal(request, body, self._folder.identity)

    def _check(self, site: str, request: bytes, frame: bytes) -> tuple[Reply, bytes, bytes]:
        """A reply that this site signed for this request, with an intent that its log contains."""
        require(frame != wire.UNAVAILABLE, "SITE_UNAVAILABLE")
        envelope = wire.split(request)[0]
        asked = wire.parse_envelope(Request, envelope, self._folder.identity.public)
        reply, body = wire.unseal(Reply, frame, self._identities[site])
        position = {"op", "study", "run", "round", "attempt", "site"}
        moved = reply.model_dump(include=position) != asked.model_dump(include=position)
        if moved or reply.request != canonical.digest(envelope):
            raise GenopactError("FRAME_INVALID", "a reply to another request")
        if reply.op == "step":
            self._check_step(reply, body)
        return reply, wire.split(frame)[0], body

    def _check_step(self, reply: Reply, body: bytes) -> None:
        step, party = self.plan.steps[reply.round], self.study.party(reply.site)
        text = (reply.intent or "").encode()
        intent = statements.parse(text, [self._identities[reply.site]])
        stated = (intent.request, intent.mechanism) if isinstance(intent, statements.Intent) else None
        require(stated == (reply.request, step.fact), "FRAME_INVALID", "no intent for this request")
        proof, kept = (reply.proof or "").encode(), self.path / "sites" / f"{reply.site}.proof"
        origin, log_key = log_origin(reply.site), VerifyKey.from_hex(party.log)
        head = Proof.decode(proof).verify(text, origin, log_key)
        if kept.exists():
            before = open_checkpoint(Proof.decode(kept.read_bytes()).checkpoint, origin, log_key)
            if head.size < before.size or (head.size == before.size and head.root != before.root):
                raise GenopactError("LOG_ROLLED_BACK", reply.site)
        durable.replace(kept, proof)
        check_update(step, self.model(), body)

    def _position(self) -> dict[str, Any]:
        """Which attempt of which round of which run."""
        return self.state.model_dump(include={"study", "run", "round", "attempt"})

    def _pending(self, op: Op) -> dict[str, bytes]:
        prefix = self._prefix(op)
        found = (self.path / "pending").glob(f"{prefix}*.frame")
        return {path.stem.removeprefix(prefix): path.read_bytes() for path in found}

    def _prefix(self, op: Op) -> str:
        """Frames of another position are never sent again."""
        return f"{op}-{self.state.round}-{self.state.attempt}-"

    def _forget_pending(self) -> None:
        for path in (self.path / "pending").iterdir():
            path.unlink()

    def _model_and_total(self) -> dict[str, Any]:
        """The body of a request that carries the model, and the masked total that it was made of."""
        model, total = (self.path / f"{name}-{self.state.round:04d}.safetensors" for name in ("model", "total"))
        last = total.read_bytes() if total.exists() else b""
        return {"body": model.read_bytes() + last, "total_size": len(last)}

    def _keep_model(self, index: int, model: Model) -> str:
        body = wire.pack(model)
        durable.replace(self.path / f"model-{index:04d}.safetensors", body)
        return canonical.digest(body)

    def _note(self, statement: statements.Statement) -> bytes:
        envelope = statements.sign(statement, self._folder.identity)
        self._folder.log.append(envelope)
        return envelope

    def _note_once(self, statement: statements.Statement) -> bytes:
        """The same statement's record, if a killed loop had made it already; it is the newest entry then."""
        newest = self._folder.log.entry(self._folder.log.size - 1)
        # Which may be an approval.
        with suppressing("CANONICAL_INVALID", "ENVELOPE_INVALID", "SIGNATURE_INVALID", "STATEMENT_INVALID"):
            found = statements.parse(newest, [self._folder.identity.public])
            if found.model_copy(update={"at": statement.at}) == statement:
                return newest
        return self._note(statement)

    def _events(self, event: dict[str, Any]) -> None:
        """Append to events.jsonl, which `study watch` and the report read."""
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"at": round(time.time(), 3)} | event) + "\n")
        if self._watch:
            self._watch(event)

    def _save(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)
        durable.replace(self.path / "state.json", self.state.model_dump_json().encode())


def _bodies(answers: Answers) -> dict[str, bytes]:
    return {site: body for site, (_, _, body) in answers.items()}


def _now() -> int:
    return int(time.time())
