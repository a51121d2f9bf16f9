"""The doctor: can this site take part? Each check says ok, problem or unknown, and what to do."""

import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple

from genopact_client.copies import copied, ledger_copy, log_copy, logged
from genopact_client.installed import refuse_mixed
from genopact_client.ledger_file import LedgerFile
from genopact_client.link import nodekey
from genopact_client.site import Site
from genopact_client.spending import can_pay, levels
from genopact_shared import statements
from genopact_shared.errors import CATALOGUE, GenopactError, replacing, require, suppressing
from genopact_shared.keys import SigningKey
from genopact_shared.plan import plan_of
from genopact_shared.study import Study

FREE_BYTES = 1 << 30
_PRIVATE = (
    "kek", "keys", "keyfile", "people.db", "consent.db", "store", "ledger", "studies", "runs", "outbox", "openings",
)  # fmt: skip
TIMEOUT_S = 5.0
CLOCK_S = 300
State = Literal["ok", "problem", "unknown"]


class Check(NamedTuple):
    """One line of the doctor; `code` is that of the error, if one was raised."""

    name: str
    state: State
    detail: str
    remedy: str = ""
    code: str = ""


class Subject(NamedTuple):
    """What is examined: an opened site, a study instead of the approved ones, where the coordinator is."""

    site: Site
    study: Study | None = None
    address: str | None = None
    ca: Path | None = None

    def studies(self) -> list[Study]:
        """The study that was named, else all that are approved."""
        return [self.study] if self.study else [approved.study for approved in self.site.studies]


class Unsound(Exception):  # noqa: N818
    """A finding on its way to a Check: its state, its detail and its remedy."""


def expect(holds: object, detail: str, remedy: str, state: State = "problem") -> None:
    """Raises Unsound unless something holds."""
    if not holds:
        raise Unsound(state, detail, remedy)


# --- the folder: what is installed, who can read it, keys, policy, disk


def installation(_: Subject) -> str:
    """One distribution alone is installed."""
    refuse_mixed()
    return "one distribution"


def folder(subject: Subject) -> str:
    """Other accounts cannot enter the site's folder, but for its group on the way to the socket."""
    home = subject.site.home
    inside = [(home / name, 0o077) for name in _PRIVATE]
    exposed = [path for path, mask in [(home, 0o027), *inside] if path.exists() and path.stat().st_mode & mask]
    remedy = f"Run: chmod g-w,o-rwx {home}; chmod -R go-rwx PATH for the others that are named."
    expect(not exposed, f"other accounts can enter {' '.join(map(str, exposed))}", remedy)
    return "only its owner can read it"


def approver(subject: Subject) -> str:
    """The approver's key is not within the agent's reach."""
    home, wanted = subject.site.home, bytes.fromhex(subject.site.party["approver"])
    for path in home.rglob("*.key"):
        if path.is_file() and path.stat().st_size == 65 and _public_of(path) == wanted:
            remedy = f"Move it out of {home}, offline, to the person who approves."
            raise Unsound("problem", f"{path} is the approver's key", remedy)
    return "not in the site's folder"


def _public_of(path: Path) -> bytes | None:
    try:
        return SigningKey(bytes.fromhex(path.read_text("ascii").strip())).public.raw
    except ValueError:
        return None


def keys(subject: Subject) -> str:
    """Identity, log key and key file open and are those of the card."""
    if not subject.site.card().items() <= subject.site.party.items():
        raise GenopactError("KEY_INVALID", "the keys are not those of the site's card")
    return f"identity and log open; {len(subject.site.keyfile)} people have or had a key"


def node_key(subject: Subject) -> str:
    """The link's key opens."""
    nodekey.load(subject.site.home / "link" / "node.key")
    return "opens"


def policy(subject: Subject) -> str:
    """The site policy loads, decides its own examples, and is of this site."""
    return f"loads, and {len(subject.site.policy.examples.cases)} examples are decided as they say"


