"""One import: a table and VCFs are read and checked, joined by person, and sealed; or nothing is changed."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genopact_client.commands.opening import schemas
from genopact_client.site import Site
from genopact_client.store.sealed import facts
from genopact_ingest.fhir import read_fhir
from genopact_ingest.findings import Finding, refuse
from genopact_ingest.panel import Calls, read_vcf
from genopact_ingest.table import Covariates, read_table
from genopact_shared import __version__
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.table import Codes, Column, Dosage, Floats, Table
from genopact_shared.recipes.variants import Build
from genopact_shared.terminal import Answer, working


class Files(NamedTuple):
    """What a hospital exports: a table, or FHIR resources with a mapping. Samples of the VCFs carry its persons."""

    table: Path | None
    vcfs: tuple[Path, ...] = ()
    build: Build | None = None
    fhir: tuple[Path, ...] = ()
    mapping: Path | None = None

    def covariates(self, schema: Sequence[Column]) -> Covariates:
        """What they say of the schema's columns. ImportRefusedError, USAGE."""
        if self.mapping and self.fhir and not self.table:
            return read_fhir(self.fhir, self.mapping, schema)
        if self.table and not (self.fhir or self.mapping):
            return read_table(self.table, schema)
        raise GenopactError("USAGE", "give --table, or --fhir with --mapping")


def import_site(files: Files, schema: Sequence[Column], site: Site, *, dry_run: bool = False) -> Answer:
    """Import the files into the store, as a new version of each person's record; people who are not in them stay.

    The answer's counts are for this site's eyes. `erased`: people of the files whose data was erased earlier; they are
    not taken in again. `strangers`: samples of the VCFs that are no person of the table. `observed`: known values by
    column. `generation`: None for a dry run.

    Args:
        files: the hospital's export.
        schema: the recipe's; the store was created for it.
        site: its people, key file and store.
        dry_run: check and report only.

    Raises:
        ImportRefusedError: with findings; nothing was changed.
        GenopactError: TABLE_INVALID if the store was created for another schema.
    """
    if list(facts(schema)) != site.store.manifest()["columns"]:
        raise GenopactError("TABLE_INVALID", "the store was created for another schema")
    with working("Reading the table"):
        covariates = files.covariates(schema)
    wanted = [column for column in schema if isinstance(column, Dosage)]
    calls = []
    for number, path in enumerate(files.vcfs, start=1):
        with working(f"Reading VCF {number} of {len(files.vcfs)}"):
            calls.append(read_vcf(path, wanted, files.build))
    table = joined(covariates, calls)
    with working("Sealing"):
        return _seal(covariates, calls, table, site, dry_run=dry_run)


def joined(covariates: Covariates, calls: Sequence[Calls]) -> Table:
    """The table with the VCFs' dosages; a dosage that both know must be the same. ImportRefusedError."""
    place = {person: index for index, person in enumerate(covariates.people)}
    columns: dict[str, Floats | Codes] = dict(covariates.table.columns)
    findings, called = list[Finding](), set[str]()
    for source in calls:
        pairs = [(place[sample], at) for at, sample in enumerate(source.samples) if sample in place]
        if not pairs:
            findings.append(Finding("VCF_PEOPLE"))
            continue
        findings += [Finding("VCF_TWICE", column=name) for name in called & source.dosages.keys()]
        called |= source.dosages.keys()
        rows, samples = np.array(pairs, np.intp).T
        for name, dosages in source.dosages.items():
            stated = covariates.table.codes(name)
            found = np.full(len(place), -1, np.int8)
            found[rows] = dosages[samples]
            conflicts = np.flatnonzero((stated >= 0) & (found >= 0) & (stated != found)).tolist()
            findings += [Finding("DOSAGE_CONFLICT", row=row + 2, column=name) for row in conflicts]
            columns[name] = np.where(found >= 0, found, stated)
    refuse(findings)
    return Table(columns, covariates.table.n)


def _seal(covariates: Covariates, calls: Sequence[Calls], table: Table, site: Site, *, dry_run: bool) -> Answer:
    known = site.people.find(covariates.people)
    erased = (known >= 0) & ~site.keyfile.alive(known)
    if not dry_run:
        vcfs = [{"digest": source.digest, "build": source.build} for source in calls]
        provenance = {"software": f"genopact {__version__}", "table": covariates.digest, "vcfs": vcfs}
        rows = site.people.enrol(covariates.people)
        site.store.write(rows[~erased], table.take(~erased), provenance)
    generation = None if dry_run else site.store.manifest()["generation"]
    strangers = len({sample for source in calls for sample in source.samples} - set(covariates.people))
    data = {"people": table.n, "new": int((known < 0).sum()), "erased": int(erased.sum()), "strangers": strangers}
    observed = {name: int(table.known(name).sum()) for name in table.columns}
    notes = sum((source.notes for source in calls), Counter(covariates.notes))
    text = [f"{table.n} people: {data['new']} new, {data['erased']} left out because they were erased"]
    text += [f"{strangers} samples of the VCF are not in the table and were left out"] * bool(strangers)
    text += [f"  {name}: {known} known, {table.n - known} missing" for name, known in observed.items()]
    text += [f"  {note.replace('_', ' ')}: {count}" for note, count in notes.items()]
    text += ["dry run: nothing was changed" if dry_run else f"sealed as version {generation}"]
    follow = "" if dry_run else f"genopact-site consent import --home {site.home} consent.csv"
    return Answer(data | {"generation": generation, "observed": observed, "notes": notes}, text, follow)


def schema_of(site: Site) -> tuple[Column, ...]:
    """The installed schema for which the store was created."""
    columns = site.store.manifest()["columns"]
    for schema in schemas().values():
        if list(facts(schema)) == columns:
            return schema
    raise GenopactError("RECIPE_UNKNOWN", "the store was created for a recipe that is not installed")
