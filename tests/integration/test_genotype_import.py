"""From a hospital's genotype files to sealed rows, through the command line: what arrives, and what is refused."""

import datetime as dt
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from genopact_client import kek
from genopact_client.cli import app
from genopact_client.genotypes.sealed import Genotypes, Writer
from genopact_client.site import Site
from genopact_server.cli import app as coordinator
from genopact_shared.errors import CATALOGUE, GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.manifest import VariantManifest, parse
from genopact_shared.study import load_study
from tests.integration import front_desk
from tests.integration.front_desk import PASSPHRASE, Desk, Done, permitting
from tests.integration.genotype_files import REPEAT, SECRET, Line, Matrix, Region, dosages, places

FORK = get_context("fork")
STORE = "region-1"
COMPLEMENT = {"A": "T", "T": "A", "C": "G", "G": "C"}


@dataclass(frozen=True)
class Import:
    """A site, the study's manifest, and files of people: FIRST and LATER the site knows, strangers it does not."""

    desk: Desk
    signer: str
    kek: bytes

    @property
    def folder(self) -> Path:
        return self.desk.folder

    @property
    def manifest(self) -> VariantManifest:
        return parse((self.folder / "region.variants").read_bytes())

    def __call__(self, *files: Path | str, signer: str = "", reference: str = "genome.fa") -> Done:
        """`files`: options, too."""
        words = ("--manifest", self.folder / "region.variants", "--signer", signer or self.signer)
        return self.desk("import", *files, *words, "--reference", self.folder / reference)

    @property
    def region(self) -> Region:
        """Of FIRST and three strangers, in disorder."""
        return Region(shuffled([*self.people[:24], "guest-one", "guest-two", "guest-three"]))

    @property
    def later(self) -> Region:
        return Region(shuffled(self.people[30:40]), seed=5)

    @property
    def people(self) -> list[str]:
        return [row["person"] for row in self.desk.rows("covariates.csv")]

    @contextmanager
    def site(self) -> Iterator[Site]:
        site = Site(self.desk.home, "site-a", self.kek)
        try:
            yield site
        finally:
            site.store.close()
            site.registry.close()

    @contextmanager
    def store(self) -> Iterator[tuple[Site, Genotypes]]:
        with self.site() as site, site.genotypes(STORE) as store:
            yield site, store

    def rows(self, people: Sequence[str]) -> Matrix:
        """(people, V), as the store gives them."""
        with self.store() as (site, store):
            opened = store.open(site.people.find(list(people)), self.manifest, lambda: True)
            return opened.dosages(np.arange(len(people)), np.empty((len(people), len(self.manifest)), np.int8))

    def held(self, vcf: str, people: Sequence[str]) -> Matrix:
        """(people, V), as pysam reads the file."""
        men = {row["person"] for row in self.desk.rows("covariates.csv") if row["sex"] == "male"}
        return dosages(self.folder / vcf, self.manifest, people, men)

    def sealed(self, person: str) -> bytes:
        """The bytes of a person's record on disk."""
        with self.store() as (site, store):
            (path,) = store.signed.files(store.path, store.signed.generation)
            size, row = store.signed.parts[0].size, int(site.people.find([person])[0])
        return path.read_bytes()[row * size : (row + 1) * size]

    def generation(self) -> int:
        with self.store() as (_, store):
            return store.signed.generation

    def copied(self, folder: Path) -> "Import":
        return replace(self, desk=self.desk.copied(folder))


