"""The study file: one YAML that says everything a hospital agrees to; its canonical SHA-256 is the study's identity."""

import datetime as dt
import json
import re
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from genopact_shared import canonical
from genopact_shared.errors import GenopactError, require
from genopact_shared.keys import VerifyKey

M = TypeVar("M", bound=BaseModel)
MAX_STUDY_BYTES = 1 << 20

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Mondo = Annotated[str, StringConstraints(pattern=r"^MONDO:\d{7}$")]
Region = Annotated[str, StringConstraints(pattern=r"^(\*|[A-Z]{2,3})$")]
Use = Literal["train", "validate", "predict", "federated_stats"]
Organisation = Literal["public", "nonprofit", "commercial"]
Modality = Literal["genotype", "exome", "genome", "expression", "methylation", "ehr", "drug"]
Mode = Literal["none", "local", "distributed", "exact"]


class Frozen(BaseModel):
    """Strict, immutable, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Purpose(Frozen):
    """What the study is for, in DUO terms, and who profits from it."""

    permission: Literal["GRU", "HMB", "DS", "POA"]
    diseases: tuple[Mondo, ...] = ()
    uses: tuple[Use, ...] = Field(min_length=1)
    organisations: tuple[Organisation, ...] = Field(min_length=1)
    commercial: bool
    regions: tuple[Region, ...] = Field(min_length=1)
    data: tuple[Modality, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _disease_is_named(self) -> Self:
        if self.permission == "DS" and not self.diseases:
            raise ValueError("a disease-specific study names at least one disease")
        return self


class RecipeChoice(Frozen):
    """A recipe that every site has installed, and its hyper-parameters."""

    name: Name
    version: int = Field(ge=1)
    parameters: dict[str, Any] = Field(default_factory=dict)


class Privacy(Frozen):
    """The privacy contract. Unit: one patient of one site, add/remove adjacency.

    `honest_minimum` is the number of sites whose noise is guaranteed to be in every sum: each site's share has
    variance sigma^2 / honest_minimum, whoever answers. `epsilon_milli` is never exceeded: it covers the plan and
    `spare_attempts` repetitions of its costliest release, which a void attempt (a site or a process that fails in
    mid-round) uses up.
    """

    mode: Mode
    unit: Literal["patient"] = "patient"
    epsilon_milli: int | None = Field(default=None, gt=0, le=20_000)
    delta: str = "0.000001"
    honest_minimum: int = Field(default=1, ge=1)
    spare_attempts: int = Field(default=0, ge=0, le=100)

    @field_validator("delta")
    @classmethod
    def _small_delta(cls, value: str) -> str:
        if not re.fullmatch(r"0\.[0-9]{1,30}", value) or not 0 < Decimal(value) <= Decimal("0.0001"):
            raise ValueError("delta lies above 0 and at or below 0.0001, a decimal string such as '0.000001'")
        return value

    @model_validator(mode="after")
    def _budget_fits_mode(self) -> Self:
        if (self.epsilon_milli is None) != (self.mode in {"none", "exact"}):
            raise ValueError("epsilon_milli is required, except in modes none and exact, which have none")
        if self.masked and self.honest_minimum < 2:
            raise ValueError("masked totals need honest_minimum of at least 2")
        if not self.masked and self.honest_minimum != 1:
            raise ValueError("honest_minimum is 1 where each site adds all the noise itself, or none")
        return self

    @property
    def masked(self) -> bool:
        """Whether only the total of all sites is seen: with shares of noise, or, in mode exact, with none."""
        return self.mode in {"distributed", "exact"}


class Schedule(Frozen):
    """Rounds follow from the recipe; these are the limits around them.

    `quorum`: sites whose updates make a round. In mode distributed it is also the number of sites that open a total, so
    parties - quorum may fail, and quorum - honest_minimum may collude with the coordinator (docs/masking.md).
    """

    quorum: int = Field(ge=1)
    deadline_s: int = Field(default=60, ge=1, le=86_400)
    attempts: int = Field(default=5, ge=1, le=100)


class Signer(Frozen):
    """What a hospital and the coordinator have alike."""

    name: Name
    identity: PublicKey
    log: PublicKey


class Party(Signer):
    """A hospital: `identity` signs its replies, `log` its log, `approver` (a person) its approvals."""

    approver: PublicKey


class Coordinator(Signer):
    """The coordinator's keys and the one host:port that links call."""

    address: str


