"""import: what a hospital has, checked and sealed."""

from pathlib import Path
from typing import Annotated

import typer

from genopact_client.commands.opening import opened
from genopact_client.site import Site
from genopact_ingest.commands.genotypes import GenotypeFiles, import_genotypes
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.variants import Build
from genopact_shared.terminal import Answer, command

app = typer.Typer()
EXAMPLE = (
    "genopact-site import --table covariates.csv; "
    "genopact-site import --manifest cad.tsv --signer 9a1f.. --reference GRCh38.fa chr1.vcf.gz chr2.vcf.gz"
)


@command(app, "import", example=EXAMPLE, room=opened)
def import_files(
    site: Site,
    genotypes: Annotated[list[Path] | None, typer.Argument(help="VCF, BCF, .bed, .pgen or .bgen, one people.")] = None,
    *,
    table: Annotated[Path | None, typer.Option(help="CSV, TSV or parquet, one row for each person.")] = None,
    fhir: Annotated[list[Path] | None, typer.Option(help="FHIR R4 NDJSON instead of a table; repeatable.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML: which resources give which columns.")] = None,
    vcf: Annotated[list[Path] | None, typer.Option(help="VCF of the recipe's own few variants; repeatable.")] = None,
    build: Annotated[Build | None, typer.Option(help="Of --vcf; default: by its contig lengths.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="Variants of the study, their signature beside it.")] = None,
    signer: Annotated[str, typer.Option(help="Public key of whoever signed the manifest.")] = "",
    reference: Annotated[Path | None, typer.Option(help="FASTA of the manifest's build.")] = None,
    array: Annotated[bool, typer.Option("--array", help="Letters may be of either strand.")] = False,
    phases: Annotated[bool, typer.Option("--phases", help="Keep haplotypes, too.")] = False,
    expected: Annotated[bool, typer.Option("--expected", help="Keep imputed dosages, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and report, change nothing.")] = False,
) -> Answer:
    """Check covariates and genotypes and seal them, or list everything that is wrong with them and change nothing.

    The table comes first, in an import of its own: genotypes are sealed for people whom the site knows.
    """
    from genopact_ingest.commands.covariates import Files, import_site, schema_of

    if (table or fhir) and not (genotypes or manifest or signer):
        files = Files(table, tuple(vcf or ()), build, tuple(fhir or ()), mapping)
        return import_site(files, schema_of(site), site, dry_run=dry_run)
    if genotypes and manifest and signer and not (table or fhir or vcf):
        given = GenotypeFiles(tuple(genotypes), manifest, signer, reference, array, phases, expected)
        answer = import_genotypes(site, given, dry_run=dry_run)
        return Answer({"genotypes": answer.data}, answer.text, answer.next)
    raise GenopactError("USAGE", "give --table or --fhir alone, or genotype files with --manifest and --signer")
