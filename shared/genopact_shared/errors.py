"""The error catalogue: a stable code, its cause and its remedy, in errors.toml. `docs/errors/` has a page for each.

GenopactError carries a code and a detail for the person at this machine. The detail never crosses the wire and is
never logged; between site and coordinator a refusal is always SITE_UNAVAILABLE.
"""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """One entry: what happened, what to do, and with which code a command ends (`terminal.Exit`)."""

    cause: str
    remedy: str
    exit: int = 1


def beside(module: str) -> dict[str, Any]:
    """The TOML file that lies beside a module, which gives its `__file__`."""
    return tomllib.loads(Path(module).with_suffix(".toml").read_text("utf-8"))


CATALOGUE: dict[str, Fault] = {code: Fault(*said) for code, said in beside(__file__).items()}


class GenopactError(Exception):
    """An error with a code of CATALOGUE."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code, self.detail, self.fault = code, detail, CATALOGUE[code]
        super().__init__(f"{code}: {self.fault.cause}" + (f" ({detail})" if detail else ""))


def require(holds: object, code: str, detail: str = "") -> None:
    """Raise the error of that code unless something holds."""
    if not holds:
        raise GenopactError(code, detail)


@contextmanager
def suppressing(*codes: str) -> Iterator[None]:
    """Pass over errors of these codes, and of no other."""
    try:
        yield
    except GenopactError as error:
        if error.code not in codes:
            raise


@contextmanager
def replacing(kinds: type[Exception] | tuple[type[Exception], ...], error: Exception) -> Iterator[None]:
    """Raise `error` in place of exceptions of some kinds, which become its cause."""
    try:
        yield
    except kinds as cause:
        raise error from cause
