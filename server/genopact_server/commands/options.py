"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[Path, typer.Option("--home", help="The coordinator's folder.", envvar="GENOPACT_HOME")]
HOME = Path("coordinator")
StudyFile = Annotated[Path, typer.Argument(help="The study file (YAML).", show_default=False)]
