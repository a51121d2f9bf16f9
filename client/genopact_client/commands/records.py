"""consent, outbox, ledger, log and open: what patients decide, what left, what was spent, what was put on record."""

import datetime as dt
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from genopact_client.commands.opening import HOME, Home, OneStudy, Yes, confirmed, opened
from genopact_client.consent.importers import import_csv
from genopact_client.consent.match import REASONS
from genopact_client.consent.record import Scope
from genopact_client.copies import ledger_copy, log_copy, logged
from genopact_client.ledger import DAY_S
from genopact_client.site import Site
from genopact_client.spending import epsilon_of, levels
from genopact_shared import durable, statements, wire
from genopact_shared.decision import Opening, verify_opening
from genopact_shared.errors import GenopactError, require, suppressing
from genopact_shared.keys import VerifyKey
from genopact_shared.study import load_study
from genopact_shared.terminal import Answer, command, working

Digest = Annotated[str, typer.Argument(help="The request's digest, or its beginning.")]
NewFolder = Annotated[Path, typer.Argument(help="A new folder; logs/SITE of an audit bundle.")]
Number = Annotated[int, typer.Argument(min=0)]
Person = Annotated[str, typer.Option(help="The hospital's patient number; - reads it from standard input.")]
Private = Annotated[bool, typer.Option("--private", help="The site's own log instead of the exchanged one.")]
Run = Annotated[str, typer.Argument(help="The run, 32 hexadecimal digits.")]
Patient = Annotated[str, typer.Argument(help="The hospital's patient number; - reads it from standard input.")]
HowFar = Annotated[Scope, typer.Option(help="no_new_use, no_access, or erase.")]
YesErase = Annotated[bool, typer.Option("--yes", help="Do not ask before erasing.")]

app = typer.Typer()
consent = typer.Typer(name="consent", help="What patients decided.", no_args_is_help=True)
outbox_app = typer.Typer(name="outbox", help="All that left.", no_args_is_help=True)
ledger_app = typer.Typer(name="ledger", help="Privacy spent.", no_args_is_help=True)
log_app = typer.Typer(name="log", help="The transparency logs.", no_args_is_help=True)


@command(consent, "import", example="genopact-site consent import consent.csv", room=opened)
def import_consent(site: Site, file: Annotated[Path, typer.Argument(help="CSV, one line for each person.")]) -> Answer:
    """Record the decisions of a file; people who are not in it stay as they are.

    A line that cannot be understood permits nothing from now on, and is listed.
    """
    with working("Recording consents"):
        report = import_csv(file, site.registry, site.people, _today())
    found = [{"line": each.line, "code": each.code, "fields": each.fields} for each in report.findings]
    text = [f"{report.changed} records are new or different, {len(found)} lines need a person"]
    text += [f"  line {each.line}: {each.code} {', '.join(each.fields)}".rstrip() for each in report.findings]
    return Answer({"changed": report.changed, "findings": found}, text, f"genopact-site doctor --home {site.home}")


@command(consent, "withdraw", example="genopact-site consent withdraw - < number.txt", room=opened)
def withdraw(site: Site, person: Patient, *, scope: HowFar = "no_access", yes: YesErase = False) -> Answer:
    """Record a withdrawal; it is in force from the next round on."""
    if scope == "erase":
        return erase(site, person, yes=yes)
    site.registry.withdraw(row_of(site, person), scope, _today())
    return Answer({"scope": scope}, [f"Withdrawn ({scope}): this person is in no later round."])


@command(consent, "erase", example="genopact-site consent erase - < number.txt", room=opened)
def erase(site: Site, person: Patient, *, yes: Yes = False) -> Answer:
    """Destroy a person's consent record and all keys of the person; the sealed data can never be read again."""
    confirmed("Destroy this person's keys for good?", yes=yes)
    row = row_of(site, person)
    site.registry.erase(row)
    for opened_store in site.stores():
        with suppressing("STORE_LOCKED", "ROW_UNKNOWN"):
            opened_store().erase(row)
    text = "Erased: the keys are destroyed here. Destroy older copies of the key file, too."
    return Answer({"scope": "erase"}, [text])


