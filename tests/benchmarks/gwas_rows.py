"""Measured rows risk.6 and risk.8: recipe `gwas` on real genotypes, against plink2 and what is known of the data.

    python -m tests.benchmarks.gwas_rows [risk.6 risk.8] [--data FOLDER]

Sums go through the release kernel, site by site and batch by batch. plink2 prints six digits; it is given the same
trait times sixty-four factors from 1 to 10, and the sixty-four printed intervals of one number have one small part in
common: its own value to about 2e-8.
"""

import argparse
import csv
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopact_shared.published import Published
from genopact_shared.recipes.gwas_private import design
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Codes, Floats, Table
from tests.unit.association import Held, codes_of, federated, gwas_study, least_squares

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FACTORS = 10.0 ** (np.arange(64) / 64)
PLANTED, SEED = 12, 6
COMPONENTS = ("pc1", "pc2", "pc3", "pc4")
LOCI = {"rs870041": ("rs870041",), "rs17668255": ("rs17668255", "rs11591741"), "rs12762312": ("rs12762312",)}
APART = 500_000
"""Letters between two loci."""
Printed = tuple[Floats, Floats]
"""The middle of what plink2 may have meant, and how far the ends are from it, relatively."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """People of several sites. `parameters`: of the study. `variant`: names."""

    name: str
    table: Table
    site: NDArray[np.str_]
    variant: Sequence[str]
    parameters: Mapping[str, Any]
    position: NDArray[np.int64] | None = None
    planted: NDArray[np.intp] | None = None

    def tables(self) -> dict[str, Table]:
        return {str(site): self.table.take(self.site == site) for site in np.unique(self.site)}

    def covariates(self) -> Floats:
        """(n, k - 1) as a person would hand them to plink2."""
        named = self.parameters.get("covariates", ("age", "sex"))
        return np.column_stack([self.table.columns[name].astype(np.float64) for name in named])


def thousand_genomes(folder: Path = DATA / "kg1000_peddy_23k") -> Cohort:
    """2,504 people of 26 populations; a trait of age, sex, four components and planted variants."""
    rng, codes = np.random.default_rng(SEED), np.load(folder / "kg_geno.npz")["G"].astype(np.int8)
    with (folder / "samples.csv").open(newline="") as file:
        people = list(csv.DictReader(file))
    frequency = codes.mean(axis=0) / 2
    common = np.flatnonzero((frequency > 0.05) & (frequency < 0.95))
    x = (codes[:, common] - 2 * frequency[common]) / np.sqrt(2 * frequency[common] * (1 - frequency[common]))
    components = np.linalg.svd(x, full_matrices=False)[0][:, :4] * np.sqrt(len(x))
    sex = np.array([int(each["sex"]) % 2 for each in people], np.int8)
    age, planted = np.round(rng.uniform(20, 80, len(codes)), 1), np.sort(rng.choice(common, PLANTED, replace=False))
    spread = np.sqrt(2 * frequency * (1 - frequency))[planted]
    effects = np.repeat([0.1, 0.2, 0.3, 0.4], PLANTED // 4) / spread
    trait = 0.02 * age + 0.5 * sex + components @ np.array([0.5, -0.3, 0.2, 0.1]) + codes[:, planted] @ effects
    trait = np.round(trait + rng.normal(size=len(codes)), 6)
    columns = {"age": age, "sex": sex, "trait": trait} | dict(zip(COMPONENTS, components.T, strict=True))
    site = np.array([each["population"] for each in people])
    names = (folder / "sites_GRCh38.txt").read_text("utf-8").split()
    parameters = {"covariates": ["age", "sex", *COMPONENTS], "centre_milli": 1500, "spread_milli": 1200}
    table = Table(columns, len(codes), Held(codes))
    return Cohort("1000 Genomes", table, site, names, parameters, planted=planted)


def mice(folder: Path = DATA / "bglr_mice") -> Cohort:
    """HDL of heterogeneous stock mice, ten sites of whole cages."""
    found = np.load(folder / "mice_geno.npz")
    with (folder / "mice_pheno.csv").open(newline="") as file:
        rows = {each["SUBJECT.NAME"]: each for each in csv.DictReader(file)}
    known = [at for at, name in enumerate(found["ids"].tolist()) if _number(rows[name]["Biochem.HDL"]) is not None]
    mouse = [rows[found["ids"][at]] for at in known]
    age = np.array([_number(each["Biochem.Age"]) or 0.0 for each in mouse])
    columns = {
        "trait": np.array([float(each["Biochem.HDL"]) for each in mouse]),
        "sex": np.array([each["GENDER"] == "M" for each in mouse], np.int8),
        "pc1": (age - age.mean()) / age.std(),
    }
    cages = {cage: f"site{at % 10}" for at, cage in enumerate(sorted({each["cage"] for each in mouse}))}
    site, codes = np.array([cages[each["cage"]] for each in mouse]), found["G"][known].astype(np.int8)
    parameters = {"covariates": ["sex", "pc1"], "centre_milli": 2000, "spread_milli": 500}
    return Cohort("mice HDL", Table(columns, len(codes), Held(codes)), site, found["snps"].tolist(), parameters)


def chromosome_10(folder: Path = DATA / "snpstats_chr10_cc") -> Cohort:
    """500 cases and 500 controls, three sites of each ancestry; nearly every variant is missing in somebody."""
    codes = np.load(folder / "geno.npz")["G"].astype(np.int8)
    codes[codes == 9] = -1
    with (folder / "subjects.csv").open(newline="") as file:
        people = list(csv.DictReader(file))
    with (folder / "snps.csv").open(newline="") as file:
        variants = list(csv.DictReader(file))
    ancestry = np.array([each["stratum"] == "CEU" for each in people])
    trait = np.array([float(each["cc"]) for each in people])
    site = np.array([f"{'ab'[int(own)]}{at % 3}" for at, own in enumerate(ancestry)])
    table = Table({"trait": trait, "pc1": 2.0 * ancestry - 1}, len(codes), Held(codes))
    position = np.array([int(each["position"]) for each in variants], np.int64)
    parameters = {"covariates": ["pc1"], "trait": "logistic"}
    return Cohort("chromosome 10", table, site, [each[""] for each in variants], parameters, position)


def quantitative(cohort: Cohort) -> Cohort:
    """Another trait of the same people, made up: to compare where genotypes are missing."""
    rng = np.random.default_rng(SEED)
    trait = cohort.table.number("pc1") + np.maximum(codes_of(cohort.table)[:, 100], 0) + rng.normal(size=cohort.table.n)
    table = replace(cohort.table, columns={**cohort.table.columns, "trait": np.round(trait, 6)})
    return replace(cohort, table=table, parameters={"covariates": ["pc1"]}, name=f"{cohort.name}, made-up trait")


def _number(text: str) -> float | None:
    return float(text) if text else None


def together(cohort: Cohort, mode: str = "exact", **parameters: Any) -> tuple[Any, Model]:
    """The federated study."""
    about = {**cohort.parameters, **parameters}
    with tempfile.TemporaryDirectory() as folder:
        published = Published(Path(folder))
        if "epsilon_milli" in about:
            about["design"] = published.add(design(_frequency(codes_of(cohort.table))))
        sites = [name.lower() for name in cohort.tables()]
        of = gwas_study(codes_of(cohort.table).shape[1], mode, sites=sites, **about)
        return federated(of, dict(zip(sites, cohort.tables().values(), strict=True)), published)


def _frequency(codes: Codes) -> Floats:
    """Stands for a public panel's, to two digits; that of nobody's data would do as well."""
    called = codes >= 0
    return np.asarray(np.round(np.where(called, codes, 0).sum(axis=0) / np.maximum(2 * called.sum(axis=0), 1), 2))


def plink2(cohort: Cohort) -> dict[str, Printed]:
    """BETA and SE of everybody in one file."""
    from bed_reader import to_bed

    codes, n = codes_of(cohort.table), cohort.table.n
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ids, count = [f"p{at}" for at in range(n)], codes.shape[1]
        properties = {
            "fid": ids, "iid": ids, "sid": [f"v{at}" for at in range(count)], "chromosome": ["1"] * count,
            "bp_position": np.arange(1, count + 1), "allele_1": ["A"] * count, "allele_2": ["C"] * count,
        }  # fmt: skip
        to_bed(folder / "all.bed", np.where(codes < 0, -127, codes).astype(np.int8), properties=properties)
        traits = cohort.table.number("trait")[:, None] * FACTORS
        _write(folder / "traits", ids, [f"t{at}" for at in range(len(FACTORS))], traits)
        covariates = cohort.covariates()
        _write(folder / "covariates", ids, [f"c{at}" for at in range(covariates.shape[1])], covariates)
        words = (
            "--bfile all --pheno traits --covar covariates --covar-variance-standardize --no-input-missing-phenotype"
        )
        words += " --glm omit-ref hide-covar cols=chrom,nobs,beta,se --out found --threads 2"
        done = subprocess.run(["plink2", *words.split()], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr + done.stdout)
        printed = [_read(folder / f"found.t{at}.glm.linear", count) for at in range(len(FACTORS))]
    return {name: _in_common([each[name] for each in printed]) for name in ("BETA", "SE")}


def _write(path: Path, ids: Sequence[str], names: Sequence[str], values: Floats) -> None:
    lines = ["\t".join(["#FID", "IID", *names])]
    lines += ["\t".join([one, one, *map(repr, row)]) for one, row in zip(ids, values.tolist(), strict=True)]
    path.write_text("\n".join([*lines, ""]))


def _read(path: Path, count: int) -> dict[str, list[str]]:
    with path.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if len(rows) != count:
        raise RuntimeError(f"{len(rows)} of {count} variants")
    return {name: [each[name] for each in rows] for name in ("BETA", "SE")}


def _in_common(printed: Sequence[Sequence[str]]) -> Printed:
    """Of the intervals that the printed digits stand for, each divided by its factor, the part that all have."""
    low, high = np.full(len(printed[0]), -np.inf), np.full(len(printed[0]), np.inf)
    for texts, factor in zip(printed, FACTORS, strict=True):
        values = np.array([float(text) if text != "NA" else np.nan for text in texts])
        half = 10.0 ** (np.floor(np.log10(np.abs(values))) - 5) / 2 * (1 + 1e-9)
        low, high = np.maximum(low, (values - half) / factor), np.minimum(high, (values + half) / factor)
    middle = (low + high) / 2
    return middle, (high - low) / 2 / np.abs(middle)


def naive(cohort: Cohort) -> Floats:
    """(2, V) effect and standard error by numpy's least squares, variant by variant; NaN where it does not vary."""
    codes, trait = codes_of(cohort.table), cohort.table.number("trait")
    covariates = np.column_stack([np.ones(cohort.table.n), cohort.covariates()])
    found = np.full((2, codes.shape[1]), np.nan)
    for at, copies in enumerate(codes.T):
        own = copies >= 0
        if np.ptp(copies[own]):
            found[:, at] = least_squares(copies[own] * 1.0, covariates[own], trait[own])
    return found


