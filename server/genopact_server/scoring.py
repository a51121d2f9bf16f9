"""Lists of sites as researchers have them: PGS Catalog scoring files, VCF, tab-separated tables.

Source: www.pgscatalog.org/downloads (scoring file format 2.0, harmonised columns hm_*); VCF 4.5 section 1.6.1.
"""

import gzip
import math
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genopact_server.manifests import BUILDS, Draft, Site
from genopact_shared import durable
from genopact_shared.alleles import contig
from genopact_shared.errors import GenopactError, replacing, require

_UNLIKE_COPIES = ("is_haplotype", "is_diplotype", "is_interaction", "is_dominant", "is_recessive")
"""Columns whose TRUE says that a weight is not for each copy of one allele."""
_FURTHER = re.compile(r"af_[a-z0-9]{1,16}|pc[1-9][0-9]?|weight")
Row = dict[str, str]


def read_score(path: Path, draft: Draft, build: str | None) -> str:
    """Add the variants of a scoring file, with their weights; returns its build.

    Harmonised positions are used where they are. The file does not say which of its letters REF is: the reference
    does. Without one the other allele is taken for REF, and substitutions alone can be used.

    Raises:
        GenopactError: SITES_INVALID.
    """
    lines = _lines(path)
    head = _pairs(line.lstrip("#").strip() for line in lines if line.startswith("#"))
    rows = _rows([line for line in lines if not line.startswith("#")])
    _require(rows and "effect_weight" in rows[0], "it has no column effect_weight: not an additive score")
    names = "hm_chr hm_pos HmPOS_build" if "hm_chr" in rows[0] else "chr_name chr_position genome_build"
    chrom, pos, known = names.split()
    _require({chrom, pos, "effect_allele"} <= rows[0].keys(), "it has no positions or no effect alleles")
    stated = head.get(known, "NR")
    stated = BUILDS.get(stated, stated)
    _require(build in {None, stated} or stated == "NR", f"its positions are of {stated}")
    _require(stated != "NR" or build is not None, "it does not say its build: give --build")
    for row in rows:
        _add(row, row[chrom], row[pos], draft)
    single = draft.left_out["no_other_allele"]
    _require(draft.fasta or not single, f"{single} variants have no other allele: give --reference")
    return build or stated


def _add(row: Row, chrom: str, pos: str, draft: Draft) -> None:
    """One line of a score."""
    site = _site(chrom, pos, (row.get("other_allele") or row.get("hm_inferOtherAllele", "")), row["effect_allele"])
    other, effect = site.ref, site.alt  # or the other way round
    weight = _number(row["effect_weight"])
    if any(row.get(flag, "").upper() == "TRUE" for flag in _UNLIKE_COPIES) or math.isnan(weight):
        return draft.leave("no_weight_for_copies")
    if not site.chrom or not site.pos:
        return draft.leave("no_place")
    if not set(effect + other) <= set("ACGT/"):
        return draft.leave("no_letters")
    read = _read(draft, site.chrom, site.pos, effect, "" if "/" in other else other)
    if isinstance(read, str):
        return draft.leave(read)
    name = row.get("rsID") or row.get("rsid") or row.get("hm_rsID", "")
    frequency = _share(row.get("allelefrequency_effect", ""))
    gene = _text(row.get("locus_name", ""))
    return draft.add(Site(site.chrom, site.pos, *read, frequency, _text(name), gene, extra={"weight": weight}))


def _read(draft: Draft, chrom: str, pos: int, effect: str, other: str) -> tuple[str, str, str] | str:
    """(ref, alt, which of them is the effect allele), or why that cannot be told."""
    pairs = [(other, effect, "alt"), (effect, other, "ref")]
    if not draft.fasta:
        if not other:
            return "no_other_allele"
        return pairs[0] if len(effect) == len(other) == 1 else "needs_a_reference"
    if not other:
        ref = draft.fasta.bases(chrom, pos, pos + 1).decode()
        return (ref, effect, "alt") if len(effect) == 1 and ref != effect else "no_other_allele"
    fits = [pair for pair in pairs if draft.fasta.bases(chrom, pos, pos + len(pair[0])) == pair[0].encode()]
    return fits[0] if len(fits) == 1 else "two_readings" if fits else "not_on_the_reference"


