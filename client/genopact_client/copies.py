"""Copies of the ledger and the logs, to be read while the agent holds the originals."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from genopact_client.ledger import Ledger
from genopact_client.site import Site
from genopact_shared.keys import VerifyKey
from genopact_shared.statements import Statement, parse
from genopact_shared.tlog.log import Log


@contextmanager
def ledger_copy(site: Site) -> Iterator[Ledger]:
    """The ledger as it is now, also while the agent holds it: a sealed copy is opened."""
    with copied(site.home, "ledger") as path, closing(Ledger(path, site.keyfile.site_key("ledger"))) as ledger:
        yield ledger


@contextmanager
def log_copy(site: Site, folder: str = "log") -> Iterator[Log]:
    """The same for the exchanged log, or `private-log`."""
    origin = site.origin if folder == "log" else f"{site.origin}/private"
    files = f"{folder}/checkpoint", f"{folder}/entries"  # in this order: entries that are added meanwhile lie above it
    with copied(site.home, *files) as path, Log(path.parent, site.log_key, origin) as log:
        yield log


def logged(site: Site, folder: str = "log") -> list[Statement]:
    """Every entry of the exchanged log, or of `private-log`, its signature checked."""
    keys = [VerifyKey.from_hex(site.party[use]) for use in ("identity", "approver")]
    with log_copy(site, folder) as log:
        return [parse(entry, keys) for entry in log.entries()]


@contextmanager
def copied(home: Path, *names: str) -> Iterator[Path]:
    """A folder of its own with these files as they are now; the path of the last of them."""
    with tempfile.TemporaryDirectory(prefix="genopact-") as folder:
        for name in names:
            target = Path(folder) / name
            target.parent.mkdir(exist_ok=True)
            if (home / name).exists():
                shutil.copyfile(home / name, target)
        yield Path(folder) / names[-1]
