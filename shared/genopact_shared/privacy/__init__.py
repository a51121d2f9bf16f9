"""Mechanisms as facts, accounting, integer noise."""
