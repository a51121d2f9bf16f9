"""`genopact risk`: what a finished risk model is made of, and its weights as files that others can use."""

import json
from pathlib import Path
from typing import Annotated

import typer

from genopact_server.commands.options import HOME, Home, ManifestFile, RunName, opened, read_manifest
from genopact_shared.errors import require
from genopact_shared.recipes import chosen
from genopact_shared.recipes.risk import RISK
from genopact_shared.terminal import Answer, command

app = typer.Typer(help="Weights and contributions of a risk model.", no_args_is_help=True, rich_markup_mode=None)
SHOWN = 12
EXAMPLE = "genopact risk explain RUN --manifest cad.variants --gff genes.gff3.gz --out cad"


@command(app, "explain", example=EXAMPLE)
def explain(
    run: RunName,
    *,
    manifest: ManifestFile,
    out: Annotated[Path, typer.Option(help="Prefix of the files.", show_default=False)],
    gff: Annotated[Path | None, typer.Option(help="GFF3 of the manifest's build, for names of genes.")] = None,
    home: Home = HOME,
) -> Answer:
    """Write OUT-variants.tsv, OUT-blocks.tsv, a scoring file for each ancestry and OUT-head.json.

    A share is that of the variance of log odds, each variant taken alone; published: the weight before this study.
    """
    from genopact_server.report.contributions import Contributions, table
    from genopact_server.report.facts import read_model

    folder, path, study = opened(home, run)
    require(study.recipe.name == RISK.name, "USAGE", f"the run is of recipe {study.recipe.name}")
    plan = RISK.plan(chosen(study.recipe)[1], 1, study.privacy.epsilon_milli, folder.published)
    model = read_model(max(path.glob("model-*.safetensors")))
    parts = Contributions.of(plan, model, read_manifest(manifest), gff)
    blocks = parts.by_block(plan.design.arrays["block_variants"].tolist())
    head = dict(zip(plan.feature_names, model["coefficients"].tolist(), strict=True))
    texts = {f"{out}-variants.tsv": table(parts.by_variant()), f"{out}-blocks.tsv": table(blocks)}
    texts |= {f"{out}-{group}.txt": parts.score_file(group) for group in parts.groups}
    texts[f"{out}-head.json"] = json.dumps(head, indent=1)
    for name, text in texts.items():
        Path(name).write_text(text, "utf-8")
    line = "{chrom}:{first}-{last}  {share:.1%}  {lead}  {gene}"
    shown = [line.format(**row) for row in blocks[:SHOWN]]
    return Answer({"files": list(texts), "blocks": blocks[:SHOWN]}, [*shown, *(f"Wrote {name}" for name in texts)])
