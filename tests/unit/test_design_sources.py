"""Public files of a design, in the order of a manifest however they write alleles; and `genopact design build`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from genopact_server.cli import app
from genopact_server.design import posterior
from genopact_server.design.directions import TRANSFER
from genopact_server.design.panel import Panel
from genopact_server.design.posterior import Evidence
from genopact_server.design.sources import TRUST, evidence_of, known_score, panel_of
from genopact_shared import wire
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.manifest import VariantManifest
from genopact_shared.plan import plan_of
from genopact_shared.published import Published
from genopact_shared.recipes.network import NetSums
from genopact_shared.recipes.protocol import of_kind
from genopact_shared.recipes.rare_variant_autoencoder import RARE_VARIANT_AUTOENCODER, RareVariantParameters
from genopact_shared.recipes.risk import RISK, RiskPlan
from genopact_shared.recipes.risk_net import RiskNetParameters
from genopact_shared.recipes.table import Codes, Copies, Floats, Table
from genopact_shared.study import load_study
from tests.unit import genotype_rows
from tests.unit.risk_panel import VARIANTS, small_panel

PANEL = small_panel()
BLOCKS = tuple(str(at // 20) for at in range(VARIANTS))
MANIFEST = replace(genotype_rows.variants(VARIANTS), block=BLOCKS)
HEADER = "CHROM GENPOS ID ALLELE0 ALLELE1 A1FREQ N TEST BETA SE CHISQ LOG10P EXTRA"


def alleles(variants: VariantManifest, at: int) -> tuple[str, str]:
    """The effect allele and the other."""
    ref, alt = variants.ref[at], variants.alt[at]
    return (alt, ref) if variants.effect[at] == "alt" else (ref, alt)


def write_panel(prefix: Path, dosages: Codes, names: Sequence[str], *, flip: int = 0, skip: int = 0) -> Path:
    """Copies of effect alleles as PLINK files: of every `flip`-th variant A1 is the other allele; none of the first."""
    codes, body, bim = {2: 0, -1: 1, 1: 2, 0: 3}, bytearray(b"\x6c\x1b\x01"), list[str]()
    for at in range(skip, dosages.shape[1]):
        effect, other = alleles(MANIFEST, at)
        calls = dosages[:, at].tolist()
        if flip and at % flip == 0:
            effect, other, calls = other.lower(), effect.lower(), [call if call < 0 else 2 - call for call in calls]
        bim.append(f"{['1', 'chr1'][at % 2]}\trs{at}\t0\t{MANIFEST.pos[at]}\t{effect}\t{other}\n")
        for start in range(0, len(calls), 4):
            body.append(sum(codes[call] << 2 * i for i, call in enumerate(calls[start : start + 4])))
    prefix.with_suffix(".bed").write_bytes(body)
    prefix.with_suffix(".bim").write_text("".join(bim))
    prefix.with_suffix(".fam").write_text("".join(f"{name} {at} 0 0 0 -9\n" for at, name in enumerate(names)))
    return prefix


PEOPLE = [PANEL.names[k] for k in PANEL.ancestry]
BETA, SE = np.random.default_rng(6).normal(0, 0.05, VARIANTS), np.linspace(0.02, 0.04, VARIANTS)


def write_gwas(path: Path, *, flip: int = 0, people: int = 400, beta: Floats = BETA) -> Path:
    """Associations of effect alleles; of every `flip`-th variant those of the other allele."""
    lines = [HEADER]
    for at in range(VARIANTS):
        effect, other, value = *alleles(MANIFEST, at), beta[at]
        if flip and at % flip == 1:
            effect, other, value = other.lower(), effect.lower(), -value
        numbers = f"0.3 {people} ADD {float(value)!r} {float(SE[at])!r} 1 1 NA"
        lines.append(f"chr1 {MANIFEST.pos[at]} rs {other} {effect} {numbers}")
    path.write_text("\n".join([*lines, ""]))
    return path


def same(one: Panel, two: Panel) -> bool:
    blocks = [each.tolist() for each in one.blocks] == [each.tolist() for each in two.blocks]
    return blocks and one.names == two.names and bool((one.dosages == two.dosages).all())


# --- a panel's files


def test_a_panel_is_the_same_whichever_allele_its_files_count(tmp_path: Path) -> None:
    dosages = np.where(np.random.default_rng(1).random((240, VARIANTS)) < 0.1, -1, PANEL.dosages).astype(np.int8)
    plain = panel_of(write_panel(tmp_path / "one", dosages, PEOPLE), MANIFEST)
    assert same(plain, replace(PANEL, dosages=dosages))
    assert (plain.ancestry == PANEL.ancestry).all()
    for flip in (1, 3):
        assert same(plain, panel_of(write_panel(tmp_path / "two", dosages, PEOPLE, flip=flip), MANIFEST))


def test_variants_that_a_panel_lacks_are_missing_and_most_must_be_there(tmp_path: Path) -> None:
    found = panel_of(write_panel(tmp_path / "one", PANEL.dosages, PEOPLE, skip=30), MANIFEST)
    assert (found.dosages[:, :30] == -1).all()
    assert (found.dosages[:, 30:] == PANEL.dosages[:, 30:]).all()
    with pytest.raises(GenopactError, match="PANEL_INVALID"):
        panel_of(write_panel(tmp_path / "one", PANEL.dosages, PEOPLE, skip=31), MANIFEST)


def test_another_variant_at_the_place_is_not_taken_for_ours(tmp_path: Path) -> None:
    prefix = write_panel(tmp_path / "one", PANEL.dosages, PEOPLE)
    lines = [line.split("\t") for line in prefix.with_suffix(".bim").read_text().splitlines()]
    lines[4][4], lines[9][0], lines[14][3] = "GATTACA", "2", "x"
    prefix.with_suffix(".bim").write_text("\n".join(map("\t".join, lines)) + "\n")
    found = panel_of(prefix, MANIFEST)
    assert np.flatnonzero((found.dosages == -1).all(axis=0)).tolist() == [4, 9, 14]


def test_an_ancestry_of_one_person_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GenopactError, match="PANEL_INVALID"):
        panel_of(write_panel(tmp_path / "one", PANEL.dosages, ["eas", *PEOPLE[1:]]), MANIFEST)


def test_blocks_are_the_manifest_s_or_megabases_and_hang_together(tmp_path: Path) -> None:
    blocks = (".",) * 20 + ("a",) * 10 + (".",) * 10 + ("a",) * 20
    pos = np.arange(1, VARIANTS + 1) + np.where(np.arange(VARIANTS) < 5, 0, 1_000_000)
    variants = replace(MANIFEST, block=blocks, pos=pos)
    prefix = write_panel(tmp_path / "one", PANEL.dosages, PEOPLE)
    lines = [line.split("\t") for line in prefix.with_suffix(".bim").read_text().splitlines()]
    text = ["\t".join([*line[:3], str(at), *line[4:]]) for line, at in zip(lines, pos, strict=True)]
    prefix.with_suffix(".bim").write_text("\n".join(text) + "\n")
    assert [len(each) for each in panel_of(prefix, variants).blocks] == [5, 15, 10, 10, 20]


# --- associations


def naive_evidence(beta: Floats, trust: float, k: int) -> tuple[float, Floats]:
    """Of one ancestry: information of a variant of variance 1, and the slope at no effect of x."""
    f = PANEL.frequency[k]
    square = 2 * f * (1 - f)
    informed = [1 / SE[at] ** 2 / square[at] for at in range(VARIANTS) if square[at] > 0.05]
    return trust * float(np.median(informed)), trust * beta / SE**2 / PANEL.sd


def test_evidence_is_the_same_whichever_allele_is_tested(tmp_path: Path) -> None:
    for flip in (0, 1, 4):
        found = evidence_of(PANEL, MANIFEST, {"sas": write_gwas(tmp_path / "gwas", flip=flip)})
        information, gradient = naive_evidence(BETA, 1.0, 1)
        assert found.information == pytest.approx([0, information])
        assert np.allclose(found.gradient, [np.zeros(VARIANTS), gradient])


@pytest.mark.parametrize(("people", "trust"), [(480, 1.0), (481, TRUST)])
def test_a_crowd_s_statistics_count_less_with_the_linkage_of_few(tmp_path: Path, people: int, trust: float) -> None:
    found = evidence_of(PANEL, MANIFEST, {"eur": write_gwas(tmp_path / "gwas", people=people)})
    assert found.information[0] == pytest.approx(naive_evidence(BETA, trust, 0)[0])
    assert np.allclose(found.gradient[0], naive_evidence(BETA, trust, 0)[1])


def test_lines_without_a_result_are_skipped(tmp_path: Path) -> None:
    path = write_gwas(tmp_path / "gwas")
    lines = path.read_text().splitlines()
    cells = [line.split() for line in lines]
    cells[1][8], cells[2][9], cells[3][9], cells[4][8], cells[5][0] = "NA", "NA", "0", "inf", "chrUn_7"
    cells[6][1], cells[7][3], cells[8][6] = "1.5", "TTTT", "NA"
    path.write_text("\n".join([*map(" ".join, cells), ""]))
    found = evidence_of(PANEL, MANIFEST, {"eur": path})
    assert np.flatnonzero(found.gradient[0] == 0).tolist() == list(range(8))
    assert np.allclose(found.gradient[0, 8:], naive_evidence(BETA, 1.0, 0)[1][8:])


BAD_TABLES = {
    "": "SITES_INVALID",
    HEADER.replace("BETA", "OR"): "SITES_INVALID",
    HEADER + "\n1 5 rs A": "SITES_INVALID",
    HEADER: "SITES_INVALID",
    HEADER + "\n2 5 rs A C 0.3 100 ADD 0.1 0.1 1 1 NA": "SITES_INVALID",
}


@pytest.mark.parametrize(("text", "code"), BAD_TABLES.items(), ids=range(len(BAD_TABLES)))
def test_other_tables_are_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "gwas").write_text(text)
    with pytest.raises(GenopactError, match=code):
        evidence_of(PANEL, MANIFEST, {"eur": tmp_path / "gwas"})


def test_unknown_ancestries_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GenopactError, match="USAGE"):
        evidence_of(PANEL, MANIFEST, {"afr": write_gwas(tmp_path / "gwas")})
    with pytest.raises(GenopactError, match="SITES_MISSING"):
        evidence_of(PANEL, MANIFEST, {"eur": tmp_path / "none"})


def test_a_known_score_leaves_as_much_unknown_as_it_explains() -> None:
    weights = np.where(np.arange(VARIANTS) == 5, np.nan, np.random.default_rng(2).normal(0, 0.1, VARIANTS))
    found = known_score(PANEL, replace(MANIFEST, extra={"weight": weights}))
    own = replace(MANIFEST, extra={"weight": weights}).extra["weight"]
    assert np.allclose(found.mean, np.nan_to_num(own) * PANEL.sd)
    assert (found.samples == 0).all()
    square = 2 * PANEL.frequency * (1 - PANEL.frequency)
    explained = max(sum(np.nan_to_num(own[j]) ** 2 * square[k, j] for j in range(VARIANTS)) for k in range(2))
    carried = max(sum(found.slab[j] * square[k, j] / PANEL.sd[j] ** 2 for j in range(VARIANTS)) for k in range(2))
    assert (1 - TRANSFER**2) * carried == pytest.approx(explained)
    assert (known_score(PANEL, MANIFEST).mean == 0).all()


# --- the command


TEMPLATE: dict[str, Any] = {
    "schema": "genopact.study/1", "name": "risk", "title": "Risk", "contact": "office",
    "purpose": {
        "permission": "HMB", "uses": ["train"], "organisations": ["public"], "commercial": False, "regions": ["DE"],
        "data": ["genotype", "ehr"],
    },
    "outcome": "disease", "recipe": {"name": "risk", "version": 1}, "metrics": list(RISK.measures),
    "privacy": {
        "mode": "distributed", "epsilon_milli": 3000, "delta": "0.000001", "honest_minimum": 3, "spare_attempts": 2,
    },
    "schedule": {"quorum": 3, "deadline_s": 20}, "minimum_cohort": 100, "release": "parties", "expires": "2049-12-31",
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's folder and public files."""
    folder = tmp_path_factory.mktemp("desk")
    call("coordinator", "init", "hub", "--address", "127.0.0.1:20999", "--home", folder / "hub")
    (folder / "small.variants").write_bytes(MANIFEST.encode())
    write_panel(folder / "panel", PANEL.dosages, PEOPLE, flip=3)
    write_gwas(folder / "gwas", flip=4, people=2000)
    for name in ("north", "south", "west", "east"):
        keys = {use: SigningKey.generate().public.hex for use in ("identity", "log", "approver")}
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "node": "PEM", **keys}))
    return folder


