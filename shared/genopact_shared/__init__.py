"""What hospitals and coordinator must agree on, bit for bit."""

__version__ = "0.1.0"
