"""The hospital's command line on real files: what it does, and that bad input changes nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
from typer.testing import CliRunner

from genopact_client.cli import app
from genopact_client.site import Site
from genopact_server.rounds import Run
from genopact_server.sitelogs import unpack
from genopact_shared import canonical, statements
from genopact_shared.approval import check_approval
from genopact_shared.keys import SigningKey, VerifyKey
from genopact_shared.study import load_study
from genopact_shared.tlog.note import open_checkpoint
from tests.integration import front_desk
from tests.integration.front_desk import PASSPHRASE, PEOPLE, Desk, permitting
from tests.integration.hospital import Consortium


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return front_desk.ready(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def desk(template: Desk, tmp_path: Path) -> Desk:
    return template.copied(tmp_path / "d")


@contextmanager
def agent_at_work(desk: Desk) -> Iterator[Site]:
    """Another process's locks: descriptors of their own, so that this process is refused, too."""
    site = Site.open(desk.home, PASSPHRASE.encode())
    rooms = (site.store, site.ledger, site.log, site.private_log)
    try:
        yield site
    finally:
        for room in rooms:
            room.close()


def contents(home: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file() and path.suffix != ".lock"
    }


def commands() -> list[tuple[str, click.Command]]:
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group)
    found: list[tuple[str, click.Command]] = []
    for name, command in root.commands.items():
        inner = command.commands.items() if isinstance(command, click.Group) else [("", command)]
        found += [(f"{name} {sub}".strip(), each) for sub, each in inner]
    return found


# --- every command


def test_the_command_line_is_complete() -> None:
    assert {name for name, _ in commands()} == {
        "init", "card", "vet", "import", "consent import", "consent withdraw", "consent erase", "consent status",
        "study check", "approve", "agent", "link", "start", "doctor", "outbox list", "outbox show", "ledger show",
        "log show", "log export", "open", "pharmacogenes", "design",
        "genotypes list", "genotypes verify", "genotypes export", "genotypes quality", "matrix import", "predict",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_command_explains_itself_with_an_example_of_itself(name: str, command: click.Command) -> None:
    shown = " ".join(CliRunner().invoke(app, [*name.split(), "--help"]).stdout.replace("│", " ").split())
    assert f"Example: genopact-site {name}" in shown
    assert command.help


def told() -> list[list[str]]:
    """Every `genopact-site` command of docs and deployment files, in words."""
    root = Path(__file__).parents[2]
    files = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("deploy/**/*")]
    texts = [path.read_text("utf-8").replace("\\\n", " ") for path in files if path.is_file()]
    lines = [
        line for text in texts for line in re.findall(r"^[ $A-Za-z=/]*genopact-site ([a-z].*)$", text, re.MULTILINE)
    ]
    return [line.partition(" #")[0].split() for line in lines]


def test_docs_and_units_use_commands_and_options_that_exist() -> None:
    known = {name: {opt for each in command.params for opt in each.opts} for name, command in commands()}
    assert len(told()) > 5
    for words in told():
        name = next((each for each in (" ".join(words[:2]), words[0]) if each in known), None)
        assert name, words
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known[name] | {"--help"}, words


# --- init


