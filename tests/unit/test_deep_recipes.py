"""The networks of deep genomics: what they read, their losses against naive ones, planted signals, missing data."""

import hashlib
import itertools
import json
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from genopact_client.train.private_sum import PerRecordLoss
from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.plan import Plan
from genopact_shared.published import Published
from genopact_shared.recipes import NETWORKS, gwas_private
from genopact_shared.recipes.adverse_reaction import LOW_DOSE_MG
from genopact_shared.recipes.dose_features import OUTCOME as DOSE
from genopact_shared.recipes.dose_features import abstains, reasons, vkorc1
from genopact_shared.recipes.multiomics import within
from genopact_shared.recipes.network import Network, weights_of
from genopact_shared.recipes.pca import scores
from genopact_shared.recipes.protocol import Prediction
from genopact_shared.recipes.rare_variant_autoencoder import design
from genopact_shared.recipes.sequence import SequenceParameters
from genopact_shared.recipes.sequence_module import composition_of, words_of
from genopact_shared.recipes.synthetic_genomes import SyntheticParameters, sample
from genopact_shared.recipes.table import Copies, Table, digest_of_features
from tests.benchmarks.federation import matrix, planned, predicted, trained, with_matrices
from tests.unit.dose_tables import random_table

LENGTH = 20
SEQUENCE = {"matrices": [matrix("letters", [str(at) for at in range(LENGTH)], "genome")], "classes": 2, "width": 4}
OMICS: dict[str, Any] = {
    "matrices": [matrix(name, list("abcde"), "expression") for name in ("rna", "protein")], "classes": 2, "width": 3,
}  # fmt: skip
SURVIVAL = {"matrices": [matrix("clinical", list("ab"), "ehr")], "ends_days": [10, 20, 40]}
COMPONENTS: dict[str, Any] = {
    "frequency": np.linspace(0.1, 0.9, 12), "loadings": np.linalg.qr(np.arange(36.0).reshape(12, 3) % 7)[0],
    "variances": np.array([3.0, 1.0, 0.5]),
}  # fmt: skip
ANCESTRY: dict[str, Any] = {
    "variants": "0" * 64, "design": hashlib.sha256(wire.pack(COMPONENTS)).hexdigest(), "components": 3, "classes": 2,
}  # fmt: skip
GENES = {"starts": np.array([0, 3, 2]), "ends": np.array([3, 9, 12])}
BURDEN = design(**GENES, weight=np.linspace(0.2, 1.7, 12), frequency=np.linspace(0.002, 0.4, 12))
RARE: dict[str, Any] = {"variants": "0" * 64, "design": hashlib.sha256(BURDEN).hexdigest(), "genes": 3}
FREQUENCY = np.array([0.0, 0.3, np.nan, *np.linspace(0.1, 1.0, 9)])
PUBLIC = gwas_private.design(FREQUENCY)
GENOMES: dict[str, Any] = {"variants": "0" * 64, "count": 12, "latent": 3, "before": 2, "classes": 2}
FILES = {hashlib.sha256(file).hexdigest(): load(file) for file in (wire.pack(COMPONENTS), BURDEN, PUBLIC)}
CELLS: dict[str, Any] = {
    "matrices": [matrix("genome", list("abcd"), "genome"), matrix("response", list("xyz"), "drug")], "width": 3,
}  # fmt: skip
STUDIES: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn": ("sequence-cnn", SEQUENCE), "rnn": ("sequence-rnn", SEQUENCE),
    "transformer": ("sequence-transformer", SEQUENCE),
    "words": ("sequence-cnn", SEQUENCE | {"words": 2, "composition": 1}),
    "late": ("multiomics", OMICS), "attention": ("multiomics", OMICS | {"fusion": "attention"}),
    "survival": ("survival", SURVIVAL),
    "survival, hidden": ("survival", SURVIVAL | {"hidden": 4, "proportional": False}),
    "cells": ("cell-response", CELLS),
    "adverse": ("adverse-reaction", {}), "adverse, hidden": ("adverse-reaction", {"hidden": 4}),
    "ancestry": ("ancestry", ANCESTRY),
    "rare": ("rare-variant-autoencoder", RARE),
    "genomes": ("synthetic-genomes", GENOMES),
    "genomes, public": (
        "synthetic-genomes", GENOMES | {"design": hashlib.sha256(PUBLIC).hexdigest()}
    ),
}  # fmt: skip


