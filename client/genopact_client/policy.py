"""The site policy: which studies this hospital takes part in. One YAML file that a data protection officer can read.

A list that is empty allows nothing; "*" must be written out. The file carries its own examples, and a policy that
decides one of them otherwise does not load.
"""

import json
from decimal import Decimal
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, StringConstraints, model_validator

from genopact_client.consent.match import Outcome, disease_within, inside, regions_within
from genopact_client.ledger import Window
from genopact_shared import canonical
from genopact_shared.errors import GenopactError, beside, require
from genopact_shared.study import Frozen, Modality, Mode, Mondo, Name, Organisation, Region, Study, Use, read, read_yaml

Permission = Literal["GRU", "HMB", "DS", "POA"]
SmallDelta = Annotated[str, StringConstraints(pattern=r"^0\.[0-9]{1,30}$")]
Milli = Annotated[int, Field(ge=0, le=1_000_000)]

REASONS: dict[str, str] = beside(__file__)["reasons"]


class Request(Frozen):
    """What the policy looks at in a study."""

    permission: Permission
    diseases: tuple[Mondo, ...]
    uses: tuple[Use, ...]
    organisations: tuple[Organisation, ...]
    commercial: bool
    regions: tuple[Region, ...]
    data: tuple[Modality, ...]
    recipe: str
    mode: Mode
    release: Literal["parties", "public"]
    epsilon_milli: int | None
    delta: SmallDelta
    minimum_cohort: int
    honest_minimum: int
    sites: int

    @classmethod
    def of(cls, study: Study) -> Self:
        """`sites` is the quorum: the least number of sites that a round goes on with."""
        named = study.purpose.model_dump() | study.model_dump(include={"release", "minimum_cohort"})
        named |= study.privacy.model_dump(include={"mode", "epsilon_milli", "honest_minimum"})
        recipe, delta = f"{study.recipe.name}/{study.recipe.version}", format(Decimal(study.privacy.delta), "f")
        return cls(**named, recipe=recipe, delta=delta, sites=study.schedule.quorum)


class Allow(Frozen):
    """What a study may want. `diseases` covers every kind of a listed disease."""

    permissions: tuple[Permission, ...]
    diseases: tuple[Mondo | Literal["*"], ...]
    uses: tuple[Use, ...]
    organisations: tuple[Organisation, ...]
    commercial: Literal["never", "allowed"]
    regions: tuple[Region, ...]
    data: tuple[Modality, ...]
    recipes: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+/[0-9]+$")], ...]
    modes: tuple[Mode, ...]
    releases: tuple[Literal["parties", "public"], ...]


class Limits(Frozen):
    """Bounds, epsilon in thousandths. What a patient may spend for life, and in any `window_days` days in a row.

    `max_delta` is the delta of both; whether a patient can pay, a Renyi filter decides.
    """

    max_epsilon_milli: Milli
    lifetime_epsilon_milli: Milli
    window_epsilon_milli: Milli | None = None
    window_days: int | None = Field(default=None, ge=1, le=36_500)
    max_delta: SmallDelta
    minimum_cohort: int = Field(ge=1)
    minimum_honest: int = Field(ge=2)
    minimum_sites: int = Field(ge=1)

    @model_validator(mode="after")
    def _whole_window(self) -> Self:
        if (self.window_days is None) != (self.window_epsilon_milli is None):
            raise ValueError("Expected window_days and window_epsilon_milli together")
        return self

    @property
    def window(self) -> Window | None:
        """The limit for a time, if there is one."""
        days, most = self.window_days, self.window_epsilon_milli
        return None if days is None or most is None else Window(days, most)


class Example(Frozen):
    """The base request with changes, the answer it must get, and a code that must be among the reasons."""

    change: dict[str, Any] = Field(default_factory=dict)
    expect: Literal["permit", "deny", "needs_human"]
    because: str | None = None


class Examples(Frozen):
    """A whole request and its variations; one of them must be denied."""

    base: Request
    cases: tuple[Example, ...] = Field(min_length=1)


