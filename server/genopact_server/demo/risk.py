"""The demo's second study: the risk of a disease from the genotypes of a region, of generated people."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from genopact_server.demo.cast import PRIVACY, Cast, Player
from genopact_server.demo.compare import trained
from genopact_server.demo.play import Play, Rehearsal, grid
from genopact_server.demo.stage import SITE
from genopact_server.report.facts import read_model
from genopact_server.simulate import HOSPITALS as SITES
from genopact_server.simulate import Cohort, Design, cohort, write
from genopact_shared.published import Published
from genopact_shared.recipes import chosen
from genopact_shared.recipes.risk import RISK
from genopact_shared.recipes.table import Copies, Table
from genopact_shared.study import load_study

SEED, PEOPLE, HOSPITALS, MEGABASES, DENSITY = 2026, 2400, 3, 5.0, 300
MANIFEST = "region.variants"
COLUMNS = ("hospital", "held out", "published score", "alone", "federated", "pooled")


@dataclass
class RiskPlay(Play):
    """`Play` with genotypes, a public design and risk; nobody withdraws."""

    scenes = ("region", "coordinator", "design", "hospitals", "approvals", "training", "verify", "comparison")
    recipe: str = "risk"
    sites: int = HOSPITALS
    made: Cohort | None = None

    def training(self) -> None:
        """All rounds; nobody withdraws."""
        self._sites()
        self.result["run"] = self._train()["run"]

    def design(self) -> None:
        """The variant manifest, signed; the public design, made of panel and published associations."""
        sites = ("--name", "region", "--sites", "files/public/sites.tsv", "--build", "GRCh38")
        self.signer = str(self._hub("manifest", "build", MANIFEST, *sites)["signer"])
        super()._template()
        gwas = [each for name in ("afr", "eas", "eur") for each in ("--gwas", f"{name}=files/public/gwas-{name}.tsv")]
        counts = ("--patients", str(self.training_people), "--sites", str(self.sites))
        outputs = ("--out", "risk.design", "--study", "designed.yaml", "--manifest", MANIFEST)
        public = ("--panel", "files/public/panel", *gwas, *(("--mix", self.mix) if self.mix else ()))
        found = self._hub("design", "build", "template.yaml", *public, *counts, *outputs)
        (self.folder / "designed.yaml").replace(self.folder / "template.yaml")
        self._say("design", f"{found['directions']} directions of the genotype to measure, from public data alone")

    def region(self) -> None:
        """Files of hospitals and of the public."""
        self.made = cohort(Design(PEOPLE, SEED, HOSPITALS, MEGABASES, density=DENSITY))
        write(self.made, self.folder / "files")
        places, nobody = [self.folder / "files" / "hospitals" / site.name for site in SITES[:HOSPITALS]], Table({}, 0)
        players = tuple(Player(place.name, place, nobody, nobody, vcf=False) for place in places)
        self.cast = self.cast._replace(players=players)
        self._say("region", f"{PEOPLE} made-up people of three ancestries, {self.made.dosages.shape[1]} variants")

    @property
    def mix(self) -> str:
        """Planned shares of the ancestries; equal ones if empty."""
        return ""

    @property
    def training_people(self) -> int:
        """Who is not held out."""
        return int((~cast("Cohort", self.made).held_out).sum())

    def _template(self) -> str:
        return "risk-demo"

    def _found(self, player: Player) -> tuple[dict[str, Any], dict[str, Any]]:
        found = super()._found(player)
        source = next(each for each in player.folder.glob("genotypes.*") if each.suffix in {".gz", ".bed"})
        file = str(source.relative_to(self.folder))
        self._at(player, "import", file, "--manifest", MANIFEST, "--signer", self.signer)
        self.stage.run(SITE, "design", "risk.design", "--home", player.name)
        return found

    def comparison(self) -> None:
        """AUC on the people whom each hospital holds out."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score

        made, study = cast("Cohort", self.made), load_study(self.folder / "study.yaml")
        plan = RISK.plan(chosen(study.recipe)[1], PEOPLE, None, Published(self.folder / "hub" / "published"))
        runs = self.folder / "hub" / "runs" / self.result["run"]
        shared = read_model(max(runs.glob("model-*.safetensors")))
        tables = [self._table(made, made.hospital == at) for at in range(HOSPITALS)]
        with ThreadPoolExecutor(2) as pool:
            features = [found[0] for found in pool.map(plan.design.features, tables)]
        pooled, rows = trained(plan, tables), []
        for name, table, x in zip((player.name for player in self.cast.players), tables, features, strict=True):
            held_out, y = table.codes("held_out") == 1, table.number("disease")
            own = LogisticRegression(C=np.inf, fit_intercept=False, max_iter=2000).fit(x[~held_out], y[~held_out])
            score = x[:, x.shape[1] - 2 * plan.parameters.ancestries + 1]
            scores = (score, x @ own.coef_[0], plan.log_odds(shared, table), plan.log_odds(pooled, table))
            found = (float(roc_auc_score(y[held_out], each[held_out])) for each in scores)
            rows.append(dict(zip(COLUMNS, (name, int(held_out.sum()), *found), strict=True)))
        self.console.print(grid("AUC on held-out patients", COLUMNS, rows, 3))
        self._report(rows)

    @staticmethod
    def _table(made: Cohort, own: Any) -> Table:
        columns: dict[str, Any] = {"age": made.age[own], "sex": made.sex[own]}
        columns |= {"held_out": made.held_out[own].astype(np.int8), "disease": made.disease[own].astype(np.float64)}
        return Table(columns, int(own.sum()), Copies(made.dosages[own]))


class RiskRehearsal(Rehearsal, RiskPlay):
    """`RiskPlay` with agents in this process: the demo's first study shows them as processes."""


def risk_cast() -> Cast:
    """Nobody yet; the region brings the hospitals."""
    return Cast((), "synthetic", PRIVACY | {"honest_minimum": 3})
