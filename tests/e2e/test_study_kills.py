"""kill -9 of sites and coordinator at random instants of a study; 200 of them: tests/benchmarks/study_kills.py."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopact_client.agent.exchange import Exchange
from genopact_client.ledger import Ledger
from genopact_client.release.outbox import Outbox
from genopact_server.rounds import Run
from genopact_shared import durable, wire
from genopact_shared.privacy import noise
from tests.e2e.mortal import PEOPLE, Survived, survive
from tests.e2e.noise import repeated_masks
from tests.integration.hospital import Consortium, DirectCourier, consortium

pytestmark = pytest.mark.processes
TARGET = "site-b"


def apart(task: Callable[..., Survived], *arguments: Any) -> Survived:
    """In a process of its own: one with threads must not fork."""
    with ProcessPoolExecutor(1, get_context("spawn")) as one:
        return one.submit(task, *arguments).result()


def test_no_ledger_under_counts_and_every_study_ends(tmp_path: Path) -> None:
    seen = apart(survive, tmp_path, 10, 0.8)
    assert seen.faults == ()
    assert seen.under_counts == 0
    assert sum(seen.killed.values()) == 10
    assert 0 < seen.used <= seen.charged
    assert 0.5 < seen.noise < 2, "the noise was not what was looked at"


def careless(folder: Path) -> Survived:
    """Sites that write each charge down when the next one comes, keep no replies, and draw noise under one key."""
    waiting: list[tuple[Any, ...]] = []
    real = Ledger.reserve

    def late(self: Ledger, *charge: Any, **day: Any) -> int:
        if waiting:
            real(self, *waiting.pop(), **day)
        waiting.append(charge)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "reserve", late)
        patch.setattr(Ledger, "settle", lambda *_: None)
        patch.setattr(Outbox, "put", lambda _, __, frame: frame)
        patch.setattr(noise, "keystream", bytes)
        return survive(folder, 0, 1.0)


def test_sites_that_are_careless_in_three_ways_are_found_out_in_each(tmp_path: Path) -> None:
    seen = apart(careless, tmp_path)
    assert seen.under_counts == sum(PEOPLE.values())
    kinds = ("charges too few", "its outbox does not hold", "the same noise")
    assert [any(kind in fault for fault in seen.faults) for kind in kinds] == [True] * 3


class Fatal(DirectCourier):
    """The target's process ends within the step of round 2, when it has kept the model that it was shown."""

    one: Consortium
    killed = False

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        frames = dict(requests)
        request = wire.unseal(wire.Request, frames[TARGET], self.one.folder.identity.public)[0]
        if (request.op, request.round) == ("step", 2) and not self.killed:
            self.killed, real = True, durable.replace

            def replace(path: Path, data: bytes) -> None:
                real(path, data)
                if path.name == "seen.safetensors":
                    raise KeyboardInterrupt

            with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
                patch.setattr(durable, "replace", replace)
                self.sites[TARGET](frames[TARGET])
            del frames[TARGET]
            self.sites[TARGET] = Exchange(self.one.hospitals[TARGET].site)
        return super().exchange(frames, deadline)


def test_a_kill_between_the_model_seen_and_the_position_taken_costs_one_attempt(tmp_path: Path) -> None:
    one = consortium(tmp_path)
    courier = Fatal(one.courier.sites)
    courier.one = one
    run = Run.start(one.folder, one.study, courier, one.events.append)
    try:
        run.go()
    finally:
        one.close()
    assert run.state.stage == "done"


def test_a_mask_that_is_used_twice_or_not_at_all_shows() -> None:
    mask, other = (np.frombuffer(os.urandom(52), np.uint32) for _ in range(2))
    sums = [np.arange(start, start + 13, dtype=np.uint32) for start in (5, 2000)]

    def upload(values: Any) -> bytes:
        return wire.pack({"sum": values, "tag": np.zeros(1, np.uint64)})

    assert repeated_masks([upload(sums[0] + mask), upload(sums[1] + other)]) == 0
    assert repeated_masks([upload(sums[0] + mask), upload(sums[1] + mask)]) == 1
    assert repeated_masks([upload(sums[1]), upload(sums[0])]) == 1
