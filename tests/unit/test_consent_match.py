"""The matcher against a conformance table and, clause by clause, against near misses."""

import datetime as dt
import json

import pytest

from genopact_client.consent import diseases
from genopact_client.consent.match import REASONS, Outcome, disease_within, match, regions_within
from genopact_client.consent.record import ConsentRecord, Provision, Withdrawal
from genopact_shared.errors import GenopactError
from genopact_shared.study import Purpose
from tests.unit.consent_fixtures import (
    BREAST_CANCER,
    CANCER,
    DIABETES,
    STRANGE,
    TODAY,
    TYPE_2,
    odd_purpose,
    provision,
    purpose,
    record,
)

DS_DIABETES = provision(permission="DS", diseases=(DIABETES,))


def outcome(decided: ConsentRecord, wanted: Purpose) -> tuple[str, tuple[str, ...]]:
    decision = match(decided, wanted, TODAY)
    assert set(decision.reasons) <= set(REASONS)
    return decision.outcome.name, decision.reasons


CONFORMANCE = [
    # what other matchers get wrong
    (purpose(permission="GRU"), record(DS_DIABETES), "deny"),
    (odd_purpose(permission="", uses=(), organisations=("nonprofit",), regions=()), record(DS_DIABETES), "deny"),
    (odd_purpose(permission="MDS"), record(DS_DIABETES), "needs_human"),
    (purpose(), record(provision(permission="GRU", regions=("EU",)), modifiers=("IRB",)), "needs_human"),
    (purpose(), ConsentRecord.silent("active"), "deny"),
    (purpose(), record(DS_DIABETES), "deny"),
    (purpose(permission="DS", diseases=(BREAST_CANCER,)), record(DS_DIABETES), "deny"),
    # permissions
    *[
        (purpose(permission=wanted), record(provision(permission=given)), "permit" if wanted in inner else "deny")
        for given, inner in {"NRES": "GRU HMB POA", "GRU": "GRU HMB POA", "HMB": "HMB", "POA": "POA"}.items()
        for wanted in ("GRU", "HMB", "POA")
    ],
    (purpose(permission="DS", diseases=(BREAST_CANCER,)), record(), "permit"),
    (purpose(permission="DS", diseases=(BREAST_CANCER,)), record(provision(permission="POA")), "deny"),
    # diseases
    (purpose(permission="DS", diseases=(DIABETES,)), record(DS_DIABETES), "permit"),
    (purpose(permission="DS", diseases=(TYPE_2,)), record(DS_DIABETES), "permit"),
    (purpose(permission="DS", diseases=(DIABETES,)), record(provision(permission="DS", diseases=(TYPE_2,))), "deny"),
    (purpose(permission="DS", diseases=(TYPE_2, BREAST_CANCER)), record(DS_DIABETES), "deny"),
    (purpose(permission="DS", diseases=(STRANGE,)), record(DS_DIABETES), "needs_human"),
    (purpose(permission="DS", diseases=(STRANGE, BREAST_CANCER)), record(DS_DIABETES), "deny"),
    (purpose(permission="DS", diseases=(STRANGE,)), record(provision(permission="DS", diseases=(STRANGE,))), "permit"),
    (odd_purpose(permission="DS", diseases=()), record(DS_DIABETES), "deny"),
    # denials
    (purpose(), record(provision(), provision(decision="deny")), "deny"),
    (purpose(), record(provision(), provision(decision="deny", permission="DS", diseases=(CANCER,))), "deny"),
    (purpose(), record(provision(), provision(decision="deny", permission="POA")), "permit"),
    (purpose(), record(provision(), provision(decision="deny", uses=("predict",))), "permit"),
    (purpose(), record(provision(), provision(decision="deny", uses=())), "deny"),
    (purpose(), record(provision(), provision(decision="deny", regions=("EU",))), "deny"),
    (purpose(), record(provision(), provision(decision="deny", regions=("US",))), "permit"),
    (purpose(), record(provision(), provision(decision="deny", regions=())), "deny"),
    (purpose(), record(provision(), provision(decision="deny", valid_until=dt.date(2026, 5, 31))), "permit"),
    (odd_purpose(permission="MDS"), record(provision(), provision(decision="deny")), "deny"),
]


@pytest.mark.parametrize(("wanted", "decided", "expected"), CONFORMANCE)
def test_conformance(wanted: Purpose, decided: ConsentRecord, expected: str) -> None:
    assert outcome(decided, wanted)[0] == expected


@pytest.mark.parametrize(
    ("denied", "studied", "expected"),
    [
        (CANCER, BREAST_CANCER, "deny"),
        (BREAST_CANCER, CANCER, "deny"),
        (DIABETES, BREAST_CANCER, "permit"),
        (STRANGE, BREAST_CANCER, "needs_human"),
    ],
)
def test_a_denied_disease_denies_wider_and_narrower_ones(denied: str, studied: str, expected: str) -> None:
    decided = record(provision(), provision(decision="deny", permission="DS", diseases=(denied,)))
    assert outcome(decided, purpose(permission="DS", diseases=(studied,)))[0] == expected


