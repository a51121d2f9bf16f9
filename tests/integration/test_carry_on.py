"""The executor is killed between any two of its writes: a run that was asked for is carried out once."""

import json
from collections.abc import Callable, Mapping

import pytest

from genopact_server.coordinator import carry_on, runs_of
from genopact_server.folder import Folder
from genopact_server.statements import Release
from genopact_shared import durable, statements
from genopact_shared.errors import GenopactError
from genopact_shared.tlog.log import Log
from tests.integration.hospital import Consortium, DirectCourier

Make = Callable[..., Consortium]


def want(one: Consortium, **asked: object) -> None:
    path = one.folder.home / "studies" / one.study.hash / "wanted"
    durable.replace(path, json.dumps({"until": None} | asked).encode())


def wanted(one: Consortium) -> bytes | None:
    path = one.folder.home / "studies" / one.study.hash / "wanted"
    return path.read_bytes() if path.exists() else None


def charges(one: Consortium) -> list[int]:
    return [len(each.site.ledger.spent(0)) for each in one.hospitals.values()]


class Noting(DirectCourier):
    """Looks what is wanted at each exchange."""

    seen: bytes | None = None
    one: Consortium

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        self.seen = wanted(self.one)
        return super().exchange(requests, deadline)


def test_nothing_is_carried_out_that_nobody_wants(consortium: Make) -> None:
    one = consortium()
    carry_on(one.folder, one.study.hash, one.courier)
    assert runs_of(one.folder, one.study.hash) == []


def test_a_kill_after_the_end_starts_no_second_run(consortium: Make) -> None:
    one = consortium()
    courier = Noting(one.courier.sites)
    courier.one = one
    want(one)
    carry_on(one.folder, one.study.hash, courier)
    paid = charges(one)
    assert (wanted(one), len(set(paid))) == (None, 1)
    assert courier.seen is not None
    durable.replace(one.folder.home / "studies" / one.study.hash / "wanted", courier.seen)  # as before its removal
    carry_on(one.folder, one.study.hash, one.courier)
    assert (wanted(one), charges(one)) == (None, paid)
    assert [state["stage"] for state in runs_of(one.folder, one.study.hash)] == ["done"]


def test_a_paused_run_goes_on_when_it_is_wanted_again(consortium: Make) -> None:
    one = consortium()
    want(one, until=1)
    carry_on(one.folder, one.study.hash, one.courier)
    assert [state["round"] for state in runs_of(one.folder, one.study.hash)] == [1]
    want(one)
    carry_on(one.folder, one.study.hash, one.courier)
    assert [state["stage"] for state in runs_of(one.folder, one.study.hash)] == ["done"]


def test_who_asks_again_after_the_end_gets_a_new_run(consortium: Make) -> None:
    one = consortium(privacy={"mode": "none", "honest_minimum": 1})
    for _ in range(2):
        want(one)
        carry_on(one.folder, one.study.hash, one.courier)
    assert [state["stage"] for state in runs_of(one.folder, one.study.hash)] == ["done", "done"]


@pytest.mark.parametrize("written", [False, True])
def test_a_kill_at_the_release_leaves_one_release(
    consortium: Make, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    one = consortium()
    want(one)
    append = Log.append

    def dying(log: Log, entry: bytes) -> int:
        release = log.origin == "genopact/coordinator" and isinstance(read(one.folder, entry), Release)
        if release and written:
            append(log, entry)
        if release:
            raise KeyboardInterrupt
        return append(log, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "append", dying)
        with pytest.raises(KeyboardInterrupt):
            carry_on(one.folder, one.study.hash, one.courier)
    carry_on(one.folder, one.study.hash, one.courier)
    kinds = [type(read(one.folder, entry)) for entry in one.folder.log.entries()]
    assert kinds.count(Release) == 1


def read(folder: Folder, entry: bytes) -> statements.Statement | None:
    """A statement of the coordinator; None for an approval."""
    try:
        return statements.parse(entry, [folder.identity.public])
    except GenopactError:
        return None
