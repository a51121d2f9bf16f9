"""The agent's one entrance: request bytes in, reply bytes out. See docs/wire.md for the rules.

Order of a step: check, take the position, reserve, log the intent, only then compute; store the reply, then send it.
Whatever goes wrong is SITE_UNAVAILABLE to the outside and a coded entry in the private log.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from genopact_client.agent.cohort import Cohort, eligible
from genopact_client.agent.masks import Masks, seats_of
from genopact_client.agent.runs import RunRecord, Runs, plan_of_run
from genopact_client.consent.match import Outcome
from genopact_client.ledger import DAY_S
from genopact_client.release import kernel
from genopact_client.release.private import Private, Released
from genopact_client.site import Site
from genopact_client.studies import Approved
from genopact_client.train.private_sgd import PrivateSgd
from genopact_shared import canonical, durable, statements, wire
from genopact_shared.errors import GenopactError, require, suppressing
from genopact_shared.plan import COHORT_SLACK, Plan, PlannedStep
from genopact_shared.privacy.accounting import Fact, epsilon
from genopact_shared.recipes.network import NetPlan
from genopact_shared.recipes.protocol import Model, SumPlan
from genopact_shared.recipes.table import Floats, Table
from genopact_shared.study import Study
from genopact_shared.tlog.log import pack as pack_entries

_log = structlog.get_logger()
ROWS_BYTES = 1 << 27
"""Of contributions in memory at a time."""
MAX_CLOCK_S = 7 * DAY_S
"""A request may not claim to stay fresh for longer than this."""


@dataclass(frozen=True)
class Admitted:
    """A request that passed the checks all operations share."""

    request: wire.Request
    digest: str
    body: bytes
    approved: Approved

    @cached_property
    def model(self) -> bytes:
        """What the body holds before the last total."""
        return self.body[: len(self.body) - self.request.total_size]

    @cached_property
    def model_in(self) -> str:
        """Its digest."""
        return canonical.digest(self.model)

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
        self._masks = Masks(site.name)
        newest = (each.ledger_root for _, each in self._newest() if isinstance(each, statements.Intent))
        if (root := next(newest, None)) is not None and not self._site.ledger.extends(root):
            raise GenopactError("LEDGER_ROLLED_BACK")  # it has forgotten what patients have spent
        receipts = (canonical.digest(entry) for entry, each in self._newest() if isinstance(each, statements.Receipt))
        self._last_receipt = next(receipts, statements.FIRST)

    def __call__(self, frame: bytes) -> bytes:
        """The reply to a frame; empty (SITE_UNAVAILABLE) for anything that is refused or fails. Never raises."""
        try:
            return self._answer(frame)
        except GenopactError as refusal:
            reason = refusal.code
        except Exception as error:  # noqa: BLE001 - nothing about it may cross; its type goes to the private log
            reason = f"INTERNAL_{type(error).__name__}"
        _log.warning("refused", code=reason)
        told = statements.Refusal(at=int(self._clock()), request=canonical.digest(frame), reasons=(reason,))
        self._site.private_log.append(statements.sign(told, self._site.identity))
        return wire.UNAVAILABLE

    def _answer(self, frame: bytes) -> bytes:
        digest = canonical.digest(wire.split(frame)[0])
        approved = self._site.studies.approved(wire.Peek.of(frame).study)
        request, body = wire.unseal(wire.Request, frame, approved.study.coordinator_key)
        if request.site != self._site.name or request.total_size > len(body):
            raise GenopactError("FRAME_INVALID", "for another site, or a total longer than its body")
        if (sent := self._site.outbox.get(digest)) is not None:
            return sent
        now = self._clock()
        request.check_fresh(now)
        require(request.expires <= now + MAX_CLOCK_S, "FRAME_INVALID", "an expiry too far ahead")
        require(not approved.study.expired(int(now)), "STUDY_EXPIRED")
        if request.op != "finish" and self._site.policy.judge(approved.study).outcome is not Outcome.permit:
            raise GenopactError("POLICY_REFUSED")
        admitted = Admitted(request, digest, body, approved)
        operations = {"open": self._open, "deal": self._deal, "join": self._join, "step": self._step}
        operations |= {"unmask": self._unmask, "finish": self._finish}
        return self._site.outbox.put(digest, operations[request.op](admitted))

    def _open(self, admitted: Admitted) -> bytes:
        """Join a run, or its next attempt: check everybody's approval, answer with a fresh mask key."""
        request, study = admitted.request, admitted.study
        if admitted.approved.envelope.decode() not in request.approvals:
            raise GenopactError("APPROVAL_INVALID", "this site's approval is not among them")
        plan = plan_of_run(study, request.approvals, self._site.published)
        require(len(plan.planned) >= study.schedule.quorum, "ROSTER_INVALID", "fewer approvals than the quorum")
        record = self._runs.get(request.run)
        if record is None:
            record = self._runs.put(RunRecord(study=study.hash, run=request.run, approvals=request.approvals))
            if admitted.approved.envelope not in self._site.log.entries():
                self._site.log.append(admitted.approved.envelope)
        require((record.study, record.approvals) == (study.hash, request.approvals), "RUN_CHANGED")
        record.check_next(request.round, request.attempt)
        return self._seal(admitted, b"", mask_key=self._masks.open(request.run))

    def _deal(self, admitted: Admitted) -> bytes:
        """Deal the secrets of this site's masks to the roster."""
        record, plan = self._position(admitted)
        record.check_next(admitted.request.round, admitted.request.attempt)
        seats = seats_of(admitted.request, admitted.study, plan)
        return self._seal(admitted, self._masks.deal(admitted.study, plan, seats))

    def _join(self, admitted: Admitted) -> bytes:
        """Take the deals of the roster."""
        record, _ = self._position(admitted)
        record.check_next(admitted.request.round, admitted.request.attempt)
        self._masks.join(admitted.request, admitted.study, admitted.body)
        return self._seal(admitted, b"")

    def _unmask(self, admitted: Admitted) -> bytes:
        """Open this site's part of the masks of the last position, once."""
        record, plan = self._position(admitted)
        if (admitted.request.round, admitted.request.attempt) != (record.round, record.attempt):
            raise GenopactError("UNMASK_REFUSED", "of another position")
        return self._seal(admitted, self._masks.reveal(admitted.request, admitted.study, plan, record, admitted.body))

    def _step(self, admitted: Admitted) -> bytes:
        """Make one release of the plan."""
        request, study = admitted.request, admitted.study
        record, plan = self._position(admitted)
        record.check_next(request.round, request.attempt)
        step = plan.steps[request.round]
        plan.course.initial()  # PUBLISHED_MISSING, PUBLISHED_INVALID: before anybody is charged
        self._check_model(admitted, record, plan)
        mask = self._masks.mask(request) if step.masked else None
        if mask is None:
            self._masks.check_seat(request.run, seats_of(request, study, plan))
        self._check_budget(study, step)
        now = int(self._clock())
        with eligible(self._site, study, step, now) as cohort:
            if step.masked and len(cohort.rows) > COHORT_SLACK * plan.planned[self._site.name]:
                raise GenopactError("RANGE_EXCEEDED", "far more patients than this site planned with")
            seen = self._seen(record.run, admitted.model_in)
            durable.replace(seen, admitted.model)
            position = request.model_dump(include={"round", "attempt"}) | {"model_in": admitted.model_in, "reply": None}
            record = self._runs.put(record.model_copy(update=position | {"taken": (*record.taken, step.index)}))
            for old in self._runs.folder(record.run).glob("seen-*"):
                if old != seen:
                    old.unlink()
            address = study.hash, request.run, request.round, request.attempt
            sequence = self._site.ledger.reserve(*address, step.fact, cohort.rows, day=now // DAY_S)
            intent, proof = self._log_intent(admitted, step, cohort)
            released = self._released(plan, step, _model(admitted.model), cohort.table, mask)
            self._log_receipt(admitted, step, intent, released)
            self._runs.put(record.model_copy(update={"reply": canonical.digest(released.body)}))
            self._site.ledger.settle(sequence)
            return self._seal(admitted, released.body, intent=intent.decode(), proof=proof.decode())

    def _released(
        self, plan: Plan, step: PlannedStep, model: Model, table: Private[Table], mask: kernel.Mask | None
    ) -> Released:
        """Compute inside the box, and leave it by the kernel's door for this kind of step."""
        if isinstance(plan.course, NetPlan):
            steps = PrivateSgd(plan.course, step.fact, self._site.name)
            change = table.derive(lambda each: steps(model, each))
            return kernel.release_model(change, step.fact, steps.done)
        course = plan.course
        rows = table.derive(lambda each: _rows(course, step, model, each))
        return kernel.release_sum(rows, step, step.fact, mask)

    def _finish(self, admitted: Admitted) -> bytes:
        """Keep the final model, fit the site's own term on it, and hand over the exchanged log."""
        record, plan = self._position(admitted)
        self._check_model(admitted, record, plan)
        folder, model = self._runs.folder(record.run), _model(admitted.model)
        durable.replace(folder / "model.safetensors", admitted.model)
        now = int(self._clock())
        with suppressing("COHORT_EMPTY"), eligible(self._site, admitted.study, None, now) as cohort:
            personal = cohort.table.derive(lambda table: wire.pack(plan.recipe.fit_personal(model, table)))
            kernel.keep(personal, folder / "personal.safetensors")
        entries, checkpoint = self._site.log.export()
        return self._seal(admitted, pack_entries([checkpoint]) + entries)

    def _position(self, admitted: Admitted) -> tuple[RunRecord, Plan]:
        """The run's record and plan, for a round that the plan has; to finish, for the one after them."""
        record = self._runs.get(admitted.request.run)
        if record is None or record.study != admitted.study.hash:
            raise GenopactError("RUN_UNKNOWN")
        plan = plan_of_run(admitted.study, record.approvals, self._site.published)
        here, end = admitted.request.round, len(plan.steps)
        if here > end or (here == end) != (admitted.request.op == "finish"):
            raise GenopactError("FRAME_INVALID", "beyond the plan, or before its end")
        return record, plan

    def _check_budget(self, study: Study, step: PlannedStep) -> None:
        """The study's epsilon holds for all its runs and attempts at this site. Raises STUDY_BUDGET_SPENT."""
        facts: Counter[Fact] = Counter()
        if study.privacy.epsilon_milli is None:
            return
        for record in self._runs.of_study(study.hash):
            steps = plan_of_run(study, record.approvals, self._site.published).steps
            facts.update(steps[index].fact for index in record.taken)
        facts |= self._site.ledger.of_study(study.hash)  # files of runs can be lost; the ledger cannot, unnoticed
        facts[step.fact] += 1
        require(epsilon(facts, study.privacy.delta) <= study.privacy.epsilon_milli / 1000, "STUDY_BUDGET_SPENT")

    def _check_model(self, admitted: Admitted, record: RunRecord, plan: Plan) -> None:
        """The model is the initial one, rebuilt here, or what the last aggregate made of the model this site saw."""
        request = admitted.request
        if request.round == 0:
            linked = request.aggregate is None and admitted.body == admitted.model == wire.pack(plan.course.initial())
        else:
            last = statements.parse((request.aggregate or "").encode(), [admitted.study.coordinator_key])
            linked = (
                isinstance(last, statements.Aggregate)
                and (last.study, last.run, last.round) == (request.study, request.run, request.round - 1)
                and last.model_out == admitted.model_in
                and self._follows(admitted, record, plan, last)
            )
        require(linked, "MODEL_NOT_LINKED")

    def _follows(self, admitted: Admitted, record: RunRecord, plan: Plan, last: statements.Aggregate) -> bool:
        """Whether the model is what the aggregate's total makes of the model that this site saw, if it saw it."""
        total = admitted.body[len(admitted.model) :]
        if record.round == last.round and last.model_in != record.model_in:
            return False
        if record.round == admitted.request.round:  # a later attempt
            return record.model_in == last.model_out
        if not plan.steps[last.round].masked:
            return not total
        if last.total != canonical.digest(total):
            return False
        self._masks.check_total(last, record, total)
        if record.round != last.round:
            return True
        seen = self._seen(record.run, last.model_in).read_bytes()
        integers = wire.unpack(total, np.int64, tag=np.uint64)["sum"]
        _, made = plan.advance(last.round, _model(seen), integers, last.sites)
        return canonical.digest(seen) == last.model_in and wire.pack(made) == admitted.model

    def _seen(self, run: str, digest: str) -> Path:
        """Where a model that this site was shown is kept; by its digest, so that a kill leaves the last position's."""
        return self._runs.folder(run) / f"seen-{digest}.safetensors"

    def _log_intent(self, admitted: Admitted, step: PlannedStep, cohort: Cohort) -> tuple[bytes, bytes]:
        """Append the intent; returns it with its proof of inclusion under a checkpoint signed now."""
        request, opening = admitted.request, cohort.opening
        name = f"{request.run}-{request.round:04d}-{request.attempt:02d}.json"
        durable.replace(self._site.home / "openings" / name, opening.model_dump_json(by_alias=True).encode())
        work = self._work(admitted, step, decision_root=opening.root(), ledger_root=self._site.ledger.head)
        intent = statements.Intent(**work, model_in=admitted.model_in, mechanism=step.fact, nonce=request.nonce)
        envelope = statements.sign(intent, self._site.identity)
        return envelope, self._site.log.proof(self._site.log.append(envelope))

    def _log_receipt(self, admitted: Admitted, step: PlannedStep, intent: bytes, released: Released) -> None:
        work = self._work(admitted, step, intent=canonical.digest(intent), prev=self._last_receipt)
        receipt = statements.Receipt(**work, update=canonical.digest(released.body), outcome="released")
        envelope = statements.sign(receipt, self._site.identity)
        self._site.log.append(envelope)
        self._last_receipt = canonical.digest(envelope)

    def _work(self, admitted: Admitted, step: PlannedStep, **more: str) -> dict[str, Any]:
        shared = admitted.request.model_dump(include={"study", "run", "round", "attempt", "site"})
        return shared | {"at": int(self._clock()), "step": step.name, "request": admitted.digest} | more

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
        return wire.seal(wire.Reply.model_validate({**shared, **about, **extra}), body, self._site.identity)


def _rows(course: SumPlan, step: PlannedStep, model: Model, table: Table) -> Iterator[Floats]:
    """Contributions of some patients at a time, so that they fit into memory."""
    size = max(1, ROWS_BYTES // (8 * course.steps[step.index].dims))
    for first in range(0, table.n, size):
        yield course.contribution(step.index, model, table.take(np.arange(first, min(first + size, table.n))))


def _model(body: bytes) -> Model:
    return wire.unpack(body, np.float64)


def in_process(home: Path, passphrase_file: Path) -> Exchange:
    """The agent of a site's folder without a process of its own, for rehearsals on one machine, which load it by name.

    It holds the folder's locks.
    """
    return Exchange(Site.open(home, durable.read_secret(passphrase_file)))
