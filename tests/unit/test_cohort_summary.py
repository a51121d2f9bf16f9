"""The federated summary: one bin of each column a patient, a norm that clipping never meets, histograms that add up."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.plan import plan_of
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.recipes import RECIPES, chosen
from genopact_shared.recipes.cohort_summary import BINS, CLIP, COHORT_SUMMARY, DIMS, EDGES, SCHEMA, SummaryParameters
from genopact_shared.recipes.dose import DoseParameters
from genopact_shared.recipes.table import Number, Table
from genopact_shared.study import RecipeChoice
from tests.unit.test_plan import PLANNED, study

PLAN = COHORT_SUMMARY.plan(SummaryParameters(), 100, 1000)
SUMMARY = {"name": "cohort-summary", "version": 1}
share = st.floats(0, 1)
people = st.lists(
    st.tuples(share | st.just(np.nan), st.floats(-1, 1) | st.just(np.nan), *[st.integers(-1, 1)] * 3), min_size=1
)


def table(rows: list[tuple[float, ...]]) -> Table:
    columns = zip(SCHEMA, np.array(rows, np.float64).reshape(-1, 5).T, strict=True)
    found: dict[str, Any] = {
        c.name: values.astype(np.float64 if isinstance(c, Number) else np.int8) for c, values in columns
    }
    return Table(found, len(rows))


@settings(deadline=None)
@given(people)
def test_each_patient_is_in_one_bin_of_each_column(rows: list[tuple[float, ...]]) -> None:
    given_table = table(rows)
    values = PLAN.contribution(0, PLAN.initial(), given_table)
    known = np.isfinite(given_table.number("call_rate"))
    assert values.shape == (len(rows), DIMS)
    ends = np.cumsum([0, *map(len, BINS.values())])
    for first, last in pairwise(ends):
        np.testing.assert_array_equal(values[:, first:last].sum(axis=1), known)
    norms = np.linalg.norm(values, axis=1)
    np.testing.assert_allclose(norms, np.sqrt(5) * known)
    assert (norms <= CLIP).all()
    np.testing.assert_array_equal(
        values[-1:], PLAN.contribution(0, PLAN.initial(), given_table.take(np.arange(len(rows))[-1:]))
    )


def test_histograms_equal_a_naive_count() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (r, f, *codes)
        for r, f, codes in zip(
            rng.uniform(0.9, 1, 500), rng.normal(0, 0.1, 500), rng.integers(-1, 2, (500, 3)), strict=True
        )
    ]
    rows += [(1.0, 1.0, 2, 1, 1), (0.0, -1.0, 0, 0, 0), (0.98, np.nan, -1, -1, -1)]
    total = PLAN.contribution(0, PLAN.initial(), table(rows)).sum(axis=0)
    found = {name: row["patients"] for name, row in PLAN.metrics(PLAN.advance(0, PLAN.initial(), total)).items()}
    for place, column in enumerate(SCHEMA):
        if isinstance(column, Number):
            values = np.array([row[place] for row in rows])
            counts, _ = np.histogram(values[np.isfinite(values)], EDGES[column.name])
            assert [found[f"{column.name} {each}"] for each in BINS[column.name][:-1]] == counts.tolist()
    assert found["heterozygosity_f unknown"] == 1
    assert found["sex_check unclear"] == 1
    assert found["related unknown"] == sum(row[3] == -1 for row in rows)


def test_absent_columns_are_unknown() -> None:
    alone = Table({"call_rate": np.array([0.999, np.nan])}, 2)
    model = PLAN.advance(0, PLAN.initial(), PLAN.contribution(0, PLAN.initial(), alone).sum(axis=0))
    found = {name for name, row in PLAN.metrics(model).items() if row["patients"]}
    unknown = {f"{name} unknown" for name in BINS if name != "call_rate"}
    assert found == {"call_rate 0.995 to 1"} | unknown


def test_the_plan_is_one_noised_sum_of_the_whole_budget() -> None:
    plan = plan_of(study(recipe=SUMMARY, outcome="call_rate", metrics=["patients"]), PLANNED)
    (step,) = plan.steps
    assert isinstance(step.fact, NoisedSum)
    assert (step.fact.dims, step.fact.clip, step.name) == (DIMS, str(CLIP), "metrics")
    assert 0.98 < plan.epsilon <= 1
    exact = plan_of(study(recipe=SUMMARY, outcome="call_rate", metrics=["patients"], privacy={"mode": "none"}), PLANNED)
    assert exact.epsilon == float("inf")


def test_predicts_the_released_call_rates() -> None:
    model = {"histograms": np.zeros(DIMS)}
    model["histograms"][[5, 6]] = (50, 50)
    model["histograms"][0] = -3.0  # noise
    result = COHORT_SUMMARY.predict(model, COHORT_SUMMARY.fit_personal(model, Table({}, 2)), Table({}, 2))
    assert result.value.tolist() == pytest.approx([0.995] * 2)
    assert result.low[0] == pytest.approx(0.991, abs=1e-6)
    assert result.high[0] == pytest.approx(0.999, abs=1e-6)
    unknown = COHORT_SUMMARY.predict(PLAN.initial(), None, Table({}, 1))
    assert 0 <= unknown.low[0] < unknown.value[0] < unknown.high[0] <= 1


def test_it_is_installed_and_has_no_parameters() -> None:
    assert RECIPES["cohort-summary"] is COHORT_SUMMARY
    assert wire.unpack(wire.pack(COHORT_SUMMARY.fit_personal(PLAN.initial(), Table({}, 0))), np.float64) == {}
    with pytest.raises(GenopactError, match="STUDY_INVALID"):
        chosen(RecipeChoice.model_validate_json(json.dumps(SUMMARY | {"parameters": {"bins": 9}})))
    with pytest.raises(ValueError, match="at least 1"):
        COHORT_SUMMARY.plan(SummaryParameters(), 0, 1000)
    with pytest.raises(ValueError, match="SummaryParameters"):
        COHORT_SUMMARY.plan(DoseParameters(), 10, 1000)
