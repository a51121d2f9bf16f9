"""Statistics against naive counts; each fault that is planted raises its flag, and no other."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_ingest import counts
from genopact_ingest.counts import People
from genopact_ingest.hardy_weinberg import exact_p
from genopact_ingest.quality import Quality, QualityThresholds, assess
from genopact_shared.errors import GenopactError
from genopact_shared.manifest import VariantManifest
from genopact_shared.recipes.cohort_summary import SCHEMA
from genopact_shared.recipes.table import Choice
from tests.unit.quality_people import Dosages, chunks, drawn, manifest, packed, people

KINDS = ["autosome"] * 1600 + ["par"] * 30 + ["x"] * 200 + ["y"] * 60 + ["mt"] * 20
N = 300
AUTOSOMES, X, Y = slice(0, 1600), slice(1630, 1830), slice(1830, 1890)


class World:
    """A clean site, to be spoilt by a test."""

    def __init__(self, seed: int = 0, n: int = N) -> None:
        self.rng = np.random.default_rng(seed)
        self.frequency = self.rng.uniform(0.05, 0.95, len(KINDS))
        self.sex = (np.arange(n) % 2).astype(np.int8)
        self.dosages = drawn(n, self.frequency, KINDS, self.sex, self.rng)
        self.dosages[self.rng.random(self.dosages.shape) < 0.002] = -1
        self.extra = {"pc1": self.rng.normal(size=len(KINDS)), "pc2": self.rng.normal(size=len(KINDS))}

    def manifest(self) -> VariantManifest:
        return manifest(self.frequency, KINDS, self.extra)

    def assess(self, who: People | None = None, **policy: float) -> Quality:
        given = who or people(len(self.dosages), self.sex)
        return assess(chunks(self.dosages), self.manifest(), given, QualityThresholds.model_validate(policy))


def raised(result: Quality) -> dict[str, list[int]]:
    """Flags that are not empty; "people" or "variants" before the reason."""
    flags = {f"people {reason}": mask for reason, mask in result.person_flags.items()}
    flags |= {f"variants {reason}": mask for reason, mask in result.variant_flags.items()}
    return {name: np.flatnonzero(mask).tolist() for name, mask in flags.items() if mask.any()}


def test_a_clean_site_has_no_flag() -> None:
    result = World().assess()
    assert raised(result) == {}
    assert result.keep_people.all()
    assert result.keep_variants.all()
    assert result.agreement > 0.99


# --- statistics against naive ones


@pytest.fixture(scope="module")
def doubtful() -> tuple[World, Quality]:
    """Unknown sexes, cases, unknown frequencies, people without a call, a variant without one."""
    world = World(3)
    world.sex[::7] = -1
    world.frequency[[5, 1640]] = np.nan
    world.frequency[[6, 7]] = (0, 1)
    world.dosages[11], world.dosages[:, 12] = -1, -1
    world.dosages[:, 1700:][world.rng.random((N, len(KINDS) - 1700)) < 0.1] = 1  # also where there is one copy
    world.dosages[world.rng.random(world.dosages.shape) < 0.1] = -1
    who = people(
        N, world.sex, controls=np.arange(N) % 3 > 0, ancestry=(np.arange(N) % 3 - 1).astype(np.int8),
        batches={"array": ["ab"[i % 2] for i in range(N)], "plate": [str(i // 50) for i in range(N)]},
    )  # fmt: skip
    return world, world.assess(who)


def test_counts_of_variants(doubtful: tuple[World, Quality]) -> None:
    world, result = doubtful
    kind, male = np.array(KINDS), world.sex == 1
    for v in range(len(KINDS)):
        who = male if kind[v] == "y" else np.ones(N, np.bool_)
        calls = world.dosages[who, v]
        known = calls >= 0
        assert result.called[v] == pytest.approx(known.mean())
        copies = alleles = 0.0
        for dosage, man in zip(calls[known].tolist(), male[who][known].tolist(), strict=True):
            single = kind[v] in ("y", "mt") or (kind[v] == "x" and man)
            if single and dosage == 1:
                continue
            copies, alleles = copies + dosage / (1 + single), alleles + 2 - single
        assert result.frequency[v] == pytest.approx(copies / alleles if alleles else np.nan, nan_ok=True)


def test_rates_of_people(doubtful: tuple[World, Quality]) -> None:
    world, result = doubtful
    kind, f = np.array(KINDS), world.frequency
    usable = (f > 0) & (f < 1)
    had = (world.dosages >= 0).any(axis=0)  # a variant that no file had is nobody's missing call
    for i in range(N):
        calls = world.dosages[i]
        assert result.call_rate[i] == pytest.approx((calls[had & (kind != "y")] >= 0).mean())
        assert result.y_called[i] == pytest.approx((calls[Y] >= 0).mean())
        known = np.isin(kind, ("autosome", "par")) & (calls >= 0)
        if not known.any():
            assert np.isnan([result.f[i], result.heterozygosity[i]]).all()
            continue
        assert result.heterozygosity[i] == pytest.approx((calls[known] == 1).mean())
        known &= usable
        expected = (2 * f[known] * (1 - f[known])).sum()
        assert result.f[i] == pytest.approx(1 - (calls[known] == 1).sum() / expected, abs=1e-6)
        on_x = (kind == "x") & (calls >= 0) & usable
        if world.sex[i] != 1:
            expected = (2 * f[on_x] * (1 - f[on_x])).sum()
            assert result.x_f[i] == pytest.approx(1 - (calls[on_x] == 1).sum() / expected, abs=1e-6)


def test_projections_use_the_manifest_alone(doubtful: tuple[World, Quality]) -> None:
    world, result = doubtful
    f, loadings = world.frequency, np.column_stack(list(world.extra.values()))
    usable = (f > 0) & (f < 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (world.dosages - 2 * f) / np.sqrt(2 * f * (1 - f))
    z = np.where((world.dosages >= 0) & usable, z, 0.0)
    np.testing.assert_allclose(result.pcs, z @ loadings, atol=1e-3)
    alone = assess([packed(world.dosages[:1])], world.manifest(), people(1, world.sex[:1]))
    np.testing.assert_array_equal(alone.pcs[0], result.pcs[0])


def test_hardy_weinberg_is_tested_on_controls_of_one_ancestry(doubtful: tuple[World, Quality]) -> None:
    world, result = doubtful
    kind, number = np.array(KINDS), np.arange(N)
    assert result.hardy_weinberg.shape == (2, len(KINDS))  # group -1 is nobody's
    for group in range(2):
        control = (number % 3 > 0) & (number % 3 - 1 == group)
        for v in range(0, len(KINDS), 13):
            who = control & (world.sex == 0) if kind[v] == "x" else control
            two, one, none = (int((world.dosages[who, v] == copies).sum()) for copies in (2, 1, 0))
            expected = exactly(two, one, none) if kind[v] not in ("y", "mt") else np.nan
            assert result.hardy_weinberg[group, v] == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_batches_against_the_rest(doubtful: tuple[World, Quality]) -> None:
    world, result = doubtful
    assert [(batch.column, batch.level, batch.people) for batch in result.batches] == [
        ("array", "a", 150), ("array", "b", 150), *(("plate", str(i), 50) for i in range(6)),
    ]  # fmt: skip
    from scipy.stats import chi2_contingency

    inside = np.arange(N) // 50 == 4
    squares = []
    for v in range(1600):
        table = np.array([[2 * np.sum(of == 2 - two) + np.sum(of == 1) for two in (0, 2)] for of in (
            world.dosages[inside, v], world.dosages[~inside, v]
        )])  # fmt: skip
        if (table.sum(axis=0) > 0).all():
            found: Any = chi2_contingency(table, correction=False)
            if found.expected_freq.min() >= 5:
                squares.append(found.statistic)
    batch = result.batches[6]
    assert batch.call_rate == pytest.approx(result.call_rate[inside].mean())
    assert batch.inflation * 0.4549 == pytest.approx(np.median(squares), rel=0.05)  # PAR and X come on top


def exactly(two: int, one: int, none: int) -> float:
    """The exact test in fractions, over all counts of heterozygotes."""
    people, rare = two + one + none, 2 * min(two, none) + one
    if people == 0:
        return math.nan
    weights = {
        h: Fraction(
            2**h, math.factorial(h) * math.factorial((rare - h) // 2) * math.factorial(people - (rare + h) // 2)
        )
        for h in range(rare % 2, rare + 1, 2)
    }
    return float(sum(w for w in weights.values() if w <= weights[one]) / sum(weights.values()))


@settings(deadline=None, max_examples=200)
@given(st.tuples(*[st.integers(0, 60)] * 3) | st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 600)))
def test_the_exact_test_is_exact(counts: tuple[int, int, int]) -> None:
    p = np.zeros(1)
    two, one, none = (np.array([count]) for count in counts)
    exact_p(two, one, none, p)
    assert p[0] == pytest.approx(exactly(*counts), rel=1e-10, nan_ok=True)


# --- planted faults


def test_missing_calls() -> None:
    world = World()
    world.dosages[4, world.rng.random(len(KINDS)) < 0.04] = -1
    world.dosages[world.rng.random(N) < 0.12, 9] = -1
    result = world.assess()
    assert raised(result) == {"people call_rate": [4], "variants call_rate": [9]}
    assert np.flatnonzero(~result.keep_people).tolist() == [4]
    assert np.flatnonzero(~result.keep_variants).tolist() == [9]


def test_genotypes_out_of_proportion() -> None:
    world = World()
    world.dosages[:, 20] = np.where(world.dosages[:, 20] == 1, 2 * world.rng.integers(0, 2, N), world.dosages[:, 20])
    world.frequency[20] = np.nan
    assert raised(world.assess()) == {"variants hardy_weinberg": [20]}


def test_a_case_only_distortion_is_no_fault_of_the_array() -> None:
    world = World()
    case = np.arange(N) % 2 == 0
    world.dosages[case, 21], world.frequency[21] = 1, np.nan
    assert "variants hardy_weinberg" in raised(world.assess())
    assert raised(world.assess(people(N, world.sex, controls=~case))) == {}


def test_contamination_and_inbreeding() -> None:
    world = World()
    world.dosages[3, AUTOSOMES] = np.where(world.rng.random(1600) < 0.4, 1, world.dosages[3, AUTOSOMES])
    single = world.dosages[8, AUTOSOMES] == 1
    world.dosages[8, AUTOSOMES][single & (world.rng.random(1600) < 0.5)] = 2
    result = world.assess()
    assert raised(result)["people heterozygosity"] == [3, 8]
    assert result.f[3] < -0.2 < 0.3 < result.f[8]


def test_heterozygosity_is_judged_within_an_ancestry() -> None:
    """People of another ancestry are less heterozygous at these variants: no fault, unless one of them is."""
    world, other = World(), np.arange(N) < 60
    theirs = np.clip(world.frequency + world.rng.choice([-0.3, 0.3], len(KINDS)), 0.02, 0.98)
    world.dosages[other] = drawn(60, theirs, KINDS, world.sex[other], world.rng)
    world.extra = {"pc1": theirs - world.frequency}
    assert "people heterozygosity" not in raised(world.assess())
    world.dosages[30, AUTOSOMES] = np.where(world.rng.random(1600) < 0.4, 1, world.dosages[30, AUTOSOMES])
    assert raised(world.assess())["people heterozygosity"] == [30]
    world.extra = {}
    assert len(raised(world.assess()).get("people heterozygosity", [])) != 1


def test_wrong_and_unclear_sex() -> None:
    world = World()
    recorded = world.sex.copy()
    recorded[[2, 5]] = 1 - recorded[[2, 5]]  # 2 is a woman, 5 a man
    recorded[7] = -1
    world.dosages[10, Y] = world.dosages[11, Y]  # two X and a Y
    world.dosages[13, Y] = -1  # one X and no Y
    result = world.assess(people(N, recorded))
    assert raised(result) == {"people sex_mismatch": [2, 5], "people sex_unclear": [10, 13]}
    assert (result.genetic_sex[[2, 5, 7, 10, 13]]).tolist() == [0, 1, 1, -1, -1]


def test_a_woman_recorded_as_a_man_is_found_after_import_cleared_her_heterozygous_calls() -> None:
    world = World()
    recorded = world.sex.copy()
    recorded[2] = 1
    before = world.assess().x_f[2]
    world.dosages[2, X][world.dosages[2, X] == 1] = -1
    world.dosages[2, Y] = -1
    result = world.assess(people(N, recorded))
    assert raised(result)["people sex_mismatch"] == [2]
    assert result.x_f[2] == pytest.approx(before, abs=0.02)


def test_where_most_of_x_is_missing_nothing_is_concluded() -> None:
    world = World()
    world.dosages[[2, 3], 1640:1800] = -1
    result = world.assess()
    assert np.isnan(result.x_f[[2, 3]]).all()
    assert not (result.person_flags["sex_mismatch"] | result.person_flags["sex_unclear"]).any()


def test_without_y_variants_x_decides() -> None:
    world = World()
    kinds = [kind if kind != "y" else "mt" for kind in KINDS]
    world.dosages[:, Y] = 0
    result = assess(chunks(world.dosages), manifest(world.frequency, kinds), people(N, world.sex))
    assert (result.genetic_sex == world.sex).all()
    assert np.isnan(result.y_called).all()


def test_without_x_nothing_is_said_of_sex() -> None:
    world = World()
    kinds = ["autosome"] * len(KINDS)
    result = assess(chunks(world.dosages), manifest(world.frequency, kinds), people(N, world.sex))
    assert not result.person_flags["sex_mismatch"].any()
    assert not result.person_flags["sex_unclear"].any()


def test_flipped_and_foreign_frequencies() -> None:
    world = World()
    world.frequency[[30, 31]] = (0.1, 0.3)
    world.dosages[:, [30, 31]] = 2 - drawn(N, np.array([0.1, 0.55]), ["autosome"] * 2, world.sex, world.rng)
    result = world.assess()
    assert raised(result) == {"variants frequency": [30], "variants flipped": [30]}
    strict = raised(world.assess(frequency_difference=0.1))
    assert (strict["variants frequency"], strict["variants flipped"]) == ([30, 31], [30])


def test_a_small_site_is_not_blamed_for_chance() -> None:
    world = World(n=12)
    assert not world.assess().variant_flags["frequency"].any()


def test_the_frequencies_of_the_nearest_ancestry_are_compared() -> None:
    world = World()
    world.extra = {"af_here": world.frequency.copy(), "af_nowhere": np.full(len(KINDS), np.nan)}
    world.frequency = np.clip(world.frequency + world.rng.normal(0, 0.3, len(KINDS)), 0.01, 0.99)
    result = world.assess()
    assert result.reference == "af_here"
    assert not result.variant_flags["frequency"].any()


def test_a_bad_batch() -> None:
    world = World()
    late = np.arange(N) % 5 == 0
    shifted = world.rng.permutation(1600)[:60]
    changed = drawn(int(late.sum()), np.where(world.frequency < 0.5, 0.9, 0.1), KINDS, world.sex[late], world.rng)
    world.dosages[np.ix_(late, shifted)] = changed[:, shifted]
    who = people(N, world.sex, batches={"array": ["late" if each else "early" for each in late]})
    result = world.assess(who)
    assert np.flatnonzero(result.person_flags["batch"]).tolist() == list(
        range(N)
    )  # two levels: each is the other's rest
    assert set(np.flatnonzero(result.variant_flags["batch"])) <= set(shifted.tolist())
    assert result.variant_flags["batch"].sum() > 50
    assert all(batch.outlier and batch.deviating > 0.02 for batch in result.batches)


def test_rare_alleles_do_not_judge_a_batch() -> None:
    world = World()
    world.dosages[:] = 0
    world.dosages[0] = 2
    result = world.assess(people(N, batches={"array": ["a"] * 3 + ["b"] * (N - 3)}))
    assert all(np.isnan(batch.inflation) and not batch.outlier for batch in result.batches)


def test_a_batch_with_missing_calls() -> None:
    world = World()
    plate = np.arange(N) // 30
    world.dosages[(plate == 3)[:, None] & (world.rng.random(world.dosages.shape) < 0.03)] = -1
    result = world.assess(people(N, world.sex, batches={"plate": [f"p{each}" for each in plate]}))
    assert [batch.level for batch in result.batches if batch.outlier] == ["p3"]
    assert (result.person_flags["batch"] == (plate == 3)).all()


def test_of_duplicates_the_poorer_goes_and_relatives_stay() -> None:
    world = World()
    world.dosages[[101, 201], AUTOSOMES] = world.dosages[1, AUTOSOMES]
    world.dosages[1, :25], world.dosages[201, :20] = -1, -1
    mother, father = world.dosages[50, AUTOSOMES], world.dosages[51, AUTOSOMES]
    pick = world.rng.random((2, 1600))
    child = (pick[0] < np.maximum(mother, 0) / 2).astype(np.int8) + (pick[1] < np.maximum(father, 0) / 2)
    world.dosages[52, AUTOSOMES] = child
    result = world.assess()
    assert raised(result) == {"people duplicate": [1, 201], "people relative": [50, 51, 52]}
    assert result.keep_people[[50, 51, 52, 101]].all()
    assert not result.keep_people[[1, 201]].any()


def test_policy_decides_what_excludes() -> None:
    world = World()
    world.dosages[4, world.rng.random(len(KINDS)) < 0.04] = -1
    policy = QualityThresholds(people_out=(), variants_out=())
    result = assess(chunks(world.dosages), world.manifest(), people(N, world.sex), policy)
    assert result.person_flags["call_rate"].sum() == 1
    assert result.keep_people.all()
    assert result.keep_variants.all()


def test_too_few_variants_for_kinship() -> None:
    world = World()
    few = manifest(world.frequency[:900], KINDS[:900])
    assert assess(chunks(world.dosages[:, :900]), few, people(N)).kinship is None


def test_nothing_is_known() -> None:
    """One person without a call and a manifest without frequencies: flags, no crash."""
    kinds = ["autosome"] * 5
    dosages: Dosages = np.full((1, 5), -1, np.int8)
    result = assess([packed(dosages)], manifest(np.full(5, np.nan), kinds), people(1, batches={"array": ["a"]}))
    assert raised(result) == {
        "people call_rate": [0], "people batch": [0], "variants call_rate": [0, 1, 2, 3, 4],
    }  # fmt: skip
    assert np.isnan([result.f[0], result.agreement, result.batches[0].inflation]).all()


def test_what_does_not_fit_together_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(n=20)
    rows, variants, who = packed(world.dosages), world.manifest(), people(20)
    wrong: list[tuple[Any, People]] = [
        ([rows[:19]], who), ([rows, rows], who), ([rows[:, 1:]], who), ([rows.astype(np.int16)], who), ([], people(0)),
        ([rows], people(20, np.full(20, 2, np.int8))), ([rows], people(20, batches={"array": ["a"] * 19})),
    ]  # fmt: skip
    for given_rows, given_people in wrong:
        with pytest.raises(GenopactError, match="QUALITY_INPUT"):
            assess(given_rows, variants, given_people)
    monkeypatch.setattr(counts, "MAX_COUNTS", 15 * len(KINDS))
    with pytest.raises(GenopactError, match="20 combinations"):
        assess([rows], variants, people(20, batches={"plate": list(map(str, range(20)))}))


def test_covariates_fit_the_summary_recipe() -> None:
    world = World()
    world.dosages[3, AUTOSOMES] = 1
    recorded = world.sex.copy()
    recorded[[2, 7]] = (1 - recorded[2], -1)
    world.dosages[13, Y] = -1
    table = world.assess(people(N, recorded)).covariates()
    assert list(table.columns) == [column.name for column in SCHEMA]
    (check,) = (column for column in SCHEMA if isinstance(column, Choice))
    codes = table.codes("sex_check")
    assert [check.levels[code] if code >= 0 else "" for code in codes[[1, 2, 7, 13]]] == [
        "agrees",
        "differs",
        "",
        "unclear",
    ]
    assert table.number("heterozygosity_f")[3] == -1