def test_init_makes_a_closed_site(tmp_path: Path) -> None:
    desk = front_desk.empty(tmp_path)
    done = desk("init", "site-a", "--kind", "synthetic")
    assert done.exit == 0, done.printed
    assert desk.home.stat().st_mode & 0o777 == 0o710
    exposed = [path for path in desk.home.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert exposed == []
    approver = SigningKey.load(tmp_path / "site-a.approver.key")
    assert done.data["card"]["approver"] == approver.public.hex
    assert set(done.data["card"]) == {"name", "identity", "log", "approver", "node"}
    assert approver.seed().hex() not in done.printed
    assert not any(approver.seed() in data for data in contents(desk.home).values())
    with agent_at_work(desk) as site:
        assert site.store.manifest()["kind"] == "synthetic"
        assert {**site.card(), "approver": approver.public.hex} == {
            key: value for key, value in done.data["card"].items() if key != "node"
        }


def test_the_card_is_printed_again(desk: Desk) -> None:
    assert desk("card", keys=False).data["card"] == json.loads((desk.home / "party.json").read_text())
    plain = CliRunner().invoke(app, ["card", "--home", str(desk.home)])
    assert canonical.decode(plain.stdout.strip().encode())["name"] == "site-a"
    prints = CliRunner().invoke(app, ["card", "--home", str(desk.home), "--fingerprints"]).stdout
    identity = VerifyKey.from_hex(json.loads((desk.home / "party.json").read_text())["identity"])
    assert identity.key_id in prints
    assert identity.hex not in prints


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["Site A"], "USAGE"), (["x" * 41], "USAGE"), (["../up"], "USAGE"),
        (["site-a", "--recipe", "none"], "RECIPE_UNKNOWN"),
    ],
)  # fmt: skip
def test_init_refuses_and_makes_nothing(words: list[str], code: str, tmp_path: Path) -> None:
    desk = front_desk.empty(tmp_path)
    before = contents(tmp_path)
    done = desk("init", *words)
    assert (done.exit, done.code) == (2, code)
    assert contents(tmp_path) == before


def test_init_overwrites_neither_a_site_nor_a_key(desk: Desk) -> None:
    before = contents(desk.folder)
    assert desk("init", "site-a").code == "KEY_EXISTS"
    assert desk("init", "site-a", "--approver-key", desk.folder / "other.key").code == "SITE_EXISTS"
    assert contents(desk.folder) == before


# --- the passphrase


