"""risk.5: the frozen cohort as eight hospitals with agents and links of their own, from import to the released model.

Seconds by the wall after the import: approvals, processes coming up, all rounds with masks, release. The design is made
of public data before; its time is told.
"""

import csv
import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from genopact_server.demo.cast import Cast, Player
from genopact_server.demo.risk import RiskPlay
from genopact_server.demo.stage import Stage
from genopact_server.report.facts import read_model
from genopact_shared.published import Published
from genopact_shared.recipes import chosen
from genopact_shared.recipes.risk import RISK
from genopact_shared.recipes.table import Codes, Table
from genopact_shared.study import load_study
from tests.benchmarks.risk_rows import POOLED, auc
from tests.benchmarks.risk_study import FOLDER, HONEST, NAMES, PEOPLE, PREVALENCE, REFERENCE, Cohort, dosages, public

SEED, EPSILON, DELTA = 7, 1000, "0.0000194"
PERMIT = "active,GRU,,train;validate,public;nonprofit,never,*,genotype;drug;ehr,2009-01-01,2049-12-31,PUBLIC|SIMULATED"
Site = tuple[str, int, str, str]


def write_bed(prefix: Path, copies: Codes, people: list[tuple[str, str]], sites: list[Site]) -> None:
    """PLINK 1 files of (n, V) copies of ALT; people: family and own id."""
    codes = np.pad(np.array([3, 2, 0], np.uint8)[copies.T], ((0, 0), (0, -len(copies) % 4)))
    packed = codes[:, 0::4] | codes[:, 1::4] << 2 | codes[:, 2::4] << 4 | codes[:, 3::4] << 6
    Path(f"{prefix}.bed").write_bytes(b"\x6c\x1b\x01" + packed.tobytes())
    Path(f"{prefix}.fam").write_text("".join(f"{family} {own} 0 0 0 -9\n" for family, own in people))
    rows = (f"{chrom} {chrom}:{pos} 0 {pos} {alt} {ref}\n" for chrom, pos, ref, alt in sites)
    Path(f"{prefix}.bim").write_text("".join(rows))


