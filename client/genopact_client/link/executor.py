"""The fallback: our resident executor beside a stock `flower-supernode --isolation process`.

Slower than the resident node (two processes, more hops), but Flower's own Fleet client. Bundle code still never runs:
the executor looks at the bundle as the node does and hands the envelope to the agent.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from genopact_client.link import bundle
from genopact_client.link.message import envelope_of, reply_to
from genopact_client.link.node import ask_agent
from genopact_client.link.socket import AgentChannel
from genopact_shared.channel import LIMIT
from genopact_shared.errors import GenopactError

_log = structlog.get_logger()


@dataclass(frozen=True)
class ExecutorConfig:
    """`address` is host:port of the SuperNode's runtime API on loopback, `secret` what both were given."""

    address: str
    secret: bytes
    socket: Path
    limit: int = LIMIT
    patience: float = 30.0
    poll: float = 0.2


def run(config: ExecutorConfig, stop: threading.Event) -> None:
    """Serve until `stop` is set; outlives restarts of SuperNode and agent."""
    proof = SuperExecAuthHttpInterceptor(
        master_secret=config.secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
    )
    with (
        AgentChannel(config.socket, config.limit) as agent,
        _client(config.address, proof) as client,
    ):
        answer = ask_agent(agent, config.patience, stop)
        while not stop.is_set():
            try:
                if token := client.AcquireTask(AcquireTaskRequest(supported_task_types={TaskType.CLIENT_APP})).token:
                    _execute(config.address, token, answer)
                    continue
            except (httpx.HTTPError, RuntimeError) as error:
                _log.warning("executor_interrupted", code=type(error).__name__)
                stop.wait(1.0)
            stop.wait(config.poll)


def _execute(address: str, token: str, answer: Callable[[bytes, float], bytes]) -> None:
    with _client(address, RuntimeTokenHttpInterceptor(token)) as client:
        message, context, run_, fab = pull_task_input(client)
        with _heartbeats(client):
            try:
                bundle.check(fab.content, run_.fab_hash)
                reply = answer(envelope_of(message), message.metadata.created_at + message.metadata.ttl)
            except GenopactError as error:
                _log.error("request_refused", code=error.code)
                reply = b""
            push_message(client, reply_to(message, reply), context)
        push_task_output(client, context, SubStatus.COMPLETED, "")


def _client(address: str, sign_in: ProtobufClientInterceptor) -> RuntimeHttpClient:
    """Plain HTTP, for this API is on loopback; so the proxy that the environment may name must not see it."""
    client = RuntimeHttpClient(f"http://{address}", interceptors=[sign_in])
    client._client = httpx.Client(trust_env=False, timeout=30.0)
    return client


@contextmanager
def _heartbeats(client: RuntimeHttpClient) -> Iterator[None]:
    """Keep the task alive while the agent works."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(10.0):
            with suppress(httpx.HTTPError):
                client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    thread = threading.Thread(target=beat, name="task-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
