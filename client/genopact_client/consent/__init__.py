"""Consent: records, the matcher, the registry and its importers."""
