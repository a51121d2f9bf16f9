"""A store's signed manifest: what it holds, where that came from, and which version of each record is valid.

Signed (DSSE, Ed25519) with a key derived from the site's key-encryption key, so that a manifest exchanged or edited
on disk does not open, and a store's kind cannot be changed after it was created.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from genopact_client.keyfile import KeyFile
from genopact_shared import canonical, dsse, durable
from genopact_shared.errors import GenopactError, replacing
from genopact_shared.keys import SigningKey
from genopact_shared.study import Frozen

Kind = Literal["private", "public", "synthetic"]


class Signed(Frozen):
    """What every store's manifest says. `versions`: runs of (length, version) over rows 0 .. n-1; 0 is no record."""

    TYPE: ClassVar[str]
    HIDDEN: ClassVar[set[str]] = {"versions"}

    store: str = Field(pattern=r"^[0-9a-f]{32}$")
    kind: Kind
    generation: int = Field(default=0, ge=0)
    key_epoch: int = Field(ge=0)
    versions: tuple[tuple[int, int], ...] = ()
    provenance: tuple[dict[str, Any], ...] = ()

    def version_of_rows(self) -> NDArray[np.int64]:
        """(n,) int64, 0 where there is no record."""
        runs = np.array(self.versions, np.int64).reshape(-1, 2)
        return np.repeat(runs[:, 1], runs[:, 0])

    def facts(self) -> dict[str, Any]:
        """What may be shown at the site: kind, row count, provenance, and what the store is made for."""
        shown: dict[str, Any] = self.model_dump(mode="json", exclude=self.HIDDEN)
        return shown | {"rows": sum(length for length, version in self.versions if version)}

    def save(self, folder: Path, keyfile: KeyFile) -> None:
        """Sign and replace the store's manifest: the moment at which a write becomes valid."""
        envelope = dsse.sign(self.TYPE, canonical.encode(self.model_dump(mode="json")), _key(keyfile))
        durable.replace(folder / "manifest.dsse", envelope)

    @classmethod
    def load(cls, folder: Path, keyfile: KeyFile) -> Self:
        """The manifest of the store in that folder, if this site signed it.

        Raises:
            GenopactError: STORE_MISSING, SIGNATURE_INVALID, STORE_INVALID.
        """
        payload = dsse.verify(durable.read(folder / "manifest.dsse", "STORE_MISSING"), cls.TYPE, [_key(keyfile).public])
        with replacing(ValidationError, GenopactError("STORE_INVALID", "a manifest of another version")):
            return cls.model_validate_json(payload)


class Manifest(Signed):
    """The facts of a store of covariates."""

    TYPE: ClassVar[str] = "application/vnd.genopact.store+json"
    HIDDEN: ClassVar[set[str]] = {"versions", "records"}

    format: Literal["genopact.store/1"] = "genopact.store/1"
    columns: tuple[dict[str, Any], ...]
    records: str = ""

    @property
    def schema_digest(self) -> str:
        """SHA-256 of the columns' facts."""
        return canonical.digest_of(list(self.columns))

    def facts(self) -> dict[str, Any]:
        """With the schema's digest."""
        return super().facts() | {"schema_digest": self.schema_digest}


def _key(keyfile: KeyFile) -> SigningKey:
    return SigningKey(keyfile.site_key("store-manifest"))


def runs(versions: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Run lengths: (length, version) pairs."""
    return tuple((len(list(group)), version) for version, group in groupby(versions))
