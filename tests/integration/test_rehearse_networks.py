"""The empirical audit on networks: letters, matrices and genotypes are made up, and what is broken is found."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import load

from genopact_client.release import kernel
from genopact_server.audit import rehearsal
from genopact_server.audit.canaries import Evidence, Showing, show
from genopact_server.folder import Folder
from genopact_shared import canonical, wire
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.plan import plan_of
from genopact_shared.published import Published
from genopact_shared.recipes import RECIPES
from genopact_shared.recipes.network import weights_of
from genopact_shared.study import Study
from tests.integration.hospital import study_of
from tests.unit import risk_people
from tests.unit import test_deep_recipes as deep

ROUND = {"rounds": 1, "local_steps": 1, "sampling_rate_milli": 1000}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "letters": ("sequence-cnn", "class", deep.SEQUENCE),
    "omics": ("multiomics", "class", deep.OMICS),
    "time": ("survival", "time", deep.SURVIVAL),
    "drugs": ("cell-response", "response", deep.CELLS),
    "reaction": ("adverse-reaction", "weekly_dose_mg", {}),
    "copies": ("ancestry", "class", deep.ANCESTRY),
    "genomes": ("synthetic-genomes", "genotypes", deep.GENOMES),
    "genes": ("rare-variant-autoencoder", "genotypes", deep.RARE),
}
EVERYTHING = ["genotype", "genome", "expression", "drug", "ehr"]


def study(home: Path, name: str, mode: str) -> Study:
    recipe, outcome, given = KINDS[name]
    metrics = RECIPES[recipe].measures if recipe in RECIPES else ()
    sites, honest = (3, 2) if mode == "distributed" else (1, 1)
    parties = [
        {"name": f"site-{at}"} | {key: SigningKey.generate().public.hex for key in ("identity", "log", "approver")}
        for at in range(sites)
    ]
    purpose = {
        "permission": "HMB", "uses": ["train", "validate"], "organisations": ["public"], "commercial": False,
        "regions": ["DE"], "data": EVERYTHING,
    }  # fmt: skip
    return study_of(
        Folder.create(home / "hub", "hub", "127.0.0.1:8000"), parties, purpose=purpose, outcome=outcome,
        metrics=metrics,
        privacy={"mode": mode, "epsilon_milli": 4000, "delta": "0.0000000001", "honest_minimum": honest},
        recipe={"name": recipe, "version": 2 if "evaluation" in recipe else 1, "parameters": given | ROUND},
        schedule={"quorum": sites},
    )  # fmt: skip


def planned(of: Study) -> dict[str, int]:
    return {party.name: 40 for party in of.parties}


@pytest.mark.parametrize("mode", ["local", "distributed"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_data_is_rehearsed(tmp_path: Path, name: str, mode: str) -> None:
    of = study(tmp_path, name, mode)
    found = rehearsal.rehearse(of, planned(of), 2, 4, published=deep.PUBLISHED)
    assert 3 < found.certified <= 4
    assert found.one_run < 1, "eight guesses cannot show more"
    assert 0 <= found.auc <= 1


def test_a_network_on_blocks_is_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, found = risk_people.designed()
    published = Published(tmp_path / "published")
    about = found | {"variants": "0" * 64, "design": published.add(data)}
    monkeypatch.setitem(KINDS, "blocks", ("risk-net", "disease", about))
    of = study(tmp_path, "blocks", "local")
    shown = rehearsal.rehearse(of, planned(of), 2, 4, published=published)
    assert shown.one_run < 1 < shown.certified


@pytest.mark.parametrize("name", ["letters", "time", "drugs", "reaction", "copies"])
def test_evaluations_are_rehearsed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, outcome, given = KINDS[name]
    network = plan_of(study(tmp_path / "a", name, "local"), {"site-0": 40}, deep.PUBLISHED).course
    data = wire.pack(weights_of(network.initial()))
    files = deep.FILES | {canonical.digest(data): load(data)}

    class Known:
        def read(self, digest: str) -> Any:
            return files[digest]

    about = given | {"model": canonical.digest(data), "by": "race" if name == "reaction" else "group"}
    monkeypatch.setitem(KINDS, name, (f"{recipe}-evaluation", outcome, about | {"evaluated": "all"}))
    of = study(tmp_path / "b", name, "distributed")
    shown = rehearsal.rehearse(of, planned(of), 2, 4, published=cast("Published", Known()))
    assert shown.one_run < 1 < shown.certified
    assert 0 <= shown.auc <= 1


def test_a_network_of_classes_without_noise_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack reads what the letters of a canary add to a masked sum of gradients."""
    of = study(tmp_path, "letters", "distributed")
    plan = plan_of(of, planned(of))
    watching, rng = rehearsal.observer(of, plan, 1), np.random.default_rng()

    def shown(runs: int) -> Showing:
        included = rng.random((runs, 1)) < 0.5
        found = [watching.run(coins, 0) for coins in included]
        scores, told, gains = (np.array(each) for each in zip(*found, strict=True))
        return show(Evidence(included, scores, told, gains), of, plan.epsilon, shape=True, confidence=1 - 1e-7)

    assert shown(20).verdict == "ok"
    monkeypatch.setattr(kernel, "skellam", lambda variance, size: np.zeros(size, dtype=np.int64))
    assert shown(60).verdict == "violated"


def test_genotypes_are_made_up_only_for_a_file_that_is_here(tmp_path: Path) -> None:
    of = study(tmp_path, "genes", "local")
    with pytest.raises(GenopactError, match="PUBLISHED_MISSING"):
        rehearsal.rehearse(of, planned(of), 1, 1)
