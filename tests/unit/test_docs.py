"""What the pages say exists: generated pages are fresh, commands, files and numbers are the code's."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main

from genopact_client.agent.exchange import MAX_CLOCK_S
from genopact_client.agent.process import GRACE_S
from genopact_client.cli import app as site
from genopact_client.link.node import QUICK, SLOW
from genopact_server.cli import app as coordinator
from genopact_shared import channel, wire
from genopact_shared.errors import CATALOGUE
from genopact_shared.study import MAX_STUDY_BYTES
from genopact_shared.tlog.log import MAX_ENTRY_BYTES
from tests.generate import ERRORS, ROOT, generated

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "docs/decisions").glob("*.md"))]  # fmt: skip
PROGRAMS = {"genopact": typer.main.get_command(coordinator), "genopact-site": typer.main.get_command(site)}
FOLDERS = ("docs/", "tests/", "client/", "server/", "shared/", "deploy/", "policies/")
PROSE = ("release", "and", "or", "to", "lists", "says", "does")
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
pages = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def spans(text: str) -> Iterator[str]:
    """Lines of fenced blocks, and inline code outside them."""
    for block in FENCE.findall(text):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def fault_of(line: str) -> str:
    """What of a command line does not exist; empty if all does."""
    program, *words = line.split()
    found: click.Command = PROGRAMS[program]
    while isinstance(found, click.Group):
        if not words:
            return ""
        name = words.pop(0)
        if name not in found.commands:
            return f"{line}: no command {name}"
        found = found.commands[name]
    known = {option for parameter in found.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"{line}: no option {unknown}" if unknown else ""


def test_generated_pages_are_fresh() -> None:
    stale = [str(path) for path, text in generated().items() if not path.exists() or path.read_text("utf-8") != text]
    assert stale == [], "run: python -m tests.generate"
    assert set(ERRORS.glob("*.md")) <= set(generated())


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_code_says_what_happened_and_what_to_do(code: str) -> None:
    fault = CATALOGUE[code]
    for sentence in (fault.cause, fault.remedy):
        assert len(sentence) > 10
        assert sentence.endswith((".", "!"))
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+", code)
    assert fault.cause != fault.remedy


@pages
def test_commands_exist(path: Path) -> None:
    lines = [line for line in spans(path.read_text("utf-8")) if line.split()[:1] and line.split()[0] in PROGRAMS]
    faults = [fault for line in lines if (fault := fault_of(line.replace(" \\", "").split(" > ")[0]))]
    assert faults == []


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_commands_in_remedies_exist(code: str) -> None:
    """In running text a command is a program's name with the words that follow; prose goes on after it."""
    text = CATALOGUE[code].remedy
    for program, first, second in re.findall(r"\b(genopact(?:-site)?) ([a-z]+)(?: ([a-z]+))?", text):
        group = PROGRAMS[program]
        assert isinstance(group, click.Group)
        assert first in {*group.commands, *PROSE}, text
        found = group.commands.get(first)
        if isinstance(found, click.Group) and second:
            assert second in {*found.commands, *PROSE}, text


@pages
def test_files_and_links_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    for span in re.findall(r"`([^`\s]+)`", FENCE.sub("", text)):
        if span.startswith(FOLDERS):
            assert (ROOT / span).exists(), span


@pages
def test_no_page_names_a_machine(path: Path) -> None:
    assert not re.search(r"(?<![\w.-])/(work|tmp|root)/", path.read_text("utf-8"))


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {span.split()[1] for path in PAGES for span in spans(path.read_text("utf-8")) if span.startswith("make ")}
    assert named <= targets


def test_two_commands_set_it_up() -> None:
    first = FENCE.findall((ROOT / "README.md").read_text("utf-8"))[0]
    assert first.split("\n") == ["make demo", "make test", ""]


@pytest.mark.parametrize("kind", [wire.Request, wire.Reply])
def test_the_wire_page_names_every_field(kind: type[wire.Message]) -> None:
    text = (ROOT / "docs/wire.md").read_text("utf-8")
    for name, field in kind.model_fields.items():
        assert f"`{field.alias or name}`" in text, name
    assert wire.TYPES[kind] in text
    assert str(kind.model_fields["schema_"].default) in text


def test_the_wire_page_has_the_limits() -> None:
    text = (ROOT / "docs/wire.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| ([a-z ,]+) \| ([^|]+) \|$", text, re.MULTILINE))
    assert rows["envelope"] == f"{wire.MAX_ENVELOPE >> 20} MiB"
    assert rows["body"] == f"{wire.MAX_BODY >> 20} MiB"
    assert rows["whole frame in transport"] == f"{channel.LIMIT >> 20} MiB"
    assert rows["log entry"].replace(" ", "") == f"{MAX_ENTRY_BYTES}bytes"
    assert rows["study file"] == f"{MAX_STUDY_BYTES >> 20} MiB"
    assert f"at most {MAX_CLOCK_S // 86_400} days ahead" in rows["expiry"]
    assert f"pieces of at most {channel.CHUNK >> 20} MiB" in text
    assert f"up to {channel.PIECE >> 20} MiB" in text
    assert channel.EXCHANGE in text


def test_other_numbers_are_the_codes() -> None:
    assert f"every {QUICK} to {SLOW:.0f} seconds" in (ROOT / "docs/network.md").read_text("utf-8")
    unit = (ROOT / "deploy/systemd/genopact-agent.service").read_text("utf-8")
    assert int(re.findall(r"^TimeoutStopSec=(\d+)", unit, re.MULTILINE)[0]) > GRACE_S


def test_a_missing_command_is_seen() -> None:
    assert fault_of("genopact-site fly --high") != ""
    assert fault_of("genopact study run study.yaml --faster") != ""
    assert fault_of("genopact study run study.yaml --home hub") == ""
