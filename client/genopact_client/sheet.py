"""The sheet of a study for one site: what it asks in plain words, and what the site's own policy says to it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from genopact_client.consent.match import Outcome
from genopact_client.policy import SitePolicy, Verdict
from genopact_shared.errors import require
from genopact_shared.recipes import chosen
from genopact_shared.sheet import sheet as plain_words
from genopact_shared.study import Study

VERDICTS = {Outcome.permit: "permits it", Outcome.deny: "does not permit it", Outcome.needs_human: "cannot decide it"}


class Sheet(NamedTuple):
    """A study that names this site, and the policy's verdict."""

    study: Study
    site: str
    verdict: Verdict

    @property
    def permitted(self) -> bool:
        """Whether the policy permits it; a doubt is no permit."""
        return self.verdict.outcome == Outcome.permit

    def data(self) -> dict[str, Any]:
        """The sheet for programs."""
        about = {"study": self.study.name, "hash": self.study.hash, "site": self.site}
        cost = self.study.privacy.model_dump(include={"epsilon_milli", "delta"})
        return about | cost | {"verdict": self.verdict.outcome.name, "reasons": self.verdict.reasons}

    def lines(self) -> list[str]:
        """The sheet for people."""
        columns = ", ".join(column.name for column in chosen(self.study.recipe)[0].schema)
        own = [f"  columns     {columns}", f"  policy      of {self.site} {VERDICTS[self.verdict.outcome]}"]
        reasons = [f"              {code}: {sentence}" for code, sentence in self.verdict.reasons.items()]
        return [*plain_words(self.study), *own, *reasons]


def sheet(study: Study, card: Mapping[str, str], policy: SitePolicy) -> Sheet:
    """The sheet of a study for the site with this card.

    Raises:
        GenopactError: STUDY_NOT_A_PARTY if the study does not name the site with exactly these keys.
    """
    party = study.party(card["name"])
    for use in ("identity", "log", "approver"):
        require(getattr(party, use) == card[use], "STUDY_NOT_A_PARTY", f"it names {party.name} with another {use} key")
    return Sheet(study, party.name, policy.judge(study))
