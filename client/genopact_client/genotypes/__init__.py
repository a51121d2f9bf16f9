"""The sealed store of genotypes: a row of packed variants for each person, and batches of them for training."""

from genopact_client.genotypes.opened import Opened
from genopact_client.genotypes.sealed import Genotypes, Writer

__all__ = ["Genotypes", "Opened", "Writer"]
