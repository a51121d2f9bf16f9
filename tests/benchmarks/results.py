"""`make results`: every row of docs/results.json, measured again unless it stands for this commit.

python -m tests.benchmarks.results [--again] [chain.1 chain.5 ...]
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks import record

ROOT = record.ROOT


@dataclass(frozen=True)
class Measure:
    """One command that gives rows: ids with unit, bar and seeds."""

    module: str
    rows: dict[str, tuple[str, str]]
    seeds: Sequence[int] = ()
    arguments: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """As a person types it."""
        return " ".join(["python -m", self.module, *self.arguments])

    def run(self) -> dict[str, dict[str, Any]]:
        """Row id -> value and note, from the JSON lines or the JSON object that the command prints."""
        done = subprocess.run(
            [sys.executable, "-m", self.module, *self.arguments],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{self.command} failed:\n{done.stderr[-2000:]}")
        found = list(objects(done.stdout))
        named = {each["row"]: each for each in found if "row" in each}
        return named or {next(iter(self.rows)): found[-1]}


def plain(value: Any) -> str:
    """A nested note as text."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {plain(inner)}" for name, inner in value.items())
    return f"[{', '.join(map(plain, value))}]" if isinstance(value, list) else str(value)


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text, which may hold other lines."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            at += 1
        else:
            found.append(value)
    return found


