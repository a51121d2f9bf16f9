"""`genopact demo`: the whole chain on this machine."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from genopact_shared.errors import GenopactError
from genopact_shared.terminal import Answer, command, human

MARK = ".genopact-demo"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "demo", example="genopact demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="A folder for everything; a former demo in it is replaced.")] = Path("demo"),
    show: Annotated[bool, typer.Option(help="Open the report in a browser, on a terminal.")] = True,
) -> Answer:
    """Four made-up hospitals and a coordinator: consent, approval, private training, withdrawal, audit, report.

    Needs no network and two minutes. Real processes, TLS on loopback; the patients are generated.
    """
    from genopact_server.demo.cast import generated
    from genopact_server.demo.play import Play, open_report
    from genopact_server.demo.stage import Stage

    out = out.resolve()
    if out.exists() and not (out / MARK).exists():
        raise GenopactError("DEMO_FOLDER", str(out))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()
    with Stage(out) as stage:
        result = Play(stage, generated(out / "files"), human()).perform()
    if show and sys.stdout.isatty():
        open_report(result["report"])
    text = [f"report  {result['report']}", f"done in {result['seconds']} s"]
    return Answer(result, text, f"genopact audit verify {out / 'audit.zip'}")
