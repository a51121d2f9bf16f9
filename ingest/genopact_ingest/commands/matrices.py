"""matrix: expression, methylation and the like, sealed in the same rows as everything else of a person."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from genopact_client.commands.opening import opened
from genopact_client.site import Site
from genopact_client.store import Store
from genopact_ingest.commands.genotypes import known_people
from genopact_shared.errors import GenopactError, require
from genopact_shared.recipes.protocol import Number, Table
from genopact_shared.terminal import Answer, command, working

EXAMPLE = "genopact-site matrix import rna expr.tsv --features genes.txt --people rows --unit log2 --low 0 --high 25"

app = typer.Typer(name="matrix", help="Expression, methylation: features of people.", no_args_is_help=True)


@command(app, "import", example=EXAMPLE, room=opened)
def import_matrix(
    site: Site,
    name: Annotated[str, typer.Argument(help="The store: one for each study's list of features.")],
    file: Annotated[Path, typer.Argument(help="TSV or FASTA (plain or compressed), or parquet.")],
    *,
    features: Annotated[Path, typer.Option(help="The study's features, a line each, in its order.")],
    people: Annotated[Literal["rows", "columns"] | None, typer.Option(help="What people are; not for FASTA.")] = None,
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
        path, schema = site.home / "omics" / name, [Number(feature, unit, low, high) for feature in listed]
        if not (path / "manifest.dsse").exists():
            Store.create(path, site.keyfile, schema, site.store.manifest()["kind"]).close()
        columns = dict(zip(listed, found.values[known].T.astype(np.float64), strict=True))
        with working("Sealing"), Store(path, site.keyfile) as store:
            store.write(rows, Table(columns, len(known)), {"matrix": found.digest})
    data = {"people": len(known), "strangers": len(found.people) - len(known), "features": len(listed), **found.notes}
    text = [f"{len(known)} people, {data['strangers']} are nobody this site knows"]
    text += [f"  {name.replace('_', ' ')}: {count}" for name, count in found.notes.items()]
    return Answer(data | {"sealed": not dry_run}, [*text, *["dry run: nothing was changed"] * dry_run])
