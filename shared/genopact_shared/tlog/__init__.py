"""Transparency logs in the C2SP formats: Merkle tree, signed notes, checkpoints, proofs, an append-only log on disk."""
