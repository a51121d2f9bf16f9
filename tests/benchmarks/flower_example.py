"""privacy.8: what Flower's own Opacus example reports after 100 rounds, and what its patients have paid.

python -m tests.benchmarks.flower_example

The example (github.com/adap/flower, examples/opacus) builds a PrivacyEngine in each `fit`, trains one epoch and prints
that engine's epsilon: noise multipliers 1.0 and 1.5 at its two clients, batches of 32 out of 20,000, delta 1e-5. Here
the pattern runs for 100 rounds with Opacus on a tiny model; its real sizes are then accounted without training.
"""

import json
import logging
import warnings
from typing import Any

from genopact_shared.privacy import accounting
from genopact_shared.privacy.mechanisms import SampledSgd

ROUNDS, DELTA = 100, "0.00001"
BATCH, ROWS = 32, 640
EXAMPLE = {"first client": ("1.0", "0.0016", 625), "second client": ("1.5", "0.0016", 625)}
"""Noise multiplier, sampling rate and steps of a round at the example's own sizes."""


def train(noise: float, rounds: int = ROUNDS, rows: int = ROWS) -> tuple[list[float], list[tuple[float, float, int]]]:
    """The epsilon that each round reports, and (noise, rate, steps) of each round, from the engines' own history."""
    import torch
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.randn(rows, 4), torch.randint(0, 2, (rows,)))
    weights = torch.nn.Linear(4, 2).state_dict()
    reported, history = list[float](), list[tuple[float, float, int]]()
    for _ in range(rounds):
        module = torch.nn.Linear(4, 2)
        module.load_state_dict(weights)
        engine = PrivacyEngine()  # a new one in each round: it has forgotten the rounds before
        made: Any = engine.make_private(
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), lr=0.001, momentum=0.9),
            data_loader=DataLoader(data, batch_size=BATCH),
            noise_multiplier=noise,
            max_grad_norm=1.0,
        )
        private, optimizer, loader = made
        for inputs, targets in loader:
            optimizer.zero_grad()
            inputs.requires_grad_()
            torch.autograd.backward(torch.nn.functional.cross_entropy(private(inputs), targets))
            optimizer.step()
        weights = {name.removeprefix("_module."): each for name, each in private.state_dict().items()}
        reported.append(float(engine.get_epsilon(float(DELTA))))
        history += engine.accountant.history
    return reported, history


def composed(history: list[tuple[float, float, int]]) -> tuple[float, float]:
    """What the rounds cost together: by the facts that our ledger keeps, and by Opacus' numerical accountant."""
    from opacus.accountants import PRVAccountant

    facts = [
        SampledSgd(noise_multiplier=str(z), clip="1", sampling_rate=str(rate), steps=steps)
        for z, rate, steps in history
    ]
    second = PRVAccountant()
    second.history = list(history)
    if len(set(history)) == 1:
        z, rate, _ = history[0]
        second.history = [(z, rate, sum(steps for *_, steps in history))]
    return accounting.epsilon(facts, DELTA), float(second.get_epsilon(delta=float(DELTA)))


def one_round(history: list[tuple[float, float, int]]) -> float:
    """What an engine of one round says: Opacus' default accountant on that round alone."""
    from opacus.accountants import PRVAccountant

    alone = PRVAccountant()
    alone.history = history[-1:]
    return float(alone.get_epsilon(delta=float(DELTA)))


def main() -> dict[str, Any]:
    """The row: 1 if the reported epsilon is that of one round, and ours is that of all of them."""
    warnings.filterwarnings("ignore", module="opacus|torch")
    logging.disable(logging.WARNING)
    note: dict[str, Any] = {}
    parts = []
    for noise in (1.0, 1.5):
        reported, history = train(noise)
        ours, second = composed(history)
        note[f"tiny, noise {noise}"] = said = {
            "the example reports": round(reported[-1], 3), "our ledger": round(ours, 3), "PRV": round(second, 3),
        }  # fmt: skip
        parts += [max(reported) - min(reported) < 1e-9, len(history) == ROUNDS, ours > 2 * reported[-1]]
        parts.append(abs(said["our ledger"] / said["PRV"] - 1) < 0.01)
    for name, (z, rate, steps) in EXAMPLE.items():
        rounds = [(float(z), float(rate), steps)] * ROUNDS
        ours, second = composed(rounds)
        reported_alone = one_round(rounds)
        note[f"{name}, its own sizes"] = {
            "the example reports": round(reported_alone, 3), "our ledger": round(ours, 3), "PRV": round(second, 3),
        }  # fmt: skip
        parts += [ours > 2 * reported_alone, abs(ours / second - 1) < 0.02]
    return {"row": "privacy.8", "value": int(all(parts)), "note": {"rounds": ROUNDS, "delta": DELTA, **note}}


if __name__ == "__main__":
    print(json.dumps(main()))
