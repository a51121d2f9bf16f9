"""Opened genotypes as PLINK 1 files, in the clear, for a hospital's own tools."""

from pathlib import Path

from genopact_client.genotypes import Opened
from genopact_ingest.commands.rows import chunks
from genopact_shared import durable


def export_bed(opened: Opened, prefix: Path) -> None:
    """Write <prefix>.bed, .bim and .fam; the person of row 7 is called row7.

    The .bed is sample-major, as sealed; A1 is the effect allele.

    Raises:
        GenopactError: as `Opened.dosages`. FileExistsError: one of the files is there.
    """
    one = opened.variants
    sites = zip(one.chrom, map(str, one.pos), one.ref, one.alt, one.effect, strict=True)
    lines = ([c, f"{c}:{p}:{r}:{a}", "0", p, *((r, a) if e == "ref" else (a, r))] for c, p, r, a, e in sites)
    durable.create(Path(f"{prefix}.bim"), "".join("\t".join(line) + "\n" for line in lines).encode())
    durable.create(Path(f"{prefix}.fam"), "".join(f"0\trow{row}\t0\t0\t0\t-9\n" for row in opened.rows).encode())
    durable.create(Path(f"{prefix}.bed"), b"\x6c\x1b\x00")
    with Path(f"{prefix}.bed").open("ab") as file:
        for rows in chunks(opened):
            file.write(rows.data)