def read_sites(path: Path, draft: Draft) -> None:
    """Add the variants of a VCF (effect allele ALT, frequency INFO/AF) or of a tab-separated table.

    The table's header names chrom, pos, ref, alt, and perhaps effect (ref, alt or the letters), frequency, id, gene,
    block, weight, af_<group>, pc<k>.

    Raises:
        GenopactError: SITES_INVALID.
    """
    lines = _lines(path)
    is_vcf = bool(lines) and lines[0].startswith("##fileformat=VCF")
    rows = _rows([line for line in lines if not line.startswith("##")])
    names = {"CHROM", "POS", "REF", "ALT"} if is_vcf else {"chrom", "pos", "ref", "alt"}
    _require(rows and names <= rows[0].keys(), "its header names no chrom, pos, ref and alt")
    for row in rows:
        (_add_vcf if is_vcf else _add_table)(row, draft)


def _add_vcf(row: Row, draft: Draft) -> None:
    info = _pairs(row.get("INFO", "").split(";"))
    alts, shares = row["ALT"].split(","), info.get("AF", "").split(",")
    name = _text(row.get("ID", "").split(";")[0])
    for at, alt in enumerate(alts):
        frequency = _share(shares[at]) if len(shares) == len(alts) else math.nan
        draft.add(_site(row["CHROM"], row["POS"], row["REF"], alt)._replace(id=name, frequency=frequency))


def _add_table(row: Row, draft: Draft) -> None:
    site = _site(row["chrom"], row["pos"], row["ref"], row["alt"])
    names = {"ref": "ref", "alt": "alt", "": "alt", site.ref: "ref", site.alt: "alt"}
    effect = names.get(row.get("effect", ""), names.get(row.get("effect", "").upper()))
    if effect is None:
        return draft.leave("no_effect_allele")
    further = filter(_FURTHER.fullmatch, row)
    extra = {name: (_share if name.startswith("af_") else _number)(row[name]) for name in further}
    texts: dict[str, Any] = {name: _text(row.get(name, "")) for name in ("id", "gene", "block")}
    return draft.add(site._replace(effect=effect, frequency=_share(row.get("frequency", "")), extra=extra, **texts))


def _site(chrom: str, pos: str, ref: str, alt: str) -> Site:
    place = int(pos) if pos.isascii() and pos.isdecimal() else 0
    return Site(contig(chrom) or "", place, ref.upper(), alt.upper())


def _pairs(texts: Iterable[str]) -> dict[str, str]:
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _lines(path: Path) -> list[str]:
    data = durable.read(path, "SITES_MISSING")
    damaged = OSError, EOFError, zlib.error, UnicodeDecodeError
    with replacing(damaged, GenopactError("SITES_INVALID", "it is damaged, or not UTF-8")):
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig").splitlines()


def _rows(lines: list[str]) -> list[Row]:
    """The table under a header, whose first name may begin with #."""
    names = [name.strip(' "') for name in lines[0].removeprefix("#").split("\t")] if lines else []
    _require(len(set(names)) == len(names), "two columns have one name")
    rows = []
    for at, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        _require(len(cells) == len(names), f"line {at} of the table has {len(cells)} cells, not {len(names)}")
        rows.append({name: cell.strip(' "') for name, cell in zip(names, cells, strict=True)})
    return rows


def _number(text: str) -> float:
    """The number; NaN for none."""
    try:
        found = float(text)
    except ValueError:
        return math.nan
    return found if math.isfinite(found) else math.nan


def _share(text: str) -> float:
    """A frequency; NaN for none, and for what cannot be one."""
    found = _number(text)
    return found if 0 <= found <= 1 else math.nan


def _text(text: str) -> str:
    """A cell of the manifest: the letters that it may have, without spaces."""
    return re.sub(r"[^!-~]", "", text) or "."


def _require(holds: object, why: str) -> None:
    require(holds, "SITES_INVALID", why)
