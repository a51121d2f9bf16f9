"""Gradients of single records by Opacus' hooks, for layers without a rule of their own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from genopact_shared.errors import GenopactError


@contextmanager
def hooked(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Hooks on some layers, fresh for each batch: nothing of an earlier one is left in them.

    Raises:
        GenopactError: KERNEL_REFUSED for a layer that Opacus does not know to be per record.
    """
    if any(ModuleValidator.validate(layer, strict=False) or not layer.training for layer in layers):
        raise GenopactError("KERNEL_REFUSED", "a layer without gradients of single records")
    wrapped = [GradSampleModule(layer, loss_reduction="sum") for layer in layers]
    try:
        yield
    finally:
        for each in wrapped:
            each.to_standard_module()
        for layer in layers:
            for part in layer.modules():
                part.__dict__.pop("activations", None)


def samples(layers: Sequence[nn.Module], n: int) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Each weight of the layers with its (n, ...) gradients.

    Raises:
        GenopactError: KERNEL_REFUSED for a weight without one gradient a record.
    """
    for layer in layers:
        for weight in layer.parameters():
            sample = getattr(weight, "grad_sample", None)
            if weight.requires_grad and not (isinstance(sample, Tensor) and sample.shape == (n, *weight.shape)):
                raise GenopactError("KERNEL_REFUSED", "a weight without one gradient a record")
            if isinstance(sample, Tensor):
                yield weight, sample.detach()
