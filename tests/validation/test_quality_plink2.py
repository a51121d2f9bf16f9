"""Quality control against plink2 and plink1.9, on generated people and on the 1000 Genomes."""

import csv
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genopact_ingest.kinship import panel_columns, related
from genopact_ingest.quality import Quality, QualityThresholds, assess
from genopact_shared.manifest import VariantManifest
from tests.unit.quality_people import Dosages, children, chunks, drawn, manifest, packed, people

DATA = Path(__file__).parents[3] / "shared" / "data" / "kg1000_peddy_23k"
KINDS = ["autosome"] * 2000 + ["par"] * 40 + ["x"] * 300 + ["y"] * 60 + ["mt"] * 30
KNOWN = {"autosome": "1", "par": "XY", "x": "X", "y": "Y", "mt": "MT"}
pytestmark = pytest.mark.skipif(
    not (shutil.which("plink2") and shutil.which("plink1.9")), reason="plink2 and plink1.9 are not installed"
)


@dataclass
class Site:
    """The same people as .bed files and as a result of ours."""

    folder: Path
    dosages: Dosages
    sex: NDArray[np.int8]
    manifest: VariantManifest
    quality: Quality

    def plink(self, suffix: str, *command: str, program: str = "plink2") -> Iterator[dict[str, str]]:
        """The rows of a table that plink writes."""
        out = self.folder / "out"
        done = subprocess.run(
            [program, "--bfile", str(self.folder / "site"), "--threads", "1", "--out", str(out), *command],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in Path(f"{out}.{suffix}").read_text().splitlines()]
        yield from (dict(zip(lines[0], line, strict=True)) for line in lines[1:])

    def column(self, suffix: str, column: str, *command: str, program: str = "plink2") -> NDArray[np.float64]:
        values = [row[column] for row in self.plink(suffix, *command, program=program)]
        return np.array([float(value) if value not in ("nan", "NA") else np.nan for value in values])

    def frequencies(self) -> list[str]:
        """The manifest's frequencies, for plink to use instead of the sample's."""
        rows = ["#CHROM\tID\tREF\tALT\tALT_FREQS\tOBS_CT"]
        rows += [
            f"{KNOWN[kind]}\tv{at}\tC\tA\t{frequency:.17g}\t1000000"
            for at, (kind, frequency) in enumerate(zip(self.manifest.kind, self.manifest.frequency, strict=True))
        ]
        (self.folder / "given.afreq").write_text("\n".join(rows) + "\n")
        return ["--read-freq", str(self.folder / "given.afreq")]