class Study(Frozen):
    """A whole study; two studies with the same `hash` are the same study."""

    schema_: Literal["genopact.study/1"] = Field(alias="schema")
    name: Name
    title: str = Field(min_length=1, max_length=200)
    contact: str = Field(min_length=3, max_length=200)
    purpose: Purpose
    outcome: Name | Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    recipe: RecipeChoice
    privacy: Privacy
    schedule: Schedule
    minimum_cohort: int = Field(default=50, ge=1)
    metrics: tuple[str, ...] = ()
    release: Literal["parties", "public"] = "parties"
    expires: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    coordinator: Coordinator
    parties: tuple[Party, ...] = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [party.name for party in self.parties]
        keys = [key for p in self.parties for key in (p.identity, p.log, p.approver)]
        keys += [self.coordinator.identity, self.coordinator.log]
        if len(set(names)) < len(names) or self.coordinator.name in names:
            raise ValueError("party names differ from one another and from the coordinator's")
        if len(set(keys)) < len(keys):
            raise ValueError("every key has one holder and one use")
        floor = max(3, self.privacy.honest_minimum) if self.privacy.masked else self.privacy.honest_minimum
        if not floor <= self.schedule.quorum <= len(names):
            raise ValueError(f"the quorum lies between {floor} and the number of parties")
        if self.privacy.masked and self.schedule.quorum + self.privacy.honest_minimum <= len(names):
            raise ValueError("quorum and honest_minimum together exceed the number of parties: masks rest on it")
        if self.privacy.mode == "exact" and "federated_stats" not in self.purpose.uses:
            raise ValueError("mode exact is for the use federated_stats, which patients permit or not")
        dt.date.fromisoformat(self.expires)
        return self

    @cached_property
    def canonical(self) -> bytes:
        """The bytes that are hashed and approved."""
        return canonical.encode(self.model_dump(mode="json", by_alias=True))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of `canonical`: the study's identity."""
        return canonical.digest(self.canonical)

    def party(self, name: str) -> Party:
        """The party of that name, else STUDY_NOT_A_PARTY."""
        named = {party.name: party for party in self.parties}
        require(name in named, "STUDY_NOT_A_PARTY", name)
        return named[name]

    def expired(self, now: int) -> bool:
        """Whether Unix second `now` lies after the last day of the study (UTC)."""
        return dt.datetime.fromtimestamp(now, dt.UTC).date() > dt.date.fromisoformat(self.expires)

    @property
    def coordinator_key(self) -> VerifyKey:
        """The key that signs requests."""
        return VerifyKey.from_hex(self.coordinator.identity)


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys: the last one would win silently."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    if len(set(map(str, keys))) < len(keys):
        raise yaml.constructor.ConstructorError(None, None, "a key appears twice", node.start_mark)
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path, code: str) -> Any:
    """A YAML file as JSON-able data; dates become ISO strings.

    Raises:
        GenopactError: `code` when the file cannot be read or parsed.
    """
    try:
        require(path.stat().st_size <= MAX_STUDY_BYTES, code, f"{path} is larger than 1 MiB")
        data = yaml.load(path.read_text("utf-8"), Loader=_Loader)  # noqa: S506 - derives from SafeLoader
        return json.loads(json.dumps(data, default=str))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise GenopactError(code, f"{path}: {error}") from error


def explain(error: ValidationError) -> str:
    """One line per field at fault, without the values."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())


def read(kind: type[M], data: str | bytes, code: str, place: str = "") -> M:
    """The model of JSON text; raises `code` with what is wrong, and where, otherwise."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise GenopactError(code, place + explain(error)) from error


def parse_study(data: bytes) -> Study:
    """A study of canonical or any JSON bytes; the recipe and its parameters must be installed here.

    Raises:
        GenopactError: STUDY_INVALID.
    """
    from genopact_shared.recipes import check_choice

    study = read(Study, data, "STUDY_INVALID")
    check_choice(study)
    return study


def load_study(path: Path) -> Study:
    """Read and check a study file.

    Raises:
        GenopactError: STUDY_UNREADABLE, STUDY_INVALID.
    """
    return parse_study(json.dumps(read_yaml(path, "STUDY_UNREADABLE")).encode())
