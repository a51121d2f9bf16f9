"""Predictions of finished runs at the command line: those of the same data in memory, and what is refused."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genopact_client import kek
from genopact_ingest.commands.predict import NOTICE, UNITS
from genopact_server.demo.cohort import generate, write_table, write_vcf
from genopact_server.rounds import Run
from genopact_shared import canonical, wire
from genopact_shared.recipes import EXACT, NETWORKS, RECIPES
from genopact_shared.recipes.dose_features import OUTCOME, SCHEMA, abstains
from genopact_shared.recipes.protocol import Prediction
from genopact_shared.recipes.table import Choice, Codes, Copies, Dosage, Table
from genopact_shared.recipes.variants import CONTIG_LENGTHS, VARIANTS
from tests.integration import hospital, risk_hospital
from tests.integration.front_desk import Desk, Done
from tests.integration.hospital import MIXES, PASSPHRASE, Consortium
from tests.integration.test_matrices import sealed
from tests.integration.test_matrices import study as of_matrices
from tests.unit.risk_panel import patients

CALLS = {-1: "./.", 0: "0/0", 1: "0/1", 2: "1/1"}
N, GIVEN = 12, 0
"""People; one of them who gets advice."""
PEOPLE = [f"NEW-{at}" for at in range(N)]


@dataclass(frozen=True)
class Finished(Desk):
    """The desk of the first site of a consortium after a run."""

    one: Consortium
    run: Run

    @property
    def home(self) -> Path:
        return next(iter(self.one.hospitals.values())).site.home

    @property
    def id(self) -> str:
        return self.run.state.run

    def predict(self, *words: str | Path) -> Done:
        """With nothing of the site changed."""
        before = {path: path.read_bytes() for path in self.home.rglob("*") if path.is_file()}
        done = self("predict", *words)
        assert {path: path.read_bytes() for path in self.home.rglob("*") if path.is_file()} == before
        return done

    def expected(self, table: Table) -> Prediction:
        """By the model that the coordinator has and the term that the site keeps."""
        personal = (self.home / "runs" / self.id / "personal.safetensors").read_bytes()
        return self.run.plan.recipe.predict(self.run.model(), wire.unpack(personal, np.float64), table)


def finished(one: Consortium, folder: Path) -> Finished:
    run = Run.start(one.folder, one.study, one.courier, one.events.append)
    run.go()
    (folder / "passphrase").write_bytes(PASSPHRASE)
    (folder / "passphrase").chmod(0o600)
    return Finished(folder, one, run)


@pytest.fixture(scope="module", autouse=True)
def cheap_passphrases() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kek, "_MEMORY_KIB", 64)
        yield


@pytest.fixture(scope="module")
def dosed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """A run of `dose`; the agents still hold their stores."""
    folder = tmp_path_factory.mktemp("dosed")
    one = hospital.consortium(folder / "parties", privacy={"mode": "none", "honest_minimum": 1})
    yield finished(one, folder)
    one.close()


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """A run of `risk`."""
    folder = tmp_path_factory.mktemp("scored")
    one = risk_hospital.consortium(folder / "parties", (60, 80, 60), privacy=risk_hospital.NONE)
    yield finished(one, folder)
    one.close()


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """A run of `cell-response`, on matrices."""
    folder = tmp_path_factory.mktemp("answered")
    one = hospital.consortium(folder / "parties", **of_matrices({"mode": "none", "honest_minimum": 1}))
    for seed, each in enumerate(one.hospitals.values()):
        sealed(each, seed)
    yield finished(one, folder)
    one.close()


def table(path: Path, columns: Mapping[str, Any], people: list[str] = PEOPLE, schema: Any = SCHEMA) -> Path:
    """A CSV of these columns."""
    texts = []
    for each in schema:
        if each.name in columns:
            values = columns[each.name].tolist()
            levels = each.levels if isinstance(each, Choice) else ()
            texts.append([(each.name, *("" if v != v or v < 0 else levels[v] if levels else repr(v) for v in values))])
    cells = [("person", *people), *(column[0] for column in texts)]
    write_table(path, zip(*cells, strict=True))
    return path


def calls(alternate: NDArray[np.int64]) -> list[str]:
    return [CALLS[each] for each in alternate.tolist()]


def dose_vcf(path: Path, columns: Mapping[str, Any], people: list[str] = PEOPLE) -> Path:
    """The dosages of `dose`'s variants, with a stranger at the end."""
    lines = []
    for each in SCHEMA:
        if isinstance(each, Dosage):
            site = VARIANTS[each.rsid]
            copies = columns[each.name].astype(np.int64)
            alternate = np.where(copies < 0, -1, 2 - copies if each.effect == site.ref else copies)
            fixed = f"chr{site.chrom}\t{site.positions['GRCh38']}\t{site.rsid}\t{site.ref}\t{site.alt}\t.\tPASS\t.\tGT"
            lines.append((site.chrom, site.positions["GRCh38"], "\t".join([fixed, *calls(alternate), "0/0"])))
    rows = (line for _, _, line in sorted(lines, key=lambda each: (int(each[0]), each[1])))
    write_vcf(path, [*people, "stranger"], rows, CONTIG_LENGTHS["GRCh38"])
    return path


