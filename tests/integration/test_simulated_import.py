"""A simulated region taken in by its hospitals, through the command lines: what the simulation knows arrives."""

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from genopact_client import kek
from genopact_client.site import Site
from genopact_server.cli import app as coordinator
from genopact_server.simulate import Cohort, Design, cohort
from genopact_shared.errors import CATALOGUE
from genopact_shared.keys import SigningKey
from genopact_shared.manifest import VariantManifest, parse
from genopact_shared.study import load_study
from tests.integration.front_desk import PASSPHRASE, Desk, Done

HOSPITALS, PEOPLE, SEED, MEGABASES = ("northgate", "eastharbour"), 120, 7, 1.0
STORE = "region-1"


@dataclass(frozen=True)
class Region:
    """`folder` holds the simulation's files in `made`, the manifest and one folder for each hospital's desk."""

    folder: Path
    signer: str

    @cached_property
    def truth(self) -> Cohort:
        """The arrays that the files were written from."""
        return cohort(Design(PEOPLE, SEED, len(HOSPITALS), MEGABASES))

    @property
    def manifest(self) -> VariantManifest:
        return parse((self.folder / "region.variants").read_bytes())

    def desk(self, name: str) -> Desk:
        return Desk(self.folder / name)

    def files(self, name: str) -> Path:
        return self.folder / "made/hospitals" / name

    def genotypes(self, name: str, vcf: Path | None = None) -> Done:
        """Import a VCF for the manifest."""
        words = ("--manifest", self.folder / "region.variants", "--signer", self.signer)
        return self.desk(name)("import", vcf or self.files(name) / "genotypes.vcf.gz", *words)

    def rows(self, name: str) -> NDArray[np.intp]:
        """Where a hospital's people are in the arrays."""
        return np.flatnonzero(self.truth.hospital == HOSPITALS.index(name))

    def people(self, name: str) -> list[str]:
        """As the hospital names them, in the arrays' order."""
        return [f"{name}-{row + 1:06d}" for row in self.rows(name).tolist()]


def run(*words: object) -> dict[str, Any]:
    """A command of the coordinator."""
    done = CliRunner().invoke(coordinator, [*map(str, words), "--format", "json"])
    assert done.exit_code == 0, done.output
    data: dict[str, Any] = json.loads(done.stdout)["data"]
    return data


@pytest.fixture(scope="module", autouse=True)
def quick_passphrases() -> Iterator[None]:
    """Two thirds of what a command takes here would be Argon2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kek, "_MEMORY_KIB", 64)
        yield


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Region:
    """Both hospitals have imported their files."""
    folder = tmp_path_factory.mktemp("region")
    size = ("--people", PEOPLE, "--hospitals", len(HOSPITALS), "--megabases", MEGABASES)
    about = run("simulate", folder / "made", *size, "--seed", SEED, "--faults")
    assert list(about["hospitals"]) == list(HOSPITALS)
    key = SigningKey.generate()
    key.save(folder / "study.key")
    sites = ("--sites", folder / "made/public/sites.tsv", "--build", "GRCh38", "--key", folder / "study.key")
    built = run("manifest", "build", folder / "region.variants", "--name", "region", *sites)
    assert built["left_out"] == {}
    made = Region(folder, key.public.hex)
    for name in HOSPITALS:
        desk, files = made.desk(name), made.files(name)
        desk.folder.mkdir()
        (desk.folder / "passphrase").write_text(PASSPHRASE)
        (desk.folder / "passphrase").chmod(0o600)
        for words in (
            ("init", name, "--recipe", "risk", "--kind", "synthetic"),
            ("import", "--table", files / "covariates.csv"),
            ("consent", "import", files / "consent.csv"),
        ):
            done = desk(*words)
            assert done.exit == 0, done.printed
        done = made.genotypes(name)
        assert done.exit == 0, done.printed
    return made


hospitals = pytest.mark.parametrize("name", HOSPITALS)


@contextmanager
def opened(region: Region, name: str) -> Iterator[Site]:
    site = Site.open(region.desk(name).home, PASSPHRASE.encode())
    try:
        yield site
    finally:
        site.store.close()
        site.registry.close()


@hospitals
def test_everybody_and_every_variant_is_found(region: Region, name: str) -> None:
    done = region.genotypes(name)
    assert done.exit == 0, done.printed
    found, people = done.data["genotypes"], len(region.rows(name))
    assert (found["people"], found["strangers"]) == (people, 0)
    assert found["found"] == found["variants"] == len(region.manifest) == region.truth.typed.sum()
    assert region.desk(name)("genotypes", "verify", STORE).data == {"people": people, "records": people}


@hospitals
def test_covariates_arrive(region: Region, name: str) -> None:
    truth, at = region.truth, region.rows(name)
    with opened(region, name) as site:
        table = site.store.table(site.people.find(region.people(name)))
    assert (table.number("disease") == truth.disease[at]).all()
    assert (table.codes("held_out") == truth.held_out[at]).all()
    assert (table.codes("sex") == truth.sex[at]).all()
    age = table.number("age")
    assert (np.isnan(age) | (age == truth.age[at])).all()
    assert np.isfinite(age).mean() > 0.9
    assert 0 < table.codes("held_out").sum() < len(at) // 3


@hospitals
def test_genotypes_arrive(region: Region, name: str) -> None:
    truth, people = region.truth, region.people(name)
    assert region.manifest.pos.tolist() == truth.pos[truth.typed].tolist()
    chosen = [0, 3, len(people) // 2, len(people) - 1]
    with opened(region, name) as site, site.genotypes(STORE) as store:
        rows = site.people.find([people[at] for at in chosen])
        dosages = np.empty((len(chosen), len(region.manifest)), np.int8)
        store.open(rows, region.manifest, lambda: True).dosages(np.arange(len(chosen)), dosages)
    expected = truth.dosages[region.rows(name)[chosen]]
    known = dosages >= 0
    assert (dosages[known] == expected[known]).all()
    assert 0.97 < known.mean() < 1
    assert set(np.unique(dosages).tolist()) == {-1, 0, 1, 2}


@hospitals
def test_most_people_permit_research(region: Region, name: str) -> None:
    purpose, people = load_study(region.desk(name).study()).purpose, region.people(name)
    with opened(region, name) as site:
        permitted = site.registry.permitted(purpose, dt.datetime.now(dt.UTC).date()).rows[site.people.find(people)]
    assert 0.6 < permitted.mean() < 1


def test_the_people_of_another_hospital_are_strangers(region: Region) -> None:
    done = region.genotypes("northgate", region.files("eastharbour") / "genotypes.vcf.gz")
    assert (done.exit, done.code) == (CATALOGUE["VCF_PEOPLE"].exit, "VCF_PEOPLE")
    assert not [person for person in region.people("eastharbour") if person in done.printed]


def test_planted_faults_are_refused_and_change_nothing(region: Region) -> None:
    for name, code in json.loads((region.folder / "made/faults/faults.json").read_text()).items():
        done = region.genotypes("northgate", region.folder / f"made/faults/{name}.vcf.gz")
        assert done.exit == 2, name
        assert code in done.printed, name
    people = len(region.rows("northgate"))
    assert region.desk("northgate")("genotypes", "verify", STORE).data == {"people": people, "records": people}