@command(consent, "status", example="genopact-site consent status --study warfarin.yaml", room=opened)
def status(site: Site, *, study: OneStudy = None) -> Answer:
    """Count who permits a study today, and why the others do not."""
    studies = [load_study(study)] if study else [approved.study for approved in site.studies]
    require(studies, "USAGE", "no study is approved here: name one with --study")
    counts, text = {}, []
    for each in studies:
        found = site.registry.permitted(each.purpose, _today())
        permitted, reasons = int(found.rows.sum()), dict(sorted(found.reasons.items()))
        counts[each.name] = {"enrolled": found.size, "permitted": permitted, "reasons": reasons}
        text.append(f"{each.name}: {permitted} of {found.size} enrolled people permit it today")
        text += [f"  {count:7}  {REASONS.get(code, code)} ({code})" for code, count in reasons.items()]
    return Answer({"studies": counts}, text)


def row_of(site: Site, person: str) -> int:
    """The row of a patient number, or of the one on standard input. CONSENT_UNKNOWN_PERSON."""
    number = sys.stdin.read() if person == "-" else person
    row = site.people.row(number) if number.strip() else None
    if row is None:
        raise GenopactError("CONSENT_UNKNOWN_PERSON")
    return row


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


@command(outbox_app, "list", example="genopact-site outbox list")
def outbox_list(*, home: Home = HOME) -> Answer:
    """List every reply that left: when, for what, how large."""
    sent = [about for about, _ in _sent(Site.keyless(home))]
    line = "{at}  {request:.16}  {op:6}  run {run:.8} round {round} attempt {attempt}  {bytes} bytes"
    return Answer({"replies": sent}, [line.format(**each) for each in sent] or ["Nothing has left."])


@command(outbox_app, "show", example="genopact-site outbox show 3f9a")
def outbox_show(request: Digest, *, home: Home = HOME) -> Answer:
    """Show one reply as it left, with the mechanism of its intent; the numbers themselves stay in the file."""
    site = Site.keyless(home)
    found = [(about, reply) for about, reply in _sent(site) if about["request"].startswith(request)]
    require(len(found) == 1, "USAGE", f"{len(found)} replies answer a request that begins so")
    about, reply = found[0]
    if reply.intent:
        intent = statements.parse(reply.intent.encode(), [VerifyKey.from_hex(site.party["identity"])])
        about |= {"intent": intent.model_dump(mode="json")}
    return Answer(about, [f"{name:9} {value}" for name, value in about.items()])