class Known:
    """Published files of `ancestry`, of rare variants and of frequencies."""

    def read(self, digest: str) -> Any:
        return FILES[digest]


PUBLISHED = cast("Published", Known())


def table(name: str, n: int, seed: int = 0) -> Table:
    """Made-up patients of one of STUDIES, some of them with missing data."""
    rng = np.random.default_rng(seed)
    labels = {"class": rng.integers(-1, 2, n).astype(np.int8)}
    if name in {"cnn", "rnn", "transformer", "words"}:
        return with_matrices(n, labels, {"letters": rng.integers(5, size=(n, LENGTH))})
    if name in {"late", "attention"}:
        values = {kind: rng.normal(size=(n, 5)) for kind in ("rna", "protein")}
        values["protein"][::3] = np.nan
        return with_matrices(n, labels, values)
    if name == "cells":
        response = np.where(rng.random((n, 3)) < 0.3, np.nan, rng.normal(size=(n, 3)))
        return with_matrices(n, {}, {"genome": rng.integers(2, size=(n, 4)), "response": response})
    if name.startswith("adverse"):
        return random_table(n, seed)
    if name == "ancestry" or name == "rare" or name.startswith("genomes"):
        return Table(labels, n, Copies(rng.integers(-1, 3, size=(n, 12)).astype(np.int8)))
    time = np.where(rng.random(n) < 0.1, np.nan, rng.uniform(0, 50, n).round())
    events = {"time": time, "event": rng.integers(2, size=n).astype(np.int8)}
    return with_matrices(n, events, {"clinical": rng.normal(size=(n, 2))})


def course(name: str, **settings: Any) -> Network:
    recipe, parameters = STUDIES[name]
    found = planned(recipe, parameters | settings, {"a": table(name, 20)}, "none", published=PUBLISHED).course
    assert isinstance(found, Network)
    return found


@pytest.mark.parametrize("name", STUDIES)
def test_losses_and_layers_are_per_patient(name: str) -> None:
    """The engine's own checks: gradients of single patients by its rules, no patient in another's loss."""
    found = course(name)
    inputs, targets = found.tensors(table(name, 12))
    inputs, targets = (each.double() if each.is_floating_point() else each for each in (inputs, targets))
    assert 0 < len(inputs) == len(targets) <= 12
    PerRecordLoss(found.module(found.initial()).double(), found.recipe.loss, inputs, targets)


@pytest.mark.parametrize("name", STUDIES)
def test_a_row_has_the_same_bits_in_any_table(name: str) -> None:
    found, people = course(name), table(name, 9)
    rng = np.random.default_rng(1)
    model = {each: rng.normal(0, 0.2, values.shape) for each, values in found.initial().items()}
    rows = found.gradients(model, people)
    some = np.array([7, 2, 4])
    assert (found.gradients(model, people.take(some)) == rows[some]).all()
    assert np.isfinite(rows).all()
    assert rows.any()


@pytest.mark.parametrize("name", STUDIES)
def test_predictions_have_no_gaps_and_do_not_read_the_outcome(name: str) -> None:
    found, people = course(name), table(name, 8)
    model = found.initial()
    all_ = found.predict(model, None, people)
    assert all(np.isfinite(each).all() and len(each) == 8 for each in (all_.value, all_.low, all_.high))
    unread = {"class", "time", "event", DOSE}
    blind = {
        k: np.full_like(v, -1 if v.dtype == np.int8 else np.nan) if k in unread else v
        for k, v in people.columns.items()
    }
    hidden = {k: np.full_like(v, np.nan) if k == "response" else v for k, v in people.matrices.items()}
    assert (found.predict(model, None, Table(blind, 8, people.genotypes, matrices=hidden)).value == all_.value).all()


