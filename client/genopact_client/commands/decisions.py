"""consent: what patients decide."""

import datetime as dt
import sys
from pathlib import Path
from typing import Annotated

import typer

from genopact_client.commands.opening import OneStudy, Yes, confirmed, opened
from genopact_client.consent.importers import import_csv
from genopact_client.consent.match import REASONS
from genopact_client.consent.record import Scope
from genopact_client.site import Site
from genopact_shared.errors import GenopactError, require, suppressing
from genopact_shared.study import load_study
from genopact_shared.terminal import Answer, command, working

Person = Annotated[str, typer.Argument(help="The hospital's patient number; - reads it from standard input.")]
HowFar = Annotated[Scope, typer.Option(help="no_new_use, no_access, or erase.")]
YesErase = Annotated[bool, typer.Option("--yes", help="Do not ask before erasing.")]


consent = typer.Typer(name="consent", help="What patients decided.", no_args_is_help=True)


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
def withdraw(site: Site, person: Person, *, scope: HowFar = "no_access", yes: YesErase = False) -> Answer:
    """Record a withdrawal; it is in force from the next round on."""
    if scope == "erase":
        return erase(site, person, yes=yes)
    site.registry.withdraw(row_of(site, person), scope, _today())
    return Answer({"scope": scope}, [f"Withdrawn ({scope}): this person is in no later round."])


@command(consent, "erase", example="genopact-site consent erase - < number.txt", room=opened)
def erase(site: Site, person: Person, *, yes: Yes = False) -> Answer:
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