@pytest.mark.parametrize(
    ("given", "wanted", "reason"),
    [
        (provision(uses=("validate",)), purpose(), "use"),
        (provision(uses=()), purpose(), "use"),
        (provision(organisations=("nonprofit",)), purpose(), "organisation"),
        (provision(), purpose(commercial=True), "commercial"),
        (provision(regions=()), purpose(), "region"),
        (provision(), purpose(regions=("DE", "US")), "region"),
        (provision(), purpose(regions=("*",)), "region"),
        (provision(), purpose(regions=("EU",)), "region"),
        (provision(data=("ehr",)), purpose(), "data"),
        (provision(), purpose(data=("genotype", "genome")), "data"),
        (provision(valid_from=dt.date(2026, 6, 2)), purpose(), "not_in_force"),
        (provision(valid_until=dt.date(2026, 5, 31)), purpose(), "not_in_force"),
    ],
)
def test_each_clause_denies_alone(given: Provision, wanted: Purpose, reason: str) -> None:
    assert outcome(record(given), wanted) == ("deny", (reason,))


def test_first_and_last_day_count() -> None:
    assert outcome(record(provision(valid_from=TODAY, valid_until=TODAY)), purpose())[0] == "permit"


@pytest.mark.parametrize("status", ["refused", "withdrawn", "expired", "not_asked", "unknown", "superseded"])
def test_only_active_permits(status: str) -> None:
    assert outcome(record(status=status), purpose()) == ("deny", (f"status_{status}",))


@pytest.mark.parametrize("regime", ["opt_out", "waiver"])
def test_other_regimes_and_conditions_need_a_person(regime: str) -> None:
    decided = record(regime=regime, modifiers=("COL",))
    assert outcome(decided, purpose()) == ("needs_human", ("modifier", "regime"))


def test_a_permit_not_later_than_the_withdrawal_stays_withdrawn() -> None:
    withdrawal = Withdrawal(at=dt.date(2026, 3, 1), scope="no_access")
    same_day = provision(valid_from=dt.date(2026, 3, 1))
    later = provision(valid_from=dt.date(2026, 3, 2))
    assert outcome(record(same_day, withdrawal=withdrawal), purpose()) == ("deny", ("withdrawn_before",))
    assert outcome(record(same_day, later, withdrawal=withdrawal), purpose())[0] == "permit"


def test_commercial_use_and_organisation_are_separate_questions() -> None:
    company = provision(organisations=("commercial",))
    assert outcome(record(company), purpose(organisations=("commercial",)))[0] == "permit"
    assert outcome(record(company), purpose(organisations=("commercial",), commercial=True))[1] == ("commercial",)


def test_blocs_are_their_members() -> None:
    assert regions_within(["DE", "FR"], ["EU"])
    assert regions_within(["EU", "NO"], ["EEA"])
    assert not regions_within(["EEA"], ["EU"])
    assert not regions_within(["*"], ["EEA"])
    assert regions_within(["*"], ["*"])
    assert not regions_within(["DE"], [])


def test_the_disease_table_is_closed_and_acyclic() -> None:
    assert all(parent in diseases.PARENTS for parents in diseases.PARENTS.values() for parent in parents)
    assert all("MONDO:0000001" in diseases.ancestors(term) for term in diseases.PARENTS)
    assert disease_within([], []) is True
    assert disease_within([DIABETES], []) is False


@pytest.mark.parametrize("field", sorted(ConsentRecord.model_fields.keys() - {"schema_"} | {"schema"}))
def test_a_record_without_a_field_does_not_load(field: str) -> None:
    data = record().model_dump(mode="json", by_alias=True)
    del data[field]
    with pytest.raises(GenopactError, match="CONSENT_INVALID"):
        ConsentRecord.parse(json.dumps(data).encode())


@pytest.mark.parametrize("field", sorted(Provision.model_fields))
def test_a_provision_without_a_field_does_not_load(field: str) -> None:
    data = record().model_dump(mode="json", by_alias=True)
    del data["provisions"][0][field]
    with pytest.raises(GenopactError, match="CONSENT_INVALID"):
        ConsentRecord.parse(json.dumps(data).encode())


def test_equal_answers_have_equal_bytes() -> None:
    one, other = provision(uses=("train", "validate")), provision(uses=("validate", "train", "train"))
    assert record(one).encode() == record(other).encode()
    assert ConsentRecord.parse(record(one).encode()) == record(one)


def test_outcomes_are_ordered() -> None:
    assert Outcome.deny < Outcome.needs_human < Outcome.permit
