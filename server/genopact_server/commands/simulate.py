"""`genopact simulate`: a cohort of made-up people."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from genopact_shared.errors import GenopactError, require
from genopact_shared.terminal import Answer, bar, command

STEPS = 7
"""Of progress, beside one for each hospital."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "simulate", example="genopact simulate cohort --people 2400 --seed 1")(simulate)


def simulate(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    *,
    people: Annotated[int, typer.Option(help="Of all hospitals; 60 or more.")] = 2400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 1,
    hospitals: Annotated[int, typer.Option(help="2 to 8, unlike in size, ancestry and prevalence.")] = 8,
    megabases: Annotated[float, typer.Option(help="Of chromosome 22; 0.1 to 33.")] = 5.0,
    method: Annotated[Literal["bundled", "coalescent"], typer.Option(help="coalescent: needs msprime.")] = "bundled",
    prevalence: Annotated[float, typer.Option(help="Share of people who have the disease; 0.01 to 0.5.")] = 0.15,
    heritability: Annotated[float, typer.Option(help="Of liability, in each ancestry; up to 0.85.")] = 0.5,
    density: Annotated[int | None, typer.Option(help="Variants a megabase; default: 300, or all common ones.")] = None,
    faults: Annotated[bool, typer.Option("--faults", help="Also copies of a VCF with planted faults.")] = False,
) -> Answer:
    """Simulate hospitals, and the public's statistics and panel, of three ancestries; nobody in them is real.

    A fifth of each hospital's people is held out for testing. truth.npz has what only a simulation knows.
    """
    from genopact_server.simulate import Design, cohort, write
    from genopact_server.simulate.faults import write_faults

    try:
        design = Design(people, seed, hospitals, megabases, method, prevalence, heritability, density)
    except ValidationError as error:
        raise GenopactError("USAGE", "; ".join(f"{each['input']}: {each['msg']}" for each in error.errors())) from error
    require(not out.exists() or (out.is_dir() and not any(out.iterdir())), "SIMULATION_FOLDER", str(out))
    with bar("Simulating", STEPS + hospitals) as advance:
        about = write(cohort(design, advance), out, advance)
    if faults:
        about["faults"] = write_faults(out / "hospitals/northgate/genotypes.vcf.gz", out / "faults")
    rows = [("hospital", "people", "held out", "cases", "afr", "eur", "eas")]
    rows += [(name, *of.values()) for name, of in about["hospitals"].items()]
    text = [("{:12}" + "{:>9}" * 6).format(*row) for row in rows]
    text.append(f"{about['variants']} variants, {sum(about['studied'].values())} people in the public statistics")
    follow = f"genopact manifest build region.variants --name region --sites {out / 'public/sites.tsv'} --build GRCh38"
    return Answer({"folder": str(out), **about}, text, follow)
