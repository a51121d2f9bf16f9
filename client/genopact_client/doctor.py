"""The doctor: can this site take part? Each check says ok, problem or unknown, and what to do."""

import shutil
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genopact_client.copies import copied, ledger_copy, log_copy
from genopact_client.installed import refuse_mixed
from genopact_client.ledger_file import LedgerFile
from genopact_client.link import nodekey
from genopact_client.site import Site
from genopact_client.spending import can_pay, levels
from genopact_shared import statements
from genopact_shared.errors import CATALOGUE, GenopactError
from genopact_shared.keys import VerifyKey
from genopact_shared.plan import plan_of
from genopact_shared.study import Study

State = Literal["ok", "problem", "unknown"]
FREE_BYTES, CLOCK_S, TIMEOUT_S = 1 << 30, 300, 5.0
_PRIVATE = (
    "kek",
    "keys",
    "keyfile",
    "people.db",
    "consent.db",
    "store",
    "ledger",
    "studies",
    "runs",
    "outbox",
    "openings",
)


@dataclass(frozen=True)
class Check:
    """One line of the doctor; `code` is that of the error, if one was raised."""

    name: str
    state: State
    detail: str
    remedy: str = ""
    code: str = ""


@dataclass(frozen=True)
class Subject:
    """What is examined: an opened site, its card, a study instead of the approved ones, where the coordinator is."""

    site: Site
    card: Mapping[str, str]
    study: Study | None = None
    address: str | None = None
    ca: Path | None = None

    def studies(self) -> list[Study]:
        """The study that was named, else all that are approved."""
        return [self.study] if self.study else [approved.study for approved in self.site.studies]


