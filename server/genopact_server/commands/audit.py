"""`genopact audit`: export the evidence of a run, and verify it offline."""

import json
from pathlib import Path
from typing import Annotated

import typer

from genopact_server.commands.options import HOME, Home, RunName
from genopact_server.folder import Folder
from genopact_shared.errors import require
from genopact_shared.terminal import Answer, Exit, command

app = typer.Typer(help="Export and verify evidence.", no_args_is_help=True, rich_markup_mode=None)
NewBundle = Annotated[Path, typer.Argument(help="A new zip file or folder.", show_default=False)]
BundleFile = Annotated[Path, typer.Argument(help="A bundle: zip file or folder.", show_default=False)]
KnownHash = Annotated[str | None, typer.Option(help="The study's hash as you know it from an approver.")]
Kept = Annotated[
    list[Path] | None, typer.Option(help="A checkpoint that you kept from an earlier audit; repeatable.", exists=True)
]


@command(app, "export", example="genopact audit export RUN audit.zip --home coordinator")
def export(run: RunName, out: NewBundle, home: Home = HOME) -> Answer:
    """Write the audit bundle of a run: study, approvals, all logs."""
    from genopact_server.audit import bundle
    from genopact_server.evidence import bundle_of

    bundle.export(bundle_of(Folder(home), run), out)
    return Answer({"bundle": str(out)}, [f"Wrote {out}"], f"genopact audit verify {out}")


@command(app, "verify", example="genopact audit verify audit.zip")
def verify(bundle: BundleFile, study: KnownHash = None, saved: Kept = None) -> Answer:
    """Check a bundle, offline. Exit code 0: nothing contradicts the study; 1: violated; 2: cannot tell."""
    from genopact_server.audit.verify import verify_path

    report = verify_path(bundle, [kept_checkpoint(path) for path in saved or ()], study)
    return Answer(json.loads(report.json()), report.text().splitlines(), exit=Exit(report.exit_code))


def kept_checkpoint(path: Path) -> tuple[str, bytes]:
    """Party and checkpoint of a kept file; the party stands in the note's first line. Raises NOTE_INVALID."""
    note = path.read_bytes()
    origin = note.partition(b"\n")[0].decode("utf-8", "replace")
    require(origin.startswith("genopact/"), "NOTE_INVALID", str(path))
    return origin.removeprefix("genopact/"), note
