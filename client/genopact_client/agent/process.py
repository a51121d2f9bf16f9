"""The agent's process: it holds every lock of the site, answers on a unix socket, and never opens another one."""

import threading
import time
from pathlib import Path

import structlog

from genopact_client.agent.exchange import Exchange
from genopact_client.agent.socket import serve
from genopact_client.site import Site
from genopact_shared import __version__, canonical, statements

GRACE_S = 8.0
"""How long a request that is being answered may still take after a SIGTERM."""

_log = structlog.get_logger()


def run(site: Site, socket: Path, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises:
        GenopactError: STORE_LOCKED, LEDGER_LOCKED, LOG_LOCKED if another agent runs on the folder; AGENT_SOCKET, and
            whatever keeps a room from opening.
    """
    _open_rooms(site)
    server = serve(socket, Exchange(site), canonical.encode({"site": site.name, "version": __version__}))
    _log.info("agent_ready", site=site.name)
    stop.wait()
    server.stop(GRACE_S).wait()
    socket.unlink(missing_ok=True)
    _log.info("agent_stopped", site=site.name)


def _open_rooms(site: Site) -> None:
    """Open everything now, so that a fault shows at the start; put on record what opening had to cut off."""
    _ = site.store, site.policy, site.registry
    cut = {"LEDGER_CUT": site.ledger.cut, "LOG_CUT": site.log.cut, "PRIVATE_LOG_CUT": site.private_log.cut}
    for code, size in cut.items():
        if size:
            _log.warning("crash_repaired", code=code)
            evidence = canonical.digest_of({"bytes": size, "ledger": site.ledger.head, "log": site.log.size})
            incident = statements.Incident(at=int(time.time()), code=code, evidence=evidence)
            site.private_log.append(statements.sign(incident, site.identity))
