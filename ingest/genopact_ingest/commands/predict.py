"""matrix: expression, methylation and the like, sealed in the same rows as everything else of a person.

predict: a finished run's model for people in the hospital's own files, who are neither imported nor kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from genopact_client.agent.runs import Runs, plan_of_run
from genopact_client.commands.opening import opened
from genopact_client.genotypes.sealed import variants_at
from genopact_client.site import Site
from genopact_client.store.sealed import Store
from genopact_ingest.commands.genotypes import known_people
from genopact_shared import wire
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.recipes import EXACT, chosen
from genopact_shared.recipes import table as tables
from genopact_shared.recipes.dose_features import OUTCOME, reasons
from genopact_shared.recipes.protocol import Prediction, Recipe
from genopact_shared.recipes.variants import Build
from genopact_shared.terminal import Answer, command, working

UNITS = {
    "dose": "mg/week", "dose-net": "mg/week", "trait": "standard deviations", "cell-response": "response",
    "rare-variant-autoencoder": "spreads", "synthetic-genomes": "copies",
}  # fmt: skip
"""Of a prediction, by recipe; those of other recipes are probabilities."""
LEAST_CALLED = 0.9
"""Share of the study's variants that a person's files have to call."""
FEW, NONE = "less than 90 % of the study's variants are called", "none of the study's features was measured"
NOTICE = "No model made here is approved for diagnosis or treatment."

Direction = Literal["rows", "columns"]
EXAMPLE = "genopact-site matrix import rna expr.tsv --features genes.txt --people rows --unit log2 --low 0 --high 25"

app = typer.Typer()
matrix = typer.Typer(name="matrix", help="Expression, methylation: features of people.", no_args_is_help=True)


@command(matrix, "import", example=EXAMPLE, room=opened)
def import_matrix(
    site: Site,
    name: Annotated[str, typer.Argument(help="The store: one for each study's list of features.")],
    file: Annotated[Path, typer.Argument(help="TSV or FASTA (plain or compressed), or parquet.")],
    *,
    features: Annotated[Path, typer.Option(help="The study's features, a line each, in its order.")],
    people: Annotated[Direction | None, typer.Option(help="What people are; not for FASTA.")] = None,
    unit: Annotated[str | None, typer.Option(help="Of all features; not for FASTA.")] = None,
    low: Annotated[float | None, typer.Option(help="The least value; not for FASTA.")] = None,
    high: Annotated[float | None, typer.Option(help="The greatest value; not for FASTA.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and report, change nothing.")] = False,
) -> Answer:
    """Check a matrix and seal the study's features of each person that this site knows; what it lacks is missing."""
    from genopact_ingest.omics import is_fasta, read_matrix

    require(Path(name).name == name and features.is_file(), "USAGE", "a name without slashes, and a file of features")
    if is_fasta(file):
        people, unit, low, high = "rows", "code of a letter", 0.0, 4.0
    if people is None or unit is None or low is None or high is None:
        raise GenopactError("USAGE", "give --people, --unit, --low and --high; a FASTA file needs none of them")
    listed = features.read_text("utf-8").split("\n")
    listed = listed[:-1] if listed[-1:] == [""] else listed
    require(len(set(listed)) == len(listed) and all(listed), "USAGE", "each feature once, and no empty line")
    with working("Reading"):
        found = read_matrix(file, listed, people=people, bounds=(low, high))
    rows, known = known_people(site, found.people)
    if not dry_run:
        path, schema = site.home / "omics" / name, [tables.Number(feature, unit, low, high) for feature in listed]
        if not (path / "manifest.dsse").exists():
            Store.create(path, site.keyfile, schema, site.store.manifest()["kind"]).close()
        columns = dict(zip(listed, found.values[known].T.astype(np.float64), strict=True))
        with working("Sealing"), Store(path, site.keyfile) as store:
            store.write(rows, tables.Table(columns, len(known)), {"matrix": found.digest})
    data = {"people": len(known), "strangers": len(found.people) - len(known), "features": len(listed), **found.notes}
    text = [f"{len(known)} people, {data['strangers']} are nobody this site knows"]
    text += [f"  {name.replace('_', ' ')}: {count}" for name, count in found.notes.items()]
    return Answer(data | {"sealed": not dry_run}, [*text, *["dry run: nothing was changed"] * dry_run])


