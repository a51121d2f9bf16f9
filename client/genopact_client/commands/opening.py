"""How a command gets at the site: folder, passphrase, card."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from genopact_client.site import Site
from genopact_shared import durable
from genopact_shared.errors import require
from genopact_shared.recipes import NETWORKS, RECIPES
from genopact_shared.recipes.table import Column

HOME = Path("site")
Home = Annotated[Path, typer.Option("--home", envvar="GENOPACT_SITE_HOME", help="The site's folder.")]
_DEFAULT = "Default: the systemd credential `passphrase`, else asked on the terminal."
PassphraseFile = Annotated[Path | None, typer.Option(envvar="GENOPACT_PASSPHRASE_FILE", help=_DEFAULT)]
OneStudy = Annotated[Path | None, typer.Option(help="A study file; default: each approved study.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
_ROOMS = ("store", "ledger", "log", "private_log", "registry")


@contextmanager
def opened(*, home: Home = HOME, passphrase_file: PassphraseFile = None) -> Iterator[Site]:
    """The site, with every room that was used closed at the end; the room of the commands that need its keys.

    Raises:
        GenopactError: SITE_MISSING, KEK_WRONG, and those of `passphrase`.
    """
    Site.keyless(home)  # a wrong folder is noticed before anybody types a passphrase
    site = Site.open(home, passphrase(passphrase_file))
    try:
        yield site
    finally:
        for room in _ROOMS:
            if room in vars(site):
                getattr(site, room).close()


def passphrase(file: Path | None, *, new: bool = False) -> bytes:
    """The passphrase: of a file, a service credential, or a person; a new one is asked for twice.

    Raises:
        GenopactError: KEY_MISSING, KEY_EXPOSED, PASSPHRASE_MISSING.
    """
    if file is not None:
        return durable.read_secret(file)
    credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "")) / "passphrase"
    if credential.is_absolute() and credential.exists():
        return credential.read_bytes().strip()  # the service manager looks after its access
    require(sys.stdin.isatty(), "PASSPHRASE_MISSING")
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True)).encode()


def confirmed(question: str, *, yes: bool) -> None:
    """Return if the person agrees; USAGE where nobody can be asked."""
    require(yes or sys.stdin.isatty(), "USAGE", "nobody can be asked here: add --yes")
    if not yes:
        typer.confirm(question, abort=True, err=True)


def schemas() -> dict[str, tuple[Column, ...]]:
    """The schema of each installed recipe."""
    return {name: recipe.schema for name, recipe in (RECIPES | NETWORKS).items()}
