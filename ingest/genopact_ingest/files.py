"""A site's genotype files as one stream of harmonised calls: what the import seals, and what its dry run reports."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genopact_ingest.checks import Checks
from genopact_ingest.findings import Fault, ImportRefusedError
from genopact_ingest.harmonise import Sites
from genopact_ingest.ploidy import two_copies
from genopact_ingest.reference import Reference
from genopact_ingest.source import Called, Source
from genopact_shared.errors import require
from genopact_shared.manifest import VariantManifest


@dataclass
class Harmonised:
    """What became of the files.

    `matched`: (V,) which manifest rows a file has. `twice`: rows of which the last file has two records, so that they
    have to be missing for everybody. `records`, `calls` and `sites`: counts for the site's report.
    """

    matched: NDArray[np.bool_]
    twice: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    records: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    sites: Counter[str] = field(default_factory=Counter)


def opened(path: Path, *, phases: bool = False, expected: bool = False) -> Source:
    """The reader of a file, by its name: .bed, .pgen, .bgen; everything else is VCF or BCF, plain or compressed.

    Raises:
        ImportRefusedError, GenopactError: as the reader's.
    """
    match path.suffix:
        case ".bed":
            from genopact_ingest.plink import PlinkFile

            return PlinkFile(path)
        case ".pgen":
            from genopact_ingest.plink import PgenFile

            return PgenFile(path, phases=phases)
        case ".bgen":
            from genopact_ingest.bgen import BgenFile

            return BgenFile(path, phases=phases)
        case _:
            from genopact_ingest.vcf import VcfFile

            return VcfFile(path, checks=Checks(), phases=phases, expected=expected)


def harmonised(
    sources: Mapping[int, Source], manifest: VariantManifest, reference: Path | None,
    sex: Callable[[Sequence[str]], NDArray[np.int8]], into: Harmonised, *, array: bool = False,
) -> Iterator[tuple[int, Called | None]]:  # fmt: skip
    """(number, calls) of all matched variants on the scale of two copies; after a source's last, (number, None).

    Args:
        sources: files by their number, from 0, with other variants each.
        manifest: the study's.
        reference: its FASTA; None: letters are compared with the manifest alone.
        sex: of samples by name, (n,) FEMALE, MALE or UNKNOWN.
        into: filled while it goes.
        array: the letters of all files may be of either strand; those of a .bed always may.

    Raises:
        ImportRefusedError: with the fault and the file's number. GenopactError: VARIANT_TWICE.
    """
    fasta: Reference | None = None
    for number, source in sources.items():
        with numbered(number):
            fasta = fasta or (Reference(reference) if reference else None)
            sites = Sites(manifest, fasta, forward=getattr(source, "forward", True) and not array)
            sites.compare_lengths(getattr(source, "contigs", {}))
            sexes = sex(source.samples)
            for called in sites.read(source):
                require(not into.matched[called.rows].any(), "VARIANT_TWICE", f"in file {number + 1}")
                into.matched[called.rows] = True
                yield number, two_copies(called, [manifest.kind[row] for row in called.rows], sexes, into.calls)
            into.twice = np.array(sorted(sites.finish()), np.int64)
        into.sites.update(sites.counts)
        into.records.update(getattr(source, "notes", {}))
        yield number, None


@contextmanager
def numbered(number: int) -> Iterator[None]:
    """What is found in a file says which of them it is, counted from 1."""
    try:
        yield
    except (Fault, ImportRefusedError) as error:
        findings = (error.at(None),) if isinstance(error, Fault) else error.findings
        told = (replace(each, detail=f"{each.detail} in file {number + 1}".lstrip()) for each in findings)
        raise ImportRefusedError(tuple(told)) from error
