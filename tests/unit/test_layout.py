"""The budgets and boundaries of the code base, enforced."""

import ast
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("server/genopact_server", "client/genopact_client", "ingest/genopact_ingest", "shared/genopact_shared")
CLIENT, INGEST, SHARED = PACKAGES[1:]
MAX_PRODUCT, MAX_HOSPITAL, MAX_INGEST, MAX_MODULE, MAX_FUNCTION = 18_000, 7_000, 3_600, 400, 60


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                match node.body:
                    case [ast.Expr(value=ast.Constant(value=str())) as text, *_]:
                        lines |= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
                    case _:
                        pass
            case _:
                pass
    return lines


def code_lines(path: Path) -> int:
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in skipped and token.type != tokenize.ENCODING:
                lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(ast.parse(path.read_text("utf-8"))))


def test_the_product_stays_small() -> None:
    assert sum(map(code_lines, sources(*PACKAGES))) < MAX_PRODUCT


def test_what_a_hospital_vets_stays_small() -> None:
    hospital = [path for path in sources(CLIENT, SHARED) if "recipes" not in path.parts]
    assert sum(map(code_lines, hospital)) < MAX_HOSPITAL


def test_the_importing_room_stays_small() -> None:
    assert sum(map(code_lines, sources(INGEST))) < MAX_INGEST


def test_tests_are_at_least_as_long_as_the_source() -> None:
    assert sum(map(code_lines, sources("tests"))) >= sum(map(code_lines, sources(*PACKAGES)))


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_short(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or node.lineno) - node.lineno < MAX_FUNCTION, node.name


def test_the_two_sides_never_meet() -> None:
    outcome = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout


def test_the_command_line_loads_no_parser_before_it_imports() -> None:
    """The agent's process begins as the command line does, where both wheels are installed, too."""
    code = (
        "import sys, genopact_client.cli; print(*(name for name in sys.modules if name.startswith('genopact_ingest.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert loaded
    assert all(name.startswith("genopact_ingest.commands") for name in loaded), loaded


def test_the_hospital_depends_on_nothing_the_root_does_not_name() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    client = tomllib.loads((ROOT / "client/pyproject.toml").read_text("utf-8"))["project"]
    assert set(client["dependencies"]) <= set(root["dependencies"])


def test_only_the_kernel_opens_private_values() -> None:
    """The static half of "two doors": `._value` of a Private is read in two modules, and only they name Released."""
    for path in sources(*PACKAGES):
        if path.parent.name == "release":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not (isinstance(node, ast.Attribute) and node.attr == "_value"), path
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Released"), path


def test_the_constraints_pin_what_was_measured() -> None:
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert "torch==2.13.0" in pins
    assert any(pin.startswith("flwr==1.41.") for pin in pins)
    assert not any("/" in pin or "@" in pin for pin in pins)
