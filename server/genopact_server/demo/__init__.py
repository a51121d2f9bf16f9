"""Hospitals and a coordinator as real processes on this machine: the demo, and the real study on public data."""