def test_a_planted_motif_is_learnt_wherever_it_stands() -> None:
    rng, n = np.random.default_rng(4), 480
    letters, carries = rng.integers(4, size=(n, LENGTH)), rng.integers(2, size=n).astype(np.int8)
    for row in np.flatnonzero(carries):
        at = rng.integers(4, 9)
        letters[row, at : at + 6] = (0, 2, 0, 2, 0, 2)
    tables = {
        site: with_matrices(len(letters[s]), {"class": carries[s]}, {"letters": letters[s]})
        for site, s in (("a", slice(0, 160)), ("b", slice(160, 320)))
    }
    settings = SEQUENCE | {"optimiser": "adam", "server_rate_milli": 50, "learning_rate_milli": 100, "rounds": 25}
    plan = planned("sequence-cnn", settings, tables, "none")
    test = with_matrices(160, {"class": carries[320:]}, {"letters": letters[320:]})
    found = predicted(plan, trained(plan, tables), test).value.argmax(axis=1)
    assert (found == carries[320:]).mean() > 0.85


def test_unknown_letters_are_none_of_the_four() -> None:
    found = course("cnn")
    letters = np.full((1, LENGTH), 4.0)
    letters[0, :3] = (0, 3, np.nan)
    inputs, _ = found.recipe.tensors(with_matrices(1, {}, {"letters": letters}), found.parameters, found.published)
    assert inputs[0].sum() == 2
    assert inputs[0, 0, 0] == inputs[0, 1, 3] == 1


# --- several kinds of measurements


@pytest.mark.parametrize("name", ["late", "attention"])
def test_what_is_missing_has_no_part_in_a_prediction(name: str) -> None:
    """Whatever the weights of a matrix are, nobody who lacks it is touched; and who has it is."""
    found, people = course(name), table(name, 9)
    rng = np.random.default_rng(1)
    model = {each: rng.normal(0, 1.0, values.shape) for each, values in found.initial().items()}
    other = {each: values + rng.normal(0, 1.0, values.shape) * ("embed.1" in each) for each, values in model.items()}
    lacks = np.isnan(people.matrices["protein"]).all(axis=1)
    before, after = (found.predict(each, None, people).value for each in (model, other))
    assert lacks.any()
    assert (before[lacks] == after[lacks]).all()
    assert (before[~lacks] != after[~lacks]).any(axis=1).all()


def test_nobody_s_statistics_but_the_patient_s_own_are_used() -> None:
    values = np.array([[1, 2, 3, np.nan], [5, 5, 5, 5], [np.nan] * 4, [1e9, 0, 0, 0]], np.float32)
    found = within(values)
    assert found[0] == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5), 0], abs=1e-6)
    assert not found[1:3].any()
    assert np.abs(found).max() <= 5
    assert (within(values[:1]) == found[:1]).all()


def test_the_loss_of_several_kinds_is_the_mean_over_all_and_each_alone() -> None:
    found, people = course("late"), table("late", 6)
    model = {name: values + 0.3 for name, values in found.initial().items()}
    inputs, _ = found.recipe.tensors(people, found.parameters, found.published)
    module, targets = found.module(model), torch.tensor([0, 1, 0, 1, 0, 1])
    losses = found.recipe.loss(module, inputs, targets)
    for at in range(6):
        has, parts = inputs[at, -2:].tolist(), []
        for kept in ((1, 1), (1, 0), (0, 1)):
            if any(h * k for h, k in zip(has, kept, strict=True)):
                one = inputs[at : at + 1].clone()
                one[:, -2:] *= torch.tensor(kept)
                parts.append(-torch.log_softmax(module(one), 1)[0, targets[at]].item())
        assert losses[at].item() == pytest.approx(np.mean(parts), rel=1e-5)


# --- survival


@pytest.mark.parametrize(
    ("time", "event", "expected"),
    [
        (5, 1, (1, None, None)), (5, 0, (None, None, None)), (10, 1, (1, None, None)), (15, 1, (0, 1, None)),
        (15, 0, (0, None, None)), (40, 1, (0, 0, 1)), (41, 0, (0, 0, 0)), (41, 1, (0, 0, 0)), (0, 1, (1, None, None)),
        (math.nan, 1, (None, None, None)),
    ],
)  # fmt: skip
def test_intervals_count_while_a_patient_was_seen(time: float, event: int, expected: tuple[int | None, ...]) -> None:
    found = course("survival")
    columns = {"time": np.array([float(time)]), "event": np.array([event], np.int8)}
    one = with_matrices(1, columns, {"clinical": np.zeros((1, 2))})
    _, targets = found.recipe.tensors(one, found.parameters, found.published)
    assert [None if math.isnan(each) else each for each in targets[0].tolist()] == list(expected)


