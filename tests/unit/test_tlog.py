"""Tree, notes, checkpoints, proofs and the log on disk, against naive references and published vectors."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from genopact_server.sitelogs import Proof, unpack, verify_inclusion
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey, VerifyKey
from genopact_shared.tlog import note
from genopact_shared.tlog.log import MAX_ENTRY_BYTES, Log, encode_proof, pack
from genopact_shared.tlog.tree import EMPTY, Head, Tree, leaf_hash

GOLDEN = Path(__file__).parent.parent / "golden" / "tlog"
KEY = SigningKey(bytes(range(32)))
ORIGIN = "genopact.org/log/site-a"

# The eight inputs and the roots of the Certificate Transparency reference tests for RFC 6962.
CT_INPUTS = [
    bytes.fromhex(t)
    for t in ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(entries: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = naive_split(len(entries))
    return hashlib.sha256(b"\x01" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


def naive_path(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1."""
    if len(entries) == 1:
        return []
    k = naive_split(len(entries))
    if m < k:
        return [*naive_path(m, entries[:k]), naive_root(entries[k:])]
    return [*naive_path(m - k, entries[k:]), naive_root(entries[:k])]


def naive_split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def code(error: pytest.ExceptionInfo[GenopactError]) -> str:
    return error.value.code


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_of_the_certificate_transparency_vectors(size: int) -> None:
    assert Tree.of(CT_INPUTS[:size]).head() == Head(size, bytes.fromhex(CT_ROOTS[size - 1]))