@dataclass
class FrozenPlay(RiskPlay):
    """`RiskPlay` with the frozen cohort's eight hospitals."""

    sites: int = 8
    quorum: int = 7

    def region(self) -> None:
        meta = np.load(FOLDER / f"public_seed{SEED}.npz")["meta"]
        # A chunk of the simulation is a chromosome; two variants of one position differ in their letters.
        seen: dict[tuple[int, int], int] = {}
        sites: list[Site] = []
        for chunk, _, at, *_ in meta:
            place = int(chunk) + 1, int(at) + 1
            seen[place] = seen.get(place, 0) + 1
            sites.append((str(place[0]), place[1], "A", "CGT"[seen[place] - 1]))
        files = self.folder / "files"
        (files / "public").mkdir(parents=True)
        copies = dosages("genotypes_2bit.npy.xz", PEOPLE)
        self.frozen = Cohort.load(SEED, copies)
        self._public(files / "public", sites)
        players = []
        for number, rows in enumerate(self.frozen.hospitals):
            name = f"hospital-{number}"
            folder = files / "hospitals" / name
            folder.mkdir(parents=True)
            people = [f"{name}-{row:05d}" for row in rows.tolist()]
            write_bed(folder / "genotypes", copies[rows], [(each, each) for each in people], sites)
            self._covariates(folder, people, self.frozen.table(rows))
            players.append(Player(name, folder, Table({}, 0), Table({}, 0), epsilon_milli=EPSILON, vcf=False))
        self.cast = Cast(tuple(players), "synthetic", self.cast.privacy)

    def _public(self, folder: Path, sites: list[Site]) -> None:
        panel, _ = public(SEED)
        lines = ["chrom\tpos\tref\talt\tblock"]
        lines += [f"{c}\t{p}\t{r}\t{a}\t{c}-{(p - 1) // 1_000_000}" for c, p, r, a in sites]
        (folder / "sites.tsv").write_text("\n".join([*lines, ""]))
        people = [(NAMES[k], f"r{i}") for i, k in enumerate(panel.ancestry.tolist())]
        write_bed(folder / "panel", panel.dosages, people, sites)
        published, odds = np.load(FOLDER / f"public_seed{SEED}.npz"), PREVALENCE * (1 - PREVALENCE)
        for k, name in enumerate(NAMES):
            f, n = panel.frequency[k], int(published["n"][k])
            information = n * odds * 2 * f * (1 - f)
            with np.errstate(divide="ignore", invalid="ignore"):
                beta = published["xty"][:, k] * odds / published["rvar"][k] / information
                rows = zip(sites, beta.tolist(), (information**-0.5).tolist(), strict=True)
            lines = ["CHROM GENPOS ID ALLELE0 ALLELE1 N BETA SE"]
            lines += [f"{c} {p} . {r} {a} {n} {b:.10g} {se:.10g}" for (c, p, r, a), b, se in rows if np.isfinite(se)]
            (folder / f"gwas-{name}.tsv").write_text("\n".join([*lines, ""]))

    @staticmethod
    def _covariates(folder: Path, people: list[str], table: Table) -> None:
        with (folder / "covariates.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["person", "age", "sex", "held_out", "disease"])
            age = np.clip(table.number("age"), 0, 120).tolist()
            codes = (table.codes(name).tolist() for name in ("sex", "held_out"))
            columns = (age, *codes, table.number("disease").tolist())
            for person, years, sex, held_out, disease in zip(people, *columns, strict=True):
                words = ("female", "male")[sex], ("no", "yes")[held_out]
                writer.writerow([person, f"{years:.4f}", *words, f"{disease:.0f}"])
        header = (
            "person,status,permission,diseases,uses,org_types,commercial_use,regions,data,valid_from,valid_until,form"
        )
        (folder / "consent.csv").write_text("\n".join([header, *(f"{each},{PERMIT}" for each in people), ""]))

    @property
    def training_people(self) -> int:
        return int((~self.frozen.private["test"]).sum())

    @property
    def mix(self) -> str:
        shares = np.bincount(self.frozen.private["pop"]) / PEOPLE
        return ",".join(f"{name}={share:.6f}" for name, share in zip(NAMES, shares, strict=True))

    def perform(self, scenes: Iterable[str] = ()) -> dict[str, Any]:
        del scenes  # all of them, each with its time
        clock = [time.monotonic()]
        for scene in (self.region, self.coordinator, self.design, self.hospitals, self.approvals, self._sites):
            scene()
            clock.append(time.monotonic())
        self.result["run"] = self._train()["run"]
        clock.append(time.monotonic())
        names = ("files", "coordinator", "design", "import", "approvals", "processes", "training")
        self.result["seconds"] = {name: round(b - a, 1) for name, a, b in zip(names, clock, clock[1:], strict=False)}
        self.verify()
        return self.result

    def held_out_auc(self) -> float:
        """Of the released model."""
        study = load_study(self.folder / "study.yaml")
        plan = RISK.plan(chosen(study.recipe)[1], PEOPLE, None, Published(self.folder / "hub" / "published"))
        runs = self.folder / "hub" / "runs" / self.result["run"]
        table = self.frozen.table(np.flatnonzero(self.frozen.private["test"]))
        return auc(table.number("disease"), plan.log_odds(read_model(max(runs.glob("model-*.safetensors"))), table))


def main() -> dict[str, Any]:
    privacy = {"mode": "distributed", "epsilon_milli": EPSILON, "delta": DELTA, "honest_minimum": HONEST}
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        play = FrozenPlay(stage, Cast((), "synthetic", privacy), Console(stderr=True))
        result = play.perform()
        found = play.held_out_auc()
        rounds = len(list((Path(folder) / "hub" / "runs" / result["run"]).glob("model-*"))) - 1
    seconds = result["seconds"]
    note = {
        "seconds": seconds, "rounds": rounds, "audit": result["audit"], "people": PEOPLE, "reference people": REFERENCE,
        "AUC of this run, seed 7, epsilon 1": round(found, 4), "gap to pooled": round(POOLED[SEED][0] - found, 4),
    }  # fmt: skip
    after = sum(seconds[name] for name in ("approvals", "processes", "training"))
    return {"row": "risk.5", "value": round(after, 1), "note": note}


if __name__ == "__main__":
    print(json.dumps(main()))
