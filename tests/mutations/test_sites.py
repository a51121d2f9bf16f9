"""Quick tests that kill: what a site answers, charges, and keeps to itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_client.agent.cohort import eligible
from genopact_client.agent.exchange import Exchange
from genopact_client.agent.runs import RunRecord
from genopact_client.release import kernel
from genopact_client.release.outbox import Outbox
from genopact_client.site import Site
from genopact_server.rounds import Run
from genopact_shared import canonical, statements, wire
from genopact_shared.errors import GenopactError
from genopact_shared.plan import plan_of
from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import NoisedSum, Unprotected
from genopact_shared.wire import Reply, Request
from tests.integration.hospital import Consortium
from tests.mutations.world import LOCAL, forged, patients, sites, started, stopped
from tests.unit.test_plan import PLANNED, study

DELTA = "0.000001"


# --- positions and replies


def test_a_position_only_moves_forward() -> None:
    record = RunRecord(study="0" * 64, run="1" * 32, approvals=(), round=2, attempt=1)
    for position in ((2, 1), (2, 0), (1, 5)):
        with pytest.raises(GenopactError, match="REQUEST_REPLAYED"):
            record.check_next(*position)
    record.check_next(2, 2)
    record.check_next(3, 0)


def test_the_first_reply_stands(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    assert outbox.put("request", b"first") == outbox.put("request", b"second") == outbox.get("request") == b"first"


# --- a site that releases


def reasons(site: Site) -> list[str]:
    entries = (statements.parse(entry, [site.identity.public]) for entry in site.private_log.entries())
    return [code for each in entries if isinstance(each, statements.Refusal) for code in each.reasons]


def test_before_a_release_everybody_is_charged_and_the_intent_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from inside the kernel, which then fails: the position is gone, and the charge stays."""
    one = sites(tmp_path, 1, privacy=LOCAL)
    site, seen = one.hospitals["site-0"].site, list[tuple[int, list[int], int]]()

    def failing(*_: Any) -> Any:
        record = json.loads(next((site.home / "runs").glob("*.json")).read_text())
        charged = [row for row in range(30) if len(site.ledger.spent(row)) == 1]
        seen.append((record["round"], charged, site.log.size))
        raise OSError

    monkeypatch.setattr(kernel, "release_sum", failing)
    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        started(one).go(until=1)
    assert seen[0] == (0, patients(one), 2)  # the approval and the intent
    _, frame, _ = one.courier.carried[-1]
    assert forged(one, frame, wire.split(frame)[1]) == b""
    assert reasons(site)[-1] == "REQUEST_REPLAYED"
    one.close()


def test_who_is_charged_and_who_is_not(tmp_path: Path) -> None:
    """One patient has withdrawn, one is exhausted; all others are charged, once a step."""
    one = sites(tmp_path, 1, privacy=LOCAL)
    site, rows = one.hospitals["site-0"].site, patients(one)
    record = site.registry.get(rows[0])
    assert record is not None
    site.registry.record_many({rows[0]: record.model_copy(update={"status": "refused"})})
    big = NoisedSum(noise_multiplier="0.3", clip="1", scale=1024, dims=1, honest_minimum=1)
    site.ledger.reserve("0" * 64, "1" * 32, 0, 0, big, np.array(rows[1:2]), 20_000)
    started(one).go(until=2)
    assert [len(site.ledger.spent(row)) for row in rows] == [0, 1, *[2] * (len(rows) - 2)]
    one.close()


def test_a_study_s_epsilon_holds_for_all_its_runs(tmp_path: Path) -> None:
    one = sites(tmp_path, 1, privacy=LOCAL | {"spare_attempts": 0})
    started(one).go()
    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        started(one).go()
    site = one.hospitals["site-0"].site
    assert reasons(site)[-1] == "STUDY_BUDGET_SPENT"
    assert accounting.epsilon(site.ledger.spent(patients(one)[0]), DELTA) <= 1.0
    one.close()


def test_without_protection_private_data_stay(tmp_path: Path) -> None:
    one = sites(tmp_path, 1, privacy=LOCAL)
    bare = plan_of(study(privacy={"mode": "none"}), PLANNED).steps[0]
    assert isinstance(bare.fact, Unprotected)
    admission = eligible(one.hospitals["site-0"].site, one.study, bare, 1_800_000_000)
    with pytest.raises(GenopactError, match="STORE_NOT_PUBLIC"), admission:
        pass
    one.close()