def shuffled(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(random.Random(3).sample(names, len(names)))


def contents(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def refused(done: Done, code: str, *names: str) -> list[dict[str, Any]]:
    """Findings of a refusal that says its code, its remedy and nothing of the files."""
    findings: list[dict[str, Any]] = done.data.get("findings", [])
    assert code in {done.code, *(each["code"] for each in findings)}, done.printed
    assert done.exit == CATALOGUE[done.code].exit
    assert done.data["remedy"] == CATALOGUE[done.code].remedy
    assert CATALOGUE[code].remedy in " ".join(done.printed.split())
    assert not [name for name in (*names, SECRET) if name in done.printed]
    return findings


@pytest.fixture(scope="module", autouse=True)
def quick_passphrases() -> Iterator[None]:
    """Two thirds of what a command takes here would be Argon2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kek, "_MEMORY_KIB", 64)
        yield


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Import:
    """Nobody's genotypes are there yet."""
    folder = tmp_path_factory.mktemp("hospital")
    desk = front_desk.empty(folder)
    for words in (
        ("init", "site-a", "--kind", "synthetic"),
        ("import", "--table", desk.files / "covariates.csv"),
        ("consent", "import", desk.files / "consent.csv"),
    ):
        done = desk(*words)
        assert done.exit == 0, done.printed
    key = SigningKey.generate()
    key.save(folder / "study.key")
    region = Region(())
    given = {
        "--name": "region", "--build": "GRCh38", "--key": folder / "study.key",
        "--sites": region.table(folder / "sites.tsv"), "--reference": region.fasta(folder / "genome.fa"),
    }  # fmt: skip
    options = [str(word) for pair in given.items() for word in pair]
    build = ["manifest", "build", str(folder / "region.variants"), *options, "--format", "json"]
    built = CliRunner().invoke(coordinator, build)
    data = json.loads(built.stdout)["data"]
    assert (built.exit_code, data["left_out"], data["signer"]) == (0, {}, key.public.hex)
    return Import(desk, key.public.hex, kek.open_kek(desk.home / "kek", PASSPHRASE.encode()))


@pytest.fixture(scope="module")
def imported(founded: Import, tmp_path_factory: pytest.TempPathFactory) -> Import:
    """FIRST's genotypes are there."""
    made = founded.copied(tmp_path_factory.mktemp("imported") / "d")
    done = made(made.region.vcf(made.folder / "first.vcf.gz"))
    assert done.exit == 0, done.printed
    return made


@pytest.fixture
def empty(founded: Import, tmp_path: Path) -> Import:
    return founded.copied(tmp_path / "d")


@pytest.fixture
def one(imported: Import, tmp_path: Path) -> Import:
    return imported.copied(tmp_path / "d")


# --- from the manifest to the page


def test_what_a_file_holds_comes_back_row_by_row(one: Import) -> None:
    first = one.people[:24]
    expected = one.held("first.vcf.gz", first)
    assert set(np.unique(expected)) == {-1, 0, 1, 2}
    assert np.array_equal(one.rows(first), expected)
    assert one.desk("genotypes", "verify", STORE).data == {"people": 24, "records": 24}
    (store,) = one.desk("genotypes", "list").data["stores"].values()
    assert (store["people"], store["length"], store["generation"]) == (24, len(one.manifest), 1)
    (provenance,) = store["provenance"]
    assert (provenance["rows"], provenance["variants"]) == (24, len(one.manifest))


def test_the_export_is_the_file_for_other_programs(one: Import) -> None:
    from bed_reader import open_bed

    out = one.folder / "clear"
    done = one.desk("genotypes", "export", STORE, "--out", out)
    assert done.exit == 0, done.printed
    with one.site() as site:
        order = dict(zip(site.people.find(one.people).tolist(), one.people, strict=True))
    with open_bed(f"{out}.bed") as bed:
        people = [order[int(name.removeprefix("row"))] for name in bed.iid]
        copies = bed.read(dtype="int8")
        effects = bed.allele_1.tolist()
    expected = one.held("first.vcf.gz", people)
    assert np.array_equal(np.where(copies < 0, -1, copies), expected)
    manifest = one.manifest
    assert effects == [getattr(manifest, effect)[at] for at, effect in enumerate(manifest.effect)]
    assert not [name for name in one.people if name.encode() in Path(f"{out}.fam").read_bytes()]
    again = one.desk("genotypes", "export", STORE, "--out", out)
    assert (again.exit, again.code) == (2, "USAGE")


def test_the_page_of_quality_stays_here_and_names_nobody(one: Import) -> None:
    batches = one.folder / "batches.csv"
    batches.write_text("person,array\n" + "".join(f"{name},{at % 2}\n" for at, name in enumerate(one.people)))
    done = one.desk("genotypes", "quality", STORE, "--batches", batches)
    assert done.exit == 0, done.printed
    page = Path(done.data["page"]).read_text()
    assert Path(done.data["page"]).parent == one.desk.home
    assert "<html" in page
    assert not [name for name in one.people if name in page + done.printed]
    assert Path(done.data["page"]).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", [None, "", "patient,array\nx,1\n", "\xff", "person,array\n", "person,a\n1,x\n1,y\n"])
def test_a_bad_list_of_batches_is_wrong_input(text: str | None, one: Import) -> None:
    path = one.folder / "batches.csv"
    if text is not None:
        path.write_text(text, "latin-1")
    done = one.desk("genotypes", "quality", STORE, "--batches", path)
    assert done.exit == 2, done.printed


def test_a_store_that_is_not_there_is_named(one: Import) -> None:
    for words in (("verify",), ("export", "--out", one.folder / "x"), ("quality",)):
        assert one.desk("genotypes", words[0], "other-1", *words[1:]).code == "STORE_MISSING"


# --- people


def test_strangers_and_erased_people_are_left_out(empty: Import) -> None:
    gone = empty.people[4]
    assert empty.desk("consent", "erase", "--yes", gone).exit == 0
    done = empty(empty.region.vcf(empty.folder / "first.vcf.gz"))
    assert (done.data["genotypes"]["people"], done.data["genotypes"]["strangers"]) == (23, 4)
    first = [name for name in empty.people[:24] if name != gone]
    assert np.array_equal(empty.rows(first), empty.held("first.vcf.gz", first))
    with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
        empty.rows([gone])
    assert not any(empty.sealed(gone))
    assert not [name for name in empty.region.names if name in done.printed]


def test_files_of_nobody_or_of_different_people_change_nothing(one: Import) -> None:
    before = one.generation(), one.rows(one.people[:24])
    nobody = replace(one.region, names=("guest-one", "guest-two"))
    refused(one(nobody.vcf(one.folder / "nobody.vcf.gz")), "VCF_PEOPLE", *nobody.names)
    files = [one.region.vcf(one.folder / "a.vcf.gz", one.region.lines("chr1"))]
    files += [one.later.vcf(one.folder / "b.vcf.gz", one.later.lines("chr2"))]
    refused(one(*files), "GENOTYPES_PEOPLE", *one.people, *one.region.names)
    assert one.generation() == before[0]
    assert np.array_equal(one.rows(one.people[:24]), before[1])


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_variant_in_two_files_is_refused(dry: tuple[str, ...], one: Import) -> None:
    lines = one.region.lines()
    a, b = one.region.vcf(one.folder / "a.vcf.gz", lines[:9]), one.region.vcf(one.folder / "b.vcf.gz", lines[8:12])
    before = one.generation(), one.rows(one.people[:24])
    refused(one(a, b, *dry), "VARIANT_TWICE", *one.region.names)
    refused(one(a, a, *dry), "VARIANT_TWICE", *one.region.names)
    assert one.generation() == before[0]
    assert np.array_equal(one.rows(one.people[:24]), before[1])


# --- chromosomes, and one import after another


def test_files_by_chromosome_are_one_file(empty: Import, imported: Import) -> None:
    chroms = [("chr2",), ("chrX", "chr1")]
    files = [empty.region.vcf(empty.folder / f"{at}.vcf.gz", empty.region.lines(*c)) for at, c in enumerate(chroms)]
    files[1] = replace(empty.region, names=empty.region.names[::-1]).vcf(
        files[1], [line._replace(cells=line.cells[::-1]) for line in empty.region.lines(*chroms[1])]
    )  # fmt: skip
    done = empty(*files)
    assert (done.data["genotypes"]["files"], done.data["genotypes"]["read"]) == (2, 2)
    assert np.array_equal(empty.rows(empty.people[:24]), imported.rows(empty.people[:24]))


def test_new_people_are_appended_and_the_same_people_are_sealed_anew(one: Import) -> None:
    first, later = one.people[:24], one.people[30:40]
    rows, sealed = one.rows(first), [one.sealed(name) for name in first]
    assert one(one.later.vcf(one.folder / "later.vcf.gz")).exit == 0
    assert [one.sealed(name) for name in first] == sealed
    assert np.array_equal(one.rows(later), one.held("later.vcf.gz", later))
    assert one(one.folder / "first.vcf.gz").exit == 0
    assert not {one.sealed(name) for name in first} & {*sealed}
    assert np.array_equal(one.rows(first), rows)
    assert one.desk("genotypes", "verify", STORE).data["people"] == 34


# --- kills


@pytest.mark.parametrize(
    ("step", "times", "after", "read"),
    [
        ("add", 1, True, 2),  # in the first file
        ("_seal", 1, True, 2),  # its part is written, and nobody says that it counts
        ("finish", 1, True, 1),  # between the files
        ("_seal", 2, True, 1),
        ("commit", 1, False, 0),
        ("_sign", 3, True, 2),  # the import is committed: repeating it is another one
    ],
)
def test_a_killed_import_goes_on_after_the_last_whole_file(
    step: str, times: int, after: bool, read: int, empty: Import, imported: Import
) -> None:
    lines = [empty.region.lines("chr1", "chrX"), empty.region.lines("chr2")]
    files = [empty.region.vcf(empty.folder / f"{at}.vcf.gz", some) for at, some in enumerate(lines)]
    process = FORK.Process(target=killed, args=(empty, files, step, times, after))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = empty(*files)
    assert done.data["genotypes"]["read"] == read, done.printed
    assert np.array_equal(empty.rows(empty.people[:24]), imported.rows(empty.people[:24]))
    assert empty.desk("genotypes", "verify", STORE).data == {"people": 24, "records": 24}
    assert len(list((empty.desk.home / "genotypes" / STORE).glob("calls.*"))) == 1


def killed(one: Import, files: Sequence[Path], step: str, times: int, after: bool) -> None:
    """An import whose process kills itself before or after the nth call of a method of Writer."""
    real, left = getattr(Writer, step), [times]

    def dying(*words: Any, **named: Any) -> Any:
        left[0] -= 1
        if not left[0] and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*words, **named)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(Writer, step, dying)
    one(*files)


# --- refusals


@pytest.mark.parametrize("there", [True, False])
def test_a_dry_run_reports_and_changes_no_byte(there: bool, imported: Import, founded: Import, tmp_path: Path) -> None:
    at = (imported if there else founded).copied(tmp_path / "d")
    vcf, before = at.later.vcf(at.folder / "later.vcf.gz"), contents(at.desk.home)
    done = at(vcf, "--dry-run")
    assert (done.exit, done.data["genotypes"]["people"], done.data["genotypes"]["sealed"]) == (0, 10, False)
    assert "dry run: nothing was changed" in done.printed
    assert contents(at.desk.home) == before


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda data: data[:-40], "VCF_TRUNCATED"),
        (lambda data: data[:-28], "VCF_TRUNCATED"),  # the end block alone
        (lambda data: gzip.compress(gzip.decompress(data))[:-9], "VCF_TRUNCATED"),
        (lambda data: gzip.decompress(data)[:-1], "VCF_TRUNCATED"),
        (lambda data: gzip.decompress(data).replace(b"\n", b"\r\n"), "VCF_LINE_ENDS"),
        (lambda data: data + b"more", "VCF_CORRUPT"),
        (lambda data: b"", "VCF_HEADER"),
    ],
)
def test_a_damaged_file_is_refused(spoil: Callable[[bytes], bytes], code: str, one: Import) -> None:
    vcf = one.folder / "first.vcf.gz"
    vcf.write_bytes(spoil(vcf.read_bytes()))
    refused_twice(one, vcf, code)


