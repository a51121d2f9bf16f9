"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from genopact_server.folder import Folder
from genopact_server.rounds import read_state
from genopact_shared import durable
from genopact_shared.manifest import VariantManifest, parse
from genopact_shared.study import Study

Home = Annotated[Path, typer.Option("--home", help="The coordinator's folder.", envvar="GENOPACT_HOME")]
HOME = Path("coordinator")
RunName = Annotated[str, typer.Argument(help="The run.", show_default=False)]
ManifestFile = Annotated[Path, typer.Option("--manifest", help="The study's variant manifest.", show_default=False)]
StudyFile = Annotated[Path, typer.Argument(help="The study file (YAML).", show_default=False)]


def opened(home: Path, run: str) -> tuple[Folder, Path, Study]:
    """The coordinator's folder, the folder of a run and its study. Raises RUN_UNKNOWN, RUN_STATE_BROKEN."""
    folder, path = Folder(home), home / "runs" / run
    return folder, path, folder.study(read_state(path).study)


def read_manifest(path: Path) -> VariantManifest:
    """A manifest whose signature is not asked for."""
    return parse(durable.read(path, "MANIFEST_MISSING"))
