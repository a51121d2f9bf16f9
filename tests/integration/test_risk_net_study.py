"""The recipe `risk-net` through the whole chain without a network, on sealed genotypes; nobody is asked for more."""

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from genopact_client.agent.exchange import Exchange
from genopact_client.genotypes.sealed import Genotypes
from genopact_client.site import Site
from genopact_client.store.sealed import Store
from genopact_server.audit.bundle import export
from genopact_server.audit.verify import verify_path
from genopact_server.evidence import bundle_of
from genopact_server.folder import Folder
from genopact_server.report import write_report
from genopact_server.rounds import Run
from genopact_shared import canonical, statements, wire
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.privacy.mechanisms import SampledSgd
from genopact_shared.recipes.risk import SCHEMA
from genopact_shared.recipes.table import Table
from tests.integration.hospital import PASSPHRASE, POLICY, Consortium, DirectCourier, Hospital, consenting, study_of
from tests.unit import risk_people
from tests.unit.genotype_rows import variants
from tests.unit.risk_people import VARIANTS, Held

SITES, PEOPLE, NO_ROW = 2, 160, 3
"""The last three people of each site have covariates, but no genotypes."""
LOCAL = {"mode": "local", "epsilon_milli": 4900, "delta": "0.000001", "honest_minimum": 1}
OPEN = {"mode": "none", "honest_minimum": 1}
SETTINGS = {"rounds": 3, "local_steps": 4, "learning_rate_milli": 1000, "gain_milli": 1000}
Make = Callable[..., Consortium]


def hospital(home: Path, name: str, seed: int, kind: str) -> Hospital:
    """A site whose people have covariates, consents, and all but a few of them sealed genotypes."""
    site, truth = Site.create(home, name, PASSPHRASE), risk_people.table(PEOPLE, seed)
    policy = POLICY.format(site=name, epsilon=5000, lifetime=5000)
    (home / "policy.yaml").write_text(policy)
    rows = site.people.enrol([f"{name}-{number}" for number in range(PEOPLE)])
    store = Store.create(home / "store", site.keyfile, SCHEMA, kind)  # type: ignore[arg-type]
    store.write(rows, Table(truth.columns, PEOPLE))
    store.close()
    assert isinstance(truth.genotypes, Held)
    with Genotypes.create(home / "genotypes" / "main", site.keyfile, variants(VARIANTS), kind) as sealed:  # type: ignore[arg-type]
        writer = sealed.writer(rows[:-NO_ROW], "made up")
        writer.add(np.arange(VARIANTS), truth.genotypes.codes[:-NO_ROW].T.copy())
        writer.commit()
    (home / "genotypes" / "main" / "variants.tsv").write_bytes(variants(VARIANTS).encode())
    site.registry.record_many({int(row): consenting() for row in rows})
    return Hospital(site, SigningKey.generate(), truth)


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Make]:
    made: list[Consortium] = []

    def make(privacy: dict[str, Any] = LOCAL, published: bool = True, **parameters: Any) -> Consortium:
        home, (design, found) = tmp_path / str(len(made)), risk_people.designed()
        folder = Folder.create(home / "coordinator", "coordinator", "127.0.0.1:8000")
        kind = "public" if privacy["mode"] == "none" else "private"
        hospitals = {
            name: hospital(home / name, name, seed, kind) for seed, name in enumerate(("site-a", "site-b"), 30)
        }
        files = {"variants": variants(VARIANTS).digest, "design": canonical.digest(design)}
        given = files | found | SETTINGS | parameters
        recipe = {"name": "risk-net", "version": 1, "parameters": given}
        parties = [each.party for each in hospitals.values()]
        study = study_of(folder, parties, recipe=recipe, privacy=privacy, outcome="disease", schedule={"quorum": 1})
        for each in hospitals.values():
            folder.accept(study, each.approve(study))
            if published:
                each.site.published.add(design)
        folder.published.add(design)
        courier = DirectCourier({name: Exchange(each.site) for name, each in hospitals.items()})
        made.append(Consortium(folder, hospitals, study, courier, []))
        return made[-1]

    yield make
    for each in made:
        each.close()


