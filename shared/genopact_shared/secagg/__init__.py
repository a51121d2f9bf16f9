"""Secure aggregation: a total over sites of which nobody learns a part. See docs/masking.md."""
