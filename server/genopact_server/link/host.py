"""Flower's SuperLink from our own entry point: as shipped it lets anyone submit runs and register nodes.

One public port (TLS): the Fleet API for registered nodes and the Control API for operators. One loopback port: the
Runtime API for the executor, which needs the secret. Everything else is 404. Nothing of a run is installed or executed.
"""

import asyncio
import logging
import secrets
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import anyio.to_thread
import flwr.superlink.main as superlink
import uvicorn
import uvloop
from fastapi import Request
from flwr.common.constant import TRANSPORT_TYPE_GRPC_RERE
from flwr.supercore.dependencies.runtime import get_runtime_handlers, get_runtime_state
from flwr.supercore.protobuf.translation import get_protobuf_request
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.routers.fleet.router import get_enable_supernode_auth
from starlette.types import ASGIApp

from genopact_server.link.accounts import Accounts, Membership
from genopact_server.link.gate import CONTROL, FLEET, RUNTIME, Gate
from genopact_server.link.policy import SignIn, Studies, own_name_only
from genopact_shared import durable
from genopact_shared.errors import GenopactError, replacing, require

_creating = threading.Lock()
LOOPBACK = "127.0.0.1"


class HostConfig(NamedTuple):
    """`state` is the coordinator's directory: link.db, accounts.json, members.json and runtime.secret live in it.

    Ports may be 0 (any free port); the runtime API always listens on loopback.
    """

    state: Path
    certificate: Path
    private_key: Path
    host: str = "0.0.0.0"  # noqa: S104 - hospitals connect from outside; the gate and sign-in decide what they reach
    port: int = 9443
    runtime_port: int = 9444

    @property
    def tls(self) -> dict[str, Any]:
        """As uvicorn and Flower name the files."""
        return {"ssl_certfile": str(self.certificate), "ssl_keyfile": str(self.private_key)}

    @property
    def accounts(self) -> Accounts:
        """Who may command this link."""
        return Accounts(self.state / "accounts.json")

    @property
    def membership(self) -> Membership:
        """Sites and studies of this link."""
        return Membership(self.state / "members.json")

    @property
    def secret(self) -> bytes:
        """The secret that proves an executor; made when it is first asked for. Raises KEY_EXPOSED."""
        path = self.state / "runtime.secret"
        if not path.exists():
            self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = path.with_name(secrets.token_hex(16))
            durable.create(new, secrets.token_bytes(32))
            # Host and executor may both come first; only one link succeeds, and it appears whole.
            with suppress(FileExistsError):
                path.hardlink_to(new)
            new.unlink()
        require(not path.stat().st_mode & 0o077, "KEY_EXPOSED", str(path))
        return path.read_bytes()


class Host:
    """A running SuperLink; a context manager. `port` and `runtime_port` are the ports it got."""

    def __init__(self, config: HostConfig) -> None:
        app = _superlink(config)
        public = uvicorn.Config(Gate(app, FLEET | CONTROL, config.membership), **config.tls, **_UVICORN)
        local = uvicorn.Config(Gate(app, RUNTIME, config.membership), lifespan="off", **_UVICORN)
        with replacing(OSError, GenopactError("LINK_CONFIG", "certificate or private_key")):  # ssl.SSLError is one
            public.load()
        self._sockets = _listen(config.host, config.port), _listen(LOOPBACK, config.runtime_port)
        self.port, self.runtime_port = (one.getsockname()[1] for one in self._sockets)
        # Outside the main thread they leave signals alone.
        self._servers = uvicorn.Server(public), uvicorn.Server(local)
        self._thread = threading.Thread(target=self._run, name="superlink", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        while not all(server.started for server in self._servers):
            require(self._thread.is_alive(), "LINK_CONFIG", "the SuperLink did not start")
            self._thread.join(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Finish the requests that are under way and end."""
        for server in self._servers:
            server.should_exit = True
        self._thread.join()

    def wait(self) -> None:
        """Until it ends."""
        self._thread.join()

    def _run(self) -> None:
        async def both() -> None:
            # SQLite has one writer, and threads that wait for it sleep longer than the writes take.
            anyio.to_thread.current_default_thread_limiter().total_tokens = 2
            pairs = zip(self._servers, self._sockets, strict=True)
            await asyncio.gather(*(server.serve([one]) for server, one in pairs))

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(both())


_UVICORN: dict[str, Any] = dict.fromkeys(("access_log", "server_header", "date_header"), False)
_UVICORN |= {"log_config": None, "ws": "none", "timeout_keep_alive": 75, "timeout_graceful_shutdown": 5}


# Layers of Flower that do nothing without its enterprise plug-ins, or only for paths that the gate closes; each costs
# every request a task. All that authenticate or translate stay.
_IDLE = ("ControlSensitiveResponse", "ControlLicense", "RuntimeTracing", "ControlEventLog", "FleetEventLog")


_UNUSED: dict[str, Any] = dict.fromkeys(("certificates", "ssl_ca_certfile", "artifact_provider", "fleet_api_address"))
_UNUSED |= dict.fromkeys(("event_log_plugin", "fleet_event_log_plugin", "health_server_address"))
_UNUSED |= dict.fromkeys(("insecure", "simulation", "enable_event_log", "runtime_dependency_install"), False)
"""What the SuperLink could do besides."""


def serve(config: HostConfig) -> None:
    """Run the SuperLink until SIGTERM or SIGINT. Raises LINK_CONFIG, KEY_EXPOSED."""
    with Host(config) as host:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: threading.Thread(target=host.stop).start())
        host.wait()


def _superlink(config: HostConfig) -> ASGIApp:
    """Flower's application with our sign-in and our studies."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    accounts, membership = config.accounts, config.membership
    settings = SuperLinkLifespanConfig(
        **_UNUSED, **config.tls, control_address="", host=config.host, port=config.port, isolation="process",
        superexec_auth_secret=config.secret, authn_plugin=SignIn(accounts), enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE, database=str(config.state / "link.db"),
    )  # fmt: skip
    with _creating:  # Flower looks the manager up in its own module; this process has no SuperLink but ours
        cast("Any", superlink).get_federation_manager = lambda **_: Studies(accounts, membership)
        app = superlink.create_app(settings, SuperLinkLifespan)
    idle = {f"{name}Middleware" for name in _IDLE}
    app.user_middleware = [one for one in app.user_middleware if getattr(one.cls, "__name__", "") not in idle]
    looks = (get_protobuf_request, get_runtime_state, get_runtime_handlers, get_enable_supernode_auth)
    app.dependency_overrides.update({one: _inline(one) for one in looks})
    app.dependency_overrides[get_linkstate] = own_name_only
    return cast("ASGIApp", app)


def _inline(dependency: Callable[[Request], object]) -> Callable[[Request], Awaitable[object]]:
    """The same, without a hop to another thread for a look into a dictionary."""

    async def call(request: Request) -> object:
        return dependency(request)

    return call


def _listen(host: str, port: int) -> socket.socket:
    with replacing(OSError, GenopactError("LINK_CONFIG", f"cannot listen on {host}:{port}")):
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
