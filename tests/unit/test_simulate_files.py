"""The files of a simulated cohort: readers of each format agree with the arrays; faults are found."""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import pytest
from bed_reader import open_bed
from click.testing import Result
from numpy.typing import NDArray
from scipy.stats import chi2
from typer.testing import CliRunner

from genopact_ingest.files import Harmonised, harmonised, opened
from genopact_ingest.findings import ImportRefusedError
from genopact_ingest.ploidy import UNKNOWN
from genopact_ingest.table import read_table
from genopact_server.cli import app
from genopact_server.demo.cohort import CONSENT_COLUMNS, CONSENTS
from genopact_server.simulate import ANCESTRIES, Cohort, Design, cohort, files, write
from genopact_server.simulate.faults import FAULTS, _replacing, write_faults
from genopact_shared import __version__
from genopact_shared.errors import CATALOGUE
from genopact_shared.keys import SigningKey
from genopact_shared.manifest import VariantManifest, parse
from genopact_shared.recipes.risk import SCHEMA

DESIGN = Design(people=400, seed=2, hospitals=4, megabases=1.5, density=200, panel=93, gwas=2)
NAMES = ("northgate", "eastharbour", "riverside", "hillcrest")
Dosages = NDArray[np.int8]
Row = dict[str, str]


@dataclass(frozen=True)
class World:
    """A cohort and its folder."""

    made: Cohort
    folder: Path

    @cached_property
    def manifest(self) -> VariantManifest:
        """What `genopact manifest build` makes of the list of sites."""
        SigningKey.generate().save(self.folder / "key")
        words = ("manifest", "build", self.folder / "region.variants", "--name", "region", "--build", "GRCh38")
        done = invoke(*words, "--sites", self.folder / "public/sites.tsv", "--key", self.folder / "key")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["data"]["left_out"] == {}
        return parse((self.folder / "region.variants").read_bytes())

    def imported(self, path: Path) -> tuple[tuple[str, ...], Dosages]:
        """Samples and (samples, V), as the importing room reads a file for the manifest."""
        source, found = opened(path), Harmonised(np.zeros(len(self.manifest), np.bool_))
        matrix = np.full((len(source.samples), len(self.manifest)), -1, np.int8)
        for _, called in harmonised({0: source}, self.manifest, None, unknown, found):
            if called:
                matrix[:, called.rows] = called.dosages.T
        assert not found.twice.size
        return source.samples, matrix

    def rows_of(self, persons: Sequence[str]) -> list[int]:
        """Their rows in the cohort's arrays."""
        rows = [int(person.rsplit("-", 1)[1]) - 1 for person in persons]
        hospitals = [NAMES[self.made.hospital[row]] for row in rows]
        assert [person.rsplit("-", 1)[0] for person in persons] == hospitals
        return rows

    def hospital(self, name: str) -> Path:
        return self.folder / "hospitals" / name


def unknown(samples: Sequence[str]) -> NDArray[np.int8]:
    return np.full(len(samples), UNKNOWN, np.int8)


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words), "--format", "json"])


def table(path: Path, delimiter: str = ",") -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    made = cohort(DESIGN)
    write(made, folder)
    write_faults(folder / "hospitals/northgate/genotypes.vcf.gz", folder / "faults")
    return World(made, folder)


hospitals = pytest.mark.parametrize("name", NAMES)
groups = pytest.mark.parametrize("k", range(3), ids=ANCESTRIES)


# --- hospitals


def test_the_layout_is_the_one_that_others_read(world: World) -> None:
    of_hospital = ("consent.csv", "covariates.csv", "genotypes.vcf.gz")
    of_public = ("panel.bed", "panel.bim", "panel.fam", "sites.tsv", *(f"gwas-{name}.tsv" for name in ANCESTRIES))
    expected = {f"hospitals/{name}/{file}" for name in NAMES for file in of_hospital}
    expected |= {f"public/{file}" for file in of_public} | {"truth.npz", "simulation.json", "faults/faults.json"}
    expected |= {f"faults/{name}.vcf.gz" for name in FAULTS}
    assert set(contents(world.folder)) - {"key", "region.variants", "region.variants.dsse"} == expected


