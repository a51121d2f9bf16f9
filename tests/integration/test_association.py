"""A whole association study over sealed genotypes and under masks: who is in it, who is charged, what can be seen."""

import base64
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from genopact_client.agent.cohort import eligible
from genopact_client.site import Site
from genopact_server.cli import app
from genopact_server.report import write_report
from genopact_server.rounds import Run
from genopact_shared import statements, wire
from genopact_shared.errors import GenopactError
from genopact_shared.plan import plan_of
from genopact_shared.privacy.accounting import epsilon
from genopact_shared.recipes.gwas_private import design
from genopact_shared.recipes.table import Table
from tests.integration.clinics import COUNT, MANIFEST, MINIMUM, NAMES, PEOPLE, about, another, clinics, taking_part
from tests.integration.hospital import Consortium, DirectCourier
from tests.unit.association import codes_of, least_squares

runner = CliRunner()
OTHERS = [row for row in range(PEOPLE) if row not in taking_part()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Consortium, Run]]:
    one = clinics(tmp_path_factory.mktemp("association"))
    run = Run.start(one.folder, one.study, one.courier, one.events.append)
    run.go()
    one.folder.close()
    yield one, run
    one.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Consortium]:
    one = clinics(tmp_path)
    yield one
    one.close()


def reasons(site: Site) -> list[str]:
    found = (statements.parse(entry, [site.identity.public]) for entry in site.private_log.entries())
    return [code for each in found if isinstance(each, statements.Refusal) for code in each.reasons]


def op(frame: bytes) -> str:
    return str(json.loads(base64.b64decode(json.loads(wire.split(frame)[0])["payload"]))["op"])


def now() -> int:
    return int(dt.datetime.now(dt.UTC).timestamp())


def start(one: Consortium) -> Run:
    return Run.start(one.folder, one.study, one.courier, one.events.append)


def pooled(one: Consortium) -> Table:
    """Everybody who takes part, in one table, as nobody in the study ever has it."""
    tables = [each.truth.take(np.array(taking_part())) for each in one.hospitals.values()]
    columns: dict[str, Any] = {
        name: np.concatenate([each.columns[name] for each in tables]) for name in tables[0].columns
    }
    return Table(columns, sum(each.n for each in tables))


def test_the_result_is_the_regression_of_all_who_permit_it(finished: tuple[Consortium, Run]) -> None:
    """And nobody without consent to statistics, or with a limit, is in it: with them the numbers would be others."""
    one, run = finished
    table, model = pooled(one), run.model()
    codes = np.concatenate([codes_of(each.truth)[taking_part()] for each in one.hospitals.values()])
    covariates = np.column_stack(
        [np.ones(table.n), table.number("age"), table.codes("sex").astype(float), table.number("pc1")]
    )
    for variant, called in enumerate((codes >= 0).T):
        effect, error = least_squares(codes[called, variant] * 1.0, covariates[called], table.number("trait")[called])
        assert model["effect"][variant] == pytest.approx(effect, rel=1e-7)
        assert model["error"][variant] == pytest.approx(error, rel=1e-7)
        assert model["people"][variant] == called.sum()
        assert model["copies"][variant] == codes[called, variant].sum()
    assert one.events[-2]["metrics"]["all"]["patients"] == model["people"].max() <= 3 * len(taking_part())


def test_no_single_site_s_sums_are_visible(finished: tuple[Consortium, Run]) -> None:
    """What a site uploads shares no number with what it summed, not even the many zeros, nor do two sites' sums."""
    one, run = finished
    course, truth = run.plan.course, []
    steps = [(name, reply) for name, request, reply in one.courier.carried if op(request) == "step"]
    uploads = {name: wire.unpack(wire.split(reply)[1], np.uint64)["sum"] for name, reply in steps}
    assert list(uploads) == list(NAMES)
    for each in one.hospitals.values():
        rows = course.contribution(0, course.initial(), each.truth.take(np.array(taking_part())))  # type: ignore[union-attr]
        truth.append(np.trunc(rows * run.plan.steps[0].fact.scale).astype(np.int64).sum(axis=0))  # type: ignore[union-attr]
    whole = np.sum(truth, axis=0).astype(np.uint64)
    assert (np.array(truth) == 0).any(), "a sum without masks would be recognised"
    for name, sums in zip(uploads, truth, strict=True):
        assert not np.isin(sums.astype(np.uint64), uploads[name]).any()
        top = np.unpackbits((uploads[name] >> np.uint64(56)).astype(np.uint8))
        assert 0.45 < top.mean() < 0.55
    for hidden in (*uploads.values(), np.sum(list(uploads.values()), axis=0, dtype=np.uint64)):
        assert not (hidden == whole).any()
    told = [wire.unpack((run.path / "total-0001.safetensors").read_bytes(), np.int64, tag=np.uint64)["sum"]]
    np.testing.assert_array_equal(told[0].astype(np.uint64), whole)


def test_whoever_took_part_cannot_be_charged_again_and_whoever_did_not_can(finished: tuple[Consortium, Run]) -> None:
    one, run = finished
    later = another(one, **about(mode="distributed", design=design_of(one)))
    plan = plan_of(later.study, dict.fromkeys(NAMES, PEOPLE))
    for each in one.hospitals.values():
        site = each.site
        assert [len(site.ledger.spent(row)) for row in range(PEOPLE)] == [
            0 if row in OTHERS else len(run.plan.steps) for row in range(PEOPLE)
        ]
        assert epsilon(site.ledger.spent(taking_part()[0]), "0.000001") == np.inf
        with eligible(site, later.study, plan.steps[0], now()) as cohort:
            assert cohort.rows.tolist() == OTHERS
        with eligible(site, one.study, run.plan.steps[0], now()) as cohort:
            assert cohort.rows.tolist() == taking_part(), "of exact statistics again, if they permit them"


