"""Checks of order and linkage: approval before intent, intent before receipt before aggregate, model to model."""

from collections import defaultdict
from collections.abc import Iterator

from genopact_server.audit.evidence import Evidence, Record, by_kind
from genopact_server.audit.findings import Finding, Verdict, judged
from genopact_server.statements import Release, RunOpened
from genopact_shared.statements import FIRST, Aggregate, Approval, Intent, Receipt

Position = tuple[str, int, int, str]


def check_approvals(evidence: Evidence) -> Iterator[Finding]:
    """Every site that took part in a run had approved this study before its first intent, and the run says so."""
    opened = {record.statement.run: record.statement for record in evidence.coordinator(RunOpened)}
    for site in evidence.sites:
        first: dict[str, Record[Intent]] = {}
        for record in evidence.at(site, Intent):
            first.setdefault(record.statement.run, record)
            if evidence.study.expired(record.statement.at):
                yield Finding("approval", "violated", site, f"intent {record.index} lies after the study expired")
        for run, record in first.items():
            yield _approved(evidence, site, record, opened.get(run))


def _approved(evidence: Evidence, site: str, first: Record[Intent], run: RunOpened | None) -> Finding:
    if evidence.coordinated and (run is None or site not in run.sites):
        return Finding("approval", "violated", site, "it worked for a run that was not opened with it")
    given = {d: a for d, a in evidence.approvals.items() if a.site == site and (run is None or d in run.approvals)}
    if not given:
        return Finding("approval", "violated", site, "it worked without a valid approval of this study")
    late = {record.digest for record in evidence.at(site, Approval) if record.index > first.index}
    if not any(a.at <= first.statement.at and d not in late for d, a in given.items()):
        return Finding("approval", "violated", site, "it approved only after its first intent")
    return Finding("approval", "ok", site, "it approved the study before its first intent")


def check_receipts(evidence: Evidence) -> Iterator[Finding]:
    """In each site's log: fresh nonces, one request an attempt, one receipt after each intent, receipts chained."""
    for site in evidence.sites:
        faults = [*_intent_faults(evidence, site), *_receipt_faults(evidence, site)]
        yield from judged("receipt", site, faults, "every receipt follows its intent; the chain is whole")


def _intent_faults(evidence: Evidence, site: str) -> Iterator[str]:
    nonces: set[str] = set()
    requests: dict[Position, str] = {}
    for record in by_kind(evidence.records[site], Intent):
        intent = record.statement
        if intent.nonce in nonces:
            yield f"intent {record.index} answers a replayed nonce"
        nonces.add(intent.nonce)
        if requests.setdefault(intent.position, intent.request) != intent.request:
            yield f"intent {record.index} answers a second request for the same attempt"


def _receipt_faults(evidence: Evidence, site: str) -> Iterator[str]:
    before = {record.digest: record for record in by_kind(evidence.records[site], Intent)}
    answered: set[str] = set()
    previous = FIRST
    for record in by_kind(evidence.records[site], Receipt):
        receipt, intent = record.statement, before.get(record.statement.intent)
        if intent is None or intent.index > record.index:
            yield f"receipt {record.index} has no earlier intent"
        elif (intent.statement.position, intent.statement.request) != (receipt.position, receipt.request):
            yield f"receipt {record.index} is for another attempt than its intent"
        if receipt.intent in answered:
            yield f"receipt {record.index} is the second for one intent"
        if receipt.prev != previous:
            yield f"receipt {record.index} does not follow the previous receipt"
        answered.add(receipt.intent)
        previous = record.digest


def check_aggregates(evidence: Evidence) -> Iterator[Finding]:
    """Every aggregate uses updates that sites of its run released for it, each once, from the same model."""
    name, opened = evidence.study.coordinator.name, {r.statement.run: r for r in evidence.coordinator(RunOpened)}
    released = _released(evidence)
    faults: list[Finding] = []
    for record in evidence.coordinator(Aggregate):
        label, aggregate = f"aggregate {record.index}", record.statement
        run = opened.get(aggregate.run)
        if run is None or run.index > record.index:
            faults.append(Finding("aggregate", "violated", name, f"{label} belongs to no run opened before it"))
            continue
        sources = [released.get((aggregate.position, digest)) for digest in aggregate.receipts]
        known = [source for source in sources if source is not None]
        if len(known) < len(sources):
            lost: Verdict = "violated" if evidence.needed <= evidence.records.keys() else "unknown"
            what = f"{label} has {len(sources) - len(known)} updates without intent and receipt in the logs"
            faults.append(Finding("aggregate", lost, name, what))
        wrong = _aggregate_faults(evidence, label, aggregate, run.statement, known)
        faults += [Finding("aggregate", "violated", name, fault) for fault in wrong]
    fine = "every update in an aggregate has its intent and receipt"
    yield from faults or [Finding("aggregate", "ok", name, fine)]


