"""Who may command the link, which node is which site, and which sites belong to which study: two files.

Accounts have bearer tokens, of which only SHA-256 digests rest on disk: 256 random bits, so that a plain digest cannot
be searched. `operator` may submit runs and register nodes; every other account, and everybody without one, may do
nothing. A site name, its node key and its node number belong together for good; a site that lost its key enrols under
another name.
"""

import hmac
import json
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from genopact_shared import canonical, durable
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.statements import Digest
from genopact_shared.study import Frozen, read

Role = Literal["operator", "observer"]
SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Account(Frozen):
    """One line of the accounts file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")
    role: Role
    token_sha256: Digest


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
            account = Account(name=name, role=role, token_sha256=canonical.digest(token.encode()))
        self._write([*accounts, account])
        return token

    def remove(self, name: str) -> None:
        """Take an account away."""
        accounts = self._read()
        require(any(account.name == name for account in accounts), "ACCOUNT_INVALID", f"{name} is missing")
        self._write([account for account in accounts if account.name != name])

    def of_token(self, token: str) -> Account | None:
        """The account of a token; compared in constant time against every account."""
        digest = canonical.digest(token.encode("utf-8", "replace"))
        found = [account for account in self._read() if hmac.compare_digest(account.token_sha256, digest)]
        return found[0] if found else None

    def is_operator(self, name: str) -> bool:
        """Whether `name` may submit runs and register nodes."""
        return any(account.name == name and account.role == "operator" for account in self._read())

    def _read(self) -> list[Account]:
        if not self._path.exists():
            return []
        return read(_File, durable.read(self._path, "ACCOUNT_INVALID"), "ACCOUNT_INVALID", f"{self._path}: ").accounts

    def _write(self, accounts: list[Account]) -> None:
        write_private(self._path, _File(version=1, accounts=accounts).model_dump())


class Site(Frozen):
    """A registered site: its node's public key (PEM) and its number at the SuperLink."""

    public_key: str
    node_id: int = Field(gt=0, lt=1 << 64)


class Registry(Frozen):
    """The registry file."""

    version: Literal[1] = 1
    sites: dict[SiteName, Site] = Field(default_factory=dict)
    studies: dict[Digest, list[SiteName]] = Field(default_factory=dict)


class Membership:
    """The registry file at `path`; read again at every question. Methods raise MEMBERSHIP_INVALID."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def registry(self) -> Registry:
        """What the file says now; a missing file is an empty registry."""
        if not self._path.exists():
            return Registry()
        return read(Registry, durable.read(self._path, "MEMBERSHIP_INVALID"), "MEMBERSHIP_INVALID", f"{self._path}: ")

    def add_site(self, name: str, public_key: bytes, node_id: int) -> None:
        """Bind a site name to its node; the same binding again is no error, another one is."""
        registry = self.registry()
        site = Site(public_key=public_key.decode("ascii"), node_id=node_id)
        if registry.sites.get(name) == site:
            return
        others = registry.sites.values()
        if name in registry.sites or any(site.public_key == e.public_key or site.node_id == e.node_id for e in others):
            raise GenopactError("MEMBERSHIP_INVALID", f"{name}: name or key is taken")
        self._write(registry, sites={**registry.sites, name: site})

    def set_study(self, study: str, sites: Iterable[str]) -> None:
        """Say which registered sites take part in a study now; runs that go on see it at their next exchange."""
        registry, members = self.registry(), sorted(set(sites))
        if missing := [name for name in members if name not in registry.sites]:
            raise GenopactError("MEMBERSHIP_INVALID", f"not registered: {', '.join(missing)}")
        self._write(registry, studies={**registry.studies, study: members})

    def nodes(self, study: str) -> dict[str, int]:
        """Site name -> node number of the members of a study; nothing for an unknown study."""
        registry = self.registry()
        members = registry.studies.get(study, [])
        return {name: registry.sites[name].node_id for name in members if name in registry.sites}

    def public_keys(self) -> frozenset[bytes]:
        """The public keys of all sites, as PEM."""
        return frozenset(site.public_key.encode("ascii") for site in self.registry().sites.values())

    def _write(self, registry: Registry, **changed: object) -> None:
        with replacing(ValidationError, GenopactError("MEMBERSHIP_INVALID", "name or hash")):
            new = Registry.model_validate({**registry.model_dump(), **changed, "version": 1})
        write_private(self._path, new.model_dump())


def write_private(path: Path, content: object) -> None:
    """Replace the JSON file `path` in one step, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    durable.create(new, json.dumps(content, indent=1).encode())
    new.replace(path)
