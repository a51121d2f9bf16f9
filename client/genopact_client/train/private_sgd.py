"""Private steps: gradient descent on Poisson samples of a site's patients, clipped and noised per patient.

Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1, with a public divisor.
"""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import structlog
from numpy.typing import NDArray

from genopact_shared.errors import GenopactError
from genopact_shared.plan import MODEL_SCALE
from genopact_shared.privacy.accounting import Fact
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd
from genopact_shared.privacy.noise import gaussian, keystream
from genopact_shared.recipes.network import NetPlan, load, weights_of
from genopact_shared.recipes.protocol import Model
from genopact_shared.recipes.table import Floats, Table

_log = structlog.get_logger()


@dataclass
class PrivateSgd:
    """The local steps of one round, made once, inside the box of the patients' table.

    `plan`: recipe, settings and planned cohorts. `fact`: what the ledger has charged. `site`: whose planned cohort,
    times the sampling rate, is the divisor whatever a sample holds.

    Guarantees:
        Each patient is in a step's sample independently, with the sampling rate; samples are never logged or
        repeatable, and none is truncated. Adding or removing a patient moves a step's sum by at most the clip in L2
        norm, rounding included (float64; see `private_sum`). The sum gets Gaussian noise of noise_multiplier times
        that, under fresh keys of the operating system, and is then rounded to multiples of 1 / MODEL_SCALE. An empty
        sample makes a step of noise alone. The change is a function of these sums and public numbers.
    Assumptions:
        A row of the table is a patient. Those of `private_sum`: a loss that depends on one patient alone, which
        made-up patients show.
    """

    plan: NetPlan
    fact: Fact
    site: str
    _steps: int = field(default=0, init=False)

    @property
    def done(self) -> Fact:
        """The fact of the steps that were made."""
        return self.fact.model_copy(update={"steps": self._steps}) if isinstance(self.fact, SampledSgd) else self.fact

    def __call__(self, model: Model, table: Table) -> Model:
        """What the steps change in `model`: name -> float64.

        Raises:
            GenopactError: KERNEL_REFUSED for another fact, a second call, or a network that is not per patient;
                FRAME_INVALID for the model of another network; RANGE_EXCEEDED.
        """
        from genopact_client.train.private_sum import PerRecordLoss, private_sum

        recipe, settings = self.plan.recipe, self.plan.parameters
        rate = Fraction(settings.sampling_rate_milli, 1000)
        if self._steps or isinstance(self.fact, NoisedSum):
            raise GenopactError("KERNEL_REFUSED", "made before, or not the fact of private steps")
        if isinstance(self.fact, SampledSgd) and Fraction(self.fact.sampling_rate) != rate:
            raise GenopactError("KERNEL_REFUSED", "another sampling rate")
        module = recipe.module(settings).double()
        shared = weights_of(model)
        load(module, shared)
        inputs, targets = (each.double() if each.is_floating_point() else each for each in self.plan.tensors(table))
        losses = PerRecordLoss(module, recipe.loss, inputs, targets)
        stride = settings.learning_rate_milli / 1000 / float(self.plan.planned[self.site] * rate)
        pull = settings.learning_rate_milli * settings.proximal_milli / 1_000_000
        clip = float(self.fact.clip) if isinstance(self.fact, SampledSgd) else None
        now, dropped = dict(shared), 0
        for _ in range(settings.local_steps):
            chosen = poisson(len(inputs), rate)
            summed = private_sum(losses, inputs[chosen], targets[chosen], clip)
            for name, total in summed.total.items():
                now[name] = now[name] - stride * self._released(total.numpy()) - pull * (now[name] - shared[name])
            load(module, now)
            dropped += summed.dropped
            self._steps += 1
        if dropped:
            _log.warning("gradients_not_finite", times=dropped)
        return {name: weights - shared[name] for name, weights in now.items()}

    def _released(self, total: Floats) -> Floats:
        """With noise, and then on the grid, which hides the low bits of both."""
        if isinstance(self.fact, SampledSgd):
            sd = float(self.fact.noise_multiplier) * float(self.fact.clip)
            total = total + gaussian(sd, total.size).reshape(total.shape)
        return np.rint(total * MODEL_SCALE) / MODEL_SCALE


def poisson(n: int, rate: Fraction) -> NDArray[np.intp]:
    """Which of n patients are in a sample: each on its own, with chance `rate` in (0, 1], rounded down to 2^-64."""
    words = np.frombuffer(keystream(8 * n), dtype=np.uint64)
    return np.flatnonzero(words <= np.uint64(int(rate * 2**64) - 1))
