"""A network and a small site, for tests that kill."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genopact_client import kek
from genopact_client.agent.exchange import Exchange
from genopact_client.train.private_sgd import PrivateSgd
from genopact_server.folder import Folder
from genopact_server.rounds import Run
from genopact_shared import canonical, wire
from genopact_shared.privacy.mechanisms import SampledSgd
from genopact_shared.recipes.network import NetParameters, NetPlan
from genopact_shared.recipes.table import Table
from genopact_shared.wire import Request
from tests.integration.hospital import Consortium, DirectCourier, hospital, study_of

CLIP, MULTIPLIER, PLANNED = 0.5, 1.5, 40


class Dot(nn.Module):
    """slopes . x, from zeros: the gradient of a loss that is its output is x itself."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.zeros(1, size))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.slopes).squeeze(-1)


@dataclass(frozen=True)
class Slopes:
    """A network recipe whose patients' gradients are their rows."""

    size: int
    name: str = "slopes"

    @staticmethod
    def table(n: int, rows: Any = None) -> Table:
        return Table({"x": np.zeros(n) if rows is None else rows}, n)

    def module(self, parameters: object) -> nn.Module:
        return Dot(self.size)

    def tensors(self, table: Table, parameters: Any = None, published: Any = None) -> tuple[Tensor, Tensor]:
        """A one-dimensional column stands for the same number in every entry."""
        rows = np.broadcast_to(np.asarray(table.columns["x"], np.float64)[:, None], (table.n, self.size))
        return torch.from_numpy(rows.copy()), torch.zeros(table.n)

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return module(inputs) + 0 * targets  # type: ignore[no-any-return]


def sgd(recipe: Slopes, steps: int = 1, rate_milli: int = 1000) -> PrivateSgd:
    """Steps of length 1 at the site "here"."""
    rate = str(rate_milli / 1000)
    fact = SampledSgd(noise_multiplier=str(MULTIPLIER), clip=str(CLIP), sampling_rate=rate, steps=steps)
    settings = NetParameters(local_steps=steps, sampling_rate_milli=rate_milli, learning_rate_milli=1000)
    return PrivateSgd(NetPlan(recipe, settings, {"here": PLANNED, "there": 7}), fact, "here")  # type: ignore[arg-type]


LOCAL = {"mode": "local", "epsilon_milli": 1000, "delta": "0.000001", "honest_minimum": 1}


def sites(path: Path, count: int, courier: type[DirectCourier] = DirectCourier, **changes: Any) -> Consortium:
    """Sites of thirty people that have approved; their passphrases are stretched by little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kek, "_MEMORY_KIB", 64)
        folder = Folder.create(path / "coordinator", "coordinator", "127.0.0.1:8000")
        kind = "public" if changes.get("privacy", {}).get("mode") == "none" else "private"
        homes = {
            f"site-{at}": hospital(path / f"site-{at}", f"site-{at}", 30, seed=at, kind=kind) for at in range(count)
        }
    study = study_of(folder, [each.party for each in homes.values()], **changes)
    for each in homes.values():
        folder.accept(study, each.approve(study))
    return Consortium(folder, homes, study, courier({name: Exchange(each.site) for name, each in homes.items()}), [])


def started(one: Consortium) -> Run:
    return Run.start(one.folder, one.study, one.courier)


def patients(one: Consortium, site: str = "site-0") -> Sequence[int]:
    """Rows with an outcome: in these worlds all of them consent and can pay."""
    return [int(row) for row in np.flatnonzero(~np.isnan(one.hospitals[site].truth.number("weekly_dose_mg")))]


class Stopped(DirectCourier):
    """Keeps the frames of one operation of one round to itself."""

    at = ("unmask", 0)
    kept: Mapping[str, bytes]

    def exchange(self, requests: Mapping[str, bytes], deadline: float) -> dict[str, bytes]:
        envelope = canonical.decode(wire.split(next(iter(requests.values())))[0])
        asked = canonical.decode(base64.b64decode(envelope["payload"]))
        if (asked["op"], asked["round"]) == self.at:
            self.kept = dict(requests)
            raise KeyboardInterrupt
        return super().exchange(requests, deadline)


def stopped(path: Path, op: str, round_: int) -> tuple[Consortium, Run, bytes]:
    """Three sites under masks, their run before an operation, and the frame of it for the first site."""
    courier = type("Stopped", (Stopped,), {"at": (op, round_)})
    one = sites(path, 3, courier)
    run = started(one)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    return one, run, vars(one.courier)["kept"]["site-0"]


def forged(one: Consortium, frame: bytes, body: bytes, **changes: Any) -> bytes:
    """The first site's answer to a request with another body and other fields, signed by the coordinator."""
    request = wire.parse_envelope(Request, wire.split(frame)[0], one.folder.identity.public)
    about = {"nonce": "d" * 32, "body": canonical.digest(body), "body_size": len(body)} | changes
    return one.exchange("site-0")(wire.seal(request.model_copy(update=about), body, one.folder.identity))
