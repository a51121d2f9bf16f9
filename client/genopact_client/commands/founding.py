"""init, card, vet: what a hospital does before anything else."""

from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from genopact_client.commands.opening import HOME, Home, PassphraseFile, passphrase, schemas
from genopact_client.installed import DISTRIBUTIONS, refuse_mixed, requirements, version
from genopact_client.link import nodekey
from genopact_client.site import Site
from genopact_client.store.manifest import Kind
from genopact_client.store.sealed import Store
from genopact_shared import canonical, durable
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.keys import SigningKey, VerifyKey
from genopact_shared.study import Name
from genopact_shared.terminal import Answer, command, working

Fingerprints = Annotated[bool, typer.Option("--fingerprints", help="Print these instead of the keys.")]

app = typer.Typer()


@command(app, "init", example="genopact-site init northgate --home /srv/genopact --passphrase-file pass.txt")
def init(
    name: Annotated[str, typer.Argument(help="The site's name in studies: lower case, digits, dashes.")],
    *,
    kind: Annotated[Kind, typer.Option(help="private: patients. It can never be changed.")] = "private",
    recipe: Annotated[str, typer.Option(help="The recipe whose columns the store gets.")] = "dose",
    approver_key: Annotated[Path | None, typer.Option(help="Where the approver's key goes.")] = None,
    home: Home = HOME,
    passphrase_file: PassphraseFile = None,
) -> Answer:
    """Make the site's folder: keys, an empty store, a policy that permits nothing.

    The approver's key lies beside the folder, not in it: a person keeps it offline, so that the agent cannot approve.
    """
    refuse_mixed()
    home = home.resolve()
    approver_path = approver_key or home.with_name(f"{home.name}.approver.key")
    _check(name, recipe, approver_path)
    secret = passphrase(passphrase_file, new=True)
    with working("Making keys"):
        site = Site.create(home, name, secret)
        Store.create(home / "store", site.keyfile, schemas()[recipe], kind).close()
        (home / "link").mkdir(mode=0o700, exist_ok=True)
        node = nodekey.public_pem(nodekey.create(home / "link" / "node.key")).decode()
        approver = SigningKey.generate()
        approver.save(approver_path)
    public = {**site.card(), "approver": approver.public.hex, "node": node}
    durable.replace(home / "party.json", canonical.encode(public))
    text = [
        f"Made site {name} in {home}",
        f"Approver's key: {approver_path}",
        "  Keep it offline, with the person who approves studies; the agent never needs it.",
        f"Policy: {home / 'policy.yaml'} permits nothing yet; a data protection officer edits it.",
        *_card_lines(public),
    ]
    data = {"card": public, "home": str(home), "approver_key": str(approver_path), "kind": kind, "recipe": recipe}
    return Answer(data, text, f"genopact-site import --home {home} --table covariates.csv")


@command(app, "card", example="genopact-site card --home /srv/genopact > northgate.json")
def show_card(*, fingerprints: Fingerprints = False, home: Home = HOME) -> Answer:
    """Print what the coordinator needs of this site, as JSON: its name and public keys."""
    public = Site.keyless(home).party
    return Answer({"card": public}, _card_lines(public) if fingerprints else [canonical.encode(public).decode()])


@command(app, "vet", example="genopact-site vet")
def vet() -> Answer:
    """Print what a hospital must vet: each file with its lines and hash, and the direct dependencies."""
    packages = [each for each in ("genopact_client", "genopact_shared", "genopact_ingest") if find_spec(each)]
    listed = [entry for package in packages for entry in _sources(package)]
    distribution = next((name for name in reversed(DISTRIBUTIONS) if version(name)), "")
    needs = requirements(distribution) if distribution else {}
    lines = sum(entry["lines"] for entry in listed)
    text = [f"{entry['lines']:6}  {entry['sha256'][:16]}  {entry['path']}" for entry in listed]
    text += [f"{lines:6}  lines in {len(listed)} files", f"Direct dependencies of {distribution or 'a source tree'}:"]
    text += [f"  {name} {version}" for name, version in needs.items()]
    return Answer({"files": listed, "lines": lines, "distribution": distribution, "dependencies": needs}, text)


def _check(name: str, recipe: str, approver: Path) -> None:
    rule = "a site's name has lower-case letters, digits and dashes, 40 at most"
    with replacing(ValidationError, GenopactError("USAGE", rule)):
        TypeAdapter(Name).validate_python(name)
    require(recipe in schemas(), "RECIPE_UNKNOWN", f"installed: {', '.join(schemas())}")
    require(not approver.exists(), "KEY_EXISTS", str(approver))


def _card_lines(public: dict[str, str]) -> list[str]:
    prints = [f"  {use:9}{VerifyKey.from_hex(public[use]).key_id}" for use in ("identity", "log", "approver")]
    node = canonical.digest(public["node"].encode())[:16]
    return [f"Key fingerprints of {public['name']}, to be compared by telephone:", *prints, f"  {'node':9}{node}"]


def _sources(package: str) -> Iterator[dict[str, Any]]:
    root = Path(str(files(package)))
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            name, data = f"{package}/{path.relative_to(root).as_posix()}", path.read_bytes()
            yield {"path": name, "lines": len(data.splitlines()), "sha256": canonical.digest(data)}