def risk_6(data: Path) -> dict[str, Any]:
    """Three cohorts against plink2 and least squares; the first also with budgets."""
    worst, about = 0.0, dict[str, Any]()
    cohorts = thousand_genomes(data / "kg1000_peddy_23k"), mice(data / "bglr_mice")
    for cohort in (*cohorts, quantitative(chromosome_10(data / "snpstats_chr10_cc"))):
        _, model = together(cohort)
        printed, told = plink2(cohort), dict[str, Any]()
        for name, column in (("effect", "BETA"), ("error", "SE")):
            middle, half = printed[column]
            known = np.isfinite(middle)
            if (np.isfinite(model[name]) != known).any():
                raise AssertionError(f"{cohort.name}: other variants have results than plink2's")
            apart = np.abs(model[name][known] / middle[known] - 1)
            told[column] = {"largest": f"{apart.max():.2g}", "median": f"{np.median(apart):.2g}"}
            told[column] |= {"within what plink2 printed": f"{(apart <= half[known]).sum()} of {known.sum()}"}
            worst = max(worst, float(apart.max()))
        fits, some = naive(cohort), np.isfinite(model["effect"])
        pairs = zip((model["effect"], model["error"]), fits, strict=True)
        own = [f"{np.abs(found[some] / fit[some] - 1).max():.2g}" for found, fit in pairs]
        sites, missing = len(cohort.tables()), int((codes_of(cohort.table) < 0).sum())
        told |= {"least squares in float64, BETA and SE": ", ".join(own), "sites": sites, "missing genotypes": missing}
        about[cohort.name] = told | {"people": cohort.table.n, "variants with a result": int(some.sum())}
    whole = cohorts[0]
    for name, cohort in {"all variants": whole, "a panel of 500": panel(whole)}.items():
        for milli in (8000, 3000):
            about[f"epsilon {milli / 1000:g}, {name}"] = recovered(cohort, milli)
    how = "plink2 prints six digits; the same trait times 64 factors narrows each number to about 3e-8 (at most 2.6e-7)"
    return {"value": worst, "note": {"how": how, **about}}