def test_no_agent_starts_on_an_older_ledger(tmp_path: Path) -> None:
    one = sites(tmp_path, 1, privacy=LOCAL)
    site = one.hospitals["site-0"].site
    ledger, old = site.home / "ledger", tmp_path / "backup"
    site.ledger.head  # noqa: B018 - opens it
    shutil.copyfile(ledger, old)
    started(one).go(until=1)
    site.ledger.close()
    shutil.copyfile(old, ledger)
    vars(site).pop("ledger")
    with pytest.raises(GenopactError, match="LEDGER_ROLLED_BACK"):
        Exchange(site)
    one.close()


def test_a_retry_gets_the_same_bytes(tmp_path: Path) -> None:
    one = sites(tmp_path, 1, privacy=LOCAL)
    started(one).go(until=1)
    for _, frame, reply in one.courier.carried:
        assert one.exchange("site-0")(frame) == reply != b""
    one.close()


def test_masks_are_opened_for_uploads_of_the_same_step_at_the_same_model(tmp_path: Path) -> None:
    """A colluding site's upload that claims another model, or another mechanism, is not added."""
    one, _, frame = stopped(tmp_path, "unmask", 0)
    uploads = wire.cut(wire.split(frame)[1])
    identities = {name: each.site.identity for name, each in one.hospitals.items()}
    keys = [each.public for each in identities.values()]
    at = next(i for i, each in enumerate(uploads) if wire.parse_envelope(Reply, each, *keys).site == "site-1")
    honest = wire.parse_envelope(Reply, uploads[at], *keys)
    intent = statements.parse(str(honest.intent).encode(), keys)
    assert isinstance(intent, statements.Intent)
    for lie in ({"model_in": "5" * 64}, {"mechanism": intent.mechanism.model_copy(update={"scale": 1})}):
        claimed = statements.sign(intent.model_copy(update=lie), identities["site-1"]).decode()
        sealed = wire.seal(honest.model_copy(update={"intent": claimed}), b"", identities["site-1"])
        assert forged(one, frame, wire.join([*uploads[:at], wire.split(sealed)[0], *uploads[at + 1 :]])) == b""
        assert reasons(one.hospitals["site-0"].site)[-1] == "UNMASK_REFUSED"
    assert one.exchange("site-0")(frame) != b""
    one.close()


def last_of(run: Run, one: Consortium) -> statements.Aggregate:
    last = statements.parse(str(run.state.aggregate).encode(), [one.folder.identity.public])
    assert isinstance(last, statements.Aggregate)
    return last


def planted(model: bytes) -> bytes:
    return wire.pack({name: np.full_like(each, 9.0) for name, each in wire.unpack(model, np.float64).items()})


def test_a_planted_first_model_is_refused(tmp_path: Path) -> None:
    one, _, frame = stopped(tmp_path, "step", 0)
    assert forged(one, frame, planted(wire.split(frame)[1])) == b""
    assert reasons(one.hospitals["site-0"].site) == ["MODEL_NOT_LINKED"]
    one.close()


def test_a_planted_model_and_a_wrong_total_are_refused(tmp_path: Path) -> None:
    """The coordinator signs both, and the model that follows from its total."""
    one, run, frame = stopped(tmp_path, "step", 1)
    last, body = last_of(run, one), wire.split(frame)[1]
    asked = wire.parse_envelope(Request, wire.split(frame)[0], one.folder.identity.public)
    model, total = body[: -asked.total_size], body[-asked.total_size :]
    site = one.hospitals["site-0"].site

    def signed(**claim: str) -> str:
        return statements.sign(last.model_copy(update=claim), one.folder.identity).decode()

    chosen = planted(model)
    assert forged(one, frame, chosen + total, aggregate=signed(model_out=canonical.digest(chosen))) == b""
    assert reasons(site) == ["MODEL_NOT_LINKED"]
    found = wire.unpack(total, np.int64, tag=np.uint64)
    found["sum"][0] += 1
    first = wire.unpack((run.path / "model-0000.safetensors").read_bytes(), np.float64)
    follows = wire.pack(run.plan.advance(0, first, found["sum"], last.sites)[1])
    wrong = wire.pack(found)
    claim = signed(total=canonical.digest(wrong), model_out=canonical.digest(follows))
    assert forged(one, frame, follows + wrong, aggregate=claim, total_size=len(wrong)) == b""
    assert reasons(site)[1:] == ["TOTAL_FORGED"]
    assert one.exchange("site-0")(frame) != b""
    one.close()
