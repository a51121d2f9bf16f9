"""The simulated cohort against what is known of it: linkage, drift, liability, hospitals, score tests; and its seed."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genopact_server.simulate import ANCESTRIES, HOSPITALS, Cohort, Design, Gwas, cohort, haplotypes, people
from genopact_server.simulate.coalescent import coalescent
from genopact_server.simulate.haplotypes import START, Drawn, bundled
from genopact_shared.errors import GenopactError
from tests.unit.faulty import faulty

Floats = NDArray[np.float64]
Codes = NDArray[np.int8]
DESIGN = Design(people=3000, seed=3, megabases=4.0, density=400, panel=900)
DISTANCES = (0, 5_000, 50_000, 150_000, 500_000)
"""Bases."""


@pytest.fixture(scope="module")
def made() -> Cohort:
    return cohort(DESIGN)


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """By the coalescent."""
    return coalescent(np.random.default_rng(8), (150, 150, 150), 0.5, None)


def panel(made: Cohort, k: int) -> Floats:
    found: Floats = made.panel[made.panel_ancestry == k].astype(np.float64)
    return found


def r(dosages: Floats) -> Floats:
    """(variants, variants) of (people, variants)."""
    return np.atleast_2d(np.corrcoef(dosages, rowvar=False))


def linkage(dosages: Floats, pos: NDArray[np.int64], bounds: Sequence[int] = DISTANCES) -> list[float]:
    """Mean r2 of common variants, for each class of distance. dosages: (people, variants)."""
    share = dosages.mean(axis=0) / 2
    kept = np.flatnonzero(np.minimum(share, 1 - share) > 0.05)
    square = r(dosages[:, kept]) ** 2
    apart = np.abs(pos[kept, None] - pos[kept])
    return [float(square[(apart > near) & (apart <= far)].mean()) for near, far in pairwise(bounds)]


def fst(one: Floats, other: Floats) -> float:
    """Hudson's, as in Bhatia et al., Genome Res 2013;23:1514-1521; of (people, variants) dosages."""
    p, q, n, m = one.mean(axis=0) / 2, other.mean(axis=0) / 2, 2 * len(one), 2 * len(other)
    within = p * (1 - p) / (n - 1) + q * (1 - q) / (m - 1)
    return float(((p - q) ** 2 - within).sum() / (p * (1 - q) + q * (1 - p)).sum())


def correlation(one: Any, other: Any) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def chisq(of: Gwas) -> Floats:
    return (of.beta / of.se) ** 2


def same(one: Cohort, other: Cohort) -> bool:
    named = [field.name for field in fields(Cohort) if field.name not in {"design", "gwas"}]
    tested = [(a.beta, b.beta) for a, b in zip(one.gwas, other.gwas, strict=True)]
    pairs = [(getattr(one, name), getattr(other, name)) for name in named] + tested
    return all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs)


# --- linkage and frequencies


@pytest.mark.parametrize("k", range(3), ids=ANCESTRIES)
def test_linkage_decays_with_distance(made: Cohort, k: int) -> None:
    found = linkage(panel(made, k), made.pos[made.typed])
    assert all(near > far for near, far in pairwise(found))
    assert 0.2 < found[0] < 0.6
    assert found[-1] < 0.012, "people who are not related: about 1 / 300"


def test_linkage_is_shorter_in_africa_and_has_the_same_sense_everywhere(made: Cohort) -> None:
    pos = made.pos[made.typed]
    afr, eur, eas = (linkage(panel(made, k), pos) for k in range(3))
    assert afr[1] < 0.8 * eur[1]
    assert afr[1] < 0.8 * eas[1]
    shares = [panel(made, k).mean(axis=0) / 2 for k in range(3)]
    common = np.flatnonzero((np.minimum(shares, 1 - np.array(shares)) > 0.1).all(axis=0))[:300]
    near = np.triu(np.abs(pos[common, None] - pos[common]) < 10_000, 1)
    signed = [r(panel(made, k)[:, common])[near] for k in range(3)]
    assert correlation(signed[0], signed[1]) > 0.5
    assert correlation(signed[1], signed[2]) > 0.5


