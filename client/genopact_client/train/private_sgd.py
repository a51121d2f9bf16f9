"""Private steps: gradient descent on Poisson samples of a site's patients, clipped and noised per patient.

Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1, with a public divisor.
"""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import structlog
from numpy.typing import NDArray

from genopact_client.train.patient_gradients import PatientGradients
from genopact_shared.errors import GenopactError
from genopact_shared.plan import MODEL_SCALE
from genopact_shared.privacy.accounting import Fact
from genopact_shared.privacy.mechanisms import NoisedSum, SampledSgd
from genopact_shared.privacy.noise import gaussian, keystream
from genopact_shared.recipes.network import NetPlan, load
from genopact_shared.recipes.protocol import Floats, Model, Table

MARGIN = 16 / MODEL_SCALE
"""What is kept back of the clip. The last bit of a patient's gradient can depend on who else is in the batch, which may
move it by a unit once it is rounded; 16 such units are paid for."""

_log = structlog.get_logger()


@dataclass
class PrivateSgd:
    """The local steps of one round, made once, inside the box of the patients' table.

    `plan`: recipe, settings and planned cohorts. `fact`: what the ledger has charged. `site`: whose planned cohort,
    times the sampling rate, is the divisor whatever a sample holds.

    Guarantees:
        Each patient is in a step's sample independently, with the sampling rate; samples are never logged or
        repeatable, and none is truncated. Adding or removing a patient moves a step's integer sum by at most
        clip * MODEL_SCALE in L2 norm. The sum gets Gaussian noise of noise_multiplier times that, under a fresh key
        of the operating system, rounded to integers. An empty sample makes a step of noise alone. The change is a
        function of these sums and public numbers.
    Assumptions:
        A row of the table is a patient. A patient's loss depends on that patient alone: layers and losses that break
        this are refused, as far as Opacus knows them and made-up patients show it.
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
        recipe, settings = self.plan.recipe, self.plan.parameters
        rate = Fraction(settings.sampling_rate_milli, 1000)
        self._check(rate)
        module = recipe.module(settings).double()
        load(module, model)
        inputs, targets = recipe.tensors(table)
        gradients = PatientGradients(recipe, module, inputs, targets)
        stride = settings.learning_rate_milli / 1000 / float(self.plan.planned[self.site] * rate)
        now = {name: model[name] for name, _ in module.named_parameters()}  # the order of the gradients' entries
        for _ in range(settings.local_steps):
            total = self._noised_sum(gradients, poisson(len(inputs), rate))
            now = _moved(now, -stride * total)
            load(module, now)
            self._steps += 1
        if gradients.skipped:
            _log.warning("gradients_not_finite", times=gradients.skipped)
        return {name: weights - model[name] for name, weights in now.items()}

    def _check(self, rate: Fraction) -> None:
        if self._steps or isinstance(self.fact, NoisedSum):
            raise GenopactError("KERNEL_REFUSED", "made before, or not the fact of private steps")
        if isinstance(self.fact, SampledSgd) and Fraction(self.fact.sampling_rate) != rate:
            raise GenopactError("KERNEL_REFUSED", "another sampling rate")

    def _noised_sum(self, gradients: PatientGradients, patients: NDArray[np.intp]) -> Floats:
        if not isinstance(self.fact, SampledSgd):
            return gradients.clipped_sum(patients, None) / MODEL_SCALE
        clip = float(self.fact.clip)
        total = gradients.clipped_sum(patients, clip - MARGIN)
        noise = gaussian(float(self.fact.noise_multiplier) * clip * MODEL_SCALE, len(total))
        return (total + np.rint(noise).astype(np.int64)) / MODEL_SCALE


def poisson(n: int, rate: Fraction) -> NDArray[np.intp]:
    """Which of n patients are in a sample: each on its own, with chance `rate` in (0, 1], rounded down to 2^-64."""
    words = np.frombuffer(keystream(8 * n), dtype=np.uint64)
    return np.flatnonzero(words <= np.uint64(int(rate * 2**64) - 1))


def _moved(model: Model, by: Floats) -> Model:
    """The model plus a vector that holds its weights one after another."""
    ends = np.cumsum([weights.size for weights in model.values()])[:-1]
    parts = np.split(by, ends)
    return {name: w + part.reshape(w.shape) for (name, w), part in zip(model.items(), parts, strict=True)}