@command(app, "predict", example="genopact-site predict 4f1c.. --table person.csv --genotypes chr1.vcf.gz", room=opened)
def predict(
    site: Site,
    run: Annotated[str, typer.Argument(help="A run that has finished, as `genopact-site outbox list` names it.")],
    *,
    table: Annotated[Path, typer.Option(help="CSV, TSV or parquet, a row for each person; needs no outcome.")],
    genotypes: Annotated[list[Path] | None, typer.Option(help="As in `import`; repeatable.")] = None,
    matrix: Annotated[list[str] | None, typer.Option(help="NAME=FILE, as in `matrix import`; repeatable.")] = None,
    people: Annotated[Direction, typer.Option(help="What people are in a matrix.")] = "rows",
    build: Annotated[Build | None, typer.Option(help="Of a recipe's own few variants, as in `import`.")] = None,
    reference: Annotated[Path | None, typer.Option(help="FASTA of the manifest's build.")] = None,
    array: Annotated[bool, typer.Option("--array", help="Letters may be of either strand.")] = False,
) -> Answer:
    """Predict for people in files by a run's model and this site's own term; nothing is imported, kept or sent."""
    from genopact_ingest.commands.covariates import joined
    from genopact_ingest.panel import read_vcf
    from genopact_ingest.table import read_table

    record = Runs(site.home / "runs").get(run)
    files = [site.home / "runs" / run / f"{name}.safetensors" for name in ("model", "personal")]
    if record is None or not files[0].exists():
        raise GenopactError("RUN_UNFINISHED" if record else "RUN_UNKNOWN")
    study = site.studies.approved(record.study).study
    plan, (recipe, of) = plan_of_run(study, record.approvals, site.published), chosen(study.recipe)
    with replacing(GenopactError, GenopactError("RUN_STATE_BROKEN", run)):
        model, own = (wire.unpack(each.read_bytes(), np.float64) if each.exists() else None for each in files)
    few = [each for each in recipe.schema if isinstance(each, tables.Dosage)]
    if recipe.name in EXACT or (genotypes and not (few or isinstance(of, tables.GenotypeParameters))):
        raise GenopactError("USAGE", f"recipe {recipe.name} reads no genotypes, or makes no model of a person")
    with working("Predicting"):
        read = read_table(table, [replace(each, role="feature") for each in recipe.schema])
        rows = replace(joined(read, [read_vcf(path, few, build) for path in genotypes or () if few]), site=site.name)
        if isinstance(of, tables.GenotypeParameters):
            sexes = dict(zip(read.people, rows.codes("sex").tolist(), strict=True))
            rows = replace(rows, genotypes=_copies(site, of.variants, sexes, genotypes or (), reference, array=array))
        wanted = of.matrices if isinstance(of, tables.MatrixParameters) else ()
        rows = replace(rows, matrices=_matrices(site, wanted, matrix or (), read.people, people))
        found = plan.recipe.predict(model or {}, own, rows)
    unit = UNITS.get(recipe.name.removesuffix("-evaluation"), "probability")
    listed, text = list[dict[str, Any]](), list[str]()
    ends = {} if found.low is found.value else {"low": found.low, "high": found.high}
    for at, (person, why) in enumerate(zip(read.people, _reasons(recipe, rows, found), strict=True)):
        told = {} if why else {name: each[at].tolist() for name, each in {"value": found.value, **ends}.items()}
        shown = [" ".join(f"{each:.3g}" for each in np.ravel(part)) for part in told.values()]
        interval = f"80 % interval {' to '.join(shown[1:])}" if ends else "without an interval"
        text.append(f"{person}: no advice: {why}" if why else f"{person}: {shown[0]} {unit}, {interval}")
        listed.append({"person": person, **told, "reason": why})
    text.append(f"{'With' if own else 'Without'} this site's own term. {NOTICE}")
    return Answer({"run": run, "unit": unit, "own_term": bool(own), "notice": NOTICE, "people": listed}, text)