def test_there_are_pairs_in_full_linkage_and_neighbours_in_none(made: Cohort) -> None:
    """Tags, and variants that need a tag of their own."""
    dosages, pos = panel(made, 1), made.pos[made.typed]
    share = dosages.mean(axis=0) / 2
    kept = np.flatnonzero(np.minimum(share, 1 - share) > 0.05)
    near = np.triu(np.abs(pos[kept, None] - pos[kept]) < 5_000, 1)
    square = (r(dosages[:, kept]) ** 2)[near]
    assert (square > 0.8).mean() > 0.1
    assert (square < 0.1).mean() > 0.1


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 2), (1, 2)])
def test_ancestries_drifted_apart_as_continents_did(made: Cohort, one: int, other: int) -> None:
    assert 0.05 < fst(panel(made, one), panel(made, other)) < 0.2


def test_two_halves_of_one_ancestry_did_not_drift(made: Cohort) -> None:
    found = panel(made, 1)
    assert abs(fst(found[::2], found[1::2])) < 0.005


def test_hospitals_panel_and_statistics_are_of_one_population(made: Cohort) -> None:
    for k, of in enumerate(made.gwas):
        mine = made.dosages[made.ancestry == k]
        for share, n in ((panel(made, k).mean(axis=0) / 2, 300), (mine.mean(axis=0) / 2, len(mine))):
            sd = np.sqrt(np.maximum(of.frequency * (1 - of.frequency), 1e-4) * (1 / n + 1 / of.n) / 2)
            assert np.sqrt((((share - of.frequency) / sd) ** 2).mean()) < 1.3


def test_every_variant_is_common_in_some_ancestry(made: Cohort) -> None:
    shares = np.array([of.frequency for of in made.gwas])
    assert np.minimum(shares, 1 - shares).max(axis=0).min() > haplotypes.COMMON
    assert abs(made.typed.mean() - people.TYPED) < 0.001
    assert made.dosages.shape == (DESIGN.people, 1600)
    assert made.dosages.min() == 0
    assert made.dosages.max() == 2


def test_letters_and_places(made: Cohort) -> None:
    assert (np.diff(made.pos) > 0).all()
    assert set(made.chrom.tolist()) == {22}
    assert START <= made.pos.min() < made.pos.max() < START + 4_000_000
    assert (made.ref != made.alt).all()
    assert set(made.ref.tolist()) == set(made.alt.tolist()) == set("ACGT")
    transitions = [{ref, alt} in ({"A", "G"}, {"C", "T"}) for ref, alt in zip(made.ref, made.alt, strict=True)]
    assert 0.6 < np.mean(transitions) < 0.73


def test_founders_are_as_frequent_as_asked() -> None:
    rng = np.random.default_rng(1)
    asked = rng.uniform(0, 1, 50)
    made = haplotypes._founders(rng, np.full(50, 0.1), rng.standard_normal((50, 2)), asked)
    assert np.abs(made.mean(axis=1) - asked).max() <= 0.5 / haplotypes._FOUNDERS


def test_who_never_switches_copies_two_founders() -> None:
    rng = np.random.default_rng(1)
    founders = rng.integers(0, 2, (40, haplotypes._FOUNDERS), dtype=np.int8)
    copies = haplotypes._mosaics(rng, np.zeros(40), founders, 30).T
    known = {founders[:, at].tobytes() for at in range(haplotypes._FOUNDERS)}
    for person in copies:
        rest = person[:, None] - founders
        assert any(np.ascontiguousarray(other).tobytes() in known for other in rest.T)
    assert len({person.tobytes() for person in copies}) > 20


def test_who_always_switches_copies_no_founder() -> None:
    rng = np.random.default_rng(1)
    founders = np.repeat(np.arange(haplotypes._FOUNDERS) % 2, 60).reshape(-1, 60).T.astype(np.int8)
    copies = haplotypes._mosaics(rng, np.ones(60), founders, 200)
    assert set(np.unique(copies)) == {0, 1, 2}
    assert abs(r(copies.T.astype(np.float64))[0, 59]) < 0.35
    assert 0.8 < copies.mean() < 1.2
    stays = haplotypes._mosaics(rng, np.full(60, 1e-3), founders, 200)
    assert r(stays.T.astype(np.float64))[0, 59] > 0.8


# --- the coalescent


