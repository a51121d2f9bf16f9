"""The plain-language sheet of a study: what a hospital agrees to when it approves."""

from dataclasses import dataclass
from typing import Any

from genopact_client.consent.match import Outcome
from genopact_client.policy import SitePolicy, Verdict
from genopact_shared.errors import GenopactError
from genopact_shared.plan import PlannedStep, plan_of
from genopact_shared.recipes import RECIPES, chosen
from genopact_shared.study import Study

PURPOSES = {
    "GRU": "general research",
    "HMB": "health and medical research",
    "DS": "research into named diseases",
    "POA": "research into ancestry",
}
WITHOUT = "There is no noise: only a store of public or synthetic data takes part."


@dataclass(frozen=True)
class Sheet:
    """What the study asks of a site, and what the site's policy says to it."""

    study: Study
    site: str
    verdict: Verdict
    releases: tuple[PlannedStep, ...]
    columns: tuple[str, ...]

    @property
    def permitted(self) -> bool:
        """Whether the policy permits it."""
        return self.verdict.outcome == Outcome.permit

    def data(self) -> dict[str, Any]:
        """The sheet for programs."""
        return {
            "study": self.study.name,
            "hash": self.study.hash,
            "site": self.site,
            "epsilon_milli": self.study.privacy.epsilon_milli,
            "delta": self.study.privacy.delta,
            "releases": [{"name": step.name, "dims": step.dims, "masked": step.masked} for step in self.releases],
            "outcome": self.verdict.outcome.name,
            "reasons": self.verdict.reasons,
        }

    def lines(self) -> list[str]:
        """The sheet for people."""
        study, purpose = self.study, self.study.purpose
        others = ", ".join(party.name for party in study.parties if party.name != self.site) or "none"
        return [
            f"{study.title} ({study.name})",
            f"  Hash        {study.hash}",
            f"  Purpose     {PURPOSES[purpose.permission]}{self._diseases()}; to {', '.join(purpose.uses)}",
            f"  Who         {study.coordinator.name} coordinates ({study.contact}); with {others}",
            f"  For whom    {', '.join(purpose.organisations)}; {'' if purpose.commercial else 'not '}commercial; "
            f"regions {', '.join(purpose.regions)}",
            f"  Data        {', '.join(purpose.data)}; columns {', '.join(self.columns)}",
            f"  Predicts    {study.outcome}, by recipe {study.recipe.name} version {study.recipe.version}",
            f"  Privacy     {self._privacy()}",
            f"  Leaves      {self._leaves()}",
            "  Stays       every record, genotype, consent, patient number, exact count, reason; the site's own term",
            f"  Released    the model, to {'everybody' if study.release == 'public' else 'the parties'}",
            f"  Ends        {study.expires}; each site trains on {study.minimum_cohort} patients at least",
            f"  Policy      {self._verdict()}",
            *(f"              {code}: {sentence}" for code, sentence in self.verdict.reasons.items()),
        ]

    def _diseases(self) -> str:
        return f" ({', '.join(self.study.purpose.diseases)})" if self.study.purpose.diseases else ""

    def _privacy(self) -> str:
        privacy = self.study.privacy
        if privacy.epsilon_milli is None:
            return WITHOUT
        cost = f"epsilon {privacy.epsilon_milli / 1000:g} at delta {privacy.delta} for each patient, at most"
        if privacy.mode == "local":
            return f"{cost}; this site adds all the noise itself"
        return f"{cost} and per attempt; holds if the noise of {privacy.honest_minimum} sites is honest"

    def _leaves(self) -> str:
        if not self.releases:
            return "model updates of noised private steps"
        each = ", ".join(f"{step.name} ({step.dims} numbers)" for step in self.releases)
        how = "clipped and noised, " if self.study.privacy.epsilon_milli else "without noise, "
        masked = "under masks that cancel only in the total" if self.releases[0].masked else "not masked"
        return f"{len(self.releases)} sums over patients, {how}{masked}: {each}"

    def _verdict(self) -> str:
        said = {"permit": "permits it", "deny": "does not permit it", "needs_human": "cannot decide it"}
        return said[self.verdict.outcome.name]


def sheet(study: Study, card: dict[str, str], policy: SitePolicy) -> Sheet:
    """The sheet of a study for the site with this card.

    Raises:
        GenopactError: STUDY_NOT_A_PARTY if the study does not name the site with these keys, PLAN_IMPOSSIBLE.
    """
    party = study.party(card["name"])
    for use in ("identity", "log", "approver"):
        if getattr(party, use) != card[use]:
            raise GenopactError("STUDY_NOT_A_PARTY", f"it names {party.name} with another {use} key")
    steps: tuple[PlannedStep, ...] = ()
    if study.recipe.name in RECIPES:
        steps = plan_of(study, {each.name: study.minimum_cohort for each in study.parties}).steps
    columns = tuple(column.name for column in chosen(study.recipe)[0].schema)
    return Sheet(study, party.name, policy.judge(study), steps, columns)
