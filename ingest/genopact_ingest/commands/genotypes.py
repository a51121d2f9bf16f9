"""import, pharmacogenes and genotypes: from a hospital's files to sealed rows, and what is done with these."""

import csv
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from genopact_client.commands.opening import opened
from genopact_client.consent.record import ConsentRecord
from genopact_client.genotypes.opened import Opened
from genopact_client.genotypes.records import Plane
from genopact_client.genotypes.sealed import Genotypes
from genopact_client.site import Site
from genopact_client.store.sealed import facts
from genopact_shared import canonical, durable
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.keys import VerifyKey
from genopact_shared.manifest import VariantManifest, load
from genopact_shared.recipes.cohort_summary import COHORT_SUMMARY
from genopact_shared.recipes.pharmacogenes import dose_columns
from genopact_shared.recipes.variants import Build
from genopact_shared.terminal import Answer, bar, command, working

if TYPE_CHECKING:
    from genopact_ingest.source import Called, Source

Columns = NDArray[np.intp] | slice
Octets = NDArray[np.uint8] | None
CHUNK = 256
"""People at a time."""
Name = Annotated[str, typer.Argument(help="The store, as `genopact-site genotypes list` shows it.")]
Prefix = Annotated[Path, typer.Option(help="Prefix of .bed, .bim and .fam.")]
EXAMPLE = (
    "genopact-site import --table covariates.csv; "
    "genopact-site import --manifest cad.tsv --signer 9a1f.. --reference GRCh38.fa chr1.vcf.gz chr2.vcf.gz"
)

importing = typer.Typer()
app = typer.Typer(name="genotypes", help="Sealed genotypes.", no_args_is_help=True)


class GenotypeFiles(NamedTuple):
    """Files of the same people, and what they are imported for. `signer`: public key of the manifest's signer, hex."""

    files: tuple[Path, ...]
    manifest: Path
    signer: str
    reference: Path | None = None
    array: bool = False
    phases: bool = False
    expected: bool = False


def import_genotypes(site: Site, given: GenotypeFiles, *, dry_run: bool) -> Answer:
    """Check genotype files, harmonise them and seal a row for each person that this site knows.

    An import that was cut short goes on after the last whole file when it is repeated.

    Raises:
        ImportRefusedError, GenopactError: nothing was changed.
    """
    from genopact_ingest import files

    features = load(given.manifest, [VerifyKey.from_hex(given.signer)])
    name = f"{features.name}-{features.version}"
    with working("Reading the files' heads"):
        sources: list[Source] = []
        for number, path in enumerate(given.files):
            with files.numbered(number):
                sources.append(files.opened(path, phases=given.phases, expected=given.expected))
        columns = _columns(site, sources)
    found, rows = files.Harmonised(np.zeros(len(features), np.bool_)), columns[0][0]
    sexes = cache(lambda samples: _recorded(site, site.people.find(samples)))
    with nullcontext() if dry_run else _store(site, name, features, given) as store:
        digests = [each.digest for each in sources] if store else []
        writer = store.writer(rows, _plan(given, digests, [sexes(each.samples) for each in sources])) if store else None
        left = {at: each for at, each in enumerate(sources) if not writer or digests[at] not in writer.finished}
        stream = files.harmonised(left, features, given.reference, sexes, found, array=given.array)
        with bar("Variants", len(features)) as advance:
            for at, called in stream:
                if called:
                    advance(len(called.rows))
                if writer and called:
                    writer.add(called.rows, *_planes(called, columns[at][1], given))
                elif writer:
                    writer.clear(found.twice)
                    writer.finish(digests[at])
        if writer:
            with working("Sealing"):
                writer.commit({"counts": dict(sorted(found.sites.items())), "reference": given.reference is not None})
    data = {"people": len(rows), "strangers": len(sources[0].samples) - len(rows), "variants": len(features)}
    data |= {"found": int(found.matched.sum()), "files": len(given.files), "read": len(left), "sealed": not dry_run}
    counts = {"sites": found.sites, "records": found.records, "calls": found.calls}
    text = [f"{data['people']} people; {data['strangers']} samples are nobody this site knows"]
    text += [f"{data['found']} of {len(features)} variants of the manifest are in the {data['read']} files read"]
    text += [f"  {n:9,}  {name.replace('_', ' ')}" for each in counts.values() for name, n in sorted(each.items()) if n]
    text += ["dry run: nothing was changed"] if dry_run else []
    follow = "" if dry_run else f"genopact-site genotypes quality --home {site.home} {name}"
    return Answer(data | {name: dict(each) for name, each in counts.items()}, text, follow)


