"""`genopact gwas`: what an association study found, as a table and two plots."""

from pathlib import Path
from typing import Annotated

import typer

from genopact_server.commands.options import HOME, Home, ManifestFile, RunName, opened, read_manifest
from genopact_server.folder import Folder
from genopact_shared import durable
from genopact_shared.errors import require
from genopact_shared.terminal import Answer, command, working

app = typer.Typer(help="Tables and plots of association studies.", no_args_is_help=True, rich_markup_mode=None)
NewTable = Annotated[Path, typer.Option(help="Where to write the table.")]
Variants = Annotated[Path, typer.Argument(help="A variant manifest with frequencies.", show_default=False)]
NewDesign = Annotated[Path, typer.Argument(help="The file that sites take in.", show_default=False)]


@command(app, "table", example="genopact gwas table RUN --manifest breast.variants --out gwas.tsv")
def table(run: RunName, *, manifest: ManifestFile, out: NewTable = Path("gwas.tsv"), home: Home = HOME) -> Answer:
    """Write effects, errors and chances in regenie's columns, and the plots beside them.

    NA: a variant that does not vary, or with fewer people, or copies of either allele, than the study's minimum cohort.
    """
    from genopact_server.association import lines
    from genopact_server.report.facts import read

    _, path, study = opened(home, run)
    with working("Writing the table"):
        facts = read(path, study)
        durable.replace(out, "\n".join([*lines(facts, read_manifest(manifest)), ""]).encode())
    return plot(out)


@command(app, "plot", example="genopact gwas plot gwas.tsv")
def plot(results: Annotated[Path, typer.Argument(help="A table in regenie's columns.", show_default=False)]) -> Answer:
    """Draw the Manhattan and the QQ plot of any such table beside it, as SVG; print lambda_GC."""
    from genopact_server.association import read
    from genopact_server.report.plots import standalone

    points = read(results)
    require(len(points.chisq), "GWAS_TABLE", f"{results}: no row has a chance")
    chances, along = {"log10p": points.log10p}, {"chrom": points.chrom, "position": points.position}
    files = {name: results.with_suffix(f".{name}.svg") for name in ("manhattan", "qq")}
    with working("Drawing"):
        manhattan = standalone("manhattan", "Chances along the genome", (9, 3.2), **chances, **along)
        qq = standalone("qq", "Chances against those without association", (4, 4), **chances)
    durable.replace(files["manhattan"], manhattan.encode())
    durable.replace(files["qq"], qq.encode())
    about = {"table": str(results), "variants": len(points.chisq), "lambda_gc": points.lambda_gc}
    text = [f"{results}: {len(points.chisq)} variants", f"lambda_GC {points.lambda_gc:.4f}"]
    text += [f"Wrote {path}" for path in files.values()]
    return Answer(about | {name: str(path) for name, path in files.items()}, text)


@command(app, "design", example="genopact gwas design breast.variants breast.design")
def design(manifest: Variants, out: NewDesign, *, home: Home = HOME) -> Answer:
    """Write the public frequencies that an association study with a budget names by their digest."""
    from genopact_shared.recipes import gwas_private

    data = gwas_private.design(read_manifest(manifest).frequency)
    digest = Folder(home).published.add(data)
    durable.replace(out, data)
    return Answer({"design": digest, "file": str(out)}, [f"Wrote {out}", f"design {digest}"])