def design_of(one: Consortium) -> str:
    data = design(MANIFEST.frequency)
    for each in one.hospitals.values():
        each.site.published.add(data)
    return one.folder.published.add(data)


def test_a_site_whose_policy_does_not_list_exact_refuses(own: Consortium) -> None:
    site = own.hospitals["site-b"].site
    path = site.home / "policy.yaml"
    path.write_text(path.read_text().replace("modes: [distributed, exact]", "modes: [distributed]"))
    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        start(own).go()
    assert reasons(site) == ["POLICY_REFUSED"]
    assert all(not each.site.ledger.spent(row) for each in own.hospitals.values() for row in range(PEOPLE))


def test_a_cohort_below_the_minimum_is_refused_and_nobody_is_charged(own: Consortium) -> None:
    site = own.hospitals["site-c"].site
    for row in taking_part()[MINIMUM - 1 :]:
        site.registry.withdraw(row, "no_new_use", dt.date(2026, 1, 1))
    run = start(own)
    with pytest.raises(GenopactError, match="QUORUM_LOST"):
        run.go()
    assert reasons(site) == ["COHORT_TOO_SMALL"]
    assert not any(site.ledger.spent(row) for row in range(PEOPLE))
    assert not (run.path / "total-0001.safetensors").exists()


def test_a_withdrawal_between_two_sums_takes_effect_at_the_next(tmp_path: Path) -> None:
    """Newton steps with the patient, results without: they are of those who are in the last sum."""
    own = clinics(tmp_path, dichotomous, **about(trait="logistic", covariates=["age", "sex"]))
    site, leaver = own.hospitals["site-a"].site, taking_part()[0]

    class Withdrawing(DirectCourier):
        def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
            if run.state.round == 5 and not run.state.asked.count(6):
                site.registry.withdraw(leaver, "no_new_use", dt.datetime.now(dt.UTC).date())
            return super().exchange(requests, deadline)

    run = Run.start(own.folder, own.study, Withdrawing(own.courier.sites), own.events.append)
    run.go()
    assert run.state.stage == "done"
    assert 0 < len(site.ledger.spent(leaver)) < len(run.plan.steps)
    called = sum((codes_of(each.truth)[taking_part()] >= 0).sum(axis=0) for each in own.hospitals.values())
    assert run.model()["people"].tolist() == (called - (codes_of(own.hospitals["site-a"].truth)[leaver] >= 0)).tolist()
    own.close()


def dichotomous(table: Table) -> Table:
    return Table({**table.columns, "trait": (table.number("trait") > 2).astype(np.float64)}, table.n, table.genotypes)


def test_a_private_study_of_the_same_sites_runs_without_exact_consent(own: Consortium) -> None:
    private = another(own, **about(mode="distributed", design=design_of(own), counts=True))
    run = start(private)
    run.go()
    site = own.hospitals["site-a"].site
    assert all(len(site.ledger.spent(row)) == len(run.plan.steps) for row in range(PEOPLE))
    assert 0 < epsilon(site.ledger.spent(3), "0.000001") <= 2
    out = run.path / "report.html"
    write_report(run.path, private.study, out)
    assert "scores" in out.read_text("utf-8")


def test_components_of_all_sites_and_scores_that_stay(own: Consortium) -> None:
    start_at = design(MANIFEST.frequency, loadings=np.random.default_rng(0).normal(size=(COUNT, 2)))
    for each in own.hospitals.values():
        each.site.published.add(start_at)
    digest = own.folder.published.add(start_at)
    run = start(another(own, **about("pca", design=digest, components=2, rounds=3)))
    model = run.go()
    np.testing.assert_allclose(model["loadings"].T @ model["loadings"], np.eye(2), atol=1e-12)
    for each in own.hospitals.values():
        kept = each.site.home / "runs" / run.state.run / "personal.safetensors"
        assert wire.unpack(kept.read_bytes(), np.float64)["scores"].shape == (len(taking_part()), 2)
        assert kept.stat().st_mode & 0o077 == 0


def test_the_report_says_whose_exact_statistics_they_are(finished: tuple[Consortium, Run], tmp_path: Path) -> None:
    one, run = finished
    write_report(run.path, one.study, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "patients who permit federated statistics" in text
    assert "public or synthetic" not in text
    assert "Association of one trait" in text


def test_table_and_plots_from_the_command_line(finished: tuple[Consortium, Run], tmp_path: Path) -> None:
    one, run = finished
    manifest, out = tmp_path / "small.variants", tmp_path / "gwas.tsv"
    manifest.write_bytes(MANIFEST.encode())
    given: list[Any] = ["gwas", "table", run.state.run, "--manifest", manifest, "--out", out]
    done = runner.invoke(app, [*map(str, given), "--home", str(one.folder.home)])
    assert done.exit_code == 0, done.output
    assert "lambda_GC" in done.output
    rows = [line.split(" ") for line in out.read_text().splitlines()]
    assert [len(row) for row in rows] == [13] * (COUNT + 1)
    assert float(rows[4][8]) == pytest.approx(run.model()["effect"][3], rel=1e-8)
    for name in ("manhattan", "qq"):
        assert (tmp_path / f"gwas.{name}.svg").read_text().startswith("<svg ")
    wrong = runner.invoke(app, [*map(str, given[:2]), "0" * 32, *map(str, given[3:]), "--home", str(one.folder.home)])
    assert wrong.exit_code == 1
    assert "RUN_UNKNOWN" in wrong.output