def start(one: Consortium) -> Run:
    return Run.start(one.folder, one.study, one.courier, one.events.append)


def auc(run: Run, model: Any) -> float:
    """Of people who did not train."""
    table = risk_people.table(600, 90, missing=0.0)
    return float(roc_auc_score(table.number("disease"), run.plan.recipe.predict(model, None, table).value))


@pytest.mark.parametrize("form", [{"architecture": "mlp"}, {"architecture": "transformer", "heads": 2}])
def test_private_steps_on_sealed_genotypes_pay_and_pass_the_audit(
    consortium: Make, tmp_path: Path, form: dict[str, Any]
) -> None:
    one = consortium(**form)
    run = start(one)
    model = run.go()
    assert auc(run, model) > 0.6
    assert 0.99 * 4.9 < run.plan.epsilon <= 4.9
    for each in one.hospitals.values():
        spent = each.site.ledger.spent(0)
        assert spent == tuple(step.fact for step in run.plan.steps)
        assert all(isinstance(fact, SampledSgd) and fact.steps == 4 for fact in spent)
        assert each.site.ledger.spent(PEOPLE - 1) == ()  # has no genotypes, so takes no part
        personal = wire.unpack(
            (each.site.home / "runs" / run.state.run / "personal.safetensors").read_bytes(), np.float64
        )
        assert {name: values.shape for name, values in personal.items()} == {"calibration": (2,), "covariance": (2, 2)}
    export(bundle_of(one.folder, run.state.run), tmp_path / "audit.zip")
    report = verify_path(tmp_path / "audit.zip", study_hash=one.study.hash)
    assert report.exit_code == 0, report.text()
    write_report(one.folder.home / "runs" / run.state.run, one.study, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "risk-net" in page
    assert "With nothing known" not in page


def test_a_round_is_what_the_sites_make_of_their_own_patients(consortium: Make) -> None:
    """Without noise, and with everybody in each step, it is the mean of plain gradients of those with genotypes."""
    import torch

    one = consortium(OPEN, rounds=1, local_steps=1, sampling_rate_milli=1000)
    run = start(one)
    first, last = run.model(), run.go()
    plan: Any = run.plan.course
    module, expected = plan.module(first).double(), {name: np.zeros(values.shape) for name, values in first.items()}
    for each in one.hospitals.values():
        inputs, targets = plan.tensors(each.truth.take(np.arange(PEOPLE - NO_ROW)))
        loss = plan.recipe.loss(module, inputs.double(), targets.double()).sum()
        named = dict(module.named_parameters())
        for name, slope in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
            expected[name] -= slope.numpy() / PEOPLE / SITES
    for name, values in first.items():
        assert np.allclose(last[name] - values, expected[name], atol=1e-6), name


def test_who_withdraws_is_out_of_the_next_round(consortium: Make) -> None:
    one = consortium(rounds=2, local_steps=1)
    run = start(one)
    run.go(until=1)
    one.hospitals["site-a"].site.registry.withdraw(5, "no_new_use", dt.datetime.now(dt.UTC).date())
    run.go()
    assert [len(one.hospitals[name].site.ledger.spent(5)) for name in ("site-a", "site-b")] == [1, 2]


def test_a_site_without_the_file_or_the_genotypes_gives_nothing(consortium: Make) -> None:
    """And says why to itself alone; nobody is charged."""
    without: dict[str, dict[str, Any]] = {
        "PUBLISHED_MISSING": {"published": False},
        "GENOTYPES_MISSING": {"variants": "1" * 64},
    }
    for code, change in without.items():
        one = consortium(rounds=1, local_steps=1, **change)
        with pytest.raises(GenopactError, match="QUORUM_LOST"):
            start(one).go()
        for each in one.hospitals.values():
            entries = (
                statements.parse(entry, [each.site.identity.public]) for entry in each.site.private_log.entries()
            )
            assert each.site.ledger.spent(0) == ()
            told = {entry.reasons for entry in entries if isinstance(entry, statements.Refusal)}
            assert told == {(code,)}
