"""A network of one study is put to the test in another, under masks; the report says who is below a floor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from genopact_client.agent.exchange import Exchange
from genopact_server.audit.verify import verify
from genopact_server.cli import app
from genopact_server.demo import cohort
from genopact_server.evidence import bundle_of
from genopact_server.report import write_report
from genopact_server.rounds import Run
from genopact_shared.errors import GenopactError
from genopact_shared.plan import plan_of
from genopact_shared.recipes import check_choice
from genopact_shared.recipes.dose_features import NET_SCHEMA, RACES
from genopact_shared.recipes.table import Table
from genopact_shared.study import Study
from tests.integration import hospital
from tests.integration.hospital import Consortium, DirectCourier, study_of

LOCAL = {"mode": "local", "epsilon_milli": 2000, "delta": "0.000001", "honest_minimum": 1}
MASKED = {"mode": "distributed", "epsilon_milli": 2000, "delta": "0.000001", "honest_minimum": 2}
NET = {"name": "dose-net", "version": 1, "parameters": {"rounds": 2, "local_steps": 1, "combine": "median"}}
Make = Callable[..., Consortium]


def asked(one: Consortium, run: Run, tmp_path: Path, **parameters: Any) -> Study:
    """A study that evaluates the run's network, made at the command line of a template."""
    recipe = {
        "name": "dose-net-evaluation",
        "version": 2,
        "parameters": {"by": "race", "evaluated": "all"} | parameters,
    }
    parties = [each.party for each in one.hospitals.values()]
    template = {"recipe": recipe, "privacy": MASKED, "outcome": "weekly_dose_mg"}
    (tmp_path / "fair.yaml").write_text(yaml.safe_dump(template))
    words = ["design", "evaluation", "fair.yaml", run.state.run, "--out", "net.model", "--study", "made.yaml"]
    words = [str(tmp_path / word) if "." in word else word for word in words]
    done = CliRunner().invoke(app, [*words, "--home", str(one.folder.home), "--format", "json"])
    assert done.exit_code == 0, done.output
    if one.study.release == "parties":
        told = CliRunner().invoke(app, [*words, "--home", str(one.folder.home)]).stdout
        assert f"alone: {', '.join(one.hospitals)}" in " ".join(told.split())
    made = yaml.safe_load((tmp_path / "made.yaml").read_text())
    assert json.loads(done.stdout)["data"]["model"] == made["recipe"]["parameters"]["model"]
    assert "rounds" not in made["recipe"]["parameters"]
    assert made["recipe"]["parameters"]["hidden"] == 16
    return study_of(one.folder, parties, **made)


def evaluated(one: Consortium, study: Study, file: bytes | None) -> Run:
    for each in one.hospitals.values():
        one.folder.accept(study, each.approve(study))
        if file is not None:
            each.site.published.add(file)
    courier = DirectCourier({name: Exchange(each.site) for name, each in one.hospitals.items()})
    run = Run.start(one.folder, study, courier, one.events.append)
    run.go()
    return run


