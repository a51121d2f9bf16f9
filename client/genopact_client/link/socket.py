"""The link's end of the agent's unix socket."""

from contextlib import AbstractContextManager
from pathlib import Path

import grpc

from genopact_shared.channel import CHUNK, EXCHANGE, HEALTH, LIMIT, join, split
from genopact_shared.errors import GenopactError, replacing

_OPTIONS = [
    ("grpc.max_receive_message_length", CHUNK + 64),
    # An agent that restarts is found again at once, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Otherwise a proxy of the hospital's network could be asked for a local socket.
    ("grpc.enable_http_proxy", 0),
]


class AgentChannel(AbstractContextManager["AgentChannel"]):
    """A connection to the agent; a context manager."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self._limit = limit
        self._channel = grpc.insecure_channel(f"unix:{path}", options=_OPTIONS)
        self._exchange = self._channel.stream_stream(EXCHANGE)
        self._health = self._channel.unary_unary(HEALTH)

    def exchange(self, request: bytes, timeout: float) -> bytes:
        """The agent's reply; empty bytes mean that the site does not take part.

        Raises AGENT_UNREACHABLE (no agent, it went away, or `timeout` seconds passed), EXCHANGE_TOO_LARGE,
        EXCHANGE_BROKEN.
        """
        with replacing(grpc.RpcError, GenopactError("AGENT_UNREACHABLE", "exchange")):
            return join(self._exchange(split(request), timeout=timeout), self._limit)

    def health(self, timeout: float = 5.0) -> bytes:
        """What the agent says about itself. Raises AGENT_UNREACHABLE."""
        with replacing(grpc.RpcError, GenopactError("AGENT_UNREACHABLE", "health")):
            return bytes(self._health(b"", timeout=timeout))

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __exit__(self, *_: object) -> None:
        self.close()