def call(*arguments: object, expect: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--format", "json"])
    assert done.exit_code == expect, done.output
    data: dict[str, Any] = json.loads(done.stdout)["data"]
    return data


def build(desk: Path, *more: object, expect: int = 0, template: Any = TEMPLATE, out: str = "risk.design") -> Any:
    (desk / "template.yaml").write_text(template if isinstance(template, str) else yaml.safe_dump(template))
    files = ("--manifest", desk / "small.variants", "--panel", desk / "panel", "--home", desk / "hub")
    outputs = ("--out", desk / out, "--study", desk / "designed.yaml")
    counts = ("--patients", 2000, "--sites", 4)
    return call("design", "build", desk / "template.yaml", *files, *outputs, *counts, *more, expect=expect)


@pytest.mark.parametrize("shares", [(80, 10, 860), (700, 50, 200)])
def test_build_makes_a_study_and_a_design_for_its_noise(
    desk: Path, monkeypatch: pytest.MonkeyPatch, shares: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(posterior, "SWEEPS", 140)
    template = with_parameters({"shares_milli": list(shares), "clip_milli": 300})
    public = ("--gwas", f"sas={desk / 'gwas'}", "--mix", "sas=3,eur=1", "--prevalence", 0.2)
    told = build(desk, *public, template=template)
    data = (desk / "risk.design").read_bytes()
    cards = [part for name in ("north", "south", "west", "east") for part in ("--card", desk / f"{name}.json")]
    call("study", "compose", desk / "designed.yaml", *cards, "--out", desk / "study.yaml", "--home", desk / "hub")
    study = load_study(desk / "study.yaml")
    sites = {party.name: 500 for party in study.parties}
    plan = plan_of(study, sites, Published(desk / "hub" / "published"))
    course = plan.course
    assert isinstance(course, RiskPlan)
    p = course.parameters
    assert (p.variants, p.groups, p.shares_milli) == (MANIFEST.digest, ("eur", "sas"), shares)
    assert (p.directions, p.features, p.prevalence_milli) == (told["directions"], 10, 200)
    assert Published(desk / "other").add(data) == p.design == told["design"]
    arrays = course.design.arrays
    assert wire.pack(arrays) == data
    step = plan.steps[9]
    assert arrays["noise"][0] == pytest.approx((4 * step.share_variance) ** 0.5 / course.steps[9].scale, rel=1e-5)
    table = Table({}, 240, Copies(PANEL.dosages))
    model = course.initial()
    for index, sums in enumerate(course.steps):
        model = course.advance(index, model, np.full(sums.dims, 0.5))
    assert np.isfinite(course.predict(model, None, table).value).all()


def network(desk: Path, *more: object, template: Any, expect: int = 0) -> Any:
    (desk / "net.yaml").write_text(yaml.safe_dump(template))
    files = ("--manifest", desk / "small.variants", "--panel", desk / "panel", "--home", desk / "hub")
    outputs = ("--out", desk / "tokens", "--study", desk / "net-designed.yaml")
    return call("design", "network", desk / "net.yaml", *files, *outputs, *more, expect=expect)


def test_network_makes_a_study_and_the_tokens_that_its_sites_read(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "SWEEPS", 140)
    recipe = {"name": "risk-net", "version": 1, "parameters": {"rounds": 3, "width": 2}}
    template = TEMPLATE | {"recipe": recipe, "metrics": []}
    told = network(desk, "--gwas", f"sas={desk / 'gwas'}", "--mix", "sas=3,eur=1", "--tops", 1, template=template)
    cards = [part for name in ("north", "south", "west", "east") for part in ("--card", desk / f"{name}.json")]
    call(
        "study", "compose", desk / "net-designed.yaml", *cards, "--out", desk / "net-study.yaml", "--home", desk / "hub"
    )
    study = load_study(desk / "net-study.yaml")
    course = plan_of(study, {party.name: 500 for party in study.parties}, Published(desk / "hub" / "published")).course
    assert isinstance(course, NetSums)
    p = of_kind(course.parameters, RiskNetParameters)
    assert (p.variants, p.rounds, p.width, p.columns, p.ancestries) == (MANIFEST.digest, 3, 2, 6, 2)
    assert Published(desk / "another").add((desk / "tokens").read_bytes()) == p.design == told["design"]
    assert p.score_milli > 0
    found = course.predict(course.initial(), None, Table({}, 240, Copies(PANEL.dosages)))
    assert np.isfinite(found.value).all()
    assert found.value.std() > 0


@pytest.mark.parametrize("recipe", [TEMPLATE["recipe"], "risk-net", ["risk-net"], None])
def test_network_refuses_a_template_of_another_recipe(desk: Path, recipe: Any) -> None:
    assert network(desk, template=TEMPLATE | {"recipe": recipe}, expect=2)["code"] == "STUDY_INVALID"


def genes(desk: Path, *more: object, gff: str, recipe: str = "rare-variant-autoencoder", expect: int = 0) -> Any:
    (desk / "rare.yaml").write_text(yaml.safe_dump(TEMPLATE | {"recipe": {"name": recipe, "version": 1}}))
    (desk / "genes.gff3").write_text(gff)
    files = ("--manifest", desk / "small.variants", "--panel", desk / "panel", "--home", desk / "hub")
    outputs = ("--gff", desk / "genes.gff3", "--out", desk / "rare.genes", "--study", desk / "rare-designed.yaml")
    return call("design", "genes", desk / "rare.yaml", *files, *outputs, *more, expect=expect)


def test_genes_have_their_rare_variants_whichever_allele_is_rare(desk: Path) -> None:
    """Against a loop over genes, variants and people."""
    pos, rare = MANIFEST.pos, 0.3
    spans = [(pos[0], pos[9]), (pos[5], pos[30] + 1), (pos[40] + 1, pos[41] - 1), (pos[45], pos[55])]
    lines = [f"chr1\tx\tgene\t{a}\t{b}\t.\t+\t.\tName=G{at}" for at, (a, b) in enumerate(spans)]
    told = genes(desk, "--rare", rare, gff="\n".join([*lines, f"chr7\tx\tgene\t1\t{pos[-1]}\t.\t+\t.\tName=G9"]))
    file = Published(desk / "hub" / "published").read(told["design"])
    expected, listed = [], []
    for at, (first, last) in enumerate(spans):
        burden = np.zeros(len(PANEL.dosages))
        for j in range(VARIANTS):
            own = PANEL.dosages[:, j]
            share = (own[own >= 0].sum() + 0.5) / (2 * (own >= 0).sum() + 1)
            sign = 1 if share < rare else -1 if share > 1 - rare else 0
            if first <= pos[j] <= last and sign:
                burden += sign * np.where(own < 0, 2 * share, own)
        if burden.any():
            expected.append(burden)
            listed.append(f"G{at}")
    assert (desk / "rare.genes.genes").read_text().split() == listed == ["G0", "G1", "G3"]
    study = yaml.safe_load((desk / "rare-designed.yaml").read_text())
    of = RareVariantParameters.model_validate(study["recipe"]["parameters"])
    table = Table({}, len(PANEL.dosages), Copies(PANEL.dosages))
    inputs, _ = RARE_VARIANT_AUTOENCODER.tensors(table, of, Published(desk / "hub" / "published"))
    found = inputs.numpy() * file["scale"] + file["centre"]
    assert found == pytest.approx(np.clip(np.array(expected).T, *_bounds(file)), abs=1e-4)


def _bounds(file: Any) -> tuple[Floats, Floats]:
    return file["centre"] - 6 * file["scale"], file["centre"] + 6 * file["scale"]


def test_genes_without_rare_variants_and_other_recipes_are_refused(desk: Path) -> None:
    one = f"chr1\tx\tgene\t1\t{MANIFEST.pos[-1]}\t.\t+\t.\tName=G"
    assert genes(desk, gff=one, expect=2)["code"] == "SITES_INVALID"
    assert genes(desk, gff="nothing\n", expect=2)["code"] == "SITES_INVALID"
    assert genes(desk, gff=one, recipe="multiomics", expect=2)["code"] == "STUDY_INVALID"


def test_the_same_inputs_give_the_same_bytes(desk: Path) -> None:
    found = []
    for name in ("one.design", "two.design"):
        build(desk, out=name)
        found.append((desk / name).read_bytes())
    assert found[0] == found[1]
    build(desk, "--patients", 3000, out="two.design")
    assert (desk / "two.design").read_bytes() != found[0]


def test_a_study_without_noise_has_a_design_without_noise(desk: Path) -> None:
    privacy = {"mode": "none", "delta": "0.000001", "honest_minimum": 1}
    told = build(desk, template=TEMPLATE | {"privacy": privacy}, out="exact.design")
    arrays = Published(desk / "hub" / "published").read(told["design"])
    assert arrays["noise"][0] == pytest.approx(0.001)
    assert told["directions"] > 60


@pytest.mark.parametrize(
    "mix",
    ["eur=1", "eur=1,sas=0", "eur=1,sas=-1", "eur=1,sas=nan", "eur=1,sas=inf", "eur=1,sas", "eur=1,sas=1,afr=1", ""],
)
def test_a_bad_mix_is_refused(desk: Path, mix: str) -> None:
    assert build(desk, "--mix", mix, expect=2)["code"] == "USAGE"


def with_parameters(parameters: Any) -> dict[str, Any]:
    return TEMPLATE | {"recipe": {"name": "risk", "version": 1, "parameters": parameters}}


BAD_TEMPLATES: dict[str, Any] = {
    "no privacy": {key: value for key, value in TEMPLATE.items() if key != "privacy"},
    "no recipe": {key: value for key, value in TEMPLATE.items() if key != "recipe"},
    "another recipe": TEMPLATE | {"recipe": {"name": "dose", "version": 1}},
    "another version": TEMPLATE | {"recipe": {"name": "risk", "version": 2}},
    "a recipe of one word": TEMPLATE | {"recipe": "risk"},
    "no parameters at all": with_parameters(None),
    "no budget left": with_parameters({"shares_milli": [500, 400, 200]}),
    "shares of words": with_parameters({"shares_milli": "all"}),
    "a clip of words": with_parameters({"clip_milli": "wide"}),
    "no budget": TEMPLATE | {"privacy": {"mode": "distributed", "honest_minimum": 3}},
    "a list": [1, 2],
    "a word": "risk",
}  # fmt: skip


@pytest.mark.parametrize("template", BAD_TEMPLATES.values(), ids=BAD_TEMPLATES)
def test_a_bad_template_is_refused(desk: Path, template: Any) -> None:
    assert build(desk, template=template, expect=2)["code"] == "STUDY_INVALID"


def test_files_that_cannot_be_used_have_codes(desk: Path, tmp_path: Path) -> None:
    assert build(desk, template="{", expect=2)["code"] == "STUDY_UNREADABLE"
    assert build(desk, "--manifest", tmp_path / "none", expect=2)["code"] == "MANIFEST_MISSING"
    assert build(desk, "--panel", tmp_path / "none", expect=2)["code"] == "PANEL_INVALID"
    assert build(desk, "--gwas", "eur", expect=2)["code"] == "USAGE"
    assert build(desk, "--gwas", f"afr={desk / 'gwas'}", expect=2)["code"] == "USAGE"
    assert build(desk, "--gwas", f"eur={tmp_path / 'none'}", expect=2)["code"] == "SITES_MISSING"


def test_evidence_without_publications_is_none() -> None:
    found = evidence_of(PANEL, MANIFEST, {})
    assert isinstance(found, Evidence)
    assert (found.information == 0).all()