@command(ledger_app, "show", example="genopact-site ledger show", room=opened)
def ledger_show(site: Site) -> Answer:
    """Show the facts charged to patients and the epsilon they compose to; counts of patients are rounded to tens."""
    with ledger_copy(site) as ledger:
        limits = site.policy.limits
        delta, window = limits.max_delta, limits.window
        found = [
            {
                "patients": f"about {count // 10 * 10}" if count >= 10 else "under 10",
                "epsilon": epsilon_of(delta, level),
                "facts": [{"times": times, **fact.model_dump(mode="json")} for fact, times in sorted(level, key=repr)],
            }
            for level, count in levels(ledger, len(site.people)).items()
        ]
        head, unsettled = ledger.head, len(ledger.open_reservations())
        since = ledger.window_start(int(time.time()) // DAY_S, window) if window else 0
        recent = epsilon_of(delta, *levels(ledger, len(site.people), since))
    found.sort(key=lambda each: float(each["epsilon"]), reverse=True)  # type: ignore[arg-type]
    spent, cap = found[0]["epsilon"] if found else "0.0", limits.lifetime_epsilon_milli / 1000
    text = [f"Epsilon spent by a patient: {spent} at most (delta {delta}); the site's limit for life is {cap:g}"]
    if window:
        text.append(f"In {window.days} days: {recent} at most; the limit is {window.epsilon_milli / 1000:g}")
    text += [f"  {each['patients']} patients: epsilon {each['epsilon']}, {_facts(each['facts'])}" for each in found]
    text += [f"Reservations never settled (a crash, or a round under way): {unsettled}", f"Head: {head}"]
    data = {"delta": delta, "epsilon": spent, "window_epsilon": recent if window else None}
    return Answer({**data, "levels": found, "unsettled": unsettled, "head": head}, text)


@command(log_app, "show", example="genopact-site log show --private", room=opened)
def log_show(site: Site, *, private: Private = False) -> Answer:
    """List a log's entries in order."""
    entries = [_entry(*numbered) for numbered in enumerate(logged(site, "private-log" if private else "log"))]
    shown = [(" ".join(f"{key} {value}" for key, value in _position(each)), each) for each in entries]
    text = ["{number:5}  {time}  {kind:12}  {}".format(place, **each) for place, each in shown]
    return Answer({"entries": entries}, text or ["The log is empty."])


@command(log_app, "export", example="genopact-site log export bundle/logs/northgate", room=opened)
def log_export(site: Site, folder: NewFolder) -> Answer:
    """Write the exchanged log and a signed checkpoint of it, as an audit bundle holds them."""
    with log_copy(site) as log:
        (entries, checkpoint), size = log.export(), log.size
    folder.mkdir(parents=True, exist_ok=True)
    durable.replace(folder / "entries", entries)
    durable.replace(folder / "checkpoint", checkpoint)
    return Answer({"entries": size, "folder": str(folder)}, [f"Wrote {size} entries and a checkpoint to {folder}"])


@command(app, "open", example="genopact-site open RUN 0 0 --person - < number.txt", room=opened)
def open_decision(site: Site, run: Run, round: Number, attempt: Number, *, person: Person) -> Answer:  # noqa: A002 - the wire's word
    """Open a round's decision root on site: was this person among the permitted? Checked against the logged intent."""
    path = site.home / "openings" / f"{run}-{round:04d}-{attempt:02d}.json"
    intents = [each for each in logged(site) if isinstance(each, statements.Intent)]
    intents = [each for each in intents if (each.run, each.round, each.attempt) == (run, round, attempt)]
    require(len(intents) == 1 and path.is_file(), "OPENING_MISSING")
    opening = Opening.model_validate_json(path.read_bytes())
    require(verify_opening(opening, intents[0]), "SIGNATURE_INVALID", "the opening is not the one that was logged")
    permitted = opening.permits(row_of(site, person))
    data = {"permitted": permitted, "decision_root": intents[0].decision_root, "as_of": opening.as_of}
    said = "was" if permitted else "was not"
    return Answer(data, [f"This person {said} among the permitted, as the logged decision root proves."])


def _sent(site: Site) -> Iterator[tuple[dict[str, Any], wire.Reply]]:
    """Facts and message of every reply in the outbox, its signature checked."""
    key = VerifyKey.from_hex(site.party["identity"])
    for digest, frame in site.outbox:
        reply, _ = wire.unseal(wire.Reply, frame, key)
        at = dt.datetime.fromtimestamp((site.home / "outbox" / f"{digest}.frame").stat().st_mtime, dt.UTC)
        about = reply.model_dump(include={"op", "study", "run", "round", "attempt", "body"})
        yield {"at": at.isoformat(timespec="seconds"), "request": digest, **about, "bytes": len(frame)}, reply


def _entry(number: int, statement: statements.Statement) -> dict[str, Any]:
    time = dt.datetime.fromtimestamp(statement.at, dt.UTC).isoformat(timespec="seconds")
    return {"number": number, "time": time, "kind": statement.kind, **statement.model_dump(mode="json")}


def _position(entry: dict[str, Any]) -> list[tuple[str, Any]]:
    shown = ("study", "run", "round", "attempt", "step", "outcome", "reasons", "code")
    return [(key, str(entry[key])[: 8 if key == "study" else None]) for key in shown if key in entry]


def _facts(facts: Any) -> str:
    return ", ".join(f"{each['times']} x {each['kind']}" for each in facts)
