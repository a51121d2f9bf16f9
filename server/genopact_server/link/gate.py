"""What of the SuperLink can be reached at all, decided before a request body is read."""

import base64
import binascii

from starlette.types import ASGIApp, Receive, Scope, Send

from genopact_server.link.accounts import Membership
from genopact_shared.channel import LIMIT
from genopact_shared.errors import GenopactError

_OBJECTS = "push-object pull-object confirm-message-received push-messages pull-messages"


def _paths(api: str, names: str) -> frozenset[str]:
    return frozenset(f"/v1/{api}/{name}" for name in names.split())


FLEET = _paths("fleet", f"{_OBJECTS} activate-node deactivate-node send-node-heartbeat get-run get-fab")
CONTROL = _paths("control", "start-run stop-run list-runs register-node unregister-node list-nodes")
RUNTIME = _paths("runtime", f"{_OBJECTS} acquire-task send-task-heartbeat pull-task-input push-task-output get-nodes")
_SMALL = 12 << 20
_LARGE = LIMIT + (1 << 20)
_KEY_HEADER = b"flwr-public-key"


class Gate:
    """An ASGI wrapper that answers 404 to every path but `paths` and limits bodies.

    Fleet requests must name the key of a registered site (401): an outsider cannot make the SuperLink read a body.
    The signature itself, tokens and roles are checked further in.
    """

    def __init__(self, app: ASGIApp, paths: frozenset[str], membership: Membership) -> None:
        self._app, self._paths, self._membership = app, paths, membership

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or answer it."""
        status = self._refusal(scope)
        if status is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope) -> int | None:
        if scope["type"] == "lifespan":
            return None
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            return 404
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        lengths = [value for name, value in headers if name == b"content-length"]
        limit = _LARGE if scope["path"].endswith("/push-object") else _SMALL
        if len(lengths) != 1 or not lengths[0].isdigit() or any(name == b"transfer-encoding" for name, _ in headers):
            return 411
        if int(lengths[0]) > limit:
            return 413
        if scope["path"] in FLEET and not self._is_site([value for name, value in headers if name == _KEY_HEADER]):
            return 401
        return None

    def _is_site(self, values: list[bytes]) -> bool:
        try:
            return len(values) == 1 and base64.b64decode(values[0], validate=True) in self._membership.public_keys()
        except (binascii.Error, GenopactError):
            return False
