"""The agent's one entrance: request bytes in, reply bytes out. See docs/wire.md for the rules.

Order of a step: check, take the position, reserve, log the intent, only then compute; store the reply, then send it.
Whatever goes wrong is SITE_UNAVAILABLE to the outside and a coded entry in the private log.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog

from genopact_client.agent.cohort import Cohort, eligible
from genopact_client.agent.runs import RunRecord, Runs
from genopact_client.consent.match import Outcome
from genopact_client.release import kernel
from genopact_client.release.private import Private, Released
from genopact_client.site import Site
from genopact_client.studies import Approved
from genopact_client.train.private_sgd import PrivateSgd
from genopact_shared import canonical, durable, statements, wire
from genopact_shared.approval import check_approval
from genopact_shared.errors import GenopactError
from genopact_shared.keys import VerifyKey
from genopact_shared.plan import Plan, PlannedStep, plan_of
from genopact_shared.privacy import accounting
from genopact_shared.privacy.accounting import Fact
from genopact_shared.recipes.network import NetPlan
from genopact_shared.recipes.protocol import Model, Table
from genopact_shared.secagg import MaskKey, Words
from genopact_shared.study import Study
from genopact_shared.tlog.entries import pack as pack_entries
from genopact_shared.wire import Reply, Request

Mask = Callable[[int], Words] | None

_log = structlog.get_logger()
MAX_CLOCK_S = 7 * 86_400
"""A request may not claim to stay fresh for longer than this."""


@dataclass(frozen=True)
class Admitted:
    """A request that passed the checks all operations share."""

    request: Request
    digest: str
    body: bytes
    approved: Approved

    @property
    def study(self) -> Study:
        """The approved study."""
        return self.approved.study


class Exchange:
    """Answers one request at a time for one site."""

    def __init__(self, site: Site, clock: Callable[[], float] = time.time) -> None:
        """Take up where the logs stand; LEDGER_ROLLED_BACK if the ledger is older than the newest intent."""
        self._site, self._clock = site, clock
        self._runs = Runs(site.home / "runs")
        self._mask_keys: dict[str, MaskKey] = {}
        self._check_ledger()
        self._last_receipt = self._find_last_receipt()

    def __call__(self, frame: bytes) -> bytes:
        """The reply to a frame; empty (SITE_UNAVAILABLE) for anything that is refused or fails. Never raises."""
        try:
            return self._answer(frame)
        except GenopactError as refusal:
            reason = refusal.code
        except Exception as error:  # noqa: BLE001 - nothing about it may cross; its type goes to the private log
            reason = f"INTERNAL_{type(error).__name__}"
        self._record_refusal(frame, reason)
        return wire.UNAVAILABLE

    def _answer(self, frame: bytes) -> bytes:
        digest = canonical.digest(wire.split(frame)[0])
        approved = self._site.studies.approved(wire.Peek.of(frame).study)
        request, body = wire.unseal(Request, frame, approved.study.coordinator_key)
        if request.site != self._site.name:
            raise GenopactError("FRAME_INVALID", "for another site")
        if (sent := self._site.outbox.get(digest)) is not None:
            return sent
        now = self._clock()
        request.check_fresh(now)
        if request.expires > now + MAX_CLOCK_S:
            raise GenopactError("FRAME_INVALID", "an expiry too far ahead")
        if approved.study.expired(int(now)):
            raise GenopactError("STUDY_EXPIRED")
        if request.op != "finish" and self._site.policy.judge(approved.study).outcome is not Outcome.permit:
            raise GenopactError("POLICY_REFUSED")
        admitted = Admitted(request, digest, body, approved)
        operation = {"open": self._open, "step": self._step, "finish": self._finish}[request.op]
        return self._site.outbox.put(digest, operation(admitted))

    def _open(self, admitted: Admitted) -> bytes:
        """Join a run, or its next attempt: check everybody's approval, answer with a fresh mask key."""
        request, study = admitted.request, admitted.study
        if admitted.approved.envelope.decode() not in request.approvals:
            raise GenopactError("APPROVAL_INVALID", "this site's approval is not among them")
        plan = _plan(study, request.approvals)
        if len(plan.planned) < study.schedule.quorum:
            raise GenopactError("ROSTER_INVALID", "fewer approvals than the quorum")
        record = self._runs.get(request.run)
        if record is None:
            record = self._runs.put(RunRecord(study=study.hash, run=request.run, approvals=request.approvals))
            if admitted.approved.envelope not in self._site.log.entries():
                self._site.log.append(admitted.approved.envelope)
        if (record.study, record.approvals) != (study.hash, request.approvals):
            raise GenopactError("RUN_CHANGED")
        record.check_next(request.round, request.attempt)
        self._mask_keys[request.run] = key = MaskKey()
        return self._seal(admitted, b"", mask_key=key.public)

    def _step(self, admitted: Admitted) -> bytes:
        """Make one release of the plan."""
        request, study = admitted.request, admitted.study
        record = self._record(admitted)
        record.check_next(request.round, request.attempt)
        plan = _plan(study, record.approvals)
        if request.round >= len(plan.steps):
            raise GenopactError("FRAME_INVALID", "beyond the plan")
        step = plan.steps[request.round]
        self._check_model(admitted, record, plan)
        peers = _roster(admitted, plan)
        key = self._mask_keys.get(request.run)
        if key is None or peers.get(self._site.name) != key.public:
            raise GenopactError("MASK_KEY_LOST")
        key.check(peers.values())
        self._check_budget(study, step)
        cohort = eligible(self._site, study, step, int(self._clock()))
        position = {"round": request.round, "attempt": request.attempt, "model_in": request.body, "reply": None}
        record = self._runs.put(record.model_copy(update=position | {"taken": (*record.taken, step.index)}))
        sequence = self._site.ledger.reserve(
            study.hash, request.run, request.round, request.attempt, step.fact, cohort.rows
        )
        intent, proof = self._log_intent(admitted, step, cohort)
        context = {"study": study.hash, "run": request.run, "round": request.round, "attempt": request.attempt}
        mask = (lambda size: key.mask(self._site.name, peers, context, size)) if step.masked else None
        released = self._released(plan, step, _model(admitted.body), cohort.table, mask)
        self._log_receipt(admitted, step, intent, released)
        self._runs.put(record.model_copy(update={"reply": canonical.digest(released.body)}))
        self._site.ledger.settle(sequence)
        return self._seal(admitted, released.body, intent=intent.decode(), proof=proof.decode())

    def _released(self, plan: Plan, step: PlannedStep, model: Model, table: Private[Table], mask: Mask) -> Released:
        """Compute inside the box, and leave it by the kernel's door for this kind of step."""
        if isinstance(plan.course, NetPlan):
            steps = PrivateSgd(plan.course, step.fact, self._site.name)
            change = table.derive(lambda each: steps(model, each))
            return kernel.release_model(change, step.fact, steps.done)
        course = plan.course
        rows = table.derive(lambda each: course.contribution(step.index, model, each))
        return kernel.release_sum(rows, step, step.fact, mask)

    def _finish(self, admitted: Admitted) -> bytes:
        """Keep the final model, fit the site's own term on it, and hand over the exchanged log."""
        record = self._record(admitted)
        plan = _plan(admitted.study, record.approvals)
        if admitted.request.round != len(plan.steps):
            raise GenopactError("FRAME_INVALID", "before the end of the plan")
        self._check_model(admitted, record, plan)
        folder, model = self._runs.folder(record.run), _model(admitted.body)
        durable.replace(folder / "model.safetensors", admitted.body)
        try:
            cohort = eligible(self._site, admitted.study, None, int(self._clock()))
        except GenopactError as none_left:
            if none_left.code != "COHORT_EMPTY":
                raise
        else:
            personal = cohort.table.derive(lambda table: _site_term(plan, model, table))
            kernel.keep(personal, folder / "personal.safetensors")
        entries, checkpoint = self._site.log.export()
        return self._seal(admitted, pack_entries([checkpoint]) + entries)

    def _record(self, admitted: Admitted) -> RunRecord:
        record = self._runs.get(admitted.request.run)
        if record is None or record.study != admitted.study.hash:
            raise GenopactError("RUN_UNKNOWN")
        return record

    def _check_budget(self, study: Study, step: PlannedStep) -> None:
        """The study's epsilon holds for all its runs and attempts at this site. Raises STUDY_BUDGET_SPENT."""
        facts: Counter[Fact] = Counter()
        if study.privacy.epsilon_milli is None:
            return
        for record in self._runs.of_study(study.hash):
            steps = _plan(study, record.approvals).steps
            facts.update(steps[index].fact for index in record.taken)
        facts |= self._site.ledger.of_study(study.hash)  # files of runs can be lost; the ledger cannot, unnoticed
        facts[step.fact] += 1
        if accounting.epsilon_fast(facts, study.privacy.delta) > study.privacy.epsilon_milli / 1000:
            raise GenopactError("STUDY_BUDGET_SPENT")

    def _check_model(self, admitted: Admitted, record: RunRecord, plan: Plan) -> None:
        """The model is the initial one, rebuilt here, or what the last aggregate made of the model this site saw."""
        request = admitted.request
        if request.round == 0:
            linked = request.aggregate is None and admitted.body == wire.pack(plan.course.initial())
        else:
            last = statements.parse((request.aggregate or "").encode(), [admitted.study.coordinator_key])
            linked = (
                isinstance(last, statements.Aggregate)
                and (last.study, last.run, last.round) == (request.study, request.run, request.round - 1)
                and last.model_out == request.body
            )
            if linked and isinstance(last, statements.Aggregate) and record.round == last.round:
                linked = last.model_in == record.model_in
                # Under masks every reply of an attempt is in its total; without, one that came too late is left out.
                if record.attempt == last.attempt and record.reply is not None and plan.steps[last.round].masked:
                    linked = linked and record.reply in last.receipts
        if not linked:
            raise GenopactError("MODEL_NOT_LINKED")

    def _log_intent(self, admitted: Admitted, step: PlannedStep, cohort: Cohort) -> tuple[bytes, bytes]:
        """Append the intent; returns it with its proof of inclusion under a checkpoint signed now."""
        request, opening = admitted.request, cohort.opening
        name = f"{request.run}-{request.round:04d}-{request.attempt:02d}.json"
        durable.replace(self._site.home / "openings" / name, opening.model_dump_json(by_alias=True).encode())
        intent = statements.Intent(
            **self._work(admitted, step),
            decision_root=opening.root(),
            ledger_root=self._site.ledger.head,
            model_in=request.body,
            mechanism=step.fact,
            nonce=request.nonce,
        )
        envelope = statements.sign(intent, self._site.identity)
        return envelope, self._site.log.proof(self._site.log.append(envelope))

    def _log_receipt(self, admitted: Admitted, step: PlannedStep, intent: bytes, released: Released) -> None:
        receipt = statements.Receipt(
            **self._work(admitted, step),
            intent=canonical.digest(intent),
            update=canonical.digest(released.body),
            outcome="released",
            prev=self._last_receipt,
        )
        envelope = statements.sign(receipt, self._site.identity)
        self._site.log.append(envelope)
        self._last_receipt = canonical.digest(envelope)

    def _work(self, admitted: Admitted, step: PlannedStep) -> dict[str, Any]:
        shared = admitted.request.model_dump(include={"study", "run", "round", "attempt", "site"})
        return shared | {"at": int(self._clock()), "step": step.name, "request": admitted.digest}

    def _check_ledger(self) -> None:
        """An older ledger has forgotten what patients have spent."""
        newest = (each.ledger_root for _, each in self._newest() if isinstance(each, statements.Intent))
        if (root := next(newest, None)) is not None and not self._site.ledger.extends(root):
            raise GenopactError("LEDGER_ROLLED_BACK")

    def _find_last_receipt(self) -> str:
        receipts = (entry for entry, each in self._newest() if isinstance(each, statements.Receipt))
        last = next(receipts, None)
        return statements.FIRST if last is None else canonical.digest(last)

    def _newest(self) -> Iterator[tuple[bytes, statements.Statement]]:
        """The site's own entries of its log, the newest first."""
        for index in reversed(range(self._site.log.size)):
            entry = self._site.log.entry(index)
            try:
                yield entry, statements.parse(entry, [self._site.identity.public])
            except GenopactError:
                continue  # an approval: the approver's signature, not the site's

    def _seal(self, admitted: Admitted, body: bytes, **extra: str) -> bytes:
        shared = admitted.request.model_dump(include={"op", "study", "run", "round", "attempt", "site"})
        about = {"body": canonical.digest(body), "body_size": len(body), "request": admitted.digest}
        return wire.seal(Reply.model_validate({**shared, **about, **extra}), body, self._site.identity)

    def _record_refusal(self, frame: bytes, reason: str) -> None:
        _log.warning("refused", code=reason)
        refusal = statements.Refusal(at=int(self._clock()), request=canonical.digest(frame), reasons=(reason,))
        self._site.private_log.append(statements.sign(refusal, self._site.identity))


