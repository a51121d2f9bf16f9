"""How the defaults of `dose-net` were chosen: mean absolute error on generated cohorts, mode local and without noise.

Run: python -m tests.benchmarks.dose_net_tuning
"""

import numpy as np

from genopact_client.train.private_sgd import PrivateSgd
from genopact_server.demo import cohort
from genopact_shared.plan import MODEL_SCALE
from genopact_shared.privacy import accounting
from genopact_shared.privacy.accounting import Fact
from genopact_shared.privacy.mechanisms import SampledSgd, Unprotected
from genopact_shared.recipes.dose_features import OUTCOME
from genopact_shared.recipes.dose_net import DOSE_NET, DoseNetParameters
from genopact_shared.recipes.network import NetPlan
from genopact_shared.recipes.protocol import Model

PERMITTED = 0.85
SETTINGS = ((10, 4, 500, 1000, 500), (10, 4, 500, 1000, 1000), (10, 4, 500, 1000, 250), (5, 4, 500, 1000, 1000),
    (20, 1, 1000, 1000, 500), (10, 4, 500, 3000, 250))  # fmt: skip
"""Rounds, local steps; sampling rate, clip and learning rate in thousandths."""
TRAIN = {
    h.name: cohort.generate(round(h.people * PERMITTED), i, h.mix, h.shift) for i, h in enumerate(cohort.HOSPITALS)
}
TEST = [cohort.generate(1000, 90 + i, h.mix, h.shift) for i, h in enumerate(cohort.HOSPITALS)]


def error(plan: NetPlan, model: Model) -> float:
    """mg/week, shared model alone, equal weight of the hospitals."""
    return float(np.mean([np.abs(plan.predict(model, None, t).value - t.number(OUTCOME)).mean() for t in TEST]))


def fact_of(p: DoseNetParameters, epsilon_milli: int | None) -> Fact:
    if epsilon_milli is None:
        return Unprotected(dims=1, scale=MODEL_SCALE)
    rate = str(p.sampling_rate_milli / 1000)
    multiplier = accounting.sgd_noise_multiplier(epsilon_milli, "0.000001", rate, p.rounds * p.local_steps)
    clip = str(p.clip_milli / 1000)
    return SampledSgd(noise_multiplier=multiplier, clip=clip, sampling_rate=rate, steps=p.local_steps)


def trained(plan: NetPlan, fact: Fact) -> Model:
    model, everybody = plan.initial(), sum(plan.planned.values())
    for index in range(plan.parameters.rounds):
        changes = {site: PrivateSgd(plan, fact, site)(model, table) for site, table in TRAIN.items()}
        shares = {site: plan.planned[site] / everybody for site in changes}
        mean = {name: np.sum([shares[s] * change[name] for s, change in changes.items()], axis=0) for name in model}
        model = plan.advance(index, model, mean)
    return model


def main() -> None:
    names = ("rounds", "local_steps", "sampling_rate_milli", "clip_milli", "learning_rate_milli")
    planned = {name: round(table.n, -1) for name, table in TRAIN.items()}
    fixed = NetPlan(DOSE_NET, DoseNetParameters(), planned)
    print(f"fixed dose {error(fixed, fixed.initial()):.2f}")
    for epsilon_milli in (None, 1000, 3000, 8000):
        for setting in SETTINGS:
            parameters = DoseNetParameters.model_validate(dict(zip(names, setting, strict=True)))
            plan = NetPlan(DOSE_NET, parameters, planned)
            errors = [error(plan, trained(plan, fact_of(parameters, epsilon_milli))) for _ in range(2)]
            print(epsilon_milli, setting, " ".join(f"{each:.2f}" for each in errors))


if __name__ == "__main__":
    main()
