"""The coordinator's registry: which node is which site, and which sites belong to which study.

A site name, its node key and its node number belong together for good; a site that lost its key enrols under another
name.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from genopact_server.link.accounts import write_private
from genopact_shared.errors import GenopactError, replacing
from genopact_shared.study import Frozen

SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
StudyHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Site(Frozen):
    """A registered site: its node's public key (PEM) and its number at the SuperLink."""

    public_key: str
    node_id: int = Field(gt=0, lt=1 << 64)


class Registry(Frozen):
    """The registry file."""

    version: Literal[1] = 1
    sites: dict[SiteName, Site] = Field(default_factory=dict)
    studies: dict[StudyHash, list[SiteName]] = Field(default_factory=dict)


class Membership:
    """The registry file at `path`, read again whenever it has changed. Methods raise MEMBERSHIP_INVALID."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[tuple[int, int, int], Registry] | None = None

    def registry(self) -> Registry:
        """What the file says now; a missing file is an empty registry."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return Registry()
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._seen is None or self._seen[0] != stamp:
            with replacing((OSError, ValidationError), GenopactError("MEMBERSHIP_INVALID", str(self._path))):
                self._seen = stamp, Registry.model_validate_json(self._path.read_bytes())
        return self._seen[1]

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
