"""The mutants: each breaks one line or two of the privacy path, and names the tests that have to fail then."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """`old` occurs once in `file`; `new` takes its place. `killers`: ids of tests, each of which fails."""

    name: str
    file: str
    old: str
    new: str
    killers: tuple[str, ...]
    verdict: str = "killed"

    @property
    def compiled(self) -> bool:
        """Whether the tests run with compiled noise."""
        return self.file == NOISE


CLIENT, SHARED = "client/genopact_client/", "shared/genopact_shared/"
QUANTISE, KERNEL = CLIENT + "release/quantise.py", CLIENT + "release/kernel.py"
OUTBOX, LEDGER, FILE = CLIENT + "release/outbox.py", CLIENT + "ledger.py", CLIENT + "ledger_file.py"
EXCHANGE, COHORT, RUNS = (CLIENT + f"agent/{name}.py" for name in ("exchange", "cohort", "runs"))
MASKS, STEPS, ENGINE = CLIENT + "agent/masks.py", CLIENT + "train/private_sgd.py", CLIENT + "train/private_sum.py"
GRADIENTS = CLIENT + "train/gradients.py"
NOISE, ACCOUNTING = SHARED + "privacy/noise.py", SHARED + "privacy/accounting.py"
PLAN, MASKING = SHARED + "plan.py", SHARED + "secagg/masking.py"
POLICY, AUDIT = CLIENT + "policy.py", "server/genopact_server/audit/accountant.py"


def kills(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/mutations/test_{file}.py::test_{name}" for name in names)


def statistics(*checks: str) -> tuple[str, ...]:
    return tuple(f"tests/mutations/test_plans.py::test_statistics[{check}]" for check in checks)


def unit(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{file}.py::test_{name}" for name in names)


RELEASE, LEDGERS = "unit/test_release", "unit/test_ledger"
MOVED = kills("gradients", "a_patient_moves_a_sum_by_at_most_the_clip")
ROUNDED = unit(RELEASE, "every_row_stays_within_the_clip")
SUMMED = kills("gradients", "the_sum_of_gradients_is_that_of_patients_alone")
SHIFTED = kills("gradients", "a_patient_moves_the_sum_of_gradients_by_at_most_the_clip")
REFUSED = kills("gradients", "a_loss_that_is_not_per_patient_is_refused")
CHARGED = kills("sites", "who_is_charged_and_who_is_not")
BEFORE = kills("sites", "before_a_release_everybody_is_charged_and_the_intent_logged")
SPARE = kills("plans", "a_plan_pays_for_its_spare_attempts")
EPSILON = kills("plans", "epsilon_is_that_of_gaussian_sums")
DIVERGENCE = kills("plans", "the_cost_of_a_release_is_its_renyi_divergence")
NOISED = statistics("the_noise_of_a_sum")

CLIPPING = (
    Mutant("no clip", QUANTISE, "unit * np.minimum(largest, bound)", "unit * largest", MOVED + ROUNDED),
    Mutant("a clip for each coordinate", QUANTISE, "rows = unit * np.minimum(largest, bound)",
           "rows = np.clip(rows, -clip, clip)", MOVED),
    Mutant("a clip of the batch instead of the patient", QUANTISE, "rows = unit * np.minimum(largest, bound)",
           "rows = rows * min(1.0, clip / max(1e-300, float(np.linalg.norm(rows.sum(axis=0)))))", MOVED),
    Mutant("a clip of the largest coordinate", QUANTISE, "np.linalg.norm(unit, axis=1, keepdims=True)",
           "np.abs(unit).max(axis=1, keepdims=True, initial=0.0)", MOVED),
    Mutant("rounded to the nearest", QUANTISE, "np.trunc(scaled)", "np.rint(scaled)", MOVED),
    Mutant("rounded away from zero", QUANTISE, "np.trunc(scaled)", "np.copysign(np.ceil(np.abs(scaled)), scaled)",
           MOVED),
    Mutant("rounded down", QUANTISE, "np.trunc(scaled)", "np.floor(scaled)", MOVED),
    Mutant("a row that is not finite is kept in part", QUANTISE, "np.isfinite(values).all(axis=1, keepdims=True)",
           "np.isfinite(values)", unit(RELEASE, "a_row_that_is_not_finite_is_nothing")),
    Mutant("a sum beyond its range wraps", QUANTISE, ">= HEADROOM", "< 0.0",
           unit(RELEASE, "a_sum_beyond_its_range_is_an_error_and_never_a_clip")),
)  # fmt: skip

RELEASING = (
    Mutant("no noise", KERNEL, "total + skellam(planned.share_variance, fact.dims)", "total", NOISED),
    Mutant("a quarter of the variance", KERNEL, "skellam(planned.share_variance, fact.dims)",
           "skellam(planned.share_variance / 4, fact.dims)", NOISED),
    Mutant("noise on half of the coordinates", KERNEL, "total = total + skellam(planned.share_variance, fact.dims)",
           "total[::2] += skellam(planned.share_variance, len(total[::2]))", NOISED),
    Mutant("one noise for all coordinates", KERNEL, "skellam(planned.share_variance, fact.dims)",
           "skellam(planned.share_variance, 1)", NOISED),
    Mutant("any reservation will do", KERNEL, "reserved != fact or isinstance(fact, SampledSgd)",
           "isinstance(fact, SampledSgd)", unit(RELEASE, "the_kernel_refuses_another_reservation")),
    Mutant("a sum leaves without its mask", KERNEL, " or (mask is None) != (not planned.masked):", ":",
           unit(RELEASE, "the_kernel_refuses_a_missing_mask_and_another_shape")),
    Mutant("a model leaves under another fact", KERNEL, "reserved != done or not isinstance(done",
           "not isinstance(done", unit(RELEASE, "a_model_leaves_only_under_the_fact_of_its_own_steps")),
)  # fmt: skip

SAMPLING = (
    Mutant("a key that never changes", NOISE, "os.urandom(32)", "bytes(32)",
           statistics("the_noise_of_two_sums", "gaussian_values", "the_noise_of_two_rounds")),
    Mutant("a key for each process", NOISE, "os.urandom(32)", "os.getpid().to_bytes(32)",
           statistics("the_noise_of_two_sums", "gaussian_values", "the_noise_of_two_rounds")),
    Mutant("the sign of the noise is lost", NOISE, "magnitude if signs[i] & 1 else -magnitude", "magnitude",
           statistics("skellam_integers") + NOISED),
    Mutant("half the deviation of integers", NOISE, "*_thresholds(variance), values",
           "*_thresholds(variance / 4), values", statistics("skellam_integers") + NOISED),
    Mutant("a magnitude too few", NOISE, "magnitude = len(thresholds) - low",
           "magnitude = max(0, len(thresholds) - low - 1)", statistics("skellam_integers")),
    Mutant("half the deviation of reals", NOISE, "r = sd * math.sqrt(", "r = sd / 2 * math.sqrt(",
           statistics("gaussian_values", "the_noise_of_a_step")),
    Mutant("a radius that is always one", NOISE, "r = sd * math.sqrt(-(exponent * math.log(2.0) + log))", "r = sd",
           statistics("gaussian_values")),
    Mutant("one sign for every second value", NOISE, "(r if angle[i] & 0x80000000 else -r)", "r",
           statistics("gaussian_values")),
    Mutant("the first words of a stream for all of it", NOISE, "stream.update_into(zeros[: 12 * pairs], buffer)",
           "start or stream.update_into(zeros[: 12 * pairs], buffer)", statistics("gaussian_values")),
)  # fmt: skip

STEPPING = (
    Mutant("half the noise of a step", STEPS, "float(self.fact.noise_multiplier) * float(self.fact.clip)",
           "float(self.fact.noise_multiplier) / 2 * float(self.fact.clip)", statistics("the_noise_of_a_step")),
    Mutant("noise of a step that forgets the clip", STEPS, "float(self.fact.noise_multiplier) * float(self.fact.clip)",
           "float(self.fact.noise_multiplier)", statistics("the_noise_of_a_step")),
    Mutant("uniform noise", STEPS, "gaussian(sd, total.size)",
           "(np.random.default_rng().uniform(-1, 1, total.size) * sd * 3**0.5)", statistics("the_noise_of_a_step")),
    Mutant("noise of a seed", STEPS, "gaussian(sd, total.size)", "np.random.default_rng(7).normal(0, sd, total.size)",
           statistics("the_noise_of_two_rounds", "the_noise_of_four_steps")),
    Mutant("noise in the first step alone", STEPS, "gaussian(sd, total.size)",
           "(gaussian(sd, total.size) * (not self._steps))", statistics("the_noise_of_four_steps")),
    Mutant("noise on half of the weights", STEPS, "gaussian(sd, total.size)",
           "(gaussian(sd, total.size) * (np.arange(total.size) % 2))", statistics("the_noise_of_a_step")),
    Mutant("a divisor that tells the cohort", STEPS, "self.plan.planned[self.site] * rate",
           "max(1, len(inputs)) * rate", kills("gradients", "the_divisor_is_that_of_the_plan")),
    Mutant("the rate of one over a whole number", STEPS, "chosen = poisson(len(inputs), rate)",
           "chosen = poisson(len(inputs), Fraction(1, int(1 / rate)))",
           kills("gradients", "each_step_draws_its_own_sample_at_the_rate_that_was_charged")),
    Mutant("a site that samples for the union", STEPS, "chosen = poisson(len(inputs), rate)",
           "chosen = poisson(len(inputs), min(Fraction(1), rate * "
           "Fraction(sum(self.plan.planned.values()), self.plan.planned[self.site])))",
           kills("gradients", "each_step_draws_its_own_sample_at_the_rate_that_was_charged")),
    Mutant("one sample for all steps", STEPS,
           "        for _ in range(settings.local_steps):\n            chosen = poisson(len(inputs), rate)\n",
           "        chosen = poisson(len(inputs), rate)\n        for _ in range(settings.local_steps):\n",
           kills("gradients", "each_step_draws_its_own_sample_at_the_rate_that_was_charged")),
    Mutant("samples of a fixed size", STEPS, "np.flatnonzero(words <= np.uint64(int(rate * 2**64) - 1))",
           "np.argsort(words)[: int(n * rate)]", statistics("poisson_samples")),
    Mutant("samples without a key", STEPS, "np.frombuffer(keystream(8 * n), dtype=np.uint64)",
           "np.random.default_rng(n).integers(0, 2**64, n, dtype=np.uint64)", statistics("poisson_samples")),
)  # fmt: skip

GRADIENT = (
    Mutant("no clip of gradients", ENGINE, "(bound * squares.rsqrt()).clamp(max=1)", "torch.ones_like(squares)",
           SUMMED + SHIFTED),
    Mutant("gradients clipped as a batch", ENGINE, "(bound * squares.rsqrt()).clamp(max=1)",
           "(bound * squares.sum().rsqrt()).clamp(max=1).expand(len(squares))", SUMMED),
    Mutant("a clip for each layer", ENGINE, "use.add(total[weight], factors, ",
           "use.add(total[weight], (float(bound or 1e300) * use.squares().rsqrt()).clamp(max=1), ", SUMMED + SHIFTED),
    Mutant("one layer unclipped", ENGINE, "[use.squares() for use in uses.values()]",
           "[use.squares() for use in list(uses.values())[1:]]", SUMMED + SHIFTED),
    Mutant("biases unclipped", GRADIENTS,
           "        return torch.square(torch.linalg.vector_norm(self.dense(), dim=1).double())",
           "        return torch.square(torch.linalg.vector_norm(self.dense(), dim=1).double()) * "
           "(self.rows.dim() > 2)", SUMMED),
    Mutant("a sequence's norm without its cross terms", GRADIENTS,
           "(torch.bmm(x, x.transpose(1, 2)) * torch.bmm(d, d.transpose(1, 2))).sum((1, 2))",
           "(x.square().sum(2) * d.square().sum(2)).sum(1)", SUMMED),
    Mutant("a patient's rows clipped apart", ENGINE, "            if owner is not None:\n",
           "            if owner is not None and not len(inputs):\n",
           SUMMED + kills("gradients", "all_of_a_patient_s_rows_are_clipped_together")),
    Mutant("a gradient that is not finite is added", ENGINE, "finite = squares.isfinite()",
           "finite = torch.ones_like(squares, dtype=torch.bool)", kills("gradients", "what_is_not_finite_is_nothing")),
    Mutant("a batch is carried into the next", ENGINE,
           "        part = {weight: torch.zeros_like(weight, dtype=dtype) for weight in weights.values()}\n",
           "        part = losses.__dict__.setdefault('carried', {weight: torch.zeros_like(weight, "
           "dtype=dtype) for weight in weights.values()})\n",
           kills("gradients", "a_batch_leaves_nothing_for_the_next")),
    Mutant("the last patients of a batch are left for later", ENGINE, "in pairwise(group):",
           "in pairwise(group[:-1] if len(group) > 2 else group):",
           kills("gradients", "small_batches_in_memory_do_not_show")),
    Mutant("a loss of a column", ENGINE, "if values.shape != (n,):", "if len(values) != n:", REFUSED),
    Mutant("losses that follow other records", ENGINE, "        _check_isolation(awake, self.loss, *records)\n", "",
           kills("gradients", "a_loss_whose_sign_another_record_sets_is_refused")),
)  # fmt: skip

PLANNING = (
    Mutant("the honest minimum is all sites", PLAN, "_noised(step, z, privacy.honest_minimum)",
           "_noised(step, z, len(planned))", kills("plans", "the_honest_minimum_of_shares_is_all_of_the_noise")),
    Mutant("shares of the deviation, not of the variance", PLAN, "** 2 / fact.honest_minimum",
           "** 2 / fact.honest_minimum**2", kills("plans", "the_honest_minimum_of_shares_is_all_of_the_noise")),
    Mutant("shares for one site more", PLAN, "** 2 / fact.honest_minimum", "** 2 / (fact.honest_minimum + 1)",
           kills("plans", "the_honest_minimum_of_shares_is_all_of_the_noise")),
    Mutant("noise of a sum that forgets the clip", PLAN,
           "(float(fact.noise_multiplier) * float(fact.clip) * fact.scale) ** 2",
           "(float(fact.noise_multiplier) * fact.scale) ** 2",
           kills("plans", "the_honest_minimum_of_shares_is_all_of_the_noise")),
    Mutant("spare attempts of sums are free", PLAN, "[max(weights)] * privacy.spare_attempts", "[]", SPARE),
    Mutant("spare attempts of a network are free", PLAN, "(p.rounds + privacy.spare_attempts) * p.local_steps",
           "p.rounds * p.local_steps", SPARE),
    Mutant("a round counts as one step", PLAN, "(p.rounds + privacy.spare_attempts) * p.local_steps",
           "(p.rounds + privacy.spare_attempts)", SPARE),
    Mutant("a rate off by one", PLAN, "_decimal(p.sampling_rate_milli / 1000)",
           "_decimal((p.sampling_rate_milli - 1) / 1000)", SPARE),
)  # fmt: skip

COUNTING = (
    Mutant("a step fewer", ACCOUNTING, "+= times * fact.steps", "+= times * (fact.steps - 1)",
           kills("plans", "epsilon_of_a_few_sampled_steps")),
    Mutant("a full step fewer", ACCOUNTING, "else times * fact.steps", "else times * (fact.steps - 1)", EPSILON),
    Mutant("a tenth more noise than there is, in steps", ACCOUNTING, "steps[float(fact.noise_multiplier), ",
           "steps[1.1 * float(fact.noise_multiplier), ", kills("plans", "epsilon_of_sampled_steps")),
    Mutant("a tenth more noise than there is, in sums", ACCOUNTING, "full / float(fact.noise_multiplier) ** 2",
           "full / (1.1 * float(fact.noise_multiplier)) ** 2", EPSILON),
    Mutant("half the rate", ACCOUNTING, "float(fact.sampling_rate)] += times",
           "float(fact.sampling_rate) / 2] += times", kills("plans", "epsilon_of_sampled_steps")),
    Mutant("another adjacency", ACCOUNTING, "mu = math.sqrt(math.fsum(squares))",
           "mu = math.sqrt(math.fsum(squares)) / 2", EPSILON),
    Mutant("another adjacency in the filter", ACCOUNTING, "half = 1 / (2 * float(fact.noise_multiplier) ** 2)",
           "half = 1 / (8 * float(fact.noise_multiplier) ** 2)", DIVERGENCE),
    Mutant("equal rounds counted once", ACCOUNTING, "counted = Counter(facts)", "counted = Counter(set(facts))",
           EPSILON),
    Mutant("the filter forgets the steps of a round", ACCOUNTING, "return fact.steps * order * half * rate",
           "return order * half * rate", DIVERGENCE),
    Mutant("the audit forgets a step", AUDIT, "mu_squared += times * fact.steps /",
           "mu_squared += times * (fact.steps - 1) /", kills("plans", "the_audit_s_epsilon_is_that_of_gaussian_sums")),
    Mutant("the audit counts equal rounds once", AUDIT, "counted = Counter(facts)", "counted = Counter(set(facts))",
           kills("plans", "the_audit_s_epsilon_is_that_of_gaussian_sums")),
)  # fmt: skip

LEDGER_ = (
    Mutant("the filter the wrong way round", LEDGER, "spent + costs[fact] <= budget", "spent + costs[fact] >= budget",
           unit(LEDGERS, "affordable_is_what_the_filter_of_each_row_admits")),
    Mutant("the filter forgets what is about to be charged", LEDGER, "spent + costs[fact] <= budget",
           "spent <= budget", unit(LEDGERS, "affordable_is_what_the_filter_of_each_row_admits")),
    Mutant("a fact charged twice in a day costs once", LEDGER, "charges.get(charge, 0) + 1", "1",
           unit(LEDGERS, "a_window_opens_again_and_a_life_does_not")),
    Mutant("a window forgets its first day", LEDGER, "if day >= first:", "if day > first:",
           unit(LEDGERS, "a_window_opens_again_and_a_life_does_not")),
    Mutant("settling gives the budget back", LEDGER, "            del self._open[sequence]\n",
           "            del self._open[sequence]\n            self._group[:] = 0\n",
           unit(LEDGERS, "a_reservation_counts_as_spent_settled_or_not")),
    Mutant("a restart forgets what was not settled", LEDGER, "                    del self._open[reserved]\n",
           "                    self._group[:] = 0\n                    del self._open[reserved]\n",
           unit(LEDGERS, "a_reservation_counts_as_spent_settled_or_not")),
    Mutant("the limit for a time is ignored", LEDGER, "        if window:\n", "        if window and day < 0:\n",
           unit(LEDGERS, "a_window_opens_again_and_a_life_does_not")),
    Mutant("a clock set back opens a window", LEDGER, "            day = max(day, self._day)\n", "",
           unit(LEDGERS, "a_clock_that_is_set_back_opens_no_window")),
    Mutant("a charge is not synced", FILE, 'raise OSError("short write")\n            os.fsync(self._file)\n',
           'raise OSError("short write")\n', unit(LEDGERS, "what_could_not_be_synced_is_not_acknowledged")),
    Mutant("a record need not follow the one before", FILE, "if plain[:DIGEST] != self._last:", "if False:",
           unit("attacks/test_ledger", "records_of_another_ledger_or_key_do_not_open")),
)  # fmt: skip

RESERVE = "            sequence = self._site.ledger.reserve(*address, step.fact, cohort.rows, day=now // DAY_S)\n"
INTENT = "            intent, proof = self._log_intent(admitted, step, cohort)\n"
RELEASE_ = "            released = self._released(plan, step, _model(admitted.model), cohort.table, mask)\n"
SIEGE = "attacks/test_exchange"

EXCHANGING = (
    Mutant("charged after the draw", EXCHANGE, RESERVE + INTENT + RELEASE_, INTENT + RELEASE_ + RESERVE, BEFORE),
    Mutant("logged after the draw", EXCHANGE, INTENT + RELEASE_, RELEASE_ + INTENT, BEFORE),
    Mutant("a position that is not taken", EXCHANGE,
           'record = self._runs.put(record.model_copy(update=position | {"taken": (*record.taken, step.index)}))',
           'record = record.model_copy(update=position | {"taken": (*record.taken, step.index)})', BEFORE),
    Mutant("one patient is not charged", EXCHANGE, "step.fact, cohort.rows, day=now // DAY_S)",
           "step.fact, cohort.rows[1:], day=now // DAY_S)", BEFORE + CHARGED),
    Mutant("only those drawn are charged", EXCHANGE, "step.fact, cohort.rows, day=now // DAY_S)",
           "step.fact, cohort.rows[np.random.default_rng().random(len(cohort.rows)) < 0.5], day=now // DAY_S)",
           BEFORE + CHARGED),
    Mutant("a run begins with nothing spent", EXCHANGE, "facts[step.fact] += 1", "facts = Counter([step.fact])",
           kills("sites", "a_study_s_epsilon_holds_for_all_its_runs")),
    Mutant("replays are accepted", RUNS, "<= (self.round, self.attempt)", "< (self.round, self.attempt)",
           kills("sites", "a_position_only_moves_forward")),
    Mutant("earlier rounds are accepted", RUNS, "(round_, attempt) <= (self.round, self.attempt)",
           "round_ == self.round and attempt <= self.attempt", kills("sites", "a_position_only_moves_forward")),
    Mutant("a step that was asked for twice is made twice", EXCHANGE,
           "        record.check_next(request.round, request.attempt)\n        step = plan", "        step = plan",
           BEFORE),
    Mutant("a retry is not answered from the outbox", EXCHANGE, "(sent := self._site.outbox.get(digest)) is not None",
           "(sent := self._site.outbox.get(digest)) is None and sent", kills("sites", "a_retry_gets_the_same_bytes")),
    Mutant("a later reply replaces the stored one", OUTBOX, "if (stored := self.get(request)) is not None:",
           "if (stored := self.get(request)) is not None and not frame:", kills("sites", "the_first_reply_stands")),
    Mutant("consent is not asked", COHORT, "np.intersect1d(np.flatnonzero(permission.rows), site.store.rows())",
           "np.asarray(site.store.rows())", CHARGED),
    Mutant("the exhausted take part", COHORT, "        rows = rows[able]\n", "        rows = rows[able | True]\n",
           CHARGED),
    Mutant("private data without protection", COHORT,
           'if unprotected and not exact and site.store.manifest()["kind"] not in ("public", "synthetic"):',
           "if False:",
           kills("sites", "without_protection_private_data_stay")),
    Mutant("an older ledger is taken", EXCHANGE, "not self._site.ledger.extends(root)", "False",
           kills("sites", "no_agent_starts_on_an_older_ledger")),
    Mutant("any first model will do", EXCHANGE, "admitted.body == admitted.model == wire.pack(plan.course.initial())",
           "True", kills("sites", "a_planted_first_model_is_refused")),
    Mutant("the model is not made again", EXCHANGE, "if record.round != last.round:\n            return True",
           "return True", kills("sites", "a_planted_model_and_a_wrong_total_are_refused")),
    Mutant("a total's tag is not checked", EXCHANGE, "        self._masks.check_total(last, record, total)\n", "",
           kills("sites", "a_planted_model_and_a_wrong_total_are_refused")),
    Mutant("uploads of another model are added", MASKS, "stated != (record.model_in, plan.steps[request.round].fact)",
           "stated is None", kills("sites", "masks_are_opened_for_uploads_of_the_same_step_at_the_same_model")),
    Mutant("a policy has no floor of honest sites", POLICY, "request.honest_minimum >= limits.minimum_honest", "True",
           unit("unit/test_policy", "each_rule_denies_alone")),
)  # fmt: skip

MASKED = (
    Mutant("one secret for all rounds", MASKING,
           "{index: (sharing.draw(), sharing.draw()) for index in opening.rounds}",
           "dict.fromkeys(opening.rounds, (sharing.draw(), sharing.draw()))",
           kills("masks", "no_two_rounds_have_a_secret_in_common")),
    Mutant("a round may be masked again", MASKING, "pair_secret, self_secret = self._secrets.pop(index)",
           "pair_secret, self_secret = self._secrets[index]", unit("unit/test_secagg", "what_is_past_is_forgotten")),
    Mutant("no self mask", MASKING, "keys = [(self_stream(self_secret, opening.epoch, index), 1)]", "keys = []",
           kills("masks", "a_self_mask_covers_what_a_false_drop_leaves")),
    Mutant("a lock that everybody knows", MASKING, "bound, lock = opening.bound(index, active), sharing.draw()",
           "bound, lock = opening.bound(index, active), 0",
           kills("masks", "what_is_revealed_for_different_sets_stays_locked")),
    Mutant("parts of a lock in clear", MASKING, "(part + token(secret, bound, self._own, site)) % sharing.PRIME",
           "part", kills("masks", "what_is_revealed_for_different_sets_stays_locked")),
    Mutant("a lock that is not bound to the set", MASKING, '"round": index, "active": dict(active)', '"round": index',
           kills("masks", "a_set_is_bound_to_its_uploads_round_and_roster")),
    Mutant("a lock that is not bound to the uploads", MASKING, '"active": dict(active)', '"active": sorted(active)',
           kills("masks", "a_set_is_bound_to_its_uploads_round_and_roster")),
    Mutant("a lock that is not bound to the round", MASKING, '"round": index, "active"', '"active"',
           kills("masks", "a_set_is_bound_to_its_uploads_round_and_roster")),
    Mutant("shares for a threshold less one", MASKING,
           "sharing.split(secret, opening.threshold, len(opening.roster)) for secret",
           "sharing.split(secret, opening.threshold - 1, len(opening.roster)) for secret",
           kills("masks", "fewer_shares_than_the_threshold_give_no_secret")),
    Mutant("a lock for a threshold less one", MASKING, "sharing.split(lock, opening.threshold, ",
           "sharing.split(lock, opening.threshold - 1, ",
           kills("masks", "fewer_shares_than_the_threshold_give_no_secret")),
    Mutant("sets of a threshold less one", MASKING, "len(active) < opening.threshold:",
           "len(active) < opening.threshold - 1:",
           kills("masks", "a_site_opens_nothing_without_its_own_upload_and_nothing_twice")),
    Mutant("a set without the site's own upload", MASKING, "self._own in active and set(active)", "set(active)",
           kills("masks", "a_site_opens_nothing_without_its_own_upload_and_nothing_twice")),
    Mutant("masks are opened twice", MASKING, "        del self._held[index]\n", "",
           kills("masks", "a_site_opens_nothing_without_its_own_upload_and_nothing_twice")),
    Mutant("a threshold that two groups reach", MASKING, "max(3, len(opening.roster)) < 2 * opening.threshold",
           "max(3, len(opening.roster)) <= 2 * opening.threshold",
           unit("attacks/test_masking", "a_threshold_that_two_groups_could_reach")),
    Mutant("no pad of the tag", MASKING, '"tag", index, dims), pad', '"tag", index, dims), 0',
           kills("masks", "a_forged_total_is_refused_for_every_forgery")),
    Mutant("one pad for all rounds", MASKING, '"tag of", index, site', '"tag of", site',
           kills("masks", "a_round_s_mask_is_its_own")),
    Mutant("the tag is not compared", MASKING, "tag(total, keys[0][0], sum(pad for _, pad in keys)) == code", "True",
           kills("masks", "a_forged_total_is_refused_for_every_forgery")),
    Mutant("a range that wraps", MASKING, "raise GenopactError(\"RANGE_EXCEEDED\")", "pass",
           unit("unit/test_secagg", "the_edges_of_the_range")),
    Mutant("a round key that agrees on nothing", MASKING, "                stream.agree(self._key, public)  #",
           "                #", unit("attacks/test_masking", "a_colluders_round_key_that_agrees_on_nothing")),
)  # fmt: skip

EXACT = (
    Mutant("a limit is no limit to a sum without noise", COHORT, "permission.cap[rows] == NO_CAP",
           "permission.cap[rows] <= NO_CAP", kills("exact", "exact_sums_are_of_those_who_permit_them_without_a_limit")),
    Mutant("a sum without noise of a few", COHORT, "if exact and len(rows) < study.minimum_cohort:", "if False:",
           kills("exact", "exact_sums_are_of_enough_patients")),
    Mutant("a sum without noise costs nothing", ACCOUNTING,
           "isinstance(fact, Unprotected) or not float(fact.noise_multiplier):\n        return math.inf\n    half",
           "isinstance(fact, Unprotected):\n        return 0.0\n    half",
           kills("exact", "after_an_exact_sum_nobody_in_it_pays_again")),
    Mutant("exact statistics for any use", SHARED + "study.py",
           'self.privacy.mode == "exact" and "federated_stats" not in self.purpose.uses', "False",
           kills("exact", "exact_statistics_are_for_a_use_that_patients_permit")),
    Mutant("exact sums without masks", SHARED + "study.py", 'self.mode in {"distributed", "exact"}',
           'self.mode == "distributed"', kills("exact", "masks_and_counts_of_exact_sums")),
    Mutant("a count that is scaled up", PLAN, "1.0 if counted else", "",
           kills("exact", "masks_and_counts_of_exact_sums")),
    Mutant("small counts in the table", "server/genopact_server/association.py", "(fewest >= least) & ", "",
           unit("unit/test_association", "small_counts_are_not_shown")),
    Mutant("a patient that a variant misses stays in its sums", SHARED + "recipes/gwas.py",
           "total[:sums, None] - variants[-sums:]", "total[:sums, None] + 0 * variants[-sums:]",
           unit("unit/test_gwas", "a_linear_trait_is_the_regression_of_everybody_without_whom_a_variant_misses")),
)  # fmt: skip

MUTANTS = (
    *CLIPPING, *RELEASING, *SAMPLING, *STEPPING, *GRADIENT, *PLANNING, *COUNTING, *LEDGER_, *EXCHANGING,
    *MASKED, *EXACT,
)  # fmt: skip

DECOYS = (
    Mutant("decoy: nothing is changed", QUANTISE, "HEADROOM = 2.0**62", "HEADROOM = 4.0**31", MOVED, "survived"),
    Mutant("decoy: the text is not there", QUANTISE, "HEADROOM = 2.0**61", "HEADROOM = 1.0", MOVED, "broken"),
    Mutant("decoy: it does not run", QUANTISE, "np.trunc(scaled)", "np.truncated(scaled)", MOVED, "broken"),
)
"""What the driver has to tell from a mutant that is killed."""
