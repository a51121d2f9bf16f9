"""The release kernel: the only way out for anything computed from patients."""
