"""The hardening is in the files, the commands in them exist, and the service manager accepts them."""

import configparser
import ctypes.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
import yaml

from genopact_client.cli import app as site
from genopact_server.cli import app as coordinator

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
AGENT, LINK = DEPLOY / "systemd/genopact-agent.service", DEPLOY / "systemd/genopact-link.service"
EVERYWHERE = {
    "capabilityboundingset": "", "ambientcapabilities": "", "nonewprivileges": "yes", "protectsystem": "strict",
    "protecthome": "yes", "privatetmp": "yes", "privatedevices": "yes", "protectkerneltunables": "yes",
    "protectkernelmodules": "yes", "protectkernellogs": "yes", "protectcontrolgroups": "yes", "protectclock": "yes",
    "protecthostname": "yes", "restrictnamespaces": "yes", "restrictsuidsgid": "yes", "lockpersonality": "yes",
    "restart": "always", "umask": "0077", "limitcore": "0", "systemcallarchitectures": "native",
}  # fmt: skip
ANALYZE = shutil.which("systemd-analyze")
names = [path.stem for path in UNITS]


def service(path: Path) -> dict[str, str]:
    """The last value of each setting, as a mapping with lower-case names; repeated settings are joined by a space."""
    lines: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            lines.setdefault(name.lower(), []).append(value)
    return {name: " ".join(values) for name, values in lines.items()}


def resolve(app: typer.Typer, words: list[str]) -> list[str]:
    """The options of `words` that the command does not have; fails on an unknown command."""
    found: click.Command = typer.main.get_command(app)
    rest = list(words)
    while isinstance(found, click.Group):
        name = rest.pop(0)
        assert name in found.commands, name
        found = found.commands[name]
    known = {option for parameter in found.params for option in parameter.opts}
    return [word for word in rest if word.startswith("--") and word not in known]


@pytest.mark.parametrize("path", UNITS, ids=names)
def test_the_hardening_lines_are_there(path: Path) -> None:
    strict = configparser.ConfigParser(strict=False, interpolation=None)
    strict.read(path)
    assert set(strict.sections()) == {"Unit", "Service", "Install"}
    found = service(path)
    assert {name: found.get(name) for name in EVERYWHERE} == EVERYWHERE
    assert found["systemcallfilter"] == "@system-service ~@privileged @resources"
    assert found["user"] == path.stem


def test_the_agent_has_no_network() -> None:
    found = service(AGENT)
    assert found["privatenetwork"] == "yes"
    assert found["restrictaddressfamilies"] == "AF_UNIX"
    assert found["ipaddressdeny"] == "any"
    assert found["loadcredential"] == "passphrase"
    assert found["statedirectory"] == "genopact"


def test_the_link_sees_the_socket_and_no_data() -> None:
    agent, link = service(AGENT), service(LINK)
    assert link["user"] != agent["user"]
    assert link["supplementarygroups"] == agent["group"]
    assert link["temporaryfilesystem"] == "/var/lib/genopact:ro"
    assert link["bindreadonlypaths"] == "/var/lib/genopact/run"
    assert "group" not in link
    assert "loadcredential" not in link
    assert link["memorydenywriteexecute"] == "yes"
    assert not {"genopact"} & set(link["statedirectory"].split())


@pytest.mark.parametrize("path", UNITS, ids=names)
def test_the_commands_exist(path: Path) -> None:
    program, *words = service(path)["execstart"].split()
    apps = {"genopact-site": site, "genopact": coordinator}
    assert resolve(apps[Path(program).name], words) == []


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return read


@pytest.mark.parametrize("name", ["agent", "link", "coordinator"])
def test_containers_are_hardened(name: str) -> None:
    found = compose()["services"][name]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["tmpfs"]
    assert not found.get("privileged")
    assert resolve(coordinator if name == "coordinator" else site, found["command"]) == []


def test_only_the_coordinator_listens_and_only_the_agent_has_the_data() -> None:
    services = compose()["services"]
    assert services["agent"]["network_mode"] == "none"
    assert [name for name, found in services.items() if "ports" in found] == ["coordinator"]
    assert [name for name, found in services.items() if "secrets" in found] == ["agent"]
    holders = [name for name, found in services.items() if any(v.startswith("data:") for v in found["volumes"])]
    assert holders == ["agent"]
    assert "socket:/srv/socket:ro" in services["link"]["volumes"]
    assert services["agent"]["user"].split(":")[1] == services["link"]["user"].split(":")[1]


def test_the_image_installs_what_a_hospital_vets() -> None:
    text = (DEPLOY / "Containerfile").read_text("utf-8")
    stage = text[text.index("AS site") : text.index("AS coordinator")]
    assert "/wheels/site" in stage
    assert "coordinator" not in stage.lower()
    assert not re.search(r"index-url|trusted-host|https?://", text)


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze")
@pytest.mark.parametrize("path", UNITS, ids=names)
def test_the_service_manager_accepts_the_units(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    # The program is not installed where tests run; everything else of the line is kept.
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", path.read_text("utf-8"), flags=re.MULTILINE))
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    outcome = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", str(copy)], capture_output=True, text=True, env=environment, check=False
    )
    complaints = [line for line in outcome.stderr.splitlines() if path.stem in line]
    assert complaints == []


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze")
@pytest.mark.parametrize(
    ("path", "most"), [(AGENT, 15), (LINK, 30), (DEPLOY / "systemd/genopact-coordinator.service", 30)]
)
def test_exposure_stays_low(path: Path, most: int) -> None:
    """systemd's own score, in tenths: 0 is closed, 100 open."""
    outcome = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", f"--threshold={most}", "--no-pager", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout[-400:] + outcome.stderr


UNIX_ONLY = """
import ctypes, errno, socket, sys
from pathlib import Path

class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]

lib = ctypes.CDLL(sys.argv[2])
lib.seccomp_init.restype, lib.seccomp_init.argtypes = ctypes.c_void_p, [ctypes.c_uint32]
lib.seccomp_load.argtypes = [ctypes.c_void_p]
add = lib.seccomp_rule_add_array
add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Compare)]
rules = lib.seccomp_init(0x7FFF0000)
other = Compare(0, 1, socket.AF_UNIX, 0)
call = lib.seccomp_syscall_resolve_name(b"socket")
assert add(rules, 0x00050000 | errno.EAFNOSUPPORT, call, 1, ctypes.byref(other)) == 0
assert lib.seccomp_load(rules) == 0
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
    except OSError:
        continue
    sys.exit("a socket that is not a unix socket")

from genopact_client.agent.socket import serve
from genopact_client.link.socket import AgentChannel

path = Path(sys.argv[1])
server = serve(path, lambda request: request[::-1], b"")
with AgentChannel(path) as channel:
    assert channel.exchange(b"ab" * 1_000_000, 30.0) == b"ba" * 1_000_000
server.stop(0).wait()
print("answered")
"""


@pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="no libseccomp")
def test_the_agents_socket_needs_no_other_family(tmp_path: Path) -> None:
    """RestrictAddressFamilies=AF_UNIX, put in force by the same kernel filter: the agent still answers."""
    command = [
        sys.executable,
        "-c",
        UNIX_ONLY,
        str(tmp_path / "run/agent.sock"),
        str(ctypes.util.find_library("seccomp")),
    ]
    folders = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": folders}
    outcome = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert outcome.stdout == "answered\n", outcome.stderr[-600:]