def test_the_likelihood_of_survival_is_the_product_over_intervals() -> None:
    found, people = course("survival"), table("survival", 30)
    model = {name: values + 0.1 for name, values in found.initial().items()}
    inputs, targets = found.tensors(people)
    hazard = torch.sigmoid(found.module(model)(inputs)).detach().numpy()
    losses = found.recipe.loss(found.module(model), inputs, targets).tolist()
    for at, own in enumerate(targets.numpy()):
        chance = 1.0
        for p, each in zip(hazard[at], own, strict=True):
            chance *= 1.0 if math.isnan(each) else p if each else 1 - p
        assert losses[at] == pytest.approx(-math.log(chance), rel=1e-4, abs=1e-6)
    alive = found.predict(model, None, people).value
    assert (np.diff(alive, axis=1) < 0).all()
    assert alive[0, 1] == pytest.approx(np.prod(1 - _hazards(found, model, people)[0, :2]), rel=1e-5)


def _hazards(found: Network, model: Any, people: Table) -> Any:
    return 1 / (1 + np.exp(-found.outputs(model, people)))


def test_intervals_have_to_ascend() -> None:
    with pytest.raises(GenopactError, match="ends_days"):
        course("survival", ends_days=[20, 10])


# --- cells and drugs


def test_the_loss_of_a_line_is_the_mean_over_its_drugs() -> None:
    found, people = course("cells"), table("cells", 10)
    model = {name: values + 0.2 for name, values in found.initial().items()}
    inputs, targets = found.tensors(people)
    outputs = found.module(model)(inputs).detach().numpy()
    naive = [np.nanmean((o - t) ** 2) for o, t in zip(outputs, targets.numpy(), strict=True)]
    assert found.recipe.loss(found.module(model), inputs, targets).tolist() == pytest.approx(naive, rel=1e-5)


def test_a_site_s_own_means_of_drugs_are_shrunk() -> None:
    found, people = course("cells"), table("cells", 40)
    personal = found.fit_personal(found.initial(), people)
    before, after = (found.predict(found.initial(), each, people).value for each in (None, personal))
    left = people.matrices["response"] - before
    seen = (~np.isnan(left)).sum(axis=0)
    assert after - before == pytest.approx(np.tile(np.nansum(left, axis=0) / (seen + 10), (40, 1)))


def test_the_response_is_the_last_matrix() -> None:
    with pytest.raises(ValueError, match="last matrix"):
        course("cells", matrices=CELLS["matrices"][::-1]).initial()


# --- adverse reactions and ancestry


def test_the_low_dose_group_is_the_outcome() -> None:
    found, people = course("adverse"), table("adverse", 60, 3)
    _, targets = found.recipe.tensors(people, found.parameters, found.published)
    dose = people.number(DOSE)
    assert np.isnan(targets.numpy()).tolist() == np.isnan(dose).tolist()
    assert (targets.numpy()[dose <= LOW_DOSE_MG] == 1).all()
    assert (targets.numpy()[dose > LOW_DOSE_MG] == 0).all()


def test_a_site_s_level_narrows_the_interval() -> None:
    found, people = course("adverse"), random_table(200, 4, missing=0.0)
    personal = found.fit_personal(found.initial(), people)
    shared, own = (found.predict(found.initial(), each, people) for each in (None, personal))
    assert ((own.high - own.low) < (shared.high - shared.low)).all()
    low = float((people.number(DOSE) <= LOW_DOSE_MG).mean())
    assert abs(float(own.value.mean()) - low) < abs(0.5 - low)


@pytest.mark.parametrize("name", ["adverse", "cells"])
def test_whoever_is_held_out_has_no_part_in_a_site_s_term(name: str) -> None:
    found, people = course(name), table(name, 40)
    held = np.arange(40) % 3 == 0
    marked = Table({**people.columns, "held_out": held.astype(np.int8)}, 40, matrices=people.matrices)
    own, others = found.fit_personal(found.initial(), marked), found.fit_personal(found.initial(), people.take(~held))
    everybody = found.fit_personal(found.initial(), people)
    assert all((own[each] == others[each]).all() for each in own)
    assert any((own[each] != everybody[each]).any() for each in own)


