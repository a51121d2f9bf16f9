"""Flower's Grid without a network: messages go straight to a ClientApp."""

from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity


class LocalGrid:
    """The part of Grid that the courier uses; node `n` is `app` with `node_config` {"site": n}."""

    def __init__(self, app: ClientApp) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self._app, self._replies = app, dict[str, Message]()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def _deliver(self, message: Message) -> str:
        number = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = message.object_id
        config: dict[str, Any] = {"site": number}
        context = Context(1, number, config, RecordDict(), {})
        self._replies[message.object_id] = self._app(message, context)
        return message.object_id
