"""The hospital: agent, link, gate, consent, ledger, release kernel, ingest, store."""
