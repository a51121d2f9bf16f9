"""Statements: in-toto form, one spelling, closed schemas; decision roots and their openings."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genopact_server.statements import Charge, Release, RunOpened, StudyRegistered
from genopact_shared import canonical, dsse
from genopact_shared.decision import Opening, verify_opening
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.statements import (
    FIRST,
    KINDS,
    PAYLOAD_TYPE,
    Aggregate,
    Approval,
    Incident,
    Intent,
    Receipt,
    Refusal,
    RegistryRoot,
    Statement,
    parse,
    sign,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "tlog" / "intent.json"
KEY = SigningKey(bytes(range(32)))
D = [f"{n:064x}" for n in range(16)]
RUN, NONCE = "ab" * 16, "cd" * 16
FACT = NoisedSum(noise_multiplier="9.3", clip="1", scale=65536, dims=10, honest_minimum=3)
INTENT = Intent(
    at=1_700_000_000,
    study=D[1],
    run=RUN,
    round=1,
    attempt=0,
    step="gradient",
    request=D[2],
    site="site-a",
    decision_root=D[3],
    ledger_root=D[4],
    model_in=D[5],
    mechanism=FACT,
    nonce=NONCE,
)
AT: dict[str, Any] = {"at": 1, "study": D[1], "run": RUN, "round": 1, "attempt": 0, "step": "gradient"}
EXAMPLES: list[Statement] = [
    INTENT,
    StudyRegistered(at=1, study=D[1], text=D[2]),
    Approval(at=1, study=D[1], site="site-a", planned_cohort=500, policy=D[2]),
    RunOpened(at=1, study=D[1], run=RUN, sites=("site-a",), approvals=(D[2],)),
    Receipt(**AT, request=D[2], site="site-a", intent=D[3], update=D[4], outcome="released", prev=FIRST),
    Receipt(**AT, request=D[2], site="site-a", intent=D[3], update=None, outcome="unavailable", prev=FIRST),
    Aggregate(**AT, model_in=D[5], sites=("site-a",), receipts=(D[4],), total=D[6], model_out=D[7]),
    Release(
        at=1, study=D[1], run=RUN, model=D[7], epsilon_milli=750, delta="0.000001",
        mechanisms=(Charge(mechanism=FACT, times=3),),
    ),
    RegistryRoot(at=1, site="site-a", root=D[3]),
    Refusal(at=1, request=D[2], reasons=("POLICY_EPSILON",)),
    Incident(at=1, code="LOG_TAIL_CUT", evidence=D[3]),
]  # fmt: skip


def resign(change: dict[str, Any]) -> bytes:
    """INTENT's envelope with its statement changed and signed again."""
    return dsse.sign(PAYLOAD_TYPE, canonical.encode(json.loads(INTENT.payload()) | change), KEY)


@pytest.mark.parametrize("statement", EXAMPLES, ids=lambda s: s.kind)
def test_every_kind_round_trips_and_names_its_subject(statement: Statement) -> None:
    assert parse(sign(statement, KEY), [KEY.public]) == statement
    document = canonical.decode(statement.payload())
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == f"https://genopact.org/attestation/{statement.kind}/v1"
    assert len(document["subject"][0]["digest"]["sha256"]) == 64


def test_every_kind_has_an_example() -> None:
    assert {type(example) for example in EXAMPLES} == set(KINDS.values())


def test_the_form_of_an_intent_is_frozen() -> None:
    assert sign(INTENT, KEY) == GOLDEN.read_bytes()


def test_another_key_or_type_is_refused() -> None:
    for envelope in (sign(INTENT, SigningKey.generate()), sign(INTENT)):
        with pytest.raises(GenopactError) as error:
            parse(envelope, [KEY.public])
        assert error.value.code == "SIGNATURE_INVALID"
    with pytest.raises(GenopactError) as error:
        parse(dsse.sign("application/json", INTENT.payload(), KEY), [KEY.public])
    assert error.value.code == "ENVELOPE_INVALID"