def test_no_advice_without_the_gene_or_beyond_what_was_studied() -> None:
    people = random_table(50, 9)
    low, high = np.full(50, 10.0), np.where(np.arange(50) < 5, 41.0, 40.0)
    silent = abstains(people, low, high)
    assert silent[:5].all()
    assert silent[vkorc1(people) < 0].all()
    known = Table(
        {**people.columns, "vkorc1_1639": np.ones(50, np.int8), "age_decade": np.full(50, 6.0),
         "height_cm": np.full(50, 170.0), "weight_kg": np.where(np.arange(50) == 9, 200.0, 80.0)}, 50,
    )  # fmt: skip
    assert np.flatnonzero(abstains(known, low, high)).tolist() == [0, 1, 2, 3, 4, 9]
    assert abstains(known, low, np.full(50, np.nan)).all()
    why = reasons(people, low, high)
    assert ((why == "VKORC1 is unknown") == (vkorc1(people) < 0)).all()
    assert reasons(known, low, high)[[4, 9, 10]].tolist() == ["the interval is too wide", "beyond what was studied", ""]


def test_scores_of_ancestry_are_those_of_the_released_components() -> None:
    found, people = course("ancestry"), table("ancestry", 300)
    inputs, _ = found.recipe.tensors(people, found.parameters, PUBLISHED)
    codes = cast("Copies", people.genotypes).array
    assert inputs.numpy() == pytest.approx(np.clip(scores(COMPONENTS, codes), -5, 5), rel=1e-6)
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        course("ancestry", components=2).tensors(people)


def test_components_that_lack_a_part_are_refused() -> None:
    for name in COMPONENTS:
        lacking = {each: values for each, values in COMPONENTS.items() if each != name} | {"more": np.ones(1)}
        file = cast("Published", type("Lacking", (), {"read": lambda _, digest, found=lacking: found})())
        plan = planned("ancestry", ANCESTRY, {"a": table("ancestry", 4)}, "none", published=file).course
        with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
            cast("Network", plan).tensors(table("ancestry", 4))


# --- genotypes themselves


def _copies(people: Table) -> Any:
    return cast("Copies", people.genotypes).array


def test_burdens_are_weighted_copies_of_a_gene_in_public_units() -> None:
    """Against a loop over patients, genes and variants; 300 patients, because more than PEOPLE take several reads."""
    found, people = course("rare"), table("rare", 300)
    inputs, targets = found.tensors(people)
    file = FILES[RARE["design"]]
    frequency = np.linspace(0.002, 0.4, 12)
    for row, copies in zip(inputs.tolist(), _copies(people), strict=True):
        for at, (first, end) in enumerate(zip(GENES["starts"], GENES["ends"], strict=True)):
            own = sum(
                file["weight"][v] * (copies[v] if copies[v] >= 0 else 2 * frequency[v]) for v in range(first, end)
            )
            mean = sum(2 * frequency[v] * file["weight"][v] for v in range(first, end))
            sd = math.sqrt(
                sum(2 * frequency[v] * (1 - frequency[v]) * file["weight"][v] ** 2 for v in range(first, end))
            )
            assert row[at] == pytest.approx(max(-6, min(6, (own - mean) / sd)), abs=1e-4)
    assert (inputs == targets).all()
    assert np.abs(inputs.numpy()).max() == 6


def test_the_loss_of_an_autoencoder_is_that_of_a_normal_burden() -> None:
    found, people = course("rare"), table("rare", 20)
    model = {name: values + 0.2 for name, values in found.initial().items()}
    inputs, targets = found.tensors(people)
    middle = np.tanh(inputs.numpy() @ model["encode.weight"].T + model["encode.bias"])
    centre, spread = (middle @ model[f"{layer}.weight"].T + model[f"{layer}.bias"] for layer in ("last", "last_spread"))
    sd = np.exp(np.tanh(spread))
    density = np.exp(-(((inputs.numpy() - centre) / sd) ** 2) / 2) / sd
    losses = found.recipe.loss(found.module(model), inputs, targets).tolist()
    assert losses == pytest.approx(-np.log(density).mean(axis=1), rel=1e-4)
    assert found.predict(model, None, people).value == pytest.approx((inputs.numpy() - centre) / sd, abs=1e-5)


