"""`genopact`: its folder, studies, approvals, reports and audits from the command line, with good and bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from typer.testing import CliRunner

from genopact_server.cli import app
from genopact_server.demo.stage import COORDINATOR, Stage, free_ports
from genopact_server.rounds import Run
from genopact_shared.errors import CATALOGUE, GenopactError
from genopact_shared.study import load_study
from tests.integration.hospital import consortium, hospital, study_of

STUDY = Path(__file__).parents[2] / "policies/studies/warfarin.yaml"


def call(*arguments: object, expect: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--format", "json"])
    assert done.exit_code == expect, done.output
    envelope: dict[str, Any] = json.loads(done.stdout)
    assert envelope["schema"] == "genopact.cli/1"
    assert envelope["status"] == ("ok" if expect == 0 else envelope["status"])
    data: dict[str, Any] = envelope["data"]
    return data


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    call("coordinator", "init", "hub", "--address", "127.0.0.1:20999", "--home", tmp_path / "hub")
    return tmp_path / "hub"


def test_the_root_signs_certificates_and_the_server_key_signs_in_alone(hub: Path) -> None:
    uses = {"ca": {"key_cert_sign", "crl_sign"}, "server": {"digital_signature"}}
    for name, allowed in uses.items():
        certificate = x509.load_pem_x509_certificate((hub / "tls" / f"{name}.pem").read_bytes())
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert {each[1:] for each, on in vars(usage.value).items() if on} == allowed


def cards(tmp_path: Path, *names: str) -> list[Path]:
    paths = []
    for name in names:
        one = hospital(tmp_path / name, name, 30)
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps({"data": {"card": {**one.party, "node": "PEM"}}}))
        one.close()
    return paths


def test_init_makes_keys_that_others_cannot_read_and_a_certificate_for_the_host(hub: Path) -> None:
    assert {path.stat().st_mode & 0o077 for path in (hub / "keys").iterdir()} == {0}
    assert (hub / "operator.token").stat().st_mode & 0o077 == 0
    server = x509.load_pem_x509_certificate((hub / "tls/server.pem").read_bytes())
    root = x509.load_pem_x509_certificate((hub / "tls/ca.pem").read_bytes())
    server.verify_directly_issued_by(root)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert (
        call("coordinator", "init", "hub", "--address", "127.0.0.1:1025", "--home", hub, expect=2)["code"]
        == "COORDINATOR_EXISTS"
    )


@pytest.mark.parametrize("address", ["nowhere", ":80", "host:0", "host:70000", "host:port"])
def test_an_address_is_host_and_port(tmp_path: Path, address: str) -> None:
    data = call("coordinator", "init", "hub", "--address", address, "--home", tmp_path / "hub", expect=3)
    assert data["code"] == "LINK_CONFIG"


def test_compose_makes_a_study_that_check_explains(hub: Path, tmp_path: Path) -> None:
    options = [option for path in cards(tmp_path, "north", "south", "west") for option in ("--card", path)]
    study = tmp_path / "study.yaml"
    composed = call("study", "compose", STUDY, *options, "--out", study, "--home", hub)
    assert call("study", "check", study)["study"] == composed["study"] == load_study(study).hash
    text = CliRunner().invoke(app, ["study", "check", str(study)]).stdout
    for words in (
        "health, medical or biomedical research",
        "mode none" if False else "no noise",
        "moments, metrics",
        "never",
    ):
        assert words in text


INVALID = "STUDY_INVALID"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field": ({"colour": "red"}, INVALID),
    "no noise but a budget": ({"privacy": {"mode": "none", "epsilon_milli": 5}}, INVALID),
    "private without a budget": ({"privacy": {"mode": "distributed", "honest_minimum": 2}}, INVALID),
    "an unknown recipe": ({"recipe": {"name": "oracle", "version": 1}}, "RECIPE_UNKNOWN"),
    "another version": ({"recipe": {"name": "dose", "version": 99}}, "RECIPE_UNKNOWN"),
    "a parameter that does not exist": ({"recipe": {"name": "dose", "version": 1, "parameters": {"a": 1}}}, INVALID),
    "another outcome": ({"outcome": "height_cm"}, INVALID),
    "a float": ({"privacy": {"mode": "local", "epsilon_milli": 1.5}}, INVALID),
    "no such day": ({"expires": "2026-02-30"}, INVALID),
    "a quorum above the sites": ({"schedule": {"quorum": 9}}, INVALID),
    "a delta that protects nothing": ({"privacy": {"mode": "local", "epsilon_milli": 9, "delta": "0.5"}}, INVALID),
    "local with a shared noise": ({"privacy": {"mode": "local", "epsilon_milli": 9, "honest_minimum": 2}}, INVALID),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_study_is_refused_with_a_code_and_a_remedy(hub: Path, tmp_path: Path, what: str) -> None:
    change, code = BAD[what]
    template = tmp_path / "template.yaml"
    template.write_text(yaml.safe_dump(yaml.safe_load(STUDY.read_text()) | change))
    paths = []
    for name in ("s1", "s2", "s3"):
        keys = {use: f"{name[1]}{number}" * 32 for number, use in enumerate(("identity", "log", "approver"))}
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps({"data": {"card": {**keys, "name": name, "node": "PEM"}}}))
    options = [option for path in paths for option in ("--card", path)]
    data = call("study", "compose", template, *options, "--out", tmp_path / "out.yaml", "--home", hub, expect=2)
    assert data["code"] == code
    assert data["remedy"] == CATALOGUE[code].remedy
    assert not (tmp_path / "out.yaml").exists()


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "{", "- 1\n- 2\n", "\x00", "a: !!python/object/apply:os.getcwd []\n"])
def test_an_unreadable_study_is_said_to_be_unreadable(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert call("study", "check", path, expect=2)["code"] in ("STUDY_UNREADABLE", "STUDY_INVALID")
    assert call("study", "check", tmp_path / "none.yaml", expect=2)["code"] == "STUDY_UNREADABLE"


def test_an_approval_is_accepted_for_its_own_study_only(tmp_path: Path) -> None:
    one = consortium(tmp_path)
    other = study_of(one.folder, [each.party for each in one.hospitals.values()], title="Another title")
    paths = {}
    for study in (one.study, other):
        paths[study.title] = tmp_path / f"{study.title}.yaml"
        paths[study.title].write_bytes(study.canonical)
    approval = tmp_path / "approval.json"
    approval.write_bytes(one.hospitals["site-a"].approve(one.study))
    home = ("--home", one.folder.home)
    assert call("study", "accept", paths[one.study.title], approval, *home)["sites"] == {"site-a": 120}
    assert call("study", "accept", paths[other.title], approval, *home, expect=1)["code"] == "APPROVAL_INVALID"
    one.close()


def test_report_and_audit_of_a_finished_run(tmp_path: Path) -> None:
    one = consortium(tmp_path)
    run = Run.start(one.folder, one.study, one.courier)
    run.go()
    one.close()
    one.folder.close()
    home, out = ("--home", one.folder.home), tmp_path / "audit.zip"
    report = Path(call("study", "report", run.state.run, *home)["report"])
    assert report.read_text("utf-8").startswith("<!doctype html>")
    call("audit", "export", run.state.run, out, *home)
    verified = call("audit", "verify", out, "--study", one.study.hash)
    assert verified["verdict"] == "ok"
    assert call("audit", "verify", out, "--study", "0" * 64, expect=1)["verdict"] == "violated"
    shutil.copy(report, tmp_path / "broken.zip")
    assert call("audit", "verify", tmp_path / "broken.zip", expect=2)["verdict"] == "unknown"
    assert call("study", "report", "0" * 32, *home, expect=1)["code"] == "RUN_UNKNOWN"
    assert call("study", "watch", tmp_path / "none.yaml", *home, expect=2)["code"] == "STUDY_UNREADABLE"


def test_a_run_that_cannot_or_need_not_start_says_so_before_it_asks_anybody(tmp_path: Path) -> None:
    one = consortium(tmp_path)
    study, home = tmp_path / "study.yaml", ("--home", one.folder.home)
    study.write_bytes(one.study.canonical)
    (one.folder.home / "studies" / one.study.hash / "approvals" / "site-b.json").unlink()
    refused = call("study", "run", study, *home, expect=1)
    assert (refused["code"], refused["detail"]) == ("APPROVALS_MISSING", "site-b")
    assert call("study", "watch", study, *home, expect=1)["code"] == "RUN_UNKNOWN"
    one.folder.accept(one.study, one.hospitals["site-b"].approve(one.study))
    Run.start(one.folder, one.study, one.courier).go()
    one.close()
    one.folder.close()
    assert call("study", "run", study, *home, expect=1)["code"] == "STUDY_FINISHED"


def test_a_kept_checkpoint_counts_whatever_its_file_is_called(tmp_path: Path) -> None:
    one = consortium(tmp_path)
    run = Run.start(one.folder, one.study, one.courier)
    run.go()
    kept, foreign = tmp_path / "whatever.txt", tmp_path / "foreign"
    kept.write_bytes(one.hospitals["site-a"].site.log.checkpoint())
    foreign.write_bytes(kept.read_bytes().replace(b"genopact/site-a", b"genopact/site-z"))
    one.close()
    one.folder.close()
    call("audit", "export", run.state.run, tmp_path / "audit", "--home", one.folder.home)
    found = call("audit", "verify", tmp_path / "audit", "--saved", kept)
    assert [each["party"] for each in found["findings"] if each["check"] == "history"] == ["site-a"]
    assert call("audit", "verify", tmp_path / "audit", "--saved", foreign, expect=2)["verdict"] == "unknown"
    (tmp_path / "noise").write_bytes(b"no note")
    assert (
        call("audit", "verify", tmp_path / "audit", "--saved", tmp_path / "noise", expect=1)["code"] == "NOTE_INVALID"
    )


def test_the_demo_never_removes_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert call("demo", "--out", tmp_path / "mine", expect=1)["code"] == "DEMO_FOLDER"
    assert (tmp_path / "mine/thesis.txt").exists()


def test_a_stage_says_which_command_failed(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage, pytest.raises(GenopactError, match=r"DEMO_FAILED.*no-such"):
        stage.run(COORDINATOR, "no-such")
    assert free_ports() % 2 == 1