def calls(line: int, cell: int, text: str) -> Callable[[list[Line]], list[Line]]:
    """One cell of a record is another one."""

    def spoil(lines: list[Line]) -> list[Line]:
        cells = list(lines[line].cells)
        cells[cell] = text
        return [*lines[:line], lines[line]._replace(cells=tuple(cells)), *lines[line + 1 :]]

    return spoil


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (calls(20, 0, SECRET), "VCF_CALL"),
        (calls(7, -1, "0|7"), "VCF_CALL"),
        (calls(-2, 3, f"0|0\t{SECRET}"), "VCF_RECORD"),
        (lambda lines: lines[::-1], "VCF_ORDER"),
        (lambda lines: [line for line in lines for _ in range(2)], "VCF_DUPLICATE"),
        (lambda lines: [line._replace(pos=line.pos + 1) for line in lines], "VARIANT_BUILD"),
    ],
)
def test_a_bad_record_is_refused(spoil: Callable[[list[Line]], list[Line]], code: str, one: Import) -> None:
    refused_twice(one, one.region.vcf(one.folder / "bad.vcf.gz", spoil(one.region.lines())), code)


def test_samples_that_are_one_person_and_an_absent_file_are_refused(one: Import) -> None:
    first, second, *_ = one.region.names
    for names in ((first, first), (first, f" {second}", second), (first, "")):
        refused_twice(one, Region(names).vcf(one.folder / "bad.vcf.gz"), "VCF_SAMPLES")
    refused_twice(one, one.folder / "none.vcf.gz", "VCF_UNREADABLE")


