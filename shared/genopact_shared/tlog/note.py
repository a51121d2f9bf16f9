"""Signed notes (c2sp.org/signed-note) with Ed25519, and checkpoints (c2sp.org/tlog-checkpoint) made of them."""

import hashlib
import re

from genopact_shared import dsse
from genopact_shared.errors import GenopactError, replacing, require
from genopact_shared.keys import SigningKey, VerifyKey
from genopact_shared.tlog.tree import HASH_BYTES, Head

ED25519 = b"\x01"
KEY_ID_BYTES = 4
MAX_NOTE_BYTES = 1 << 20
_DASH = "\u2014 "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


def key_id(name: str, key: VerifyKey) -> bytes:
    """The four bytes that, with the name, say which key signed a note. Not the `key_id` of DSSE envelopes."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + key.raw).digest()[:KEY_ID_BYTES]


def sign_note(text: str, name: str, key: SigningKey) -> bytes:
    """A note over `text`, which ends in a newline, under key name `name` (no spaces, no plus).

    Raises:
        GenopactError: NOTE_INVALID.
    """
    if not _is_name(name) or not text.endswith("\n") or _has_controls(text):
        raise GenopactError("NOTE_INVALID", "the text or the key's name cannot stand in a note")
    signature = dsse.in_base64(key_id(name, key.public) + key.sign(text.encode()))
    return f"{text}\n{_DASH}{name} {signature}\n".encode()


def open_note(note: bytes, name: str, key: VerifyKey) -> str:
    """The text of a note, if `key` under `name` signed it; other keys' signatures are ignored.

    Raises:
        GenopactError: NOTE_INVALID (form), SIGNATURE_INVALID (absent, or any under this key is wrong).
    """
    text, signatures = _split_note(note)
    known = name, key_id(name, key)
    mine = [signature[KEY_ID_BYTES:] for who, signature in signatures if (who, signature[:KEY_ID_BYTES]) == known]
    require(mine, "SIGNATURE_INVALID", "the expected key did not sign the note")
    for signature in mine:
        key.verify(signature, text.encode())
    return text


def sign_checkpoint(head: Head, origin: str, key: SigningKey) -> bytes:
    """The checkpoint of the log named `origin` at `head`."""
    return sign_note(f"{origin}\n{head.size}\n{dsse.in_base64(head.root)}\n", origin, key)


def open_checkpoint(note: bytes, origin: str, key: VerifyKey) -> Head:
    """The head that the log `origin` signed; extension lines are allowed and ignored.

    Raises:
        GenopactError: NOTE_INVALID, SIGNATURE_INVALID.
    """
    lines = open_note(note, origin, key)[:-1].split("\n")
    if len(lines) < 3 or "" in lines or lines[0] != origin or not _SIZE.fullmatch(lines[1]):
        raise GenopactError("NOTE_INVALID", "not a checkpoint of this log")
    root = unbase64(lines[2])
    require(len(root) == HASH_BYTES, "NOTE_INVALID", "a root has 32 bytes")
    return Head(int(lines[1]), root)


def unbase64(text: str) -> bytes:
    """Decode standard base64, in its one canonical spelling only.

    Raises:
        GenopactError: NOTE_INVALID.
    """
    with replacing(ValueError, GenopactError("NOTE_INVALID", "not canonical base64")):
        return dsse.unbase64(text)


def _split_note(note: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """Text and (key name, key id and signature) of each signature line; the last empty line divides them."""
    with replacing(UnicodeDecodeError, GenopactError("NOTE_INVALID", "not UTF-8")):
        whole = note.decode("utf-8") if len(note) <= MAX_NOTE_BYTES else ""
    at = whole.rfind("\n\n")
    if at < 0 or not whole.endswith("\n") or _has_controls(whole):
        raise GenopactError("NOTE_INVALID", "no text followed by signatures")
    return whole[: at + 1], [_signature(line) for line in whole[at + 2 : -1].split("\n")]


def _signature(line: str) -> tuple[str, bytes]:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    signature = unbase64(encoded)
    if not line.startswith(_DASH) or not _is_name(name) or len(signature) <= KEY_ID_BYTES:
        raise GenopactError("NOTE_INVALID", "a malformed signature line")
    return name, signature


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() for c in name) and not _has_controls(name)


def _has_controls(text: str) -> bool:
    return any(c < " " and c != "\n" for c in text)
