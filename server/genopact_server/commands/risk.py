"""`genopact risk`: what a finished risk model is made of, and its weights as files that others can use."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from genopact_server.commands.options import HOME, Home
from genopact_server.folder import Folder
from genopact_server.rounds import read_state
from genopact_shared import durable, wire
from genopact_shared.errors import GenopactError
from genopact_shared.manifest import parse
from genopact_shared.recipes import chosen
from genopact_shared.recipes.risk import RISK
from genopact_shared.terminal import Answer, command

app = typer.Typer(help="Weights and contributions of a risk model.", no_args_is_help=True, rich_markup_mode=None)
SHOWN = 12
EXAMPLE = "genopact risk explain RUN --manifest cad.variants --gff genes.gff3.gz --out cad"


@command(app, "explain", example=EXAMPLE)
def explain(
    run: Annotated[str, typer.Argument(help="The run.", show_default=False)],
    *,
    manifest: Annotated[Path, typer.Option(help="The study's variant manifest.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Prefix of the files.", show_default=False)],
    gff: Annotated[Path | None, typer.Option(help="GFF3 of the manifest's build, for names of genes.")] = None,
    home: Home = HOME,
) -> Answer:
    """Write OUT-variants.tsv, OUT-blocks.tsv, a scoring file for each ancestry and OUT-head.json.

    A share is that of the variance of log odds, each variant taken alone; published: the weight before this study.
    """
    from genopact_server.report.contributions import Contributions, table

    folder = Folder(home)
    path = folder.home / "runs" / run
    study = folder.study(read_state(path).study)
    if study.recipe.name != RISK.name:
        raise GenopactError("USAGE", f"the run is of recipe {study.recipe.name}")
    plan = RISK.plan(chosen(study.recipe)[1], 1, study.privacy.epsilon_milli, folder.published)
    model = wire.unpack(max(path.glob("model-*.safetensors")).read_bytes(), np.float64)
    parts = Contributions.of(plan, model, parse(durable.read(manifest, "MANIFEST_MISSING")), gff)
    blocks = parts.by_block(plan.design.arrays["block_variants"].tolist())
    head = dict(zip(plan.feature_names, model["coefficients"].tolist(), strict=True))
    texts = {f"{out}-variants.tsv": table(parts.by_variant()), f"{out}-blocks.tsv": table(blocks)}
    texts |= {f"{out}-{group}.txt": parts.score_file(group) for group in parts.groups}
    texts[f"{out}-head.json"] = json.dumps(head, indent=1)
    for name, text in texts.items():
        Path(name).write_text(text, "utf-8")
    shown = [
        f"{row['chrom']}:{row['first']}-{row['last']}  {row['share']:.1%}  {row['lead']}  {row['gene']}"
        for row in blocks
    ]
    return Answer(
        {"files": list(texts), "blocks": blocks[:SHOWN]}, [*shown[:SHOWN], *(f"Wrote {name}" for name in texts)]
    )