class Verdict(NamedTuple):
    """The answer to a study; `reasons` maps stable codes to sentences and is empty for a permit."""

    outcome: Outcome
    reasons: dict[str, str]


class SitePolicy(Frozen):
    """A site's whole policy."""

    schema_: Literal["genopact.site-policy/1"] = Field(alias="schema")
    site: Name
    allow: Allow
    limits: Limits
    examples: Examples

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read, check and try out a policy file.

        Raises:
            GenopactError: POLICY_UNREADABLE, POLICY_INVALID, POLICY_EXAMPLE_FAILS.
        """
        policy = read(cls, json.dumps(read_yaml(path, "POLICY_UNREADABLE")), "POLICY_INVALID")
        policy.try_examples()
        return policy

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical policy."""
        return canonical.digest_of(self.model_dump(mode="json", by_alias=True))

    def judge(self, study: Study) -> Verdict:
        """Whether the study is one for this site. A permit here replaces nobody's approval or consent."""
        return self.judge_request(Request.of(study))

    def judge_request(self, request: Request) -> Verdict:
        """The same for the part of a study that a policy looks at."""
        answers = self._scope(request) | self._bounds(request)
        failed = [code for code, holds in answers.items() if holds is False]
        doubts = [code for code, holds in answers.items() if holds is None]
        outcome = Outcome.deny if failed else Outcome.needs_human if doubts else Outcome.permit
        codes = failed or [f"{code}_unknown" for code in doubts]
        return Verdict(outcome, {code: REASONS[code] for code in codes})

    def try_examples(self) -> None:
        """Decide the examples of the file.

        Raises:
            GenopactError: POLICY_EXAMPLE_FAILS, POLICY_INVALID.
        """
        outcomes = set()
        for number, case in enumerate(self.examples.cases, 1):
            request = json.dumps(self.examples.base.model_dump(mode="json") | case.change)
            verdict = self.judge_request(read(Request, request, "POLICY_INVALID", f"example {number}: "))
            outcomes.add(verdict.outcome)
            if verdict.outcome.name != case.expect or (case.because and case.because not in verdict.reasons):
                said = f"{verdict.outcome.name} {', '.join(verdict.reasons)}".strip()
                raise GenopactError("POLICY_EXAMPLE_FAILS", f"example {number}: {said}")
        require(Outcome.deny in outcomes, "POLICY_EXAMPLE_FAILS", "no example is denied")

    def _scope(self, request: Request) -> dict[str, bool | None]:
        allow, wanted = self.allow, request.diseases
        disease = "*" in allow.diseases or (bool(wanted) and disease_within(wanted, allow.diseases))
        return {
            "permission": request.permission in allow.permissions,
            "disease": disease,
            "use": inside(request.uses, allow.uses),
            "organisation": inside(request.organisations, allow.organisations),
            "commercial": not request.commercial or allow.commercial == "allowed",
            "region": bool(request.regions) and regions_within(request.regions, allow.regions),
            "data": inside(request.data, allow.data),
            "recipe": request.recipe in allow.recipes,
            "mode": request.mode in allow.modes,
            "release": request.release in allow.releases,
        }

    def _bounds(self, request: Request) -> dict[str, bool | None]:
        limits, private = self.limits, request.mode not in {"none", "exact"}
        most = min(limits.max_epsilon_milli, limits.lifetime_epsilon_milli)
        if limits.window:
            most = min(most, limits.window.epsilon_milli)
        return {
            "epsilon": not private or (request.epsilon_milli is not None and request.epsilon_milli <= most),
            "delta": Decimal(request.delta) <= Decimal(limits.max_delta),
            "minimum_cohort": request.minimum_cohort >= limits.minimum_cohort,
            "minimum_honest": request.mode not in {"distributed", "exact"}
            or request.honest_minimum >= limits.minimum_honest,
            "minimum_sites": request.sites >= limits.minimum_sites,
        }

    @staticmethod
    def template(site: str = "my-hospital") -> str:
        """A closed policy to start from: it denies every study."""
        text = files("genopact_client").joinpath("site_policy.yaml").read_text("utf-8")
        return text.replace("site: my-hospital", f"site: {site}")
