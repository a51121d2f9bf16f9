"""The matcher: may this person's data serve this purpose on this day? One pure function, three answers.

Guarantees:
    Fails closed: a deny wins over everything, doubt wins over a permit, and silence is a deny. Adding a deny, a
    modifier or a restriction, and removing a provision that permits, never moves an answer towards permit.
Source: DUO 2022-09-21; three-valued matching after REMS' architecture decision 019.
"""

import datetime as dt
from collections.abc import Collection, Iterable
from enum import IntEnum
from typing import NamedTuple

from genopact_client.consent import diseases
from genopact_client.consent.record import ConsentRecord, Provision, Withdrawal
from genopact_shared import canonical
from genopact_shared.errors import beside
from genopact_shared.study import Purpose


class Outcome(IntEnum):
    """Ordered: less permission is smaller."""

    deny = 0
    needs_human = 1
    permit = 2


class Decision(NamedTuple):
    """An outcome and the sorted codes (keys of REASONS) that led to it."""

    outcome: Outcome
    reasons: tuple[str, ...]


_RULES = beside(__file__)
REASONS: dict[str, str] = _RULES["reasons"]
WITHIN: dict[str, frozenset[str]] = {permission: frozenset(inner) for permission, inner in _RULES["within"].items()}
"""Which purposes a permission includes; HMB leaves out ancestry (POA)."""

BLOCS: dict[str, frozenset[str]] = {bloc: frozenset(members) for bloc, members in _RULES["blocs"].items()}
_SETS = {part: {name: sorted(each) for name, each in _RULES[part].items()} for part in ("within", "blocs")}
DIGEST = canonical.digest_of({"matcher": "genopact.match/1", "diseases": diseases.DIGEST, **_SETS})
"""Which rules decided: goes into every decision root."""


def match(record: ConsentRecord, purpose: Purpose, on: dt.date) -> Decision:
    """Decide about one record.

    Args:
        record: what the person decided.
        purpose: what the study is for.
        on: the day for which the answer holds.
    """
    if record.status != "active":
        return Decision(Outcome.deny, (f"status_{record.status}",))
    denials = [_denial(p, purpose) for p in record.provisions if p.decision == "deny" and p.covers(on)]
    if True in denials:
        return Decision(Outcome.deny, ("denied",))
    permits = [_permit(p, purpose, record.withdrawal, on) for p in record.provisions if p.decision == "permit"]
    best = max(permits, key=lambda d: d.outcome, default=Decision(Outcome.deny, ("no_provision",)))
    if best.outcome == Outcome.deny:
        return Decision(Outcome.deny, _codes(code for d in permits for code in d.reasons) or best.reasons)
    signs = {"disease_unknown": None in denials, "modifier": record.modifiers, "regime": record.regime != "opt_in"}
    doubts = {code for code, holds in signs.items() if holds}
    if best.outcome == Outcome.permit and not doubts:
        return best
    return Decision(Outcome.needs_human, _codes(doubts | set(best.reasons) - {"permitted"}))


def regions_within(regions: Iterable[str], permitted: Iterable[str]) -> bool:
    """Whether every region lies in the permitted ones; "*" is everywhere, blocs are their members."""
    allowed = set(permitted)
    return "*" in allowed or _countries(regions) <= _countries(allowed)


def disease_within(terms: Iterable[str], permitted: Iterable[str]) -> bool | None:
    """Whether every term is one of the permitted or a kind of one; None if that is unknown."""
    kinds = tuple(permitted)
    return _all([_any([diseases.is_a(term, kind) for kind in kinds]) for term in terms])


def _permit(provision: Provision, purpose: Purpose, withdrawal: Withdrawal | None, on: dt.date) -> Decision:
    disease: bool | None = True
    if provision.permission == "DS" and purpose.permission == "DS":
        disease = disease_within(purpose.diseases, provision.diseases) if purpose.diseases else False
    known = purpose.permission in WITHIN["NRES"]
    checks: dict[str, bool] = {
        "not_in_force": provision.covers(on),
        "withdrawn_before": withdrawal is None or provision.valid_from > withdrawal.at,
        "permission": not known or purpose.permission in WITHIN[provision.permission],
        "disease": disease is not False,
        "use": inside(purpose.uses, provision.uses),
        "organisation": inside(purpose.organisations, provision.organisations),
        "commercial": purpose.commercial is False or provision.commercial_use == "allowed",
        "region": bool(purpose.regions) and regions_within(purpose.regions, provision.regions),
        "data": inside(purpose.data, provision.data),
    }
    if failed := [code for code, holds in checks.items() if not holds]:
        return Decision(Outcome.deny, _codes(failed))
    if doubts := [code for code, sure in (("permission_unknown", known), ("disease_unknown", disease)) if not sure]:
        return Decision(Outcome.needs_human, _codes(doubts))
    return Decision(Outcome.permit, ("permitted",))


def _denial(provision: Provision, purpose: Purpose) -> bool | None:
    """Whether a deny touches the purpose anywhere; an empty set of a deny is everything."""
    disease: bool | None = True
    if provision.permission == "DS" and purpose.permission == "DS":
        pairs = [(study, denied) for study in purpose.diseases for denied in provision.diseases]
        disease = _any([_any([diseases.is_a(a, b), diseases.is_a(b, a)]) for a, b in pairs])
    kind = bool(WITHIN.get(purpose.permission, WITHIN["NRES"]) & WITHIN[provision.permission])
    ours, theirs = _countries(purpose.regions), _countries(provision.regions)
    touched = (
        _touches(purpose.uses, provision.uses)
        and _touches(purpose.organisations, provision.organisations)
        and _touches(purpose.data, provision.data)
        and ("*" in ours | theirs or _touches(ours, theirs))
    )
    return disease if kind and touched else False


def _countries(regions: Iterable[str]) -> set[str]:
    return {country for region in regions for country in BLOCS.get(region, (region,))}


def inside(wanted: tuple[str, ...], permitted: tuple[str, ...]) -> bool:
    """Whether something is wanted, and all of it permitted."""
    return bool(wanted) and set(wanted) <= set(permitted)


def _touches(wanted: Collection[str], denied: Collection[str]) -> bool:
    return not denied or not wanted or bool(set(wanted) & set(denied))


def _any(values: list[bool | None]) -> bool | None:
    return True if True in values else None if None in values else False


def _all(values: list[bool | None]) -> bool | None:
    return False if False in values else None if None in values else True


def _codes(codes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(codes)))
