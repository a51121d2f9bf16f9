"""The sealed store of genotypes: a row of packed variants for each person, and batches of them for training."""
