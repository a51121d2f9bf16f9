"""A study file in plain words: what a hospital, a researcher or an auditor reads before agreeing."""

from collections.abc import Iterator, Mapping

from genopact_shared.plan import plan_of
from genopact_shared.study import Study

PERMISSIONS = {
    "GRU": "general research",
    "HMB": "health, medical or biomedical research",
    "DS": "research on the named diseases only",
    "POA": "population origins and ancestry research",
}
MODES = {
    "none": "no noise: only stores that are public or synthetic can serve it",
    "local": "each site adds all the noise itself; nobody else has to be trusted",
    "exact": "the masked total of all sites, exact: these patients leave all later private studies of their site",
    "distributed": "sites add shares of the noise under masks; only the total is seen",
}


def sheet(study: Study, planned: Mapping[str, int] | None = None) -> Iterator[str]:
    """Lines of text. `planned`: planned cohort of each site, by default the study's minimum for each party."""
    purpose, privacy = study.purpose, study.privacy
    planned = planned or {party.name: study.minimum_cohort for party in study.parties}
    plan = plan_of(study, planned)
    yield f"{study.title}  ({study.name})"
    yield f"  identity    {study.hash}"
    diseases = f": {', '.join(purpose.diseases)}" if purpose.diseases else ""
    yield f"  purpose     {PERMISSIONS[purpose.permission]}{diseases}"
    yield f"  uses        {', '.join(purpose.uses)} by {', '.join(purpose.organisations)} organisations"
    yield f"              {'' if purpose.commercial else 'no '}commercial use; in {', '.join(purpose.regions)}"
    yield f"  data        {', '.join(purpose.data)}; outcome {study.outcome}"
    yield f"  recipe      {study.recipe.name} version {study.recipe.version}, installed here; no code is received"
    yield f"  privacy     {MODES[privacy.mode]}"
    if privacy.epsilon_milli is None:
        yield "  cost        not limited: nothing protects a single patient"
    else:
        yield f"  cost        for a patient of one site, epsilon at most {privacy.epsilon_milli / 1000:g} in all,"
        yield f"              {plan.epsilon:.3f} if no attempt fails, at delta {privacy.delta}"
    what = "the change of a model" if plan.steps[0].kind == "model" else "a sum over patients"
    yield f"  releases    {', '.join(step.name for step in plan.steps)}: {what} each"
    yield f"  schedule    {len(plan.steps)} rounds of {study.schedule.quorum} sites at least, of {len(study.parties)}"
    yield f"  sites       {', '.join(party.name for party in study.parties)}; coordinator {study.coordinator.name}"
    how = "" if privacy.mode == "none" else ", clipped and noised"
    yield f"  leaves      those releases{how}; status codes; log entries without counts"
    yield "  never       genotypes, phenotypes, names, identifiers, consents, counts, error texts"
    yield f"  expires     {study.expires}; released to {study.release}"
