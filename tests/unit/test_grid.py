"""The courier and sites that are offline: a scripted Grid in place of a SuperLink."""

from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from genopact_server.link import grid
from genopact_server.link.grid import GridCourier
from genopact_shared.channel import RECORD, pack

NODES = {"alpha": 11, "beta": 12}
ERRORS = {"offline": int(ErrorCode.NODE_UNAVAILABLE), "refuses": 0}


class Scripted:
    """Answers the n-th request to each node with the n-th word of its script, the last word for ever."""

    def __init__(self, scripts: dict[int, list[str]]) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self.scripts, self.asked = scripts, dict.fromkeys(scripts, 0)
        self._replies: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def _push(self, message: Message) -> str:
        node = message.metadata.dst_node_id
        script = self.scripts[node]
        word = script[min(self.asked[node], len(script) - 1)]
        self.asked[node] += 1
        message.metadata.__dict__["_message_id"] = identity = f"{node}-{self.asked[node]}"
        if word == "unknown":
            return ""
        if word == "answers":
            self._replies[identity] = Message(RecordDict({RECORD: ConfigRecord(pack(b"here"))}), reply_to=message)
        if word in ERRORS:
            self._replies[identity] = Message(Error(ERRORS[word], word), reply_to=message)
        return identity


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"QUICK": 0.001, "AGAIN": 0.01, "AWAY": 0.3}.items():
        monkeypatch.setattr(grid, name, value)


def ask(deadline: float = 60.0, **scripts: list[str]) -> tuple[dict[str, bytes], list[int]]:
    """Who answered what, and how often each was asked."""
    scripted = Scripted({NODES[name]: script for name, script in scripts.items()})
    replies = GridCourier(scripted, lambda: NODES).exchange(dict.fromkeys(scripts, b"x"), deadline)
    return replies, list(scripted.asked.values())


@pytest.mark.parametrize("word", ["offline", "unknown"])
def test_a_site_that_comes_back_is_asked_again_and_the_other_one_only_once(word: str) -> None:
    replies, asked = ask(alpha=["answers"], beta=[word, word, "answers"])
    assert replies == {"alpha": b"here", "beta": b"here"}
    assert asked == [1, 3]


@pytest.mark.parametrize("word", ["offline", "unknown"])
def test_a_site_that_stays_away_is_given_up_before_the_deadline(word: str) -> None:
    replies, asked = ask(alpha=["answers"], beta=[word])
    assert replies == {"alpha": b"here"}
    assert asked[0] == 1 < asked[1]


def test_a_refusal_is_final() -> None:
    assert ask(alpha=["answers"], beta=["refuses"]) == ({"alpha": b"here"}, [1, 1])


def test_a_silent_site_is_asked_once_until_the_deadline() -> None:
    assert ask(0.5, alpha=["answers"], beta=["silent"]) == ({"alpha": b"here"}, [1, 1])


def test_a_site_outside_the_study_is_not_asked() -> None:
    assert GridCourier(Scripted({}), dict).exchange({"alpha": b"x"}, 60.0) == {}
