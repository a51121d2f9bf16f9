"""The table of an association study byte by byte, chances against high precision, what is not shown, and the plots."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from genopact_server.association import HEADER, lines, log10p, read
from genopact_server.cli import app
from genopact_server.folder import Folder
from genopact_server.report.facts import RunFacts
from genopact_server.report.plots import PIXELS, VARIABLES, standalone
from genopact_server.rounds import RunState
from genopact_shared.errors import GenopactError
from genopact_shared.manifest import VariantManifest
from genopact_shared.plan import plan_of
from genopact_shared.recipes.gwas import MOST
from genopact_shared.recipes.protocol import Model
from genopact_shared.study import parse_study, read_yaml
from tests.unit.association import gwas_study
from tests.unit.genotype_rows import variants
from tests.unit.test_plan import PLANNED, study

GOLDEN = Path(__file__).parents[1] / "golden" / "association.regenie"
EXAMPLE = Path(__file__).parents[2] / "policies" / "studies" / "association.yaml"
runner = CliRunner()


def manifest() -> VariantManifest:
    """Five variants on four chromosomes, two with names; the effect allele is now ALT, now REF."""
    small = variants(5)
    facts = {field: getattr(small, field) for field in VariantManifest.__dataclass_fields__}
    chrom, kind = ("1", "1", "22", "X", "MT"), ("autosome",) * 3 + ("x", "mt")
    return VariantManifest(**facts | {"chrom": chrom, "kind": kind, "id": ("rs1", ".", ".", "rs9", ".")})


def facts(mode: str = "none", stage: str = "done", **changes: Any) -> RunFacts:
    given: dict[str, Any] = {"variants": manifest().digest, "design": "0" * 64}
    of = gwas_study(5, mode, epsilon_milli=None if mode == "none" else 4000, **given)
    model: Model = {
        "null": np.zeros(3),
        "people": np.array([1000.0, 998.0, 1000.0, 49.0, 1000.0]),
        "copies": np.array([700.0, 1950.0, 2000.0, 40.0, 1000.0]),
        "effect": np.array([0.25, -1 / 3, np.nan, 0.1, 2e-7]),
        "error": np.array([0.05, 1 / 700, np.nan, 0.1, 0.1]),
    } | changes
    approvals = {"state": "x"}
    state = RunState(study=of.hash, run="1" * 32, approvals=approvals, model="0" * 64, stage=stage)  # type: ignore[arg-type]
    return RunFacts(of, state, (), (), plan_of(of, PLANNED), (model,), {}, "", None, {}, {})


def test_the_table_is_frozen() -> None:
    """regenie's columns in their order; NA of what does not vary and of fewer than the study's minimum of 50."""
    text = "\n".join([*lines(facts(), manifest()), ""])
    assert text == GOLDEN.read_text("utf-8")
    rows = [line.split(" ") for line in text.splitlines()]
    assert rows[0] == HEADER.split(" ")
    assert [row[0] for row in rows[1:]] == ["1", "1", "22", "23", "26"]
    assert [row[5:7] for row in rows[1:]] == [["0.35", "1000"], *[["NA", "NA"]] * 3, ["0.5", "1000"]]


def test_the_effect_allele_is_the_manifest_s() -> None:
    known = manifest()
    for row, line in enumerate(list(lines(facts(), known))[1:]):
        other, own = line.split(" ")[3:5]
        assert own == (known.alt[row] if known.effect[row] == "alt" else known.ref[row])
        assert {other, own} == {known.alt[row], known.ref[row]}


@pytest.mark.parametrize(
    ("people", "copies", "shown"),
    [(1000, 50, True), (1000, 49, False), (1000, 1950, True), (1000, 1951, False), (49, 49, False), (50, 50, True)],
)
def test_small_counts_are_not_shown(people: int, copies: int, shown: bool) -> None:
    some = facts(
        people=np.full(5, float(people)), copies=np.full(5, float(copies)), effect=np.ones(5), error=np.ones(5)
    )
    assert ["NA NA" not in line for line in list(lines(some, manifest()))[1:]] == [shown] * 5


def test_errors_of_a_study_with_a_budget_hold_the_noise() -> None:
    plain, noised = facts(), facts("distributed")
    se = [float(list(lines(each, manifest()))[1].split(" ")[9]) for each in (plain, noised)]
    step = next(step for step in noised.plan.steps if step.name == "scores")
    assert noised.plan.course.information == sum(PLANNED.values())  # type: ignore[union-attr]
    noise = noised.noise(step)
    assert noise is not None
    assert se[1] / se[0] == pytest.approx(math.sqrt(1 + noise**2 / 450), rel=1e-6)


def test_other_runs_and_manifests_are_refused() -> None:
    for wrong in (facts(stage="training"), facts(people=np.ones(4))):
        with pytest.raises(GenopactError, match="GWAS_RUN"):
            list(lines(wrong, manifest()))
    with pytest.raises(GenopactError, match="another manifest"):
        list(lines(facts(), variants(5)))


def test_chances_are_right_where_doubles_end() -> None:
    z = np.array([0.0, 0.5, 1.959963984540054, 5.0, 20.0, 36.0, 38.5, 100.0])
    found = log10p(z**2)
    assert found[0] == 0
    assert found[2] == pytest.approx(-math.log10(0.05), rel=1e-12)
    for at in (1, 3, 4, 5):
        assert found[at] == pytest.approx(-math.log10(math.erfc(z[at] / math.sqrt(2))), rel=1e-10)
    # Mills' ratio, four terms.
    for at in (6, 7):
        series = 1 - z[at] ** -2 + 3 * z[at] ** -4 - 15 * z[at] ** -6
        expected = (z[at] ** 2 / 2 + math.log(z[at] * math.sqrt(math.pi / 2)) - math.log(series)) / math.log(10)
        assert found[at] == pytest.approx(expected, rel=1e-9)


def test_any_such_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "other.tsv"
    path.write_text("ID\tLOG10P\tCHISQ\tGENPOS\tCHROM\na\t1.5\t4\t10\t1\nb\tNA\tNA\t11\t1\nc\t0.1\t0.2\t7\tX\n\n")
    points = read(path)
    assert points.chrom.tolist() == ["1", "X"]
    assert points.position.tolist() == [10, 7]
    assert points.lambda_gc == pytest.approx(2.1 / 0.45493642311957283)
    for text in ("", "CHROM GENPOS\n1 2\n", "CHROM GENPOS LOG10P CHISQ\n1 x 1 1\n", "CHROM GENPOS LOG10P CHISQ\n1 2\n"):
        path.write_text(text)
        with pytest.raises(GenopactError, match="GWAS_TABLE"):
            read(path)


def picture(n: int, tmp_path: Path) -> Path:
    rng, path = np.random.default_rng(0), tmp_path / "many.tsv"
    chisq = rng.chisquare(1, n)
    chances = log10p(chisq)
    rows = [
        f"{1 + at * 23 // n} {1 + at * 1000} v{at} A C 0.5 100 ADD 0 1 {chisq[at]:.6g} {chances[at]:.6g} NA"
        for at in range(n)
    ]
    path.write_text("\n".join([HEADER, *rows, ""]))
    return path


def test_plots_stay_small_and_load_nothing(tmp_path: Path) -> None:
    """A point for a cell of the picture, however many variants; colours of their own in light and dark."""
    path = picture(60_000, tmp_path)
    done = runner.invoke(app, ["gwas", "plot", str(path)])
    assert done.exit_code == 0, done.output
    found = re.search(r"lambda_GC ([0-9.]+)", done.output)
    assert found
    assert float(found[1]) == pytest.approx(1, abs=0.05)
    for name in ("manhattan", "qq"):
        text = path.with_suffix(f".{name}.svg").read_text("utf-8")
        assert text.startswith("<svg ")
        assert text.count("<use ") < 40_000
        assert not re.search(r'(href|src)="(?!#)|url\((?!#)|<script', text)
        assert all(f"{variable}:#" in text for variable in VARIABLES.values())
    points = read(path)
    drawn = standalone("qq", "x", (4, 4), log10p=points.log10p)
    assert drawn.count("<use ") < 4 * PIXELS


def test_one_variant_can_be_drawn_and_none_cannot(tmp_path: Path) -> None:
    path = tmp_path / "one.tsv"
    path.write_text("CHROM GENPOS LOG10P CHISQ\n1 5 0 0\n")
    assert runner.invoke(app, ["gwas", "plot", str(path)]).exit_code == 0
    path.write_text("CHROM GENPOS LOG10P CHISQ\n1 5 NA NA\n")
    failed = runner.invoke(app, ["gwas", "plot", str(path)])
    assert failed.exit_code == 2
    assert "GWAS_TABLE" in failed.output
    assert "Remedy" in failed.output


def test_the_frequencies_of_a_manifest_are_published(tmp_path: Path) -> None:
    home, out = tmp_path / "coordinator", tmp_path / "small.design"
    Folder.create(home, "coordinator", "127.0.0.1:8000")
    (tmp_path / "small.variants").write_bytes(manifest().encode())
    words = ["gwas", "design", str(tmp_path / "small.variants"), str(out), "--home", str(home)]
    done = runner.invoke(app, words)
    assert done.exit_code == 0, done.output
    (digest,) = re.findall(r"design ([0-9a-f]{64})", done.output)
    np.testing.assert_array_equal(Folder(home).published.read(digest)["frequency"], manifest().frequency)
    assert out.read_bytes() == (home / "published" / digest).read_bytes()


def test_the_example_of_a_study_is_one_once_its_parties_are_named() -> None:
    told = read_yaml(EXAMPLE, "STUDY_UNREADABLE")
    known = study()
    parties = [party.model_dump() for party in known.parties]
    found = parse_study(json.dumps(told | {"coordinator": known.coordinator.model_dump(), "parties": parties}).encode())
    plan = plan_of(found, PLANNED)
    assert (found.privacy.mode, plan.steps[0].masked) == ("exact", True)
    assert max(step.dims for step in plan.course.steps) <= MOST  # type: ignore[union-attr]
    assert sum(block.stop - block.start for block in plan.course.blocks) == 500_000  # type: ignore[union-attr]
