"""Mechanisms as frozen facts: what was done to the data. Epsilon is always derived from them, never stored.

A fact says what its epsilon is about: neighbouring data sets differ by one patient of one site, who is there or not
(`unit`, `adjacency`), and how patients came to take part (`sampling`; `sampling_rate` is the site's own, of its own
patients: no patient is drawn from the union).
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from genopact_shared.study import Frozen

Real = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?$")]
"""A non-negative decimal string: facts are signed, and signed bytes hold no floats."""


class Noised(Frozen):
    """What facts with noise have alike."""

    unit: Literal["patient-of-a-site"] = "patient-of-a-site"
    adjacency: Literal["add-remove"] = "add-remove"
    noise_multiplier: Real
    clip: Real


class NoisedSum(Noised):
    """One clipped, quantised sum with Skellam noise over all patients of all sites.

    `noise_multiplier` is the standard deviation of the noise that is guaranteed to be in the total (that of
    `honest_minimum` shares), over the L2 clip. `scale`: integer units per 1.0.
    Source: Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", 2021.
    """

    kind: Literal["noised-sum"] = "noised-sum"
    sampling: Literal["none"] = "none"
    scale: int = Field(ge=1)
    dims: int = Field(ge=1)
    honest_minimum: int = Field(ge=1)


class SampledSgd(Noised):
    """`steps` noised gradient steps on Poisson samples of one site's patients (release of a model delta)."""

    kind: Literal["sampled-sgd"] = "sampled-sgd"
    sampling: Literal["poisson"] = "poisson"
    sampling_rate: Real
    steps: int = Field(ge=1)


class Unprotected(Frozen):
    """A release without noise: unbounded epsilon.

    Only for stores whose signed manifest says public or synthetic, or, in mode exact, of whoever permits it.
    """

    kind: Literal["unprotected"] = "unprotected"
    dims: int = Field(ge=1)
    scale: int = Field(ge=1)


Mechanism = Annotated[NoisedSum | SampledSgd | Unprotected, Field(discriminator="kind")]
MECHANISM: TypeAdapter[NoisedSum | SampledSgd | Unprotected] = TypeAdapter(Mechanism)
