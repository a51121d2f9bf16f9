"""From a finished run to an audit bundle: study, approvals, the coordinator's log and those the sites handed over."""

from pathlib import Path

from genopact_server.audit.bundle import Bundle, ExportedLog, export
from genopact_server.folder import Folder
from genopact_server.rounds import RunState
from genopact_server.sitelogs import unpack
from genopact_shared.errors import GenopactError
from genopact_shared.tlog.entries import pack


def bundle_of(folder: Folder, run: str) -> Bundle:
    """The bundle of a run. Raises RUN_UNKNOWN."""
    path = folder.home / "runs" / run
    if not (path / "state.json").exists():
        raise GenopactError("RUN_UNKNOWN", run)
    state = RunState.model_validate_json((path / "state.json").read_bytes())
    logs = {folder.card["name"]: ExportedLog(*folder.log.export())}
    for file in sorted((path / "sites").glob("*.log")):
        checkpoint, *entries = unpack(file.read_bytes())
        logs[file.stem] = ExportedLog(pack(entries), checkpoint)
    folder.close()
    approvals = tuple(text.encode() for text in state.approvals.values())
    return Bundle(
        folder.study(state.study), approvals, logs, released=state.model if state.stage == "done" else None, run=run
    )


def export_run(folder: Folder, run: str, out: Path) -> Path:
    """Write the bundle of a run to a zip file or a folder."""
    export(bundle_of(folder, run), out)
    return out