def test_a_network_of_one_study_is_put_to_the_test_in_another(consortium: Make, tmp_path: Path) -> None:
    one = consortium(privacy=LOCAL, recipe=NET)
    run = Run.start(one.folder, one.study, one.courier, one.events.append)
    network = run.go()
    study = asked(one, run, tmp_path, floor_milli=990)
    again = evaluated(one, study, (tmp_path / "net.model").read_bytes())
    course: Any = again.plan.course
    assert all((course.finished[name] == values).all() for name, values in network.items())
    found = course.metrics(again.model())
    assert set(found) == {*RACES, "unknown", "all"}
    people = sum(each.truth.n for each in one.hospitals.values())
    assert found["all"]["patients"] == pytest.approx(people, rel=0.3)
    rows = [course.contribution(0, {}, each.truth).sum(axis=0) for each in one.hospitals.values()]
    noise = again.model()["cells"].ravel() - np.sum(rows, axis=0)
    assert 0 < np.abs(noise).max() < 40
    assert verify(bundle_of(one.folder, again.state.run)).exit_code == 0
    spent = next(iter(one.hospitals.values())).site.ledger.spent(0)
    assert len(spent) == 3
    write_report(one.folder.home / "runs" / again.state.run, study, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "put one model to the test" in page
    assert "Below the study's floor of 0.99 for within: White" in page
    assert "mean absolute error" in page


@pytest.mark.parametrize(("whom", "others"), [("held-out", 0), ("both", 1), ("all", 1)])
def test_only_whom_it_judges_pays(
    consortium: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whom: str, others: int
) -> None:
    """Every third patient is held out; the ledger says who paid for the evaluation."""
    made = cohort.generate

    def marked(n: int, *about: Any) -> Table:
        held_out = (np.arange(n) % 3 == 0).astype(np.int8)
        return Table({**made(n, *about).columns, "held_out": held_out}, n)

    monkeypatch.setattr(cohort, "generate", marked)
    monkeypatch.setattr(hospital, "SCHEMA", NET_SCHEMA)
    one = consortium(privacy=LOCAL, recipe=NET)
    run = Run.start(one.folder, one.study, one.courier, one.events.append)
    run.go()
    evaluated(one, asked(one, run, tmp_path, evaluated=whom), (tmp_path / "net.model").read_bytes())
    for each in one.hospitals.values():
        paid = [len(each.site.ledger.spent(row)) for row in range(12)]
        assert paid == [2 + (1 if row % 3 == 0 else others) for row in range(12)]


def test_a_finished_run_has_a_learning_curve_on_public_people(consortium: Make, tmp_path: Path) -> None:
    one = consortium(privacy=LOCAL, recipe=NET)
    run = Run.start(one.folder, one.study, one.courier, one.events.append)
    run.go()
    people = "".join(f"p{at}\t{dose}\t{30 + at}\n" for at, dose in enumerate((21, 35, 28, 49, 14)))
    (tmp_path / "public.tsv").write_text(f"person\tweekly_dose_mg\theight_cm\n{people}")
    words = ["model", "curve", run.state.run, "--table", str(tmp_path / "public.tsv")]
    done = CliRunner().invoke(app, [*words, "--home", str(one.folder.home), "--format", "json"])
    assert done.exit_code == 2, done.output  # a height of 30 cm is out of bounds
    people = people.replace("\t3", "\t13")
    (tmp_path / "public.tsv").write_text(f"person\tweekly_dose_mg\theight_cm\n{people}")
    done = CliRunner().invoke(app, [*words, "--home", str(one.folder.home), "--format", "json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)["data"]
    assert data["people"] == 5
    assert [len(values) for values in data["rounds"].values()] == [3, 3]
    write_report(one.folder.home / "runs" / run.state.run, one.study, tmp_path / "report.html")
    assert "Fit to public people by round" in (tmp_path / "report.html").read_text()


def test_without_the_file_no_site_answers(consortium: Make, tmp_path: Path) -> None:
    one = consortium(privacy=LOCAL, recipe=NET)
    run = Run.start(one.folder, one.study, one.courier, one.events.append)
    run.go()
    study = asked(one, run, tmp_path)
    for each in one.hospitals.values():
        with pytest.raises(GenopactError, match="PUBLISHED_MISSING"):
            each.site.check_inputs(study)
    with pytest.raises(GenopactError, match="validate"):
        check_choice(study.model_copy(update={"purpose": study.purpose.model_copy(update={"uses": ("train",)})}))
    plan_of(study, {"site-a": 10, "site-b": 10, "site-c": 10})


def test_the_template_names_the_evaluation_of_that_network(consortium: Make, tmp_path: Path) -> None:
    one = consortium(privacy=LOCAL, recipe=NET)
    run = Run.start(one.folder, one.study, one.courier, one.events.append)
    run.go()
    (tmp_path / "fair.yaml").write_text("recipe: {name: survival-evaluation, version: 2}\n")
    words = ["design", "evaluation", str(tmp_path / "fair.yaml"), run.state.run, "--home", str(one.folder.home)]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "a"), "--study", str(tmp_path / "b")])
    assert done.exit_code != 0
    assert "dose-net-evaluation" in done.output
    assert not (tmp_path / "a").exists()