@hospitals
def test_covariates_are_the_cohorts(world: World, name: str) -> None:
    text = (world.hospital(name) / "covariates.csv").read_text("utf-8")
    assert text.startswith("person,age,sex,disease,held_out\n")
    rows = table(world.hospital(name) / "covariates.csv")
    at = world.rows_of([row["person"] for row in rows])
    assert at == np.flatnonzero(world.made.hospital == NAMES.index(name)).tolist()
    assert all(row["age"] in {"", f"{age:.1f}"} for row, age in zip(rows, world.made.age[at], strict=True))
    assert [row["sex"] for row in rows] == [("female", "male")[sex] for sex in world.made.sex[at]]
    assert [row["disease"] for row in rows] == list(map(str, world.made.disease[at]))
    assert [row["held_out"] for row in rows] == [str(int(held_out)) for held_out in world.made.held_out[at]]
    assert 0 < world.made.held_out[at].mean() < 0.25


def test_some_ages_are_unknown(world: World) -> None:
    """In the files alone, and not by anything else that is known of a person."""
    rows = [row for name in NAMES for row in table(world.hospital(name) / "covariates.csv")]
    assert 0 < sum(row["age"] == "" for row in rows) < 0.03 * len(rows)
    assert np.isfinite(world.made.age).all()


@hospitals
def test_the_schema_of_recipe_risk_reads_the_covariates(world: World, name: str) -> None:
    found = read_table(world.hospital(name) / "covariates.csv", SCHEMA)
    at, columns = world.rows_of(found.people), found.table
    assert (columns.codes("held_out") == world.made.held_out[at]).all()
    assert (columns.number("disease") == world.made.disease[at]).all()
    assert (columns.codes("sex") == world.made.sex[at]).all()
    age = columns.number("age")
    assert (np.isnan(age) | (age == world.made.age[at])).all()


@hospitals
def test_the_importing_room_reads_the_genotypes(world: World, name: str) -> None:
    samples, matrix = world.imported(world.hospital(name) / "genotypes.vcf.gz")
    assert list(samples) == [row["person"] for row in table(world.hospital(name) / "covariates.csv")]
    known = matrix >= 0
    assert (matrix[known] == world.made.dosages[world.rows_of(samples)][known]).all()
    assert 0.002 < 1 - known.mean() < 0.009


def test_htslib_reads_the_vcf(world: World) -> None:
    with pysam.VariantFile(str(world.hospital("riverside") / "genotypes.vcf.gz")) as file:
        assert file.header.version == "VCFv4.2"
        assert {name: file.header.contigs[name].length for name in ("chr10", "chr22")} == {
            "chr10": 133_797_422, "chr22": 50_818_468,
        }  # fmt: skip
        at, row = world.rows_of(list(file.header.samples)), -1
        for row, record in enumerate(file):
            calls = [sample["GT"] for sample in record.samples.values()]
            for call, copies in zip(calls, world.made.dosages[at, row].tolist(), strict=True):
                assert call == (None, None) or sum(call) == copies
            assert record.chrom == "chr22"
            assert record.pos == world.made.pos[world.made.typed][row]
            assert record.alts is not None
    assert row == world.made.typed.sum() - 1


def test_everybody_is_in_one_hospital(world: World) -> None:
    seen = [row["person"] for name in NAMES for row in table(world.hospital(name) / "covariates.csv")]
    assert sorted(world.rows_of(seen)) == list(range(DESIGN.people))


@hospitals
def test_everybody_was_asked_for_consent(world: World, name: str) -> None:
    rows = table(world.hospital(name) / "consent.csv")
    assert tuple(rows[0]) == CONSENT_COLUMNS
    assert [row["person"] for row in rows] == [row["person"] for row in table(world.hospital(name) / "covariates.csv")]
    answers = [tuple(list(row.values())[1:]) for row in rows]
    assert set(answers) <= set(CONSENTS)
    assert sum(answer[1] in {"GRU", "HMB"} for answer in answers) > 0.7 * len(rows)


# --- public


def test_bed_reader_agrees(world: World) -> None:
    with open_bed(world.folder / "public/panel.bed") as bed:
        assert (bed.read(dtype="int8") == world.made.panel).all()
        assert bed.fid.tolist() == [name for name in ANCESTRIES for _ in range(31)]
        assert len(set(bed.iid.tolist())) == 93
        assert set(bed.sex.tolist()) == {0}, "unknown"
        assert bed.allele_1.tolist() == world.made.alt[world.made.typed].tolist()
        assert bed.allele_2.tolist() == world.made.ref[world.made.typed].tolist()
        assert bed.bp_position.tolist() == world.made.pos[world.made.typed].tolist()
        assert set(bed.chromosome.tolist()) == {"22"}


