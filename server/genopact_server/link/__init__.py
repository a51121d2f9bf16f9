"""The coordinator's courier: Flower carries sealed envelopes to the sites of a study and their replies back."""

import os

# Flower reads these when it is imported, and would otherwise report usage to its makers.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
# With these its SuperLink would open further ports, which no gate guards.
os.environ["FLWR_INTERNAL_GRPC_CONTROL_API"] = "0"
os.environ["FLWR_INTERNAL_GRPC_FLEET_API"] = "0"