def _reasons(recipe: Recipe, rows: tables.Table, found: Prediction) -> list[str]:
    """(n,) why a person gets no advice, "" for who gets it."""
    dose = reasons(rows, found.low, found.high) if recipe.outcome == OUTCOME else np.full(rows.n, "")
    called = [(codes >= 0).mean(axis=1) for _, codes in rows.dosages()] if rows.genotypes else [np.ones(rows.n)]
    known = [np.isfinite(each).any(axis=1) for name, each in rows.matrices.items() if name != recipe.outcome]
    finite = np.isfinite(np.column_stack([found.value, found.low, found.high])).all(axis=1)
    tests = [dose != "", np.concatenate(called) < LEAST_CALLED, ~np.any(known or [finite | True], axis=0), ~finite]
    return [str(why) for why in np.select(tests, [dose, FEW, NONE, "the model gives no number"], "")]


def _copies(
    site: Site, digest: str, sexes: Mapping[str, int], paths: Sequence[Path], reference: Path | None, *, array: bool
) -> tables.Copies:
    """The people's copies (n, V) in genotype files, harmonised as an import does.

    Args:
        site: has the study's variant manifest, whose store stays closed.
        digest: of the manifest.
        sexes: person -> 0 female, 1 male, -1 unknown; in the order of the rows.
        paths: files with other variants each; every person is in all of them.
        reference: see `files.harmonised`.
        array: likewise.

    Raises:
        ImportRefusedError: PERSON_LACKING among others. GenopactError: GENOTYPES_MISSING, VARIANT_TWICE.
    """
    from genopact_ingest import files

    features = variants_at(site.home / "genotypes" / site.genotypes_named(digest), digest)
    sources = dict(enumerate(map(files.opened, paths)))
    places = [_places([*sexes], each.samples, f"(file {at + 1} of --genotypes)") for at, each in sources.items()]
    found, out = files.Harmonised(np.zeros(len(features), np.bool_)), np.full((len(sexes), len(features)), -1, np.int8)

    def sex(samples: Sequence[str]) -> tables.Codes:
        return np.array([sexes.get(each, -1) for each in samples], np.int8)

    for at, called in files.harmonised(sources, features, reference, sex, found, array=array):
        rows, copies = (called.rows, called.dosages[:, places[at]].T) if called else (found.twice, -1)
        out[:, rows] = copies
    return tables.Copies(out)


def _matrices(
    site: Site, wanted: Sequence[tables.Matrix], given: Sequence[str], persons: Sequence[str], people: Direction
) -> dict[str, tables.Values]:
    """By name, (n, F) float32; NaN for what is not measured, and throughout for what is not given.

    Args:
        site: has the features and the bounds of each matrix.
        wanted: what the study reads.
        given: NAME=FILE; every person is in each file.
        persons: in the order of the rows.
        people: what they are in a file.

    Raises:
        ImportRefusedError: PERSON_LACKING among others. GenopactError: USAGE, MATRIX_MISSING.
    """
    from genopact_ingest.omics import read_matrix

    out = {each.name: np.full((len(persons), each.features), np.nan, np.float32) for each in wanted}
    for name, _, file in (each.partition("=") for each in given):
        if name not in out or np.isfinite(out[name]).any():
            raise GenopactError("USAGE", f"--matrix NAME=FILE, each NAME once: {', '.join(out) or 'none'}")
        columns = site.features(next(each for each in wanted if each.name == name)).columns
        names, bounds = [one["name"] for one in columns], (float(columns[0]["low"]), float(columns[0]["high"]))
        found = read_matrix(Path(file), names, people=people, bounds=bounds)
        out[name] = found.values[_places(persons, found.people, f"(matrix {name})")]
    return out


def _places(persons: Sequence[str], names: Sequence[str], detail: str) -> list[int]:
    """Where each of the persons stands among the names. PERSON_LACKING, with the row of each who does not."""
    from genopact_ingest.findings import Finding, refuse

    at = {name: place for place, name in enumerate(names)}
    refuse([Finding("PERSON_LACKING", detail, row) for row, each in enumerate(persons, start=2) if each not in at])
    return [at[each] for each in persons]