def test_the_importing_room_reads_the_panel(world: World) -> None:
    """A palindromic variant near a half is ambiguous in an array and stays missing."""
    samples, matrix = world.imported(world.folder / "public/panel.bed")
    assert len(samples) == 93
    known = matrix >= 0
    assert (matrix == world.made.panel)[known].all()
    assert known.mean() > 0.8


def test_sites_make_a_manifest(world: World) -> None:
    made, typed = world.manifest, world.made.typed
    assert made.pos.tolist() == world.made.pos[typed].tolist()
    assert list(made.ref) == world.made.ref[typed].tolist()
    assert list(made.alt) == world.made.alt[typed].tolist()
    assert set(made.effect) == {"alt"}
    assert set(made.kind) == {"autosome"}
    assert len(set(made.id)) == len(made)
    assert set(made.extra) == {"af_afr", "af_eur", "af_eas"}
    for k, name in enumerate(ANCESTRIES):
        share = world.made.panel[world.made.panel_ancestry == k].mean(axis=0) / 2
        assert np.abs(made.extra[f"af_{name}"] - share).max() < 1e-6
    assert np.abs(made.frequency - world.made.panel.mean(axis=0) / 2).max() < 2e-6


@groups
def test_statistics_have_the_columns_of_regenie(world: World, k: int) -> None:
    path = world.folder / f"public/gwas-{ANCESTRIES[k]}.tsv"
    header = "CHROM GENPOS ID ALLELE0 ALLELE1 A1FREQ N BETA SE CHISQ LOG10P"
    assert path.read_text().split("\n")[0].split("\t") == header.split()
    rows, typed = table(path, "\t"), world.made.typed
    assert [row["GENPOS"] for row in rows] == list(map(str, world.made.pos[typed]))
    assert [row["ALLELE0"] for row in rows] == world.made.ref[typed].tolist()
    assert [row["ALLELE1"] for row in rows] == world.made.alt[typed].tolist()
    assert [row["ID"] for row in rows] == list(world.manifest.id)
    assert {row["CHROM"] for row in rows} == {"22"}
    assert {int(row["N"]) for row in rows} == {world.made.gwas[k].n}
    numbers = {
        name: np.array([float(row[name]) for row in rows]) for name in ("BETA", "SE", "CHISQ", "LOG10P", "A1FREQ")
    }
    assert np.allclose(numbers["BETA"], world.made.gwas[k].beta, rtol=1e-5)
    assert np.allclose(numbers["A1FREQ"], world.made.gwas[k].frequency, rtol=1e-5)
    assert np.allclose(numbers["CHISQ"], (numbers["BETA"] / numbers["SE"]) ** 2, rtol=1e-4)
    assert np.allclose(numbers["LOG10P"], -chi2.logsf(numbers["CHISQ"], 1) / np.log(10), rtol=1e-4, atol=1e-6)


# --- truth and provenance


def test_the_truth_is_beside_the_files(world: World) -> None:
    with np.load(world.folder / "truth.npz", allow_pickle=False) as truth:
        assert world.rows_of(truth["person"].tolist()) == list(range(DESIGN.people))
        for name in ("liability", "genetic", "ancestry", "hospital", "disease", "held_out", "effects", "pos"):
            assert (truth[name] == getattr(world.made, name)).all(), name
        assert not {"dosages", "panel"} & set(truth)


def test_provenance_says_how_it_was_made(world: World) -> None:
    about = json.loads((world.folder / "simulation.json").read_text())
    assert Design(**about["parameters"]) == DESIGN
    assert about["versions"] == {"genopact": __version__, "numpy": np.__version__}
    assert list(about["hospitals"]) == list(NAMES)
    for at, counted in enumerate(about["hospitals"].values()):
        mine = world.made.hospital == at
        mix = {name: int((world.made.ancestry[mine] == k).sum()) for k, name in enumerate(ANCESTRIES)}
        held_out, cases = int(world.made.held_out[mine].sum()), int(world.made.disease[mine].sum())
        assert counted == {"people": int(mine.sum()), "held_out": held_out, "cases": cases, **mix}
    assert about["variants"] == len(world.manifest)
    assert about["studied"] == {name: of.n for name, of in zip(ANCESTRIES, world.made.gwas, strict=True)}
    small = cohort(Design(60, 1, 2, 0.1, "coalescent", panel=30, gwas=1))
    assert set(files.provenance(small)["versions"]) == {"genopact", "numpy", "msprime"}


