"""The link as a standard Flower ClientApp, for Flower users and in-process tests; a hospital runs the resident node.

Envelopes go to the agent's socket named by the node configuration `agent-socket` or by GENOPACT_AGENT_SOCKET, or to a
handler registered in this process.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from genopact_client.link.fleet import envelope_of, reply_to
from genopact_client.link.node import ask_agent
from genopact_client.link.socket import AgentChannel
from genopact_shared.errors import GenopactError

from flwr.app import Context, Message  # isort: skip - after the link, which switches Flower's telemetry off
from flwr.clientapp import ClientApp  # isort: skip

_PATIENCE = 30.0
_handlers: list[Callable[[bytes], bytes]] = []


def register(handler: Callable[[bytes], bytes] | None) -> None:
    """Answer in this process with `handler` instead of the agent's socket; None goes back to the socket."""
    _handlers[:] = [] if handler is None else [handler]


def _query(message: Message, context: Context) -> Message:
    """One request and its reply; every failure is the wire's one refusal."""
    expires = message.metadata.created_at + message.metadata.ttl
    try:
        request = envelope_of(message)
        if _handlers:
            return reply_to(message, _handlers[0](request))
        path = str(context.node_config.get("agent-socket") or os.environ.get("GENOPACT_AGENT_SOCKET", ""))
        with AgentChannel(Path(path)) as agent:
            return reply_to(message, ask_agent(agent, _PATIENCE, threading.Event(), request, expires))
    except GenopactError:
        return reply_to(message, b"")


app = ClientApp()
app.query()(_query)
