"""The one module that knows Flower's Fleet API: a node that stays, instead of a process for every message.

It stands on modules of flwr 1.41 that are not public (contract test: tests/integration/test_courier.py). Requests and
replies are bytes; what they mean is none of the courier's business.
"""

import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from genopact_client.link.nodekey import public_pem
from genopact_shared.channel import RECORD, http_errors, pack, unpack
from genopact_shared.errors import GenopactError, replacing, require

UNAVAILABLE = "SITE_UNAVAILABLE"
BEAT = 10.0
"""Seconds between heartbeats; the coordinator counts a node as offline after two that are missing."""
_errors = partial(http_errors, {412: "LINK_NODE_BUSY"})


class Delivery(NamedTuple):
    """One request: its run, its envelope, and the time (time.time) after which nobody waits for a reply."""

    run_id: int
    envelope: bytes
    expires: float
    message: Message


class Fleet:
    """A node's connection to the coordinator's SuperLink, over TLS and with its node key; a context manager.

    Methods raise LINK_UNREACHABLE, LINK_SIGN_IN or LINK_REFUSED. `remembered` is a file that keeps the node's number,
    with which a node that was killed takes its place again at once.
    """

    def __init__(self, address: str, root: bytes, key: ec.EllipticCurvePrivateKey, remembered: Path) -> None:
        self._pem, self._remembered = public_pem(key), remembered
        signing = [NodeAuthHttpInterceptor(key, key.public_key())]
        connect = FleetHttpClient.from_server_address
        self._client = connect(address, insecure=False, root_certificates=root, interceptors=signing)
        # A coordinator must not be able to send a hospital's courier to another host.
        self._client._client.follow_redirects = False
        self._node = Node()
        self.online, self._closed = threading.Event(), threading.Event()
        """Set while the SuperLink knew this node at the last heartbeat."""
        self._beat = threading.Thread(target=self._heartbeats, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._beat.join()
        with suppress(GenopactError):
            if self.online.is_set():
                self._deactivate(self._node.node_id)
        self._client.close()

    def activate(self) -> int:
        """Sign in and return the node's number. Raises also LINK_NODE_BUSY."""
        try:
            node_id = self._activate()
        except GenopactError as error:
            former = self._remembered.read_bytes() if self._remembered.exists() else b""
            if error.code != "LINK_NODE_BUSY" or not former.isdigit():
                raise
            # This node was killed and still counts as online: sign its former life out.
            self._deactivate(int(former))
            node_id = self._activate()
        self._remembered.write_text(str(node_id), "ascii")
        self._node = Node(node_id=node_id)
        self.online.set()
        return node_id

    def receive(self) -> Delivery | None:
        """The next request, or None. A malformed one is dropped: EXCHANGE_BROKEN or EXCHANGE_TOO_LARGE."""
        with _errors():
            answer = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not (answer.messages_list and answer.message_object_trees):
            return None
        message, tree = message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]
        message.metadata.__dict__["_message_id"] = tree.object_id
        expires = message.metadata.created_at + message.metadata.ttl
        content = self._pull(message.metadata.run_id, tree, expires)
        with replacing((ValueError, KeyError, TypeError), GenopactError("EXCHANGE_BROKEN", "not a record")):
            envelope = unpack(ConfigRecord.inflate(content))
        return Delivery(message.metadata.run_id, envelope, expires, message)

    def bundle(self, run_id: int) -> tuple[bytes, str]:
        """The app bundle of a run and the SHA-256 that the run declares for it."""
        with _errors():
            run = self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id)).run
            request = GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run_id)
            return self._client.GetFab(request).fab.content, run.fab_hash

    def reply(self, delivery: Delivery, envelope: bytes) -> None:
        """Send a reply; empty bytes are the wire's one refusal. May be repeated after LINK_UNREACHABLE."""
        message = reply_to(delivery.message, envelope)
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute(), _errors():
            bare, tree = message_to_proto(remove_content_from_message(message)), get_object_tree(message)
            request = PushMessagesRequest(
                node=self._node, messages_list=[bare], message_object_trees=[tree], clientapp_runtime_list=[0.0]
            )
            answer = self._client.PushMessages(request)
            wanted = set(answer.objects_to_push)
            for object_id, item in get_all_nested_objects(message).items():
                if object_id in wanted:
                    self._push(delivery.run_id, answer.session_id, object_id, item.deflate())

    def _activate(self) -> int:
        with _errors():
            request = ActivateNodeRequest(public_key=self._pem, heartbeat_interval=BEAT)
            return self._client.ActivateNode(request).node_id

    def _deactivate(self, node_id: int) -> None:
        with _errors():
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))

    def _heartbeats(self) -> None:
        """In a thread of its own: the agent may work for hours on one request."""
        while not self._closed.wait(BEAT):
            with suppress(GenopactError), _errors():
                request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=BEAT)
                if self.online.is_set() and not self._client.SendNodeHeartbeat(request).success:
                    self.online.clear()

    def _pull(self, run_id: int, tree: ObjectTree, expires: float) -> bytes:
        """The one record of a message; what Flower wraps around it is not needed.

        The coordinator announces a message before its objects have arrived: this asks every 50 ms, later every second.
        """
        records = [record for child in tree.children for record in child.children]
        if len(tree.children) != 1 or len(records) != 1 or records[0].children:
            raise GenopactError("EXCHANGE_BROKEN", "a courier message has one record")
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=records[0].object_id)
        pause = 0.05
        while True:
            with _errors():
                answer = self._client.PullObject(request)
            require(answer.object_found, "EXCHANGE_BROKEN", "an object is missing")
            if answer.object_available:
                break
            require(time.time() <= expires, "EXCHANGE_BROKEN", "expired while it was delivered")
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
        received = ConfirmMessageReceivedRequest(node=self._node, run_id=run_id, message_object_id=tree.object_id)
        with _errors():
            self._client.ConfirmMessageReceived(received)
        return answer.object_content

    def _push(self, run_id: int, session: str, object_id: str, content: bytes) -> None:
        request = PushObjectRequest(
            node=self._node, run_id=run_id, object_id=object_id, object_content=content, session_id=session
        )
        require(self._client.PushObject(request).stored, "LINK_REFUSED", "reply not stored")


def envelope_of(message: Message) -> bytes:
    """The envelope that `message` carries. Raises EXCHANGE_BROKEN for any other content, EXCHANGE_TOO_LARGE."""
    if not message.has_content() or list(message.content) != [RECORD]:
        raise GenopactError("EXCHANGE_BROKEN", "a courier message has one record")
    record = message.content[RECORD]
    require(isinstance(record, ConfigRecord), "EXCHANGE_BROKEN", "the record is not a ConfigRecord")
    return unpack(record)


def reply_to(message: Message, envelope: bytes) -> Message:
    """A reply with `envelope`; empty bytes make the wire's one refusal, which is Flower's error without a reason."""
    if not envelope:
        return Message(Error(code=0, reason=UNAVAILABLE), reply_to=message)
    return Message(RecordDict({RECORD: ConfigRecord(pack(envelope), keep_input=False)}), reply_to=message)