def test_the_coalescent_has_linkage_and_drift_too(drawn: Drawn) -> None:
    pos, copies = drawn
    dosages = [of.T.astype(np.float64) for of in copies]
    found = [linkage(each, pos, (0, 5_000, 50_000, 150_000)) for each in dosages]
    assert all(near > far for each in found for near, far in pairwise(each))
    assert found[0][1] < found[1][1]
    assert all(0.03 < fst(dosages[a], dosages[b]) < 0.3 for a, b in ((0, 1), (0, 2), (1, 2)))
    shares = np.array([each.mean(axis=0) / 2 for each in dosages])
    assert np.minimum(shares, 1 - shares).max(axis=0).min() >= haplotypes.COMMON
    assert START <= pos.min() < pos.max() < START + 500_000
    assert (np.diff(pos) > 0).all()


def test_both_methods_are_alike_in_linkage(drawn: Drawn) -> None:
    """The numbers of the bundled method were chosen for that; a half megabase varies much."""
    pos, few = bundled(np.random.default_rng(8), (150, 150, 150), 3.0, 1200)
    for one, other in zip(drawn[1], few, strict=True):
        real = linkage(one.T.astype(float), drawn[0], (0, 5_000, 50_000))
        made = linkage(other.T.astype(float), pos, (0, 5_000, 50_000))
        assert all(0.5 < a / b < 2 for a, b in zip(made, real, strict=True)), (made, real)


def test_a_cohort_by_the_coalescent_and_its_density() -> None:
    small = Design(people=120, seed=5, hospitals=2, megabases=0.1, method="coalescent", panel=30, gwas=1)
    whole, thinned = cohort(small), cohort(replace(small, density=300))
    assert thinned.typed.sum() == 30
    assert whole.typed.sum() > 100
    assert set(thinned.pos.tolist()) < set(whole.pos.tolist())
    assert whole.dosages.shape == (120, whole.typed.sum())
    assert same(whole, cohort(small))


def test_the_coalescent_names_the_package_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msprime", None)
    with pytest.raises(GenopactError, match=r"MSPRIME_MISSING") as caught:
        cohort(Design(people=60, hospitals=2, megabases=0.1, method="coalescent"))
    assert "pip install msprime" in caught.value.fault.remedy


def test_nothing_else_imports_msprime() -> None:
    code = "import sys, genopact_server.simulate, genopact_server.cli; print('msprime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- liability and disease


@pytest.mark.parametrize(("heritability", "prevalence"), [(0.0, 0.05), (0.3, 0.15), (0.8, 0.4)])
def test_heritability_and_prevalence_are_hit(heritability: float, prevalence: float) -> None:
    made = cohort(Design(2000, 2, 4, 2.0, "bundled", prevalence, heritability, gwas=1))
    assert abs(made.disease.mean() - prevalence) <= 1 / 2000
    assert made.disease[made.liability.argsort()].tolist() == sorted(made.disease.tolist())
    for k in range(3):
        assert abs(made.genetic[made.ancestry == k].var() - heritability) < 1e-9
    assert abs(made.liability.var() - 1) < 0.15


def test_liability_is_what_the_model_adds_up(made: Cohort) -> None:
    """A regression finds the model's numbers again."""
    age, shifts = (made.age - people.AGE) / people.AGE_SD, np.array([site.shift for site in HOSPITALS])
    african, asian = (made.ancestry == k for k in (0, 2))
    design = np.column_stack(
        [np.ones(len(age)), made.genetic, age, 2.0 * made.sex - 1, african, asian, shifts[made.hospital]]
    )
    found, residual, *_ = np.linalg.lstsq(design, made.liability, rcond=None)
    assert np.abs(found - [0, 1, 0.28, 0.14, 0.12, -0.12, 1]).max() < 0.12
    assert abs(residual[0] / len(age) - (1 - 0.5 - 0.1)) < 0.03


def test_the_genetic_share_is_copies_times_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "TYPED", 1.0)
    made = cohort(Design(people=300, seed=6, hospitals=3, megabases=1.0, panel=90, gwas=1))
    for k in range(3):
        mine = np.flatnonzero(made.ancestry == k)
        sums = np.array([sum(made.effects[j, k] * made.dosages[i, j] for j in range(len(made.pos))) for i in mine])
        expected = (sums - sums.mean()) / sums.std() * np.sqrt(0.5)
        assert np.abs(made.genetic[mine] - expected).max() < 1e-9


