"""What the doctor examines, and what a check says."""

from pathlib import Path
from typing import Literal, NamedTuple

from genopact_client.site import Site
from genopact_shared.study import Study

State = Literal["ok", "problem", "unknown"]


class Check(NamedTuple):
    """One line of the doctor; `code` is that of the error, if one was raised."""

    name: str
    state: State
    detail: str
    remedy: str = ""
    code: str = ""


class Subject(NamedTuple):
    """What is examined: an opened site, a study instead of the approved ones, where the coordinator is."""

    site: Site
    study: Study | None = None
    address: str | None = None
    ca: Path | None = None

    def studies(self) -> list[Study]:
        """The study that was named, else all that are approved."""
        return [self.study] if self.study else [approved.study for approved in self.site.studies]


class Unsound(Exception):  # noqa: N818
    """A finding on its way to a Check."""

    def __init__(self, state: State, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.state: State = state
        self.detail, self.remedy = detail, remedy


def expect(holds: object, detail: str, remedy: str, state: State = "problem") -> None:
    """Raises Unsound unless something holds."""
    if not holds:
        raise Unsound(state, detail, remedy)
