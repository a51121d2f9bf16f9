"""The wire's bytes are frozen: a change of one of them is a change of the format, and is made on purpose."""

import json
from pathlib import Path

import numpy as np
import pytest

from genopact_client.agent.exchange import Exchange
from genopact_client.site import Site
from genopact_server.sitelogs import Proof, unpack
from genopact_shared import canonical, dsse, statements, wire
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.study import load_study
from genopact_shared.tlog.note import open_checkpoint
from genopact_shared.tlog.tree import Tree
from genopact_shared.wire import Reply, Request
from tests.golden.wire_exchange import (
    EXPIRES,
    FOLDER,
    MASKS,
    MODEL,
    NEXT,
    NOW,
    RUN,
    STUDY,
    TOTALS,
    approval,
    exchange,
    key,
    seed,
)
from tests.integration.hospital import POLICY

STUDY_HASH = "64d6b5a2fa012674a378f8a8a6cb98c4296ae75272fcf5107511f79844a89538"
OPS = ("open", "deal", "join", "step", "unmask", "finish")
FRAMES = tuple(f"{op}.{kind}" for op in OPS for kind in ("request", "reply"))


def stored(name: str) -> bytes:
    return (FOLDER / f"{name}.frame").read_bytes()


def test_the_study_keeps_its_identity() -> None:
    assert load_study(FOLDER / "study.yaml").hash == STUDY_HASH
    assert canonical.digest(STUDY.canonical) == STUDY_HASH


@pytest.mark.parametrize("name", FRAMES)
def test_no_byte_changes(name: str) -> None:
    assert exchange()[name] == stored(name)


def test_a_frame_is_what_the_manual_says() -> None:
    """Taken apart by hand: magic, length, envelope, body; the signature over DSSE's encoding."""
    frame = stored("step.request")
    length = int.from_bytes(frame[4:8], "big")
    envelope, body = frame[8 : 8 + length], frame[8 + length :]
    assert frame[:4] == b"GPX1"
    outer = json.loads(envelope)
    assert set(outer) == {"payload", "payloadType", "signatures"}
    payload = dsse.verify(envelope, outer["payloadType"], [key("coordinator").public])
    message = json.loads(payload)
    assert (message["body"], message["body_size"]) == (canonical.digest(body), len(body))
    assert set(message) == {
        "schema", "op", "study", "run", "round", "attempt", "site", "body", "body_size", "nonce", "expires",
        "approvals", "seats", "aggregate", "total_size",
    }  # fmt: skip
    assert outer["signatures"][0]["keyid"] == key("coordinator").public.key_id


def test_the_three_sums_add_up() -> None:
    _, body = wire.unseal(Reply, stored("step.reply"), key("site-a").public)
    assert body == MASKS.uploads["site-a"]
    _, finish = wire.unseal(Request, stored("finish.request"), key("coordinator").public)
    total = wire.unpack(finish[-len(MASKS.total) :], np.int64, tag=np.uint64)["sum"]
    assert total.tolist() == np.array(list(TOTALS.values())).sum(axis=0).tolist()
    assert wire.unpack(body, np.uint32, tag=np.uint64)["sum"].view(np.int32).tolist() != TOTALS["site-a"]


def test_the_replies_belong_to_the_requests() -> None:
    for op in OPS:
        asked, answered = stored(f"{op}.request"), stored(f"{op}.reply")
        request, _ = wire.unseal(Request, asked, key("coordinator").public)
        reply, _ = wire.unseal(Reply, answered, key("site-a").public)
        assert (request.op, request.run, request.expires) == (op, RUN, EXPIRES)
        assert reply.request == canonical.digest(wire.split(asked)[0])


def test_the_intent_is_in_the_log_that_comes_at_the_end() -> None:
    step, _ = wire.unseal(Reply, stored("step.reply"), key("site-a").public)
    finish, body = wire.unseal(Reply, stored("finish.reply"), key("site-a").public)
    intent = (step.intent or "").encode()
    head = Proof.decode((step.proof or "").encode()).verify(intent, "genopact/site-a", key("site-a", "log").public)
    checkpoint, *entries = unpack(body)
    assert (head.size, entries[1], len(entries)) == (2, intent, 3)
    assert open_checkpoint(checkpoint, "genopact/site-a", key("site-a", "log").public) == Tree.of(entries).head()
    assert finish.op == "finish"
    receipt = statements.parse(entries[2], [key("site-a").public])
    assert isinstance(receipt, statements.Receipt)
    assert receipt.intent == canonical.digest(intent)


def test_the_models_are_linked() -> None:
    request, body = wire.unseal(Request, stored("finish.request"), key("coordinator").public)
    aggregate = statements.parse((request.aggregate or "").encode(), [key("coordinator").public])
    assert isinstance(aggregate, statements.Aggregate)
    assert (aggregate.model_in, aggregate.model_out) == tuple(
        canonical.digest(wire.pack(model)) for model in (MODEL, NEXT)
    )
    model, total = body[: -request.total_size], body[-request.total_size :]
    assert (canonical.digest(model), canonical.digest(total)) == (aggregate.model_out, aggregate.total)


def test_expiry_is_the_last_second() -> None:
    request, _ = wire.unseal(Request, stored("open.request"), key("coordinator").public)
    request.check_fresh(EXPIRES)
    with pytest.raises(GenopactError, match="REQUEST_EXPIRED"):
        request.check_fresh(EXPIRES + 1)


def test_an_agent_answers_the_frozen_request(tmp_path: Path) -> None:
    """The frozen reply, but for the mask key, comes out of a real agent with site-a's keys."""
    site = Site.create(tmp_path / "site-a", "site-a", b"a passphrase for tests")
    for use in ("identity", "log"):
        site._seal_key(use, SigningKey(seed(f"site-a {use}")))
    (tmp_path / "site-a" / "policy.yaml").write_text(POLICY.format(site="site-a", epsilon=5000, lifetime=5000))
    site = Site.open(tmp_path / "site-a", b"a passphrase for tests")
    site.studies.approve(STUDY, approval("site-a").encode())
    agent = Exchange(site, lambda: float(NOW))
    answer = agent(stored("open.request"))
    assert agent(stored("open.request")) == answer
    found, _ = wire.unseal(Reply, answer, key("site-a").public)
    frozen, _ = wire.unseal(Reply, stored("open.reply"), key("site-a").public)
    assert found.mask_key != frozen.mask_key
    assert found.model_copy(update={"mask_key": frozen.mask_key}) == frozen
    assert agent(stored("open.request")[:-1]) == wire.UNAVAILABLE
    assert agent(stored("finish.request")) == wire.UNAVAILABLE
    site.log.close()
    site.private_log.close()
