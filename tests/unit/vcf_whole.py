"""All findings of a whole file, or of one of sites alone, line by line: the naive way to drive `Checks`."""

from collections.abc import Iterator
from pathlib import Path

from genopact_ingest.bgzf import MAX_LINE, blocks
from genopact_ingest.checks import Checks
from genopact_ingest.findings import Fault, Finding


def validate(path: Path) -> tuple[Finding, ...]:
    """All findings of a file, which may be one of sites alone."""
    checks, opening, header = Checks(), list[str](), None
    number, form, line = 0, "GT", b"\n"
    try:
        for number, line in enumerate(_lines(path), 1):
            if line.endswith(b"\r\n"):
                raise Fault("VCF_LINE_ENDS")
            if header:
                form = _record(checks, number, line.removesuffix(b"\n"), sites=not header.samples)
                continue
            opening.append(line.removesuffix(b"\n").decode())
            if line.startswith(b"#CHROM"):
                header = checks.header(opening)
            if (header and any(each.column == "#CHROM" for each in header.findings)) or opening[0][:2] != "##":
                break  # its lines cannot be understood
        if not header:
            checks.header(opening)
        if not line.endswith(b"\n") and "GT" in form.split(":"):
            raise Fault("VCF_TRUNCATED", "(the last line has no end)")
    except Fault as fault:
        checks.findings.append(fault.at(number or None))
    except UnicodeDecodeError:
        checks.findings.append(Finding("VCF_UNREADABLE", "(not UTF-8)", number))
    return checks.finish()


def _record(checks: Checks, number: int, line: bytes, *, sites: bool) -> str:
    """Checks it and returns its FORMAT; GT for one of sites alone."""
    parts = line.split(b"\t", 9)
    fields = [part.decode() for part in parts[:9]]
    if sites or len(parts) < 10:
        checks.record(number, fields if sites else [])
        return "GT"
    checks.record(number, fields)
    checks.cells(number, fields[8], parts[9], 0 if fields[4] == "." else fields[4].count(",") + 1)
    return fields[8]


def _lines(path: Path) -> Iterator[bytes]:
    """With their ends; the last one may have none."""
    carry = b""
    for chunk in blocks(path):
        *whole, carry = (carry + chunk).split(b"\n")
        if len(carry) > MAX_LINE:
            raise Fault("VCF_LINE_LONG")
        for line in whole:
            yield line + b"\n"
    if carry:
        yield carry
