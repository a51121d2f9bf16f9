"""`genopact design`: what a risk study measures, made of public data."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from genopact_server.commands.options import HOME, Home, read_manifest
from genopact_server.folder import Folder
from genopact_shared import durable, wire
from genopact_shared.errors import GenopactError
from genopact_shared.privacy import accounting
from genopact_shared.study import Privacy, RecipeChoice, read_yaml
from genopact_shared.terminal import Answer, bar, command, working

if TYPE_CHECKING:
    from genopact_server.design.directions import Budget
    from genopact_shared.recipes.protocol import SumRecipe

app = typer.Typer(help="Make the public design of a risk study.", no_args_is_help=True, rich_markup_mode=None)
EXAMPLE = (
    "genopact design build risk.yaml --manifest cad.variants --panel panel --gwas eur=gwas-eur.tsv --patients 20000 "
    "--sites 8 --out cad.design --study cad.yaml"
)
EXACT_MU, UNCLIPPED = 1000.0, 10.0
"""Stand for no noise and no clip."""
UNDESIGNED = {"variants": "0" * 64, "design": "0" * 64, "directions": 1, "groups": ["any"], "features": 4}
"""Parameters that are not known yet; what the budget leaves for `effects` does not depend on them."""


@command(app, "build", example=EXAMPLE)
def build(
    template: Annotated[Path, typer.Argument(help="A study of recipe risk or trait.", show_default=False)],
    *,
    manifest: Annotated[Path, typer.Option(help="The variant manifest.", show_default=False)],
    panel: Annotated[
        Path, typer.Option(help="Prefix of PLINK 1 files of reference people; column 1 of .fam is the ancestry.")
    ],
    patients: Annotated[int, typer.Option(min=100, help="Patients who will train, of all sites.", show_default=False)],
    sites: Annotated[int, typer.Option(min=1, help="Sites that will take part.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The design; every site takes it in.", show_default=False)],
    study: Annotated[Path, typer.Option(help="The template with the design's parameters.", show_default=False)],
    gwas: Annotated[
        list[str] | None, typer.Option(help="ANCESTRY=FILE: association results, columns as regenie's; repeatable.")
    ] = None,
    mix: Annotated[str | None, typer.Option(help="Planned shares of ancestries, as afr=0.2,eur=0.8.")] = None,
    prevalence: Annotated[float, typer.Option(min=0.001, max=0.5, help="Nominal, of the disease.")] = 0.15,
    home: Home = HOME,
) -> Answer:
    """Choose what to measure: the directions of the genotype that published effects leave most uncertain.

    Without --gwas the manifest's column weight is the published score; without either, linkage alone decides.
    """
    from genopact_server.design.measure import Known, design
    from genopact_server.design.sources import evidence_of, known_score, panel_of

    body = read_yaml(template, "STUDY_UNREADABLE")
    budget, noise = _budget(body, patients, sites, prevalence)
    variants = read_manifest(manifest)
    with working("Reading public data"):
        people = panel_of(panel, variants)
        tables = {name: Path(path) for name, path in (_pair(each) for each in gwas or ())}
        published = evidence_of(people, variants, tables) if tables else known_score(people, variants)
    shares = _mix(mix, people.names)
    with bar("Blocks", len(people.blocks)) as tick:
        known = Known.of(people, published, shares, lambda: tick(1))
    arrays = design(known, budget, noise)
    data = wire.pack(arrays)
    parameters: dict[str, Any] = dict(body["recipe"].get("parameters", {})) | {
        "variants": variants.digest, "design": Folder(home).published.add(data),
        "directions": int(arrays["block_directions"][-1]), "groups": list(people.names),
        "features": len(arrays["second_moments"]),
    }  # fmt: skip
    parameters |= {"prevalence_milli": round(1000 * prevalence)} if body["recipe"].get("name") == "risk" else {}
    durable.replace(out, data)
    study.write_text(yaml.safe_dump(body | {"recipe": body["recipe"] | {"parameters": parameters}}, sort_keys=False))
    text = [
        f"{parameters['directions']} directions of {len(variants)} variants in {len(people.blocks)} blocks",
        f"identity {parameters['design']}, {len(data) / 1e6:.1f} MB: {out}",
        f"Wrote {study}. Every site takes in the design: genopact-site design {out}",
    ]
    return Answer(parameters | {"file": str(out), "study": str(study)}, text, f"genopact study compose {study} --card")


def _budget(body: Any, patients: int, sites: int, prevalence: float) -> "tuple[Budget, float]":
    """What the study's privacy leaves for `effects`, and its total's noise with all sites in it. STUDY_INVALID."""
    from genopact_server.design.directions import Budget
    from genopact_shared.recipes.risk import RISK
    from genopact_shared.recipes.trait import TRAIT

    try:
        privacy = Privacy.model_validate_json(json.dumps(body["privacy"]))
        choice = RecipeChoice.model_validate_json(json.dumps(body["recipe"]))
        recipes: dict[str, SumRecipe] = {RISK.name: RISK, TRAIT.name: TRAIT}
        recipe = recipes[choice.name]
        blank = UNDESIGNED | ({"prevalence_milli": 1} if recipe is RISK else {})
        parameters = recipe.parameters.model_validate_json(json.dumps(blank | choice.parameters))
        if choice.version != recipe.version:
            raise ValueError("another version")
    except (KeyError, TypeError, ValueError) as error:
        raise GenopactError("STUDY_INVALID", "the template's privacy or recipe") from error
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


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise GenopactError("USAGE", f"{text}: expected ANCESTRY=...")
    return name, value


def _mix(text: str | None, names: tuple[str, ...]) -> list[float]:
    """Shares in the order of `names`, adding up to 1; equal ones by default."""
    if text is None:
        return [1 / len(names)] * len(names)
    try:
        shares = {name: float(value) for name, value in (_pair(each) for each in text.split(","))}
        if set(shares) != set(names) or not all(0 < share < math.inf for share in shares.values()):
            raise ValueError
    except ValueError as error:
        raise GenopactError("USAGE", f"--mix: a positive share of each of {', '.join(names)}") from error
    return [shares[name] / sum(shares.values()) for name in names]
