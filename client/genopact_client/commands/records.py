"""outbox, ledger, log and open: what left, what was spent, what was put on record, who was in a round."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from genopact_client.commands.data import row_of
from genopact_client.commands.opening import HOME, Home, PassphraseFile, card, keyless, opened
from genopact_client.copies import ledger_copy, log_copy
from genopact_client.spending import epsilon_of, levels
from genopact_shared import durable, statements, wire
from genopact_shared.decision import Opening, verify_opening
from genopact_shared.errors import GenopactError
from genopact_shared.keys import VerifyKey
from genopact_shared.terminal import Answer, command
from genopact_shared.tlog.log import Log

Person = Annotated[str, typer.Option(help="The hospital's patient number; - reads it from standard input.")]
PRIVATE = Annotated[bool, typer.Option("--private", help="The site's own log instead of the exchanged one.")]


def add_to(app: typer.Typer, outbox: typer.Typer, ledger: typer.Typer, log: typer.Typer) -> None:
    """Register the commands."""
    command(outbox, "list", example="genopact-site outbox list")(outbox_list)
    command(outbox, "show", example="genopact-site outbox show 3f9a")(outbox_show)
    command(ledger, "show", example="genopact-site ledger show")(ledger_show)
    command(log, "show", example="genopact-site log show --private")(log_show)
    command(log, "export", example="genopact-site log export bundle/logs/northgate")(log_export)
    command(app, "open", example="genopact-site open RUN 0 0 --person - < number.txt")(open_decision)


def outbox_list(*, home: Home = HOME) -> Answer:
    """List every reply that left: when, for what, how large."""
    sent = [about for about, _ in _sent(home)]
    text = [
        f"{each['at']}  {each['request'][:16]}  {each['op']:6}  run {each['run'][:8]} round {each['round']} "
        f"attempt {each['attempt']}  {each['bytes']} bytes"
        for each in sent
    ]
    return Answer({"replies": sent}, text or ["Nothing has left."])


def outbox_show(
    request: Annotated[str, typer.Argument(help="The request's digest, or its beginning.")], *, home: Home = HOME
) -> Answer:
    """Show one reply as it left, with the mechanism of its intent; the numbers themselves stay in the file."""
    found = [(about, reply) for about, reply in _sent(home) if about["request"].startswith(request)]
    if len(found) != 1:
        raise GenopactError("USAGE", f"{len(found)} replies answer a request that begins so")
    about, reply = found[0]
    if reply.intent:
        intent = statements.parse(reply.intent.encode(), [VerifyKey.from_hex(card(home)["identity"])])
        about |= {"intent": intent.model_dump(mode="json")}
    return Answer(about, [f"{name:9} {value}" for name, value in about.items()])


def ledger_show(*, home: Home = HOME, passphrase_file: PassphraseFile = None) -> Answer:
    """Show the facts charged to patients and the epsilon they compose to; counts of patients are rounded to tens."""
    with opened(home, passphrase_file) as site, ledger_copy(site) as ledger:
        deltas = {approved.study.privacy.delta for approved in site.studies} or {"0.000001"}
        delta = min(deltas, key=float)
        found = [
            {
                "patients": f"about {count // 10 * 10}" if count >= 10 else "under 10",
                "epsilon": epsilon_of(level, delta),
                "facts": [{"times": times, **fact.model_dump(mode="json")} for fact, times in sorted(level, key=repr)],
            }
            for level, count in levels(ledger, len(site.people)).items()
        ]
        head, unsettled = ledger.head, len(ledger.open_reservations())
        cap = site.policy.limits.lifetime_epsilon_milli / 1000
    found.sort(key=lambda each: float(each["epsilon"]), reverse=True)  # type: ignore[arg-type]
    most = found[0]["epsilon"] if found else "0.0"
    text = [f"Epsilon spent by a patient: {most} at most (delta {delta}); the site's limit for life is {cap:g}"]
    text += [f"  {each['patients']} patients: epsilon {each['epsilon']}, {_facts(each['facts'])}" for each in found]
    text += [f"Reservations never settled (a crash, or a round under way): {unsettled}", f"Head: {head}"]
    return Answer({"delta": delta, "epsilon": most, "levels": found, "unsettled": unsettled, "head": head}, text)


def log_show(*, private: PRIVATE = False, home: Home = HOME, passphrase_file: PassphraseFile = None) -> Answer:
    """List a log's entries in order."""
    with opened(home, passphrase_file) as site, log_copy(site, "private-log" if private else "log") as log:
        entries = [_entry(number, statement) for number, statement in _statements(log, home)]
    text = [
        f"{each['number']:5}  {each['time']}  {each['kind']:12}  " + " ".join(f"{k} {v}" for k, v in _position(each))
        for each in entries
    ]
    return Answer({"entries": entries}, text or ["The log is empty."])


