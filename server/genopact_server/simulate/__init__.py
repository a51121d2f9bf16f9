"""Cohorts of made-up people of three ancestries with linkage, a disease and hospitals that differ; no real person.

`cohort(Design(people=2400, seed=1))` gives arrays; `write` writes the files that hospitals and the public have.
"""

from genopact_server.simulate.files import write
from genopact_server.simulate.haplotypes import ANCESTRIES
from genopact_server.simulate.people import HOSPITALS, Cohort, Design, Gwas, cohort

__all__ = ["ANCESTRIES", "HOSPITALS", "Cohort", "Design", "Gwas", "cohort", "write"]