def test_effects_have_heavy_tails_and_correlate(made: Cohort) -> None:
    rng, n = np.random.default_rng(2), 40_000
    own, of_public = people._effects(rng, np.full((n, 3), 0.5))
    for one, other, expected in (
        (own[:, 0], own[:, 1], 0.9),
        (own[:, 1], own[:, 2], 0.9),
        (of_public[:, 0], of_public[:, 2], 0.9),
        (own.mean(axis=1), of_public.mean(axis=1), 0.9 * 0.9 / (0.9 + 0.1 / 3)),
        (own[:, 1], of_public[:, 1], 0.81),
    ):
        assert abs(correlation(one, other) - expected) < 0.02
    scaled = own[:, 0] / own[:, 0].std()
    assert (scaled**4).mean() > 4, "3 would be normal"
    causal = made.effects.any(axis=1)
    assert causal.sum() == 80
    assert (causal == made.public_effects.any(axis=1)).all()
    assert (made.effects[causal] != 0).all()


def test_rarer_alleles_have_larger_effects() -> None:
    n = 4000
    share = np.repeat([[0.5] * 3, [0.02] * 3], n // 2, axis=0)
    own, _ = people._effects(np.random.default_rng(1), share)
    ratio = own[n // 2 :].std() / own[: n // 2].std()
    assert abs(ratio / (0.5 / (2 * 0.02 * 0.98)) ** 0.25 - 1) < 0.1


# --- hospitals


def test_hospitals_differ_in_size_ancestry_and_prevalence(made: Cohort) -> None:
    sizes = np.bincount(made.hospital)
    assert len(sizes) == len(HOSPITALS) == 8
    assert sizes.sum() == DESIGN.people
    assert sizes.max() > 2.5 * sizes.min()
    each = [made.hospital == at for at in range(8)]
    prevalence = [made.disease[mine].mean() for mine in each]
    assert max(prevalence) > 2 * min(prevalence)
    for mine, site in zip(each, HOSPITALS, strict=True):
        mix = np.bincount(made.ancestry[mine], minlength=3) / mine.sum()
        assert np.abs(mix - site.mix).max() < 1 / mine.sum()
    largest = [int(np.argmax(site.mix)) for site in HOSPITALS]
    assert set(largest) == {0, 1, 2}
    assert {site.name for site in HOSPITALS[:4]} == {"northgate", "eastharbour", "riverside", "hillcrest"}


def test_a_fifth_of_each_hospital_is_held_out(made: Cohort) -> None:
    for at in range(8):
        mine = made.held_out[made.hospital == at]
        assert abs(mine.sum() - len(mine) / 5) < 1
    assert abs(made.disease[made.held_out].mean() - made.disease.mean()) < 0.05


def test_ages_and_sexes(made: Cohort) -> None:
    assert made.age.min() >= 18
    assert made.age.max() <= 100
    assert (made.age == made.age.round(1)).all()
    assert abs(made.sex.mean() - 0.5) < 0.03
    older = made.age[made.hospital == 3].mean() - made.age[made.hospital == 2].mean()
    assert 4 < older < 12


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 1.0), (0.03, 0.94, 0.03), (5.0, 3.4, 3.2)])
@pytest.mark.parametrize("total", [0, 1, 7, 100, 101])
def test_groups_are_dealt_in_order_and_as_often_as_they_weigh(total: int, weights: tuple[float, ...]) -> None:
    groups = people.dealt(total, weights)
    assert len(groups) == total
    assert (np.diff(groups) >= 0).all()
    found = np.bincount(groups, minlength=len(weights))
    assert np.abs(found - total * np.array(weights) / sum(weights)).max() < 1


# --- public statistics


def logistic(dosage: Floats, covariates: Floats, disease: Floats) -> tuple[float, float]:
    """Naive reference: beta and its error by Newton's method."""
    x = np.column_stack([dosage, np.ones(len(dosage)), covariates])
    beta, information = np.zeros(x.shape[1]), np.eye(x.shape[1])
    for _ in range(25):
        risk = 1 / (1 + np.exp(-x @ beta))
        information = (x * (risk * (1 - risk))[:, None]).T @ x
        beta += np.linalg.solve(information, x.T @ (disease - risk))
    return float(beta[0]), float(np.sqrt(np.linalg.inv(information)[0, 0]))


def studied(n: int) -> tuple[Codes, Codes, Floats]:
    """Copies (12, n), of which the first five are risks; disease; covariates (2, n)."""
    rng = np.random.default_rng(12)
    copies = rng.binomial(2, rng.uniform(0.05, 0.6, 12)[:, None], (12, n)).astype(np.int8)
    covariates = rng.standard_normal((2, n))
    log_odds = -1.5 + 0.25 * copies[:5].sum(axis=0) - 0.4 * copies[5] + 0.5 * covariates[0]
    return copies, (rng.random(n) < 1 / (1 + np.exp(-log_odds))).astype(np.int8), covariates


