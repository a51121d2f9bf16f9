"""`genopact demo` and `genopact warfarin`: the whole chain on this machine."""

import shutil
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from genopact_shared.errors import require
from genopact_shared.terminal import Answer, command, human

MARK, STUDY, OUT = ".genopact-demo", Path("policies/studies/warfarin.yaml"), Path("demo-warfarin")
Out = Annotated[Path, typer.Option(help="A folder for everything; a former demo in it is replaced.")]
Show = Annotated[bool, typer.Option(help="Open the report in a browser, on a terminal.")]
Data = Annotated[Path, typer.Option(help="The folder of the public IWPC table.", exists=True, file_okay=False)]
StudyFile = Annotated[Path, typer.Option(help="The study file.", exists=True)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "demo", example="genopact demo")(demo)
    command(app, "warfarin", example="genopact warfarin --data ../shared/data/iwpc_warfarin")(warfarin)


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
    with Stage(out) as stage:
        play = Play(stage, generated(out / "files"), human())
        result = play.perform()
    (out / "risk").mkdir()
    with Stage(out / "risk") as stage:
        result["risk"] = RiskRehearsal(stage, risk_cast(), human(), began=play.began).perform()
    result["seconds"] = result["risk"]["seconds"]
    return _answer(result, out, show=show)


def warfarin(data: Data, study: StudyFile = STUDY, out: Out = OUT, show: Show = True) -> Answer:  # noqa: FBT002
    """The real table, without noise: its sixteen institutions in one process, then four as processes with TLS."""
    from genopact_server.demo.cast import INSTITUTIONS, institutions
    from genopact_server.demo.play import Play
    from genopact_server.demo.rehearsal import Rehearsal
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