@command(importing, "import", example=EXAMPLE, room=opened)
def import_files(
    site: Site,
    genotypes: Annotated[list[Path] | None, typer.Argument(help="VCF, BCF, .bed, .pgen or .bgen, one people.")] = None,
    *,
    table: Annotated[Path | None, typer.Option(help="CSV, TSV or parquet, one row for each person.")] = None,
    fhir: Annotated[list[Path] | None, typer.Option(help="FHIR R4 NDJSON instead of a table; repeatable.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML: which resources give which columns.")] = None,
    vcf: Annotated[list[Path] | None, typer.Option(help="VCF of the recipe's own few variants; repeatable.")] = None,
    build: Annotated[Build | None, typer.Option(help="Of --vcf; default: by its contig lengths.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="Variants of the study, their signature beside it.")] = None,
    signer: Annotated[str, typer.Option(help="Public key of whoever signed the manifest.")] = "",
    reference: Annotated[Path | None, typer.Option(help="FASTA of the manifest's build.")] = None,
    array: Annotated[bool, typer.Option("--array", help="Letters may be of either strand.")] = False,
    phases: Annotated[bool, typer.Option("--phases", help="Keep haplotypes, too.")] = False,
    expected: Annotated[bool, typer.Option("--expected", help="Keep imputed dosages, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and report, change nothing.")] = False,
) -> Answer:
    """Check covariates and genotypes and seal them, or list everything that is wrong with them and change nothing.

    The table comes first, in an import of its own: genotypes are sealed for people whom the site knows.
    """
    from genopact_ingest.commands.covariates import Files, import_site, schema_of

    if (table or fhir) and not (genotypes or manifest or signer):
        files = Files(table, tuple(vcf or ()), build, tuple(fhir or ()), mapping)
        return import_site(files, schema_of(site), site, dry_run=dry_run)
    if genotypes and manifest and signer and not (table or fhir or vcf):
        given = GenotypeFiles(tuple(genotypes), manifest, signer, reference, array, phases, expected)
        answer = import_genotypes(site, given, dry_run=dry_run)
        return Answer({"genotypes": answer.data}, answer.text, answer.next)
    raise GenopactError("USAGE", "give --table or --fhir alone, or genotype files with --manifest and --signer")


@command(importing, "pharmacogenes", example="genopact-site pharmacogenes chr10.vcf.gz --build GRCh38 --out stars.csv")
def pharmacogenes(
    file: Annotated[Path, typer.Argument(help="VCF with the genes' positions.")],
    *,
    build: Annotated[Build, typer.Option(help="The file's reference.")],
    out: Annotated[Path, typer.Option(help="A new CSV: person, columns of the dose recipe, diplotypes, phenotypes.")],
    all_sites: Annotated[bool, typer.Option("--all-sites", help="Absent records are the reference.")] = False,
) -> Answer:
    """Call CYP2C9, VKORC1, CYP2C19, SLCO1B1, TPMT and DPYD; what cannot be told stays open. The table stays here."""
    from genopact_ingest import files
    from genopact_ingest.stars import read_stars

    require(not out.exists(), "USAGE", "the file of --out is there already")
    with working("Calling"), files.numbered(0):
        found = read_stars(files.opened(file, phases=True), build, all_sites=all_sites)
    dose = dose_columns(found.dosages)
    with out.open("x", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        heads = [f"{gene} {what}" for gene in found.calls for what in ("pairs", "phenotype")]
        writer.writerow(["person", *dose, *heads])
        for at, person in enumerate(found.samples):
            copies = ["" if column[at] < 0 else int(column[at]) for column in dose.values()]
            calls = [calls[at] for calls in found.calls.values()]
            said = [text for one in calls for text in (" or ".join(one.diplotypes), one.phenotype)]
            writer.writerow([person, *copies, *said])
    genes = {gene: sum(one.phenotype != "Indeterminate" for one in calls) for gene, calls in found.calls.items()}
    text = [f"{gene}: {told} of {len(found.samples)} people have one phenotype" for gene, told in genes.items()]
    return Answer({"people": len(found.samples), "told": genes, "absent": len(found.absent)}, [*text, f"Table: {out}"])


@command(app, "list", example="genopact-site genotypes list", room=opened)
def listed(site: Site) -> Answer:
    """List the stores: rows, variants, imports."""
    found: dict[str, dict[str, Any]] = {}
    for name in site.genotype_names():
        with site.genotypes(name) as store:
            kept = {"kind", "variants", "length", "planes", "generation", "provenance"}
            found[name] = store.signed.model_dump(mode="json", include=kept) | {"people": len(store.rows())}
    text = [f"{name}: {one['people']} people x {one['length']} variants, {one['kind']}" for name, one in found.items()]
    return Answer({"stores": found}, text or ["No genotypes are sealed here."])


@command(app, "verify", example="genopact-site genotypes verify cad-1", room=opened)
def verify(site: Site, name: Name) -> Answer:
    """Open every record and check that it is what was sealed."""
    with site.genotypes(name) as store, working("Opening every record"):
        counts = store.verify()
    return Answer(counts, [f"{counts['records']} records of {counts['people']} people are whole"])


@command(app, "export", example="genopact-site genotypes export cad-1 --out cad", room=opened)
def export(site: Site, name: Name, *, out: Prefix) -> Answer:
    """Write a store's genotypes IN THE CLEAR as PLINK 1 files, people named by row numbers."""
    if any(Path(f"{out}{end}").exists() for end in (".bed", ".bim", ".fam")):
        raise GenopactError("USAGE", "files of that name are there already")
    with _opened(site, name) as rows, working("Writing"):
        export_bed(rows, out)
    return Answer({"people": len(rows)}, [f"{len(rows)} people in {out}.bed, .bim and .fam: genotypes in the clear"])


@command(app, "quality", example="genopact-site genotypes quality cad-1 --batches batches.csv", room=opened)
def quality(
    site: Site,
    name: Name,
    *,
    batches: Annotated[Path | None, typer.Option(help="CSV: person, then a column for array, platform, batch.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page; default: quality-NAME.html in the site's folder.")] = None,
) -> Answer:
    """Check call rates, heterozygosity, sexes, relatives and batches; the page with plots stays at the site.

    A site that was made for the recipe cohort-summary has its columns filled, for a federated summary under noise.
    """
    from genopact_ingest.counts import People
    from genopact_ingest.quality import assess
    from genopact_ingest.quality_page import page

    target = out or site.home / f"quality-{name}.html"
    with _opened(site, name) as rows, working("Counting"):
        labels = _labels(site, batches, rows.rows) if batches else {}
        people = People(rows.rows, _recorded(site, rows.rows), batches=labels)
        found = assess(chunks(rows), rows.variants, people)
        durable.replace(target, page(found, rows.variants, f"Quality of {name}").encode())
        if list(facts(COHORT_SUMMARY.schema)) == site.store.manifest()["columns"]:
            site.store.write(rows.rows, found.covariates(), {"quality": name})
    counts = {reason: int(flags.sum()) for reason, flags in found.person_flags.items()}
    about = {f"variants {reason}": int(flags.sum()) for reason, flags in found.variant_flags.items()}
    text = [f"{count:9,}  {reason.replace('_', ' ')}" for reason, count in (counts | about).items() if count]
    return Answer({"people": counts, "variants": about, "page": str(target)}, [*text, f"Page: {target}"])


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


@contextmanager
def _store(site: Site, name: str, features: VariantManifest, given: GenotypeFiles) -> Iterator[Genotypes]:
    """The store of a manifest, made if it is the first time. A refusal leaves no empty store."""
    asked: dict[Plane, bool] = {"calls": True, "expected": given.expected, "haplotypes": given.phases}
    planes: tuple[Plane, ...] = tuple(plane for plane, wanted in asked.items() if wanted)
    if name not in site.genotype_names():
        path = site.home / "genotypes" / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.replace(path / "variants.tsv", features.encode())
        Genotypes.create(path, site.keyfile, features, site.store.manifest()["kind"], planes=planes).close()
    with site.genotypes(name) as store:
        if store.signed.variants != features.digest:
            raise GenopactError("MANIFEST_INVALID", "the store was made for another one; give it another version")
        if store.signed.planes != planes:
            raise GenopactError("USAGE", f"the store keeps {', '.join(store.signed.planes)}: give the same options")
        try:
            yield store
        except GenopactError:
            if not store.signed.generation:
                shutil.rmtree(store.path)
            raise


def known_people(site: Site, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Rows of the people whom this site knows and has not erased, and their places in `names`, in the order of `names`.

    Raises:
        GenopactError: VCF_PEOPLE if it knows nobody.
    """
    rows = site.people.find(names)
    places = np.flatnonzero((rows >= 0) & site.keyfile.alive(rows))
    require(len(places), "VCF_PEOPLE", "import the table of covariates first")
    return rows[places], places


def chunks(opened: Opened) -> Iterator[NDArray[np.uint8]]:
    """Packed calls of CHUNK people at a time."""
    for at in range(0, len(opened), CHUNK):
        yield opened.packed(np.arange(at, min(at + CHUNK, len(opened))))


@contextmanager
def _opened(site: Site, name: str) -> Iterator[Opened]:
    """The genotypes of everybody who did not withdraw access, for this site's own eyes."""
    with site.genotypes(name) as store:
        accessible = [row for row in store.rows().tolist() if not _withdrew(site.registry.get(row))]
        with closing(store.open(np.array(accessible, np.int64), store.variants, lambda: True)) as rows:
            yield rows


def _withdrew(record: ConsentRecord | None) -> bool:
    """Any access."""
    withdrawal = record.withdrawal if record and record.status == "withdrawn" else None
    return withdrawal is not None and withdrawal.scope == "no_access"


def _plan(given: GenotypeFiles, digests: Sequence[str], sexes: Sequence[NDArray[np.int8]]) -> str:
    """Digest of all that an import depends on: one that was cut short goes on only if nothing of it has changed."""
    fasta = given.reference.stat() if given.reference and given.reference.is_file() else None
    reference = [fasta.st_size, str(fasta.st_mtime_ns)] if fasta else []
    rules, recorded = [given.array, given.phases, given.expected], [each.tobytes().hex() for each in sexes]
    return canonical.digest_of({"files": list(digests), "reference": reference, "rules": rules, "sexes": recorded})


def _planes(called: "Called", columns: Columns, given: GenotypeFiles) -> tuple[NDArray[np.int8], Octets, Octets]:
    """Dosages, expected copies and haplotypes of some samples; what a file does not say follows from the dosages."""
    expected, haplotypes = called.expected, called.haplotypes
    if given.expected:
        certain = np.where(called.dosages < 0, 255, 127 * called.dosages.astype(np.int16)).astype(np.uint8)
        expected = certain if expected is None else np.where(expected == 255, certain, expected)
    if given.phases and haplotypes is None:
        haplotypes = 3 * (called.dosages == 2).astype(np.uint8)
    octets = (None if each is None else each[:, columns] for each in (expected, haplotypes))
    return called.dosages[:, columns], next(octets), next(octets)


def _columns(site: Site, sources: "Sequence[Source]") -> list[tuple[NDArray[np.int64], Columns]]:
    """Of each source the rows of known people, the same everywhere, and the columns where they stand."""
    columns, known = list[tuple[NDArray[np.int64], Columns]](), cache(partial(known_people, site))
    for source in sources:
        rows, places = known(source.samples)
        order = np.argsort(rows)
        whole = np.array_equal(places[order], np.arange(len(source.samples)))
        columns.append((rows[order], slice(None) if whole else places[order]))
        require(np.array_equal(rows[order], columns[0][0]), "GENOTYPES_PEOPLE")
    return columns


def _recorded(site: Site, rows: NDArray[np.int64]) -> NDArray[np.int8]:
    """0 female, 1 male, -1 unknown, by the table of covariates."""
    declared = {column["name"]: column for column in site.store.manifest()["columns"]}
    levels = declared.get("sex", {}).get("levels", [])
    of_code = np.array([{"female": 0, "male": 1}.get(level, -1) for level in levels] + [-1], np.int8)
    sexes, known = np.full(len(rows), -1, np.int8), np.isin(rows, site.store.rows())
    sexes[known] = of_code[site.store.table(rows[known]).codes("sex")]  # -1, the last, is unknown
    return sexes


def _labels(site: Site, path: Path, rows: NDArray[np.int64]) -> dict[str, list[str]]:
    wrong = GenopactError("USAGE", "--batches: a CSV in UTF-8 with a column person, one line a person")
    with replacing((OSError, ValueError, KeyError, csv.Error), wrong):
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file, strict=True))
        people = [line["person"] for line in lines]
        if not people or len({*people}) < len(people) or any(None in (*line, *line.values()) for line in lines):
            raise ValueError
        of_row = dict(zip(site.people.find(people).tolist(), lines, strict=True))
    return {name: [of_row.get(row, {}).get(name, "") for row in rows.tolist()] for name in lines[0] if name != "person"}
