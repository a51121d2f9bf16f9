"""`genopact coordinator`: its folder, its processes, and the sites that may call it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genopact_server import coordinator
from genopact_server.commands.options import HOME, Home
from genopact_server.folder import Folder
from genopact_shared.errors import GenopactError, replacing
from genopact_shared.terminal import Answer, command

app = typer.Typer(help="Run the coordinator.", no_args_is_help=True, rich_markup_mode=None)
OwnName = Annotated[str, typer.Argument(help="Its name in study files.", show_default=False)]
OwnAddress = Annotated[str, typer.Option(help="host:port that the sites' links call.", show_default=False)]


@command(app, "init", example="genopact coordinator init uni-hub --address hub.example.org:9443")
def init(name: OwnName, address: OwnAddress, home: Home = HOME) -> Answer:
    """Create the coordinator's folder: keys, certificate, operator's token."""
    folder = coordinator.create(home, name, address)
    ca, token = home / "tls" / "ca.pem", home / "operator.token"
    text = [f"Coordinator {name} in {home}", f"Give the sites {ca}; {token} lets its owner submit runs: keep it."]
    return Answer({"card": folder.card, "ca": str(ca)}, text, f"genopact coordinator start --home {home}")


@command(app, "start", example="genopact coordinator start --home coordinator")
def start(home: Home = HOME) -> Answer:
    """Run the link host and the executor until stopped; each is started again if it ends."""
    coordinator.start(_existing(home))
    return Answer(text=["Stopped."])


@command(app, "link", example="genopact coordinator link --home coordinator")
def link(home: Home = HOME) -> Answer:
    """Run the link host alone, in the foreground."""
    from genopact_server.link import host

    host.serve(coordinator.host_config(_existing(home)))
    return Answer(text=["Stopped."])


@command(app, "executor", example="genopact coordinator executor --home coordinator")
def executor(home: Home = HOME) -> Answer:
    """Run the executor alone, in the foreground: it carries out submitted runs."""
    coordinator.serve_executor(_existing(home))
    return Answer(text=["Stopped."])


@command(app, "enrol", example="genopact coordinator enrol card.json --home coordinator")
def enrol(
    cards: Annotated[list[Path], typer.Argument(help="Cards that genopact-site card printed.", show_default=False)],
    home: Home = HOME,
) -> Answer:
    """Register the node keys of sites, so that their links may call. The link host has to run."""
    nodes = {}
    with coordinator.control(_existing(home)) as control:
        for path in cards:
            card = read_card(path)
            nodes[card["name"]] = control.register_site(card["name"], card["node"].encode())
    return Answer({"nodes": nodes}, [f"Enrolled {', '.join(nodes)}."], "genopact study compose --help")


@command(app, "sites", example="genopact coordinator sites --home coordinator")
def sites(home: Home = HOME) -> Answer:
    """List the enrolled sites and whether their links are online."""
    with coordinator.control(_existing(home)) as control:
        found = control.sites()
    text = [f"{name:24} {'online' if online else 'offline'}" for name, online in found.items()]
    return Answer({"sites": found}, text)


def read_card(path: Path) -> dict[str, Any]:
    """A site's card: its public keys. Raises CARD_INVALID."""
    broken = OSError, ValueError, KeyError, AttributeError, TypeError
    with replacing(broken, GenopactError("CARD_INVALID", str(path))):
        card = json.loads(path.read_text("utf-8"))
        card = card.get("data", {"card": card})["card"]
        return {key: str(card[key]) for key in ("name", "identity", "log", "approver", "node")}


def _existing(home: Path) -> Folder:
    folder = Folder(home)
    folder.card  # noqa: B018 - raises COORDINATOR_MISSING
    return folder
