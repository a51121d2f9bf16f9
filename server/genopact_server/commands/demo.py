"""`genopact demo` and `genopact warfarin`: the whole chain on this machine; `simulate`: a cohort of made-up people."""

import io
import shutil
import sys
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from genopact_shared.errors import GenopactError, require
from genopact_shared.terminal import Answer, bar, command, human

STEPS = 7
"""Of a simulation's progress, beside one for each hospital."""
MARK, STUDY, OUT = ".genopact-demo", Path("policies/studies/warfarin.yaml"), Path("demo-warfarin")
Out = Annotated[Path, typer.Option(help="A folder for everything; a former demo in it is replaced.")]
Show = Annotated[bool, typer.Option(help="Open the report in a browser, on a terminal.")]
Data = Annotated[Path, typer.Option(help="The folder of the public IWPC table.", exists=True, file_okay=False)]
StudyFile = Annotated[Path, typer.Option(help="The study file.", exists=True)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "demo", example="genopact demo")(demo)
    command(app, "warfarin", example="genopact warfarin --data ../shared/data/iwpc_warfarin")(warfarin)
    command(app, "simulate", example="genopact simulate cohort --people 2400 --seed 1")(simulate)


def demo(out: Out = Path("demo"), show: Show = True) -> Answer:  # noqa: FBT002 - an option
    """Four made-up hospitals and a coordinator: consent, approval, private training, withdrawal, audit, report.

    Two studies: a warfarin dose, then the risk of a disease from genotypes. Needs no network and two minutes. Real
    processes, TLS on loopback; the patients are generated.
    """
    from genopact_server.demo.cast import generated
    from genopact_server.demo.play import Play
    from genopact_server.demo.risk import RiskRehearsal, risk_cast
    from genopact_server.demo.stage import Stage

    out = _fresh(out)
    (out / "risk").mkdir()
    told = io.StringIO()
    with Stage(out) as stage, Stage(out / "risk") as second, ThreadPoolExecutor(1) as pool:
        play = Play(stage, generated(out / "files"), human())
        risk = RiskRehearsal(second, risk_cast(), Console(file=told, soft_wrap=True), began=play.began)
        # The second study is prepared while the first one's processes come up and wait for one another.
        prepared = pool.submit(risk.perform, risk.scenes[:5])
        result = play.perform()
        prepared.result()
        risk.console = human()
        risk.console.print(told.getvalue(), end="")
        result["risk"] = risk.perform(risk.scenes[5:])
    result["seconds"] = result["risk"]["seconds"]
    return _answer(result, out, show=show)


def warfarin(data: Data, study: StudyFile = STUDY, out: Out = OUT, show: Show = True) -> Answer:  # noqa: FBT002
    """The real table, without noise: its sixteen institutions in one process, then four as processes with TLS."""
    from genopact_server.demo.cast import INSTITUTIONS, institutions
    from genopact_server.demo.play import Play, Rehearsal
    from genopact_server.demo.stage import Stage

    out = _fresh(out)
    folders = [out / name for name in ("sixteen", "four")]
    casts = [institutions(folders[0] / "files", data), institutions(folders[1] / "files", data, INSTITUTIONS)]
    results = []
    for folder, cast, play in zip(folders, casts, (Rehearsal, Play), strict=True):
        with Stage(folder) as stage:
            results.append(play(stage, cast, human(), study.resolve()).perform())
    answer = _answer(results[1], folders[1], show=show)
    return Answer({"sixteen": results[0], "four": results[1]}, answer.text, answer.next)


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


def _fresh(out: Path) -> Path:
    out = out.resolve()
    require(not out.exists() or (out / MARK).exists(), "DEMO_FOLDER", str(out))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()
    return out


def _answer(result: dict[str, Any], out: Path, *, show: bool) -> Answer:
    if show and sys.stdout.isatty():
        webbrowser.open(Path(result["report"]).resolve().as_uri())
    text = [f"report  {each['report']}" for each in (result, result.get("risk")) if each]
    text += [f"done in {result['seconds']} s"]
    return Answer(result, text, f"genopact audit verify {out / 'audit.zip'}")
