"""The resident node: takes requests from the coordinator, hands them to the agent, takes the replies back.

It has network and no data; it can drop or delay envelopes, never read or invent them.
"""

import threading
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import structlog

from genopact_client.link import bundle, nodekey
from genopact_client.link.fleet import Delivery, Fleet
from genopact_client.link.socket import AgentChannel
from genopact_shared import durable
from genopact_shared.channel import LIMIT
from genopact_shared.errors import GenopactError

QUICK, SLOW = 0.15, 3.0
"""Seconds between polls: inside a round, and when nothing has come for half a minute."""

_RUNS = 64
_log = structlog.get_logger()


class NodeConfig(NamedTuple):
    """`address` is host:port of the coordinator, `root_certificates` the PEM file of its authority, `key` the node key,
    `socket` the agent's; the agent may be away for `patience` seconds before a request is answered for it.
    """

    address: str
    root_certificates: Path
    key: Path
    socket: Path
    limit: int = LIMIT
    patience: float = 30.0


def run(config: NodeConfig, stop: threading.Event) -> None:
    """Serve until `stop` is set; outlives restarts of SuperLink and agent.

    Raises KEY_MISSING, KEY_EXPOSED, KEY_INVALID, LINK_CONFIG (no certificate), LINK_SIGN_IN (unknown key).
    """
    key = nodekey.load(config.key)
    root = durable.read(config.root_certificates, "LINK_CONFIG")
    with (
        AgentChannel(config.socket, config.limit) as agent,
        Fleet(config.address, root, key, config.key.with_suffix(".node")) as fleet,
    ):
        # Without this a stop would wait for an agent that trains for hours.
        threading.Thread(target=_close_when, args=(stop, agent), name="stop", daemon=True).start()
        Node(fleet, partial(ask_agent, agent, config.patience, stop), stop).serve()


def _close_when(stop: threading.Event, agent: AgentChannel) -> None:
    stop.wait()
    agent.close()


def ask_agent(agent: AgentChannel, patience: float, stop: threading.Event, request: bytes, expires: float) -> bytes:
    """The agent's reply; the same bytes are sent again while the agent restarts.

    After `patience` seconds without an agent, or at `expires`, the reply is empty: SITE_UNAVAILABLE.
    """
    pause = 0.1
    last = time.monotonic() + patience
    while (left := expires - time.time()) > 0 and not stop.is_set():
        began = time.monotonic()
        try:
            return agent.exchange(request, timeout=left)
        except GenopactError as error:
            _log.warning("agent_failed", code=error.code)
            if error.code != "AGENT_UNREACHABLE":
                return b""
        if time.monotonic() - began > 1.0:  # the agent was there and worked: its restart has all the patience
            last = time.monotonic() + patience
        if time.monotonic() > last:
            return b""
        stop.wait(pause)
        pause = min(0.5, pause * 2)
    return b""


class Node:
    """The loop of one node. `answer` maps (request, expires) to a reply; empty bytes are the refusal."""

    def __init__(self, fleet: Fleet, answer: Callable[[bytes, float], bytes], stop: threading.Event) -> None:
        self._fleet, self._answer, self._stop = fleet, answer, stop
        self._admissible = lru_cache(_RUNS)(self._has_no_code)

    def serve(self) -> None:
        """Until `stop` is set. Raises LINK_SIGN_IN if the coordinator has never accepted the key."""
        pause, accepted = 0.2, False
        while not self._stop.is_set():
            try:
                self._fleet.activate()
                pause, accepted = 0.2, True
                self._rounds()
            except GenopactError as error:
                if error.code == "LINK_SIGN_IN" and not accepted:
                    raise
                _log.warning("link_interrupted", code=error.code)
                self._stop.wait(pause)
                pause = min(10.0, pause * 1.5)

    def _rounds(self) -> None:
        """Poll quickly inside a round, gently when idle; return when the SuperLink no longer knows the node."""
        last = time.monotonic()
        while self._fleet.online.is_set() and not self._stop.is_set():
            try:
                delivery = self._fleet.receive()
                if delivery is not None:
                    self._serve(delivery)
                    last = time.monotonic()
                    continue
            except GenopactError as error:
                if error.code not in {"LINK_REFUSED", "EXCHANGE_BROKEN", "EXCHANGE_TOO_LARGE"}:
                    raise
                _log.warning("request_dropped", code=error.code)
            self._stop.wait(min(SLOW, max(QUICK, (time.monotonic() - last) / 20)))

    def _serve(self, delivery: Delivery) -> None:
        reply = self._answer(delivery.envelope, delivery.expires) if self._admissible(delivery.run_id) else b""
        pause = 0.2
        while not self._stop.is_set() and time.time() < delivery.expires:
            try:
                return self._fleet.reply(delivery, reply)
            except GenopactError as error:
                if error.code != "LINK_UNREACHABLE":
                    raise
                _log.warning("reply_delayed", code=error.code)
            self._stop.wait(pause)
            pause = min(5.0, pause * 1.5)
        return None

    def _has_no_code(self, run_id: int) -> bool:
        """Whether the run's bundle is admissible; looked at once a run."""
        try:
            bundle.check(*self._fleet.bundle(run_id))
        except GenopactError as error:
            if error.code != "BUNDLE_HAS_CODE":
                raise
            _log.error("run_refused", code=error.code)
            return False
        return True