def refused_twice(one: Import, vcf: Path, code: str) -> None:
    """Dry and in earnest: by place, with nothing of the file, and nothing is changed."""
    before = contents(one.desk.home)
    for dry in (("--dry-run",), ()):
        done = one(vcf, *dry)
        findings = refused(done, code, *one.people, *one.region.names)
        assert (done.exit, done.code, findings[0]["code"]) == (2, "IMPORT_REFUSED", code)
    assert contents(one.desk.home) == before


def test_people_read_the_refusal_on_stderr(one: Import) -> None:
    bad = one.region.vcf(one.folder / "bad.vcf.gz", calls(20, 0, SECRET)(one.region.lines()))
    manifest = ("--manifest", one.folder / "region.variants", "--signer", one.signer)
    done = CliRunner().invoke(app, ["import", str(bad), *map(str, manifest), *one.desk.common])
    assert (done.exit_code, done.stdout) == (2, "")
    assert CATALOGUE["VCF_CALL"].remedy in done.stderr
    assert not [name for name in (*one.people, SECRET) if name in done.output]


def test_no_flipped_bit_comes_in(one: Import) -> None:
    vcf, chance = one.folder / "first.vcf.gz", random.Random(8)
    whole, before = vcf.read_bytes(), contents(one.desk.home)
    for _ in range(10):
        at = chance.randrange(len(whole))
        vcf.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        done = one(vcf)
        assert (done.exit, done.code) == (2, "IMPORT_REFUSED"), at
        assert not [name for name in (*one.people, SECRET) if name in done.printed]
    assert contents(one.desk.home) == before