def risk_vcf(path: Path, copies: Codes, people: list[str] = PEOPLE) -> Path:
    """(people, V) copies of the effect alleles of the small manifest; people in the reverse order."""
    of, lines = risk_hospital.VARIANT_MANIFEST, []
    for at in range(len(of)):
        own = copies[::-1, at].astype(np.int64)
        alternate = np.where(own < 0, -1, 2 - own if of.effect[at] == "ref" else own)
        lines.append(
            "\t".join([f"chr1\t{of.pos[at]}\t.\t{of.ref[at]}\t{of.alt[at]}\t.\tPASS\t.\tGT", *calls(alternate)])
        )
    write_vcf(path, people[::-1], lines, {"1": 248_956_422})
    return path


def numbers(done: Done, name: str) -> NDArray[np.float64]:
    """(n, ...), NaN for whoever gets no advice."""
    return np.array([each.get(name, np.nan) for each in done.data["people"]])


def newcomers() -> Table:
    """Of these 2 lacks VKORC1, 5 weighs more than was studied, 7 has only the neighbour that always stands in."""
    truth = generate(N, 77, MIXES[2])
    columns = {name: values.copy() for name, values in truth.columns.items()}
    for each in SCHEMA:
        if isinstance(each, Dosage) and each.gene == "VKORC1":
            columns[each.name][2] = -1
            columns[each.name][7] = 1 if each.name == "vkorc1_1173" else -1
    columns["weight_kg"][:] = np.minimum(columns["weight_kg"], 130)
    columns["weight_kg"][5], columns["height_cm"][1] = 300.0, np.nan
    return Table({name: values for name, values in columns.items() if name != OUTCOME}, N)


# --- the same as in memory


def test_doses_are_those_of_the_data_in_memory_with_interval_and_rule(dosed: Finished) -> None:
    people = newcomers()
    covariates = {each.name: people.columns[each.name] for each in SCHEMA[:-1] if not isinstance(each, Dosage)}
    words: list[str | Path] = [dosed.id, "--table", table(dosed.folder / "new.csv", covariates)]
    words += ["--genotypes", dose_vcf(dosed.folder / "new.vcf.gz", people.columns)]
    done, expected = dosed.predict(*words), dosed.expected(people)
    assert done.exit == 0, done.printed
    silent = abstains(people, expected.low, expected.high)
    assert silent[[2, 5]].all()
    assert not silent[[GIVEN, 7]].any()
    for name in ("value", "low", "high"):
        np.testing.assert_array_equal(numbers(done, name), np.where(silent, np.nan, getattr(expected, name)))
    assert [each["person"] for each in done.data["people"]] == PEOPLE
    assert [each["reason"] for each in done.data["people"]][2] == "VKORC1 is unknown"
    assert [each["reason"] for each in done.data["people"]][5] == "beyond what was studied"
    assert [bool(each["reason"]) for each in done.data["people"]] == silent.tolist()
    assert (done.data["unit"], done.data["own_term"], done.data["notice"]) == ("mg/week", True, NOTICE)
    assert done.printed.count(NOTICE) == 2, "once for people, once in the envelope"
    assert "NEW-2: no advice: VKORC1 is unknown" in done.printed
    assert (
        f"NEW-0: {expected.value[0]:.3g} mg/week, 80 % interval {expected.low[0]:.3g} to {expected.high[0]:.3g}"
        in done.printed
    )
    assert "stranger" not in done.printed


