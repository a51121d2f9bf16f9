"""Checks of what is outside this process: the agent's socket, the coordinator's port."""

import socket
import ssl
from pathlib import Path

from genopact_client.doctor.subject import Subject, Unsound, expect
from genopact_shared.errors import CATALOGUE, GenopactError, replacing

TIMEOUT_S = 5.0


def agent(subject: Subject) -> str:
    """Somebody answers on the agent's socket."""
    from genopact_client.link.socket import AgentChannel

    path = subject.site.home / "run" / "agent.sock"
    expect(path.is_socket(), "no agent runs", "Start it with genopact-site start or genopact-site agent.", "unknown")
    silent = Unsound("problem", "a socket is there, but nobody answers", CATALOGUE["AGENT_UNREACHABLE"].remedy)
    with replacing(GenopactError, silent), AgentChannel(path) as channel:
        return f"answers: {channel.health(TIMEOUT_S).decode()}"


def coordinator(subject: Subject) -> str:
    """TCP and TLS to the one host and port that the link needs."""
    addresses = [subject.address] if subject.address else [each.coordinator.address for each in subject.studies()]
    expect(addresses, "no address to try", "Name it with --address HOST:PORT.", "unknown")
    context = _context(subject.ca) if subject.ca else None
    for address in sorted(set(addresses)):
        _greet(address, context)
    unchecked = f"{', '.join(addresses)} can be reached, but no certificate was checked"
    expect(context is not None, unchecked, "Name the authority with --ca.", "unknown")
    return f"TLS to {', '.join(addresses)}"


def _context(ca: Path) -> ssl.SSLContext:
    unfit = Unsound("problem", f"{ca} holds no certificate", "Ask the coordinator for its authority's file.")
    with replacing(OSError, unfit):
        return ssl.create_default_context(cafile=str(ca))


def _greet(address: str, context: ssl.SSLContext | None) -> None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), TIMEOUT_S) as plain:
            if context:
                context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLError as error:
        remedy = "Check --ca, the name in --address and this machine's clock."
        raise Unsound("problem", f"{address}: its certificate is not of this authority", remedy) from error
    except (OSError, ValueError) as error:
        remedy = "Allow outgoing TCP to this one host and port; ask the coordinator if it runs."
        raise Unsound("problem", f"{address} does not answer", remedy) from error
