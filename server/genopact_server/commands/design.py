"""`genopact design`: what a risk study measures, made of public data."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
import yaml

from genopact_server.commands.options import HOME, Home, ManifestFile, RunName, opened, read_manifest
from genopact_server.folder import Folder
from genopact_shared import durable, wire
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.privacy import accounting
from genopact_shared.study import Privacy, RecipeChoice, read_yaml
from genopact_shared.terminal import Answer, bar, command, working

if TYPE_CHECKING:
    from genopact_server.design.directions import Budget
    from genopact_server.design.panel import Panel
    from genopact_server.design.posterior import Evidence, Posterior
    from genopact_shared.manifest import VariantManifest
    from genopact_shared.recipes.protocol import SumRecipe

app = typer.Typer(
    help="Make the public files that studies name: designs, tokens, genes, networks.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
EXAMPLE = (
    "genopact design build risk.yaml --manifest cad.variants --panel panel --gwas eur=gwas-eur.tsv --patients 20000 "
    "--sites 8 --out cad.design --study cad.yaml"
)
EXAMPLE_NETWORK = (
    "genopact design network net.yaml --manifest cad.variants --panel panel --gwas eur=gwas-eur.tsv --out cad.tokens "
    "--study cad.yaml"
)
EXAMPLE_GENES = (
    "genopact design genes rare.yaml --manifest cad.variants --panel panel --gff genes.gff3.gz --out cad.genes "
    "--study cad.yaml"
)
EXAMPLE_EVALUATION = "genopact design evaluation fair.yaml RUN --out splice.model --study splice-fair.yaml"
EXACT_MU, UNCLIPPED = 1000.0, 10.0
"""Stand for no noise and no clip."""
UNDESIGNED = {"variants": "0" * 64, "design": "0" * 64, "directions": 1, "groups": ["any"], "features": 4}
"""Parameters that are not known yet; what the budget leaves for `effects` does not depend on them."""


Template = Annotated[Path, typer.Argument(help="A study, without what this command finds.", show_default=False)]
PanelFiles = Annotated[
    Path, typer.Option("--panel", help="Prefix of PLINK 1 files of reference people; column 1 of .fam is the ancestry.")
]
Out = Annotated[Path, typer.Option(help="The public file; every site takes it in.", show_default=False)]
StudyOut = Annotated[Path, typer.Option(help="The template with the parameters that were found.", show_default=False)]
Gwas = Annotated[
    list[str] | None, typer.Option(help="ANCESTRY=FILE: association results, columns as regenie's; repeatable.")
]
Mix = Annotated[str | None, typer.Option(help="Planned shares of ancestries, as afr=0.2,eur=0.8.")]
Prevalence = Annotated[float, typer.Option(min=0.001, max=0.5, help="Nominal, of the disease.")]


@command(app, "build", example=EXAMPLE)
def build(
    template: Template,
    *,
    manifest: ManifestFile,
    panel: PanelFiles,
    patients: Annotated[int, typer.Option(min=100, help="Patients who will train, of all sites.", show_default=False)],
    sites: Annotated[int, typer.Option(min=1, help="Sites that will take part.", show_default=False)],
    out: Out,
    study: StudyOut,
    gwas: Gwas = None,
    mix: Mix = None,
    prevalence: Prevalence = 0.15,
    home: Home = HOME,
) -> Answer:
    """Choose what recipes risk and trait measure: the directions that published effects leave most uncertain.

    Without --gwas the manifest's column weight is the published score; without either, linkage alone decides.
    """
    from genopact_server.design.measure import Known, design

    body = read_yaml(template, "STUDY_UNREADABLE")
    budget, noise = _budget(body, patients, sites, prevalence)
    variants, people, published = _public(manifest, panel, gwas)
    shares = _mix(mix, people.names)
    with bar("Blocks", len(people.blocks)) as tick:
        known = Known.of(people, published, shares, lambda: tick(1))
    arrays = design(known, budget, noise)
    found: dict[str, Any] = {
        "variants": variants.digest, "directions": int(arrays["block_directions"][-1]), "groups": list(people.names),
        "features": len(arrays["second_moments"]),
    }  # fmt: skip
    found |= {"prevalence_milli": round(1000 * prevalence)} if body["recipe"].get("name") == "risk" else {}
    said = f"{found['directions']} directions of {len(variants)} variants in {len(people.blocks)} blocks"
    return _written(body, found, ("design", wire.pack(arrays)), (home, out, study), said)


@command(app, "network", example=EXAMPLE_NETWORK)
def network(
    template: Template,
    *,
    manifest: ManifestFile,
    panel: PanelFiles,
    out: Out,
    study: StudyOut,
    gwas: Gwas = None,
    mix: Mix = None,
    prevalence: Prevalence = 0.15,
    directions: Annotated[int, typer.Option(min=0, max=16, help="Of linkage, in each block.")] = 3,
    tops: Annotated[int, typer.Option(min=0, max=16, help="Single variants in each block.")] = 2,
    home: Home = HOME,
) -> Answer:
    """Make the tokens of recipe risk-net: what a network reads of each block of variants.

    Without --gwas the manifest's column weight is the published score.
    """
    from genopact_server.design.measure import effects
    from genopact_server.design.tokens import Tokens, design

    body = read_yaml(template, "STUDY_UNREADABLE")
    require(_choice(body).name == "risk-net", "STUDY_INVALID", "the template is not of recipe risk-net")
    variants, people, published = _public(manifest, panel, gwas)
    with working("What is known of the effects"):
        weights = np.array(_mix(mix, people.names)) @ effects(people, published).mean / people.sd
        data, found = design(Tokens(people, weights), directions=directions, tops=tops)
    said = f"{found['columns']} numbers of each of {found['blocks']} blocks, of {len(variants)} variants"
    of = {"variants": variants.digest, "prevalence_milli": round(1000 * prevalence), **found}
    return _written(body, of, ("design", data), (home, out, study), said)


@command(app, "genes", example=EXAMPLE_GENES)
def genes(
    template: Template,
    *,
    manifest: ManifestFile,
    panel: PanelFiles,
    gff: Annotated[Path, typer.Option(help="Genes, GFF3, also .gz; lines of type gene count.", show_default=False)],
    out: Out,
    study: StudyOut,
    rare: Annotated[float, typer.Option(min=0.0001, max=0.5, help="Below this frequency a variant counts.")] = 0.01,
    home: Home = HOME,
) -> Answer:
    """Make the burdens of recipe rare-variant-autoencoder: rare variants of each gene; OUT.genes lists the genes."""
    from genopact_server.design.sources import panel_of
    from genopact_server.report.contributions import genes_in
    from genopact_shared.recipes.rare_variant_autoencoder import RARE_VARIANT_AUTOENCODER, design

    body = read_yaml(template, "STUDY_UNREADABLE")
    require(_choice(body).name == RARE_VARIANT_AUTOENCODER.name, "STUDY_INVALID", "the template is of another recipe")
    variants = read_manifest(manifest)
    with working("Counting rare alleles"):
        seen = panel_of(panel, variants).dosages
        copies, people = np.maximum(seen, 0).sum(axis=0), (seen >= 0).sum(axis=0)
        frequency = (copies + 0.5) / (2 * people + 1)
        weight = np.where(frequency < rare, 1.0, np.where(frequency > 1 - rare, -1.0, 0.0)) * (people > 0)
        spans, listed = list[tuple[int, int]](), list[str]()
        for chrom, known in genes_in(gff).items():
            own = np.flatnonzero(np.array(variants.chrom) == chrom)
            for first, last, name in known if len(own) else ():
                place = own[0] + np.searchsorted(variants.pos[own], [first, last + 1])
                if weight[slice(*place)].any():
                    spans, listed = [*spans, (int(place[0]), int(place[1]))], [*listed, name]
    require(len(spans) > 1, "SITES_INVALID", f"{gff}: rare variants of the manifest in fewer than two genes")
    Path(f"{out}.genes").write_text("".join(f"{name}\n" for name in listed), "utf-8")
    starts, ends = np.array(spans).T
    data, found = design(starts, ends, weight, frequency), {"variants": variants.digest, "genes": len(spans)}
    said = f"{np.count_nonzero(weight)} rare variants of {len(variants)}, in {len(spans)} genes"
    return _written(body, found, ("design", data), (home, out, study), said)


@command(app, "evaluation", example=EXAMPLE_EVALUATION)
def evaluation(template: Template, *, run: RunName, out: Out, study: StudyOut, home: Home = HOME) -> Answer:
    """Publish the network of a finished run for a study that evaluates it: recipe NETWORK-evaluation.

    The template's parameters say `by` which column, and the `floor_milli` of the first measure in every group, if any.
    """
    from genopact_server.commands.model import network_of
    from genopact_shared.recipes import RECIPES
    from genopact_shared.recipes.network import NetParameters

    body, (plan, _, path) = read_yaml(template, "STUDY_UNREADABLE"), network_of(home, run)
    name = f"{plan.name}-evaluation"
    require(_choice(body).name == name and name in RECIPES, "STUDY_INVALID", f"the template is not of recipe {name}")
    of = plan.parameters.model_dump(mode="json", exclude=set(NetParameters.model_fields))
    body = {"metrics": [*RECIPES[name].measures]} | body
    first, said = opened(home, run)[2], f"The network of run {run}"
    if first.release == "parties":
        said += f", for the parties of its study alone: {', '.join(party.name for party in first.parties)}"
    return _written(body, of, ("model", path.read_bytes()), (home, out, study), said)


def _public(
    manifest: Path, panel: Path, gwas: list[str] | None
) -> "tuple[VariantManifest, Panel, Evidence | Posterior]":
    from genopact_server.design.sources import evidence_of, known_score, panel_of

    variants = read_manifest(manifest)
    with working("Reading public data"):
        people = panel_of(panel, variants)
        tables = {name: Path(path) for name, path in map(_pair, gwas or ())}
        return variants, people, evidence_of(people, variants, tables) if tables else known_score(people, variants)


def _written(
    body: Any, found: dict[str, Any], file: tuple[str, bytes], to: tuple[Path, Path, Path], said: str
) -> Answer:
    """Publish a design; write it, and the study with what it says of itself."""
    (home, out, study), (named, data) = to, file
    found = {named: Folder(home).published.add(data), **found}
    recipe = body["recipe"] | {"parameters": dict(body["recipe"].get("parameters", {})) | found}
    durable.replace(out, data)
    study.write_text(yaml.safe_dump(body | {"recipe": recipe}, sort_keys=False))
    text = [
        said,
        f"identity {found[named]}, {len(data) / 1e6:.1f} MB: {out}",
        f"Wrote {study}. Every site takes in the file: genopact-site design {out}",
    ]
    answer = recipe["parameters"] | {"file": str(out), "study": str(study)}
    return Answer(answer, text, f"genopact study compose {study} --card")


def _budget(body: Any, patients: int, sites: int, prevalence: float) -> "tuple[Budget, float]":
    """What the study's privacy leaves for `effects`, and its total's noise with all sites in it. STUDY_INVALID."""
    from genopact_server.design.directions import Budget
    from genopact_shared.recipes.risk import RISK
    from genopact_shared.recipes.trait import TRAIT

    choice = _choice(body)
    broken = KeyError, TypeError, ValueError
    with replacing(broken, GenopactError("STUDY_INVALID", "the template's privacy or recipe")):
        privacy = Privacy.model_validate_json(json.dumps(body["privacy"]))
        recipes: dict[str, SumRecipe] = {RISK.name: RISK, TRAIT.name: TRAIT}
        recipe = recipes[choice.name]
        blank = UNDESIGNED | ({"prevalence_milli": 1} if recipe is RISK else {})
        parameters = recipe.parameters.model_validate_json(json.dumps(blank | choice.parameters))
        if choice.version != recipe.version:
            raise ValueError("another version")
    nominal = prevalence if recipe is RISK else None
    if privacy.epsilon_milli is None:
        return Budget.of(patients, EXACT_MU, UNCLIPPED, nominal), 1 / EXACT_MU
    steps = recipe.plan(parameters, patients, privacy.epsilon_milli).steps
    weights = [step.weight for step in steps]
    weights += [max(weights)] * privacy.spare_attempts
    whole = [weight / sum(weights) for weight in weights]
    at = next(index for index, step in enumerate(steps) if step.name.startswith("effects"))
    multiplier = float(accounting.noise_multipliers(privacy.epsilon_milli, privacy.delta, whole)[at])
    surplus = (sites / privacy.honest_minimum) ** 0.5
    clip = steps[at].clip
    return Budget.of(patients, 1 / multiplier / surplus, clip, nominal), multiplier * clip * surplus


def _choice(body: Any) -> RecipeChoice:
    """The template's recipe. STUDY_INVALID."""
    with replacing((KeyError, TypeError, ValueError), GenopactError("STUDY_INVALID", "the template's recipe")):
        return RecipeChoice.model_validate_json(json.dumps(body["recipe"]))


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    require(found, "USAGE", f"{text}: expected ANCESTRY=...")
    return name, value


def _mix(text: str | None, names: tuple[str, ...]) -> list[float]:
    """Shares in the order of `names`, adding up to 1; equal ones by default."""
    if text is None:
        return [1 / len(names)] * len(names)
    with replacing(ValueError, GenopactError("USAGE", f"--mix: a positive share of each of {', '.join(names)}")):
        shares = {name: float(value) for name, value in map(_pair, text.split(","))}
        if set(shares) != set(names) or not all(0 < share < math.inf for share in shares.values()):
            raise ValueError
    return [shares[name] / sum(shares.values()) for name in names]
