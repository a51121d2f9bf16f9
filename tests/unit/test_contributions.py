"""What a risk model is made of, told by variant, by block, with genes, and as scoring files."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from genopact_server.manifests import Draft
from genopact_server.report.contributions import Contributions, genes_of, table
from genopact_server.scoring import read_score
from genopact_shared.errors import GenopactError
from genopact_shared.manifest import VariantManifest
from genopact_shared.published import Published
from genopact_shared.recipes.risk import RISK, RiskParameters
from tests.unit.risk_panel import NAMES, VARIANTS, small_design

GFF = """##gff-version 3
chr22\tx\tgene\t100\t1100\t.\t+\t.\tID=gene:1;Name=ONE
22\tx\texon\t100\t200\t.\t+\t.\tParent=gene:1
22\tx\tgene\t5000\t9000\t.\t-\t.\tID=TWO
22\tx\tgene\t4000000\t4000100\t.\t-\t.\tgene_name=FAR
"""


def manifest() -> VariantManifest:
    return VariantManifest(
        "region", 1, "GRCh38", ".", ".", ("22",) * VARIANTS, np.arange(1, VARIANTS + 1) * 150, ("A",) * VARIANTS,
        ("G",) * VARIANTS, ("alt", "ref") * (VARIANTS // 2), np.full(VARIANTS, np.nan),
        tuple(f"rs{j}" for j in range(VARIANTS)),
        (".",) * VARIANTS, tuple(str(j // 20) for j in range(VARIANTS)), ("autosome",) * VARIANTS,
    )  # fmt: skip


def contributions(folder: Path, gff: Path | None = None) -> Contributions:
    variants = manifest()
    given = small_design(folder, 2000, 1.0, 0.5) | {"variants": variants.digest}
    plan = RISK.plan(RiskParameters.model_validate({**given, "groups": NAMES}), 2000, 3000, Published(folder))
    model = plan.initial()
    model["coefficients"][:] = np.arange(1, len(model["coefficients"]) + 1) / 10
    model["weights"][:] = np.random.default_rng(1).normal(0, 0.1, model["weights"].shape)
    assert len(plan.feature_names) == len(model["coefficients"])
    return Contributions.of(plan, model, variants, gff)


def test_shares_are_those_of_variances_and_add_up(tmp_path: Path) -> None:
    parts = contributions(tmp_path)
    rows = parts.by_variant()
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)
    naive = [
        np.mean([parts.found[k, j] ** 2 * 2 * parts.frequency[k, j] * (1 - parts.frequency[k, j]) for k in range(2)])
        for j in range(VARIANTS)
    ]
    assert rows[0]["id"] == f"rs{int(np.argmax(naive))}"
    assert float(rows[0]["share"]) == pytest.approx(max(naive) / sum(naive))
    blocks = parts.by_block([0, 20, 40, 60])
    assert sum(float(row["share"]) for row in blocks) == pytest.approx(1)
    assert [row["variants"] for row in blocks] == ["20"] * 3
    assert float(blocks[0]["share"]) == pytest.approx(max(sum(naive[at : at + 20]) for at in (0, 20, 40)) / sum(naive))
    text = table(rows).splitlines()
    assert text[0].split("\t")[:4] == ["chrom", "pos", "effect", "other"]
    assert len(text) == 1 + VARIANTS
    effects = {row["id"]: (row["effect"], row["other"]) for row in rows}
    assert effects["rs0"] == ("G", "A")
    assert effects["rs1"] == ("A", "G")


def test_published_weights_are_the_head_s_times_the_score(tmp_path: Path) -> None:
    parts = contributions(tmp_path)
    given = small_design(tmp_path, 2000, 1.0, 0.5)
    design = Published(tmp_path).read(given["design"])
    weigh = np.array([0.8, 0.8 + 0.9]) / design["score_sd"]
    assert np.allclose(parts.published, weigh[:, None] * design["score"] / 2**20)


def test_a_scoring_file_can_be_read_back(tmp_path: Path) -> None:
    parts, path = contributions(tmp_path), tmp_path / "score.txt"
    path.write_text(parts.score_file("sas"))
    draft = Draft(None)
    assert read_score(path, draft, None) == "GRCh38"
    made = draft.manifest("again", 1, "GRCh38", ".")
    weights = {
        (pos, alt if effect == "alt" else ref): weight
        for pos, ref, alt, effect, weight in zip(
            made.pos.tolist(), made.ref, made.alt, made.effect, made.extra["weight"].tolist(), strict=True
        )
    }
    for j, weight in enumerate(parts.found[1].tolist()):
        effect = "G" if j % 2 == 0 else "A"
        assert weights[(j + 1) * 150, effect] == pytest.approx(weight, rel=1e-6)


def test_genes_are_those_a_variant_lies_in_or_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "genes.gff3.gz"
    path.write_bytes(gzip.compress(GFF.encode()))
    genes = genes_of(manifest(), path)
    assert genes[0] == "ONE"  # 150
    assert genes[9] == "ONE"  # 1500: 400 from ONE, 3500 from TWO
    assert genes[33] == "TWO"  # 5100
    assert genes[59] == "TWO"  # 9000
    parts = contributions(tmp_path, path)
    assert {row["gene"] for row in parts.by_block([0, 20, 40, 60])} <= {"ONE", "TWO"}
    (tmp_path / "none.gff3").write_text("##gff-version 3\n")
    with pytest.raises(GenopactError, match="SITES_INVALID"):
        genes_of(manifest(), tmp_path / "none.gff3")


def test_another_manifest_is_refused(tmp_path: Path) -> None:
    parts = contributions(tmp_path)
    given = small_design(tmp_path, 2000, 1.0, 0.5)
    plan = RISK.plan(RiskParameters.model_validate({**given, "groups": NAMES}), 2000, 3000, Published(tmp_path))
    with pytest.raises(GenopactError, match="MANIFEST_INVALID"):
        Contributions.of(plan, plan.initial(), parts.variants)
