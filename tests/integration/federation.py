"""A federation on loopback with real HTTP and TLS: SuperLink, executor, links and agents, all in one process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from genopact_client.agent.socket import serve as serve_agent
from genopact_client.link import node, nodekey
from genopact_server.link import executor
from genopact_server.link.control import Control
from genopact_server.link.grid import GridCourier
from genopact_server.link.host import Host, HostConfig

STUDY = b"study: courier\n"
HASH = "5" * 64


def certificates(folder: Path) -> Path:
    """ca.pem, server.pem and server.key in `folder`."""
    ca = trustme.CA()
    server = ca.issue_cert("127.0.0.1", "localhost")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    server.private_key_pem.write_to_path(folder / "server.key")
    for blob in server.cert_chain_pems:
        blob.write_to_path(folder / "server.pem", append=True)
    return folder / "ca.pem"


def host_config(folder: Path, port: int = 0, runtime_port: int = 0) -> HostConfig:
    return HostConfig(folder / "state", folder / "server.pem", folder / "server.key", "127.0.0.1", port, runtime_port)


@dataclass
class Federation:
    folder: Path
    config: HostConfig
    host: Host
    token: str
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.host.port}"

    @property
    def root(self) -> bytes:
        return (self.folder / "ca.pem").read_bytes()

    def control(self, token: str | None = None) -> Control:
        return Control(self.address, self.root, token or self.token, self.config.membership)

    def register(self, *names: str) -> None:
        with self.control() as control:
            for name in names:
                key = nodekey.create(self.folder / f"{name}.key")
                control.register_site(name, nodekey.public_pem(key))

    def node_config(self, name: str) -> node.NodeConfig:
        return node.NodeConfig(
            self.address,
            self.folder / "ca.pem",
            self.folder / f"{name}.key",
            self.folder / name / "agent.sock",
            patience=3.0,
        )

    @contextmanager
    def site(self, name: str, exchange: Callable[[bytes], bytes]) -> Iterator[None]:
        """An agent and its link until the block ends."""
        stop = threading.Event()
        server = serve_agent(self.folder / name / "agent.sock", exchange, b"ok")
        thread = threading.Thread(target=node.run, args=(self.node_config(name), stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            server.stop(None).wait()

    def run(self, main: Callable[[GridCourier], None], sites: tuple[str, ...], study_hash: str = HASH) -> str:
        """Submit a run, execute it in this thread and return how it finished."""
        stop = threading.Event()

        def once(courier: GridCourier, info: executor.RunInfo) -> None:
            assert info.study_hash == study_hash
            stop.set()
            main(courier)

        with self.control() as control:
            run_id = control.submit(STUDY, study_hash, sites)
            address = f"127.0.0.1:{self.host.runtime_port}"
            settings = executor.ExecutorConfig(address, self.config.secret, self.config.membership, poll=0.1)
            executor.serve(settings, once, stop)
            return control.status(run_id)


@contextmanager
def federation(folder: Path) -> Iterator[Federation]:
    certificates(folder)
    config = host_config(folder)
    token = config.accounts.add("operator", "operator")
    with ExitStack() as stack:
        host = stack.enter_context(Host(config))
        yield Federation(folder, config, host, token)
