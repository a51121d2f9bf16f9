"""Validation on public data."""
