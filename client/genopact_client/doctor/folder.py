"""Checks of the folder: what is installed, who can read it, keys, policy, disk."""

import shutil
from pathlib import Path

from genopact_client.doctor.subject import Subject, Unsound, expect
from genopact_client.installed import refuse_mixed
from genopact_client.link import nodekey
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey

FREE_BYTES = 1 << 30
_PRIVATE = (
    "kek", "keys", "keyfile", "people.db", "consent.db", "store", "ledger", "studies", "runs", "outbox", "openings",
)  # fmt: skip


def installation(_: Subject) -> str:
    """One distribution alone is installed."""
    refuse_mixed()
    return "one distribution"


def folder(subject: Subject) -> str:
    """Other accounts cannot enter the site's folder, but for its group on the way to the socket."""
    home = subject.site.home
    inside = [(home / name, 0o077) for name in _PRIVATE]
    exposed = [path for path, mask in [(home, 0o027), *inside] if path.exists() and path.stat().st_mode & mask]
    remedy = f"Run: chmod g-w,o-rwx {home}; chmod -R go-rwx PATH for the others that are named."
    expect(not exposed, f"other accounts can enter {' '.join(map(str, exposed))}", remedy)
    return "only its owner can read it"


def approver(subject: Subject) -> str:
    """The approver's key is not within the agent's reach."""
    home, wanted = subject.site.home, bytes.fromhex(subject.site.party["approver"])
    for path in home.rglob("*.key"):
        if path.is_file() and path.stat().st_size == 65 and _public_of(path) == wanted:
            remedy = f"Move it out of {home}, offline, to the person who approves."
            raise Unsound("problem", f"{path} is the approver's key", remedy)
    return "not in the site's folder"


def _public_of(path: Path) -> bytes | None:
    try:
        return SigningKey(bytes.fromhex(path.read_text("ascii").strip())).public.raw
    except ValueError:
        return None


def keys(subject: Subject) -> str:
    """Identity, log key and key file open and are those of the card."""
    if not subject.site.card().items() <= subject.site.party.items():
        raise GenopactError("KEY_INVALID", "the keys are not those of the site's card")
    return f"identity and log open; {len(subject.site.keyfile)} people have or had a key"


def node_key(subject: Subject) -> str:
    """The link's key opens."""
    nodekey.load(subject.site.home / "link" / "node.key")
    return "opens"


def policy(subject: Subject) -> str:
    """The site policy loads, decides its own examples, and is of this site."""
    return f"loads, and {len(subject.site.policy.examples.cases)} examples are decided as they say"


def disk(subject: Subject) -> str:
    """There is space to grow."""
    free = shutil.disk_usage(subject.site.home).free
    expect(free >= FREE_BYTES, f"{free >> 20} MiB are free", "Add space: ledger and logs must be able to grow.")
    return f"{free >> 30} GiB free"
