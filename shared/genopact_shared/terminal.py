"""What both command lines share: one way to answer, to fail and to log.

A command returns an Answer. People read text on stdout (errors and progress on stderr). With `--format json` stdout is
exactly one envelope, {"schema": "genopact.cli/1", "command", "status": "ok" | "error", "data"}, and everything else is
on stderr.
"""

import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from functools import update_wrapper
from typing import Annotated, Any, Literal

import click
import structlog
import typer
from rich.console import Console
from rich.progress import Progress
from structlog.processors import JSONRenderer, TimeStamper, add_log_level

from genopact_shared.errors import CATALOGUE, GenopactError

SCHEMA = "genopact.cli/1"
LOGGED = ("event", "level", "timestamp", "code", "round", "attempt", "seconds", "site", "study", "run", "step")
"""Keys that a log line may have; any other is dropped, whoever wrote it."""

_FORMAT = typer.Option(help="json: one envelope on stdout.", envvar="GENOPACT_FORMAT")
Format = Annotated[Literal["human", "json"], _FORMAT]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an unexpected error arose.")]
_EVENT, _VALUE = re.compile(r"[a-z][a-z_]{0,63}"), re.compile(r"[A-Za-z0-9_.:+-]{1,64}")


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    REFUSED = 1
    """A rule, a policy, a signature or a check says no."""
    USAGE = 2
    """The command line or a file that was given is wrong."""
    UNAVAILABLE = 3
    """Nobody can tell: something is locked, stopped or out of reach."""
    INTERNAL = 4
    """A fault of genopact."""


@dataclass(frozen=True)
class Answer:
    """What a command found or did: `data` for programs, `text` for people, `next` the command that follows."""

    data: Mapping[str, Any] = field(default_factory=dict)
    text: Sequence[str] = ()
    next: str = ""
    exit: Exit = Exit.OK


def command(
    app: typer.Typer, name: str, *, example: str, room: Callable[..., AbstractContextManager[object]] | None = None
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register a function as a command with `--format` and `--debug`; the function itself stays as it was.

    `room`: the command has its options, too, and the function's first argument is what it opens.
    """

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        keys = inspect.signature(room).parameters if room else {}
        own = list(inspect.signature(function).parameters.values())[1 if room else 0 :]

        def act(given: dict[str, Any]) -> Answer:
            if room is None:
                return function(**given)
            with room(**{key: given.pop(key) for key in keys}) as opened:
                return function(opened, **given)

        def run(*, format: Format = "human", debug: Debug = False, **given: Any) -> None:  # noqa: A002
            raise typer.Exit(_run(lambda: act(given), format, debug=debug))

        *common, _ = inspect.signature(run).parameters.values()
        parameters = [*own, *keys.values(), *common]
        update_wrapper(run, function).__annotations__ = {each.name: each.annotation for each in parameters}
        vars(run)["__signature__"] = inspect.Signature(parameters)
        app.command(name, epilog=f"Example: {example}")(run)
        return function

    return register


def main(app: typer.Typer, program: str) -> None:
    """Run a command line and exit; with `--format json` a usage error is an envelope, too."""
    arguments = " ".join(sys.argv[1:]).replace("=", " ")
    if "--format json" not in arguments and os.environ.get("GENOPACT_FORMAT") != "json":
        app(prog_name=program)
    try:
        sys.exit(app(prog_name=program, standalone_mode=False))
    except (click.ClickException, click.Abort) as error:
        detail = error.format_message() if isinstance(error, click.ClickException) else "nobody agreed"
        sys.exit(_fail(GenopactError("USAGE", detail), "json", ""))


def human() -> Console:
    """Where this command's people read: stdout, or stderr beside an envelope."""
    console = click.get_current_context().obj
    return console if isinstance(console, Console) else Console(stderr=True)


def working(text: str) -> AbstractContextManager[object]:
    """Show that something that may take more than a second goes on."""
    return Console(stderr=True).status(text)


@contextmanager
def bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; call what it gives with how much more is done."""
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda more: progress.advance(task, more)


def _run(function: Callable[[], Answer], format_: Format, *, debug: bool) -> Exit:
    context = click.get_current_context()
    context.obj = Console(stderr=format_ == "json", soft_wrap=True, highlight=False, markup=False)
    name = context.command_path.partition(" ")[2]  # whatever the program was started as
    try:
        answer = function()
    except GenopactError as error:
        return _fail(error, format_, name)
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:  # noqa: BLE001 - its text may hold anything, so that only its type is shown
        if debug:
            traceback.print_exc()
        return _fail(GenopactError("INTERNAL", type(error).__name__), format_, name)
    for line in [*answer.text, *([f"Next: {answer.next}"] if answer.next else [])]:
        human().print(line)
    if format_ == "json":
        _print_envelope(name, "ok", {**answer.data, **({"next": answer.next} if answer.next else {})})
    return answer.exit


def _fail(error: GenopactError, format_: Format, name: str) -> Exit:
    """Print an error; an import's findings are listed one by one."""
    findings = list(getattr(error, "findings", ()))
    fault, docs = CATALOGUE[error.code], f"docs/errors/{error.code}.md"
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    console.print(f"{error.code}: {fault.cause}" + (f" ({error.detail})" if error.detail and not findings else ""))
    for finding in findings:
        console.print(f"  {finding}")
    console.print(f"Remedy: {fault.remedy}\nMore: {docs}")
    if format_ == "json":
        about = {"code": error.code, "cause": fault.cause, "remedy": fault.remedy, "detail": error.detail, "docs": docs}
        listed = {"findings": [asdict(finding) for finding in findings]} if findings else {}
        _print_envelope(name, "error", about | listed)
    return Exit(fault.exit)


def _print_envelope(name: str, status: str, data: Mapping[str, Any]) -> None:
    envelope = {"schema": SCHEMA, "command": name, "status": status, "data": data}
    sys.stdout.write(json.dumps(envelope, ensure_ascii=False) + "\n")


def only_allowed(_logger: Any, _method: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """A structlog processor: keys of LOGGED with plain values; an event that is no fixed word is not repeated."""
    kept = {key: value for key, value in event.items() if key in LOGGED and _plain(value)}
    return kept | {"event": event["event"] if _EVENT.fullmatch(str(event.get("event"))) else "unnamed"}


def configure_logging() -> None:
    """Send structlog's lines to stderr, one JSON object each, with allowed keys alone."""
    processors: Sequence[Any] = [add_log_level, TimeStamper(fmt="iso", utc=True), only_allowed, JSONRenderer()]
    structlog.configure(processors=processors, logger_factory=lambda *_: structlog.WriteLogger(sys.stderr))


def _plain(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and bool(_VALUE.fullmatch(value)))