def disk(subject: Subject) -> str:
    """There is space to grow."""
    free = shutil.disk_usage(subject.site.home).free
    expect(free >= FREE_BYTES, f"{free >> 20} MiB are free", "Add space: ledger and logs must be able to grow.")
    return f"{free >> 30} GiB free"


# --- outside this process: the agent's socket, the coordinator's port


def agent(subject: Subject) -> str:
    """Somebody answers on the agent's socket."""
    from genopact_client.link.socket import AgentChannel

    path = subject.site.home / "run" / "agent.sock"
    expect(path.is_socket(), "no agent runs", "Start it with genopact-site start or genopact-site agent.", "unknown")
    silent = Unsound("problem", "a socket is there, but nobody answers", CATALOGUE["AGENT_UNREACHABLE"].remedy)
    with replacing(GenopactError, silent), AgentChannel(path) as channel:
        return f"answers: {channel.health(TIMEOUT_S).decode()}"


def coordinator(subject: Subject) -> str:
    """TCP and TLS to the one host and port that the link needs."""
    addresses = [subject.address] if subject.address else [each.coordinator.address for each in subject.studies()]
    expect(addresses, "no address to try", "Name it with --address HOST:PORT.", "unknown")
    unfit = Unsound("problem", f"{subject.ca} holds no certificate", "Ask the coordinator for its authority's file.")
    with replacing(OSError, unfit):
        context = ssl.create_default_context(cafile=str(subject.ca)) if subject.ca else None
    for address in sorted(set(addresses)):
        _greet(address, context)
    unchecked = f"{', '.join(addresses)} can be reached, but no certificate was checked"
    expect(context is not None, unchecked, "Name the authority with --ca.", "unknown")
    return f"TLS to {', '.join(addresses)}"


def _greet(address: str, context: ssl.SSLContext | None) -> None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), TIMEOUT_S) as plain:
            if context:
                context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLError as error:
        remedy = "Check --ca, the name in --address and this machine's clock."
        raise Unsound("problem", f"{address}: its certificate is not of this authority", remedy) from error
    except (OSError, ValueError) as error:
        remedy = "Allow outgoing TCP to this one host and port; ask the coordinator if it runs."
        raise Unsound("problem", f"{address} does not answer", remedy) from error


# --- the records: store, consent, ledger, logs, studies and what patients can still pay


def store(subject: Subject) -> str:
    """The store opens, or an agent that answers holds it."""
    with suppressing("STORE_LOCKED"):
        facts = subject.site.store.manifest()
        expect(facts["rows"], "no person has a record", "Run genopact-site import.")
        return f"{facts['rows']} records, {facts['kind']}, version {facts['generation']}"
    agent(subject)
    return "held by the agent, which answers"


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


CHECKS: dict[str, Callable[[Subject], str]] = {
    "installation": installation, "folder": folder, "approver-key": approver, "keys": keys, "node-key": node_key,
    "policy": policy, "disk": disk, "store": store, "consent": consent, "ledger": ledger, "logs": logs,
    "ledger-roots": roots, "clock": clock, "studies": studies, "budget": budget, "coordinator": coordinator,
    "agent": agent,
}  # fmt: skip
"""Name -> a function that returns what is well, or raises Unsound or GenopactError."""


def examine(subject: Subject) -> Iterator[Check]:
    """All checks in order; one that fails does not keep the others from running."""
    for name, check in CHECKS.items():
        try:
            yield Check(name, "ok", check(subject))
        except Unsound as found:
            yield Check(name, *found.args)
        except Exception as error:  # noqa: BLE001 - a damaged database, for example
            known = error if isinstance(error, GenopactError) else GenopactError("INTERNAL", type(error).__name__)
            detail = known.fault.cause + (f" ({known.detail})" if known.detail else "")
            yield Check(name, "problem", detail, known.fault.remedy, known.code)
