"""`genopact manifest`: build, show and compare variant manifests."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from genopact_server import manifests, scoring
from genopact_server.commands.options import HOME, Home, read_manifest
from genopact_server.folder import Folder
from genopact_shared import durable
from genopact_shared.errors import GenopactError, require
from genopact_shared.keys import SigningKey, VerifyKey
from genopact_shared.manifest import load
from genopact_shared.terminal import Answer, command, working

app = typer.Typer(help="Build, show and compare variant manifests.", no_args_is_help=True, rich_markup_mode=None)
SHOWN = 20
"""Lines of a long list that people see; --format json has all of them."""

File = Annotated[Path, typer.Argument(help="A variant manifest.", show_default=False)]
_SCORE = "PGS000001_hmPOS_GRCh38.txt.gz"
EXAMPLE = f"genopact manifest build breast.variants --name breast --score {_SCORE} --reference hg38.fa"


@command(app, "build", example=EXAMPLE)
def build(
    out: Annotated[Path, typer.Argument(help="The new file; its signature will be OUT.dsse.", show_default=False)],
    *,
    name: Annotated[str, typer.Option(help="The manifest's name.", show_default="of --old")] = "",
    score: Annotated[Path | None, typer.Option(help="A PGS Catalog scoring file.")] = None,
    sites: Annotated[Path | None, typer.Option(help="A VCF, or a table with chrom, pos, ref, alt.")] = None,
    old: Annotated[Path | None, typer.Option(help="A manifest whose next version takes --counts.")] = None,
    counts: Annotated[Path | None, typer.Option(help="Pooled allele counts that a study released.")] = None,
    reference: Annotated[Path | None, typer.Option(help="The build's FASTA: REF is checked, indels aligned.")] = None,
    assembly: Annotated[str | None, typer.Option("--build", help="GRCh37 or GRCh38, if the file does not say.")] = None,
    version: Annotated[int, typer.Option(help="The manifest's version.", min=1)] = 1,
    frequencies: Annotated[str, typer.Option(help="Where the frequencies come from.")] = ".",
    key: Annotated[Path | None, typer.Option(help="The key that signs.", show_default="the coordinator's")] = None,
    home: Home = HOME,
) -> Answer:
    """Build and sign a manifest: from a score, a list of sites, or pooled counts. What is left out is counted."""
    if [score, sites, old].count(None) != 2 or (old is None) != (counts is None) or not (name or old):
        raise GenopactError("USAGE", "give --score or --sites with --name, or --old with --counts")
    require(not out.exists() and not _signature(out).exists(), "MANIFEST_EXISTS", str(out))
    signer = SigningKey.load(key) if key else Folder(home).identity
    left_out = Counter[str]()
    with working("Building the manifest"):
        if old and counts:
            made = manifests.with_counts(read_manifest(old), durable.read(counts, "SITES_MISSING"), frequencies)
        else:
            draft = manifests.Draft(manifests.Fasta(reference) if reference else None)
            if score:
                assembly = scoring.read_score(score, draft, assembly)
            elif sites:
                scoring.read_sites(sites, draft)
            if assembly is None:
                raise GenopactError("USAGE", "a list of sites needs --build")
            assembly = manifests.BUILDS.get(assembly, assembly)
            made, left_out = draft.manifest(name, version, assembly, frequencies), draft.left_out
        durable.create(_signature(out), made.sign(signer))
        durable.create(out, made.encode())
    skipped = {reason: times for reason, times in sorted(left_out.items()) if times}
    text = [f"Wrote {out}: {len(made)} variants of {made.build}", f"identity {made.digest}"]
    text.append(f"signer   {signer.public.hex}")
    text += [f"left out {times:8}  {reason.replace('_', ' ')}" for reason, times in skipped.items()]
    data = made.facts | {"file": str(out), "signer": signer.public.hex, "left_out": skipped}
    return Answer(data, text, f"genopact manifest show {out}")


@command(app, "show", example="genopact manifest show breast.variants")
def show(
    file: File, signer: Annotated[str | None, typer.Option(help="The public key that must have signed, in hex.")] = None
) -> Answer:
    """Say what a manifest holds; with --signer also that it is signed."""
    found = load(file, [VerifyKey.from_hex(signer)]) if signer else read_manifest(file)
    known = int((found.frequency == found.frequency).sum())
    kinds = dict(Counter(found.kind))
    about = found.facts | {
        "reference": found.reference, "frequencies": found.frequencies, "frequencies_known": known,
        "columns": list(found.extra), "classes": kinds, "signature": "holds" if signer else "not checked",
    }  # fmt: skip
    text = [f"{name:18} {value}" for name, value in about.items()]
    text += found.encode().decode().splitlines()[len(found.head) :][: 1 + SHOWN]
    return Answer(about, text, f"genopact manifest diff OLD {file}")


@command(app, "diff", example="genopact manifest diff breast-1.variants breast-2.variants")
def diff(old: File, new: File) -> Answer:
    """Say which variants of one manifest were added, removed or changed in another."""
    before, after = read_manifest(old), read_manifest(new)
    changes = list(manifests.difference(before, after))
    pairs = ((name, before.head[name], value) for name, value in after.head.items())
    heads = [f"{name} {one} -> {two}" for name, one, two in pairs if one != two]
    found = Counter(what for what, _ in changes)
    text = [*heads, *(f"{what:8} {said}" for what, said in changes[:SHOWN])]
    text += [f"{len(changes) - SHOWN} more"] * (len(changes) > SHOWN)
    text.append(", ".join(f"{found[what]} {what}" for what in ("added", "removed", "changed")))
    listed = {what: [said for kind, said in changes if kind == what] for what in ("added", "removed", "changed")}
    return Answer({"head": heads, **listed}, text)


def _signature(path: Path) -> Path:
    return path.with_name(path.name + ".dsse")
