"""The coordinator's courier: Flower carries sealed envelopes to the sites of a study and their replies back."""

import os

# Flower reads these when it is imported, and would otherwise report usage to its makers.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