def log_export(
    folder: Annotated[Path, typer.Argument(help="A new folder; logs/SITE of an audit bundle.")],
    *,
    home: Home = HOME,
    passphrase_file: PassphraseFile = None,
) -> Answer:
    """Write the exchanged log and a signed checkpoint of it, as an audit bundle holds them."""
    with opened(home, passphrase_file) as site, log_copy(site) as log:
        entries, checkpoint = log.export()
        size = log.size
    folder.mkdir(parents=True, exist_ok=True)
    durable.replace(folder / "entries", entries)
    durable.replace(folder / "checkpoint", checkpoint)
    return Answer({"entries": size, "folder": str(folder)}, [f"Wrote {size} entries and a checkpoint to {folder}"])


def open_decision(
    run: Annotated[str, typer.Argument(help="The run, 32 hexadecimal digits.")],
    round: Annotated[int, typer.Argument(min=0)],  # noqa: A002 - the wire's word
    attempt: Annotated[int, typer.Argument(min=0)],
    *,
    person: Person,
    home: Home = HOME,
    passphrase_file: PassphraseFile = None,
) -> Answer:
    """Open a round's decision root on site: was this person among the permitted? Checked against the logged intent."""
    path = home / "openings" / f"{run}-{round:04d}-{attempt:02d}.json"
    with opened(home, passphrase_file) as site, log_copy(site) as log:
        intents = [
            each
            for _, each in _statements(log, home)
            if isinstance(each, statements.Intent) and (each.run, each.round, each.attempt) == (run, round, attempt)
        ]
        if len(intents) != 1 or not path.is_file():
            raise GenopactError("OPENING_MISSING")
        opening = Opening.model_validate_json(path.read_bytes())
        if not verify_opening(opening, intents[0]):
            raise GenopactError("SIGNATURE_INVALID", "the opening is not the one that was logged")
        permitted = opening.permits(row_of(site, person))
    data = {"permitted": permitted, "decision_root": intents[0].decision_root, "as_of": opening.as_of}
    said = "was" if permitted else "was not"
    return Answer(data, [f"This person {said} among the permitted, as the logged decision root proves."])


def _sent(home: Path) -> Iterator[tuple[dict[str, Any], wire.Reply]]:
    """Facts and message of every reply in the outbox, its signature checked."""
    key = VerifyKey.from_hex(card(home)["identity"])
    for digest, frame in keyless(home).outbox:
        reply, _ = wire.unseal(wire.Reply, frame, key)
        at = dt.datetime.fromtimestamp((home / "outbox" / f"{digest}.frame").stat().st_mtime, dt.UTC)
        about = reply.model_dump(include={"op", "study", "run", "round", "attempt", "body"})
        yield {"at": at.isoformat(timespec="seconds"), "request": digest, **about, "bytes": len(frame)}, reply


def _statements(log: Log, home: Path) -> Iterator[tuple[int, statements.Statement]]:
    keys = [VerifyKey.from_hex(card(home)[use]) for use in ("identity", "approver")]
    for number, entry in enumerate(log.entries()):
        yield number, statements.parse(entry, keys)


def _entry(number: int, statement: statements.Statement) -> dict[str, Any]:
    time = dt.datetime.fromtimestamp(statement.at, dt.UTC).isoformat(timespec="seconds")
    return {"number": number, "time": time, "kind": statement.kind, **statement.model_dump(mode="json")}


def _position(entry: dict[str, Any]) -> list[tuple[str, Any]]:
    shown = ("study", "run", "round", "attempt", "step", "outcome", "reasons", "code")
    short = {"study": 8}
    return [(key, str(entry[key])[: short.get(key)]) for key in shown if key in entry]


def _facts(facts: Any) -> str:
    return ", ".join(f"{each['times']} x {each['kind']}" for each in facts)