def test_the_arrays_of_one_cohort_do_not_change_by_writing(tmp_path: Path) -> None:
    """Missing calls are of the files alone."""
    made = cohort(Design(people=60, hospitals=2, megabases=0.2, panel=30, gwas=1))
    before, told = made.dosages.copy(), list[int]()
    write(made, tmp_path, told.append)
    assert (made.dosages == before).all()
    assert sum(told) == 3


# --- faults


def test_faults_are_named(world: World) -> None:
    listed = json.loads((world.folder / "faults/faults.json").read_text())
    assert listed == {name: code for name, (code, _) in FAULTS.items()}
    assert set(listed.values()) <= set(CATALOGUE)
    assert len({(world.folder / f"faults/{name}.vcf.gz").read_bytes() for name in listed}) == len(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_refused(world: World, name: str) -> None:
    with pytest.raises(ImportRefusedError) as caught:
        world.imported(world.folder / f"faults/{name}.vcf.gz")
    assert {finding.code for finding in caught.value.findings} == {FAULTS[name][0]}


def test_without_its_fault_a_copy_is_read_as_the_original(world: World, tmp_path: Path) -> None:
    """The fault is what is refused, not how a copy is compressed."""
    original = world.hospital("northgate") / "genotypes.vcf.gz"
    copy = tmp_path / "copy.vcf.gz"
    copy.write_bytes(_replacing(b"no such letters", b"")(original.read_bytes()))
    (samples, matrix), (others, expected) = world.imported(copy), world.imported(original)
    assert samples == others
    assert (matrix == expected).all()


# --- the command


SMALL: tuple[Any, ...] = ("--people", 120, "--hospitals", 3, "--megabases", 0.3)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        done = invoke("simulate", tmp_path / name, *SMALL, "--seed", seed, "--faults")
        assert done.exit_code == 0, done.output
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert set(one) == set(other)
    alike = {name for name in one if one[name] == other[name]}
    assert alike == {"faults/faults.json", "faults/empty.vcf.gz", "public/panel.fam"}


def test_the_command_answers_with_counts(tmp_path: Path) -> None:
    done = invoke("simulate", tmp_path, *SMALL, "--prevalence", 0.25, "--heritability", 0.2, "--density", 200)
    data = json.loads(done.stdout)["data"]
    assert data["variants"] == 60
    assert list(data["hospitals"]) == list(NAMES[:3])
    assert sum(each["cases"] for each in data["hospitals"].values()) == 30
    assert data["parameters"]["heritability"] == 0.2
    assert data["folder"] == str(tmp_path)
    assert data["next"].startswith("genopact manifest build ")
    assert not (tmp_path / "faults").exists()


def test_people_read_a_table(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["simulate", str(tmp_path / "new"), *map(str, SMALL)])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["hospital", *NAMES[:3]]
    assert lines[-1].startswith("Next: genopact manifest build")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    (out if kind == "file" else tmp_path / "out/kept").parent.mkdir(exist_ok=True)
    (out if kind == "file" else out / "kept").write_text("mine")
    before = contents(tmp_path)
    done = invoke("simulate", out, *SMALL)
    assert done.exit_code == 2
    assert json.loads(done.stdout)["data"]["code"] == "SIMULATION_FOLDER"
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [("--people", 20), ("--hospitals", 12), ("--prevalence", 0.7), ("--method", "forward"), ("--megabases", "much")],
    ids=str,
)
def test_wrong_input_is_told_and_changes_nothing(tmp_path: Path, words: tuple[object, ...]) -> None:
    out = tmp_path / "out"
    done = invoke("simulate", out, *words)
    assert done.exit_code == 2
    assert not out.exists()


def test_help_has_an_example() -> None:
    done = CliRunner().invoke(app, ["simulate", "--help"])
    assert "Example: genopact simulate cohort --people 2400 --seed 1" in " ".join(done.output.split())


def test_a_cohort_can_be_moved(world: World, tmp_path: Path) -> None:
    """No file names the folder it was written to."""
    copied = shutil.copytree(world.folder, tmp_path / "copy")
    for path, data in contents(copied).items():
        assert str(world.folder).encode() not in data, path
