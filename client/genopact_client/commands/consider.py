"""study check and approve: what a study asks of this site, and a person's yes."""

import datetime as dt
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from genopact_client.commands.opening import HOME, Home, Yes, confirmed, opened
from genopact_client.consent.match import Outcome
from genopact_client.policy import SitePolicy, Verdict
from genopact_client.site import Site
from genopact_client.store.manifest import Manifest
from genopact_shared import durable, statements
from genopact_shared.errors import require
from genopact_shared.keys import SigningKey
from genopact_shared.recipes import chosen
from genopact_shared.sheet import sheet
from genopact_shared.study import Study, load_study
from genopact_shared.terminal import Answer, Exit, command, human, working

StudyFile = Annotated[Path, typer.Argument(help="The study file.")]
PublicFile = Annotated[Path, typer.Argument(help="A public file that a study names by its digest.")]
VERDICTS = {Outcome.permit: "permits it", Outcome.deny: "does not permit it", Outcome.needs_human: "cannot decide it"}

app = typer.Typer()
study = typer.Typer(name="study", help="What studies ask of this site.", no_args_is_help=True)


class Sheet(NamedTuple):
    """A study that names this site, and the policy's verdict."""

    study: Study
    site: str
    verdict: Verdict

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
        return [*sheet(self.study), *own, *reasons]


def sheet_of(study: Study, card: Mapping[str, str], policy: SitePolicy) -> Sheet:
    """The sheet of a study for the site with this card.

    Raises:
        GenopactError: STUDY_NOT_A_PARTY if the study does not name the site with exactly these keys.
    """
    party = study.party(card["name"])
    for use in ("identity", "log", "approver"):
        require(getattr(party, use) == card[use], "STUDY_NOT_A_PARTY", f"it names {party.name} with another {use} key")
    return Sheet(study, party.name, policy.judge(study))


@command(study, "check", example="genopact-site study check warfarin.yaml")
def check(file: StudyFile, *, home: Home = HOME) -> Answer:
    """Explain a study in plain words, with its cost and the site policy's verdict; exit 1 unless permitted."""
    site = Site.keyless(home)
    found = sheet_of(load_study(file), site.party, site.policy)
    if found.verdict.outcome != Outcome.permit:  # a doubt is no permit
        return Answer(found.data(), found.lines(), exit=Exit.REFUSED)
    return Answer(found.data(), found.lines(), f"genopact-site approve {file} --home {home} --approver-key KEY")


@command(
    app, "approve", example="genopact-site approve warfarin.yaml --approver-key /media/token/approver.key", room=opened
)
def approve(
    site: Site,
    file: StudyFile,
    *,
    approver_key: Annotated[Path, typer.Option(help="The approver's key, kept offline until now.")],
    planned_cohort: Annotated[int | None, typer.Option(min=10, help="In tens; default: who permits it now.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for the approval file.", file_okay=False)] = Path(),
    yes: Yes = False,
) -> Answer:
    """Agree to a study: sign its hash with the approver's key and write the approval for the coordinator."""
    study = load_study(file)
    found = sheet_of(study, site.party | site.card(), site.policy)
    for line in found.lines():
        human().print(line)
    require(found.verdict.outcome == Outcome.permit, "POLICY_REFUSED", ", ".join(found.verdict.reasons))
    require(not study.expired(int(time.time())), "STUDY_EXPIRED", study.expires)
    site.check_inputs(study)
    planned = _planned(site, study, planned_cohort)
    confirmed(f"Approve {study.name} with a planned cohort of {planned}?", yes=yes)
    about = {"study": study.hash, "site": site.name, "policy": site.policy.digest}
    statement = statements.Approval(at=int(time.time()), planned_cohort=planned, **about)
    envelope = statements.sign(statement, SigningKey.load(approver_key))
    site.studies.approve(study, envelope)
    path = out / f"approval-{study.name}-{site.name}.json"
    durable.replace(path, envelope)
    data = {**found.data(), "planned_cohort": planned, "file": str(path)}
    text = [f"Approved with a planned cohort of {planned}. Send {path} to the coordinator; put the key away."]
    follow = f"genopact-site start --home {site.home} --address {study.coordinator.address} --ca ca.pem"
    return Answer(data, text, follow)


@command(app, "design", example="genopact-site design risk-1.design")
def design(file: PublicFile, *, home: Home = HOME) -> Answer:
    """Take in a public file that a study names, such as the design of a risk model. It is checked against its name."""
    data = durable.read(file, "PUBLISHED_MISSING")
    digest = Site.keyless(home).published.add(data)
    return Answer({"digest": digest, "bytes": len(data)}, [f"Took in {digest}, {len(data)} bytes"])


def _planned(site: Site, study: Study, wanted: int | None) -> int:
    """A cohort in tens, never an exact count, if enough people permit the study now.

    Raises:
        GenopactError: COHORT_TOO_SMALL, USAGE.
    """
    with working("Counting who permits it"):
        permitted = site.registry.permitted(study.purpose, dt.datetime.now(dt.UTC).date()).rows
        count = np.intersect1d(np.flatnonzero(permitted), rows_of(site)).size
    least = max(study.minimum_cohort, site.policy.limits.minimum_cohort, 10)
    require(count >= least, "COHORT_TOO_SMALL", f"{count} permit it, {least} are needed")
    planned = count // 10 * 10 if wanted is None else wanted
    require(not planned % 10, "USAGE", "--planned-cohort is rounded to tens, so that no exact count leaves")
    return planned


def rows_of(site: Site) -> NDArray[np.int64]:
    """Who has a record and a key, from the manifest alone: the agent may hold the store. (n,)"""
    rows = np.flatnonzero(Manifest.load(site.home / "store", site.keyfile).version_of_rows())
    return rows[site.keyfile.alive(rows)]
