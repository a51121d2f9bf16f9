"""`genopact model`: what moves a finished network, and the network as a file that others can use."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from genopact_server.commands.options import HOME, Home, RunName, opened, read_manifest
from genopact_server.rounds import read_state
from genopact_shared import durable
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.recipes import NETWORKS, chosen
from genopact_shared.terminal import Answer, bar, command, working

if TYPE_CHECKING:
    from genopact_shared.recipes.network import NetPlan
    from genopact_shared.recipes.protocol import Judge, Model
    from genopact_shared.recipes.table import Column, Matrix, Table, Values

app = typer.Typer(help="Explain and export a network; how it learned.", no_args_is_help=True, rich_markup_mode=None)
SHOWN, OUTPUTS, TOLERANCE = 20, 10, 1e-4
EXAMPLE = "genopact model explain RUN --matrix sequence=reference.fa --out splice"
EXAMPLE_CURVE = "genopact model curve RUN --matrix sequence=reference.fa --table classes.tsv"
Matrices = Annotated[list[str] | None, typer.Option(help="NAME=FILE of public people, TSV or FASTA; repeatable.")]
PanelFiles = Annotated[Path | None, typer.Option(help="Public people's genotypes: prefix of PLINK 1 files.")]
StudyManifest = Annotated[Path | None, typer.Option(help="The study's variant manifest.")]


@command(app, "explain", example=EXAMPLE)
def explain(
    run: RunName,
    *,
    out: Annotated[Path, typer.Option(help="Prefix of the files.", show_default=False)],
    matrix: Matrices = None,
    panel: PanelFiles = None,
    manifest: StudyManifest = None,
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
    _, table, features = _public(plan, matrix, panel, manifest)
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
    found = {"most": most} | ({} if letters is None else {"letters": letters.tolist()})
    durable.replace(path.with_name(EXPLAINED), json.dumps(found).encode())
    for name, text in texts.items():
        Path(name).write_text(text, "utf-8")
    shown = [f"  {name}: {size:.3g}" for name, size in [*most.items()][: SHOWN // 2]]
    return Answer({"files": [*texts], "most": most, "people": table.n}, [*shown, *(f"Wrote {name}" for name in texts)])


@command(app, "curve", example=EXAMPLE_CURVE)
def curve(
    run: RunName,
    *,
    table: Annotated[Path | None, typer.Option(help="TSV: person, and the recipe's columns of public people.")] = None,
    matrix: Matrices = None,
    panel: PanelFiles = None,
    manifest: StudyManifest = None,
    home: Home = HOME,
) -> Answer:
    """Tell how well the model after each round fits people who are public, with their outcomes.

    A loss of patients after each round would be one more release a round; this costs nothing. The run's next report
    draws the curve.
    """
    import numpy as np

    from genopact_server.report.facts import LEARNED, read_model
    from genopact_shared.recipes.network import known
    from genopact_shared.recipes.table import PEOPLE, GenotypeParameters, MatrixParameters

    plan, _, path = network_of(home, run)
    plain = not isinstance(plan.parameters, GenotypeParameters | MatrixParameters)
    named, people = ([], None) if plain and not (matrix or panel) else _public(plan, matrix, panel, manifest)[:2]
    people = _with_columns(plan, table, named, people)
    inputs, targets = plan.recipe.tensors(people, plan.parameters, plan.published)
    some, judge = np.flatnonzero(known(targets)), cast("Judge", plan.recipe.judge)
    inputs, targets = inputs[some], targets[some]
    losses, fits = list[float](), list[float | None]()
    require(len(some) > 0, "USAGE", "--table: nobody of the given people has an outcome")
    models = sorted(path.parent.glob("model-*.safetensors"))
    with bar("Rounds", len(models)) as done:
        for each in map(read_model, models):
            losses.append(float(plan.losses(each, inputs, targets).mean()))
            outputs = plan.forward(each, inputs, PEOPLE)
            rows = judge.rows(outputs, targets.numpy().astype(np.float64), plan.parameters)
            fits.append(judge.measured(rows.sum(axis=0), plan.parameters).get(judge.measures[1]))
            done(1)
    found = {"people": len(some), "rounds": {"loss": losses, judge.measures[1]: fits}}
    durable.replace(path.with_name(LEARNED), json.dumps(found).encode())
    said = f"{found['people']} people: mean loss {losses[0]:.3g} before the first round, {losses[-1]:.3g} at last"
    return Answer(found, [said])


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


def _public(
    plan: "NetPlan", matrix: list[str] | None, panel: Path | None, manifest: Path | None
) -> "tuple[list[str], Table, list[str]]":
    """Public people, what is known of them, and the names of the network's inputs, if they have any."""
    return _genotyped(plan, panel, manifest) if panel and manifest else _measured(plan, matrix or [])