def test_one_person_and_an_outcome_that_is_known_changes_nothing(dosed: Finished) -> None:
    people = newcomers()
    whole = {name: values[[GIVEN]] for name, values in people.columns.items()}
    words: list[str | Path] = [dosed.id, "--table"]
    first = dosed.predict(*words, table(dosed.folder / "one.csv", whole, PEOPLE[:1]))
    known = dosed.predict(*words, table(dosed.folder / "known.csv", whole | {OUTCOME: np.array([99.0])}, PEOPLE[:1]))
    assert first.exit == known.exit == 0, first.printed
    assert first.data == known.data
    assert numbers(first, "value") == dosed.expected(people).value[GIVEN]


def test_without_the_sites_own_term_the_shared_model_predicts(dosed: Finished, tmp_path: Path) -> None:
    people = newcomers()
    own = dosed.home / "runs" / dosed.id / "personal.safetensors"
    shutil.move(own, tmp_path / "kept")
    try:
        done = dosed.predict(dosed.id, "--table", table(tmp_path / "new.csv", dict(people.columns)))
    finally:
        shutil.move(tmp_path / "kept", own)
    expected = dosed.run.plan.recipe.predict(dosed.run.model(), None, people)
    assert (numbers(done, "value")[GIVEN], done.data["own_term"]) == (expected.value[GIVEN], False)
    assert "Without this site's own term" in done.printed


def test_risks_by_genotypes_of_a_vcf(scored: Finished) -> None:
    truth = patients(N, 99, 0.02)
    assert isinstance(truth.genotypes, Copies)
    copies = truth.genotypes.array.copy()
    copies[4, :10] = -1
    columns = {name: truth.columns[name] for name in ("age", "sex")}
    words: list[str | Path] = [
        scored.id,
        "--table",
        table(scored.folder / "new.csv", columns, schema=RECIPES["risk"].schema),
    ]
    done = scored.predict(*words, "--genotypes", risk_vcf(scored.folder / "new.vcf.gz", copies))
    assert done.exit == 0, done.printed
    expected = scored.expected(Table(columns, N, Copies(copies)))
    silent = (copies >= 0).mean(axis=1) < 0.9
    assert silent[4]
    assert silent.sum() < 3
    for name in ("value", "low", "high"):
        np.testing.assert_array_equal(numbers(done, name), np.where(silent, np.nan, getattr(expected, name)))
    assert done.data["unit"] == "probability"
    assert "90 %" in done.data["people"][4]["reason"]
    nothing = scored.predict(*words)
    assert {each["reason"] for each in nothing.data["people"]} == {done.data["people"][4]["reason"]}