@pytest.mark.parametrize(
    ("part", "at", "value"),
    [
        ("weight", 1, 2048.0), ("weight", 1, np.nan), ("weight", 1, 0.1), ("missing", 0, np.inf), ("starts", 0, -1),
        ("starts", 1, 9), ("ends", 2, 13), ("centre", 0, np.nan), ("scale", 1, 0.0), ("scale", 1, np.nan),
    ],
)  # fmt: skip
def test_genes_out_of_range_are_refused(part: str, at: int, value: float) -> None:
    file = dict(FILES[RARE["design"]])
    file[part] = file[part].copy()
    file[part][at] = value
    for other in (file, {name: each for name, each in file.items() if name != part}):
        known = cast("Published", type("Other", (), {"read": lambda _, digest, found=other: found})())
        plan = planned("rare-variant-autoencoder", RARE, {"a": table("rare", 4)}, "none", published=known).course
        with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
            cast("Network", plan).tensors(table("rare", 4))


def test_a_carrier_of_an_own_variant_stands_out_where_such_variants_are_hardly_seen() -> None:
    """Two ancestries, one with many rare variants in every gene; the network learns level and spread of both."""
    rng, n, genes = np.random.default_rng(3), 600, 20
    often = rng.random(n) < 0.4
    copies = rng.binomial(2, np.where(often, 0.06, 0.004)[:, None], (n, genes * 6)).astype(np.int8)
    ends = np.arange(1, genes + 1) * 6
    file = design(ends - 6, ends, np.ones(genes * 6), np.full(genes * 6, 0.03))
    digest = hashlib.sha256(file).hexdigest()
    known = cast("Published", type("Known", (), {"read": lambda _, digest: load(file)})())
    tables = {site: Table({}, 300, Copies(copies[at])) for site, at in (("a", slice(0, 300)), ("b", slice(300, 600)))}
    settings = {"variants": "0" * 64, "design": digest, "genes": genes, "sampling_rate_milli": 1000} | {
        "rounds": 30, "local_steps": 1, "learning_rate_milli": 10_000, "optimiser": "adam", "server_rate_milli": 50
    }  # fmt: skip
    plan = planned("rare-variant-autoencoder", settings, tables, "none", published=known)
    scores = predicted(plan, trained(plan, tables), Table({}, n, Copies(copies))).value
    raw = predicted(plan, plan.course.initial(), Table({}, n, Copies(copies))).value
    one = copies.reshape(n, genes, 6).sum(axis=2) == 1
    assert raw[one & often[:, None]].mean() == pytest.approx(raw[one & ~often[:, None]].mean())
    assert scores[one & ~often[:, None]].mean() > 2 * max(0.1, scores[one & often[:, None]].mean())
    assert abs(scores[often].mean()) < 0.1 < raw[often].mean()


def test_a_genome_s_inputs_are_copies_in_public_units_and_public_odds() -> None:
    for name, public in (("genomes", np.full(12, 0.5)), ("genomes, public", FREQUENCY)):
        found, people = course(name), table(name, 300)
        inputs, targets = found.recipe.tensors(people, found.parameters, found.published)
        for at, copies in enumerate(_copies(people)):
            for v, each in enumerate(copies.tolist()):
                f = 0.5 if np.isnan(public[v]) else min(0.995, max(0.005, public[v]))
                expected = 0 if each < 0 else (each - 2 * f) / math.sqrt(2 * f * (1 - f))
                assert inputs[at, :, v].tolist() == pytest.approx([expected, math.log(f / (1 - f))], abs=1e-5)
                assert targets[at, v].item() == each if each >= 0 else targets[at, v].isnan()
            label = people.columns["class"][at]
            assert targets[at, -1].item() == label if 0 <= label < 2 else targets[at, -1].isnan()
    nobody = Table({"class": np.zeros(2, np.int8)}, 2, Copies(np.full((2, 12), -1, np.int8)))
    assert len(course("genomes").tensors(nobody)[0]) == 0


def _genomes(seed: int = 1) -> tuple[Network, dict[str, Any]]:
    found, rng = course("genomes"), np.random.default_rng(seed)
    return found, {name: rng.normal(0, 0.4, each.shape) for name, each in weights_of(found.initial()).items()}


