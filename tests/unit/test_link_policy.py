"""Accounts, the site registry and what they let the SuperLink do."""

import threading
from pathlib import Path

import pytest
from flwr.common.constant import ACCESS_TOKEN_KEY, SUPERLINK_NODE_ID
from flwr.supercore.constant import ActionType
from flwr.supercore.error import FlowerError
from flwr.supercore.typing import ActionContext

from genopact_server.link.accounts import Accounts, Membership
from genopact_server.link.host import HostConfig
from genopact_server.link.policy import SignIn, Studies
from genopact_shared.errors import GenopactError

ONE, OTHER = "1" * 64, "2" * 64


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return Accounts(tmp_path / "accounts.json")


@pytest.fixture
def membership(tmp_path: Path) -> Membership:
    registry = Membership(tmp_path / "members.json")
    for number, name in enumerate(("alpha", "beta", "gamma"), start=11):
        registry.add_site(name, f"key of {name}".encode(), number)
    registry.set_study(ONE, ["beta", "alpha"])
    return registry


def test_an_account_is_known_by_its_token_alone(accounts: Accounts) -> None:
    assert accounts.of_token("") is None
    tokens = {name: accounts.add(name, "operator" if name == "anna" else "observer") for name in ("anna", "bert")}
    assert {name: getattr(accounts.of_token(token), "name", "") for name, token in tokens.items()} == {
        "anna": "anna",
        "bert": "bert",
    }
    assert accounts.of_token(tokens["anna"][:-1]) is None
    assert accounts.of_token("\ud800") is None
    assert (accounts.is_operator("anna"), accounts.is_operator("bert"), accounts.is_operator("")) == (
        True,
        False,
        False,
    )
    with pytest.raises(GenopactError, match="ACCOUNT_INVALID"):
        accounts.add("anna", "operator")
    with pytest.raises(GenopactError, match="ACCOUNT_INVALID"):
        accounts.add("../x", "operator")
    accounts.remove("anna")
    assert accounts.of_token(tokens["anna"]) is None
    with pytest.raises(GenopactError, match="ACCOUNT_INVALID"):
        accounts.remove("anna")


def test_a_malformed_accounts_file_lets_nobody_in(accounts: Accounts, tmp_path: Path) -> None:
    token = accounts.add("anna", "operator")
    path = tmp_path / "accounts.json"
    for text in (
        "",
        "{}",
        path.read_text().replace('"operator"', '"root"'),
        path.read_text().replace("1,", '1, "x": 1,'),
    ):
        path.write_text(text)
        with pytest.raises(GenopactError, match="ACCOUNT_INVALID"):
            accounts.of_token(token)


def test_sign_in_wants_a_known_token(accounts: Accounts) -> None:
    token = accounts.add("anna", "operator")
    sign_in = SignIn(accounts)
    valid, account = sign_in.validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, token)])
    assert valid
    assert account is not None
    assert account.flwr_aid == "anna"
    for metadata in ([], [(ACCESS_TOKEN_KEY, "")], [(ACCESS_TOKEN_KEY, "x")], [("authorization", token)]):
        assert sign_in.validate_tokens_in_metadata(metadata) == (False, None)
    assert sign_in.refresh_tokens([(ACCESS_TOKEN_KEY, token)]) == (None, None)


def test_a_study_sees_its_members_and_nobody_else(accounts: Accounts, membership: Membership) -> None:
    accounts.add("anna", "operator")
    accounts.add("bert", "observer")
    studies = Studies(accounts, membership)
    assert [studies.has_node(number, ONE) for number in (11, 12, 13)] == [True, True, False]
    assert not any(studies.has_node(number, OTHER) for number in (11, 12, 13))
    assert studies.filter_nodes({SUPERLINK_NODE_ID, 11, 13, 14}, ONE) == {SUPERLINK_NODE_ID, 11}
    assert studies.filter_nodes({11, 12}, OTHER) == set()
    assert [studies.exists(study) for study in (ONE, OTHER, "", "@none/default")] == [True, False, False, False]
    assert [studies.has_member(name, ONE) for name in ("anna", "bert", "", "<id:none>")] == [True, False, False, False]
    assert not studies.has_member("anna", OTHER)
    for action in ActionType:
        studies.can_execute("anna", action, ActionContext())
        with pytest.raises(FlowerError):
            studies.can_execute("bert", action, ActionContext())


def test_the_registry_binds_name_key_and_number_and_another_process_sees_changes(
    membership: Membership, tmp_path: Path
) -> None:
    other = Membership(tmp_path / "members.json")
    assert other.nodes(ONE) == {"alpha": 11, "beta": 12}
    membership.add_site("alpha", b"key of alpha", 11)
    for name, key, number in (
        ("alpha", b"new", 14),
        ("delta", b"key of alpha", 14),
        ("delta", b"new", 11),
        ("x/y", b"n", 9),
    ):
        with pytest.raises(GenopactError, match="MEMBERSHIP_INVALID"):
            membership.add_site(name, key, number)
    membership.set_study(ONE, ["gamma"])
    assert other.nodes(ONE) == {"gamma": 13}
    for study, sites in ((ONE, ["nobody"]), ("short", ["alpha"])):
        with pytest.raises(GenopactError, match="MEMBERSHIP_INVALID"):
            membership.set_study(study, sites)
    assert other.public_keys() == {b"key of alpha", b"key of beta", b"key of gamma"}


def test_a_malformed_registry_is_an_error_not_an_empty_one(membership: Membership, tmp_path: Path) -> None:
    (tmp_path / "members.json").write_text("{}x")
    with pytest.raises(GenopactError, match="MEMBERSHIP_INVALID"):
        membership.nodes(ONE)


def test_host_and_executor_that_start_together_agree_on_the_secret(tmp_path: Path) -> None:
    config = HostConfig(tmp_path / "state", tmp_path, tmp_path)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(config.secret)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {len(secret) for secret in found} == {32}
    assert len(set(found)) == 1
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["runtime.secret"]
    (tmp_path / "state" / "runtime.secret").chmod(0o644)
    with pytest.raises(GenopactError, match="KEY_EXPOSED"):
        _ = config.secret
