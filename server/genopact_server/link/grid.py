"""One exchange: bytes to sites, bytes back, until all have answered or the time is over."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from genopact_shared.channel import RECORD, pack, unpack
from genopact_shared.errors import GenopactError, suppressing

QUICK, SLOW = 0.1, 1.0
"""Seconds between polls at first, and while sites work for longer."""
AWAY, AGAIN = 15.0, 2.0
"""Seconds for which a site that is offline is asked again, and between two such requests.

A link that was killed is back within them, and so are all links after the SuperLink itself was away: without a second
request every attempt of a round would fail within moments.
"""


class Grid(Protocol):
    """What the courier needs of Flower's Grid."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; one message id for each, empty if it will not be delivered."""
        ...

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have arrived since the last call."""
        ...


class GridCourier:
    """Exchanges with the sites `nodes` (site name -> node number) of one run.

    `nodes` is asked anew at every exchange. A reply counts only if it comes from the node that was asked; what is in it
    is judged by the receiver.
    """

    def __init__(self, grid: Grid, nodes: Callable[[], Mapping[str, int]]) -> None:
        self._grid, self._nodes = grid, nodes

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        """Send each site its request and return the replies that came within `deadline` seconds.

        A site that is unknown, refuses, sends anything but one envelope, is late, or stays offline is absent from the
        result.
        Raises EXCHANGE_TOO_LARGE (a request), LINK_RUN_ENDED; while the SuperLink is away it waits until the deadline.
        """
        nodes = self._nodes()
        began = last = again = time.monotonic()
        end, patience = began + deadline, began + min(deadline, AWAY)
        away, waiting, replies = {site for site in requests if site in nodes}, dict[str, str](), dict[str, bytes]()
        while (now := time.monotonic()) < end and (waiting or (away and now < patience)):
            if away and again <= now < patience:
                waiting |= self._send({site: requests[site] for site in requests if site in away}, nodes, end)
                away, again = away - set(waiting.values()), now + AGAIN
            for message in self._pull(list(waiting)):
                site, last = waiting.pop(message.metadata.reply_to_message_id, None), time.monotonic()
                if site is not None and message.has_error() and message.error.code == ErrorCode.NODE_UNAVAILABLE:
                    away.add(site)  # the SuperLink's own answer for a node that has not been heard of
                elif site is not None and (reply := _reply(message, nodes[site])) is not None:
                    replies[site] = reply
            if waiting or away:
                time.sleep(max(0.0, min(end - now, SLOW, max(QUICK, (now - last) / 20))))
        return replies

    def _send(self, requests: Mapping[str, bytes], nodes: Mapping[str, int], end: float) -> dict[str, str]:
        """Message id -> site."""
        # Equal envelopes become one record object, which Flower uploads once.
        records = {envelope: RecordDict({RECORD: ConfigRecord(pack(envelope))}) for envelope in requests.values()}
        while True:
            left = end - time.monotonic()
            # The message dies with the deadline: a site that comes back later must not work for nobody.
            batch = [
                Message(records[envelope], dst_node_id=nodes[site], message_type="query", ttl=max(left, 0.1))
                for site, envelope in requests.items()
            ]
            try:
                ids = self._grid.push_messages(batch)
                return {one: site for one, site in zip(ids, requests, strict=True) if one}
            except GenopactError as error:
                if error.code != "LINK_UNREACHABLE" or left <= 0:
                    raise
            time.sleep(min(SLOW, max(left, 0.0)))

    def _pull(self, ids: list[str]) -> list[Message]:
        with suppressing("LINK_UNREACHABLE"):
            return list(self._grid.pull_messages(ids))
        return []


def _reply(message: Message, node: int) -> bytes | None:
    """The envelope of a reply, None if it is not one."""
    if message.metadata.src_node_id != node or not message.has_content() or list(message.content) != [RECORD]:
        return None
    with suppressing("EXCHANGE_BROKEN", "EXCHANGE_TOO_LARGE"):
        return unpack(record) if isinstance(record := message.content[RECORD], ConfigRecord) else None
    return None
