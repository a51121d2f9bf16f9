"""The site policy: what it says, what does not load, and the schemas beside the files."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from genopact_client.ledger import Window
from genopact_client.policy import REASONS, Request, SitePolicy
from genopact_shared.errors import GenopactError
from genopact_shared.study import Study
from tests.generate import schema
from tests.unit.policy_fixtures import POLICIES, request, study

SCHEMAS = POLICIES.parent / "schemas"
RESEARCH = (POLICIES / "research-hospital.yaml").read_text("utf-8")


@pytest.fixture
def research() -> SitePolicy:
    return SitePolicy.load(POLICIES / "research-hospital.yaml")


def load(tmp_path: Path, text: str) -> SitePolicy:
    path = tmp_path / "policy.yaml"
    path.write_text(text, "utf-8")
    return SitePolicy.load(path)


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_policies_load_and_have_their_own_digests(path: Path) -> None:
    policy = SitePolicy.load(path)
    assert policy.site == path.stem
    assert len(policy.digest) == 64
    assert policy.digest != SitePolicy.load(next(p for p in POLICIES.glob("*.yaml") if p != path)).digest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"permission": "GRU"}, "permission"),
        ({"diseases": ()}, "disease"),
        ({"diseases": ("MONDO:0004979",)}, "disease"),
        ({"diseases": ("MONDO:0005148", "MONDO:0004979")}, "disease"),
        ({"uses": ("train", "federated_stats")}, "use"),
        ({"uses": ()}, "use"),
        ({"organisations": ()}, "organisation"),
        ({"regions": ("US",)}, "region"),
        ({"regions": ("*",)}, "region"),
        ({"regions": ()}, "region"),
        ({"data": ("genome",)}, "data"),
        ({"recipe": "dose/2"}, "recipe"),
        ({"mode": "none"}, "mode"),
        ({"epsilon_milli": 3001}, "epsilon"),
        ({"epsilon_milli": None}, "epsilon"),
        ({"delta": "0.0000011"}, "delta"),
        ({"minimum_cohort": 49}, "minimum_cohort"),
        ({"honest_minimum": 1}, "minimum_honest"),
        ({"sites": 2}, "minimum_sites"),
    ],
)
def test_each_rule_denies_alone(research: SitePolicy, changes: dict[str, Any], reason: str) -> None:
    assert research.judge_request(request()).outcome.name == "permit"
    verdict = research.judge_request(request(**changes))
    assert (verdict.outcome.name, list(verdict.reasons)) == ("deny", [reason])


def test_an_unknown_disease_needs_a_person_unless_something_else_denies(research: SitePolicy) -> None:
    strange = request(diseases=("MONDO:9999999",))
    assert research.judge_request(strange).reasons.keys() == {"disease_unknown"}
    assert research.judge_request(strange).outcome.name == "needs_human"
    both = research.judge_request(strange.model_copy(update={"mode": "none"}))
    assert (both.outcome.name, list(both.reasons)) == ("deny", ["mode"])


def test_the_lifetime_limit_bounds_a_study_too(research: SitePolicy) -> None:
    limits = research.limits.model_copy(update={"lifetime_epsilon_milli": 999})
    assert list(research.model_copy(update={"limits": limits}).judge_request(request()).reasons) == ["epsilon"]


def test_the_window_bounds_a_study_and_is_optional(research: SitePolicy) -> None:
    assert research.limits.window == Window(365, 3000)
    tight = research.limits.model_copy(update={"window_epsilon_milli": 999})
    assert list(research.model_copy(update={"limits": tight}).judge_request(request()).reasons) == ["epsilon"]
    none = tight.model_copy(update={"window_epsilon_milli": None, "window_days": None})
    assert none.window is None
    assert research.model_copy(update={"limits": none}).judge_request(request()).outcome.name == "permit"


def test_a_whole_study_is_judged_by_what_it_says(research: SitePolicy) -> None:
    verdict = research.judge(study())
    assert (verdict.outcome.name, verdict.reasons) == ("deny", {"disease": REASONS["disease"]})
    purpose = study().purpose.model_dump() | {"permission": "DS", "diseases": ("MONDO:0005148",)}
    assert research.judge(study(purpose=purpose)).outcome.name == "permit"
    changed = study(purpose=purpose, release="public", recipe={"name": "dose-net", "version": 1})
    assert Request.of(changed) == request(
        data=("genotype", "ehr"), minimum_cohort=50, recipe="dose-net/1", release="public"
    )
    small = {"mode": "distributed", "epsilon_milli": 1000, "honest_minimum": 2, "delta": "0.0000001"}
    assert Request.of(study(privacy=small)).delta == "0.0000001"


def test_the_template_is_closed(tmp_path: Path) -> None:
    policy = load(tmp_path, SitePolicy.template("site-x"))
    assert policy.site == "site-x"
    for mode in ("distributed", "local", "none"):
        privacy: dict[str, Any] = {"mode": mode, "honest_minimum": 2 if mode == "distributed" else 1}
        privacy |= {} if mode == "none" else {"epsilon_milli": 1}
        verdict = policy.judge(study(privacy=privacy))
        assert verdict.outcome.name == "deny"
        assert {"permission", "disease", "use", "region", "data", "recipe", "mode", "release"} <= verdict.reasons.keys()


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("regions: [EEA]", "regions: [NO]", "allow.regions"),
        ("regions: [EEA]", "regions: EEA", "allow.regions"),
        ("commercial: allowed", "commercial: no", "allow.commercial"),
        ("commercial: allowed", "commercial: yes", "allow.commercial"),
        ('max_delta: "0.000001"', "max_delta: 1e-6", "limits.max_delta"),
        ('max_delta: "0.000001"', "max_delta: 0.000001", "limits.max_delta"),
        ("max_epsilon_milli: 3000", 'max_epsilon_milli: "3000"', "limits.max_epsilon_milli"),
        ("max_epsilon_milli: 3000", "max_epsilon_milli: 3.0", "limits.max_epsilon_milli"),
        ("max_epsilon_milli: 3000", "max_epsilon_mili: 3000", "limits.max_epsilon_mili"),
        ("minimum_honest: 2", "minimum_honest: 1", "limits.minimum_honest"),
        ("window_days: 365", "window_days: 0", "limits.window_days"),
        ("window_days: 365", "window: life", "limits.window"),
        ("  window_days: 365\n", "", "limits"),
        ("  window_epsilon_milli: 3000", "  #", "limits"),
        ("modes: [distributed, local]", "modes: [distributed, open]", "allow.modes"),
        ("commercial: false", "commercial: 'false'", "examples.base.commercial"),
        ("schema: genopact.site-policy/1", "schema: genopact.site-policy/2", "schema"),
    ],
)
def test_yaml_traps_do_not_load(tmp_path: Path, old: str, new: str, field: str) -> None:
    assert old in RESEARCH
    with pytest.raises(GenopactError, match="POLICY_INVALID") as caught:
        load(tmp_path, RESEARCH.replace(old, new, 1))
    assert field in caught.value.detail


def test_a_key_that_appears_twice_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(GenopactError, match="POLICY_UNREADABLE"):
        load(tmp_path, RESEARCH.replace("window_days: 365", "window_days: 365\n  minimum_sites: 1"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("minimum_sites: 3", "minimum_sites: 2"),
        ("releases: [parties, public]", "releases: [public]"),
        ("expect: deny, because: mode", "expect: deny, because: epsilon"),
        ("expect: deny, because: mode", "expect: permit"),
    ],
)
def test_a_policy_that_fails_its_examples_does_not_load(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(GenopactError, match="POLICY_EXAMPLE_FAILS"):
        load(tmp_path, RESEARCH.replace(old, new, 1))


@pytest.mark.parametrize("cases", [[], [{"expect": "permit"}], [{"expect": "deny", "change": {"mood": 1}}]])
def test_examples_are_required_to_deny_something_real(tmp_path: Path, cases: list[Any]) -> None:
    data = yaml.safe_load(RESEARCH)
    data["examples"]["cases"] = cases
    with pytest.raises(GenopactError, match=r"POLICY_INVALID|POLICY_EXAMPLE_FAILS"):
        load(tmp_path, yaml.safe_dump(data))


FIELDS = [(section, field) for section in ("allow", "limits") for field in sorted(yaml.safe_load(RESEARCH)[section])]


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_a_policy_without_a_field_does_not_load(tmp_path: Path, section: str, field: str) -> None:
    data = yaml.safe_load(RESEARCH)
    del data[section][field]
    with pytest.raises(GenopactError, match="POLICY_INVALID"):
        load(tmp_path, yaml.safe_dump(data))


def test_files_that_are_no_policy(tmp_path: Path) -> None:
    with pytest.raises(GenopactError, match="POLICY_UNREADABLE"):
        SitePolicy.load(tmp_path / "absent.yaml")
    with pytest.raises(GenopactError, match="POLICY_INVALID"):
        load(tmp_path, "[]")


@pytest.mark.parametrize(("model", "name"), [(Study, "study"), (SitePolicy, "site-policy")])
def test_the_schemas_beside_the_files_are_those_of_the_code(model: type[BaseModel], name: str) -> None:
    assert schema(model) == (SCHEMAS / f"{name}.json").read_text("utf-8")
