"""The agent's end of its unix socket. Whoever speaks on the other end is treated as hostile.

No generated code: two methods with identity serialisers, `Exchange` (stream of frames both ways) and `Health`.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import structlog

from genopact_shared.channel import CHUNK, EXCHANGE, HEALTH, LIMIT, join, split
from genopact_shared.errors import GenopactError, replacing

_log = structlog.get_logger()


def serve(path: Path, exchange: Callable[[bytes], bytes], about: bytes, *, limit: int = LIMIT) -> grpc.Server:
    """Listen on the unix socket `path` and return the started server; `stop(grace)` ends it.

    `exchange` sees one request at a time, whole and at most `limit` bytes. If it raises, or the request is too large
    or broken off, the peer receives no bytes, which mean SITE_UNAVAILABLE. An exchange that has begun runs to its end
    even if the peer goes away. `about` answers Health. Raises AGENT_SOCKET if the socket cannot be made.
    """
    one = threading.Lock()

    def on_exchange(frames: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        with one:
            try:
                reply = exchange(join(frames, limit))
            except Exception as error:  # noqa: BLE001 - whatever it was, nothing about it may cross
                _log.error("exchange_refused", code=getattr(error, "code", type(error).__name__))
                reply = b""
        yield from split(reply)

    workers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="agent")
    options = [("grpc.max_receive_message_length", CHUNK + 64), ("grpc.so_reuseport", 0)]
    server = grpc.server(workers, maximum_concurrent_rpcs=4, options=options)
    service, method = EXCHANGE[1:].split("/")
    health = grpc.unary_unary_rpc_method_handler(lambda _request, _: about)
    handlers = {method: grpc.stream_stream_rpc_method_handler(on_exchange), HEALTH.rpartition("/")[2]: health}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    with replacing((OSError, RuntimeError), GenopactError("AGENT_SOCKET", str(path))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o710)  # only the owner writes there, and the link's group may enter
        # A socket that a killed agent left behind; anything else at this path is not ours to remove.
        if path.is_socket():
            path.unlink()
        server.add_insecure_port(f"unix:{path}")
        path.chmod(0o660)
    server.start()
    return server
