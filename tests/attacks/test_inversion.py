"""A coordinator plants a layer that tells patients apart: what it reads of them, and what comes before that.

The attack itself: tests/benchmarks/inversion.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_client.train import private_sgd
from genopact_server.audit.verify import verify
from genopact_server.evidence import bundle_of
from genopact_server.rounds import Run
from genopact_shared import canonical, statements, wire
from genopact_shared.plan import MODEL_SCALE
from genopact_shared.privacy.mechanisms import Unprotected
from genopact_shared.tlog.log import pack
from genopact_shared.wire import Reply, Request
from tests.benchmarks.inversion import BATCH, HIDDEN, SCALE, SNPS, Scene, noised_sum_fact, private_sgd_fact
from tests.integration.hospital import Consortium, DirectCourier, consortium

OPEN = Unprotected(dims=HIDDEN * (SNPS + 1), scale=MODEL_SCALE)
TARGET = "site-b"


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.of()


# --- what the doors leave of the attack


def test_without_noise_it_reads_most_patients_exactly_and_only_them(scene: Scene) -> None:
    gradient = scene.through_release_model(OPEN)
    assert scene.exact(gradient) >= BATCH // 2
    assert scene.alike(gradient) >= scene.exact(gradient)
    strangers = np.random.default_rng(1).binomial(2, scene.frequencies, (BATCH, SNPS)).astype(np.float64)
    assert replace(scene, genotypes=strangers).alike(gradient) == 0


def test_through_release_model_it_reads_nobody(scene: Scene) -> None:
    gradient = scene.through_release_model(private_sgd_fact())
    assert (scene.exact(gradient), scene.alike(gradient)) == (0, 0)


def test_the_clip_alone_would_not_stop_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_sgd, "gaussian", lambda sd, size: np.zeros(size))
    assert scene.alike(scene.through_release_model(private_sgd_fact())) >= BATCH // 2


def test_masks_alone_would_not_stop_it_and_with_noise_the_total_tells_nobody(scene: Scene) -> None:
    total, uploads = scene.through_release_sum(OPEN.model_copy(update={"scale": SCALE}))
    assert scene.exact(total) >= BATCH // 2
    assert scene.alike(uploads[0]) == 0, "one site's part is hidden all the same"
    total, uploads = scene.through_release_sum(noised_sum_fact())
    assert (scene.exact(total), scene.alike(total), scene.alike(uploads[0])) == (0, 0, 0)


# --- before it comes to that


class Planting(DirectCourier):
    """Sends the target another model at one round, and signs whatever makes it look right."""

    one: Consortium
    round: int
    lies: bool
    reply: bytes | None = None

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        frames = dict(requests)
        if TARGET in frames and self.reply is None:
            request, body = wire.unseal(Request, frames[TARGET], self.one.folder.identity.public)
            if (request.op, request.round) == ("step", self.round):
                self.reply = self.sites[TARGET](self._planted(request, body))
                del frames[TARGET]
        return super().exchange(frames, deadline)

    def _planted(self, request: Request, body: bytes) -> bytes:
        key = self.one.folder.identity
        model = wire.unpack(body[: len(body) - request.total_size], np.float64)
        planted = wire.pack({name: np.full_like(each, 9.0) for name, each in model.items()})
        about: dict[str, Any] = {}
        if self.lies and request.aggregate is not None:
            last = statements.parse(request.aggregate.encode(), [key.public])
            assert isinstance(last, statements.Aggregate)
            lie = last.model_copy(update={"model_out": canonical.digest(planted)})
            about["aggregate"] = statements.sign(lie, key).decode()
        body = planted + body[len(body) - request.total_size :]
        about |= {"body": canonical.digest(body), "body_size": len(body)}
        return wire.seal(request.model_copy(update=about), body, key)


def planted(path: Path, round_: int, *, lies: bool, **study: Any) -> tuple[Consortium, Run, Planting]:
    one = consortium(path, sites=4, **study)
    courier = Planting(one.courier.sites)
    courier.one, courier.round, courier.lies = one, round_, lies
    run = Run.start(one.folder, one.study, courier, one.events.append)
    run.go()
    return one, run, courier


NET: dict[str, Any] = {
    "recipe": {"name": "dose-net", "version": 1, "parameters": {"rounds": 2, "local_steps": 1}},
    "privacy": {"mode": "local", "epsilon_milli": 3000, "delta": "0.000001", "honest_minimum": 1, "spare_attempts": 2},
    "schedule": {"quorum": 3, "deadline_s": 20},
}
SUMS: dict[str, Any] = {"schedule": {"quorum": 3, "deadline_s": 20}}


@pytest.mark.parametrize(
    ("study", "round_", "lies"),
    [(NET, 0, True), (NET, 1, False), (SUMS, 0, True), (SUMS, 1, False), (SUMS, 1, True)],
    ids=["network, first", "network, later", "sum, first", "sum, later", "sum, later, signed"],
)
def test_a_planted_model_is_neither_the_rebuilt_one_nor_the_last_aggregate(
    tmp_path: Path, study: dict[str, Any], round_: int, lies: bool
) -> None:
    one, _, courier = planted(tmp_path, round_, lies=lies, **study)
    site = one.hospitals[TARGET].site
    refusals = [statements.parse(entry, [site.identity.public]) for entry in site.private_log.entries()]
    assert courier.reply == b""
    assert isinstance(refusals[0], statements.Refusal)
    assert refusals[0].reasons == ("MODEL_NOT_LINKED",)
    one.close()


@pytest.fixture
def deceived(tmp_path: Path) -> Iterator[tuple[Consortium, Run, Planting]]:
    """A network whose next model one site was lied to about, by a signed aggregate that it alone has seen."""
    found = planted(tmp_path, 1, lies=True, **NET)
    yield found
    found[0].close()


def test_a_network_that_the_coordinator_lies_about_is_answered_with_all_the_noise_and_the_run_ends_for_this_site(
    deceived: tuple[Consortium, Run, Planting],
) -> None:
    """In mode local no total reaches a site, so that it cannot make the next model itself. The noise protects it."""
    one, run, courier = deceived
    site = one.hospitals[TARGET].site
    reply, _ = wire.unseal(Reply, courier.reply or b"", site.identity.public)
    intent = statements.parse((reply.intent or "").encode(), [site.identity.public])
    assert isinstance(intent, statements.Intent)
    assert intent.mechanism == run.plan.steps[1].fact
    assert site.ledger.spent(0) == tuple(step.fact for step in run.plan.steps)
    last = statements.parse(list(site.private_log.entries())[-1], [site.identity.public])
    assert isinstance(last, statements.Refusal)
    assert last.reasons == ("MODEL_NOT_LINKED",), "it refuses the true model at the end"
    assert verify(bundle_of(one.folder, run.state.run)).exit_code != 0, "so that its log is missing"


def test_with_that_sites_log_the_audit_finds_the_lie(deceived: tuple[Consortium, Run, Planting]) -> None:
    one, run, _ = deceived
    entries, checkpoint = one.hospitals[TARGET].site.log.export()
    (run.path / "sites" / f"{TARGET}.log").write_bytes(pack([checkpoint]) + entries)
    findings = verify(bundle_of(one.folder, run.state.run)).findings
    assert any(each.verdict == "violated" and "model" in each.what for each in findings)
