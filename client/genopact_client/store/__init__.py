"""The sealed store: one encrypted record for each person."""

from genopact_client.store.manifest import Kind
from genopact_client.store.sealed import Store

__all__ = ["Kind", "Store"]