def test_published_audit_path() -> None:
    tree = Tree.of(CT_INPUTS)
    assert [node.hex() for node in tree.inclusion(0, 8)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


def test_every_root_and_proof_up_to_33_leaves_equals_the_naive_one_and_verifies() -> None:
    entries = [b"entry %d" % i for i in range(33)]
    tree = Tree.of(entries)
    assert tree.head(0) == EMPTY == Head(0, naive_root([]))
    for size in range(1, 34):
        head = tree.head(size)
        assert head.root == naive_root(entries[:size])
        for index in range(size):
            path = tree.inclusion(index, size)
            assert path == naive_path(index, entries[:size])
            verify_inclusion(leaf_hash(entries[index]), index, path, head)


def test_no_altered_inclusion_proof_verifies() -> None:
    entries = [b"%d" % i for i in range(13)]
    tree = Tree.of(entries)
    head = tree.head()
    for index in range(13):
        path, leaf = tree.inclusion(index, 13), leaf_hash(entries[index])
        wrong: list[tuple[bytes, int, list[bytes], Head]] = [
            (leaf_hash(b"other"), index, path, head),
            (leaf, index, path[:-1], head),
            (leaf, index, [*path, bytes(32)], head),
            (leaf, -1, path, head),
            (leaf, 13, path, head),
            (leaf, index, path, Head(13, bytes(32))),
            *((leaf, other, path, head) for other in range(13) if other != index),
            *((leaf, index, [*path[:i], bytes(32), *path[i + 1 :]], head) for i in range(len(path))),
        ]
        for case in wrong:
            with pytest.raises(GenopactError) as error:
                verify_inclusion(*case)
            assert code(error) == "LOG_PROOF_INVALID"


@pytest.mark.parametrize("bad", [(-1, 3), (3, 3), (0, 4)])
def test_proofs_outside_the_tree_are_refused(bad: tuple[int, int]) -> None:
    tree = Tree.of([b"a", b"b", b"c"])
    with pytest.raises(ValueError, match="Expected"):
        tree.inclusion(*bad)


# --- notes

# The example note of Go's golang.org/x/mod/sumdb/note package: a foreign signer, and so a foreign encoder.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()


def test_a_note_that_go_signed_opens_and_its_key_id_is_ours() -> None:
    name, key_hash, encoded = GO_KEY.split("+", 2)
    raw = base64.b64decode(encoded)
    key = VerifyKey(raw[1:])
    assert raw[:1] == note.ED25519
    assert note.key_id(name, key).hex() == key_hash
    assert note.open_note(GO_NOTE, name, key).startswith("If you think")


def test_notes_ignore_other_keys_but_never_a_bad_signature_of_the_known_one() -> None:
    other = SigningKey.generate()
    text = f"{ORIGIN}\n1\n{'A' * 43}=\n"
    mine, theirs = note.sign_note(text, ORIGIN, KEY), note.sign_note(text, "witness", other)
    both = theirs + mine.split(b"\n\n")[1]
    assert note.open_note(both, ORIGIN, KEY.public) == note.open_note(both, "witness", other.public) == text
    forged = note.sign_note(text + "more\n", ORIGIN, KEY).split(b"\n\n")[1]
    for bad in (theirs, mine + forged, mine.replace(b"\n1\n", b"\n2\n")):
        with pytest.raises(GenopactError) as error:
            note.open_note(bad, ORIGIN, KEY.public)
        assert code(error) == "SIGNATURE_INVALID"


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "no blank line": lambda n: n.replace(b"\n\n", b"\n"),
    "no final newline": lambda n: n[:-1],
    "control character": lambda n: n.replace(b"site", b"si\x07te"),
    "carriage return": lambda n: n.replace(b"\n", b"\r\n"),
    "not UTF-8": lambda n: n.replace(b"site", b"si\xffte"),
    "hyphen for dash": lambda n: n.replace("—".encode(), b"-"),
    "no dash": lambda n: n.replace("— ".encode(), b""),
    "loose base64": lambda n: n[:-1] + b"=\n",
    "two spaces": lambda n: n.replace(b"site-a ", b"site-a  "),
    "empty": lambda n: b"",
    "huge": lambda n: b"a" * (1 << 20) + n,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_notes_are_refused(name: str) -> None:
    with pytest.raises(GenopactError) as error:
        note.open_note(MALFORMED[name](note.sign_note("text\n", ORIGIN, KEY)), ORIGIN, KEY.public)
    assert code(error) == "NOTE_INVALID"


@pytest.mark.parametrize(
    ("text", "name"), [("no newline", "a"), ("a\n", ""), ("a\n", "a b"), ("a\n", "a+b"), ("\t\n", "a")]
)
def test_texts_and_names_that_no_note_may_hold_are_not_signed(text: str, name: str) -> None:
    with pytest.raises(GenopactError):
        note.sign_note(text, name, KEY)


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n1\n",
        f"other\n1\n{ROOT}\n",
        f"{ORIGIN}\n01\n{ROOT}\n",
        f"{ORIGIN}\n-1\n{ROOT}\n",
        f"{ORIGIN}\n\u0661\n{ROOT}\n",
        f"{ORIGIN}\n1\nAAAA\n",
        f"{ORIGIN}\n1\n{ROOT}\n\nextension\n",
    ],
)
def test_signed_texts_that_are_no_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(GenopactError) as error:
        note.open_checkpoint(note.sign_note(text, ORIGIN, KEY), ORIGIN, KEY.public)
    assert code(error) == "NOTE_INVALID"


def test_extension_lines_are_allowed() -> None:
    signed = note.sign_note(f"{ORIGIN}\n1\n{ROOT}\nextension\n", ORIGIN, KEY)
    assert note.open_checkpoint(signed, ORIGIN, KEY.public) == Head(1, bytes(32))


# --- frozen forms


def golden_tree() -> Tree:
    return Tree.of(b"entry %d" % i for i in range(5))


def test_frozen_note_checkpoint_proof_and_entries() -> None:
    checkpoint = note.sign_checkpoint(golden_tree().head(), ORIGIN, KEY)
    proof = encode_proof(3, golden_tree().inclusion(3, 5), checkpoint)
    assert note.sign_note("A line.\n\nAnother.\n", "genopact.org/key", KEY) == (GOLDEN / "note.txt").read_bytes()
    assert checkpoint == (GOLDEN / "checkpoint.txt").read_bytes()
    assert proof == (GOLDEN / "entry-3.tlog-proof").read_bytes()
    assert pack(b"entry %d" % i for i in range(5)) == (GOLDEN / "entries.bin").read_bytes()


