"""`genopact simulate`: a cohort of made-up people."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from genopact_shared.errors import GenopactError
from genopact_shared.terminal import Answer, bar, command

STEPS = 7
"""Of progress, beside one for each hospital."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "simulate", example="genopact simulate cohort --people 2400 --seed 1")(simulate)


def simulate(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    *,
    people: Annotated[int, typer.Option(help="Of all hospitals.")] = 2400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 1,
    hospitals: Annotated[int, typer.Option(help="2 to 8, unlike in size, ancestry and prevalence.")] = 8,
    megabases: Annotated[float, typer.Option(help="Of chromosome 22; of 21 and 20 where it is full.")] = 5.0,
    method: Annotated[
        Literal["bundled", "coalescent"], typer.Option(help="coalescent: needs msprime and minutes.")
    ] = "bundled",
    prevalence: Annotated[float, typer.Option(help="Share of people who have the disease.")] = 0.15,
    heritability: Annotated[float, typer.Option(help="Of liability, in each ancestry.")] = 0.5,
    density: Annotated[
        int | None, typer.Option(help="Variants a megabase in the files.", show_default="300, or all common ones")
    ] = None,
    faults: Annotated[bool, typer.Option("--faults", help="Also copies of a VCF with planted faults.")] = False,
) -> Answer:
    """Simulate hospitals, and the public's statistics and panel, of three ancestries; nobody in them is real.

    A fifth of each hospital's people is held out for testing. truth.npz has what only a simulation knows.
    """
    from genopact_server.simulate import Design, cohort, write

    design = Design(people, seed, hospitals, megabases, method, prevalence, heritability, density)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GenopactError("SIMULATION_FOLDER", str(out))
    with bar("Simulating", STEPS + hospitals) as advance:
        made = cohort(design, advance)
        about = write(made, out, advance)
    if faults:
        from genopact_server.simulate.faults import write_faults

        first = next(iter(about["hospitals"]))
        about["faults"] = write_faults(out / "hospitals" / first / "genotypes.vcf.gz", out / "faults")
    text = ["hospital      people  training  held out  cases    afr    eur    eas"]
    for name, of in about["hospitals"].items():
        cells = (of["people"], of["training"], of["held_out"], of["cases"], *of["ancestry"].values())
        text.append("{:12} {:7} {:9} {:9} {:6} {:6} {:6} {:6}".format(name, *cells))
    text.append(f"{about['variants']} variants, {sum(about['gwas'].values())} people in the public statistics")
    follow = f"genopact manifest build region.variants --name region --sites {out / 'public/sites.tsv'} --build GRCh38"
    return Answer({"folder": str(out), **about}, text, follow)