def test_the_bound_is_a_loop_over_points_variants_and_populations() -> None:
    found, model = _genomes()
    inputs, targets = found.recipe.tensors(table("genomes", 30), found.parameters, found.published)
    losses = found.recipe.loss(found.module(model), inputs, targets).tolist()
    spread = np.exp(model["last_spread.weight"][:, 0])
    for loss, (copies, public), own in zip(losses, inputs.numpy(), targets.numpy(), strict=True):
        middle = model["encode.weight"] @ copies / math.sqrt(12) + model["encode.bias"]
        near = [
            math.exp(-sum(
                (s * s + a * a) / 2 - 0.5 - math.log(s)
                for s, a in zip(spread, middle - model["centres.weight"][:, k], strict=True)
            ))
            for k in range(2)
        ]  # fmt: skip
        prior = sum(near) if math.isnan(own[-1]) else near[int(own[-1])]
        shares = np.array(near) / prior if math.isnan(own[-1]) else np.eye(2)[int(own[-1])]
        fits = []
        for axis in range(3):
            for sign in (1, -1):
                z = middle + sign * math.sqrt(3) * spread * (np.arange(3) == axis)
                odds = [
                    public[v] + model["last_class.bias"][v] + model["last_class.weight"][v] @ shares
                    + model["last_latent.weight"][v] @ z
                    + sum(model["last_near.weight"][v][2 - back] * copies[v - back] for back in (1, 2) if v >= back)
                    for v in range(12)
                ]  # fmt: skip
                chances = [1 / (1 + math.exp(-each)) for each in odds]
                fits.append(sum(
                    own[v] * math.log(p) + (2 - own[v]) * math.log(1 - p)
                    for v, p in enumerate(chances) if not math.isnan(own[v])
                ))  # fmt: skip
        assert loss == pytest.approx(-np.mean(fits) - math.log(prior), rel=1e-3)


def test_made_up_people_follow_the_model() -> None:
    """The first variant of each population, and the second given the first, by latent numbers drawn anew."""
    _, model = _genomes(5)
    of, labels = SyntheticParameters.model_validate(GENOMES), np.repeat(np.array([0, 1], np.int8), 20_000)
    copies = sample(model, of, labels, 7)
    assert copies.dtype == np.int8
    assert copies.shape == (40_000, 12)
    assert set(np.unique(copies)) == {0, 1, 2}
    assert (copies == sample(model, of, labels, 7)).all()
    assert (copies != sample(model, of, labels, 8)).any()
    rng = np.random.default_rng(0)
    for k in (0, 1):
        z = rng.normal(model["centres.weight"][:, k], 1, (40_000, 3))
        first, second = (
            model["last_class.bias"][v] + model["last_class.weight"][v, k] + z @ model["last_latent.weight"][v]
            for v in (0, 1)
        )
        mine = copies[labels == k]
        assert mine[:, 0].mean() == pytest.approx((2 / (1 + np.exp(-first))).mean(), abs=0.03)
        for before in range(3):
            given = second + model["last_near.weight"][1][1] * (before - 1) / math.sqrt(0.5)
            weight = np.exp(first * before) / (1 + np.exp(first)) ** 2
            expected = np.average(2 / (1 + np.exp(-given)), weights=weight)
            assert mine[mine[:, 0] == before, 1].mean() == pytest.approx(expected, abs=0.05)
    with pytest.raises(GenopactError, match="FRAME_INVALID"):
        sample(model, SyntheticParameters.model_validate(GENOMES | {"latent": 2}), labels, 0)


def test_genotypes_of_other_variants_are_refused() -> None:
    people = Table({}, 3, Copies(np.zeros((3, 11), np.int8)))
    for name in ("rare", "genomes"):
        with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
            course(name).tensors(people)
        with pytest.raises(GenopactError, match="GENOTYPES_MISSING"):
            course(name).tensors(Table({}, 3))


# --- the protocol


@pytest.mark.parametrize("name", STUDIES)
def test_nobody_is_predicted_without_a_fault(name: str) -> None:
    found = course(name)
    assert len(found.predict(found.initial(), None, table(name, 3).take(np.arange(0))).value) == 0


def test_one_drug_and_one_interval_are_columns_too() -> None:
    one = [CELLS["matrices"][0], matrix("response", ["x"], "drug")]
    found, people = course("cells", matrices=one), table("cells", 30)
    people = Table({}, 30, matrices=dict(people.matrices) | {"response": people.matrices["response"][:, :1]})
    personal = found.fit_personal(found.initial(), people)
    assert personal["drugs"].shape == (1,)
    assert found.predict(found.initial(), personal, people).value.shape == (30, 1)
    alone, some = course("survival", ends_days=[10]), table("survival", 6)
    assert alone.predict(alone.initial(), None, some).value.shape == (6, 1)