def test_a_manifest_of_somebody_else_or_with_other_lines_is_refused(one: Import) -> None:
    before, manifest, vcf = contents(one.desk.home), one.folder / "region.variants", one.folder / "first.vcf.gz"
    refused(one(vcf, signer=SigningKey.generate().public.hex), "SIGNATURE_INVALID", *one.people)
    refused(one(vcf, signer="no key"), "KEY_INVALID", *one.people)
    signed = manifest.read_bytes()
    manifest.write_bytes(signed.replace(b"\talt\t", b"\tref\t", 1))
    refused(one(vcf), "MANIFEST_INVALID", *one.people)
    manifest.write_bytes(signed)
    (one.folder / "region.variants.dsse").unlink()
    refused(one(vcf), "MANIFEST_MISSING", *one.people)
    assert contents(one.desk.home) == before


def test_another_reference_is_refused(one: Import) -> None:
    before, vcf = contents(one.desk.home), one.folder / "first.vcf.gz"
    one.region.fasta(one.folder / "shifted.fa", shift=1)
    (one.folder / "text.fa").write_text(f"{SECRET}\n")
    findings = refused(one(vcf, reference="shifted.fa"), "VARIANT_BUILD", *one.people)
    assert findings[0]["detail"].endswith("in file 1")
    refused(one(vcf, reference="text.fa"), "REFERENCE_UNREADABLE", *one.people)
    refused(one(vcf, reference="none.fa"), "REFERENCE_UNREADABLE", *one.people)
    assert contents(one.desk.home) == before


