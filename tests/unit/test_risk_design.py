"""A published design: projections against exact integers, the update against textbook Bayes, broken ones refused."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_server.design.directions import Budget
from genopact_server.design.measure import design
from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.published import NOTHING, Arrays, Published
from genopact_shared.recipes import table as tables
from genopact_shared.recipes.linear import positive_solution
from genopact_shared.recipes.risk_design import Answer, RiskDesign
from genopact_shared.recipes.table import Copies, Floats, Table
from tests.unit.risk_panel import CLIP, NAMES, PREVALENCE, VARIANTS, patients, small_known

KNOWN = small_known()
NOISE = 0.6
ARRAYS = design(KNOWN, Budget.of(600, 1.0, CLIP, PREVALENCE), NOISE)
DESIGN = RiskDesign(ARRAYS)
PEOPLE = patients(300, 3, missing=0.1)
COPIES = np.concatenate([copies for _, copies in PEOPLE.dosages()]).astype(np.int64)
FEATURES, ANCESTRY = DESIGN.features(PEOPLE)
MEASURED = DESIGN.measured(PEOPLE, ANCESTRY)


def centred(copies: Any, centre: Any) -> Any:
    """In units of 2^-16, exactly; a missing genotype is the centre."""
    return np.where(copies < 0, 0, (copies << 16) - centre.astype(np.int64))


# --- projections


def test_a_measured_number_is_an_exact_sum_of_integers() -> None:
    found = DESIGN.measured(PEOPLE, ANCESTRY)
    variants, directions = ARRAYS["block_variants"], ARRAYS["block_directions"]
    assert found.shape == (300, directions[-1]) == (300, DESIGN.directions)
    start = 0
    for block in range(3):
        v, d = (int(ends[block + 1] - ends[block]) for ends in (variants, directions))
        own = slice(variants[block], variants[block + 1])
        weights = ARRAYS["weights"][start : start + 2 * d * v].reshape(2, d, v).astype(np.int64)
        start += 2 * d * v
        for i in range(300):
            k = ANCESTRY[i]
            exact = weights[k] @ centred(COPIES[i, own], ARRAYS["centre"][k, own])
            assert (found[i, directions[block] : directions[block + 1]] * 2.0**36 == exact).all()
    assert start == len(ARRAYS["weights"])


def test_a_score_is_an_exact_sum_of_integers() -> None:
    whole = np.random.default_rng(1).integers(-(2**22), 2**22, (2, VARIANTS))
    found = DESIGN.scores(PEOPLE, ANCESTRY, whole.astype(np.float64) * 2.0**-24)
    exact = [whole[k] @ centred(row, ARRAYS["centre"][k]) for row, k in zip(COPIES, ANCESTRY, strict=True)]
    assert (found * 2.0**40 == np.array(exact)).all()


def test_features_follow_the_reference() -> None:
    age, sex = PEOPLE.number("age"), PEOPLE.codes("sex")
    assert FEATURES.shape == (300, 10)
    for i, row in enumerate(COPIES):
        away = centred(row, ARRAYS["mean"]) / 2**16
        place = (ARRAYS["loadings"] / 2**20 @ away - ARRAYS["component_mean"]) / ARRAYS["component_sd"]
        distances = [np.linalg.norm(place[:2] - centre) for centre in ARRAYS["centroids"]]
        k = int(np.argmin(distances))
        score = (ARRAYS["score"][k] / 2**20) @ (centred(row, ARRAYS["centre"][k]) / 2**16) / ARRAYS["score_sd"][k]
        p = np.clip(score, -4, 4)
        expected = [1, np.clip((age[i] - 55) / 15, -3, 3), [-1, 1][sex[i]], *np.clip(place, -3, 3), p, p * k, k]
        assert ANCESTRY[i] == k
        assert np.allclose(FEATURES[i], expected)


def test_most_people_of_the_panel_are_placed_among_their_own() -> None:
    panel = KNOWN.panel
    _, ancestry = DESIGN.features(Table({}, len(panel.dosages), Copies(panel.dosages)))
    assert (ancestry == panel.ancestry).mean() > 0.8


def test_unknown_covariates_are_average_and_extreme_ones_bounded() -> None:
    few = PEOPLE.take(np.arange(4))
    age, sex = np.array([np.nan, 1e9, -1e9, 55.0]), np.array([-1, 0, 1, -1], np.int8)
    rows, _ = DESIGN.features(Table({"age": age, "sex": sex}, 4, few.genotypes))
    assert rows[:, 1].tolist() == [0.0, 3.0, -3.0, 0.0]
    assert rows[:, 2].tolist() == [0.0, -1.0, 1.0, 0.0]
    assert np.abs(rows).max() <= 4


def test_somebody_of_whom_nothing_is_known_is_the_average_of_an_ancestry() -> None:
    nobody = Table({}, 1, Copies(np.full((1, VARIANTS), -1, np.int8)))
    _, ancestry = DESIGN.features(nobody)
    assert (DESIGN.measured(nobody, ancestry) == 0).all()
    assert DESIGN.scores(nobody, ancestry, np.ones((2, VARIANTS))).tolist() == [0.0]


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(40)), st.integers(1, 40), st.integers(1, 41), st.integers(0, 39))
def test_a_person_has_the_same_bits_in_any_company_order_and_batch(
    order: list[int], n: int, batch: int, change: int
) -> None:
    few, chosen = np.arange(40), np.array(order[:n])
    copies = COPIES[:40].astype(np.int8)
    copies[change] = np.random.default_rng(change).integers(-1, 3, VARIANTS)
    others = chosen[chosen != change]
    with patch.object(tables, "PEOPLE", batch):
        rows, ancestry = DESIGN.features(PEOPLE.take(chosen))
        numbers = DESIGN.measured(PEOPLE.take(chosen), ancestry)
        beside = DESIGN.measured(Table({}, 40, Copies(copies)), ANCESTRY[few])
    assert (rows == FEATURES[chosen]).all()
    assert (ancestry == ANCESTRY[chosen]).all()
    assert (numbers == MEASURED[chosen]).all()
    assert (beside[others] == MEASURED[others]).all()
    assert (beside[change] != MEASURED[change]).any()


def test_a_row_has_norm_one_on_average_in_the_panel() -> None:
    panel = KNOWN.panel
    everybody = Table({}, len(panel.dosages), Copies(panel.dosages))
    square = (DESIGN.measured(everybody, panel.ancestry) ** 2).sum(axis=1)
    for k in range(2):
        assert 0.85 < square[panel.ancestry == k].mean() < 1.05  # linkage is shrunk towards more than what was seen


# --- the update


def dense(score: Floats, answer: Answer, total: Floats, scale: float) -> Floats:
    """(K, V): textbook linear Bayes of all effects at once, from the arrays' weights and the panel's moments."""
    panel, k = KNOWN.panel, 2
    size, d = k * VARIANTS, DESIGN.directions
    prior, moved, sampled = np.zeros((size, size)), np.zeros((d, size)), NOISE**2 * np.eye(d)
    start = 0
    for at, (own, block) in enumerate(zip(panel.blocks, KNOWN.blocks, strict=True)):
        low, high = ARRAYS["block_directions"][at : at + 2]
        each = (high - low) * len(own)
        weights = ARRAYS["weights"][start : start + k * each].reshape(k, high - low, len(own)) / 2.0**20
        start += k * each
        everywhere = np.concatenate([own + one * VARIANTS for one in range(k)])
        prior[np.ix_(everywhere, everywhere)] = block.covariance.reshape(len(everywhere), -1)
        for one in range(k):
            linkage, a = panel.linkage(one, at), weights[one] * panel.sd[own]
            moved[low:high, own + one * VARIANTS] = answer.gain[one] * a @ linkage
            variance = max(answer.variance[one], 1.0) + answer.bias[one] ** 2 / panel.people(one)
            sampled[low:high, low:high] += variance * a @ linkage @ a.T
    prior *= scale**2
    step = prior @ moved.T @ np.linalg.solve(moved @ prior @ moved.T + sampled, total)
    published = score[:, None] * ARRAYS["score"] / 2.0**20
    return np.asarray(published + step.reshape(k, VARIANTS) / panel.sd)


def updated(of: RiskDesign, score: Floats, answer: Answer, total: Floats, scale: float) -> Floats:
    """One whole step from no effects."""
    return of.weights(score, answer, scale, of.solved(answer, total, scale, np.zeros(of.directions)))


GIVEN = np.array([0.7, 0.4]), Answer(np.array([30.0, 55.0]), np.array([40.0, 60.0]), np.array([3.0, -9.0]))
TOTAL = np.random.default_rng(8).normal(0, 5, DESIGN.directions)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("faint", [False, True])
def test_the_update_is_textbook_linear_bayes(scale: float, faint: bool) -> None:
    score, answer = GIVEN
    if faint:
        answer = Answer(np.array([0.0, 5.0]), np.array([-3.0, 0.2]), np.zeros(2))
    found = updated(DESIGN, score, answer, TOTAL, scale)
    reference = dense(score, answer, TOTAL, scale)
    assert found.shape == (2, VARIANTS)
    assert np.allclose(found, reference, rtol=1e-4, atol=1e-5 * np.abs(reference).max())
    assert (found / 2.0**-24 == np.rint(found / 2.0**-24)).all()


def test_nothing_measured_leaves_the_published_score() -> None:
    score, answer = GIVEN
    found = updated(DESIGN, score, answer, np.zeros(DESIGN.directions), 1.0)
    assert np.allclose(found, score[:, None] * ARRAYS["score"] / 2**20, atol=2**-24)


def test_blocks_without_directions_keep_the_published_score() -> None:
    poor = RiskDesign(design(KNOWN, Budget.of(20, 0.05, CLIP, PREVALENCE), 9.0))
    widths = np.diff(poor.arrays["block_directions"])
    assert widths.min() == 0 < widths.max()
    found = updated(poor, np.ones(2), GIVEN[1], np.full(poor.directions, 50.0), 1.0)
    still = np.repeat(widths == 0, 20)
    assert np.allclose(found[:, still], poor.arrays["score"][:, still] / 2**20)
    assert not np.allclose(found[:, ~still], poor.arrays["score"][:, ~still] / 2**20)


def fingerprint() -> str:
    """Of an update and of projections."""
    found = [updated(DESIGN, *GIVEN, TOTAL, 1.3), DESIGN.measured(PEOPLE, ANCESTRY), FEATURES]
    return hashlib.sha256(b"".join(each.tobytes() for each in found)).hexdigest()


def test_another_processor_s_libraries_give_the_same_bits(tmp_path: Path) -> None:
    """Kernels of BLAS for the oldest processor and no vector instructions, one thread; the same published arrays."""
    name = Published(tmp_path).add(wire.pack(ARRAYS))
    program = (
        "from pathlib import Path; from tests.unit import test_risk_design as t\n"
        f"t.DESIGN = t.RiskDesign(t.Published(Path({str(tmp_path)!r})).read({name!r}))\n"
        "t.FEATURES, t.ANCESTRY = t.DESIGN.features(t.PEOPLE)\nprint(t.fingerprint())"
    )
    old = {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"}
    asked = [sys.executable, "-W", "ignore", "-c", program]
    environment = os.environ | old | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 30))
def test_positive_solutions_agree_with_lapack(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    root, right = rng.normal(size=(size, size + 2)), rng.normal(size=size)
    matrix = root @ root.T + 0.1 * np.eye(size)
    kept, before = matrix.copy(), right.copy()
    found = positive_solution(matrix, right)
    assert np.allclose(found, np.linalg.solve(matrix, right))
    assert (positive_solution(np.asfortranarray(matrix), right) == found).all()
    assert (matrix == kept).all()
    assert (right == before).all()


@pytest.mark.parametrize("matrix", [[[0.0]], [[-1.0]], [[1.0, 2.0], [2.0, 1.0]], [[float("nan")]]])
def test_what_is_not_positive_definite_has_no_positive_solution(matrix: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="positive definite"):
        positive_solution(np.array(matrix), np.ones(len(matrix)))


# --- what is no design


def with_first(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name].flat[0] = value

    return change


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "one ancestry more": lambda a: a.update(panel_people=np.ones(3)),
    "fewer variants": lambda a: a.update(mean=a["mean"][:-1]),
    "three places": lambda a: a.update(centroids=np.ones((2, 3))),
    "other features": lambda a: a.update(second_moments=np.eye(11)),
    "too flat": lambda a: a.update(centre=a["centre"].ravel()),
    "a block too short": lambda a: a.update(block_variants=a["block_variants"] - [0, 0, 0, 1]),
    "a block that ends before it begins": lambda a: a.update(block_variants=np.array([0, 40, 20, 60])),
    "blocks that begin later": lambda a: a.update(block_directions=a["block_directions"] + 1),
    "fewer weights": lambda a: a.update(weights=a["weights"][:-1]),
    "weights that are not whole": lambda a: a.update(weights=a["weights"] / 3),
    "wide weights": lambda a: a.update(weights=a["weights"].astype(np.int64) << 33),
    "ends that are not whole": lambda a: a.update(block_variants=a["block_variants"] + 0.5),
    "half precision": lambda a: a.update(spread=a["spread"].astype(np.float16)),
    "an infinite number": with_first("spread", np.inf),
    "no number": with_first("score_sd", np.nan),
    "two noises": lambda a: a.update(noise=np.ones(2)),
}  # fmt: skip


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_broken_design_is_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    arrays = dict(ARRAYS)
    change(arrays)
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        RiskDesign(arrays)


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_a_design_without_one_of_its_arrays_is_refused(name: str) -> None:
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        RiskDesign({key: each for key, each in ARRAYS.items() if key != name})


def test_people_with_other_variants_are_refused() -> None:
    others = Table({}, 2, Copies(np.zeros((2, VARIANTS + 1), np.int8)))
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        DESIGN.features(others)
    with pytest.raises(GenopactError, match="GENOTYPES_MISSING"):
        DESIGN.features(Table({}, 2))


# --- published files


def test_a_published_file_is_its_digest(tmp_path: Path) -> None:
    data, here = wire.pack(ARRAYS), Published(tmp_path / "files")
    name = here.add(data)
    assert name == hashlib.sha256(data).hexdigest()
    assert here.add(data) == name
    assert here.has(name)
    arrays: Arrays = here.read(name)
    assert set(arrays) == set(ARRAYS)
    for key, each in arrays.items():
        assert np.array_equal(each, ARRAYS[key])
        with pytest.raises(ValueError, match="read-only"):
            each.flat[0] = 1
    assert len(NAMES) == RiskDesign(arrays).ancestries
    assert (tmp_path / "files" / name).stat().st_mode & 0o077 == 0


def test_changed_bytes_are_refused(tmp_path: Path) -> None:
    here = Published(tmp_path)
    name = here.add(wire.pack({"one": np.ones(3)}))
    (tmp_path / name).write_bytes(wire.pack({"one": np.zeros(3)}))
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        here.read(name)
    with pytest.raises(GenopactError, match="PUBLISHED_INVALID"):
        here.add(b"no arrays at all")


def test_what_is_not_here_is_missing(tmp_path: Path) -> None:
    for place in (Published(tmp_path / "nowhere"), NOTHING):
        assert not place.has("0" * 64)
        with pytest.raises(GenopactError, match="PUBLISHED_MISSING"):
            place.read("0" * 64)
    assert NOTHING.add(wire.pack({"one": np.ones(3)}))