def test_the_passphrase_comes_from_a_credential(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = desk.folder / "credentials"
    credentials.mkdir()
    (credentials / "passphrase").write_text(PASSPHRASE + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert desk("doctor", keys=False).exit == 0


def test_without_file_credential_and_terminal_nobody_is_asked(desk: Desk) -> None:
    done = desk("doctor", keys=False)
    assert (done.exit, done.code) == (2, "PASSPHRASE_MISSING")


def test_an_exposed_or_wrong_passphrase_is_refused(desk: Desk) -> None:
    (desk.folder / "passphrase").chmod(0o644)
    assert desk("doctor").code == "KEY_EXPOSED"
    (desk.folder / "passphrase").chmod(0o600)
    (desk.folder / "passphrase").write_text("another")
    assert desk("doctor").code == "KEK_WRONG"


def test_a_folder_without_a_site_is_named(tmp_path: Path) -> None:
    for words in (["doctor"], ["card"], ["outbox", "list"], ["ledger", "show"]):
        done = Desk(tmp_path)(*words, keys=words[0] in ("doctor", "ledger"))
        assert (done.exit, done.code) == (2, "SITE_MISSING")


# --- import


def test_import_reports_what_the_files_hold(desk: Desk) -> None:
    table = desk.files / "covariates.csv"
    done = desk("import", "--table", table, "--vcf", desk.files / "genotypes.vcf.gz", "--build", "GRCh38")
    assert done.exit == 0, done.printed
    rows = desk.rows("covariates.csv")
    assert (done.data["people"], done.data["new"], done.data["generation"]) == (PEOPLE, 0, 2)
    known = sum(row["height_cm"] != "" for row in rows)
    assert done.data["observed"]["height_cm"] == known
    assert f"height_cm: {known} known" in done.printed


def test_a_dry_run_changes_nothing(desk: Desk) -> None:
    before = contents(desk.home)
    done = desk("import", "--table", desk.files / "covariates.csv", "--dry-run")
    assert (done.exit, done.data["generation"]) == (0, None)
    assert contents(desk.home) == before


def _negative_dose(rows: list[dict[str, str]]) -> None:
    rows[4]["weekly_dose_mg"] = "-3"


def _other_column(rows: list[dict[str, str]]) -> None:
    for row in rows:
        row["blood_type"] = "A"


def _no_outcome(rows: list[dict[str, str]]) -> None:
    for row in rows:
        del row["weekly_dose_mg"]


def _twice(rows: list[dict[str, str]]) -> None:
    rows[7]["person"] = rows[6]["person"]


@pytest.mark.parametrize(
    ("spoil", "code", "place"),
    [
        (_negative_dose, "VALUE_RANGE", {"row": 6, "column": "weekly_dose_mg"}),
        (_other_column, "COLUMN_UNKNOWN", {"row": 1}),
        (_no_outcome, "COLUMN_MISSING", {"row": 1, "column": "weekly_dose_mg"}),
        (_twice, "PERSON_TWICE", {"row": 9, "column": "person"}),
    ],
)
def test_a_bad_table_is_refused_whole_by_place_and_not_by_person(
    spoil: Callable[[list[dict[str, str]]], None], code: str, place: dict[str, Any], desk: Desk
) -> None:
    rows = desk.rows("covariates.csv")
    people = [row["person"] for row in rows]
    spoil(rows)
    before = contents(desk.home)
    done = desk("import", "--table", desk.rewrite("covariates.csv", rows))
    assert (done.exit, done.code) == (2, "IMPORT_REFUSED")
    first = done.data["findings"][0]
    assert first["code"] == code
    assert place.items() <= first.items()
    assert not any(person in done.printed for person in people)
    assert contents(desk.home) == before


def test_import_waits_for_nobody_and_loses_nothing(desk: Desk) -> None:
    before = contents(desk.home / "store")
    with agent_at_work(desk):
        done = desk("import", "--table", desk.files / "covariates.csv")
    assert (done.exit, done.code) == (3, "STORE_LOCKED")
    assert contents(desk.home / "store") == before


def test_import_without_a_table_is_a_usage_error(desk: Desk) -> None:
    missing = desk("import", "--table", desk.files / "none.csv")
    assert (missing.exit, missing.data["findings"][0]["code"]) == (2, "CSV_UNREADABLE")
    assert desk("import").exit == 2


# --- consent


def test_status_counts_what_the_file_says(desk: Desk) -> None:
    done = desk("consent", "status", "--study", desk.study())
    counts = done.data["studies"]["warfarin"]
    assert counts["enrolled"] == PEOPLE
    assert counts["permitted"] == len(permitting(desk.rows("consent.csv"))) == counts["reasons"]["permitted"]


def test_status_without_a_study_takes_the_approved_ones(desk: Desk) -> None:
    assert desk("consent", "status").code == "USAGE"
    assert desk.approve().exit == 0
    assert list(desk("consent", "status").data["studies"]) == ["warfarin"]


@pytest.mark.parametrize("words", [("withdraw",), ("withdraw", "--scope", "erase", "--yes"), ("erase", "--yes")])
def test_who_withdraws_is_gone_at_once_also_beside_an_agent(words: tuple[str, ...], desk: Desk) -> None:
    study, people = desk.study(), permitting(desk.rows("consent.csv"))
    with agent_at_work(desk):
        done = desk("consent", *words, "-", typed=people[0] + "\n")
        assert done.exit == 0, done.printed
        assert people[0] not in done.printed
        after = desk("consent", "status", "--study", study).data["studies"]["warfarin"]
    assert after["permitted"] == len(people) - 1


def test_an_erased_person_does_not_come_back_with_the_next_files(desk: Desk) -> None:
    person = permitting(desk.rows("consent.csv"))[0]
    assert desk("consent", "erase", "--yes", person).exit == 0
    assert desk("import", "--table", desk.files / "covariates.csv").data["erased"] == 1
    again = desk("consent", "import", desk.files / "consent.csv")
    assert [each["code"] for each in again.data["findings"]] == ["erased_person"]
    assert desk("consent", "erase", "--yes", person).exit == 0


def test_consent_of_strangers_and_without_a_file(desk: Desk) -> None:
    before = (desk.home / "consent.db").read_bytes()
    missing = desk("consent", "import", desk.folder / "none.csv")
    assert (missing.exit, missing.code) == (2, "CONSENT_FILE_MISSING")
    assert desk("consent", "withdraw", "4711").code == "CONSENT_UNKNOWN_PERSON"
    assert desk("consent", "erase", "--yes", "-", typed="\n").code == "CONSENT_UNKNOWN_PERSON"
    header = desk.files / "consent.csv"
    header.write_text("person,answer\nsite-a-00001,yes\n")
    assert desk("consent", "import", header).code == "CONSENT_FILE_INVALID"
    assert (desk.home / "consent.db").read_bytes() == before


# --- studies


def test_the_sheet_says_cost_verdict_and_what_leaves(desk: Desk) -> None:
    done = desk("study", "check", desk.study(), keys=False)
    assert done.exit == 0, done.printed
    assert (done.data["verdict"], done.data["epsilon_milli"]) == ("permit", 1000)
    assert "genopact-site approve" in done.data["next"]
    for words in ("epsilon", "leaves", "never", "permits it", "weekly_dose_mg", "site-b, site-c"):
        assert words in done.printed


def test_a_study_that_the_policy_denies_ends_with_1(desk: Desk) -> None:
    desk.policy(epsilon=999)
    done = desk("study", "check", desk.study(), keys=False)
    assert (done.exit, done.data["verdict"], list(done.data["reasons"])) == (1, "deny", ["epsilon"])
    assert "limit" in done.printed


def test_the_first_policy_denies_everything(tmp_path: Path) -> None:
    desk = front_desk.empty(tmp_path)
    assert desk("init", "site-a").exit == 0
    assert desk("study", "check", desk.study(), keys=False).exit == 1


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "STUDY_UNREADABLE"),
        ("{", "STUDY_UNREADABLE"),
        ("a: 1\na: 2", "STUDY_UNREADABLE"),
        ("a: 1", "STUDY_INVALID"),
    ],
)
def test_a_bad_study_file_is_named(text: str | None, code: str, desk: Desk) -> None:
    path = desk.folder / "bad.yaml"
    if text:
        path.write_text(text)
    for words in (("study", "check", path), ("approve", path, "--approver-key", path, "--yes")):
        done = desk(*words, keys=words[0] == "approve")
        assert (done.exit, done.code) == (2, code)