def _aggregate_faults(
    evidence: Evidence, label: str, aggregate: Aggregate, run: RunOpened, sources: list[tuple[str, Intent]]
) -> Iterator[str]:
    sites = [site for site, _ in sources]
    if len(set(aggregate.receipts)) < len(aggregate.receipts) or len(set(sites)) < len(sites):
        yield f"{label} counts an update or a site twice"
    if not set(sites) <= set(run.sites) or sites != sorted(sites, key=[*run.sites, *sites].index):
        yield f"{label} has sites outside the run or out of its order"
    named, found = aggregate.sites, tuple(sites)
    if len(named) != len(aggregate.receipts) or (len(found) == len(named) and found != named):
        yield f"{label} names other sites than its updates are of"
    if len(aggregate.receipts) < evidence.study.schedule.quorum:
        yield f"{label} lies below the quorum"
    if any(intent.model_in != aggregate.model_in for _, intent in sources):
        yield f"{label} mixes updates of different models"


def _released(evidence: Evidence) -> dict[tuple[Position, str], tuple[str, Intent]]:
    """Site and intent of every released update, by position and digest."""
    found = {}
    for site in evidence.sites:
        intents = {record.digest: record.statement for record in evidence.at(site, Intent)}
        for record in evidence.at(site, Receipt):
            receipt, intent = record.statement, intents.get(record.statement.intent)
            if receipt.update is not None and intent is not None:
                found[receipt.position, receipt.update] = (site, intent)
    return found


def check_rounds(evidence: Evidence) -> Iterator[Finding]:
    """Each run's rounds are gap-free, none is aggregated or asked for again, and each starts from the last model."""
    runs: dict[str, list[Record[Aggregate]]] = defaultdict(list)
    for record in evidence.coordinator(Aggregate):
        runs[record.statement.run].append(record)
    for run, records in runs.items():
        faults = _round_faults([record.statement for record in records])
        fine = f"run {run[:8]}: {len(records)} aggregates, each from the model before it"
        yield from judged("rounds", evidence.study.coordinator.name, faults, fine)
    yield from _unused(evidence, runs)


def _round_faults(aggregates: list[Aggregate]) -> Iterator[str]:
    seen: set[tuple[int, str]] = set()
    for before, now in zip([None, *aggregates], aggregates, strict=False):
        if (now.round, now.step) in seen:
            yield f"round {now.round} is aggregated twice"
        seen.add((now.round, now.step))
        if before is None:
            if now.round > 1:
                yield f"the run starts at round {now.round}"
        elif not before.round <= now.round <= before.round + 1:
            yield f"round {now.round} follows round {before.round}"
        if before is not None and now.model_in != before.model_out:
            yield f"round {now.round} does not start from the model of the aggregate before it"


def _unused(evidence: Evidence, runs: dict[str, list[Record[Aggregate]]]) -> Iterator[Finding]:
    """Updates that no aggregate explains: of later attempts (asked again) or of rounds that were never aggregated."""
    last = {(a.statement.run, a.statement.round, a.statement.step): a.statement for rs in runs.values() for a in rs}
    for (position, _), (site, intent) in _released(evidence).items():
        aggregate = last.get((intent.run, intent.round, intent.step))
        if aggregate is None:
            yield Finding("rounds", "unknown", site, f"released round {intent.round} ({intent.step}), never aggregated")
        elif position[2] > aggregate.attempt:
            yield Finding("rounds", "violated", site, f"round {intent.round} was asked again after it was aggregated")
        if aggregate is not None and intent.model_in != aggregate.model_in:
            yield Finding("rounds", "violated", site, f"round {intent.round} was asked with another model")


def check_release(evidence: Evidence) -> Iterator[Finding]:
    """A released model is the last aggregate of its run, and the model in use is a released one."""
    name, models = evidence.study.coordinator.name, set()
    final = {record.statement.run: record for record in evidence.coordinator(Aggregate)}
    for record in evidence.coordinator(Release):
        models.add(record.statement.model)
        source = final.get(record.statement.run)
        last = source and source.index < record.index and source.statement.model_out == record.statement.model
        faults = [] if last else ["its released model is not the last aggregate"]
        yield from judged("release", name, faults, "its released model is the last aggregate")
    if evidence.released is not None and evidence.released not in models:
        verdict: Verdict = "violated" if models else "unknown"
        yield Finding("release", verdict, name, "no release statement names the model in use")


SITES = (check_approvals, check_receipts)
COORDINATED = (check_aggregates, check_rounds, check_release)
"""Those that need the coordinator's log."""