def test_a_frozen_proof_verifies_and_an_altered_one_does_not() -> None:
    data = (GOLDEN / "entry-3.tlog-proof").read_bytes()
    assert Proof.decode(data).verify(b"entry 3", ORIGIN, KEY.public) == golden_tree().head()
    for entry, changed in [(b"entry 2", data), (b"entry 3", data.replace(b"index 3", b"index 2"))]:
        with pytest.raises(GenopactError) as error:
            Proof.decode(changed).verify(entry, ORIGIN, KEY.public)
        assert code(error) == "LOG_PROOF_INVALID"
    with pytest.raises(GenopactError):
        Proof.decode(data).verify(b"entry 3", ORIGIN, SigningKey.generate().public)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"@v1", b"@v2"),
        (b"index 3", b"index 03"),
        (b"index", b"extra"),
        (b"index 3\n", b""),
        (b"=\n", b"\n"),
        (b"index", b"\xff"),
    ],
)
def test_malformed_proofs_are_refused(old: bytes, new: bytes) -> None:
    data = (GOLDEN / "entry-3.tlog-proof").read_bytes()
    with pytest.raises(GenopactError) as error:
        Proof.decode(data.replace(old, new, 1))
    assert code(error) == "NOTE_INVALID"


# --- the log on disk


def test_a_log_numbers_keeps_and_proves_entries_across_opening(tmp_path: Path) -> None:
    with Log(tmp_path / "log", KEY, ORIGIN) as log:
        assert [log.append(b"entry %d" % i) for i in range(3)] == [0, 1, 2]
        early = log.checkpoint()
    with Log(tmp_path / "log", KEY, ORIGIN) as log:
        assert log.append(b"entry 3") == 3
        assert (log.size, log.entry(3), list(log.entries())[:2]) == (4, b"entry 3", [b"entry 0", b"entry 1"])
        head = Proof.decode(log.proof(1)).verify(b"entry 1", ORIGIN, KEY.public)
        assert head.root == naive_root(list(log.entries()))
        log.must_extend(early)
        packed, checkpoint = log.export()
    assert Tree.of(unpack(packed)).head() == note.open_checkpoint(checkpoint, ORIGIN, KEY.public) == head


@pytest.mark.parametrize("size", [0, MAX_ENTRY_BYTES + 1])
def test_entries_that_no_bundle_holds_are_refused_and_leave_the_log_as_it_was(tmp_path: Path, size: int) -> None:
    with Log(tmp_path, KEY, ORIGIN) as log:
        with pytest.raises(GenopactError) as error:
            log.append(bytes(size))
        assert (code(error), log.size, log.append(b"next")) == ("LOG_ENTRY_INVALID", 0, 0)


def test_the_longest_entry_fits(tmp_path: Path) -> None:
    with Log(tmp_path, KEY, ORIGIN) as log:
        log.append(b"x" * MAX_ENTRY_BYTES)
    with Log(tmp_path, KEY, ORIGIN) as log:
        assert log.entry(0) == b"x" * MAX_ENTRY_BYTES


def test_a_closed_log_answers_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path, KEY, ORIGIN)
    log.append(b"a")
    log.close()
    for call in (lambda: log.append(b"b"), log.checkpoint, lambda: log.entry(0)):
        with pytest.raises(GenopactError) as error:
            call()
        assert code(error) == "LOG_WRITE_FAILED"


def test_no_entry_outside_the_log(tmp_path: Path) -> None:
    with Log(tmp_path, KEY, ORIGIN) as log, pytest.raises(IndexError):
        log.entry(-1)


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x00", b"\x00\x02a", b"\x00\x01a\x00"])
def test_cut_or_empty_packed_entries_are_refused(data: bytes) -> None:
    with pytest.raises(GenopactError) as error:
        unpack(data)
    assert code(error) == "LOG_ENTRY_INVALID"
