"""The measured rows skip envelopes, consent and logs; the whole chain gives the same model on the real table."""

from pathlib import Path

import numpy as np
import pytest

from genopact_client.agent.exchange import Exchange
from genopact_client.site import Site
from genopact_client.store.sealed import Store
from genopact_server.folder import Folder
from genopact_server.rounds import Run
from genopact_server.validation import iwpc
from genopact_shared.keys import SigningKey
from genopact_shared.recipes.dose_features import SCHEMA
from tests.benchmarks.iwpc_rows import DATA, EXACT, federated
from tests.integration.hospital import PASSPHRASE, POLICY, DirectCourier, Hospital, consenting, study_of

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.exists(), reason="the public table is not beside the checkout"),
]


def institution(home: Path, cohort: iwpc.Cohort, site: int) -> Hospital:
    own = cohort.sites == site
    table, name = cohort.table.take(own), f"institution-{site:02d}"
    made = Site.create(home / name, name, PASSPHRASE)
    (home / name / "policy.yaml").write_text(POLICY.format(site=name, epsilon=5000, lifetime=5000))
    rows = made.people.enrol(cohort.person[own].tolist())
    with Store.create(home / name / "store", made.keyfile, SCHEMA, "public") as store:
        store.write(rows, table)
    made.registry.record_many({int(row): consenting() for row in rows})
    return Hospital(made, SigningKey.generate(), table)


def test_sixteen_institutions_through_envelopes_equal_the_measured_federation(tmp_path: Path) -> None:
    cohort = iwpc.load(DATA)
    hospitals = {one.site.name: one for one in (institution(tmp_path, cohort, int(s)) for s in np.unique(cohort.sites))}
    folder = Folder.create(tmp_path / "hub", "hub", "127.0.0.1:1024")
    study = study_of(folder, [each.party for each in hospitals.values()], privacy={"mode": "none", "honest_minimum": 1})
    for each in hospitals.values():
        folder.accept(study, each.approve(study))
    courier = DirectCourier({name: Exchange(each.site) for name, each in hospitals.items()})
    model = Run.start(folder, study, courier).go()
    reference = federated(cohort, np.ones(cohort.table.n, dtype=np.bool_), EXACT)
    assert len(hospitals) == 16
    assert (model["coefficients"] == reference["coefficients"]).all()
    assert (model["metrics"] == reference["metrics"]).all()
    for each in hospitals.values():
        each.close()
    folder.close()
