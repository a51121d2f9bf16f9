"""The empirical audit of small plans: it passes what is whole, and names what is broken.

A plan at epsilon 16 has little enough noise for 500 runs to see half of it missing, or a patient twice. The bound that
assumes nothing about the noise cannot reach 16 with so few guesses; a plan at epsilon 1 shows what it can see.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_client.release import kernel, quantise
from genopact_client.release.private import Private
from genopact_client.train import private_sgd
from genopact_server.audit import rehearsal
from genopact_server.audit.canaries import Evidence, Showing, show
from genopact_server.cli import app
from genopact_server.folder import Folder
from genopact_server.report import write_report
from genopact_server.rounds import Run
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.plan import plan_of
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.privacy.noise import skellam
from genopact_shared.study import Study
from tests.integration.hospital import Consortium, study_of

SURE, ALARM = 1 - 1e-7, "violated"
DELTA = "0.0000000001"
"""Small, because the bound of one run adds twice the canaries times delta to its chance of failure."""
STEP = {"name": "dose", "version": 1, "parameters": {"step_shares_milli": [1000]}}
NET = {
    "name": "dose-net",
    "version": 1,
    "parameters": {"rounds": 1, "local_steps": 1, "sampling_rate_milli": 1000, "hidden": 4},
}
Clip = Callable[[Any, float | None, int], Any]


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Study]:
    folder = Folder.create(tmp_path / "hub", "hub", "127.0.0.1:8000")

    def make(epsilon: int, recipe: dict[str, Any] = STEP, sites: int = 1, **privacy: Any) -> Study:
        parties = [
            {"name": f"site-{number}"}
            | {key: SigningKey.generate().public.hex for key in ("identity", "log", "approver")}
            for number in range(sites)
        ]
        section = {"mode": "local", "epsilon_milli": epsilon, "delta": DELTA} | privacy
        return study_of(folder, parties, privacy=section, recipe=recipe, schedule={"quorum": sites})

    return make


def audit(study: Study, canaries: int = 1, runs: int = 500, planned: int = 40) -> Showing:
    """As `rehearse`, so sure that an alarm of a whole plan is not to be expected."""
    plan = plan_of(study, {party.name: planned for party in study.parties})
    watching, rng = rehearsal.observer(study, plan, canaries), np.random.default_rng()
    included = rng.random((runs, canaries)) < 0.5
    found = [watching.run(coins, number % canaries) for number, coins in enumerate(included)]
    scores, told, gains = (np.array(each) for each in zip(*found, strict=True))
    shape = isinstance(plan.steps[0].fact, NoisedSum)
    return show(Evidence(included, scores, told, gains), study, plan.epsilon, shape=shape, confidence=SURE)


def clipped_by(monkeypatch: pytest.MonkeyPatch, clip: Clip) -> None:
    for module in (kernel, quantise):
        monkeypatch.setattr(module, "clipped_integers", clip)


def noised_by(monkeypatch: pytest.MonkeyPatch, noise: Callable[[float, int], Any]) -> None:
    monkeypatch.setattr(kernel, "skellam", noise)


def no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    real = quantise.clipped_integers
    clipped_by(monkeypatch, lambda rows, clip, scale: real(rows, None, scale))


def clip_of_each_value(monkeypatch: pytest.MonkeyPatch) -> None:
    real = quantise.clipped_integers
    clipped_by(monkeypatch, lambda rows, clip, scale: real(np.clip(rows, -(clip or 0), clip), None, scale))


def everybody_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = quantise.clipped_integers
    clipped_by(monkeypatch, lambda rows, clip, scale: 2 * real(rows, clip, scale))


def one_patient_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = kernel.release_sum

    def release(rows: Private[Any], *rest: Any) -> Any:
        return real(rows.derive(lambda each: np.concatenate([each, each[40:]])), *rest)

    monkeypatch.setattr(kernel, "release_sum", release)


def half_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noised_by(monkeypatch, lambda variance, size: skellam(variance / 4, size))


def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noised_by(monkeypatch, lambda variance, size: np.zeros(size, dtype=np.int64))


BROKEN = [no_clip, clip_of_each_value, everybody_twice, one_patient_twice, half_noise, no_noise]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_release_is_found(
    small: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None]
) -> None:
    study = small(16_000)
    broken(monkeypatch)
    assert audit(study).verdict == ALARM


@pytest.mark.parametrize("broken", [no_clip, no_noise])
def test_the_bound_that_assumes_nothing_finds_the_gross_ones(
    small: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None]
) -> None:
    study = small(1000)
    broken(monkeypatch)
    found = audit(study, canaries=2)
    assert found.one_run > found.certified


@pytest.mark.parametrize("epsilon", [1000, 16_000])
def test_no_false_alarms(small: Callable[..., Study], epsilon: int) -> None:
    study = small(epsilon)
    found = [audit(study, canaries=1 + number % 4, runs=100) for number in range(10)]
    assert {each.verdict for each in found} == {"ok"}


def test_the_audit_has_power_on_a_whole_plan(small: Callable[..., Study]) -> None:
    """At 1 - 1e-6 the bound is still a good part of the certificate: the attacker is not asleep."""
    found = audit(small(16_000), canaries=4)
    assert 0.3 * found.certified < (found.gaussian or 0) <= found.certified
    assert found.one_run > 1.5


def test_shares_of_noise_below_the_honest_minimum_are_found(
    small: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """sigma / sqrt(invited) instead of sigma / sqrt(guaranteed): the colluders know their part."""
    study = small(16_000, sites=6, mode="distributed", honest_minimum=2)
    assert audit(study, runs=100).verdict == "ok"
    noised_by(monkeypatch, lambda variance, size: skellam(variance * 2 / 6, size))
    assert audit(study).verdict == ALARM


def test_a_network_without_noise_is_found(small: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    study, real = small(1000, NET), private_sgd.PrivateSgd
    assert audit(study, runs=5).verdict == "ok"

    class Quiet:
        def __init__(self, plan: Any, fact: Any, site: str) -> None:
            self.done, self.steps = fact, real(plan, fact.model_copy(update={"noise_multiplier": "0.001"}), site)

        def __call__(self, model: Any, table: Any) -> Any:
            return self.steps(model, table)

    monkeypatch.setattr(private_sgd, "PrivateSgd", Quiet)
    found = audit(study, runs=80, planned=10)
    assert found.gaussian is None
    assert found.one_run > found.certified


def test_the_observer_sees_the_honest_sites_alone(small: Callable[..., Study]) -> None:
    study = small(3000, sites=5, mode="distributed", honest_minimum=3)
    plan = plan_of(study, {party.name: 40 for party in study.parties})
    watching = rehearsal.observer(study, plan, 6)
    assert list(watching.crowd) == ["site-0", "site-1", "site-2"]
    first = rehearsal._first_rows(plan, watching.canaries)
    norms = np.linalg.norm(first, axis=1)
    assert norms.min() > 0.99
    cosines = np.abs(first @ first.T) - np.diag(norms**2)
    assert cosines.max() < 0.7
    assert {step.masked for step in plan.steps} == {True}
    _, told, gains = watching.run(np.ones(6, dtype=bool), 5)
    assert told.shape == (2,)
    assert np.isfinite(gains).all()


def test_a_study_without_noise_is_refused(small: Callable[..., Study]) -> None:
    study = small(1000)
    bare = Study.model_validate_json(
        json.dumps(json.loads(study.canonical) | {"privacy": {"mode": "none", "delta": DELTA}})
    )
    with pytest.raises(GenopactError, match="PLAN_IMPOSSIBLE"):
        rehearsal.rehearse(bare, {"site-0": 40}, 1, 1)


def test_the_command_writes_what_the_report_shows(
    consortium: Callable[..., Consortium],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Bounds that hold at 95 % give a false alarm now and then.
    monkeypatch.setattr(rehearsal, "show", partial(show, confidence=SURE))
    one = consortium(sites=3, privacy={"mode": "local", "epsilon_milli": 3000})
    run = Run.start(one.folder, one.study, one.courier)
    run.go()
    report = tmp_path / "report.html"
    write_report(run.path, one.study, report)
    assert "Not rehearsed" in report.read_text()
    file = tmp_path / "study.yaml"
    file.write_bytes(one.study.canonical)
    words = ["study", "rehearse", str(file), "--home", str(one.folder.home), "--canaries", "4", "--runs", "30"]
    with pytest.raises(SystemExit) as ended:
        app([*words, "--format", "json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)["data"]
    assert told["verdict"] == "ok"
    assert told["certified"] == pytest.approx(run.plan.epsilon)
    kept = Path(told["file"])
    found = Showing.model_validate_json(kept.read_bytes())
    write_report(run.path, one.study, report)
    text = report.read_text()
    for part in ("Not rehearsed", "is refuted"):
        assert part not in text
    for part in (f"{found.certified:.4g}", "whatever the noise", "noise of the stated shape", "4 extreme ones"):
        assert part in text
    kept.write_text(found.model_copy(update={"one_run": 9.0}).model_dump_json())
    write_report(run.path, one.study, report)
    assert "The certificate is refuted" in report.read_text()
    for spoilt in ("{", found.model_copy(update={"study": "0" * 64}).model_dump_json()):
        kept.write_text(spoilt)
        with pytest.raises(GenopactError, match="RUN_STATE_BROKEN"):
            write_report(run.path, one.study, report)


def test_a_refuted_certificate_is_an_exit_code(
    small: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = small(1000)
    file = tmp_path / "study.yaml"
    file.write_bytes(study.canonical)
    no_noise(monkeypatch)
    words = ["study", "rehearse", str(file), "--home", str(tmp_path / "hub"), "--canaries", "1", "--runs", "200"]
    with pytest.raises(SystemExit) as ended:
        app(words)
    assert ended.value.code == 1
    assert "VIOLATED" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        app([*words[:4], str(tmp_path / "nowhere"), "--runs", "1"])
    assert not (tmp_path / "nowhere").exists()
