"""A run's app bundle may carry a study file and no code. Nothing of it is unpacked, imported or executed here."""

import hashlib
import io
import re
import tomllib
import zipfile

from genopact_shared.errors import GenopactError, replacing, require

COMPONENTS = {"clientapp": "genopact_client.app:app", "serverapp": "genopact_server.app:app"}
"""What the bundle must name. Flower demands both; the site runs neither: its node is already there."""

_MEMBER = re.compile(r"pyproject\.toml|policies/[A-Za-z0-9][A-Za-z0-9._-]*\.yaml|\.info/CONTENT")
_LIMIT = 1 << 20
_ABOUT = {"name", "version", "description", "license"}


def check(bundle: bytes, sha256: str) -> None:
    """Return if `bundle` is the one with that hash and has no code, else raise BUNDLE_HAS_CODE."""
    require(len(bundle) <= _LIMIT and hashlib.sha256(bundle).hexdigest() == sha256, "BUNDLE_HAS_CODE", "size or hash")
    # NotImplementedError is a RuntimeError.
    odd = zipfile.BadZipFile, KeyError, ValueError, RuntimeError, EOFError, OSError
    unreadable = GenopactError("BUNDLE_HAS_CODE", "unreadable")
    with replacing(odd, unreadable), zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) != len(names) or not all(_MEMBER.fullmatch(name) for name in names):
            raise GenopactError("BUNDLE_HAS_CODE", "unexpected file")
        require(sum(entry.file_size for entry in entries) <= _LIMIT, "BUNDLE_HAS_CODE", "unpacked size")
        with archive.open("pyproject.toml") as file:
            project = tomllib.loads(file.read(_LIMIT).decode("utf-8"))
    _check_project(project)


def _check_project(project: dict[str, object]) -> None:
    """The project names the two installed components and no dependency, hook or setting."""
    match project:
        case {"project": {**about}, "tool": {"flwr": {"app": {"publisher": str(), **app}, **flwr}, **tool}, **rest}:
            if app == {"components": COMPONENTS} and set(about) <= _ABOUT and not (flwr or tool or rest):
                return
    raise GenopactError("BUNDLE_HAS_CODE", "components or settings")