def _plan(study: Study, approvals: tuple[str, ...]) -> Plan:
    checked = [check_approval(envelope.encode(), study) for envelope in approvals]
    planned = {approval.site: approval.planned_cohort for approval in checked}
    if len(planned) != len(checked):
        raise GenopactError("APPROVAL_INVALID", "two approvals of one site")
    return plan_of(study, planned)


def _roster(admitted: Admitted, plan: Plan) -> dict[str, str]:
    """Site name -> mask key, from replies to `open` that each site signed for this run."""
    request, study = admitted.request, admitted.study
    identities = {party.name: VerifyKey.from_hex(party.identity) for party in study.parties}
    peers: dict[str, str] = {}
    for envelope in request.seats:
        seat = wire.parse_envelope(Reply, envelope.encode(), *identities.values())
        wire.parse_envelope(Reply, envelope.encode(), identities[seat.site])
        if (seat.op, seat.study, seat.run) != ("open", request.study, request.run):
            raise GenopactError("ROSTER_INVALID", "a seat of another run")
        if seat.mask_key is None or seat.site in peers or seat.site not in plan.planned:
            raise GenopactError("ROSTER_INVALID")
        peers[seat.site] = seat.mask_key
    if len(peers) < study.schedule.quorum:
        raise GenopactError("ROSTER_INVALID", "fewer seats than the quorum")
    return peers


def _model(body: bytes) -> Model:
    return wire.unpack(body, np.float64)


def _site_term(plan: Plan, model: Model, table: Table) -> bytes:
    return wire.pack(plan.recipe.fit_personal(model, table))
