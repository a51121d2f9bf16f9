"""Applies each mutant in memory and runs the tests that have to fail with it.

python -m tests.mutations.driver [--json] [--table] [name ...]

One parent imports what is heavy and not of the project, and forks once for each mutant; two children run at a time. In
the child a finder gives the mutated module, compiled from text; no file is changed and no bytecode written. Another
child runs all killing tests without a mutant: they have to pass.
"""

import argparse
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

from tests.mutations.mutants import DECOYS, MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
HEAVY = (
    "numpy", "numba", "scipy.stats", "scipy.integrate", "torch", "opacus.grad_sample", "opacus.validators",
    "dp_accounting.pld.privacy_loss_distribution", "cryptography.hazmat.primitives.asymmetric.x25519",
    "cryptography.hazmat.primitives.ciphers.aead", "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.kdf.argon2", "cryptography.hazmat.primitives.kdf.hkdf", "rfc8785", "sqlite3",
    "pydantic", "pydantic_settings", "structlog", "yaml", "safetensors.numpy", "pytest",
    "_pytest.assertion.rewrite", "pytest_timeout", "hypothesis", "hypothesis.extra.numpy",
)  # fmt: skip
TOGETHER, SECONDS = 2, 60
KILLS = {"AssertionError", "Failed", "GenopactError"}
"""Exceptions by which a test kills: of an assertion, or of the product. A mutant that does not run is no mutant."""


@dataclass(frozen=True)
class Outcome:
    """`verdict`: killed, survived (some killing test passes), broken (of text, or fails otherwise), or clean.

    `seconds`: of CPU.
    """

    name: str
    verdict: str
    seconds: float
    detail: str = ""


