"""What a design is made of: panel, posterior and directions, each against a naive reference."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_server.design import directions, posterior
from genopact_server.design.directions import OWN, TRANSFER, Budget, uncertain, water_filled
from genopact_server.design.measure import CORRELATION, design
from genopact_server.design.panel import (
    COMPONENTS,
    FLOOR,
    LEAST_SD,
    SHRINK,
    SHRINKS,
    Indices,
    Panel,
    blocks_of,
    read_plink,
)
from genopact_server.design.posterior import PRIOR, SLABS, Evidence, Posterior, relation
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.table import Floats
from tests.unit.risk_panel import CLIP, PREVALENCE, small_known, small_panel
from tests.unit.test_plink import random_copies, write

KNOWN = small_known()


# --- PLINK files


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 13), st.integers(0, 99))
def test_plink_files_are_read_as_bed_reader_reads_them(
    tmp_path_factory: pytest.TempPathFactory, variants: int, people: int, seed: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bed_reader import open_bed
    path = write(tmp_path_factory.mktemp("plink"), random_copies(variants, people, seed))
    copies, fam, bim = read_plink(path.with_suffix(""))
    with open_bed(path, num_threads=1) as bed:
        naive = bed.read(dtype="int8")
        assert np.array_equal(copies, np.where(naive == -127, -1, naive))
        assert [row[1] for row in fam] == bed.iid.tolist()
        assert [(row[1], int(row[3]), row[4], row[5]) for row in bim] == list(
            zip(bed.sid.tolist(), bed.bp_position.tolist(), bed.allele_1.tolist(), bed.allele_2.tolist(), strict=True)
        )


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no file": lambda bed: bed.unlink(),
    "no persons": lambda bed: bed.with_suffix(".fam").unlink(),
    "a byte less": shorter,
    "a byte more": lambda bed: bed.write_bytes(bed.read_bytes() + b"\0"),
    "by person": lambda bed: bed.write_bytes(b"\x6c\x1b\x00" + bed.read_bytes()[3:]),
    "of another kind": lambda bed: bed.write_bytes(b"\x6c\x1c\x01" + bed.read_bytes()[3:]),
    "nothing": lambda bed: bed.write_bytes(b""),
    "nobody": lambda bed: bed.with_suffix(".fam").write_text(""),
    "a row too few": lambda bed: bed.with_suffix(".bim").write_text("1 rs0 0 5 A C\n"),
    "a cell too few": lambda bed: bed.with_suffix(".bim").write_text("1 rs0 0 5 A\n" * 4),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_plink_files_are_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = write(tmp_path, random_copies(4, 5))
    damage(path)
    with pytest.raises(GenopactError, match="PANEL_INVALID"):
        read_plink(path.with_suffix(""))


# --- the panel


def holey(seed: int = 2) -> Panel:
    """With missing genotypes, a variant that nobody carries and one that an ancestry was not asked about."""
    panel, rng = small_panel(), np.random.default_rng(seed)
    dosages = np.where(rng.random(panel.dosages.shape) < 0.1, -1, panel.dosages).astype(np.int8)
    dosages[:, 3], dosages[panel.ancestry == 0, 7] = 0, -1
    return replace(panel, dosages=dosages)


def test_frequencies_and_deviations_follow_the_reference() -> None:
    panel = holey()
    for j in range(60):
        shares = []
        for k in range(2):
            seen = [int(g) for g in panel.dosages[panel.ancestry == k, j] if g >= 0]
            shares.append(sum(seen) / (2 * len(seen)) if seen else 0.0)
        assert panel.frequency[:, j] == pytest.approx(shares)
        assert panel.sd[j] == pytest.approx(max(np.sqrt(np.mean([2 * f * (1 - f) for f in shares])), LEAST_SD))
    assert [panel.people(0), panel.people(1)] == [120, 120]


def test_linkage_follows_the_reference_and_has_a_factor() -> None:
    panel = holey()
    for k, block in product(range(2), range(3)):
        own = panel.blocks[block]
        naive = np.zeros((20, 20))
        for g in panel.dosages[panel.ancestry == k][:, own]:
            x = np.array(
                [0.0 if c < 0 else (c - 2 * panel.frequency[k, j]) / panel.sd[j] for c, j in zip(g, own, strict=True)]
            )
            naive += np.outer(x, x) / 120
        shrink = min(max(SHRINKS[0], SHRINK * 20 / panel.people(k)), SHRINKS[1])
        naive = np.where(np.eye(20) == 1, naive, (1 - shrink) * naive) + FLOOR * np.eye(20)
        found = panel.linkage(k, block)
        assert np.allclose(found, naive)
        assert np.linalg.eigvalsh(found).min() > 0


def test_loadings_are_the_leading_components_of_some_variants() -> None:
    panel = holey()
    used = np.flatnonzero(panel.loadings.any(axis=1))
    assert used.tolist() == list(range(0, 60, 3))
    x = np.where(panel.dosages < 0, 0.0, panel.dosages - 2 * panel.frequency.mean(axis=0)) / panel.sd
    _, values, right = np.linalg.svd(x[:, used], full_matrices=False)
    assert values[COMPONENTS - 1] > 1.001 * values[COMPONENTS]
    assert np.allclose(np.abs(right[:COMPONENTS] @ panel.loadings[used]), np.eye(COMPONENTS), atol=1e-6)


def test_blocks_keep_the_order_of_their_first_variant() -> None:
    assert [each.tolist() for each in blocks_of(["b", "b", "a", "b", "c"])] == [[0, 1, 3], [2], [4]]


# --- the posterior


def tiny() -> Panel:
    """Three linked variants, two ancestries."""
    panel = small_panel(people=200)
    return Panel(panel.dosages[:, :3], panel.ancestry, panel.names, (np.arange(3),))


def enumerated(panel: Panel, evidence: Evidence, between: Floats, relative: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean and variance of the effects (K, V), and expected slab variances, by every choice of spikes and slabs."""
    size, slabs = len(panel.names), np.array(SLABS) / 3
    information = np.zeros((size, 3, size, 3))
    for k in range(size):
        information[k, :, k, :] = evidence.information[k] * panel.linkage(k, 0)
    precision, gradient = information.reshape(size * 3, -1), evidence.gradient.ravel()
    total, first, second, slab = 0.0, np.zeros(size * 3), np.zeros((size * 3, size * 3)), np.zeros(3)
    for choice in product(range(len(slabs) + 1), repeat=3):
        counts = np.bincount(choice, minlength=len(slabs) + 1)
        odds = 1.0  # of the choice under shares that are drawn from a Dirichlet distribution
        for count in counts:
            for before in range(count):
                odds *= PRIOR + before
        own = np.array([0.0 if c == 0 else slabs[c - 1] * relative[j] for j, c in enumerate(choice)])
        prior = np.einsum("kl,jm->kjlm", between, np.diag(own)).reshape(size * 3, -1)
        within = np.eye(size * 3) + prior @ precision
        covariance = np.linalg.solve(within, prior)
        mean = covariance @ gradient
        weight = odds * np.exp(0.5 * gradient @ mean) / np.sqrt(np.linalg.det(within))
        total += weight
        first += weight * mean
        second += weight * (covariance + np.outer(mean, mean))
        slab += weight * own
    first, second = first / total, second / total
    return first.reshape(size, 3), np.diag(second - np.outer(first, first)).reshape(size, 3), slab / total


