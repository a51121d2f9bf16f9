"""Every mutant is killed by the tests that it names; the tests pass without it; and the driver can tell."""

from collections.abc import Callable

import pytest

from tests.mutations.checks import CHECKS
from tests.mutations.driver import ROOT, outcomes, table
from tests.mutations.mutants import DECOYS, MUTANTS


@pytest.mark.timeout(900)
def test_every_mutant_is_killed_by_its_tests() -> None:
    found = outcomes()
    for each in found:
        if each["verdict"] not in ("killed", "clean"):
            print(each["verdict"], each["name"], each["detail"])
    verdicts = {each["name"]: each["verdict"] for each in found}
    expected = {each.name: each.verdict for each in (*MUTANTS, *DECOYS)}
    clean = {name for name in verdicts if name.startswith("no mutant")}
    assert verdicts == expected | dict.fromkeys(clean, "clean")
    assert len(clean) == 2


def test_names_are_different_and_files_are_the_product_s() -> None:
    assert len({each.name for each in (*MUTANTS, *DECOYS)}) == len(MUTANTS) + len(DECOYS)
    assert {each.file.split("/")[0] for each in MUTANTS} == {"client", "server", "shared"}
    assert all(each.killers for each in MUTANTS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_small_sample_of_draws_gives_no_false_alarm(check: Callable[[], None]) -> None:
    """A thousand: tests.benchmarks.mutations."""
    for _ in range(20):
        check()


def test_the_table_is_that_of_the_mutants() -> None:
    assert (ROOT / "docs" / "mutations.md").read_text("utf-8") == table()