def test_responses_by_a_matrix_in_either_direction(answered: Finished) -> None:
    values = np.random.default_rng(8).integers(2, size=(3, 3)).astype(np.float32)
    people = PEOPLE[:3]
    rows = [
        ["id", "gene-c", "gene-a", "gene-b"],
        *([name, *map(str, own[[2, 0, 1]])] for name, own in zip(people, values, strict=True)),
    ]
    write_table(answered.folder / "rows.tsv", rows)
    write_table(answered.folder / "columns.tsv", zip(*rows, strict=True))
    given = table(answered.folder / "people.csv", {}, people)
    missing = np.full((3, 2), np.nan, np.float32)
    expected = answered.expected(Table({}, 3, matrices={"mutations": values, "response": missing}))
    for direction in ("rows", "columns"):
        file = answered.folder / f"{direction}.tsv"
        done = answered.predict(answered.id, "--table", given, "--matrix", f"mutations={file}", "--people", direction)
        assert done.exit == 0, done.printed
        np.testing.assert_array_equal(numbers(done, "value"), expected.value)
        assert "low" not in done.data["people"][0]
        assert "without an interval" in done.printed
        assert done.data["unit"] == "response"
    write_table(answered.folder / "gaps.tsv", [rows[0], [people[0], "NA", "NA", "NA"], *rows[2:]])
    done = answered.predict(answered.id, "--table", given, "--matrix", f"mutations={answered.folder / 'gaps.tsv'}")
    assert [bool(each["reason"]) for each in done.data["people"]] == [True, False, False]
    nothing = answered.predict(answered.id, "--table", given)
    assert all(each["reason"] and "value" not in each for each in nothing.data["people"])


# --- what is refused


def test_a_run_that_is_unknown_unfinished_or_damaged(dosed: Finished) -> None:
    run, folder = dosed.id, dosed.home / "runs"
    given = table(dosed.folder / "some.csv", dict(newcomers().columns))
    for unknown in ("f" * 32, f"../runs/{'f' * 32}", ""):
        done = dosed.predict(unknown, "--table", given)
        assert (done.exit, done.code) == (1, "RUN_UNKNOWN")
    model = folder / run / "model.safetensors"
    whole = model.read_bytes()
    try:
        model.write_bytes(whole[:-1])
        assert dosed.predict(run, "--table", given).code == "RUN_STATE_BROKEN"
        model.unlink()
        done = dosed.predict(run, "--table", given)
        assert (done.exit, done.code) == (3, "RUN_UNFINISHED")
    finally:
        model.write_bytes(whole)
    study = dosed.home / "studies" / dosed.one.study.hash / "study.json"
    body = study.read_bytes()
    try:
        study.write_bytes(body.replace(b"warfarin", b"warfarim"))
        assert dosed.predict(run, "--table", given).code == "APPROVAL_INVALID"
    finally:
        study.write_bytes(body)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("person", "patient", "COLUMN_UNKNOWN"),
        ("height_cm", "height_cm [m]", "UNIT_WRONG"),
        ("NEW-1,", "NEW-0,", "PERSON_TWICE"),
        ("NEW-1,", ",", "PERSON_MISSING"),
        ("300.0", "3000", "VALUE_RANGE"),
        ("male", "m", "LEVEL_UNKNOWN"),
    ],
)
def test_tables_are_checked_as_in_an_import(dosed: Finished, old: str, new: str, code: str) -> None:
    path = table(dosed.folder / "bad.csv", dict(newcomers().columns))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    done = dosed.predict(dosed.id, "--table", path)
    assert (done.exit, done.code) == (2, "IMPORT_REFUSED")
    assert code in {each["code"] for each in done.data["findings"]}
    assert "NEW-" not in done.printed


def test_genotypes_of_others_or_unasked_for(dosed: Finished, scored: Finished, answered: Finished) -> None:
    run, folder = scored.id, scored.folder
    truth = patients(N, 99)
    assert isinstance(truth.genotypes, Copies)
    given = table(folder / "who.csv", {"age": truth.columns["age"]}, schema=RECIPES["risk"].schema)
    others = risk_vcf(folder / "others.vcf.gz", truth.genotypes.array, ["NEW-X", *PEOPLE[1:]])
    done = scored.predict(run, "--table", given, "--genotypes", others)
    assert done.code == "IMPORT_REFUSED"
    assert [(each["code"], each["row"]) for each in done.data["findings"]] == [("PERSON_LACKING", 2)]
    assert "NEW-" not in done.printed
    twice = risk_vcf(folder / "twice.vcf.gz", truth.genotypes.array)
    assert scored.predict(run, "--table", given, "--genotypes", twice, "--genotypes", twice).code == "VARIANT_TWICE"
    cut = folder / "cut.vcf.gz"
    cut.write_bytes(twice.read_bytes()[:-40])
    assert scored.predict(run, "--table", given, "--genotypes", cut).code == "IMPORT_REFUSED"
    assert scored.predict(run, "--table", given, "--matrix", f"rna={given}").code == "USAGE"
    strangers = dose_vcf(dosed.folder / "strangers.vcf.gz", dict(newcomers().columns), [f"OLD-{at}" for at in range(N)])
    plain = table(dosed.folder / "plain.csv", dict(newcomers().columns))
    done = dosed.predict(dosed.id, "--table", plain, "--genotypes", strangers)
    assert [each["code"] for each in done.data["findings"]] == ["VCF_PEOPLE"]
    line = table(answered.folder / "line.csv", {}, PEOPLE[:1])
    assert answered.predict(answered.id, "--table", line, "--genotypes", twice).code == "USAGE"