def mutated(mutant: Mutant) -> str:
    """The module's text with the mutation. ValueError unless the text to replace occurs once."""
    text = (ROOT / mutant.file).read_text("utf-8")
    if text.count(mutant.old) != 1 or mutant.old == mutant.new:
        raise ValueError(f"{text.count(mutant.old)} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)


class Loader(SourceFileLoader):
    """Compiles a given text in place of the file's."""

    text = ""

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec", dont_inherit=True)


class Finder(MetaPathFinder):
    """Finds one module before anybody else does."""

    def __init__(self, mutant: Mutant) -> None:
        self._path, self._text = ROOT / mutant.file, mutated(mutant)
        self._module = ".".join(Path(mutant.file).with_suffix("").parts[1:])

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        loader = Loader(fullname, str(self._path))
        loader.text = self._text
        return spec_from_file_location(fullname, self._path, loader=loader)


class Reports:
    """A plugin of pytest: test, or one case of it -> what it ended with."""

    def __init__(self) -> None:
        self.ends: dict[str, Counter[str]] = {}

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        ended = "passed" if call.excinfo is None else f"{call.when}: {call.excinfo.typename}"
        if call.when == "call" or call.excinfo is not None:
            for name in {item.nodeid, item.nodeid.split("[")[0]}:
                self.ends.setdefault(name, Counter())[ended] += 1


def judge(mutant: Mutant | None, tests: Sequence[str], ends: dict[str, Counter[str]]) -> tuple[str, str]:
    """Verdict and detail: each of the killing tests fails in one case at least, or without a mutant in none."""
    missing = [test for test in tests if test not in ends]
    fatal = {f"call: {name}" for name in KILLS}
    other = {f"{test}: {end}" for test in tests for end in ends.get(test, ()) if end not in fatal | {"passed"}}
    if missing or other:
        return "broken", "; ".join([*(f"not run: {test}" for test in missing), *sorted(other)])
    failing = [test for test in tests if fatal & ends[test].keys()]
    if mutant is None:
        return ("broken", "; ".join(failing)) if failing else ("clean", f"{len(tests)} tests")
    passing = sorted(set(tests) - set(failing))
    return ("survived", "; ".join(passing)) if passing else ("killed", "")


def child(mutant: Mutant | None, tests: Sequence[str], jit: bool, folder: Path) -> tuple[str, str]:
    """In a process of its own: run the tests, with the mutant if there is one."""
    import numba
    import pytest
    import pytest_timeout  # type: ignore[import-untyped]
    from hypothesis import Phase, settings

    signal.alarm(SECONDS * (5 if mutant is None else 1))
    settings.register_profile("mutant", derandomize=True, database=None, phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutant")
    numba.config.DISABLE_JIT = not jit  # type: ignore[attr-defined]
    if mutant is not None:
        try:
            sys.meta_path.insert(0, Finder(mutant))
        except ValueError as error:
            return "broken", str(error)
    reports = Reports()
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "--timeout=0", f"--basetemp={folder / 'tmp'}"]
    with (folder / "output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        pytest.main([*options, *tests], plugins=[pytest_timeout, reports])
        sys.stdout.flush()
    return judge(mutant, tests, reports.ends)


def jobs(mutants: Sequence[Mutant]) -> Iterator[tuple[str, Mutant | None, Sequence[str], bool]]:
    """Name, mutant, tests, and whether noise is compiled: for mutants of the sampler alone, since it takes a second."""
    for jit in (True, False):
        tests = sorted({test for each in mutants if each.compiled == jit for test in each.killers})
        if tests:
            yield f"no mutant, {'compiled' if jit else 'interpreted'} noise", None, tests, jit
    for mutant in mutants:
        yield mutant.name, mutant, mutant.killers, mutant.compiled


def run(mutants: Sequence[Mutant]) -> Iterator[Outcome]:
    """One outcome for each mutant and clean run, as they end."""
    os.environ.update(OMP_NUM_THREADS="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", MPLBACKEND="agg")
    os.chdir(ROOT)
    for module in HEAVY:
        importlib.import_module(module)
    gc.freeze()  # what the children share, they need not look through
    waiting, running = list(jobs(mutants)), dict[int, tuple[str, Path]]()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as root:
        # The first child compiles for all; a mutated module is never written.
        sys.dont_write_bytecode, sys.pycache_prefix = False, f"{root}/bytecode"
        while waiting or running:
            while waiting and len(running) < TOGETHER:
                name, mutant, tests, jit = waiting.pop(0)
                folder = Path(root) / str(len(waiting))
                folder.mkdir()
                sys.stdout.flush()
                if not (process := os.fork()):
                    _in_child(mutant, tests, jit, folder)
                running[process] = name, folder
            process, status, used = os.wait4(-1, 0)
            name, folder = running.pop(process)
            verdict, detail = "broken", f"ended with status {status}"
            with suppress(FileNotFoundError):
                verdict, detail = json.loads((folder / "verdict").read_text())
            if verdict not in ("killed", "clean") and (folder / "output").exists():
                detail += "\n" + (folder / "output").read_text("utf-8", "replace")[-3000:]
            yield Outcome(name, verdict, round(used.ru_utime + used.ru_stime, 2), detail)


def _in_child(mutant: Mutant | None, tests: Sequence[str], jit: bool, folder: Path) -> None:
    try:
        found = child(mutant, tests, jit, folder)
    except BaseException:  # noqa: BLE001 - nothing may return to the parent's code
        found = "broken", traceback.format_exc()
    (folder / "verdict").write_text(json.dumps(found))
    os._exit(0)


def outcomes() -> list[dict[str, Any]]:
    """What `--json` prints of all mutants, in a process of its own: it forks, so it has to be single-threaded."""
    command = [sys.executable, "-m", "tests.mutations.driver", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    sys.stderr.write(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def table() -> str:
    """docs/mutations.md."""

    def said(test: str) -> str:
        file, name = test.split("::")
        return f"`{file}` {name.removeprefix('test_').replace('_', ' ').replace('[', ': ').rstrip(']')}"

    head = (
        "# Mutations\n\nA line of the privacy path is worth what a test does when it is broken. These are the breaks\n"
        "that CI makes, in memory, and the tests that must fail then: `python -m tests.mutations.driver`. Written by\n"
        "`python -m tests.mutations.driver --table`.\n\n| what is broken | file | tests that fail |\n|---|---|---|\n"
    )
    return head + "".join(f"| {m.name} | `{m.file}` | {'; '.join(map(said, m.killers))} |\n" for m in MUTANTS)


def main() -> int:
    """Exit status 1 unless all are killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of mutants; all if none is given")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--table", action="store_true", help="print docs/mutations.md and end")
    asked = parser.parse_args()
    if asked.table:
        print(table(), end="")
        return 0
    chosen = [each for each in (*MUTANTS, *DECOYS) if each.name in asked.names or not asked.names]
    expected = {each.name: "killed" for each in MUTANTS} | {each.name: each.verdict for each in DECOYS}
    wrong = len(set(asked.names) - {each.name for each in chosen})
    for outcome in run(chosen):
        wrong += outcome.verdict != expected.get(outcome.name, "clean")
        text = f"{outcome.verdict:9}{outcome.seconds:7.2f} s  {outcome.name}  {outcome.detail}"
        print(json.dumps(asdict(outcome)) if asked.json else text, flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
