"""The hospital's agent: data, keys and GPU, and no network."""
