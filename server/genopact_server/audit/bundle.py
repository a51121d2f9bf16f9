"""Audit bundles: one folder or zip with everything that a verifier needs besides what the auditor kept.

`bundle.json` (format, run, digest of the released model), `study.json`, `approvals/*`, `logs/PARTY/entries` and
`logs/PARTY/checkpoint`, `saved/PARTY/*` (checkpoints seen earlier). Other files are ignored.
"""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from genopact_shared import canonical
from genopact_shared.errors import GenopactError, require
from genopact_shared.statements import Digest, RunId
from genopact_shared.study import Frozen, Study, read

MAX_BYTES = 1 << 30
EPOCH = (1980, 1, 1, 0, 0, 0)


class Head(Frozen):
    """The content of bundle.json."""

    format: Literal["genopact.bundle/1"] = "genopact.bundle/1"
    released: Digest | None = None
    run: RunId | None = None


@dataclass(frozen=True)
class ExportedLog:
    """A party's log as `Log.export` gives it: packed entries and a checkpoint that covers them."""

    entries: bytes
    checkpoint: bytes


@dataclass(frozen=True)
class Bundle:
    """The evidence about one study.

    `saved`: (party, checkpoint) pairs; `released`: SHA-256 of the model in use; `run`: the only run to judge, because
    the logs of sites are as old as the end of that run (what a patient spent is judged over all runs they hold).
    """

    study: Study
    approvals: tuple[bytes, ...] = ()
    logs: Mapping[str, ExportedLog] = field(default_factory=dict)
    saved: tuple[tuple[str, bytes], ...] = ()
    released: str | None = None
    run: str | None = None


def export(bundle: Bundle, path: Path) -> None:
    """Write a bundle: a zip if `path` ends in .zip, else a new folder. The same bundle gives the same bytes."""
    files = _files(bundle)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in sorted(files.items()):
                archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
        return
    for name, data in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def load(path: Path) -> Bundle:
    """Read a bundle; its signatures are not checked here.

    Raises:
        GenopactError: BUNDLE_INVALID.
    """
    try:
        return _parse(_read_zip(path) if path.is_file() else _read_folder(path))
    except (OSError, EOFError, LookupError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise GenopactError("BUNDLE_INVALID", f"{path}: {error}") from error


def _files(bundle: Bundle) -> dict[str, bytes]:
    head = Head(released=bundle.released, run=bundle.run).model_dump_json()
    files = {"bundle.json": head.encode(), "study.json": bundle.study.canonical}
    files |= {f"approvals/{canonical.digest(data)}.json": data for data in bundle.approvals}
    for party, log in bundle.logs.items():
        files |= {f"logs/{party}/entries": log.entries, f"logs/{party}/checkpoint": log.checkpoint}
    return files | {f"saved/{party}/{canonical.digest(note)}": note for party, note in bundle.saved}


def _parse(files: Mapping[str, bytes]) -> Bundle:
    head = read(Head, files["bundle.json"], "BUNDLE_INVALID")
    under = {name: PurePosixPath(name).parts for name in sorted(files)}
    parties = {parts[1] for parts in under.values() if len(parts) == 3 and parts[0] == "logs"}
    study = read(Study, files["study.json"], "BUNDLE_INVALID")
    approvals = tuple(files[name] for name, parts in under.items() if parts[0] == "approvals")
    logs = {p: ExportedLog(files[f"logs/{p}/entries"], files[f"logs/{p}/checkpoint"]) for p in sorted(parties)}
    saved = tuple((p[1], files[name]) for name, p in under.items() if len(p) == 3 and p[0] == "saved")
    return Bundle(study, approvals, logs, saved, head.released, head.run)


def _read_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        names = {member.filename for member in members}
        if sum(member.file_size for member in members) > MAX_BYTES or len(names) < len(members):
            raise GenopactError("BUNDLE_INVALID", "above 1 GiB, or a name appears twice")
        return {member.filename: archive.read(member) for member in members}


def _read_folder(path: Path) -> dict[str, bytes]:
    files = [file for file in path.rglob("*") if file.is_file()]
    require(sum(file.stat().st_size for file in files) <= MAX_BYTES, "BUNDLE_INVALID", "above 1 GiB")
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