def test_a_refused_first_import_leaves_no_store(empty: Import) -> None:
    bad = empty.region.vcf(empty.folder / "bad.vcf.gz", calls(20, 0, "x")(empty.region.lines()))
    assert empty(bad).code == "IMPORT_REFUSED"
    assert empty.desk("genotypes", "list").data["stores"] == {}
    assert empty(empty.region.vcf(empty.folder / "first.vcf.gz"), "--phases").exit == 0
    with empty.store() as (_, store):
        assert store.signed.planes == ("calls", "haplotypes")


def test_the_fault_of_one_of_many_files_is_found(one: Import) -> None:
    files = [one.region.vcf(one.folder / f"{chrom}.vcf.gz", one.region.lines(chrom)) for chrom in ("chr1", "chr2")]
    files += [one.region.vcf(one.folder / "bad.vcf.gz", calls(3, 0, "x")(one.region.lines("chrX")))]
    for _ in range(2):  # the second time two files are whole already
        (finding,) = refused(one(*files), "VCF_CALL", *one.people)
        assert finding["detail"].endswith("in file 3")


def test_a_table_is_not_sealed_beside_bad_genotypes(one: Import) -> None:
    """An import is one thing: refused, it has changed nothing."""
    before = contents(one.desk.home)
    bad = one.region.vcf(one.folder / "bad.vcf.gz", calls(20, 0, "x")(one.region.lines()))
    assert one(bad, "--table", one.desk.files / "covariates.csv").exit == 2
    assert contents(one.desk.home) == before


# --- calls that are not two of letters


def test_a_record_that_is_written_twice_is_missing_for_everybody(one: Import) -> None:
    region, lines = one.region, one.region.lines()
    at = next(at for at, line in enumerate(lines) if line.pos == REPEAT)
    moved = Line("chr1", REPEAT + 4, "AGA", ("A",), lines[at].cells)
    done = one(region.vcf(one.folder / "twice.vcf.gz", [*lines[: at + 1], moved, *lines[at + 1 :]]))
    assert done.exit == 0, done.printed
    assert done.data["genotypes"]["sites"]["duplicate"] == 1
    expected = one.held("first.vcf.gz", one.people[:24])
    expected[:, one.manifest.pos.tolist().index(REPEAT)] = -1
    assert np.array_equal(one.rows(one.people[:24]), expected)


def test_half_calls_stars_and_single_copies_follow_the_docs(one: Import) -> None:
    table = one.desk.rows("covariates.csv")
    people = tuple(next(row["person"] for row in table if row["sex"] == sex) for sex in ("male", "female", ""))
    region = Region(people)
    auto, *x = (site for site in region.sites if len(site[2]) == len(site[3]) == len(site[3][0]) == 1)
    x = [site for site in x if site[0] == "chrX"]
    ways = {  # on X, of a man, a woman, and somebody whose sex is unknown
        "1": [2, -1, 2], "0": [0, -1, 0], "0/1": [-1, 1, 1], "1/1": [2, 2, 2], "0|0": [0, 0, 0], "./1": [-1, -1, -1],
        ".": [-1, -1, -1],
    }  # fmt: skip
    lines = [Line(*auto[:3], (*auto[3], "*"), ("0/2", "0|1", "1"))]
    lines += [Line(*site, (way,) * 3) for site, way in zip(x, ways, strict=False)]
    done = one(region.vcf(one.folder / "odd.vcf.gz", lines))
    assert done.exit == 0, done.printed
    rows, place = one.rows(people), places(one.manifest)
    for site, copies in zip([auto, *x], [[-1, 1, -1], *ways.values()], strict=False):
        row = place[site[0], site[1], site[3][0]]
        counted = copies if one.manifest.effect[row] == "alt" else [2 - n if n >= 0 else -1 for n in copies]
        assert rows[:, row].tolist() == counted, site
    found = done.data["genotypes"]
    assert found["calls"]["heterozygous_where_there_is_one"] == 1
    assert found["calls"]["haploid_where_two_are_expected"] == 3
    assert found["records"]["half_calls"] == 3


