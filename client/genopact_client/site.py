"""A hospital's folder: keys, people, consent, store, ledger, logs, studies, runs, outbox, each in its place.

site.json            name, public keys
kek                  key-encryption key, sealed under the passphrase
keys/                identity and log keys, sealed under the key-encryption key
keyfile  people.db   one key and one row a person
consent.db           sealed consent records
store/               sealed covariates
genotypes/ omics/    sealed genotypes, a folder for each variant manifest; sealed matrices
ledger               sealed privacy ledger
log/  private-log/   the exchanged log and the site's own
policy.yaml          what this site agrees to at all
published/           public files that studies name by digest
studies/ runs/ outbox/ openings/
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from genopact_client import aead
from genopact_client.consent.registry import Registry
from genopact_client.genotypes.records import Manifest
from genopact_client.genotypes.sealed import Genotypes
from genopact_client.kek import create_kek, open_kek
from genopact_client.keyfile import KeyFile
from genopact_client.ledger import Ledger
from genopact_client.people import People
from genopact_client.policy import SitePolicy
from genopact_client.release.outbox import Outbox
from genopact_client.store import manifest
from genopact_client.store.folder import Rows
from genopact_client.store.sealed import Store
from genopact_client.studies import Studies
from genopact_shared import canonical, durable
from genopact_shared.errors import GenopactError, require
from genopact_shared.keys import SigningKey
from genopact_shared.published import Published
from genopact_shared.recipes import chosen
from genopact_shared.recipes.table import GenotypeParameters, Matrix, MatrixParameters, Values, digest_of_features
from genopact_shared.study import Study
from genopact_shared.tlog.log import Log


@dataclass(frozen=True)
class Site:
    """An opened site folder. Rooms open when they are first used, so that a command locks only what it needs."""

    home: Path
    name: str
    kek: bytes

    @classmethod
    def create(cls, home: Path, name: str, passphrase: bytes) -> "Site":
        """A new folder with fresh keys and a policy that permits nothing yet.

        Raises:
            GenopactError: SITE_EXISTS, KEK_WRONG.
        """
        require(not (home / "site.json").exists(), "SITE_EXISTS", str(home))
        for folder in ("keys", "studies", "runs", "outbox", "openings"):
            (home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o710)
        site = cls(home, name, create_kek(home / "kek", passphrase))
        keyfile = KeyFile.create(home / "keyfile", site.kek)
        Ledger.create(home / "ledger", keyfile.site_key("ledger")).close()
        for use in ("identity", "log"):
            site._seal_key(use, SigningKey.generate())
        durable.replace(home / "policy.yaml", SitePolicy.template(name).encode())
        durable.replace(home / "site.json", canonical.encode(site.card()))
        return site

    @classmethod
    def keyless(cls, home: Path) -> "Site":
        """An existing folder without its keys: party, policy, studies and outbox alone can be read. SITE_MISSING."""
        return cls(home, str(canonical.decode(durable.read(home / "site.json", "SITE_MISSING"))["name"]), b"")

    @classmethod
    def open(cls, home: Path, passphrase: bytes) -> "Site":
        """Open an existing folder.

        Raises:
            GenopactError: SITE_MISSING, KEK_WRONG.
        """
        return replace(cls.keyless(home), kek=open_kek(home / "kek", passphrase))

    @property
    def party(self) -> dict[str, str]:
        """What a coordinator was told of this site: name and public keys, the approver's and the link's among them."""
        told = canonical.decode(durable.read(self.home / "party.json", "SITE_MISSING"))
        return {str(key): str(value) for key, value in told.items()}

    def card(self) -> dict[str, str]:
        """What a study file says of this site, but for the approver's key: public keys only."""
        return {"name": self.name, "identity": self.identity.public.hex, "log": self.log_key.public.hex}

    @property
    def origin(self) -> str:
        """The name of the exchanged log."""
        return f"genopact/{self.name}"

    @cached_property
    def identity(self) -> SigningKey:
        """Signs replies and statements."""
        return self._open_key("identity")

    @cached_property
    def log_key(self) -> SigningKey:
        """Signs checkpoints."""
        return self._open_key("log")

    @property
    def policy(self) -> SitePolicy:
        """What this site agrees to at all, as the file says now. Raises POLICY_INVALID for another site's."""
        policy = SitePolicy.load(self.home / "policy.yaml")
        if policy.site != self.name:
            raise GenopactError("POLICY_INVALID", f"site: it is the policy of {policy.site}, not of {self.name}")
        return policy

    @cached_property
    def keyfile(self) -> KeyFile:
        """One key a person."""
        return KeyFile.open(self.home / "keyfile", self.kek)

    @cached_property
    def people(self) -> People:
        """One row a person."""
        return People(self.home / "people.db", self.keyfile)

    @cached_property
    def registry(self) -> Registry:
        """Consents."""
        return Registry(self.home / "consent.db", self.keyfile, self.people)

    @cached_property
    def store(self) -> Store:
        """Covariates; one process at a time."""
        return Store(self.home / "store", self.keyfile)

    def genotypes(self, name: str) -> Genotypes:
        """Sealed genotypes by name; one process at a time. STORE_MISSING."""
        require(Path(name).name == name, "STORE_MISSING", name)
        return Genotypes(self.home / "genotypes" / name, self.keyfile)

    def matrix(self, wanted: Matrix, rows: Rows) -> Values:
        """(n, F) of the people of these rows, NaN for whoever the matrix has not. MATRIX_MISSING."""
        names = [column["name"] for column in self.features(wanted).columns]
        with Store(self.home / "omics" / wanted.name, self.keyfile) as store:
            here = np.isin(rows, store.rows())
            table = store.table(rows[here])
        found = np.full((len(rows), len(names)), np.nan, np.float32)
        found[here] = np.column_stack([table.number(name) for name in names])
        return found

    def check_inputs(self, study: Study) -> None:
        """Whether what a study reads is here. PUBLISHED_MISSING, GENOTYPES_MISSING, MATRIX_MISSING."""
        parameters = chosen(study.recipe)[1]
        if isinstance(parameters, MatrixParameters):
            for each in parameters.matrices:
                self.features(each)
        if isinstance(parameters, GenotypeParameters):
            self.genotypes_named(parameters.variants)
        for digest in (getattr(parameters, "design", None), getattr(parameters, "model", None)):
            require(digest is None or self.published.has(digest), "PUBLISHED_MISSING", str(digest))

    def features(self, wanted: Matrix) -> manifest.Manifest:
        """The manifest of the store of a matrix, whose columns are its features; it stays closed. MATRIX_MISSING."""
        path = self.home / "omics" / wanted.name
        require((path / "manifest.dsse").exists(), "MATRIX_MISSING", wanted.name)
        found = manifest.Manifest.load(path, self.keyfile)
        names = [column["name"] for column in found.columns]
        if digest_of_features(names) != wanted.digest or len(names) != wanted.features:
            raise GenopactError("MATRIX_MISSING", f"{wanted.name}: it has other features")
        return found

    def genotypes_named(self, variants: str) -> str:
        """The name of the store of that variant manifest's digest; it stays closed. GENOTYPES_MISSING."""
        for name in self.genotype_names():
            if Manifest.load(self.home / "genotypes" / name, self.keyfile).variants == variants:
                return name
        raise GenopactError("GENOTYPES_MISSING", variants)

    def genotype_names(self) -> list[str]:
        """The stores of genotypes."""
        return sorted(path.parent.name for path in (self.home / "genotypes").glob("*/manifest.dsse"))

    def stores(self) -> Iterator[Callable[[], Store | Genotypes]]:
        """How each store of people's data is opened: covariates, genotypes, matrices."""
        yield lambda: self.store
        yield from (partial(self.genotypes, name) for name in self.genotype_names())
        for path in (self.home / "omics").glob("*/manifest.dsse"):
            yield partial(Store, path.parent, self.keyfile)

    @cached_property
    def ledger(self) -> Ledger:
        """The privacy ledger; one process at a time."""
        return Ledger(self.home / "ledger", self.keyfile.site_key("ledger"))

    @cached_property
    def log(self) -> Log:
        """The exchanged log; one process at a time."""
        return Log(self.home / "log", self.log_key, self.origin)

    @cached_property
    def private_log(self) -> Log:
        """The site's own log; one process at a time."""
        return Log(self.home / "private-log", self.log_key, f"{self.origin}/private")

    @cached_property
    def studies(self) -> Studies:
        """Studies this site has approved."""
        return Studies(self.home / "studies", self.name)

    @property
    def published(self) -> Published:
        """Public files that studies name."""
        return Published(self.home / "published")

    @cached_property
    def outbox(self) -> Outbox:
        """Everything that left."""
        return Outbox(self.home / "outbox")

    def _seal_key(self, use: str, key: SigningKey) -> None:
        durable.replace(self.home / "keys" / use, aead.seal(self.kek, key.seed(), f"genopact.key/{use}".encode()))

    def _open_key(self, use: str) -> SigningKey:
        sealed = durable.read(self.home / "keys" / use, "KEY_MISSING")
        return SigningKey(aead.unseal(self.kek, sealed, f"genopact.key/{use}".encode(), "KEY_INVALID", use))
