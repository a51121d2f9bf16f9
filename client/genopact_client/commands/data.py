"""import and consent: what comes into the site, and what patients decide about it."""

import datetime as dt
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, cast

import typer

from genopact_client.commands.opening import HOME, Home, PassphraseFile, confirmed, opened, schemas
from genopact_client.consent.importers import import_csv
from genopact_client.consent.match import REASONS
from genopact_client.consent.record import Scope
from genopact_client.site import Site
from genopact_client.store.schema import facts
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.protocol import Column
from genopact_shared.study import Study, load_study
from genopact_shared.terminal import Answer, command, human, working
from genopact_shared.variants import Build

Person = Annotated[str, typer.Argument(help="The hospital's patient number; - reads it from standard input.")]


def add_to(app: typer.Typer, consent: typer.Typer) -> None:
    """Register the commands."""
    command(app, "import", example="genopact-site import --table covariates.csv --vcf genotypes.vcf.gz")(import_files)
    command(consent, "import", example="genopact-site consent import consent.csv")(import_consent)
    command(consent, "withdraw", example="genopact-site consent withdraw - < number.txt")(withdraw)
    command(consent, "erase", example="genopact-site consent erase - < number.txt")(erase)
    command(consent, "status", example="genopact-site consent status --study warfarin.yaml")(status)


def import_files(
    *,
    table: Annotated[Path, typer.Option(help="CSV, one row for each person.")],
    vcf: Annotated[list[Path] | None, typer.Option(help="VCF; repeat it for several.")] = None,
    build: Annotated[Build | None, typer.Option(help="Default: by the contig lengths of the VCF.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and report, change nothing.")] = False,
    home: Home = HOME,
    passphrase_file: PassphraseFile = None,
) -> Answer:
    """Check covariates and genotypes and seal them, or list everything that is wrong with them and change nothing."""
    from genopact_client.ingest.importer import Files, Rooms, import_site

    with opened(home, passphrase_file) as site:
        rooms = cast("Rooms", site)  # a cached property is a property to Python, not to every type checker
        done = import_site(
            Files(table, tuple(vcf or ()), build), _schema(site), rooms, dry_run=dry_run, console=human()
        )
    counts = {
        name: getattr(done, name)
        for name in ("people", "new", "erased", "strangers", "generation", "observed", "notes")
    }
    follow = f"genopact-site consent import --home {home} consent.csv"
    return Answer(counts, next="" if dry_run else follow)


def import_consent(
    file: Annotated[Path, typer.Argument(help="CSV, one line for each person.")],
    *,
    home: Home = HOME,
    passphrase_file: PassphraseFile = None,
) -> Answer:
    """Record the decisions of a file; people who are not in it stay as they are.

    A line that cannot be understood permits nothing from now on, and is listed.
    """
    with opened(home, passphrase_file) as site, working("Recording consents"):
        report = import_csv(file, site.registry, site.people, _today())
    found = [{"line": each.line, "code": each.code, "fields": each.fields} for each in report.findings]
    text = [f"{report.changed} records are new or different, {len(found)} lines need a person"]
    text += [f"  line {each.line}: {each.code} {', '.join(each.fields)}".rstrip() for each in report.findings]
    return Answer({"changed": report.changed, "findings": found}, text, f"genopact-site doctor --home {home}")


def withdraw(
    person: Person,
    *,
    scope: Annotated[Scope, typer.Option(help="no_new_use, no_access, or erase.")] = "no_access",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before erasing.")] = False,
    home: Home = HOME,
    passphrase_file: PassphraseFile = None,
) -> Answer:
    """Record a withdrawal; it is in force from the next round on."""
    if scope == "erase":
        return erase(person, yes=yes, home=home, passphrase_file=passphrase_file)
    with opened(home, passphrase_file) as site:
        site.registry.withdraw(row_of(site, person), scope, _today())
    return Answer({"scope": scope}, [f"Withdrawn ({scope}): this person is in no later round."])


def erase(
    person: Person,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = HOME,
    passphrase_file: PassphraseFile = None,
) -> Answer:
    """Destroy a person's consent record and all keys of the person; the sealed data can never be read again."""
    confirmed("Destroy this person's keys for good?", yes=yes)
    with opened(home, passphrase_file) as site:
        row = row_of(site, person)
        site.registry.erase(row)
        try:
            site.store.erase(row)
        except GenopactError as error:
            if error.code not in {"STORE_LOCKED", "ROW_UNKNOWN"}:
                raise
    text = ["Erased: the keys are destroyed here. Destroy older copies of the key file, too."]
    return Answer({"scope": "erase"}, text)


def status(
    *,
    study: Annotated[Path | None, typer.Option(help="A study file; default: each approved study.")] = None,
    home: Home = HOME,
    passphrase_file: PassphraseFile = None,
) -> Answer:
    """Count who permits a study today, and why the others do not."""
    with opened(home, passphrase_file) as site:
        studies = [load_study(study)] if study else [approved.study for approved in site.studies]
        if not studies:
            raise GenopactError("USAGE", "no study is approved here: name one with --study")
        counts = {each.name: _counts(site, each) for each in studies}
    text = [line for name, found in counts.items() for line in _lines(name, found)]
    return Answer({"studies": counts}, text)


def _counts(site: Site, study: Study) -> dict[str, int | dict[str, int]]:
    permission = site.registry.permitted(study.purpose, _today())
    return {
        "enrolled": permission.size,
        "permitted": int(permission.rows.sum()),
        "reasons": dict(sorted(Counter(permission.reasons).items())),
    }


def _lines(name: str, found: dict[str, int | dict[str, int]]) -> list[str]:
    reasons = found["reasons"]
    listed = reasons.items() if isinstance(reasons, dict) else ()
    rows = [f"  {count:7}  {REASONS.get(code, code)} ({code})" for code, count in listed]
    return [f"{name}: {found['permitted']} of {found['enrolled']} enrolled people permit it today", *rows]


def _schema(site: Site) -> tuple[Column, ...]:
    """The installed schema for which the store was created."""
    columns = site.store.manifest()["columns"]
    for schema in schemas().values():
        if list(facts(schema)) == columns:
            return schema
    raise GenopactError("RECIPE_UNKNOWN", "the store was created for a recipe that is not installed")


def row_of(site: Site, person: str) -> int:
    """The row of a patient number, or of the one on standard input. CONSENT_UNKNOWN_PERSON."""
    number = sys.stdin.read() if person == "-" else person
    row = site.people.row(number) if number.strip() else None
    if row is None:
        raise GenopactError("CONSENT_UNKNOWN_PERSON")
    return row


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()