PREDICATE = json.loads(INTENT.payload())["predicate"]
SHORT_FACT = {k: v for k, v in PREDICATE["mechanism"].items() if k != "adjacency"}
CHANGES: dict[str, dict[str, Any]] = {
    "another statement type": {"_type": "https://in-toto.io/Statement/v0.1"},
    "an unknown kind": {"predicateType": "https://genopact.org/attestation/intent/v2"},
    "a kind that is no text": {"predicateType": ["x"]},
    "another subject": {"subject": [{"name": "request", "digest": {"sha256": D[9]}}]},
    "a second subject": {"subject": 2 * json.loads(INTENT.payload())["subject"]},
    "an unknown member": {"note": "x"},
    "an unknown field": {"predicate": PREDICATE | {"patients": 12}},
    "a missing field": {"predicate": {k: v for k, v in PREDICATE.items() if k != "nonce"}},
    "text for a number": {"predicate": PREDICATE | {"round": "1"}},
    "a flag for a number": {"predicate": PREDICATE | {"round": True}},
    "a negative round": {"predicate": PREDICATE | {"round": -1}},
    "a capital digest": {"predicate": PREDICATE | {"request": "AB" * 32}},
    "a digest and a newline": {"predicate": PREDICATE | {"request": D[2] + "\n"}},
    "an unknown mechanism": {"predicate": PREDICATE | {"mechanism": {"kind": "trust-me"}}},
    "a default left out": {"predicate": PREDICATE | {"mechanism": SHORT_FACT}},
    "no object": {"predicate": []},
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_signed_statement_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(GenopactError) as error:
        parse(resign(CHANGES[name]), [KEY.public])
    assert error.value.code == "STATEMENT_INVALID"


def test_a_float_cannot_be_parsed_even_if_signed() -> None:
    payload = INTENT.payload().replace(b'"round":1', b'"round":1.0')
    with pytest.raises(GenopactError) as error:
        parse(dsse.sign(PAYLOAD_TYPE, payload, KEY), [KEY.public])
    assert error.value.code == "CANONICAL_INVALID"


@pytest.mark.parametrize(("outcome", "update"), [("released", None), ("unavailable", D[1])])
def test_a_receipt_has_an_update_exactly_when_it_released_one(outcome: Any, update: str | None) -> None:
    with pytest.raises(ValidationError):
        Receipt(**AT, request=D[2], site="site-a", intent=D[3], update=update, outcome=outcome, prev=FIRST)


# --- decisions


def opening(bits: str, salt: bytes = bytes(32), study: str = D[1]) -> Opening:
    packed = int(bits.ljust(-(-len(bits) // 8) * 8, "0") or "0", 2).to_bytes(-(-len(bits) // 8), "big")
    return Opening(
        study=study,
        policy=D[2],
        matcher=D[3],
        as_of=100,
        registry_root=D[4],
        registry_size=len(bits),
        bitmap=packed.hex(),
        salt=salt.hex(),
    )


@given(st.text("01", max_size=70))
def test_an_opening_permits_exactly_the_rows_that_were_permitted(bits: str) -> None:
    opened = opening(bits)
    assert [opened.permits(row) for row in range(len(bits))] == [bit == "1" for bit in bits]
    assert not any(opened.permits(row) for row in (-1, len(bits), len(bits) + 7))


def test_the_bit_order_is_that_of_numpy_packbits() -> None:
    numpy = pytest.importorskip("numpy")
    assert opening("1101000001").bitmap == numpy.packbits([1, 1, 0, 1, 0, 0, 0, 0, 0, 1]).tobytes().hex()


def test_an_opening_proves_that_a_withdrawn_row_was_out_of_a_round() -> None:
    before, after = opening("111", b"a" * 32), opening("101", b"b" * 32)
    intent = INTENT.model_copy(update={"decision_root": after.root()})
    assert verify_opening(after, intent)
    assert not after.permits(1)
    assert not verify_opening(before, intent)
    assert not verify_opening(opening("101", b"c" * 32), intent), "another salt is another root"
    assert not verify_opening(after, intent.model_copy(update={"study": D[8]}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("study", D[9]), ("policy", D[9]), ("matcher", D[9]), ("as_of", 101), ("registry_root", D[9]),
        ("registry_size", 4), ("bitmap", "c0"), ("salt", D[9]),
    ],
)  # fmt: skip
def test_the_root_commits_to_every_field(field: str, value: object) -> None:
    opened = opening("101")
    assert opened.model_copy(update={field: value}).root() != opened.root()


def test_the_form_of_a_decision_root_is_frozen() -> None:
    assert opening("101").root() == "bbb059abde3d576eb110d4a1ab217afdcd3ff0a940f97bae7d4f74171c5e86cd"


@pytest.mark.parametrize("bitmap", ["", "a0a0", "b0", "A0", "a"])
def test_a_bitmap_of_another_size_or_with_spare_bits_is_refused(bitmap: str) -> None:
    fields = opening("101").model_dump(by_alias=True) | {"bitmap": bitmap}
    with pytest.raises(ValidationError):
        Opening.model_validate(fields)
