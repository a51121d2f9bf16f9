"""privacy.1: one private step, noise included, over torch's own step on the same network, batch and run.

python -m tests.benchmarks.private_steps [mlp cnn gru transformer logistic]

The value is a ratio of process times at one thread, medians of interleaved steps; beside it Opacus' hooks and ghost
clipping, the wall times at two threads, and the peak of extra memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from genopact_client.train.gradients import squared_norms
from genopact_client.train.private_sum import PerRecordLoss, private_sum
from genopact_shared.privacy.noise import gaussian_into

CLIP, RATE, NOISE = 1.0, 0.1, 1.0
ROUNDS = 15


class Recurrent(nn.Module):
    """Fused in torch; the private step has its own."""

    def __init__(self, gru: Callable[..., nn.Module] = nn.GRU) -> None:
        super().__init__()
        self.gru, self.last = gru(16, 64, batch_first=True), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gru(x)[0][:, -1])  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention between the tokens of a record, then a layer for each token."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.first, self.second, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.second(x))))  # type: ignore[no-any-return]


class Pooled(nn.Module):
    """The mean over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for channels, width in ((4, 15), (64, 7), (64, 7)):
        layers += [nn.Conv1d(channels, 64, width), nn.GroupNorm(8, 64), nn.ReLU(), nn.MaxPool1d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 1))


@dataclass(frozen=True)
class Case:
    """A network, the shape of a record, the batch, and the batches in which Opacus fits into memory."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    bar: float
    opacus: int


CASES = {
    "mlp": Case(
        lambda: nn.Sequential(nn.Linear(20_000, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 1)),
        (20_000,), 1024, 1.10, 64,
    ),
    "cnn": Case(cnn, (4, 1000), 64, 1.20, 64),
    "gru": Case(Recurrent, (100, 16), 32, 2.0, 32),
    "transformer": Case(
        lambda: nn.Sequential(nn.Linear(16, 64), Block(), Block(), nn.LayerNorm(64), Pooled(), nn.Linear(64, 1)),
        (128, 16), 64, 1.15, 64,
    ),
    "logistic": Case(lambda: nn.Linear(100_000, 1), (100_000,), 1024, 1.10, 256),
}  # fmt: skip


def loss(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(module(inputs).squeeze(-1), targets, reduction="none")


def plain_step(module: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.SGD(module.parameters(), lr=RATE)

    def step() -> None:
        optimiser.zero_grad()
        loss(module, inputs, targets).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def private_step(module: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    losses = PerRecordLoss(module, loss, inputs, targets)
    weights, squares = dict(module.named_parameters()), None
    noise = torch.empty(sum(weight.numel() for weight in weights.values()))
    parts = dict(zip(weights, torch.split(noise, [weight.numel() for weight in weights.values()]), strict=True))
    if inputs.dim() == 2:
        squares = squared_norms(inputs)  # once a study

    def step() -> None:
        total = private_sum(losses, inputs, targets, CLIP, squares=squares).total
        with torch.no_grad():
            gaussian_into(noise.numpy(), NOISE * CLIP)
            for name, each in total.items():
                weights[name].sub_(each.add_(parts[name].view_as(each)), alpha=RATE / len(inputs))

    return step


def opacus_step(mode: str, module: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    optimiser = torch.optim.SGD(module.parameters(), lr=RATE)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=len(inputs))
    made: Any = PrivacyEngine().make_private(
        module=module, optimizer=optimiser, data_loader=loader, noise_multiplier=NOISE, max_grad_norm=CLIP,
        poisson_sampling=False, grad_sample_mode=mode, criterion=cast("Any", nn.BCEWithLogitsLoss()),
    )  # fmt: skip

    def hooks() -> None:
        made[1].zero_grad()
        loss(made[0], inputs, targets).mean().backward()  # type: ignore[no-untyped-call]
        made[1].step()

    def ghost() -> None:
        made[1].zero_grad()
        made[2](made[0](inputs).squeeze(-1), targets).backward()
        made[1].step()

    return ghost if mode == "ghost" else hooks


def times(steps: list[Callable[[], None]], threads: int, rounds: int = ROUNDS) -> list[float]:
    """Median seconds of each step, taken in turn: of the process at one thread, of the wall at more."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    taken: list[list[float]] = [[] for _ in steps]
    for turn in range(rounds + 2):
        for step, each in zip(steps, taken, strict=True):
            start = clock()
            step()
            if turn > 1:
                each.append(clock() - start)
    return [statistics.median(each) for each in taken]


def batch(case: Case, n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, *case.shape), (torch.rand(n) > 0.5).float()


def opacus_network(case: Case) -> nn.Module:
    from opacus.layers import DPGRU

    return Recurrent(DPGRU) if case.build is Recurrent else case.build()


def peak(name: str, kind: str) -> float:
    """MiB that three steps add to a process that holds network and batch."""
    command = [sys.executable, "-m", __spec__.name, name, "--peak", kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(name: str) -> dict[str, Any]:
    case = CASES[name]
    note: dict[str, Any] = {"bar": CASES[name].bar}
    data = batch(case, case.batch)
    steps = [plain_step(case.build(), *data), private_step(case.build(), *data)]
    torch.set_num_threads(1)
    plain, private = times(steps, 1)
    wall_plain, wall = times(steps, 2)
    note["ms"] = {"torch": round(1e3 * plain, 2), "private": round(1e3 * private, 2)}
    note["wall ratio at 2 threads"] = round(wall / wall_plain, 3)
    few = batch(case, case.opacus)
    rivals = [opacus_step(mode, opacus_network(case), *few) for mode in ("hooks", "ghost")]
    base, hooks, ghost = times([plain_step(case.build(), *few), *rivals], 1, 5)
    note[f"Opacus at batch {case.opacus}"] = {"hooks": round(hooks / base, 2), "ghost": round(ghost / base, 2)}
    note["peak MiB"] = {kind: peak(name, kind) for kind in ("torch", "private")}
    return {"row": f"privacy.1.{name}", "value": round(private / plain, 3), "note": note}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(CASES))
    parser.add_argument("--peak", choices=("torch", "private"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in given.names:
        if given.peak is None and len(given.names) > 1:  # each in its own process: memory that one left behind counts
            subprocess.run([sys.executable, "-m", __spec__.name, name], check=True)
            continue
        if given.peak is None:
            print(json.dumps(measure(name)), flush=True)
            continue
        data = batch(CASES[name], CASES[name].batch)
        step = (private_step if given.peak == "private" else plain_step)(CASES[name].build(), *data)
        gaussian_into(torch.empty(2).numpy(), 1.0)  # compiled once a process
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = resident("VmRSS")
        for _ in range(3):
            step()
        print(round((resident("VmHWM") - before) / 1024, 1))


def resident(kind: str) -> int:
    """KiB of this process."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(kind)))


if __name__ == "__main__":
    main()
