"""The one module that knows Flower's Runtime API: acquire a run's task, send and receive its messages.

It stands on modules of flwr 1.41 that are not public. The app bundle that comes with a task is never looked at.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
from flwr.app import ConfigRecord, Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus
from flwr.common.serde import message_to_proto
from flwr.proto import message_pb2, runtime_pb2
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable import inflatable_object as inflatable
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity

from genopact_shared.channel import http_errors
from genopact_shared.errors import GenopactError, require

_BEAT = 10.0
_SUPERLINK = Node(node_id=SUPERLINK_NODE_ID)


def _client(address: str, sign_in: ProtobufClientInterceptor) -> RuntimeHttpClient:
    """Plain HTTP, for this API is on loopback; so the proxy that the environment may name must not see it."""
    client = RuntimeHttpClient(f"http://{address}", interceptors=[sign_in])
    client._client = httpx.Client(trust_env=False, timeout=30.0)
    return client


def acquire(address: str, secret: bytes) -> str | None:
    """The token of the oldest waiting run, if there is one. Raises LINK_UNREACHABLE, LINK_SIGN_IN, LINK_REFUSED."""
    proof = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"})
    with _client(address, proof) as client, http_errors():
        request = runtime_pb2.AcquireTaskRequest(supported_task_types={TaskType.SERVER_APP})
        return client.AcquireTask(request).token or None


@dataclass
class _Arrival:
    """A reply whose objects are still being uploaded by its site."""

    message_id: str
    request_id: str
    missing: list[str]
    objects: dict[str, bytes]


class RunGrid:
    """One run's messages; a context manager that keeps the run alive. The part of Flower's Grid that the courier uses.

    Unlike Flower's own, it never waits: a reply that is still being uploaded is left for the next `pull_messages`,
    so no site can hold up the others. Methods raise LINK_UNREACHABLE, LINK_REFUSED and LINK_RUN_ENDED.
    """

    def __init__(self, address: str, token: str) -> None:
        self._client = _client(address, RuntimeTokenHttpInterceptor(token))
        self._arriving: dict[str, _Arrival] = {}
        self._ended, self._closed = threading.Event(), threading.Event()
        self._beat = threading.Thread(target=self._heartbeats, name="run-heartbeat", daemon=True)
        with http_errors():
            task = self._client.PullTaskInput(runtime_pb2.PullTaskInputRequest())
        self.run_id, self.study = task.run.run_id, task.run.federation
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, self.run_id
        TaskIdentity.node_id = task.context.node_id
        self._beat.start()

    def finish(self, error: GenopactError | None) -> None:
        """End the run; only the code of an error is kept at the SuperLink."""
        status, details = (SubStatus.FAILED, error.code) if error else (SubStatus.COMPLETED, "")
        with suppress(GenopactError), http_errors():
            self._client.PushTaskOutput(runtime_pb2.PushTaskOutputRequest(sub_status=status, details=details))

    def close(self) -> None:
        """Stop keeping the run alive."""
        self._closed.set()
        self._beat.join()
        self._client.close()

    def get_node_ids(self) -> list[int]:
        """Numbers of the study's nodes that are online."""
        with self._speaking():
            return [node.node_id for node in self._client.GetNodes(runtime_pb2.GetNodesRequest()).nodes]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send; the result has an empty string for a message that the SuperLink will not deliver."""
        batch = list(messages)
        with inflatable.no_object_id_recompute(), self._speaking():
            for message in batch:
                message.metadata.__dict__["_message_id"] = message.object_id
            bare = [message_to_proto(remove_content_from_message(message)) for message in batch]
            trees = [inflatable.get_object_tree(message) for message in batch]
            pushed = runtime_pb2.PushAppMessagesRequest(messages_list=bare, message_object_trees=trees)
            answer = self._client.PushMessages(pushed)
            nested = map(inflatable.get_all_nested_objects, batch)
            objects = {key: value for each in nested for key, value in each.items()}
            # Records last: a node that has its record confirms the message, which ends the upload of the rest.
            order = sorted(set(answer.objects_to_push), key=lambda one: isinstance(objects[one], ConfigRecord))
            about: dict[str, Any] = {"node": _SUPERLINK, "run_id": self.run_id, "session_id": answer.session_id}
            for one, content in ((one, objects[one].deflate()) for one in order):
                request = message_pb2.PushObjectRequest(**about, object_id=one, object_content=content)
                require(self._client.PushObject(request).stored, "LINK_REFUSED", "request not stored")
        return list(answer.message_ids)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies to `message_ids` that have arrived completely since the last call; other replies are forgotten."""
        wanted = set(message_ids)
        self._arriving = {one: arrival for one, arrival in self._arriving.items() if one in wanted}
        with self._speaking():
            if announced := wanted - set(self._arriving):
                answer = self._client.PullMessages(runtime_pb2.PullAppMessagesRequest(message_ids=announced))
                for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
                    ids = list(dict.fromkeys(item.object_id for item in inflatable.iterate_object_tree(tree)))
                    arrival = _Arrival(tree.object_id, proto.metadata.reply_to_message_id, ids, {})
                    self._arriving[arrival.request_id] = arrival
            arrived = [self._complete(arrival) for arrival in list(self._arriving.values())]
        return [message for message in arrived if message is not None]

    def _complete(self, arrival: _Arrival) -> Message | None:
        """Take what has been uploaded since; the message once that is all of it."""
        while arrival.missing:
            request = message_pb2.PullObjectRequest(node=_SUPERLINK, run_id=self.run_id, object_id=arrival.missing[0])
            answer = self._client.PullObject(request)
            if not answer.object_found:  # the upload was given up: the request stays unanswered
                arrival.missing.clear()
                return None
            if not answer.object_available:
                return None
            arrival.objects[arrival.missing.pop(0)] = answer.object_content
        if arrival.message_id not in arrival.objects:
            return None
        about: dict[str, Any] = {"node": _SUPERLINK, "run_id": self.run_id, "message_object_id": arrival.message_id}
        self._client.ConfirmMessageReceived(message_pb2.ConfirmMessageReceivedRequest(**about))
        message: object = None
        with suppress(ValueError, KeyError, TypeError, RecursionError):  # whatever the site sent, it is no message
            message = inflate_object_from_contents(arrival.message_id, arrival.objects)
        arrival.objects.clear()
        if not isinstance(message, Message):
            return None
        message.metadata.__dict__["_message_id"] = arrival.message_id
        return message

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        require(not self._ended.is_set(), "LINK_RUN_ENDED")
        try:
            with http_errors():
                yield
        except GenopactError as error:
            # A run's token dies with the run.
            raise GenopactError("LINK_RUN_ENDED") if error.code == "LINK_SIGN_IN" else error from error

    def _heartbeats(self) -> None:
        while not self._closed.wait(_BEAT):
            try:
                with http_errors():
                    alive = self._client.SendTaskHeartbeat(runtime_pb2.SendTaskHeartbeatRequest()).success
            except GenopactError as error:
                alive = error.code != "LINK_SIGN_IN"
            if not alive:
                return self._ended.set()
        return None
