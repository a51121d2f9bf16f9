"""`genopact model`: what moves a finished network, and the network as a file that others can use."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genopact_server.commands.options import HOME, Home, RunName, opened, read_manifest
from genopact_server.rounds import read_state
from genopact_shared import durable
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.recipes import NETWORKS, chosen
from genopact_shared.terminal import Answer, command, working

if TYPE_CHECKING:
    from genopact_shared.recipes.network import NetPlan
    from genopact_shared.recipes.protocol import Model
    from genopact_shared.recipes.table import Matrix, Table, Values

app = typer.Typer(help="Explain and export a network.", no_args_is_help=True, rich_markup_mode=None)
SHOWN, OUTPUTS, TOLERANCE = 20, 10, 1e-4
EXAMPLE = "genopact model explain RUN --matrix sequence=reference.fa --out splice"


@command(app, "explain", example=EXAMPLE)
def explain(
    run: RunName,
    *,
    out: Annotated[Path, typer.Option(help="Prefix of the files.", show_default=False)],
    matrix: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE of public people, TSV or FASTA; repeatable.")
    ] = None,
    panel: Annotated[Path | None, typer.Option(help="Public people's genotypes: prefix of PLINK 1 files.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="The study's variant manifest.")] = None,
    home: Home = HOME,
) -> Answer:
    """Write OUT-features.tsv and .svg; for sequences OUT-letters.tsv and .svg, what a change of each letter does.

    Integrated gradients of the first ten outputs, over people who are public: nothing is read from patients. The run's
    next report shows what moves the network most.
    """
    import numpy as np

    from genopact_server.report.attribution import contributions, mutations
    from genopact_server.report.facts import EXPLAINED
    from genopact_server.report.plots import standalone
    from genopact_shared.recipes.network import columns

    plan, model, path = network_of(home, run)
    table, features = _genotyped(plan, panel, manifest) if panel and manifest else _people(plan, matrix or [])
    with working("Explaining"):
        count = min(OUTPUTS, columns(plan.outputs(model, table)).shape[1])
        parts = [contributions(plan, model, table, output) for output in range(count)]
        letters = mutations(plan, model, table) if plan.name.startswith("sequence-") else None
    kind = "block" if plan.name == "risk-net" else "input"
    features = features or [f"{kind} {at + 1}" for at in range(parts[0].shape[1])]
    rows = [(k, features[at], part[:, at]) for k, part in enumerate(parts) for at in range(part.shape[1])]
    listed = [f"{k}\t{name}\t{each.mean():.6g}\t{np.abs(each).mean():.6g}" for k, name, each in rows]
    sizes = np.mean([np.abs(part).mean(axis=0) for part in parts], axis=0)
    most = {features[at]: float(sizes[at]) for at in np.argsort(-sizes)[:SHOWN].tolist()}
    texts = {
        f"{out}-features.tsv": "\n".join(["output\tfeature\tmean\tmean_absolute", *listed, ""]),
        f"{out}-features.svg": standalone("coefficients", "What moves the network most", (6, 4), values=most),
    }
    if letters is not None:
        cells = [(k, place, row) for k, rows_ in enumerate(letters) for place, row in enumerate(rows_, start=1)]
        listed = [f"{k}\t{place}\t" + "\t".join(f"{each:.6g}" for each in row) for k, place, row in cells]
        texts[f"{out}-letters.tsv"] = "\n".join(["class\tplace\tA\tC\tG\tT", *listed, ""])
        texts[f"{out}-letters.svg"] = standalone("letters", "What a changed letter does", (9, 4), values=letters)
    durable.replace(path.with_name(EXPLAINED), json.dumps(most).encode())
    for name, text in texts.items():
        Path(name).write_text(text, "utf-8")
    shown = [f"  {name}: {size:.3g}" for name, size in [*most.items()][: SHOWN // 2]]
    return Answer({"files": [*texts], "most": most, "people": table.n}, [*shown, *(f"Wrote {name}" for name in texts)])


@command(app, "export", example="genopact model export RUN --out splice.onnx")
def export(
    run: RunName, *, out: Annotated[Path, typer.Option(help="The ONNX file.", show_default=False)], home: Home = HOME
) -> Answer:
    """Write the network as ONNX, for one person at a time, checked to give the same outputs.

    The weights by themselves are the run's last model-*.safetensors.
    """
    import warnings
    from tempfile import TemporaryDirectory

    import numpy as np
    import torch

    from genopact_shared.recipes.table import Table

    with replacing(ImportError, GenopactError("EXTRA_MISSING", "pip install 'genopact[onnx]'")):
        import onnx  # noqa: F401 - torch needs it
        import onnxruntime
    plan, model, _ = network_of(home, run)
    module = plan.module(model).eval()
    matrices = {each.name: np.zeros((1, each.features), np.float32) for each in _matrices(plan)}
    one = plan.recipe.tensors(Table({}, 1, matrices=matrices), plan.parameters, plan.published)[0]
    # torch warns that it will replace this exporter.
    with TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = str(Path(folder) / "network.onnx")
        torch.onnx.export(module, (one,), path, dynamo=False, input_names=["person"], output_names=["outputs"])
        data = Path(path).read_bytes()
    session, drawn = onnxruntime.InferenceSession(data), np.random.default_rng(0)
    for _ in range(8):
        person = drawn.normal(size=tuple(one.shape)).astype(np.float32)
        expected = module(torch.from_numpy(person)).detach().numpy()
        found = np.asarray(session.run(None, {"person": person})[0])
        require(np.allclose(found, expected, atol=TOLERANCE), "ONNX_DIFFERS", plan.name)
    durable.replace(out, data)
    return Answer({"file": str(out), "shape": [*one.shape]}, [f"Wrote {out}: input `person` {tuple(one.shape)}"])


def network_of(home: Path, run: str) -> "tuple[NetPlan, Model, Path]":
    """A finished run's network, its last model and that model's file. Raises USAGE for another recipe, RUN_UNKNOWN."""
    from genopact_server.report.facts import read_model
    from genopact_shared.recipes.network import NetParameters, NetPlan

    folder, path, study = opened(home, run)
    of = chosen(study.recipe)[1]
    if study.recipe.name not in NETWORKS or not isinstance(of, NetParameters):
        raise GenopactError("USAGE", f"the run is of recipe {study.recipe.name}, which is no network")
    plan = NetPlan(NETWORKS[study.recipe.name], of, {}, folder.published)
    require(read_state(path).stage == "done", "USAGE", f"run {run} has not finished")
    last = max(path.glob("model-*.safetensors"))
    return plan, read_model(last), last


def _genotyped(plan: "NetPlan", panel: Path, manifest: Path) -> "tuple[Table, list[str]]":
    """Public people's genotypes, without covariates; what the network makes of them has no names of its own.

    Raises:
        GenopactError: USAGE for a recipe of other data, MANIFEST_INVALID for other variants; PANEL_INVALID.
    """
    from genopact_server.design.sources import panel_of
    from genopact_shared.recipes.protocol import of_kind
    from genopact_shared.recipes.table import Copies, GenotypeParameters, Table

    require(plan.name in {"ancestry", "risk-net"}, "USAGE", f"recipe {plan.name} has no explanation by genotypes")
    variants, wanted = read_manifest(manifest), of_kind(plan.parameters, GenotypeParameters).variants
    require(variants.digest == wanted, "MANIFEST_INVALID", "the study is of other variants")
    copies = panel_of(panel, variants).dosages
    return Table({}, len(copies), Copies(copies)), []


def _matrices(plan: "NetPlan") -> "tuple[Matrix, ...]":
    """What the network reads. Raises USAGE if that is not matrices."""
    from genopact_shared.recipes.table import MatrixParameters

    of = plan.parameters
    if not isinstance(of, MatrixParameters):
        raise GenopactError("USAGE", f"recipe {plan.name} reads other data than matrices")
    return of.matrices


def _people(plan: "NetPlan", given: list[str]) -> "tuple[Table, list[str]]":
    """Public people, and the names of the network's inputs; matrices that are not given are missing. USAGE."""
    import numpy as np

    from genopact_shared.recipes.table import Table

    wanted, files = _matrices(plan), {name: Path(file) for name, _, file in (each.partition("=") for each in given)}
    known = {each.name for each in wanted}
    require(set(files) <= known, "USAGE", f"--matrix NAME=FILE: the study's are {', '.join(sorted(known))}")
    read = {each.name: _read(files[each.name], each) for each in wanted if each.name in files}
    require(bool(read), "USAGE", "--matrix NAME=FILE, or --panel with --manifest: public people to explain with")
    n = min(len(values) for _, values in read.values())
    matrices: dict[str, Values] = {}
    names: list[str] = []
    for each in wanted:
        unnamed = [f"{each.name} {at + 1}" for at in range(each.features)]
        listed, values = read.get(each.name, (unnamed, np.full((n, each.features), np.nan, np.float32)))
        matrices[each.name], names = values[:n], [*names, *listed]
    # Some recipes have one more input a matrix: whether it is there.
    return Table({}, n, matrices=matrices), [*names, *(f"{each.name} is there" for each in wanted)]


def _read(path: Path, wanted: "Matrix") -> "tuple[list[str], Values]":
    """Features and values (n, F) of FASTA, or of a TSV whose first column names people. MATRIX_FEATURES."""
    import numpy as np

    from genopact_shared.recipes.table import digest_of_features

    text = durable.read(path, "MATRIX_MISSING").decode("utf-8", "replace")
    with replacing(ValueError, GenopactError("MATRIX_FEATURES", f"{wanted.name}: not a table of numbers")):
        if text.startswith(">"):
            letters = ["".join(record.splitlines()[1:]).upper() for record in text.split(">")[1:]]
            names = [str(at + 1) for at in range(wanted.features)]
            rows: list[list[float]] = [[*map("ACGT".find, each)] for each in letters]
        else:
            (_, *names), *cells = [line.split("\t") for line in text.splitlines()]
            require(digest_of_features(names) == wanted.digest, "MATRIX_FEATURES", wanted.name)
            rows = [[float(cell or "nan") for cell in row[1:]] for row in cells]
        values = np.array(rows, np.float32)
    require(values.shape == (max(1, len(rows)), wanted.features), "MATRIX_FEATURES", wanted.name)
    return names, values