def _genotyped(plan: "NetPlan", panel: Path, manifest: Path) -> "tuple[list[str], Table, list[str]]":
    """People of a panel, without covariates; what the network makes of genotypes has no names of its own.

    Raises:
        GenopactError: USAGE for a recipe of other data, MANIFEST_INVALID for other variants; PANEL_INVALID.
    """
    from genopact_server.design.sources import panel_of
    from genopact_shared.recipes.protocol import of_kind
    from genopact_shared.recipes.table import Copies, GenotypeParameters, Table

    require(plan.name in {"ancestry", "risk-net"}, "USAGE", f"recipe {plan.name} reads no panel's genotypes here")
    variants, wanted = read_manifest(manifest), of_kind(plan.parameters, GenotypeParameters).variants
    require(variants.digest == wanted, "MANIFEST_INVALID", "the study is of other variants")
    people = panel_of(panel, variants)
    return [*people.identifiers], Table({}, len(people.dosages), Copies(people.dosages)), []


def _matrices(plan: "NetPlan") -> "tuple[Matrix, ...]":
    """What the network reads. Raises USAGE if that is not matrices."""
    from genopact_shared.recipes.table import MatrixParameters

    of = plan.parameters
    if not isinstance(of, MatrixParameters):
        raise GenopactError("USAGE", f"recipe {plan.name} reads other data than matrices")
    return of.matrices


def _measured(plan: "NetPlan", given: list[str]) -> "tuple[list[str], Table, list[str]]":
    """People of any of the given matrices; what nobody gave is missing. USAGE."""
    import numpy as np

    from genopact_shared.recipes.table import Table

    wanted, files = _matrices(plan), {name: Path(file) for name, _, file in (each.partition("=") for each in given)}
    known = {each.name for each in wanted}
    require(set(files) <= known, "USAGE", f"--matrix NAME=FILE: the study's are {', '.join(sorted(known))}")
    read = {each.name: _read(files[each.name], each) for each in wanted if each.name in files}
    require(bool(read), "USAGE", "--matrix NAME=FILE, or --panel with --manifest: public people")
    people = list(dict.fromkeys(person for rows, _ in read.values() for person in rows))
    matrices: dict[str, Values] = {}
    names: list[str] = []
    for each in wanted:
        rows, listed = read.get(each.name, ({}, [f"{each.name} {at + 1}" for at in range(each.features)]))
        nothing = np.full(each.features, np.nan, np.float32)
        matrices[each.name], names = np.array([rows.get(person, nothing) for person in people]), [*names, *listed]
    # Some recipes have one more input a matrix: whether it is there.
    return people, Table({}, len(people), matrices=matrices), [*names, *(f"{each.name} is there" for each in wanted)]


def _read(path: Path, wanted: "Matrix") -> "tuple[dict[str, Values], list[str]]":
    """Person -> (F,) values, and features, of FASTA, or of a TSV whose first column names people. MATRIX_FEATURES."""
    import numpy as np

    from genopact_shared.recipes.table import digest_of_features

    text = durable.read(path, "MATRIX_MISSING").decode("utf-8", "replace")
    with replacing(ValueError, GenopactError("MATRIX_FEATURES", f"{wanted.name}: not a table of numbers")):
        if text.startswith(">"):
            names = [str(at + 1) for at in range(wanted.features)]
            found = [record.splitlines() or [""] for record in text.split(">")[1:]]
            people = [head.partition(" ")[0].partition("\t")[0] for head, *_ in found]
            rows: list[list[float]] = [[*map("ACGT".find, "".join(letters).upper())] for _, *letters in found]
        else:
            (_, *names), *cells = [line.split("\t") for line in text.splitlines()]
            require(digest_of_features(names) == wanted.digest, "MATRIX_FEATURES", wanted.name)
            people, rows = [row[0] for row in cells], [[float(cell or "nan") for cell in row[1:]] for row in cells]
        values = np.array(rows, np.float32)
    require(values.shape == (max(1, len(rows)), wanted.features), "MATRIX_FEATURES", wanted.name)
    require(len({*people}) == len(people), "MATRIX_FEATURES", f"{wanted.name}: somebody has two rows")
    return dict(zip(people, values, strict=True)), names


def _with_columns(plan: "NetPlan", path: Path | None, people: list[str], known: "Table | None") -> "Table":
    """A table with the columns of a TSV, by default of all its people; what it lacks is missing. USAGE."""
    import numpy as np

    from genopact_shared.recipes.table import Number, Table

    text = durable.read(path, "USAGE").decode("utf-8", "replace") if path else ""
    (_, *header), *lines = [line.split("\t") for line in text.splitlines() if line] or [[""]]
    rows, columns = {line[0]: line[1:] for line in lines}, dict[str, Any]()
    require(len(rows) == len(lines), "USAGE", f"{path}: somebody has two rows")
    people = people if known else [*rows]
    for column in plan.recipe.schema:
        if column.name in header:
            at, number = header.index(column.name), isinstance(column, Number)
            with replacing((ValueError, IndexError), GenopactError("USAGE", f"{path}: column {column.name}")):
                cells = [rows[person][at] if person in rows else "" for person in people]
                values = [_code(column, cell) if cell else math.nan if number else -1 for cell in cells]
            columns[column.name] = np.array(values, np.float64 if number else np.int8)
    return replace(known, columns=columns) if known else Table(columns, len(people))


def _code(column: "Column", cell: str) -> float:
    """A number within its bounds, or the place of a level. Raises ValueError."""
    from genopact_shared.recipes.table import Number

    if not isinstance(column, Number):
        return column.levels.index(cell)
    if not column.low <= float(cell) <= column.high:
        raise ValueError("out of bounds")
    return float(cell)