def test_the_posterior_is_that_of_every_choice_of_spikes_and_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tolerance: six standard errors of 2,500 independent draws, of 10,000 that are not; expected effects vary less."""
    panel = tiny()
    between, relative = relation(panel, 0.7)
    evidence = Evidence(np.array([0.4, 0.15]), np.array([[1.2, -0.3, 0.4], [0.1, 0.5, -0.2]]))
    mean, variance, slab = enumerated(panel, evidence, between, relative)
    monkeypatch.setattr(posterior, "SWEEPS", 20_100)
    found = posterior.posterior(panel, evidence, between, relative)
    draws = found.samples.astype(np.float64)
    assert draws.shape == (10_000, 2, 3)
    tolerance = 6 * np.sqrt(variance / 2500)
    assert (np.abs(found.mean - mean) < tolerance / 4).all()
    assert (np.abs(draws.mean(axis=0) - mean) < tolerance).all()
    assert np.allclose(draws.var(axis=0), variance, rtol=0.2)
    assert np.allclose(found.slab, slab, rtol=0.06)
    assert np.abs(mean).max() > 4 * tolerance.max()


def test_without_evidence_nothing_is_known_and_the_draws_are_the_same_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel = tiny()
    monkeypatch.setattr(posterior, "SWEEPS", 300)
    nothing = Evidence(np.zeros(2), np.zeros((2, 3)))
    one, two = (posterior.posterior(panel, nothing, *relation(panel, 0.9)) for _ in range(2))
    assert (one.mean == 0).all()
    assert one.samples.tobytes() == two.samples.tobytes()
    assert one.slab.tobytes() == two.slab.tobytes()


def test_effects_are_as_heritable_in_each_ancestry() -> None:
    panel = holey()
    between, relative = relation(panel, CORRELATION)
    f = panel.frequency
    carried = [
        sum(relative[j] * between[k, k] * 2 * f[k, j] * (1 - f[k, j]) / panel.sd[j] ** 2 for j in range(60))
        for k in range(2)
    ]
    assert carried[0] == pytest.approx(carried[1])
    assert between[0, 1] == pytest.approx(CORRELATION * np.sqrt(between[0, 0] * between[1, 1]))
    assert min(between[0, 0], between[1, 1]) == pytest.approx(1)
    assert np.allclose(relative, 2 * panel.sd)


# --- directions


def covariance(found: Posterior, panel: Panel, own: Indices) -> Floats:
    """(K v, K v) of effects here, entry by entry."""
    between, relative = relation(panel, CORRELATION)
    draws = found.samples[:, :, own].reshape(len(found.samples), -1)
    naive = TRANSFER**2 * np.cov(draws.astype(np.float64), rowvar=False)
    for j, k, l in product(range(len(own)), range(2), range(2)):  # noqa: E741
        more = (1 - TRANSFER**2) * found.slab[own[j]] + OWN * relative[own[j]] / len(panel.sd)
        naive[k * len(own) + j, l * len(own) + j] += more * between[k, l]
    return naive


@pytest.mark.parametrize("most", [5, 80])
def test_directions_are_those_of_greatest_variance(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(directions, "MOST", most)
    panel, mix = KNOWN.panel, np.array([0.2, 0.8])
    block = uncertain(panel, KNOWN.found, relation(panel, CORRELATION), mix, 1)
    v = covariance(KNOWN.found, panel, panel.blocks[1])
    assert np.allclose(block.covariance.reshape(40, 40), v)
    for k in range(2):
        assert np.allclose(block.factors[k] @ block.factors[k].T, panel.linkage(k, 1))
    seen = np.zeros((40, 40))
    for k in range(2):
        seen[20 * k : 20 * k + 20, 20 * k : 20 * k + 20] = np.sqrt(mix[k]) * block.factors[k]
    axes = block.axes.reshape(len(block.axes), -1)
    assert len(axes) == min(most, 40)
    assert np.allclose(axes @ axes.T, np.eye(len(axes)))
    assert np.allclose(axes @ seen.T @ v @ seen @ axes.T, np.diag(block.variances))
    assert np.allclose(block.variances, np.linalg.eigvalsh(seen.T @ v @ seen)[::-1][:most])


def learnt(variances: Floats, weights: Floats, budget: Budget) -> float:
    """Variance that a measurement of a direction, with sampling error and noise, takes away: scalar Bayes."""
    gone = 0.0
    for s, w in zip(variances, weights, strict=True):
        signal = budget.patients * budget.signal * np.sqrt(w)
        error = budget.patients * budget.variance * w + (budget.clip / budget.mu) ** 2
        gone += (signal * s) ** 2 / (signal**2 * s + error)
    return gone


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([0.02, 0.3, 2.0, 1000.0]))
def test_weights_are_the_best_of_those_that_add_up_to_one(seed: int, size: int, mu: float) -> None:
    rng = np.random.default_rng(seed)
    variances, budget = rng.gamma(0.5, 0.02, size) + 1e-9, Budget.of(3000, mu, CLIP, PREVALENCE)
    weights = water_filled(variances, budget)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    h, best = 1e-7, learnt(variances, weights, budget)
    slopes = np.array([(learnt(variances, weights + h * e, budget) - best) / h for e in np.eye(size)])
    level = slopes[weights > 1e-4]
    assert np.allclose(level, level.max(initial=0), rtol=1e-2)
    assert slopes.max() <= level.max(initial=0) * 1.01
    for _ in range(20):
        other = np.maximum(weights + rng.normal(0, rng.choice([0.01, 0.3]), size), 0) + 1e-12
        assert learnt(variances, other / other.sum(), budget) <= best * (1 + 1e-9)


def test_a_budget_s_signal_and_variance_are_those_of_a_clipped_residual() -> None:
    p, c = PREVALENCE, CLIP
    one = Budget.of(1, 1.0, c, p)
    assert one.variance == pytest.approx(p * c**2 + (1 - p) * p**2)
    h = 1e-6
    slope = [q * c - (1 - q) * p for q in (p - h, p + h)]  # outcomes move, the prediction stays
    assert one.signal == pytest.approx((slope[1] - slope[0]) / (2 * h) * p * (1 - p))


def test_more_budget_leaves_less_unknown_and_measures_more() -> None:
    made = [design(KNOWN, Budget.of(3000, mu, CLIP, PREVALENCE), 1.0) for mu in (0.05, 0.5, 5.0)]
    total = sum(block.variances.sum() for block in KNOWN.blocks)
    left = [float(arrays["unexplained"][0]) for arrays in made]
    assert total > left[0] > left[1] > left[2] > 0
    counts = [arrays["block_directions"][-1] for arrays in made]
    assert counts[0] < counts[1] <= counts[2]
    variances = np.concatenate([block.variances for block in KNOWN.blocks])
    for arrays, mu in zip(made, (0.05, 0.5, 5.0), strict=False):
        budget = Budget.of(3000, mu, CLIP, PREVALENCE)
        gone = learnt(variances, water_filled(variances, budget), budget)
        assert arrays["unexplained"][0] == pytest.approx(total - gone)


def test_without_a_published_score_the_scale_of_effects_is_taken_as_published() -> None:
    unknown = KNOWN._replace(found=KNOWN.found._replace(mean=np.zeros((2, 60))))
    budget = Budget.of(3000, 1.0, CLIP, PREVALENCE)
    assert design(KNOWN, budget, 1.0)["least_scale"] == 0
    arrays = design(unknown, budget, 1.0)
    assert arrays["least_scale"] == 1
    assert all(np.isfinite(each).all() for each in arrays.values())
