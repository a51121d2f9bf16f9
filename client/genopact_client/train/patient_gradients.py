"""One gradient a patient, by Opacus' hooks on layers that its validator accepts; clipped, and summed as integers."""

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genopact_client.release.quantise import clipped_integers
from genopact_shared.errors import GenopactError
from genopact_shared.plan import MODEL_SCALE
from genopact_shared.recipes.protocol import Floats, NetRecipe

if TYPE_CHECKING:
    from torch import Tensor, nn

ENTRIES = 1 << 20
"""Of the matrix of gradients that is in memory at a time."""


class PatientGradients:
    """The gradients of a site's patients at the current weights of `module`, in float64.

    Args:
        recipe: gives the loss of each patient.
        module: in double precision; its weights may change between calls.
        inputs: (n, ...), one patient a row.
        targets: (n,).

    Raises:
        GenopactError: KERNEL_REFUSED for layers that mix patients (batch normalisation), state beside the weights
            (buffers), or a loss that is not one number a patient which depends on that patient alone.
    """

    def __init__(self, recipe: NetRecipe, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> None:
        from opacus.grad_sample import GradSampleModule
        from opacus.validators import ModuleValidator

        inputs, targets = (each.double() if each.is_floating_point() else each for each in (inputs, targets))
        if ModuleValidator.validate(module, strict=False) or any(True for _ in module.buffers()):
            raise GenopactError("KERNEL_REFUSED", "a layer mixes patients or keeps state beside its weights")
        _check_isolation(recipe, module, inputs, targets)
        self.skipped = 0
        self._recipe, self._inputs, self._targets = recipe, inputs, targets
        self._weights = list(module.parameters())
        self._hooked = GradSampleModule(module, loss_reduction="sum")

    def clipped_sum(self, patients: NDArray[np.intp], clip: float | None) -> NDArray[np.int64]:
        """The sum of some patients' gradients, each clipped and rounded towards zero.

        Args:
            patients: indices; none of them give zeros.
            clip: L2 bound of a gradient; None for data that need no protection.

        Returns:
            (d,) int64, in units of 1 / MODEL_SCALE, d weights in the order of the module's parameters. It does not
            depend on how the patients are cut into physical batches. A gradient that is not finite counts as zeros,
            and in `skipped`.

        Raises:
            GenopactError: KERNEL_REFUSED, RANGE_EXCEEDED.
        """
        size = sum(weights.numel() for weights in self._weights)
        total, at_once = np.zeros(size, dtype=np.int64), max(1, ENTRIES // size)
        for start in range(0, len(patients), at_once):
            rows = self._gradients(patients[start : start + at_once])
            self.skipped += int((~np.isfinite(rows).all(axis=1)).sum())
            total += clipped_integers(rows, clip, MODEL_SCALE).sum(axis=0, dtype=np.int64)
        return total

    def _gradients(self, patients: NDArray[np.intp]) -> Floats:
        """(B, d) float64; nothing of an earlier batch is left in it."""
        import torch

        for weights in self._weights:
            weights.grad = weights.grad_sample = None  # type: ignore[attr-defined]
        chosen = torch.from_numpy(patients)
        inputs = self._inputs[chosen]
        if inputs.is_floating_point():
            inputs.requires_grad_()  # else torch warns about Opacus' hooks on the first layer
        losses = self._recipe.loss(self._hooked, inputs, self._targets[chosen])
        _check_shape(losses, len(patients))
        losses.sum().backward()  # type: ignore[no-untyped-call]
        samples = [getattr(weights, "grad_sample", None) for weights in self._weights]
        rows = [
            sample.detach().numpy().reshape(len(patients), -1)
            for sample, weights in zip(samples, self._weights, strict=True)
            if isinstance(sample, torch.Tensor) and sample.shape == (len(patients), *weights.shape)
        ]
        if len(rows) < len(samples):
            raise GenopactError("KERNEL_REFUSED", "weights without one gradient a patient")
        return np.concatenate(rows, axis=1, dtype=np.float64)


def _check_isolation(recipe: NetRecipe, module: "nn.Module", inputs: "Tensor", targets: "Tensor") -> None:
    """Exchange the first of three made-up patients: the losses of the others keep their bits."""
    import torch

    with torch.no_grad():
        awake = deepcopy(module)
        for weights in awake.parameters():
            weights.add_(0.1)  # a layer of zeros would hide what lies before it
        rows, outcomes = inputs.new_zeros((3, *inputs.shape[1:])), targets.new_zeros((3, *targets.shape[1:]))
        before = recipe.loss(awake, rows, outcomes)
        rows[0], outcomes[0] = 1, 1
        after = recipe.loss(awake, rows, outcomes)
    _check_shape(before, 3)
    if not torch.equal(before[1:], after[1:]):
        raise GenopactError("KERNEL_REFUSED", "the loss of a patient depends on another patient")


def _check_shape(losses: "Tensor", patients: int) -> None:
    """A loss of shape (B, 1) would broadcast where it meets one of shape (B,)."""
    if losses.shape != (patients,):
        raise GenopactError("KERNEL_REFUSED", "not one loss a patient")
