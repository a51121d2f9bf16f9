"""Who plays: hospitals with their files, held-out patients and policies; generated, or of the real table."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genopact_server.demo import cohort
from genopact_shared.recipes.table import Table

SEED = 2026
PEOPLE = (220, 160, 300, 120)
HELD_OUT = 1000
PRIVACY: dict[str, object] = {"mode": "distributed", "epsilon_milli": 3000, "delta": "0.000001"}
REFUSING_EPSILON = 1000
"""The last hospital's limit: a third of what the demo's study costs."""


class Player(NamedTuple):
    """One hospital: its export in `folder`, what the demo knows of it, and the epsilon its policy allows a study."""

    name: str
    folder: Path
    train: Table
    test: Table
    epsilon_milli: int = 3000
    vcf: bool = True


class Cast(NamedTuple):
    """All hospitals of one demo; `kind` of their stores, and the study's privacy section."""

    players: tuple[Player, ...]
    kind: str
    privacy: dict[str, object]


def generated(folder: Path) -> Cast:
    """Four made-up hospitals; the last one refuses by policy."""
    players = []
    limits = [3000] * (len(PEOPLE) - 1) + [REFUSING_EPSILON]
    for number, (like, people, limit) in enumerate(zip(cohort.HOSPITALS, PEOPLE, limits, strict=True)):
        hospital = like._replace(people=people)
        truth = cohort.write_site(folder / hospital.name, hospital, SEED + number)
        test = cohort.generate(HELD_OUT, SEED + 100 + number, hospital.mix, hospital.shift)
        train, test = (without(table, hospital.lacks) for table in (truth, test))
        players.append(Player(hospital.name, folder / hospital.name, train, test, limit))
    return Cast(tuple(players), "synthetic", PRIVACY | {"honest_minimum": 2, "spare_attempts": 1})


INSTITUTIONS = (1, 7, 8, 21)
"""The four of the sixteen that run as processes."""
TERMS = "active,GRU,,train;validate,public;nonprofit,never,*,genotype;drug;ehr,2009-01-01,2049-12-31,PUBLIC|PharmGKB"
"""The consent of a patient of a public, de-identified table: the terms of its release."""


def institutions(folder: Path, data: Path, chosen: Sequence[int] = ()) -> Cast:
    """Institutions of the real warfarin table (all of them by default): 70 % of each to train, the rest held out."""
    from genopact_server.validation import iwpc

    table, players = iwpc.load(data), []
    training = table.splits[:, 0] > 0
    for site in chosen or np.unique(table.sites).tolist():
        own, name = table.sites == site, f"institution-{site:02d}"
        (folder / name).mkdir(parents=True)
        iwpc.write_csv(table, own & training, folder / name / "covariates.csv")
        consents = [f"{person},{TERMS}\n" for person in table.person[own & training].tolist()]
        (folder / name / "consent.csv").write_text(",".join(cohort.CONSENT_COLUMNS) + "\n" + "".join(consents))
        train, test = table.table.take(own & training), table.table.take(own & ~training)
        players.append(Player(name, folder / name, train, test, vcf=False))
    return Cast(tuple(players), "public", {"mode": "none", "honest_minimum": 1})


def without(table: Table, columns: Sequence[str]) -> Table:
    """The table of a hospital that lacks some columns."""
    return Table({name: column for name, column in table.columns.items() if name not in columns}, table.n)


def policy(player: Player, privacy: Mapping[str, object], recipe: str) -> str:
    """The player's site policy."""
    text = files("genopact_server.demo").joinpath("policy.yaml").read_text("utf-8")
    values = {"@site@": player.name, "@recipe@": recipe, "@epsilon@": str(player.epsilon_milli)}
    values |= {"@mode@": str(privacy["mode"]), "@delta@": str(privacy.get("delta", "0.000001"))}
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text
