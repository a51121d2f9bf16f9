"""Row privacy.5: patients that a malicious coordinator reads out of what leaves under a model that it has planted.

The first layer is made of one random projection of the genotypes and 256 thresholds: unit i sees the patients above
threshold i, so that the difference of two neighbouring units' gradients is that of the one patient in between (Fowl et
al., "Robbing the Fed", 2021). `python -m tests.benchmarks.inversion` prints one JSON object.
"""

import json
import math
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genopact_client.release.kernel import release_model, release_sum
from genopact_client.release.private import Private
from genopact_client.train.private_sgd import PrivateSgd
from genopact_shared import wire
from genopact_shared.plan import MODEL_SCALE, PlannedStep
from genopact_shared.privacy import accounting
from genopact_shared.privacy.accounting import Fact
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd, Unprotected
from genopact_shared.recipes.network import NetParameters, NetPlan
from genopact_shared.recipes.protocol import Model, Prediction
from genopact_shared.recipes.table import Column, Table
from genopact_shared.study import Frozen
from tests.unit.mask_round import Round, names

SNPS, BATCH, HIDDEN, SEED = 2000, 64, 256, 20
EPSILON_MILLI, DELTA, CLIP = 8000, "0.000001", "1"
SITES, SCALE = 3, 1 << 18
ALIKE = 0.5
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Planted:
    """A network recipe of one hidden layer."""

    name: str = "planted"
    version: int = 1
    measures: tuple[str, ...] = ()
    outcome: str = "y"
    schema: tuple[Column, ...] = ()
    parameters: type[Frozen] = NetParameters
    judge: None = None

    def module(self, parameters: Frozen) -> nn.Module:
        return nn.Sequential(nn.Linear(SNPS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def tensors(self, table: Table, parameters: Any = None, published: Any = None) -> tuple[Tensor, Tensor]:
        inputs = np.column_stack([table.codes(f"snp-{number}") for number in range(SNPS)])
        return torch.from_numpy(inputs.astype(np.float64)), torch.from_numpy(table.number("y"))

    def loss(self, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return (cast("Tensor", module(inputs)).squeeze(-1) - targets) ** 2

    def fit_personal(self, outputs: Floats, table: Table) -> Model:
        raise NotImplementedError

    def predict(self, outputs: Floats, personal: Model | None) -> Prediction:
        raise NotImplementedError


@dataclass(frozen=True)
class Scene:
    """A batch of patients, the allele frequencies that everybody knows, and the attacker's model."""

    genotypes: Floats
    frequencies: Floats
    table: Table
    model: Model
    thresholds: Floats

    @classmethod
    def of(cls, seed: int = SEED) -> "Scene":
        rng = np.random.default_rng(seed)
        frequencies = rng.uniform(0.05, 0.5, SNPS)
        genotypes = rng.binomial(2, frequencies, (BATCH, SNPS)).astype(np.float64)
        columns: dict[str, Any] = {f"snp-{at}": genotypes[:, at].astype(np.int8) for at in range(SNPS)}
        table = Table(columns | {"y": rng.normal(0, 1, BATCH)}, BATCH)
        direction = rng.normal(0, 1, SNPS)
        spread = math.sqrt(float(direction**2 @ (2 * frequencies * (1 - frequencies))))
        expected = NormalDist(float(direction @ (2 * frequencies)), spread)
        thresholds = np.array([expected.inv_cdf((unit + 0.5) / HIDDEN) for unit in range(HIDDEN)])
        model = {
            "0.weight": np.tile(direction, (HIDDEN, 1)),
            "0.bias": -thresholds,
            "2.weight": np.full((1, HIDDEN), 0.01 / HIDDEN),
            "2.bias": np.full(1, 5.0),
        }
        return cls(genotypes, frequencies, table, model, thresholds)

    def plan(self) -> NetPlan:
        """One step on everybody at a rate of 1: nothing is averaged out for the attacker."""
        settings = NetParameters(
            rounds=1, local_steps=1, sampling_rate_milli=1000, clip_milli=1000, learning_rate_milli=1000
        )
        return NetPlan(Planted(), settings, {"here": BATCH})

    def through_release_model(self, fact: Fact) -> Model:
        """The summed gradient, as the attacker computes it from what the second door releases."""
        steps = PrivateSgd(self.plan(), fact, "here")
        change = Private(self.table).derive(lambda table: steps(self.model, table))
        body = release_model(change, fact, steps.done).body
        return {name: -BATCH * values for name, values in wire.unpack(body, np.float64).items()}

    def plain_gradients(self) -> Floats:
        """(n, d) gradients of the first layer, weights then biases, of single patients."""
        module, (inputs, targets) = self.plan().module(self.model).double(), self.plan().tensors(self.table)
        first, losses = [*module.parameters()][:2], Planted().loss(module, inputs, targets)
        rows = [torch.autograd.grad(each, first, retain_graph=True) for each in losses]
        return np.array([np.concatenate([each.numpy().ravel() for each in row]) for row in rows])

    def through_release_sum(self, fact: NoisedSum | Unprotected) -> tuple[Model, list[Model]]:
        """The opened total of three sites that mask, and what each of them uploads, as the coordinator sees it."""
        share = 0.0
        if isinstance(fact, NoisedSum):
            share = (float(fact.noise_multiplier) * float(fact.clip) * fact.scale) ** 2 / fact.honest_minimum
        step = PlannedStep(0, "planted", fact, share, 64)
        group, uploads = Round.open(SITES, SITES, range(1)), dict[str, Any]()
        for site, rows in zip(names(SITES), np.array_split(self.plain_gradients(), SITES), strict=True):
            released = release_sum(Private(rows), step, fact, partial(group.maskings[site].mask, 0))
            uploads[site] = wire.unpack(released.body, np.uint64)
        group.uploads = uploads
        alone = [_first_layer(each["sum"].view(np.int64) / fact.scale) for each in uploads.values()]
        return _first_layer(group.honest_total()[0] / fact.scale), alone

    def exact(self, gradient: Model) -> int:
        """Patients of whom the plain attack has every genotype right."""
        weights, biases = _differences(gradient)
        with np.errstate(divide="ignore", invalid="ignore"):
            read = np.rint(weights / biases[:, None])
        return sum(bool((read == patient).all(axis=1).any()) for patient in self.genotypes)

    def alike(self, gradient: Model) -> int:
        """Patients whose likeness exceeds what the frequencies and chance explain; a stranger's is below 0.15."""
        return int((self.likeness(gradient) > ALIKE).sum())

    def likeness(self, gradient: Model) -> Floats:
        """(n,) largest |correlation| of each patient with anything read, without the part along the allele frequencies.

        Read are all neighbours' differences, and the least squares solution of an attacker who knows which units saw
        which patient.
        """
        seen = self.genotypes @ self.model["0.weight"][0] > self.thresholds[:, None]
        solved = np.linalg.pinv(seen.astype(np.float64)) @ gradient["0.weight"]
        read = np.concatenate([_differences(gradient)[0], solved])
        known = self.frequencies / np.linalg.norm(self.frequencies)
        parts = [each - np.outer(each @ known, known) for each in (read, self.genotypes)]
        lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in parts]
        one, other = (
            np.divide(each, size, out=np.zeros_like(each), where=size > 0)
            for each, size in zip(parts, lengths, strict=True)
        )
        found: Floats = np.abs(one @ other.T).max(axis=0)
        return found


def private_sgd_fact() -> SampledSgd:
    """All of epsilon in the one step: the least noise that a study could have."""
    multiplier = accounting.sgd_noise_multiplier(EPSILON_MILLI, DELTA, "1", 1)
    return SampledSgd(noise_multiplier=multiplier, clip=CLIP, sampling_rate="1", steps=1)


def noised_sum_fact() -> NoisedSum:
    """The same for a sum of three sites, two of which are honest."""
    (multiplier,) = accounting.noise_multipliers(EPSILON_MILLI, DELTA, [1.0])
    return NoisedSum(noise_multiplier=multiplier, clip=CLIP, scale=SCALE, dims=HIDDEN * (SNPS + 1), honest_minimum=2)


def _first_layer(flat: Floats) -> Model:
    return {"0.weight": flat[: HIDDEN * SNPS].reshape(HIDDEN, SNPS), "0.bias": flat[HIDDEN * SNPS :]}


def _differences(gradient: Model) -> tuple[Floats, Floats]:
    """Each unit's gradient less that of the next one, which sees a patient fewer or as many."""
    weights, biases = gradient["0.weight"], gradient["0.bias"]
    return weights - np.vstack([weights[1:], np.zeros(SNPS)]), biases - np.append(biases[1:], 0.0)


def main() -> dict[str, Any]:
    """Most patients that any attack recovers from what left the two doors."""
    scene, fact, summed = Scene.of(), private_sgd_fact(), noised_sum_fact()
    open_ = Unprotected(dims=HIDDEN * (SNPS + 1), scale=SCALE)
    plain = scene.through_release_model(open_.model_copy(update={"scale": MODEL_SCALE}))
    bare, _ = scene.through_release_sum(open_)
    total, uploads = scene.through_release_sum(summed)
    left = {
        "release_model": scene.through_release_model(fact),
        "release_sum, total of three sites": total,
        "release_sum, a site's masked upload": uploads[0],
    }
    found = {name: (scene.alike(each), round(float(scene.likeness(each).max()), 2)) for name, each in left.items()}
    note = {
        "setting": f"{SNPS} SNPs, batch {BATCH}, {HIDDEN} planted units, one step, epsilon {EPSILON_MILLI / 1000:g}, "
        f"clip {CLIP}, noise multiplier {fact.noise_multiplier}",
        "without noise, release_model": f"{scene.exact(plain)} patients exactly, {scene.alike(plain)} alike",
        "without noise, total of three masked sites": f"{scene.exact(bare)} exactly, {scene.alike(bare)} alike",
        **{name: f"{alike} alike, largest correlation {most}" for name, (alike, most) in found.items()},
        "alike": f"|correlation| > {ALIKE} beyond the allele frequencies, for one who knows which units saw whom",
        "earlier": "refused in round 0, under masks in every round (tests/attacks/test_inversion.py)",
    }
    return {"row": "privacy.5", "value": max(alike for alike, _ in found.values()), "note": note}


if __name__ == "__main__":
    print(json.dumps(main()))
