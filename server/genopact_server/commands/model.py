"""`genopact model`: what moves a finished network, and the network as a file that others can use."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genopact_server.commands.options import HOME, Home, RunName, opened
from genopact_shared import durable
from genopact_shared.errors import GenopactError
from genopact_shared.recipes import NETWORKS, chosen
from genopact_shared.terminal import Answer, command, working

if TYPE_CHECKING:
    from genopact_shared.recipes.network import NetPlan
    from genopact_shared.recipes.protocol import Matrix, Model, Values

app = typer.Typer(help="Explain and export a network.", no_args_is_help=True, rich_markup_mode=None)
SHOWN, OUTPUTS = 20, 10
EXAMPLE = "genopact model explain RUN --matrix sequence=reference.fa --out splice"


@command(app, "explain", example=EXAMPLE)
def explain(
    run: RunName,
    *,
    matrix: Annotated[
        list[str], typer.Option(help="NAME=FILE: public people, a TSV with the study's features, or FASTA; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Prefix of the files.", show_default=False)],
    home: Home = HOME,
) -> Answer:
    """Write OUT-features.tsv and .svg; for sequences OUT-letters.tsv and .svg, what a change of each letter does.

    Integrated gradients of the first ten outputs, over people who are public: nothing is read from patients.
    """
    import numpy as np

    from genopact_server.report.attribution import contributions, mutations
    from genopact_server.report.plots import standalone
    from genopact_shared.recipes.network import columns
    from genopact_shared.recipes.protocol import MatrixParameters, Table

    plan, model = _network(home, run)
    of, files = plan.parameters, dict(each.partition("=")[::2] for each in matrix)
    if not isinstance(of, MatrixParameters) or not set(files) <= {each.name for each in of.matrices}:
        raise GenopactError("USAGE", f"--matrix NAME=FILE: recipe {plan.name} has no such matrix")
    names = {each.name: _read(Path(files[each.name]), each) for each in of.matrices if each.name in files}
    n = min(len(values) for _, values in names.values())
    table = Table({}, n, matrices={
        each.name: names[each.name][1][:n] if each.name in names else np.full((n, each.features), np.nan, np.float32)
        for each in of.matrices
    })  # fmt: skip
    with working("Explaining"):
        outputs = range(min(OUTPUTS, columns(plan.outputs(model, table)).shape[1]))
        parts = [contributions(plan, model, table, output) for output in outputs]
        letters = mutations(plan, model, table) if plan.name.startswith("sequence-") else None
    features = [name for each in of.matrices for name in names.get(each.name, ([f"{each.name} {at + 1}" for at in range(each.features)],))[0]]
    features += [f"{each.name} is there" for each in of.matrices]  # further inputs, of recipes that have them
    texts = {f"{out}-features.tsv": "output\tfeature\tmean\tmean_absolute\n" + "".join(
        f"{output}\t{features[at]}\t{part[:, at].mean():.6g}\t{np.abs(part[:, at]).mean():.6g}\n"
        for output, part in zip(outputs, parts, strict=True) for at in range(part.shape[1])
    )}  # fmt: skip
    sizes = np.mean([np.abs(part).mean(axis=0) for part in parts], axis=0)
    most = {features[at]: float(sizes[at]) for at in np.argsort(-sizes)[:SHOWN].tolist()}
    texts[f"{out}-features.svg"] = standalone("coefficients", "What moves the network most", (6, 4), values=most)
    if letters is not None:
        texts[f"{out}-letters.tsv"] = "class\tplace\tA\tC\tG\tT\n" + "".join(
            "\t".join([f"{k}\t{place + 1}", *(f"{each:.6g}" for each in row)]) + "\n"
            for k, rows in enumerate(letters) for place, row in enumerate(rows)
        )  # fmt: skip
        texts[f"{out}-letters.svg"] = standalone("letters", "What a changed letter does", (9, 4), values=letters)
    for name, text in texts.items():
        Path(name).write_text(text, "utf-8")
    shown = [f"  {name}: {size:.3g}" for name, size in list(most.items())[:10]]
    return Answer({"files": list(texts), "most": most, "people": n}, [*shown, *(f"Wrote {name}" for name in texts)])


@command(app, "export", example="genopact model export RUN --out splice.onnx")
def export(
    run: RunName,
    *,
    out: Annotated[Path, typer.Option(help="The ONNX file.", show_default=False)],
    home: Home = HOME,
) -> Answer:
    """Write the network as ONNX, checked to give the same outputs; weights are also the run's safetensors file."""
    import numpy as np
    import torch

    plan, model = _network(home, run)
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch needs it
    except ImportError as error:
        raise GenopactError("EXTRA_MISSING", "pip install 'genopact[onnx]'") from error
    return Answer()
