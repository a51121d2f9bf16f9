"""From a finished run to an audit bundle: study, approvals, the coordinator's log and those the sites handed over."""

from genopact_server.audit.bundle import Bundle, ExportedLog
from genopact_server.folder import Folder
from genopact_server.rounds import read_state
from genopact_server.sitelogs import unpack
from genopact_shared.tlog.log import pack


def bundle_of(folder: Folder, run: str) -> Bundle:
    """The bundle of a run. Raises RUN_UNKNOWN, RUN_STATE_BROKEN."""
    path = folder.home / "runs" / run
    state = read_state(path)
    logs = {folder.card["name"]: ExportedLog(*folder.log.export())}
    for file in sorted((path / "sites").glob("*.log")):
        checkpoint, *entries = unpack(file.read_bytes())
        logs[file.stem] = ExportedLog(pack(entries), checkpoint)
    folder.close()
    approvals = tuple(text.encode() for text in state.approvals.values())
    released = state.model if state.stage == "done" else None
    return Bundle(folder.study(state.study), approvals, logs, released=released, run=run)
