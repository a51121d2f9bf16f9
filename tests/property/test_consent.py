"""Consent properties: less never permits more, and the column index is the matcher, row by row."""

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_client.consent.index import ColumnIndex
from genopact_client.consent.match import Outcome, match
from genopact_client.consent.record import ConsentRecord, Provision, Withdrawal
from genopact_client.consent.registry import Registry
from genopact_client.policy import Allow, SitePolicy
from genopact_shared.study import Purpose
from tests.unit.consent_fixtures import CANCER, DIABETES, STRANGE, TODAY, TYPE_2, Keys, People
from tests.unit.consent_fixtures import purpose as wide_purpose
from tests.unit.consent_fixtures import record as active
from tests.unit.policy_fixtures import POLICIES, request

ROWS = 12
DECISIONS: list[Any] = ["permit", "permit", "permit", "deny"]
PERMISSIONS: list[Any] = ["GRU", "HMB", "DS", "POA", "NRES"]
PURPOSES: list[Any] = ["GRU", "HMB", "DS", "POA"]
COMMERCIAL: list[Any] = ["never", "allowed"]
DISEASES = [CANCER, DIABETES, TYPE_2, STRANGE]
USES = ["train", "validate", "predict", "federated_stats"]
ORGANISATIONS = ["public", "nonprofit", "commercial"]
REGIONS = ["*", "EU", "DE", "FR", "US"]
DATA = ["genotype", "drug", "ehr"]
SETS: dict[str, list[Any]] = {"uses": USES, "organisations": ORGANISATIONS, "regions": REGIONS, "data": DATA}

days = st.sampled_from([TODAY + dt.timedelta(offset) for offset in (-40, -2, -1, 0, 1, 2, 40)])


def some(values: list[Any], least: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), min_size=least, unique=True).map(tuple)


@st.composite
def provisions(draw: st.DrawFn) -> Provision:
    permission = draw(st.sampled_from(PERMISSIONS))
    wide = draw(st.booleans())
    first, last = sorted([draw(days), draw(days)])
    return Provision(
        decision=draw(st.sampled_from(DECISIONS)),
        permission=permission,
        diseases=draw(some(DISEASES, 1)) if permission == "DS" else (),
        commercial_use=draw(st.sampled_from(COMMERCIAL)),
        valid_from=first,
        valid_until=last,
        origin="test",
        **{name: tuple(values) if wide else draw(some(values)) for name, values in SETS.items()},
    )


records = st.builds(
    ConsentRecord,
    schema=st.just("genopact.consent/1"),
    regime=st.sampled_from(["opt_in", "opt_in", "opt_in", "waiver"]),
    status=st.sampled_from(["active", "active", "active", "active", "withdrawn", "unknown"]),
    provisions=st.lists(provisions(), max_size=3).map(tuple),
    modifiers=st.sampled_from([(), (), ("IRB",)]),
    form=st.none(),
    withdrawal=st.none() | st.builds(Withdrawal, at=days, scope=st.just("no_access")),
    max_epsilon_milli=st.none() | st.integers(0, 9),
)


@st.composite
def purposes(draw: st.DrawFn) -> Purpose:
    permission = draw(st.sampled_from(PURPOSES))
    return Purpose(
        permission=permission,
        diseases=draw(some(DISEASES, 1 if permission == "DS" else 0)),
        commercial=draw(st.booleans()),
        **{name: draw(some(values, 1)) for name, values in SETS.items()},
    )


def outcome(record: ConsentRecord, purpose: Purpose) -> Outcome:
    return match(record, purpose, TODAY).outcome


@settings(max_examples=300, deadline=None)
@given(records, purposes(), provisions(), st.data())
def test_a_restriction_never_moves_towards_permit(
    record: ConsentRecord, purpose: Purpose, extra: Provision, data: st.DataObject
) -> None:
    before = outcome(record, purpose)
    changes: list[dict[str, Any]] = [
        {"provisions": (*record.provisions, extra.model_copy(update={"decision": "deny"}))},
        {"modifiers": (*record.modifiers, "COL")},
        {"status": "withdrawn"},
        {"regime": "waiver"},
        {"withdrawal": Withdrawal(at=dt.date(2200, 1, 1), scope="no_access")},
    ]
    for i, provision in enumerate(record.provisions):
        others = (*record.provisions[:i], *record.provisions[i + 1 :])
        if provision.decision == "permit":
            changes.append({"provisions": others})
            narrower = narrowed(provision, data)
            changes.append({"provisions": (*others, narrower)})
    for change in changes:
        assert outcome(record.model_copy(update=change), purpose) <= before


def narrowed(provision: Provision, data: st.DataObject) -> Provision:
    name = data.draw(st.sampled_from([*SETS, "commercial_use", "diseases"]))
    if name == "commercial_use":
        return provision.model_copy(update={name: "never"})
    values = getattr(provision, name)
    kept = data.draw(st.lists(st.sampled_from(values), unique=True)) if values else []
    return provision.model_copy(update={name: tuple(kept)})


