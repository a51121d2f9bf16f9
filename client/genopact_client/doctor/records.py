"""Checks of the records: store, consent, ledger, logs, studies and what patients can still pay."""

import time
from contextlib import closing

from genopact_client.copies import copied, ledger_copy, log_copy, logged
from genopact_client.doctor.reach import agent
from genopact_client.doctor.subject import Subject, expect
from genopact_client.ledger_file import LedgerFile
from genopact_client.spending import can_pay, levels
from genopact_shared import statements
from genopact_shared.errors import CATALOGUE, GenopactError, require
from genopact_shared.plan import plan_of

CLOCK_S = 300


def store(subject: Subject) -> str:
    """The store opens, or an agent that answers holds it."""
    try:
        facts = subject.site.store.manifest()
    except GenopactError as error:
        if error.code != "STORE_LOCKED":
            raise
        agent(subject)
        return "held by the agent, which answers"
    expect(facts["rows"], "no person has a record", "Run genopact-site import.")
    return f"{facts['rows']} records, {facts['kind']}, version {facts['generation']}"


def consent(subject: Subject) -> str:
    """How many of the enrolled have an active consent."""
    registry, people = subject.site.registry, len(subject.site.people)
    records = (registry.get(row) for row in range(people))
    active = sum(1 for record in records if record is not None and record.status == "active")
    nobody = f"none of {people} enrolled people has an active consent"
    expect(active, nobody, "Run genopact-site consent import FILE.")
    return f"{active} of {people} enrolled people have an active consent ({100 * active // people} %)"


def ledger(subject: Subject) -> str:
    """The ledger opens."""
    with ledger_copy(subject.site) as ledger:
        return f"opens; {len(ledger.open_reservations())} reservations were never settled"


def logs(subject: Subject) -> str:
    """Both logs open."""
    with log_copy(subject.site) as log, log_copy(subject.site, "private-log") as private:
        return f"exchanged log {log.size} entries, private log {private.size}"


def roots(subject: Subject) -> str:
    """Every ledger root that an intent put on record must be the ledger's head after some record of it."""
    intents = [each for each in logged(subject.site) if isinstance(each, statements.Intent)]
    key = subject.site.keyfile.site_key("ledger")
    with copied(subject.site.home, "ledger") as path, closing(LedgerFile(path, key)) as file:
        heads = {file.head for _ in file.bodies()}
    lost = sum(intent.ledger_root not in heads for intent in intents)
    require(not lost, "LEDGER_ROLLED_BACK", f"{lost} of {len(intents)} intents")
    return f"{len(intents)} intents, each on the ledger"


def clock(subject: Subject) -> str:
    """The clock is not before what the log says."""
    ahead = max((each.at for each in logged(subject.site)), default=0) - time.time()
    remedy = "Set the clock (systemctl status systemd-timesyncd) before the next round."
    expect(ahead <= CLOCK_S and time.time() >= 1.7e9, "the clock stands before entries of the log", remedy)
    return "not before any entry of the log"


def studies(subject: Subject) -> str:
    """Every approval still holds."""
    approved = list(subject.site.studies)
    expired = [each.study.name for each in approved if each.study.expired(int(time.time()))]
    expect(not expired, f"{', '.join(expired)}: the last day has passed", CATALOGUE["STUDY_EXPIRED"].remedy)
    expect(approved, "no study is approved", "Read one with genopact-site study check, then approve it.", "unknown")
    for each in approved:
        subject.site.check_inputs(each.study)
    return f"{len(approved)} approved, every signature holds"


def budget(subject: Subject) -> str:
    """Who can still pay for the whole of each study; in tens."""
    studies = subject.studies()
    expect(studies, "no study to look at", "Name one with --study, or approve one.", "unknown")
    with ledger_copy(subject.site) as ledger:
        spent = levels(ledger, len(subject.site.people))
    spent[frozenset()] = len(subject.site.people) - spent.total()
    limits, said = subject.site.policy.limits, []
    for study in studies:
        facts = [step.fact for step in plan_of(study, {study.parties[0].name: study.minimum_cohort}).steps]
        left = sum(n for level, n in spent.items() if can_pay(level, facts, limits))
        few = f"{study.name}: fewer than {study.minimum_cohort} people can pay for it"
        enough = study.privacy.mode == "none" or left >= study.minimum_cohort
        expect(enough, few, "Leave the study; nobody's spending can be taken back.")
        said.append(f"{study.name}: about {left // 10 * 10} people can pay for all of it")
    return "; ".join(said)