def panel(cohort: Cohort, count: int = 500) -> Cohort:
    """The planted variants among as many others as a candidate panel has."""
    assert cohort.planted is not None
    codes, rng = codes_of(cohort.table), np.random.default_rng(SEED)
    others = rng.choice(np.setdiff1d(np.arange(codes.shape[1]), cohort.planted), count - PLANTED, replace=False)
    some = np.sort(np.concatenate([cohort.planted, others]))
    table = replace(cohort.table, genotypes=Held(codes[:, some]))
    return replace(cohort, table=table, planted=np.flatnonzero(np.isin(some, cohort.planted)))


def recovered(cohort: Cohort, milli: int) -> dict[str, Any]:
    """Which of the planted variants a study with a budget finds; 26 sites, noise sized for 17."""
    assert cohort.planted is not None
    plan, model = together(cohort, "distributed", epsilon_milli=milli)
    step = plan.steps[-1]
    noise = np.sqrt(step.share_variance * len(plan.planned)) / step.fact.scale
    wider = np.sqrt(1 + noise**2 / plan.course.information)
    z = np.abs(np.nan_to_num(model["effect"] / (model["error"] * wider)))
    top = np.argsort(-z)[:PLANTED]
    return {
        f"of {PLANTED} planted among the first {PLANTED}": int(np.isin(top, cohort.planted).sum()),
        "of them at p below 5e-8": int((z[cohort.planted] > 5.4513).sum()),
        "others at p below 5e-8": int((z > 5.4513).sum() - (z[cohort.planted] > 5.4513).sum()),
        "standard errors times": round(float(wider), 2),
    }


