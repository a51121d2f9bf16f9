"""Hospitals with sealed genotypes for studies of associations: made-up people, consents of several kinds, a study."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genopact_client.agent.exchange import Exchange
from genopact_client.genotypes.sealed import Genotypes
from genopact_client.site import Site
from genopact_client.store.sealed import Store
from genopact_server.folder import Folder
from genopact_shared.keys import SigningKey
from genopact_shared.manifest import VariantManifest
from genopact_shared.recipes.gwas import SCHEMA
from genopact_shared.recipes.table import Table
from tests.integration.hospital import PASSPHRASE, POLICY, Consortium, DirectCourier, Hospital, consenting, study_of
from tests.unit.association import codes_of, people
from tests.unit.genotype_rows import variants

PEOPLE, COUNT, MINIMUM = 50, 12, 30
NO_STATISTICS, LIMITED = (3, 4, 5), (8,)
"""Rows at each site: whose consent says nothing of federated statistics, and who set a limit to what may be spent."""
NAMES = ("site-a", "site-b", "site-c")
MANIFEST = variants(COUNT)


def clinic(
    home: Path, name: str, table: Table, manifest: VariantManifest = MANIFEST, modes: str = "distributed, exact"
) -> Hospital:
    site = Site.create(home, name, PASSPHRASE)
    policy = POLICY.format(site=name, epsilon=20_000, lifetime=20_000)
    (home / "policy.yaml").write_text(policy.replace("modes: [none, local, distributed]", f"modes: [{modes}]"))
    rows = site.people.enrol([f"{name}-{number}" for number in range(table.n)])
    store = Store.create(home / "store", site.keyfile, SCHEMA, "private")
    store.write(rows, Table(table.columns, table.n))
    store.close()
    genotypes = Genotypes.create(home / "genotypes" / "main", site.keyfile, manifest, "private")
    writer = genotypes.writer(rows, "")
    writer.add(np.arange(len(manifest)), np.ascontiguousarray(codes_of(table).T))
    writer.commit()
    (home / "genotypes" / "main" / "variants.tsv").write_bytes(manifest.encode())
    genotypes.close()
    permitted = consenting()
    records = {int(row): permitted for row in rows}
    silent = permitted.provisions[0].model_copy(update={"uses": ("train", "validate")})
    records |= {row: permitted.model_copy(update={"provisions": (silent,)}) for row in NO_STATISTICS}
    records |= {row: permitted.model_copy(update={"max_epsilon_milli": 20_000}) for row in LIMITED}
    site.registry.record_many(records)
    return Hospital(site, SigningKey.generate(), table)


def about(recipe: str = "gwas", mode: str = "exact", manifest: VariantManifest = MANIFEST, **given: Any) -> Any:
    """Sections of a study file that make it one of associations."""
    parameters = {"variants": manifest.digest, "count": len(manifest), **given}
    if recipe == "gwas":
        parameters = {"trait": "linear", "covariates": ["age", "sex", "pc1"]} | parameters
    return {
        "recipe": {"name": recipe, "version": 1, "parameters": parameters}, "outcome": "trait",
        "metrics": ["patients", "lambda_gc"] if recipe == "gwas" else ["variance"], "minimum_cohort": MINIMUM,
        "privacy": {"mode": mode, "honest_minimum": 2} | ({} if mode == "exact" else {"epsilon_milli": 2000}),
        "schedule": {"quorum": 3, "deadline_s": 20, "attempts": 1},
        "purpose": {
            "permission": "HMB", "uses": ["federated_stats"] if mode == "exact" else ["train"], "commercial": False,
            "organisations": ["public"], "regions": ["DE"], "data": ["genotype", "ehr"],
        },
    }  # fmt: skip


def clinics(path: Path, change: Callable[[Table], Table] = lambda table: table, **sections: Any) -> Consortium:
    """Three sites that have approved a study, by default exact and of associations."""
    folder = Folder.create(path / "coordinator", "coordinator", "127.0.0.1:8000")
    tables = [change(people(PEOPLE, COUNT, seed)) for seed in range(3)]
    hospitals = {
        name: clinic(path / name, name, table) for name, table in zip(NAMES, tables, strict=True)
    }  # fmt: skip
    study = study_of(folder, [each.party for each in hospitals.values()], **(about() | sections))
    one = Consortium(folder, hospitals, study, DirectCourier({}), [])
    return approved(one)


def approved(one: Consortium) -> Consortium:
    """The same hospitals once they have approved the study, each with an agent anew."""
    for each in one.hospitals.values():
        one.folder.accept(one.study, each.approve(one.study))
    one.courier = DirectCourier({name: Exchange(each.site) for name, each in one.hospitals.items()})
    return one


def another(one: Consortium, **sections: Any) -> Consortium:
    """Another study of the same hospitals."""
    study = study_of(one.folder, [each.party for each in one.hospitals.values()], **sections)
    return approved(Consortium(one.folder, one.hospitals, study, one.courier, []))


def taking_part(without: Sequence[int] = (*NO_STATISTICS, *LIMITED), n: int = PEOPLE) -> list[int]:
    return [row for row in range(n) if row not in without]
