"""FHIR and matrices through the command line, as a hospital's staff would."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genopact_client.site import Site
from genopact_client.store.sealed import Store
from genopact_server import manifests, scoring
from genopact_shared.keys import SigningKey
from tests.benchmarks.genotype_cohort import FASTA, SITES, cohort
from tests.integration import front_desk
from tests.integration.front_desk import PASSPHRASE, Desk

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return front_desk.ready(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def desk(template: Desk, tmp_path: Path) -> Desk:
    return template.copied(tmp_path / "d")


def matrix(desk: Desk, people: list[str]) -> tuple[Path, Path, NDArray[np.float64]]:
    values = np.round(np.random.default_rng(5).uniform(0, 20, (len(people), 3)), 3)
    lines = ["gene\t" + "\t".join(people)]
    lines += [f"G{at}\t" + "\t".join(map(str, column)) for at, column in enumerate(values.T.tolist())]
    file, features = desk.folder / "expr.tsv", desk.folder / "genes.txt"
    file.write_text("\n".join(lines) + "\n")
    features.write_text("G2\nG0\nG9\n")
    return file, features, values


def sealed(desk: Desk, people: list[str]) -> dict[str, list[float]]:
    site = Site.open(desk.home, PASSPHRASE.encode())
    with Store(desk.home / "omics" / "rna", site.keyfile) as store:
        table = store.table(site.people.find(people))
        return {name: table.number(name).tolist() for name in table.columns}


def test_a_matrix_is_sealed_in_the_rows_of_people_and_erased_with_them(desk: Desk) -> None:
    people = [row["person"] for row in desk.rows("covariates.csv")][:5]
    file, features, values = matrix(desk, [*people, "nobody-here"])
    words: list[str | Path] = ["matrix", "import", "rna", file, "--features", features, "--people", "columns"]
    words += ["--unit", "log2", "--low", "0", "--high", "20"]
    tried = desk(*words, "--dry-run")
    assert (tried.exit, tried.data["sealed"], (desk.home / "omics").exists()) == (0, False, False), tried.printed
    done = desk(*words)
    assert done.exit == 0, done.printed
    assert (done.data["people"], done.data["strangers"], done.data["absent_features"]) == (5, 1, 1)
    assert "nobody-here" not in done.printed
    found = sealed(desk, people)
    assert np.allclose(found["G2"], values[:5, 2])
    assert np.allclose(found["G0"], values[:5, 0])
    assert np.isnan(found["G9"]).all()
    assert desk("consent", "erase", "-", "--yes", typed=people[1]).exit == 0
    site = Site.open(desk.home, PASSPHRASE.encode())
    with Store(desk.home / "omics" / "rna", site.keyfile) as store:
        assert site.people.find([people[1]])[0] not in store.rows()
    assert desk(*words, "--dry-run").data["people"] == 4


def test_sequences_need_nothing_but_the_list_of_places(desk: Desk) -> None:
    people = [row["person"] for row in desk.rows("covariates.csv")][:2]
    file, places = desk.folder / "haplotypes.fa", desk.folder / "places.txt"
    file.write_text(f">{people[0]} first\nACGT\nNa\n>nobody-here\nAAAAAA\n>{people[1]}\nTTTTTT\n")
    places.write_text("".join(f"{at}\n" for at in range(6)))
    done = desk("matrix", "import", "rna", file, "--features", places)
    assert done.exit == 0, done.printed
    assert (done.data["people"], done.data["strangers"], done.data["absent_features"]) == (2, 1, 0)
    found = sealed(desk, people)
    assert [found[f"{at}"] for at in range(6)] == [[0, 3], [1, 3], [2, 3], [3, 3], [4, 3], [0, 3]]
    places.write_text("".join(f"{at}\n" for at in range(7)))
    refused = desk("matrix", "import", "other", file, "--features", places)
    assert (refused.exit, [each["code"] for each in refused.data["findings"]]) == (2, ["FASTA_INVALID"])
    assert people[0] not in refused.printed
    assert not (desk.home / "omics" / "other").exists()


def test_matrices_that_are_refused(desk: Desk) -> None:
    file, features, _ = matrix(desk, ["nobody-here"])
    words: list[str | Path] = ["--features", features, "--people", "columns", "--unit", "log2", "--low", "0"]
    assert desk("matrix", "import", "rna", file, *words, "--high", "20").code == "VCF_PEOPLE"
    assert desk("matrix", "import", "rna", file, *words, "--high", "0").code == "IMPORT_REFUSED"
    assert desk("matrix", "import", "../rna", file, *words, "--high", "20").code == "USAGE"
    assert desk("matrix", "import", "rna", file, *words).code == "USAGE"
    assert desk("matrix", "import", "rna", file, "--features", features).code == "USAGE"
    features.write_text("G1\nG1\n")
    assert desk("matrix", "import", "rna", file, *words, "--high", "20").code == "USAGE"
    assert not (desk.home / "omics").exists()


def test_fhir_resources_take_the_place_of_a_table(desk: Desk) -> None:
    page = (ROOT / "docs" / "input-files.md").read_text("utf-8")
    mapping, bundle = desk.folder / "map.toml", desk.folder / "export.ndjson"
    mapping.write_text(page.split("```toml\n")[1].split("```")[0])
    person = desk.rows("covariates.csv")[0]["person"]
    lines = [json.loads(line) for line in page.split("```json\n")[1].split("```")[0].splitlines()]
    lines[0]["identifier"][0]["value"] = person
    stranger = dict(lines[1], id="of-nobody", subject={"reference": "Patient/nobody-here"})
    lines.append(stranger)
    bundle.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = desk("import", "--fhir", bundle, "--mapping", mapping)
    assert done.exit == 0, done.printed
    assert done.data["notes"] == {"of_unknown_patients": 1}
    site = Site.open(desk.home, PASSPHRASE.encode())
    with site.store as store:
        assert store.table(site.people.find([person])).number("height_cm").tolist() == [171.5]
    assert desk("import", "--fhir", bundle).code == "USAGE"
    assert desk("import", "--mapping", mapping, "--table", desk.files / "covariates.csv").code == "USAGE"


def test_quality_fills_the_columns_of_the_federated_summary(tmp_path: Path) -> None:
    vcf = cohort(60, 120)
    desk = Desk(tmp_path)
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    (tmp_path / "passphrase").chmod(0o600)
    people = [f"P{number:06}" for number in range(60)]
    (tmp_path / "people.csv").write_text("person,call_rate\n" + "".join(f"{person},\n" for person in people))
    (tmp_path / "sites.tsv").write_text("chrom\tpos\tref\talt\tfrequency\n" + (vcf.parent / SITES).read_text())
    draft = manifests.Draft(manifests.Fasta(vcf.parent / FASTA))
    scoring.read_sites(tmp_path / "sites.tsv", draft)
    made, key = draft.manifest("small", 1, "simulated", "."), SigningKey.generate()
    (tmp_path / "small.tsv").write_bytes(made.encode())
    (tmp_path / "small.tsv.dsse").write_bytes(made.sign(key))
    signed: list[str | Path] = [
        "--manifest",
        tmp_path / "small.tsv",
        "--signer",
        key.public.hex,
        "--reference",
        vcf.parent / FASTA,
    ]
    steps: tuple[tuple[str | Path, ...], ...] = (
        ("init", "site-a", "--recipe", "cohort-summary"),
        ("import", "--table", tmp_path / "people.csv"),
        ("import", vcf, *signed),
        ("genotypes", "quality", "small-1"),
    )
    for words in steps:
        done = desk(*words)
        assert done.exit == 0, done.printed
    site = Site.open(desk.home, PASSPHRASE.encode())
    with site.store as store:
        rates = store.table(site.people.find(people)).number("call_rate")
    assert np.isfinite(rates).all()
    assert (rates > 0.8).all()