# --- decisions of patients


def test_an_erased_person_is_gone_from_the_store(one: Import) -> None:
    gone, stays = one.people[2], one.people[3]
    with one.store() as (site, store):
        row = int(site.people.find([gone])[0])
        opened = store.open(np.array([row, *site.people.find([stays])]), one.manifest, lambda: True)
        room = np.empty((2, len(one.manifest)), np.int8)
        opened.dosages(np.array([0]), room)
    before, others = one.sealed(gone), one.rows([stays])
    assert any(before)
    assert one.desk("consent", "erase", "--yes", gone).exit == 0
    with pytest.raises(GenopactError, match="KEY_ERASED"):
        opened.dosages(np.array([1]), room)
    assert not any(one.sealed(gone))
    assert before not in b"".join(contents(one.desk.home).values())
    with one.store() as (site, store):
        assert row not in store.rows()
        assert not site.keyfile.alive(np.array([row]))[0]
    with pytest.raises(GenopactError, match="ROW_UNKNOWN"):
        one.rows([gone])
    assert np.array_equal(one.rows([stays]), others)
    assert one.desk("genotypes", "verify", STORE).data == {"people": 23, "records": 23}
    assert one(one.folder / "first.vcf.gz").data["genotypes"]["people"] == 23


def test_a_withdrawal_closes_rows_that_are_open(one: Import) -> None:
    purpose, today = load_study(one.desk.study()).purpose, dt.datetime.now(dt.UTC).date()
    person = next(name for name in permitting(one.desk.rows("consent.csv")) if name in one.people[:24])
    with one.store() as (site, store):
        rows = site.people.find([person])
        opened = store.open(rows, one.manifest, lambda: bool(site.registry.permitted(purpose, today).rows[rows[0]]))
        room = np.empty((1, len(one.manifest)), np.int8)
        opened.dosages(np.array([0]), room)
        assert one.desk("consent", "withdraw", person).exit == 0
        for _ in range(2):
            with pytest.raises(GenopactError, match="ROWS_CLOSED"):
                opened.dosages(np.array([0]), room)


# --- further planes, further formats


