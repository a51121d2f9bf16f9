"""What is wrong with a file: all of it at once, by place, never by person."""

from collections.abc import Sequence
from dataclasses import dataclass

from genopact_shared.errors import CATALOGUE, GenopactError


@dataclass(frozen=True)
class Finding:
    """One fault of a file. `row`: 1 is the header, as in a spreadsheet; for a VCF the line number."""

    code: str
    detail: str = ""
    row: int | None = None
    column: str = ""

    def __str__(self) -> str:
        place = ", ".join([f"row {self.row}"] * (self.row is not None) + [f"column {self.column}"] * bool(self.column))
        fault = CATALOGUE[self.code]
        return f"{self.code}{' at ' * bool(place)}{place}: {fault.cause} {self.detail}".rstrip() + f" -> {fault.remedy}"


class Fault(Exception):  # noqa: N818
    """The fault of a cell or a line, on its way to a Finding. `line`: of a chunk, from 0, where it is known."""

    def __init__(self, code: str, detail: str = "", column: str = "", line: int | None = None) -> None:
        super().__init__(code)
        self.code, self.detail, self.column, self.line = code, detail, column, line

    def at(self, row: int | None, column: str = "") -> Finding:
        """The finding at a place."""
        return Finding(self.code, self.detail, row, column or self.column)


def require(holds: object, code: str, detail: str = "", column: str = "", line: int | None = None) -> None:
    """Raises a Fault unless something holds."""
    if not holds:
        raise Fault(code, detail, column, line)


class ImportRefusedError(GenopactError):
    """A file is refused whole; `findings` says why."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        super().__init__("IMPORT_REFUSED", f"{len(findings)} findings, the first: {findings[0]}")


def refusal(code: str, detail: str = "", row: int | None = None, column: str = "") -> ImportRefusedError:
    """The refusal of a file for one fault."""
    return ImportRefusedError((Finding(code, detail, row, column),))


def sound(holds: object, code: str, detail: str = "", row: int | None = None, column: str = "") -> None:
    """Raises the refusal of a file unless something holds."""
    if not holds:
        raise refusal(code, detail, row, column)


def refuse(findings: Sequence[Finding]) -> None:
    """Raises ImportRefusedError if there are findings."""
    if findings:
        raise ImportRefusedError(tuple(findings))