def test_matrices_of_others_or_unasked_for(answered: Finished) -> None:
    run, folder = answered.id, answered.folder
    given, file = table(folder / "who.csv", {}, PEOPLE[:2]), folder / "m.tsv"
    write_table(file, [["id", "gene-a"], ["NEW-0", "1"]])
    done = answered.predict(run, "--table", given, "--matrix", f"mutations={file}")
    assert [(each["code"], each["row"]) for each in done.data["findings"]] == [("PERSON_LACKING", 3)]
    write_table(file, [["id", "gene-a"], ["NEW-0", "1"], ["NEW-1", "11"]])
    done = answered.predict(run, "--table", given, "--matrix", f"mutations={file}")
    assert [(each["code"], each["row"]) for each in done.data["findings"]] == [("VALUE_RANGE", 3)]
    write_table(file, [["id", "gene-a"], ["NEW-0", "1"], ["NEW-1", "1"]])
    for wrong in ([f"rna={file}"], [str(file)], [f"mutations={file}"] * 2):
        words = [word for each in wrong for word in ("--matrix", each)]
        assert answered.predict(run, "--table", given, *words).code == "USAGE"
    assert answered.predict(run, "--table", given, "--matrix", "mutations=").code == "IMPORT_REFUSED"


def test_an_evaluated_network_predicts_in_its_own_unit_and_by_its_own_rule(tmp_path: Path) -> None:
    of = NETWORKS["dose-net"]
    named = of.module(of.parameters()).named_parameters()
    data = wire.pack({name: weights.detach().numpy().astype(np.float64) for name, weights in named})
    parameters = {"model": canonical.digest(data), "by": "race", "evaluated": "all"}
    recipe = {"name": "dose-net-evaluation", "version": 2, "parameters": parameters}
    one = hospital.consortium(
        tmp_path / "parties", privacy={"mode": "none", "honest_minimum": 1}, recipe=recipe,
        metrics=RECIPES["dose-net-evaluation"].measures,
    )  # fmt: skip
    for published in (one.folder.published, *(each.site.published for each in one.hospitals.values())):
        published.add(data)
    done = finished(one, tmp_path)
    found = done.predict(done.id, "--table", table(tmp_path / "people.csv", newcomers().columns))
    one.close()
    assert found.data["unit"] == "mg/week"
    assert numbers(found, "value")[GIVEN] == pytest.approx(35, abs=0.1)
    assert np.isnan(numbers(found, "value")[2]), "without VKORC1 there is no advice"


def test_every_recipe_has_a_unit_or_makes_no_model_of_a_person() -> None:
    """A new recipe has to be put in one of the three."""
    probabilities = {
        "risk", "risk-net", "adverse-reaction", "survival", "multiomics", "ancestry", "sequence-cnn", "sequence-rnn",
        "sequence-transformer",
    }  # fmt: skip
    named = {each.removesuffix("-evaluation") for each in RECIPES.keys() | NETWORKS.keys()}
    assert {*UNITS, *EXACT, *probabilities} == named
    assert not probabilities & UNITS.keys()
    assert not EXACT & UNITS.keys()
