"""An agent without a process of its own, for rehearsals on one machine; loaded by name, imported by no other room."""

from collections.abc import Callable
from pathlib import Path

from genopact_client.agent.exchange import Exchange
from genopact_client.site import Site
from genopact_shared import durable


def exchange(home: Path, passphrase_file: Path) -> Callable[[bytes], bytes]:
    """The agent of a site's folder as a function from request bytes to reply bytes; it holds the folder's locks."""
    return Exchange(Site.open(home, durable.read_secret(passphrase_file)))
