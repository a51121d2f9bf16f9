"""The sealed store: one encrypted record for each person."""