def risk_8(data: Path) -> dict[str, Any]:
    """The known loci among the first ten with ancestry as a covariate, and the first three without."""
    cohort = chromosome_10(data / "snpstats_chr10_cc")
    ranks, about = dict[str, dict[str, int]](), dict[str, Any]()
    for name, covariates in {"ancestry as a covariate": ["pc1"], "no covariate": []}.items():
        _, model = together(cohort, covariates=covariates)
        chisq = np.nan_to_num((model["effect"] / model["error"]) ** 2)
        leads = loci(cohort, chisq)
        ranks[name] = {locus: _rank(cohort, leads, names) for locus, names in LOCI.items()}
        first = {cohort.variant[at]: f"chi2 {chisq[at]:.1f}" for at in leads[:6]}
        about[name] = {"ranks after clumping": ranks[name], "leads": first}
    found = max(ranks["ancestry as a covariate"].values()) <= 10 and max(ranks["no covariate"].values()) <= 3
    about["polygenic AUC, five folds"] = f"{polygenic_auc(cohort):.3f}"
    about["clumping"] = f"{APART // 1000} kb; one locus, rs870041, is genome-wide significant on its own"
    return {"value": int(found), "note": about}


def loci(cohort: Cohort, chisq: Floats, most: int = 50) -> list[int]:
    """The variants that lead loci, the strongest first."""
    assert cohort.position is not None
    leads = list[int]()
    for at in np.argsort(-chisq).tolist():
        if all(abs(cohort.position[at] - cohort.position[lead]) > APART for lead in leads):
            leads.append(at)
        if len(leads) == most:
            break
    return leads


def _rank(cohort: Cohort, leads: Sequence[int], names: Sequence[str]) -> int:
    """From 1, of the locus that one of the names leads; one after the last for none."""
    return next((at for at, lead in enumerate(leads, start=1) if cohort.variant[lead] in names), len(leads) + 1)


def polygenic_auc(cohort: Cohort, folds: int = 5, most: int = 50) -> float:
    """Of a score of the leading variants' effects, found by the federation without the fold; mean over folds."""
    rng, codes = np.random.default_rng(SEED), codes_of(cohort.table)
    fold, found = rng.permutation(cohort.table.n) % folds, list[float]()
    for out in range(folds):
        kept = fold != out
        part = replace(cohort, table=cohort.table.take(kept), site=cohort.site[kept])
        _, model = together(part)
        leads = loci(part, np.nan_to_num((model["effect"] / model["error"]) ** 2), most)
        score = np.maximum(codes[~kept][:, leads], 0) @ model["effect"][leads]
        case = cohort.table.number("trait")[~kept] == 1
        above = score[case][:, None] - score[~case]
        found.append(float(((above > 0) + 0.5 * (above == 0)).mean()))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("rows", nargs="*", default=["risk.6", "risk.8"])
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    measure: dict[str, Callable[[Path], dict[str, Any]]] = {"risk.6": risk_6, "risk.8": risk_8}
    for name in options.rows:
        print(json.dumps({"row": name} | measure[name](options.data)), flush=True)


if __name__ == "__main__":
    main()
