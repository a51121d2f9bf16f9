"""genotypes.2 and genotypes.8: VCF.gz to harmonised, sealed rows, against plink2; and how that grows.

python -m tests.benchmarks.genotype_import [PEOPLE VARIANTS]

An import is `genopact-site import` without its terminal: a site with enrolled people is unlocked (Argon2), a signed
manifest verified, every line checked, every site compared with FASTA and manifest, a row sealed for each person under
a key of its own, the store committed. The process has imported a small file before, so that packages are loaded and
loops compiled (a constant of some seconds, which no size changes: in the note, with the ratio that it gives here).
plink2 makes a .pgen of the same file, with its defaults, without harmonising or sealing. CPU seconds, medians of
interleaved rounds; memory is the greatest resident size of the whole process.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.genotype_cohort import FASTA, SITES, cohort

PEOPLE, VARIANTS, ROUNDS = 5_000, 50_000, 3
SMALL = 200, 500
GROWTH = ((2_000, 20_000), (2_000, 40_000), (4_000, 20_000))
TARGET = 50_000, 500_000
GIB = 1 << 30


def prepare(home: Path, people: int, variants: int) -> dict[str, str]:
    """A site that knows the cohort's people, and the manifest of its sites; what `run` wants to know."""
    import numpy as np

    from genopact_client.site import Site
    from genopact_client.store.sealed import Store
    from genopact_server import manifests, scoring
    from genopact_shared.keys import SigningKey
    from genopact_shared.recipes.dose_features import SCHEMA
    from genopact_shared.recipes.table import Table

    vcf = cohort(people, variants)
    site = Site.create(home / "site", "north", b"a passphrase for a benchmark")
    rows = site.people.enrol([f"P{number:06}" for number in range(people)])
    with Store.create(home / "site" / "store", site.keyfile, SCHEMA, "synthetic") as store:
        store.write(rows, Table({"sex": np.resize(np.array([0, 1], np.int8), people)}, people))
    sites = home / SITES
    sites.write_text("chrom\tpos\tref\talt\tfrequency\n" + (vcf.parent / SITES).read_text("ascii"), "ascii")
    draft = manifests.Draft(manifests.Fasta(vcf.parent / FASTA))
    scoring.read_sites(sites, draft)
    made, signer = draft.manifest("benchmark", 1, "simulated", "."), SigningKey.generate()
    (home / "variants.tsv").write_bytes(made.encode())
    (home / "variants.tsv.dsse").write_bytes(made.sign(signer))
    return {"home": str(home), "vcf": str(vcf), "fasta": str(vcf.parent / FASTA), "signer": signer.public.hex}


def run(given: dict[str, str]) -> dict[str, Any]:
    """One import of this process; CPU seconds and what was sealed."""
    from genopact_client.site import Site
    from genopact_ingest.commands.genotypes import GenotypeFiles, import_genotypes

    home = Path(given["home"])
    before, began = time.process_time(), time.monotonic()
    site = Site.open(home / "site", b"a passphrase for a benchmark")
    files = GenotypeFiles((Path(given["vcf"]),), home / "variants.tsv", given["signer"], Path(given["fasta"]))
    answer = import_genotypes(site, files, dry_run=False)
    site.store.close()
    found = {"cpu_s": time.process_time() - before, "wall_s": time.monotonic() - began}
    size = sum(path.stat().st_size for path in (home / "site" / "genotypes").rglob("*") if path.is_file())
    return found | {"people": answer.data["people"], "found": answer.data["found"], "bytes": size}


