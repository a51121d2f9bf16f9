"""Any tree, note, proof or log survives its round trip, and any change to it is noticed."""

import base64
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_server.sitelogs import Proof, unpack, verify_inclusion
from genopact_shared.errors import GenopactError
from genopact_shared.keys import SigningKey
from genopact_shared.tlog import note
from genopact_shared.tlog.log import Log, encode_proof, pack
from genopact_shared.tlog.tree import Head, Tree, leaf_hash

KEY = SigningKey(bytes(32))
entries = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=80, unique=True)


@given(entries, st.data())
def test_any_entry_is_included(leaves: list[bytes], data: st.DataObject) -> None:
    tree = Tree.of(leaves)
    size = data.draw(st.integers(1, len(leaves)))
    index = data.draw(st.integers(0, size - 1))
    head = tree.head(size)
    assert head == Tree.of(leaves[:size]).head()
    verify_inclusion(leaf_hash(leaves[index]), index, tree.inclusion(index, size), head)


@given(entries, st.data())
def test_a_proof_shows_no_other_place_and_no_other_root(leaves: list[bytes], data: st.DataObject) -> None:
    tree = Tree.of(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    claim = data.draw(st.integers(-2, len(leaves) + 2))
    root = data.draw(st.sampled_from([tree.head().root, data.draw(st.binary(min_size=32, max_size=32))]))
    path = tree.inclusion(index, len(leaves))
    if (claim, root) != (index, tree.head().root):
        with pytest.raises(GenopactError):
            verify_inclusion(leaf_hash(leaves[index]), claim, path, Head(len(leaves), root))


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20))
def test_packed_entries_round_trip(values: list[bytes]) -> None:
    assert unpack(pack(values)) == tuple(values)


@given(st.binary(max_size=200))
def test_unpacking_anything_gives_entries_or_a_refusal(data: bytes) -> None:
    try:
        values = unpack(data)
    except GenopactError:
        return
    assert pack(values) == data


texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in range(32)]) | st.just("\n")
)


@given(texts)
def test_any_text_without_controls_makes_a_note(text: str) -> None:
    assert note.open_note(note.sign_note(text + "\n", "name", KEY), "name", KEY.public) == text + "\n"


@given(st.binary(max_size=400) | texts.map(str.encode))
def test_no_bytes_open_as_a_note_that_was_not_signed(data: bytes) -> None:
    with pytest.raises(GenopactError) as error:
        note.open_checkpoint(data, "name", KEY.public)
    assert error.value.code in {"NOTE_INVALID", "SIGNATURE_INVALID"}


@given(st.data())
def test_any_flipped_bit_of_a_checkpoint_closes_it(data: st.DataObject) -> None:
    signed = bytearray(note.sign_checkpoint(Tree.of([b"a"]).head(), "name", KEY))
    signed[data.draw(st.integers(0, len(signed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(GenopactError):
        note.open_checkpoint(bytes(signed), "name", KEY.public)


@given(
    st.integers(0, 2**62), st.lists(st.binary(min_size=32, max_size=32), max_size=5), st.none() | st.binary(max_size=40)
)
def test_proof_files_round_trip(index: int, path: list[bytes], extra: bytes | None) -> None:
    proof = Proof(index, tuple(path), note.sign_note("c\n", "name", KEY))
    text = encode_proof(index, path, proof.checkpoint)
    if extra is not None:
        first, rest = text.split(b"\n", 1)
        text = b"\n".join([first, b"extra " + base64.b64encode(extra), rest])
    assert Proof.decode(text) == proof


@given(st.binary(max_size=300) | st.lists(st.binary(max_size=33).map(base64.b64encode)).map(b"\n".join))
def test_no_bytes_break_the_proof_reader(data: bytes) -> None:
    for text in (data, b"c2sp.org/tlog-proof@v1\nindex 0\n" + data):
        try:
            proof = Proof.decode(text)
        except GenopactError:
            continue
        assert Proof.decode(encode_proof(proof.index, proof.path, proof.checkpoint)) == proof


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), st.data())
def test_a_log_cut_anywhere_keeps_all_whole_entries_or_does_not_open(values: list[bytes], data: st.DataObject) -> None:
    signed = data.draw(st.integers(0, len(values)))
    with tempfile.TemporaryDirectory() as folder:
        ends = [0]
        with Log(Path(folder), KEY, "name") as log:
            for number, value in enumerate(values):
                if number == signed:
                    log.checkpoint()
                log.append(value)
                ends.append((Path(folder) / "entries").stat().st_size)
            if signed == len(values):
                log.checkpoint()
        cut = data.draw(st.integers(0, ends[-1]))
        with (Path(folder) / "entries").open("r+b") as file:
            file.truncate(cut)
        whole = sum(end <= cut for end in ends) - 1
        if whole < signed:
            with pytest.raises(GenopactError) as error:
                Log(Path(folder), KEY, "name")
            assert error.value.code == "LOG_BROKEN"
        else:
            with Log(Path(folder), KEY, "name") as log:
                assert (list(log.entries()), log.cut) == (values[:whole], cut - ends[whole])
                assert log.append(b"next") == whole
