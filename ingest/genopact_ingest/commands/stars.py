"""pharmacogenes: star alleles out of a VCF, as a table that the hospital keeps and can join to its covariates."""

import csv
from pathlib import Path
from typing import Annotated

import typer

from genopact_shared.errors import require
from genopact_shared.recipes.pharmacogenes import dose_columns
from genopact_shared.recipes.variants import Build
from genopact_shared.terminal import Answer, command, working

app = typer.Typer()


@command(app, "pharmacogenes", example="genopact-site pharmacogenes chr10.vcf.gz --build GRCh38 --out stars.csv")
def pharmacogenes(
    file: Annotated[Path, typer.Argument(help="VCF with the genes' positions.")],
    *,
    build: Annotated[Build, typer.Option(help="The file's reference.")],
    out: Annotated[Path, typer.Option(help="A new CSV: person, columns of the dose recipe, diplotypes, phenotypes.")],
    all_sites: Annotated[bool, typer.Option("--all-sites", help="Absent records are the reference.")] = False,
) -> Answer:
    """Call CYP2C9, VKORC1, CYP2C19, SLCO1B1, TPMT and DPYD; what cannot be told stays open. The table stays here."""
    from genopact_ingest.files import numbered, opened
    from genopact_ingest.stars import read_stars

    require(not out.exists(), "USAGE", "the file of --out is there already")
    with working("Calling"), numbered(0):
        found = read_stars(opened(file, phases=True), build, all_sites=all_sites)
    dose = dose_columns(found.dosages)
    with out.open("x", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        heads = [f"{gene} {what}" for gene in found.calls for what in ("pairs", "phenotype")]
        writer.writerow(["person", *dose, *heads])
        for at, person in enumerate(found.samples):
            copies = ["" if column[at] < 0 else int(column[at]) for column in dose.values()]
            calls = [calls[at] for calls in found.calls.values()]
            said = [text for one in calls for text in (" or ".join(one.diplotypes), one.phenotype)]
            writer.writerow([person, *copies, *said])
    genes = {gene: sum(one.phenotype != "Indeterminate" for one in calls) for gene, calls in found.calls.items()}
    text = [f"{gene}: {told} of {len(found.samples)} people have one phenotype" for gene, told in genes.items()]
    return Answer({"people": len(found.samples), "told": genes, "absent": len(found.absent)}, [*text, f"Table: {out}"])