@pytest.mark.parametrize("use", ["name", "identity", "log", "approver"])
def test_a_study_with_other_keys_is_not_this_sites(use: str, desk: Desk) -> None:
    party = {key: value for key, value in json.loads((desk.home / "party.json").read_text()).items() if key != "node"}
    party[use] = "site-x" if use == "name" else SigningKey.generate().public.hex
    done = desk.approve(parties=[party], schedule={"quorum": 1}, privacy={"mode": "local", "epsilon_milli": 900})
    assert (done.exit, done.code) == (1, "STUDY_NOT_A_PARTY")
    assert list((desk.home / "studies").iterdir()) == []


# --- approve


def test_an_approval_is_the_approvers_word_in_tens(desk: Desk) -> None:
    done = desk.approve()
    assert done.exit == 0, done.printed
    count = len(permitting(desk.rows("consent.csv")))
    study = load_study(desk.folder / "study.yaml")
    approval = check_approval((desk.folder / "approval-warfarin-site-a.json").read_bytes(), study)
    assert (approval.planned_cohort, done.data["planned_cohort"]) == (count // 10 * 10, count // 10 * 10)
    assert count % 10, "the fixture must tell rounding from counting"
    with agent_at_work(desk) as site:
        assert approval.policy == site.policy.digest
        assert site.studies.approved(study.hash).approval == approval


def test_a_site_can_approve_while_its_agent_works(desk: Desk) -> None:
    with agent_at_work(desk):
        assert desk.approve().exit == 0


def test_the_planned_cohort_is_what_was_asked_for_but_never_exact(desk: Desk) -> None:
    assert desk.approve("--planned-cohort", "90").data["planned_cohort"] == 90
    assert desk.approve("--planned-cohort", "93").code == "USAGE"


def _small(desk: Desk) -> dict[str, Any]:
    return {"minimum_cohort": len(permitting(desk.rows("consent.csv"))) + 1}


def _expired(_: Desk) -> dict[str, Any]:
    return {"expires": "2020-01-01"}


def _dear(_: Desk) -> dict[str, Any]:
    return {"privacy": {"mode": "distributed", "epsilon_milli": 5001, "honest_minimum": 2}}


@pytest.mark.parametrize(
    ("changes", "code"), [(_small, "COHORT_TOO_SMALL"), (_expired, "STUDY_EXPIRED"), (_dear, "POLICY_REFUSED")]
)
def test_what_may_not_be_approved_is_not(changes: Callable[[Desk], dict[str, Any]], code: str, desk: Desk) -> None:
    done = desk.approve(**changes(desk))
    assert (done.exit, done.code) == (1, code)
    assert list((desk.home / "studies").iterdir()) == []
    assert not list(desk.folder.glob("approval-*"))


def test_the_sites_own_minimum_counts_too(desk: Desk) -> None:
    text = (desk.home / "policy.yaml").read_text().replace("minimum_cohort: 20", "minimum_cohort: 121", 1)
    (desk.home / "policy.yaml").write_text(text.replace("minimum_cohort: 50", "minimum_cohort: 130"))
    done = desk.approve(minimum_cohort=121)
    assert (done.code, "121 are needed" in done.printed) == ("COHORT_TOO_SMALL", True)


def test_people_without_data_are_not_counted(desk: Desk) -> None:
    """Consent without a record in the store is no patient."""
    with agent_at_work(desk) as site:
        for row in range(60):
            site.store.erase(row)
    assert desk.approve(minimum_cohort=61).code == "COHORT_TOO_SMALL"


def test_only_the_approver_approves(desk: Desk) -> None:
    other = desk.folder / "other.key"
    SigningKey.generate().save(other)
    done = desk("approve", desk.study(), "--approver-key", other, "--yes", "--out", desk.folder)
    assert (done.exit, done.code) == (1, "SIGNATURE_INVALID")
    assert list((desk.home / "studies").iterdir()) == []
    unasked = desk("approve", desk.study(), "--approver-key", desk.folder / "site-a.approver.key")
    assert (unasked.exit, unasked.code) == (2, "USAGE")
    assert list((desk.home / "studies").iterdir()) == []


# --- records, after a real run


@pytest.fixture
def after_run(consortium: Callable[..., Consortium], tmp_path: Path) -> tuple[Desk, str]:
    one = consortium()
    run = Run.start(one.folder, one.study, one.courier)
    run.go()
    hospital = one.hospitals["site-a"]
    public = {**hospital.party, "node": "-"}
    (hospital.site.home / "party.json").write_bytes(canonical.encode(public))
    desk = Desk(hospital.site.home.parent)
    (desk.folder / "passphrase").write_text(PASSPHRASE)
    (desk.folder / "passphrase").chmod(0o600)
    return desk, run.state.run


def test_everything_that_left_can_be_listed_and_shown(after_run: tuple[Desk, str]) -> None:
    desk, run = after_run
    replies = desk("outbox", "list", keys=False).data["replies"]
    frames = {path.stem: path.stat().st_size for path in (desk.home / "outbox").glob("*.frame")}
    assert {each["request"]: each["bytes"] for each in replies} == frames
    assert [each["op"] for each in replies] == ["open", "deal", "join", *["step", "unmask"] * 5, "finish"]
    assert {each["run"] for each in replies} == {run}
    shown = desk("outbox", "show", replies[3]["request"], keys=False).data
    assert shown["intent"]["mechanism"]["kind"] == "noised-sum"
    assert desk("outbox", "show", "", keys=False).code == "USAGE"


def test_a_changed_outbox_is_noticed(after_run: tuple[Desk, str]) -> None:
    desk, _ = after_run
    path = next((desk.home / "outbox").glob("*.frame"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert desk("outbox", "list", keys=False).exit == 1


def test_the_ledger_is_shown_coarsely_while_the_agent_holds_it(after_run: tuple[Desk, str]) -> None:
    desk, _ = after_run
    done = desk("ledger", "show")
    assert done.exit == 0, done.printed
    assert 0.6 <= float(done.data["epsilon"]) <= 0.8  # at the delta of the site, which is above the study's
    assert done.data["unsettled"] == 0
    level = done.data["levels"][0]
    assert level["patients"] == "about 120"
    assert sum(fact["times"] for fact in level["facts"]) == 5


def test_logs_are_shown_and_exported_as_a_bundle_holds_them(after_run: tuple[Desk, str]) -> None:
    desk, run = after_run
    entries = desk("log", "show").data["entries"]
    assert [each["kind"] for each in entries] == ["approval", *["intent", "receipt"] * 5]
    assert {each.get("run", run) for each in entries} == {run}
    assert desk("log", "show", "--private").data["entries"] == []
    done = desk("log", "export", desk.folder / "out")
    assert done.data["entries"] == len(entries) == len(unpack((desk.folder / "out" / "entries").read_bytes()))
    public = VerifyKey.from_hex(json.loads((desk.home / "party.json").read_text())["log"])
    checkpoint = (desk.folder / "out" / "checkpoint").read_bytes()
    assert open_checkpoint(checkpoint, "genopact/site-a", public).size == len(entries)


def test_a_decision_is_opened_for_one_person(after_run: tuple[Desk, str]) -> None:
    desk, run = after_run
    here = desk("open", run, "0", "0", "--person", "site-a-3")
    assert (here.exit, here.data["permitted"]) == (0, True)
    assert desk("consent", "withdraw", "site-a-3").exit == 0
    assert desk("open", run, "0", "0", "--person", "-", typed="site-a-3").data["permitted"], "the past does not change"
    assert desk("open", run, "0", "0", "--person", "nobody").code == "CONSENT_UNKNOWN_PERSON"
    for missing in ((run, "9", "0"), ("f" * 32, "0", "0")):
        done = desk("open", *missing, "--person", "site-a-3")
        assert (done.exit, done.code) == (2, "OPENING_MISSING")


def test_an_opening_that_was_changed_proves_nothing(after_run: tuple[Desk, str]) -> None:
    desk, run = after_run
    path = desk.home / "openings" / f"{run}-0000-00.json"
    opening = json.loads(path.read_text())
    opening["bitmap"] = "00" * (len(opening["bitmap"]) // 2)
    path.write_text(json.dumps(opening))
    done = desk("open", run, "0", "0", "--person", "site-a-3")
    assert (done.exit, done.code) == (1, "SIGNATURE_INVALID")


def test_the_log_can_be_read_while_it_grows(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry and a checkpoint between the copies of the two files must not look like a broken log."""
    copyfile = shutil.copyfile
    with agent_at_work(desk) as site:

        def meanwhile(source: Path, target: Path) -> None:
            copyfile(source, target)
            root = statements.RegistryRoot(at=1, site="site-a", root=os.urandom(32).hex())
            site.log.append(statements.sign(root, site.identity))
            site.log.checkpoint()

        monkeypatch.setattr(shutil, "copyfile", meanwhile)
        for _ in range(3):
            assert desk("log", "show").exit == 0
        assert site.log.size == 6


# --- what is installed


def test_vet_names_every_file_and_dependency() -> None:
    done = CliRunner().invoke(app, ["vet", "--format", "json"])
    data = json.loads(done.stdout)["data"]
    paths = {each["path"] for each in data["files"]}
    assert {"genopact_client/site.py", "genopact_shared/errors.toml", "genopact_client/site_policy.yaml"} <= paths
    assert not any("genopact_server" in path for path in paths)
    assert data["lines"] == sum(each["lines"] for each in data["files"])
    assert {"cryptography", "flwr", "torch"} <= set(data["dependencies"])


def test_two_distributions_in_one_environment_are_refused(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("genopact", "genopact_client"):
        folder = tmp_path / "both" / f"{name}-9.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9\n")
    monkeypatch.syspath_prepend(tmp_path / "both")
    for words in (["init", "b"], ["agent"], ["start", "--address", "127.0.0.1:1", "--ca", "ca.pem"]):
        done = desk(*words)
        assert (done.exit, done.code) == (1, "DISTS_MIXED")
    assert desk("link", "--address", "127.0.0.1:1", "--ca", "ca.pem", keys=False).code == "DISTS_MIXED"


def test_neither_command_line_nor_agent_loads_what_it_does_not_need() -> None:
    """Start-up time, and: the process with the data has no courier in it."""
    heavy = ("flwr", "httpx", "requests", "torch", "sklearn", "matplotlib", "opacus", "pysam", "dp_accounting")
    code = "import sys, genopact_client.cli, genopact_client.agent.process"
    code += f"; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
