"""Recipes that read sealed matrices through the whole chain: `cell-response` in modes none and distributed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_client.store.sealed import Store
from genopact_server.audit.verify import verify
from genopact_server.evidence import bundle_of
from genopact_server.rounds import Run
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.recipes import check_choice
from genopact_shared.recipes.network import Network, weights_of
from genopact_shared.recipes.table import Matrix, Number, Table, digest_of_features
from tests.integration.hospital import Consortium, Hospital

Make = Callable[..., Consortium]
FEATURES = {"mutations": ["gene-a", "gene-b", "gene-c"], "response": ["drug-x", "drug-y"]}
KINDS = {"mutations": "genotype", "response": "drug"}
PARAMETERS = {
    "matrices": [
        {"name": name, "features": len(listed), "digest": digest_of_features(listed), "data": KINDS[name]}
        for name, listed in FEATURES.items()
    ],
    "width": 4, "rounds": 1, "local_steps": 1, "sampling_rate_milli": 1000, "clip_milli": 500,
}  # fmt: skip
MASKED = {"mode": "distributed", "epsilon_milli": 4000, "delta": "0.000001", "honest_minimum": 3}


def study(privacy: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    recipe = {"name": "cell-response", "version": 1, "parameters": PARAMETERS | parameters}
    return {"recipe": recipe, "outcome": "response", "privacy": privacy}


def sealed(one: Hospital, seed: int, features: dict[str, list[str]] = FEATURES) -> Table:
    """Matrices of all but the last five people; what was sealed."""
    rng, n = np.random.default_rng(seed), one.truth.n - 5
    values = {name: rng.integers(2, size=(n, len(listed))).astype(np.float64) for name, listed in features.items()}
    values["response"] = values["response"] * 0.5 + rng.normal(0, 0.1, values["response"].shape)
    for name, listed in features.items():
        schema = [Number(each, "unit", -10, 10) for each in listed]
        kind = one.site.store.manifest()["kind"]
        with Store.create(one.site.home / "omics" / name, one.site.keyfile, schema, kind) as store:
            columns = dict(zip(listed, values[name].T.copy(), strict=True))
            store.write(np.arange(n), Table(columns, n))
    return Table({}, n, matrices={name: each.astype(np.float32) for name, each in values.items()})


def test_a_round_is_a_step_along_the_gradients_of_what_was_sealed(consortium: Make) -> None:
    one = consortium(**study({"mode": "none", "honest_minimum": 1}))
    tables = [sealed(each, seed) for seed, each in enumerate(one.hospitals.values())]
    run = Run.start(one.folder, one.study, one.courier, one.events.append)
    before = run.model()
    after, course = run.go(), run.plan.course
    assert isinstance(course, Network)
    rate, planned = course.parameters.learning_rate_milli / 1000, sum(course.planned.values())
    rows = np.concatenate([course.gradients(before, table) for table in tables]).sum(axis=0)
    moved = np.concatenate([(after[name] - before[name]).ravel() for name in sorted(weights_of(before))])
    assert moved == pytest.approx(-rate * rows / planned, rel=1e-6, abs=1e-7)
    assert np.abs(moved).max() > 1e-4
    assert verify(bundle_of(one.folder, run.state.run)).exit_code == 0


def test_under_masks_the_sites_make_the_same_model_and_the_audit_passes(consortium: Make) -> None:
    one = consortium(sites=4, **study(MASKED, rounds=3, optimiser="adam", server_rate_milli=20))
    for seed, each in enumerate(one.hospitals.values()):
        sealed(each, seed)
    run = Run.start(one.folder, one.study, one.courier, one.events.append)
    model = run.go()
    assert all(isinstance(step.fact, NoisedSum) and step.masked for step in run.plan.steps)
    assert [event["sites"] for event in one.events if event["event"] == "round"] == [[*one.hospitals]] * 3
    assert all(len(each.site.ledger.spent(0)) == 3 for each in one.hospitals.values())
    assert all(
        each.site.ledger.spent(each.truth.n - 1) == () for each in one.hospitals.values()
    )  # no matrix, no charge
    assert any(np.abs(values).max() > 0 for values in model.values())
    assert verify(bundle_of(one.folder, run.state.run)).exit_code == 0


def test_a_site_without_the_matrix_or_with_other_features_gives_nothing(consortium: Make) -> None:
    one = consortium(**study({"mode": "none", "honest_minimum": 1}))
    names = [*one.hospitals]
    sealed(one.hospitals[names[0]], 1)
    sealed(one.hospitals[names[1]], 2, FEATURES | {"mutations": ["gene-a", "gene-c", "gene-b"]})
    for name in names[1:]:
        with pytest.raises(GenopactError, match="MATRIX_MISSING"):
            one.hospitals[name].site.check_inputs(one.study)
    one.hospitals[names[0]].site.check_inputs(one.study)
    Run.start(one.folder, one.study, one.courier, one.events.append).go()
    assert [event["sites"] for event in one.events if event["event"] == "round"] == [names[:1]]


def test_who_is_in_no_matrix_has_only_gaps(consortium: Make, tmp_path: Path) -> None:
    one = next(iter(consortium(**study({"mode": "none", "honest_minimum": 1})).hospitals.values()))
    table = sealed(one, 3)
    wanted = Matrix.model_validate(PARAMETERS["matrices"][0])  # type: ignore[index]
    found = one.site.matrix(wanted, np.array([4, one.truth.n - 1, 0]))
    assert (found[[0, 2]] == table.matrices["mutations"][[4, 0]]).all()
    assert np.isnan(found[1]).all()


def test_a_study_has_to_ask_for_what_its_recipe_reads(consortium: Make) -> None:
    asked = consortium(**study({"mode": "none", "honest_minimum": 1})).study
    check_choice(asked)
    for data in (("genotype",), ("drug", "ehr")):
        fewer = asked.model_copy(update={"purpose": asked.purpose.model_copy(update={"data": data})})
        with pytest.raises(GenopactError, match="STUDY_INVALID"):
            check_choice(fewer)