@settings(max_examples=300, deadline=None)
@given(records, purposes(), st.data())
def test_a_purpose_that_wants_more_is_never_permitted_more(
    record: ConsentRecord, purpose: Purpose, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([*SETS, "commercial", "diseases"]))
    if name == "commercial":
        wider: object = True
    elif name == "diseases":
        wider = (*purpose.diseases, *data.draw(some(DISEASES))) if purpose.permission == "DS" else purpose.diseases
    else:
        wider = (*getattr(purpose, name), *data.draw(some(SETS[name])))
    assert outcome(record, purpose.model_copy(update={name: wider})) <= outcome(record, purpose)


@settings(max_examples=200, deadline=None)
@given(records, purposes(), st.data())
def test_a_purpose_that_lost_a_field_is_never_permitted(
    record: ConsentRecord, purpose: Purpose, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(SETS)))
    assert outcome(record, purpose.model_copy(update={name: ()})) == Outcome.deny


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.integers(0, ROWS - 1), st.none() | records), purposes(), days)
def test_the_index_is_the_matcher_row_by_row(
    stored: dict[int, ConsentRecord | None], purpose: Purpose, on: dt.date
) -> None:
    index = ColumnIndex()
    index.resize(ROWS)
    for row, record in stored.items():
        index.put(row, record)
    rows, reasons = index.evaluate(purpose, on)
    naive = {row: match(record, purpose, on) for row, record in stored.items() if record}
    assert {int(row) for row in np.flatnonzero(rows)} == {r for r, d in naive.items() if d.outcome == Outcome.permit}
    for code in {code for decision in naive.values() for code in decision.reasons}:
        assert reasons[code] == sum(code in decision.reasons for decision in naive.values())
    assert reasons["no_record"] == ROWS - len(stored)
    assert reasons["erased"] == len(stored) - len(naive)


@st.composite
def redated(draw: st.DrawFn, answers: ConsentRecord) -> ConsentRecord:
    """The same answers on other days: the same profile."""
    provisions = []
    for provision in answers.provisions:
        first, last = sorted([draw(days), draw(days)])
        provisions.append(provision.model_copy(update={"valid_from": first, "valid_until": last}))
    withdrawal = draw(st.none() | st.builds(Withdrawal, at=days, scope=st.just("no_access")))
    return answers.model_copy(update={"provisions": tuple(provisions), "withdrawal": withdrawal})


@settings(max_examples=150, deadline=None)
@given(st.lists(provisions(), min_size=1, max_size=2), st.data())
def test_rows_that_share_a_profile_keep_their_own_days(answers: list[Provision], data: st.DataObject) -> None:
    wide = {name: tuple(values) for name, values in SETS.items()}
    alike = tuple(provision.model_copy(update={"permission": "HMB", "diseases": (), **wide}) for provision in answers)
    people = [data.draw(redated(active(*alike))) for _ in range(ROWS)]
    index = ColumnIndex()
    for row, each in enumerate(people):
        index.put(row, each)
    rows, _ = index.evaluate(wide_purpose(), TODAY)
    assert list(rows) == [outcome(each, wide_purpose()) == Outcome.permit for each in people]


steps = st.lists(
    st.tuples(st.sampled_from(["record", "record", "withdraw", "erase", "reopen"]), st.integers(0, 5), records),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(steps, purposes())
def test_a_registry_follows_its_naive_model(taken: list[tuple[str, int, ConsentRecord]], purpose: Purpose) -> None:
    keys, naive = Keys(6), dict[int, ConsentRecord | None]()
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder) / "consent.db", keys, People(6))
        for action, row, record in taken:
            alive = naive.get(row, record) is not None
            if action == "record" and alive:
                registry.record(row, record)
                naive[row] = registry.get(row)
                kept = naive[row]
                assert kept
                assert kept.model_copy(update={"withdrawal": record.withdrawal}) == record
            elif action == "withdraw" and alive:
                registry.withdraw(row, "no_access", TODAY)
                naive[row] = registry.get(row)
                assert not registry.permitted(purpose, TODAY).rows[row]
            elif action == "erase":
                registry.erase(row)
                naive[row] = None
            elif action == "reopen":
                root = registry.permitted(purpose, TODAY).registry_root
                registry.close()
                registry = Registry(Path(folder) / "consent.db", keys, People(6))
                assert registry.permitted(purpose, TODAY).registry_root == root
            expected = {r for r, c in naive.items() if c and match(c, purpose, TODAY).outcome == Outcome.permit}
            assert {int(r) for r in np.flatnonzero(registry.permitted(purpose, TODAY).rows)} == expected
        registry.close()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_policy_that_allows_less_never_permits_more(data: st.DataObject) -> None:
    policy = SitePolicy.load(POLICIES / "research-hospital.yaml")
    wanted = request(
        permission=data.draw(st.sampled_from(["GRU", "HMB", "DS", "POA"])),
        diseases=data.draw(some(DISEASES)),
        commercial=data.draw(st.booleans()),
        mode=data.draw(st.sampled_from(["none", "local", "distributed"])),
        epsilon_milli=data.draw(st.integers(1, 9000)),
    )
    name = data.draw(st.sampled_from(sorted(Allow.model_fields)))
    values = getattr(policy.allow, name)
    less = "never" if isinstance(values, str) else tuple(data.draw(some(list(values)))) if values else ()
    narrower = policy.model_copy(update={"allow": policy.allow.model_copy(update={name: less})})
    assert narrower.judge_request(wanted).outcome <= policy.judge_request(wanted).outcome
