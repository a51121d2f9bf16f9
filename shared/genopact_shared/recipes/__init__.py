"""Recipes: what a site has installed and vetted. A study names one; nothing is loaded from anywhere else."""

import json

from genopact_shared.errors import GenopactError, require
from genopact_shared.recipes.adverse_reaction import ADVERSE_REACTION
from genopact_shared.recipes.ancestry import ANCESTRY
from genopact_shared.recipes.cell_response import CELL_RESPONSE
from genopact_shared.recipes.cohort_summary import COHORT_SUMMARY
from genopact_shared.recipes.dose import DOSE
from genopact_shared.recipes.dose_net import DOSE_NET
from genopact_shared.recipes.evaluation import EvaluationParameters, evaluations
from genopact_shared.recipes.gwas import GWAS
from genopact_shared.recipes.multiomics import MULTIOMICS
from genopact_shared.recipes.network import NetParameters
from genopact_shared.recipes.pca import PCA
from genopact_shared.recipes.protocol import NetRecipe, SumRecipe
from genopact_shared.recipes.rare_variant_autoencoder import RARE_VARIANT_AUTOENCODER
from genopact_shared.recipes.risk import RISK
from genopact_shared.recipes.risk_net import RISK_NET
from genopact_shared.recipes.sequence import SEQUENCE_CNN, SEQUENCE_RNN, SEQUENCE_TRANSFORMER
from genopact_shared.recipes.survival import SURVIVAL
from genopact_shared.recipes.synthetic_genomes import SYNTHETIC_GENOMES
from genopact_shared.recipes.table import GenotypeParameters, MatrixParameters
from genopact_shared.recipes.trait import TRAIT
from genopact_shared.study import Frozen, RecipeChoice, Study, read

_NETWORKS: tuple[NetRecipe, ...] = (
    DOSE_NET, ADVERSE_REACTION, SEQUENCE_CNN, SEQUENCE_RNN, SEQUENCE_TRANSFORMER, MULTIOMICS, SURVIVAL, CELL_RESPONSE,
    ANCESTRY, RISK_NET, RARE_VARIANT_AUTOENCODER, SYNTHETIC_GENOMES,
)  # fmt: skip
NETWORKS: dict[str, NetRecipe] = {each.name: each for each in _NETWORKS}
_SUMS: tuple[SumRecipe, ...] = (DOSE, COHORT_SUMMARY, RISK, TRAIT, GWAS, PCA, *evaluations(_NETWORKS))
RECIPES: dict[str, SumRecipe] = {each.name: each for each in _SUMS}
EXACT: frozenset[str] = frozenset({COHORT_SUMMARY.name, GWAS.name, PCA.name})
"""Recipes of mode exact: statistics of all patients together, without noise."""


def chosen(choice: RecipeChoice) -> tuple[SumRecipe | NetRecipe, Frozen]:
    """The installed recipe and its checked hyper-parameters.

    Raises:
        GenopactError: RECIPE_UNKNOWN, STUDY_INVALID.
    """
    recipe = RECIPES.get(choice.name) or NETWORKS.get(choice.name)
    if recipe is None or recipe.version != choice.version:
        raise GenopactError("RECIPE_UNKNOWN", f"{choice.name} version {choice.version}")
    return recipe, read(recipe.parameters, json.dumps(choice.parameters), "STUDY_INVALID", "recipe.parameters: ")


def check_choice(study: Study) -> None:
    """Refuse a study whose recipe, outcome and privacy mode do not belong together.

    Raises:
        GenopactError: RECIPE_UNKNOWN, STUDY_INVALID.
    """
    recipe, parameters = chosen(study.recipe)
    name, mode, asked = recipe.name, study.privacy.mode, set(study.purpose.data)
    require(study.outcome == recipe.outcome, "STUDY_INVALID", f"outcome: recipe {name} predicts {recipe.outcome}")
    named = ", ".join(recipe.measures) or "none"
    require(set(study.metrics) == set(recipe.measures), "STUDY_INVALID", f"metrics: recipe {name} releases {named}")
    if isinstance(parameters, EvaluationParameters) and "validate" not in study.purpose.uses:
        raise GenopactError("STUDY_INVALID", "purpose.uses: an evaluation is for the use validate")
    if isinstance(parameters, GenotypeParameters) and not asked & {"genotype", "exome", "genome"}:
        raise GenopactError("STUDY_INVALID", f"purpose.data: recipe {name} reads genotypes")
    if isinstance(parameters, MatrixParameters) and not {each.data for each in parameters.matrices} <= asked:
        raise GenopactError("STUDY_INVALID", f"purpose.data: recipe {name} reads other data")
    if isinstance(parameters, NetParameters) and parameters.combine != "mean" and mode == "distributed":
        raise GenopactError("STUDY_INVALID", "recipe.parameters: combine: masked updates have a mean only")
    require(mode != "exact" or name in EXACT, "STUDY_INVALID", f"privacy.mode: recipe {name} gives no exact statistics")
