"""Small hospitals with sealed genotypes, a published design, and a risk study that all of them have approved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_client import kek
from genopact_client.agent.exchange import Exchange
from genopact_client.genotypes.sealed import Genotypes
from genopact_client.site import Site
from genopact_client.store.sealed import Store
from genopact_server.folder import Folder
from genopact_shared import statements
from genopact_shared.keys import SigningKey
from genopact_shared.recipes.risk import RISK
from genopact_shared.recipes.table import Copies, Table
from tests.integration.hospital import PASSPHRASE, POLICY, Consortium, DirectCourier, Hospital, consenting, study_of
from tests.unit import genotype_rows
from tests.unit.risk_panel import VARIANTS, patients, small_design

VARIANT_MANIFEST = genotype_rows.variants(VARIANTS)
DISTRIBUTED = {"mode": "distributed", "epsilon_milli": 5000, "delta": "0.000001", "honest_minimum": 2}
NONE = {"mode": "none", "delta": "0.000001", "honest_minimum": 1}
LOCAL = DISTRIBUTED | {"mode": "local", "honest_minimum": 1}
PURPOSE = {
    "permission": "HMB", "uses": ["train"], "organisations": ["public"], "commercial": False, "regions": ["DE"],
    "data": ["genotype", "ehr"],
}  # fmt: skip


def hospital(home: Path, truth: Table, kind: Any = "private", without_genotypes: Sequence[int] = ()) -> Hospital:
    """All people of a table consent; some have no genotypes."""
    site = Site.create(home, home.name, PASSPHRASE)
    (home / "policy.yaml").write_text(POLICY.format(site=site.name, epsilon=5000, lifetime=20_000))
    rows = site.people.enrol([f"{site.name}-{number}" for number in range(truth.n)])
    with Store.create(home / "store", site.keyfile, RISK.schema, kind) as store:
        store.write(rows, Table(truth.columns, truth.n))
    assert isinstance(truth.genotypes, Copies)
    known = np.setdiff1d(np.arange(truth.n), without_genotypes)
    with Genotypes.create(home / "genotypes" / "main", site.keyfile, VARIANT_MANIFEST, kind) as genotypes:
        writer = genotypes.writer(rows[known], "")
        writer.add(np.arange(VARIANTS), np.ascontiguousarray(truth.genotypes.array[known].T))
        writer.commit()
    (home / "genotypes" / "main" / "variants.tsv").write_bytes(VARIANT_MANIFEST.encode())
    site.registry.record_many({int(row): consenting() for row in rows})
    return Hospital(site, SigningKey.generate(), truth)


def consortium(
    path: Path, sizes: Sequence[int] = (60, 80, 100), *, privacy: dict[str, Any] = DISTRIBUTED,
    courier: type[DirectCourier] = DirectCourier, without_genotypes: Sequence[int] = (), **changes: Any,
) -> Consortium:  # fmt: skip
    """Sites site-0, site-1, ...; `without_genotypes`: rows of the first."""
    kind = "synthetic" if privacy["mode"] == "none" else "private"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kek, "_MEMORY_KIB", 64)
        folder = Folder.create(path / "coordinator", "coordinator", "127.0.0.1:8000")
        sites = {
            f"site-{at}": hospital(
                path / f"site-{at}", patients(size, 40 + at, 0.02), kind, without_genotypes if at == 0 else ()
            )
            for at, size in enumerate(sizes)
        }
    parameters = small_design(folder.home / "published", sum(sizes), 1.0, 0.6)
    data = (folder.home / "published" / parameters["design"]).read_bytes()
    for each in sites.values():
        each.site.published.add(data)
    recipe = {"name": "risk", "version": 1, "parameters": parameters | {"variants": VARIANT_MANIFEST.digest}}
    recipe["parameters"] |= changes.pop("parameters", {})
    study = study_of(
        folder, [each.party for each in sites.values()], privacy=privacy, recipe=recipe, outcome="disease",
        metrics=list(RISK.measures), purpose=PURPOSE, **changes,
    )  # fmt: skip
    for each in sites.values():
        folder.accept(study, each.approve(study))
    return Consortium(folder, sites, study, courier({name: Exchange(each.site) for name, each in sites.items()}), [])


def reasons(site: Site) -> list[str]:
    """Of the refusals in a site's own log."""
    entries = (statements.parse(entry, [site.identity.public]) for entry in site.private_log.entries())
    return [code for each in entries if isinstance(each, statements.Refusal) for code in each.reasons]