def test_phases_and_expected_copies_come_back(empty: Import) -> None:
    """Sites with two ALTs have no DS: what is expected there is what was called."""
    region, first, manifest = empty.region, empty.people[:24], empty.manifest
    shares = np.random.default_rng(6).integers(0, 201, (len(region.sites), len(region.names))) / 100
    lines = [
        line._replace(form="GT:DS", cells=tuple(map("{}:{}".format, line.cells, given)))
        if len(line.alts) == 1 else line
        for line, given in zip(region.lines("chr1", "chr2"), shares, strict=False)
    ]  # fmt: skip
    done = empty(region.vcf(empty.folder / "ds.vcf.gz", lines), "--phases", "--expected")
    assert done.exit == 0, done.printed
    with empty.store() as (site, store):
        opened = store.open(site.people.find(first), manifest, lambda: True)
        expected, haplotypes = (opened.packed(np.arange(24), plane) for plane in ("expected", "haplotypes"))
    hard, place, columns = empty.rows(first), places(manifest), [region.names.index(person) for person in first]
    for line, given in zip(lines, shares, strict=False):
        for index, alt in enumerate(line.alts, 1):
            row = place[line.chrom, line.pos, alt]
            is_alt = manifest.effect[row] == "alt"
            bits = list[int]()
            for cell in (line.cells[column].split(":")[0] for column in columns):
                one, two = ((letter == str(index)) == is_alt for letter in cell.replace("/", "|").split("|"))
                bits.append(one | two << 1 if cell != "./." else 0)
            assert (haplotypes[:, row // 4] >> 2 * (row % 4) & 3).tolist() == bits
            copies = given[columns] if is_alt else 2 - given[columns]
            if len(line.alts) == 2:
                copies = np.where(hard[:, row] < 0, 255 / 127, hard[:, row])
            assert np.abs(expected[:, row] - 127 * copies).max() <= 0.5 + 1e-9


def test_a_plane_that_the_store_does_not_have_is_refused(one: Import) -> None:
    """What was asked for is kept, or there is an error."""
    before = contents(one.desk.home)
    for option in ("--phases", "--expected"):
        done = one(one.folder / "first.vcf.gz", option)
        assert done.exit != 0, done.printed
    assert contents(one.desk.home) == before


def test_an_array_gives_the_rows_of_the_vcf_where_letters_tell(one: Import) -> None:
    """Every second variant of the .bed is of the other strand; A1 is now REF, now ALT."""
    from bed_reader import to_bed

    region, expected = one.region, one.held("first.vcf.gz", one.people[:24])
    lines = [line for line in region.lines("chr1", "chr2") if len(line.ref) == len(line.alts) == len(line.alts[0]) == 1]
    values, alleles = np.empty((len(region.names), len(lines)), np.float32), list[tuple[str, str]]()
    for at, line in enumerate(lines):
        copies = np.array([np.nan if "." in cell else cell.count("1") for cell in line.cells])
        pair = line.ref, line.alts[0]
        pair = (COMPLEMENT[pair[0]], COMPLEMENT[pair[1]]) if at % 2 else pair
        values[:, at] = 2 - copies if at % 3 == 0 else copies
        alleles.append(pair if at % 3 == 0 else (pair[1], pair[0]))  # A1, A2
    about = {
        "iid": region.names, "chromosome": [line.chrom[3:] for line in lines], "bp_position": [s.pos for s in lines],
        "allele_1": [a1 for a1, _ in alleles], "allele_2": [a2 for _, a2 in alleles],
        "sid": [f"s{at}" for at in range(len(lines))],
    }  # fmt: skip
    to_bed(one.folder / "array.bed", values, properties=about)
    done = one(one.folder / "array.bed", "--array")
    assert done.exit == 0, done.printed
    found, place = one.rows(one.people[:24]), places(one.manifest)
    rows = [place[line.chrom, line.pos, line.alts[0]] for line in lines]
    plain = [COMPLEMENT[line.ref] != line.alts[0] for line in lines]
    assert 0 < sum(plain) < len(lines)
    for row, same in zip(rows, plain, strict=True):
        if same or (found[:, row] >= 0).any():  # a palindromic one is right, or missing for everybody
            assert np.array_equal(found[:, row], expected[:, row])
    assert (np.delete(found, rows, axis=1) == -1).all()
    assert done.data["genotypes"]["sites"]["flipped"] > 3
    turned = [line._replace(ref=COMPLEMENT[line.ref], alts=(COMPLEMENT[line.alts[0]],)) for line in lines]
    vcf = region.vcf(one.folder / "turned.vcf.gz", turned)
    refused(one(vcf), "VARIANT_BUILD", *one.people)
    assert one(vcf, "--array").exit == 0
    again = one.rows(one.people[:24])
    for row, same in zip(rows, plain, strict=True):
        assert np.array_equal(again[:, row], expected[:, row] if same else np.full(24, -1))


@pytest.mark.skipif(not shutil.which("plink2"), reason="plink2 is not installed")
def test_pgen_and_bgen_give_the_rows_of_the_vcf(one: Import) -> None:
    region = one.region
    lines = [line for line in region.lines("chr1", "chr2") if len(line.alts) == 1]
    vcf = region.vcf(one.folder / "some.vcf.gz", lines)
    assert one(vcf).exit == 0
    expected = one.rows(one.people[:24])
    common = ["plink2", "--vcf", str(vcf), "--out", str(one.folder / "some")]
    for more in (["--make-pgen"], ["--export", "bgen-1.2", "ref-first", "bits=8", "id-paste=iid"]):
        subprocess.run([*common, *more], check=True, capture_output=True)
    for name in ("some.pgen", "some.bgen"):
        done = one(one.folder / name)
        assert done.exit == 0, done.printed
        assert np.array_equal(one.rows(one.people[:24]), expected), name
    assert (expected >= 0).any()