def agrees(tests: Gwas) -> bool:
    copies, disease, covariates = studied(6000)
    for at, dosage in enumerate(copies.astype(np.float64)):
        beta, se = logistic(dosage, covariates.T, disease.astype(np.float64))
        if abs(tests.beta[at] - beta) > 0.25 * se + 0.1 * abs(beta) or abs(tests.se[at] / se - 1) > 0.08:
            return False
        if abs(tests.frequency[at] - dosage.mean() / 2) > 1e-9:
            return False
    return True


def test_score_tests_are_near_a_logistic_regression() -> None:
    tests = people._score_tests(*studied(6000))
    assert agrees(tests)
    assert np.abs(tests.beta[:4] / tests.se[:4]).min() > 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("squares - total**2 / n", "squares"),
        ("spread = max(residual.var(), 1e-6)", "spread = 1.0"),
        ("disease - null @", "0.5 * disease - null @"),
        ("row @ residual, row.sum()", "row[::-1] @ residual, row.sum()"),
        ("total / (2 * n)", "total / n"),
    ],
)
def test_faulty_score_tests_are_seen(old: str, new: str) -> None:
    assert not agrees(faulty(people, old, new)._score_tests(*studied(6000)))


def test_alleles_of_nobody_and_of_all_say_nothing() -> None:
    copies = np.zeros((3, 200), np.int8)
    copies[1] = 2
    copies[2, :4] = 1
    disease = np.random.default_rng(1).integers(0, 2, 200, np.int8)
    tests = people._score_tests(copies, disease, np.zeros((0, 200)))
    assert tests.frequency.tolist() == [0, 1, 0.01]
    assert tests.beta.tolist() == [0, 0, 0]
    assert np.isfinite(tests.se).all()


def test_statistics_of_nobody_who_is_ill_say_nothing() -> None:
    copies, disease, covariates = studied(300)
    tests = people._score_tests(copies, np.zeros_like(disease), covariates)
    assert np.abs(tests.beta).max() < 1e-9
    assert np.isfinite(tests.se).all()


def test_betas_correlate_with_the_truth(made: Cohort) -> None:
    causal = made.effects[made.typed].any(axis=1)
    for k, of in enumerate(made.gwas):
        common = causal & (np.minimum(of.frequency, 1 - of.frequency) > 0.05)
        truth = made.effects[made.typed][:, k]
        assert correlation(of.beta[common], truth[common]) > (0.6 if ANCESTRIES[k] == "eur" else 0.35)
        assert chisq(of)[common].mean() > 2 * np.median(chisq(of))


def test_without_heritability_nothing_is_found() -> None:
    made = cohort(Design(people=600, seed=4, hospitals=4, megabases=4.0, heritability=0.0, density=400))
    for of in made.gwas:
        tested = np.minimum(of.frequency, 1 - of.frequency) > 0.01
        assert 0.7 < chisq(of)[tested].mean() < 1.4
        assert chisq(of).max() < 28


def test_the_studied_are_20_for_one_in_training_and_mostly_european(made: Cohort) -> None:
    n = np.array([of.n for of in made.gwas])
    assert n.sum() == 20 * (~made.held_out).sum()
    assert abs(n[1] / n.sum() - 0.84) < 0.001


# --- the seed and the design


def test_the_same_seed_gives_the_same_cohort() -> None:
    small = Design(people=240, seed=9, hospitals=3, megabases=0.5, panel=60, gwas=2)
    one = cohort(small)
    assert same(one, cohort(small))
    assert not same(one, cohort(replace(small, seed=10)))


def test_progress_is_told_in_six_steps() -> None:
    told = list[int]()
    cohort(Design(people=60, hospitals=2, megabases=0.1, density=300, panel=30, gwas=1), told.append)
    assert sum(told) == 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"hospitals": 1}, {"hospitals": 9}, {"people": 59}, {"megabases": 0.0}, {"megabases": 500.0},
        {"prevalence": 0.0}, {"prevalence": 0.9}, {"heritability": -0.1}, {"heritability": 0.9}, {"density": 1},
        {"panel": 31}, {"panel": 3}, {"gwas": 0.5}, {"seed": -1}, {"prevalence": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_simulated_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Design(**wrong)