def site(
    folder: Path, dosages: Dosages, sex: NDArray[np.int8], variants: VariantManifest, chroms: Sequence[str]
) -> Site:
    n, size = dosages.shape
    (folder / "site.bed").write_bytes(b"\x6c\x1b\x01" + packed(np.ascontiguousarray(dosages.T)).tobytes())
    (folder / "site.bim").write_text("".join(f"{chroms[v]}\tv{v}\t0\t{v + 1}\tA\tC\n" for v in range(size)))
    (folder / "site.fam").write_text("".join(f"0\tp{i}\t0\t0\t{[0, 2, 1][sex[i] + 1]}\t-9\n" for i in range(n)))
    policy = QualityThresholds(variant_call_rate=0)
    return Site(folder, dosages, sex, variants, assess(chunks(dosages, 64), variants, people(n, sex), policy))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Families among 200 people, missing calls, some of the sexes unknown, variants out of proportion."""
    rng = np.random.default_rng(5)
    frequency, sex = rng.uniform(0.01, 0.99, len(KINDS)), (np.arange(200) % 2).astype(np.int8)
    dosages = drawn(200, frequency, KINDS, sex, rng)
    dosages[100:110, :2000] = children(dosages[:10, :2000], dosages[10:20, :2000], rng)
    dosages[110:112, :2000] = dosages[:2, :2000]
    odd = (dosages[:, :50] == 1) & (rng.random((200, 50)) < 0.5)
    dosages[:, :50][odd] = 0
    dosages[rng.random(dosages.shape) < rng.choice([0, 0.02, 0.3], (1, len(KINDS)))] = -1
    variants = manifest(np.clip(frequency + rng.normal(0, 0.02, len(KINDS)), 0.001, 0.999), KINDS)
    return site(tmp_path_factory.mktemp("made"), dosages, sex, variants, [KNOWN[kind] for kind in KINDS])


def test_missingness(made: Site) -> None:
    missing = made.column("vmiss", "F_MISS", "--missing")
    np.testing.assert_allclose(1 - made.quality.called, missing, rtol=2e-5, atol=1e-9)
    missing = made.column("smiss", "F_MISS", "--missing", "--not-chr", "Y")
    np.testing.assert_allclose(1 - made.quality.call_rate, missing, rtol=2e-5, atol=1e-9)


def test_frequencies(made: Site) -> None:
    theirs = made.column("afreq", "ALT_FREQS", "--freq")
    np.testing.assert_allclose(made.quality.frequency, theirs, rtol=2e-5, atol=1e-9)


def test_hardy_weinberg(made: Site) -> None:
    theirs = made.column("hardy", "P", "--hardy")
    ours = made.quality.hardy_weinberg[0, : len(theirs)]
    assert theirs.min() < 1e-8
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    women = made.column("hwe", "P", "--hardy", "--chr", "X", program="plink1.9")  # on X of women alone
    np.testing.assert_allclose(made.quality.hardy_weinberg[0, 2040:2340], women, rtol=1e-3)


def test_heterozygosity(made: Site) -> None:
    np.testing.assert_allclose(made.quality.f, made.column("het", "F", "--het", *made.frequencies()), atol=2e-5)


def test_sex(made: Site) -> None:
    rows = list(made.plink("sexcheck", "--check-sex", "0.5", "0.8", program="plink1.9"))
    own = np.array([float(row["F"]) for row in rows])
    assert np.corrcoef(own, made.quality.x_f)[0, 1] > 0.999  # theirs uses the sample's frequencies
    assert [int(row["SNPSEX"]) % 2 for row in rows] == made.quality.genetic_sex.tolist()


def test_kinship(made: Site) -> None:
    columns = panel_columns(made.manifest)
    (made.folder / "panel").write_text("\n".join(f"v{v}" for v in columns))
    table = list(made.plink("kin0", "--make-king-table", "--extract", str(made.folder / "panel")))
    ours = related(packed(made.dosages[:, columns]), np.ones(len(columns), np.bool_), -np.inf, 64)
    place = {tuple(pair): at for at, pair in enumerate(ours.pairs.tolist())}
    assert len(table) == len(place) == 200 * 199 // 2
    at = [place[tuple(sorted(int(row[name][1:]) for name in ("IID1", "IID2")))] for row in table]
    np.testing.assert_allclose(ours.coefficient[at], [float(row["KINSHIP"]) for row in table], atol=1e-6)
    np.testing.assert_allclose(ours.opposite[at], [float(row["IBS0"]) for row in table], atol=1e-6)


# --- the 1000 Genomes


@pytest.fixture(scope="module")
def genomes(tmp_path_factory: pytest.TempPathFactory) -> Site:
    with np.load(DATA / "kg_geno.npz", allow_pickle=False) as file:
        dosages = file["G"].astype(np.int8)
    with (DATA / "samples.csv").open() as lines:
        sex = np.array([{"2": 0, "1": 1}[row["sex"]] for row in csv.DictReader(lines)], np.int8)
    places = [line.split(":") for line in (DATA / "sites_GRCh37.txt").read_text().split()]
    chroms, positions, refs, alts = zip(*places, strict=True)
    size, none, frequency = len(places), (".",) * len(places), dosages.mean(axis=0) / 2
    variants = VariantManifest(
        name="kg", version=1, build="GRCh37", reference=".", frequencies="the sample itself", chrom=chroms,
        pos=np.array(positions, np.int64), ref=refs, alt=alts, effect=("alt",) * size, frequency=frequency,
        id=none, gene=none, block=none, kind=("autosome",) * size,
    )  # fmt: skip
    return site(tmp_path_factory.mktemp("genomes"), dosages, sex, variants, chroms)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are absent")
def test_the_1000_genomes(genomes: Site) -> None:
    """Real linkage, real relatives, 26 populations: the same numbers as plink2's."""
    ours = genomes.quality
    np.testing.assert_allclose(ours.frequency, genomes.column("afreq", "ALT_FREQS", "--freq"), rtol=2e-5, atol=1e-9)
    theirs = genomes.column("hardy", "P", "--hardy")
    kept = theirs > 1e-290
    assert (ours.hardy_weinberg[0][~kept] < 1e-289).all()
    np.testing.assert_allclose(ours.hardy_weinberg[0][kept], theirs[kept], rtol=2e-5)
    np.testing.assert_allclose(ours.f, genomes.column("het", "F", "--het", *genomes.frequencies()), atol=2e-5)
    assert not ours.person_flags["call_rate"].any()
    columns = panel_columns(genomes.manifest)
    (genomes.folder / "panel").write_text("\n".join(f"v{v}" for v in columns))
    filters = ["--extract", str(genomes.folder / "panel"), "--king-table-filter", "0.0884"]
    table = {
        tuple(sorted(int(row[name][1:]) for name in ("IID1", "IID2"))): float(row["KINSHIP"])
        for row in genomes.plink("kin0", "--make-king-table", *filters)
    }
    assert ours.kinship is not None
    pairs = [tuple(pair) for pair in ours.kinship.pairs.tolist()]
    assert set(pairs) == table.keys()
    np.testing.assert_allclose(ours.kinship.coefficient, [table[pair] for pair in pairs], atol=1e-6)
