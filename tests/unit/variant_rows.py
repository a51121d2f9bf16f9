"""Small manifests for tests, from lines as in the file."""

from genopact_shared.manifest import FIXED, FORMAT, VariantManifest, parse


def text(*rows: str, columns: str = "", build: str = "GRCh38", reference: str = ".") -> bytes:
    """The file of rows `chrom pos ref alt effect frequency` with spaces; further cells may follow."""
    head = {"format": FORMAT, "name": "small", "version": 1, "build": build, "reference": reference, "frequencies": "."}
    lines = [f"##{name}={value}" for name, value in head.items()]
    lines.append("#" + "\t".join([*FIXED, *columns.split()]))
    kinds = {"X": "x", "Y": "y", "MT": "mt"}
    for row in rows:
        cells = row.split()
        if len(cells) == 6:
            cells += [".", ".", ".", kinds.get(cells[0], "autosome")]
        lines.append("\t".join(cells))
    return "\n".join([*lines, ""]).encode()


def manifest(*rows: str, columns: str = "", build: str = "GRCh38", reference: str = ".") -> VariantManifest:
    """The manifest of such rows."""
    return parse(text(*rows, columns=columns, build=build, reference=reference))
