"""Inflating: whole or refused."""

import gzip
import hashlib
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genopact_ingest import bgzf
from genopact_ingest.findings import Fault

HEADER = b"##fileformat=VCFv4.3\n"


def block(data: bytes) -> bytes:
    """Naive reference for one BGZF block."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    head = struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25)
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


def compressed(data: bytes, size: int = 0xFF00) -> bytes:
    return b"".join(block(data[at : at + size]) for at in range(0, len(data), size)) + bgzf.END


def inflated(path: Path, read: Callable[[Path], Iterator[memoryview]] = bgzf.blocks) -> bytes:
    return b"".join(map(bytes, read(path)))


def code(path: Path, content: bytes) -> str:
    """The fault of a file, or what it holds when it has none."""
    path.write_bytes(content)
    try:
        return "whole:" + hashlib.sha256(inflated(path)).hexdigest()
    except Fault as fault:
        return fault.code


def text(lines: int, seed: int = 1) -> bytes:
    rng = random.Random(seed)
    return HEADER + b"".join(
        b"%d\t" % n + rng.randbytes(rng.randrange(60)).hex().encode() + b"\n" for n in range(lines)
    )


@pytest.mark.parametrize("pack", [compressed, gzip.compress, bytes], ids=["bgzf", "gzip", "text"])
def test_the_bytes_are_those_of_the_file(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path, content = tmp_path / "x", text(70_000)
    path.write_bytes(pack(content))
    for read in bgzf.blocks, bgzf.lines:
        digest = hashlib.sha256()
        chunks = []
        for chunk in read(path, digest):
            chunks.append(bytes(chunk))
            assert read is bgzf.blocks or chunks[-1].endswith(b"\n")
        assert b"".join(chunks) == content
        assert len(chunks) > 1
        assert digest.digest() == hashlib.sha256(path.read_bytes()).digest()


@settings(deadline=None, max_examples=60)
@given(lines=st.lists(st.integers(0, 300), max_size=40), size=st.integers(1, 400), room=st.integers(0, 500))
def test_lines_across_blocks_and_chunks(
    lines: list[int], size: int, room: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = b"".join(b"x" * length + b"\n" for length in lines)
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(compressed(content, size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bgzf, "_SIZE", bgzf._BLOCK + room)
        patch.setattr(bgzf, "_ROOM", room)
        chunks = [bytes(chunk) for chunk in bgzf.lines(path)]
    assert b"".join(chunks) == content
    assert all(chunk.endswith(b"\n") for chunk in chunks)


def test_members_one_after_another(tmp_path: Path) -> None:
    path, content = tmp_path / "x", text(2000)
    path.write_bytes(b"".join(gzip.compress(content[at : at + 999]) for at in range(0, len(content), 999)))
    assert inflated(path) == content


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, so that a thousand files are read quickly."""
    monkeypatch.setattr(bgzf, "_SIZE", bgzf._BLOCK)
    monkeypatch.setattr(bgzf, "_ROOM", 1 << 10)


def test_bgzf_cut_off_at_any_byte_is_refused(tmp_path: Path, small: None) -> None:
    content = text(40)
    whole = compressed(content, 200)
    for length in range(1, len(whole)):
        assert code(tmp_path / "x", whole[:length]) in {"VCF_TRUNCATED", "VCF_CORRUPT", "VCF_UNREADABLE"}, length


def test_gzip_cut_off_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(text(20))
    for length in range(1, len(whole)):
        assert code(tmp_path / "x", whole[:length]) in {"VCF_TRUNCATED", "VCF_UNREADABLE"}, length


def test_any_flipped_bit_is_refused_or_harmless(tmp_path: Path, small: None) -> None:
    """Harmless: the padding after the last deflate code, or, in plain gzip, its time stamp and name."""
    content = text(7)
    same = "whole:" + hashlib.sha256(content).hexdigest()
    for whole, most in (compressed(content, 150), 0.02), (gzip.compress(content, mtime=0), 0.2):
        harmless = 0
        for at in range(0, 8 * len(whole), 3):  # of each byte two or three bits
            flipped = bytearray(whole)
            flipped[at // 8] ^= 1 << at % 8
            found = code(tmp_path / "x", bytes(flipped))
            assert found == same or not found.startswith("whole"), at
            harmless += found == same
        assert harmless <= most * 8 / 3 * len(whole)


def test_every_block_of_a_large_file(tmp_path: Path) -> None:
    content = text(40_000)
    whole = compressed(content, 0xFF00)
    sizes = [len(block(content[at : at + 0xFF00])) for at in range(0, len(content), 0xFF00)]
    rng = random.Random(2)
    for start in accumulate(sizes, initial=0):
        assert code(tmp_path / "x", whole[:start]) in {"VCF_TRUNCATED", "VCF_UNREADABLE"} or start == 0
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        assert code(tmp_path / "x", bytes(flipped)).startswith("VCF_")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (compressed(HEADER) + b"x", "VCF_CORRUPT"),
        (compressed(HEADER) + b"\0" * 40, "VCF_CORRUPT"),
        (compressed(HEADER) + compressed(HEADER), "VCF_CORRUPT"),
        (block(HEADER), "VCF_TRUNCATED"),
        (block(HEADER) + block(b"") + bgzf.END, "VCF_CORRUPT"),
        (block(HEADER)[:-4] + struct.pack("<I", 1 << 30) + bgzf.END, "VCF_CORRUPT"),
        (gzip.compress(HEADER) + bgzf.END, "VCF_CORRUPT"),
        (gzip.compress(HEADER) + b"x" * 20, "VCF_CORRUPT"),
        (b"BCF\2\2\0", "VCF_UNREADABLE"),
    ],
)  # fmt: skip
def test_what_is_no_whole_file(tmp_path: Path, content: bytes, expected: str) -> None:
    assert code(tmp_path / "x", content) == expected


def test_a_last_line_without_its_end(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(compressed(HEADER + b"half a line"))
    with pytest.raises(Fault) as caught:
        inflated(tmp_path / "x", bgzf.lines)
    assert caught.value.code == "VCF_TRUNCATED"


def test_only_local_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in tmp_path / "pipe", tmp_path, tmp_path / "absent", Path("https://example.org/x.vcf.gz"):
        with pytest.raises(Fault) as caught:
            inflated(path)
        assert caught.value.code == "VCF_UNREADABLE"


def test_a_line_without_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bgzf, "MAX_LINE", 1 << 20)
    (tmp_path / "x").write_bytes(compressed(b"x" * (5 << 20) + b"\n"))
    with pytest.raises(Fault) as caught:
        inflated(tmp_path / "x", bgzf.lines)
    assert caught.value.code == "VCF_LINE_LONG"