class _Unsound(Exception):  # noqa: N818 - a finding on its way to a Check
    def __init__(self, state: State, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.state, self.detail, self.remedy = state, detail, remedy


def examine(subject: Subject) -> Iterator[Check]:
    """All checks in order; one that fails does not keep the others from running."""
    for name, check in CHECKS.items():
        try:
            yield Check(name, "ok", check(subject))
        except _Unsound as found:
            yield Check(name, found.state, found.detail, found.remedy)
        except GenopactError as error:
            state: State = "unknown" if error.code == "AGENT_UNREACHABLE" else "problem"
            detail = CATALOGUE[error.code].cause + (f" ({error.detail})" if error.detail else "")
            yield Check(name, state, detail, CATALOGUE[error.code].remedy, error.code)


def _installation(_: Subject) -> str:
    refuse_mixed()
    return "one distribution"


def _folder(subject: Subject) -> str:
    home = subject.site.home
    inside = [(home / name, 0o077) for name in _PRIVATE]
    exposed = [path for path, mask in [(home, 0o027), *inside] if path.exists() and path.stat().st_mode & mask]
    if exposed:
        names = " ".join(map(str, exposed))
        raise _Unsound(
            "problem",
            f"other accounts can enter {names}",
            f"Run: chmod g-w,o-rwx {home}; chmod -R go-rwx PATH for the others that are named",
        )
    return "only its owner can read it"


def _approver(subject: Subject) -> str:
    home, wanted = subject.site.home, bytes.fromhex(subject.card["approver"])
    for path in home.rglob("*.key"):
        if path.is_file() and path.stat().st_size == 65 and _seed_of(path) == wanted:
            raise _Unsound(
                "problem",
                f"{path} is the approver's key",
                f"Move it out of {home}, offline, to the person who approves.",
            )
    return "not in the site's folder"


def _seed_of(path: Path) -> bytes | None:
    from genopact_shared.keys import SigningKey

    try:
        return SigningKey.from_seed(bytes.fromhex(path.read_text("ascii").strip())).public.raw
    except ValueError:
        return None


def _keys(subject: Subject) -> str:
    opened = subject.site.card()
    if any(subject.card[use] != opened[use] for use in opened):
        raise GenopactError("KEY_INVALID", "the keys are not those of the site's card")
    return f"identity and log open; {len(subject.site.keyfile)} people have or had a key"


def _node_key(subject: Subject) -> str:
    nodekey.load(subject.site.home / "link" / "node.key")
    return "opens"


def _policy(subject: Subject) -> str:
    policy = subject.site.policy
    if policy.site != subject.site.name:
        raise GenopactError("POLICY_INVALID", f"it is the policy of {policy.site}")
    return f"loads, and {len(policy.examples.cases)} examples are decided as they say"


def _agent(subject: Subject) -> str:
    from genopact_client.link.socket import AgentChannel

    path = subject.site.home / "run" / "agent.sock"
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        raise _Unsound("unknown", "no agent runs", "Start it with genopact-site start or genopact-site agent.")
    with AgentChannel(path) as channel:
        try:
            return f"answers: {channel.health(TIMEOUT_S).decode()}"
        except GenopactError as error:
            raise _Unsound("problem", "a socket is there, but nobody answers", CATALOGUE[error.code].remedy) from error


def _store(subject: Subject) -> str:
    try:
        facts = subject.site.store.manifest()
    except GenopactError as error:
        if error.code != "STORE_LOCKED":
            raise
        _agent(subject)
        return "held by the agent, which answers"
    if not facts["rows"]:
        raise _Unsound("problem", "no person has a record", "Run genopact-site import.")
    return f"{facts['rows']} records, {facts['kind']}, version {facts['generation']}"


def _consent(subject: Subject) -> str:
    registry, people = subject.site.registry, len(subject.site.people)
    records = (registry.get(row) for row in range(people))
    active = sum(1 for record in records if record is not None and record.status == "active")
    if not active:
        raise _Unsound(
            "problem",
            f"none of {people} enrolled people has an active consent",
            "Run genopact-site consent import FILE.",
        )
    return f"{active} of {people} enrolled people have an active consent ({100 * active // people} %)"


def _ledger(subject: Subject) -> str:
    with ledger_copy(subject.site) as ledger:
        return f"opens; {len(ledger.open_reservations())} reservations were never settled"


def _logs(subject: Subject) -> str:
    sizes = []
    for folder in ("log", "private-log"):
        with log_copy(subject.site, folder) as log:
            sizes.append(log.size)
    return f"exchanged log {sizes[0]} entries, private log {sizes[1]}"


def _roots(subject: Subject) -> str:
    """Every ledger root that an intent put on record must be the ledger's head after some record of it."""
    intents = [each for each in _logged(subject) if isinstance(each, statements.Intent)]
    with copied(subject.site.home, "ledger") as path:
        file = LedgerFile(path, subject.site.keyfile.site_key("ledger"))
        try:
            heads = {file.head for _ in file.bodies()}
        finally:
            file.close()
    lost = sum(intent.ledger_root not in heads for intent in intents)
    if lost:
        raise GenopactError("LEDGER_ROLLED_BACK", f"{lost} of {len(intents)} intents")
    return f"{len(intents)} intents, each on the ledger"


def _clock(subject: Subject) -> str:
    ahead = max((each.at for each in _logged(subject)), default=0) - time.time()
    if ahead > CLOCK_S or time.time() < 1.7e9:
        raise _Unsound(
            "problem",
            "the clock stands before entries of the log",
            "Set the clock (systemctl status systemd-timesyncd) before the next round.",
        )
    return "not before any entry of the log"


def _disk(subject: Subject) -> str:
    free = shutil.disk_usage(subject.site.home).free
    if free < FREE_BYTES:
        raise _Unsound(
            "problem", f"{free >> 20} MiB are free", "Free or add space: ledger and logs must be able to grow."
        )
    return f"{free >> 30} GiB free"


def _studies(subject: Subject) -> str:
    approved = list(subject.site.studies)
    expired = [each.study.name for each in approved if each.study.expired(int(time.time()))]
    if expired:
        raise _Unsound("problem", f"{', '.join(expired)}: the last day has passed", CATALOGUE["STUDY_EXPIRED"].remedy)
    if not approved:
        raise _Unsound("unknown", "no study is approved", "Read one with genopact-site study check, then approve it.")
    return f"{len(approved)} approved, every signature holds"


def _budget(subject: Subject) -> str:
    """Who can still pay for the whole of each study; in tens."""
    studies = subject.studies()
    if not studies:
        raise _Unsound("unknown", "no study to look at", "Name one with --study, or approve one.")
    with ledger_copy(subject.site) as ledger:
        spent, people = levels(ledger, len(subject.site.people)), len(subject.site.people)
    spent[frozenset()] = people - spent.total()
    limit, said = subject.site.policy.limits.lifetime_epsilon_milli, []
    for study in studies:
        facts = [step.fact for step in plan_of(study, {study.parties[0].name: study.minimum_cohort}).steps]
        left = sum(n for level, n in spent.items() if can_pay(level, facts, limit, study.privacy.delta))
        if study.privacy.mode != "none" and left < study.minimum_cohort:
            raise _Unsound(
                "problem",
                f"{study.name}: fewer than {study.minimum_cohort} people can pay for it",
                "Leave the study; nobody's spending can be taken back.",
            )
        said.append(f"{study.name}: about {left // 10 * 10} people can pay for all of it")
    return "; ".join(said)


def _coordinator(subject: Subject) -> str:
    addresses = [subject.address] if subject.address else sorted({each.coordinator.address for each in subject.studies()})
    if not addresses:
        raise _Unsound("unknown", "no address to try", "Name it with --address HOST:PORT.")
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), TIMEOUT_S) as plain:
                if subject.ca is None:
                    raise _Unsound(
                        "unknown",
                        f"{address} is reachable, its certificate was not checked",
                        "Name the authority with --ca.",
                    )
                with ssl.create_default_context(cafile=str(subject.ca)).wrap_socket(plain, server_hostname=host):
                    pass
        except ssl.SSLError as error:
            raise _Unsound(
                "problem",
                f"{address}: its certificate is not of this authority",
                "Check --ca, the name in --address and this machine's clock.",
            ) from error
        except (OSError, ValueError) as error:
            raise _Unsound(
                "problem",
                f"{address} does not answer",
                "Allow outgoing TCP to this one host and port; ask the coordinator if it runs.",
            ) from error
    return f"TLS to {', '.join(addresses)}"


def _logged(subject: Subject) -> list[statements.Statement]:
    keys = [VerifyKey.from_hex(subject.card[use]) for use in ("identity", "approver")]
    with log_copy(subject.site) as log:
        return [statements.parse(entry, keys) for entry in log.entries()]


CHECKS: dict[str, Callable[[Subject], str]] = {
    "installation": _installation, "folder": _folder, "approver-key": _approver, "keys": _keys, "node-key": _node_key,
    "policy": _policy, "store": _store, "consent": _consent, "ledger": _ledger, "logs": _logs, "ledger-roots": _roots,
    "clock": _clock, "disk": _disk, "studies": _studies, "budget": _budget, "coordinator": _coordinator,
    "agent": _agent,
}  # fmt: skip