def child(warm: dict[str, str], second: dict[str, str], given: dict[str, str]) -> dict[str, Any]:
    """What a process of its own prints: cost of starting, of compiling, and of the import."""
    import genopact_client.cli  # noqa: F401 - what the command line costs before it does anything

    run(warm)
    again = run(second)
    cold = time.process_time() - 2 * again["cpu_s"]
    done = run(given)
    return done | {"cold_cpu_s": cold, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def imported(people: int, variants: int) -> dict[str, Any]:
    """`child` in a new process."""
    with tempfile.TemporaryDirectory(prefix="genopact-") as folder:
        homes = [Path(folder) / name for name in ("warm", "second", "main")]
        sizes = (SMALL, SMALL, (people, variants))
        given = [json.dumps(prepare(home, *size)) for home, size in zip(homes, sizes, strict=True)]
        command = [sys.executable, "-m", "tests.benchmarks.genotype_import", "child", *given]
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def by_plink2(path: Path) -> dict[str, float]:
    """CPU seconds and greatest resident size of `plink2 --make-pgen`."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["plink2", "--vcf", str(path), "--make-pgen", "--allow-extra-chr", "--out", f"{folder}/peer"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError("plink2 failed")
    return {"cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}


def main(people: int = PEOPLE, variants: int = VARIANTS, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """genotypes.2.cpu and genotypes.2.memory."""
    path = cohort(people, variants)
    pairs = [(imported(people, variants), by_plink2(path)) for _ in range(rounds)]
    ratio = statistics.median(one["cpu_s"] / other["cpu_s"] for one, other in pairs)
    cold = statistics.median((one["cold_cpu_s"] + one["cpu_s"]) / other["cpu_s"] for one, other in pairs)
    memory = max(one["peak_bytes"] for one, _ in pairs) / min(other["peak_bytes"] for _, other in pairs)
    one = pairs[0][0]
    note = {
        "people x variants": f"{people} x {variants}",
        "manifest rows found": one["found"],
        "CPU s": [round(each["cpu_s"], 2) for each, _ in pairs],
        "starting and compiling, on top in a cold process": [round(each["cold_cpu_s"], 2) for each, _ in pairs],
        "ratio of a cold process": round(cold, 2),
        "plink2 CPU s": [round(each["cpu_s"], 2) for _, each in pairs],
        "peak MB, plink2's": [round(each["peak_bytes"] / 1e6) for each in (one, pairs[0][1])],
        "sealed MB": round(one["bytes"] / 1e6, 1),
    }
    return [
        {"row": "genotypes.2.cpu", "value": round(ratio, 3), "note": note},
        {"row": "genotypes.2.memory", "value": round(memory, 3), "note": note},
    ]


def grown() -> list[dict[str, Any]]:
    """genotypes.8: three sizes fit cost = a + b people x variants + c variants; the law at the target's size."""
    import numpy as np

    measured = [(size, imported(*size)) for size in GROWTH]
    design = np.array([[1.0, n * v, v] for (n, v), _ in measured])
    cost = np.linalg.solve(design, np.array([each["cpu_s"] for _, each in measured]))
    (n, v), last = TARGET, measured[-1][1]
    cpu = float(cost @ [1.0, n * v, v])
    disk = n * (v / 4 + 28 * -(-v // 65_536))
    note = {
        "measured": [
            f"{a} x {b}: {each['cpu_s']:.2f} CPU s, {each['peak_bytes'] / 1e6:.0f} MB" for (a, b), each in measured
        ],
        "law of CPU seconds": f"{cost[0]:.2f} + {cost[1]:.3g} n V + {cost[2]:.3g} V",
        "law of disk": "n (V / 4 + 28 for each block of 65,536 variants)",
        "law of memory": "the smaller of 1 GiB and the packed matrix, and about 0.3 GB for the rest",
        "50,000 x 500,000": f"{cpu / 3600:.2f} CPU hours, {disk / GIB:.1f} GiB on disk, at most 1.4 GB of memory",
    }
    whole = cpu > 0 and min(cost[1:]) > 0 and abs(last["bytes"] / (4_000 * 5_000) - 1) < 0.2
    return [{"row": "genotypes.8", "value": int(whole), "note": note}]


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(child(*map(json.loads, sys.argv[2:]))))
    elif sys.argv[1:2] == ["grow"]:
        for row in grown():
            print(json.dumps(row))
    else:
        for row in main(*map(int, sys.argv[1:])):
            print(json.dumps(row))