MEASURES = (
    Measure("tests.benchmarks.wheel", {"chain.8": ("", "== 1")}),
    Measure("tests.benchmarks.attacks", {"chain.7": ("", "== 1")}),
    Measure("tests.benchmarks.kills", {"chain.6": ("", "== 1")}),
    Measure(
        "tests.benchmarks.iwpc_rows",
        {
            "chain.2": ("mg/week", "<= 0.05"),
            "chain.3": ("% of the gain", ">= 95"),
            "chain.4": ("% at epsilon 1", "<= 1"),
        },
        seeds=range(20),
    ),
    Measure("tests.benchmarks.round_overhead", {"chain.5": ("s a round", "<= 2"), "chain.5.peer": ("x wall", ">= 8")}),
    Measure("tests.benchmarks.demo", {"chain.1": ("s", "<= 120")}, seeds=(2026,)),
    Measure(
        "tests.benchmarks.private_steps",
        {
            "privacy.1.mlp": ("x plain step", "<= 1.10"),
            "privacy.1.cnn": ("x plain step", "<= 1.20"),
            "privacy.1.gru": ("x plain step", "<= 2.0"),
            "privacy.1.transformer": ("x plain step", "<= 1.15"),
            "privacy.1.logistic": ("x plain step", "<= 1.10"),
        },
    ),
    Measure(
        "tests.benchmarks.noise_and_packed",
        {"privacy.1b.noise_ns": ("ns a value", "<= 2.0"), "privacy.1b.packed": ("x plain float32 step", "<= 0.5")},
    ),
    Measure(
        "tests.benchmarks.mutations", {"privacy.2": ("mutants killed", ">= 25"), "privacy.2.survived": ("", "== 0")}
    ),
    Measure(
        "tests.benchmarks.genotype_pass",
        {
            "genotypes.1.cyvcf2": ("x less CPU", ">= 10"),
            "genotypes.1.naive": ("x less CPU", ">= 200"),
            "genotypes.1.bcftools": ("x less CPU", ">= 4"),
        },
        seeds=(22,),
    ),
    Measure(
        "tests.benchmarks.genotype_import",
        {"genotypes.2.cpu": ("x plink2's CPU", "<= 1.0"), "genotypes.2.memory": ("x plink2's memory", "<= 0.5")},
        seeds=(22,),
    ),
    Measure("tests.benchmarks.genotype_import", {"genotypes.8": ("", "== 1")}, seeds=(22,), arguments=("grow",)),
    Measure(
        "tests.benchmarks.genotype_batches",
        {
            "genotypes.3.memmap": ("x int8 memmap", "<= 1.2"),
            "genotypes.3.pgenlib": ("x less CPU", ">= 8"),
            "genotypes.4": ("x memcpy", "<= 2"),
        },
    ),
    Measure("tests.benchmarks.genotype_sites", {"genotypes.5": ("share found", "== 1"), "genotypes.7": ("", "== 1")}),
    Measure(
        "tests.benchmarks.genotype_corpus",
        {
            "genotypes.6.refused": ("share", ">= 0.95"),
            "genotypes.6.accepted": ("share", "== 1"),
            "genotypes.6.silent": ("outcomes", "== 0"),
        },
    ),
    Measure(
        "tests.benchmarks.risk_rows",
        {
            "risk.1.eps1": ("gap in AUC", "<= 0.015"),
            "risk.1.eps3": ("gap in AUC", "<= 0.010"),
            "risk.1.eps8": ("gap in AUC", "<= 0.008"),
            "risk.2": ("", "== 1"),
            "risk.3": ("gap in AUC, worst group", "<= 0.025"),
            "risk.3b": ("AUC above alone", ">= 0.035"),
            "risk.4": ("", "== 1"),
        },
        seeds=(7, 12, 13),
    ),
    Measure("tests.benchmarks.risk_processes", {"risk.5": ("s", "<= 180")}, seeds=(7,)),
    Measure("tests.benchmarks.mice_rows", {"risk.7": ("correlation", ">= 0.57")}, seeds=(7,)),
    Measure("tests.benchmarks.certificates", {"privacy.2b": ("relative", "<= 0.01")}),
    Measure(
        "tests.benchmarks.masking",
        {"privacy.3.upload": ("x float32", "<= 1.1"), "privacy.3.cpu": ("CPU s a site", "<= 0.1")},
    ),
    Measure("tests.benchmarks.attacks", {"privacy.4": ("", "== 1")}, arguments=("tests/attacks/test_masking.py",)),
    Measure("tests.benchmarks.inversion", {"privacy.5": ("of 64 patients", "== 0")}, seeds=(20,)),
    Measure("tests.benchmarks.study_kills", {"privacy.6": ("under-counts", "== 0")}, seeds=(0,)),
    Measure("tests.benchmarks.modes", {"privacy.7": ("", "== 1")}, seeds=(7,)),
    Measure("tests.benchmarks.gwas_rows", {"risk.6": ("relative", "<= 0.000001"), "risk.8": ("", "== 1")}, seeds=(6,)),
    Measure("tests.benchmarks.risk_net_rows", {"risk.net": ("", "== 1")}, seeds=(7,)),
    Measure("tests.benchmarks.recipes.cells", {"recipes.cell_response": ("median r", ">= 0.30")}, seeds=(0,)),
    Measure("tests.benchmarks.recipes.splice", {"recipes.splice": ("accuracy", ">= 0.965")}, seeds=(0,)),
    Measure("tests.benchmarks.recipes.omics", {"recipes.multiomics": ("accuracy", ">= 0.957")}, seeds=range(5)),
    Measure(
        "tests.benchmarks.recipes.survival",
        {"recipes.survival": ("C-index", ">= 0.84"), "recipes.survival_sd": ("C-index", "<= 0.02")},
        seeds=range(20),
    ),
    Measure("tests.benchmarks.recipes.adverse", {"recipes.adverse": ("", "== 1")}, seeds=()),
    Measure(
        "tests.benchmarks.recipes.promoters", {"recipes.promoters": ("Matthews correlation", ">= 0.88")}, seeds=(0,)
    ),
    Measure("tests.benchmarks.recipes.fairness", {"recipes.evaluation": ("", "== 1")}, seeds=()),
    Measure("tests.benchmarks.recipes.ancestry", {"recipes.ancestry": ("accuracy", ">= 0.99")}, seeds=(0,)),
    Measure("tests.benchmarks.recipes.autoencoder", {"recipes.autoencoder": ("", "== 1")}, seeds=range(5)),
    Measure("tests.benchmarks.recipes.synthetic", {"recipes.synthetic": ("", "== 1")}, seeds=(0,)),
    Measure("tests.benchmarks.flower_example", {"privacy.8": ("", "== 1")}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing; a command that fails is reported, and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args(arguments)
    known = {row["id"]: row["commit"] for row in record.load()}
    failed = 0
    for measure in MEASURES:
        wanted = [name for name in measure.rows if not asked.rows or name in asked.rows]
        if not wanted or (not asked.again and all(known.get(name) == record.commit() for name in wanted)):
            continue
        print(f"{', '.join(wanted)}: {measure.command}", flush=True)
        try:
            found = measure.run()
        except (RuntimeError, IndexError) as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        _record(measure, found, wanted, print)
    return int(failed > 0)


def _record(
    measure: Measure, found: dict[str, dict[str, Any]], wanted: Sequence[str], say: Callable[[str], None]
) -> None:
    for name in wanted:
        unit, bar = measure.rows[name]
        row = found[name]
        note = row.get("note", "") if isinstance(row.get("note", ""), str) else plain(row["note"])
        kept = record.record(name, row["value"], unit, bar, measure.command, seeds=measure.seeds, note=note)
        say(f"  {name} = {kept['value']} {unit} ({record.verdict(kept['value'], bar)})")


if __name__ == "__main__":
    sys.exit(main())