def test_every_network_of_the_catalogue_is_tested_here_or_in_a_file_of_its_own() -> None:
    assert set(NETWORKS) - {recipe for recipe, _ in STUDIES.values()} <= {"dose-net", "risk-net"}


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_a_private_run_stays_within_its_budget(mode: Any) -> None:
    tables = {site: table("survival", 60, seed) for seed, site in enumerate(("a", "b", "c"))}
    plan: Plan = planned("survival", SURVIVAL | {"rounds": 3, "local_steps": 1}, tables, mode, 3)
    found: Prediction = predicted(plan, trained(plan, tables), tables["a"])
    assert 2.5 < plan.epsilon <= 3
    assert np.isfinite(found.value).all()


def test_a_matrix_is_named_by_its_list_of_features() -> None:
    assert digest_of_features(["a", "b"]) != digest_of_features(["b", "a"]) != digest_of_features(["ab"])
    people = table("late", 4)
    assert people.take(np.array([1, 3])).matrices["rna"].shape == (2, 5)
    assert people.known("rna").all()
    assert people.known("protein").tolist() == [False, True, True, False]
    with pytest.raises(GenopactError, match="TABLE_INVALID"):
        Table({}, 3, matrices={"rna": np.zeros((2, 5), np.float32)})


@pytest.mark.parametrize("longest", [1, 2, 4])
def test_the_last_layer_sees_every_word_where_it_begins(longest: int) -> None:
    """Against a search in the text; a word with an unknown letter is none."""
    rng = np.random.default_rng(longest)
    texts = ["".join(rng.choice([*"ACGTN"], 9, p=[0.23, 0.23, 0.23, 0.23, 0.08])) for _ in range(20)]
    letters = np.array([["ACGTN".index(letter) for letter in text] for text in texts])
    inputs = torch.from_numpy((letters[:, :, None] == np.arange(4)).astype(np.float32))
    found = [part.numpy() for part in words_of(inputs, longest)]
    assert len(found) == longest
    for size, part in enumerate(found, start=1):
        words = ["".join(each) for each in itertools.product("ACGT", repeat=size)]
        seen = [[text.startswith(word, at) for at in range(10 - size) for word in words] for text in texts]
        share = 2 * (longest - size + 1) / (longest * (longest + 1)) / 9
        assert np.allclose(part, np.sqrt(share) * np.array(seen), atol=1e-7)
    whole = [at for at, text in enumerate(texts) if "N" not in text]
    norms = np.linalg.norm(np.concatenate(found, axis=1)[whole], axis=1)
    assert whole
    assert (norms <= 1 + 1e-6).all()
    assert (norms > 0.8).all()


def test_composition_is_how_often_words_come_beyond_chance() -> None:
    rng = np.random.default_rng(3)
    letters = rng.integers(4, size=(200, 60))
    inputs = torch.from_numpy((letters[:, :, None] == np.arange(4)).astype(np.float64))
    found = [part.numpy() for part in composition_of(inputs, 2)]
    text = "".join("ACGT"[letter] for letter in letters[7])
    for size, part in enumerate(found, start=1):
        chance, places = 0.25**size, 61 - size
        for k, word in enumerate("".join(each) for each in itertools.product("ACGT", repeat=size)):
            count = sum(text[at : at + size] == word for at in range(places))
            spread = np.sqrt(places * chance * (1 - chance))
            assert part[7, k] == pytest.approx((count - places * chance) / spread / np.sqrt(20))
    assert np.linalg.norm(np.concatenate(found, axis=1), axis=1).mean() == pytest.approx(1, abs=0.1)


def test_words_fit_into_the_sequence_and_kernels_may_be_even() -> None:
    short = SEQUENCE | {"matrices": [matrix("letters", ["1"], "genome")], "words": 2}
    with pytest.raises(ValueError, match="no longer than the sequence"):
        SequenceParameters.model_validate_json(json.dumps(short))
    plan, people = course("cnn", kernel=6, depth=2), table("cnn", 5)
    assert plan.outputs(plan.initial(), people).shape == (5, 2)
