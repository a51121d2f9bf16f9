"""doctor: problem and solution, line by line."""

from pathlib import Path
from typing import Annotated

import typer

from genopact_client.commands.opening import OneStudy, opened
from genopact_client.doctor import Subject, examine
from genopact_client.site import Site
from genopact_shared.study import load_study
from genopact_shared.terminal import Answer, Exit, command, working

app = typer.Typer()
Address = Annotated[str | None, typer.Option(help="host:port of the coordinator; default: of the studies.")]
Roots = Annotated[Path | None, typer.Option(help="The coordinator's authority, PEM.", envvar="GENOPACT_CA")]


@command(app, "doctor", example="genopact-site doctor --address coordinator.example:9443 --ca ca.pem", room=opened)
def doctor(site: Site, *, study: OneStudy = None, address: Address = None, ca: Roots = None) -> Answer:
    """Examine the site; each problem comes with its solution. Exit 1 if there is one."""
    with working("Examining"):
        checks = list(examine(Subject(site, load_study(study) if study else None, address, ca)))
    text = []
    for each in checks:
        text.append(f"{each.state:8} {each.name:14} {each.detail}")
        text += [f"{'':23} -> {each.remedy}"] if each.remedy else []
    problems = [each.name for each in checks if each.state == "problem"]
    data = {"checks": [each._asdict() for each in checks], "problems": problems}
    return Answer(data, text, exit=Exit.REFUSED if problems else Exit.OK)
