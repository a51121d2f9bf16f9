"""Who may command the link: accounts with bearer tokens, of which only SHA-256 digests rest on disk.

Tokens are 256 random bits, so a plain digest cannot be searched. `operator` may submit runs and register nodes; every
other account, and everybody without one, may do nothing.
"""

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.study import Frozen

Role = Literal["operator", "observer"]


class Account(Frozen):
    """One line of the accounts file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")
    role: Role
    token_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _File(Frozen):
    version: Literal[1]
    accounts: list[Account]


class Accounts:
    """The accounts file at `path`; read again at every question, so a removed account is out at once.

    Methods raise ACCOUNT_INVALID. A missing file is a file without accounts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, name: str, role: Role) -> str:
        """Make an account and return its token, which is shown this once."""
        accounts = self._read()
        require(not any(account.name == name for account in accounts), "ACCOUNT_INVALID", f"{name} exists")
        token = secrets.token_urlsafe(32)
        with replacing(ValidationError, GenopactError("ACCOUNT_INVALID", "name or role")):
            account = Account(name=name, role=role, token_sha256=_digest(token))
        self._write([*accounts, account])
        return token

    def remove(self, name: str) -> None:
        """Take an account away."""
        accounts = self._read()
        require(any(account.name == name for account in accounts), "ACCOUNT_INVALID", f"{name} is missing")
        self._write([account for account in accounts if account.name != name])

    def of_token(self, token: str) -> Account | None:
        """The account of a token; compared in constant time against every account."""
        digest = _digest(token)
        found = [account for account in self._read() if hmac.compare_digest(account.token_sha256, digest)]
        return found[0] if found else None

    def is_operator(self, name: str) -> bool:
        """Whether `name` may submit runs and register nodes."""
        return any(account.name == name and account.role == "operator" for account in self._read())

    def _read(self) -> list[Account]:
        if not self._path.exists():
            return []
        with replacing((OSError, ValidationError), GenopactError("ACCOUNT_INVALID", str(self._path))):
            return _File.model_validate_json(self._path.read_bytes()).accounts

    def _write(self, accounts: list[Account]) -> None:
        write_private(self._path, _File(version=1, accounts=accounts).model_dump())


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def write_private(path: Path, content: object) -> None:
    """Replace the JSON file `path` in one step, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)
