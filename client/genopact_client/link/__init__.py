"""The hospital's courier: network and no data. It carries sealed envelopes between the coordinator and the agent."""

import os

# Flower reads these when it is imported, and would otherwise report usage to its makers.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
