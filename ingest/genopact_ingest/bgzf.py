"""The inflated bytes of a local file: BGZF, gzip or plain text.

A damaged or cut off file is a fault, never fewer or other bytes: each block's CRC32 and length are checked, BGZF ends
with its end block and with nothing after it. Plain text and gzip cut between two members cannot show that they are cut;
a line without its end does.
Source: SAM specification (SAMtools/hts-specs) section 4.1; RFC 1952.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from isal import isal_zlib

from genopact_ingest.findings import Fault, require
from genopact_shared.errors import replacing

MAX_LINE = 256 << 20
END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
HEAD = END[:16]
"""Of every block; its size less one follows."""
_BLOCK = 1 << 16  # a block's greatest size, inflated or not
_SIZE = 2 << 20  # of a chunk; more would leave the processor's cache before it is read
_READ = 1 << 20
_ROOM = 1 << 18  # before the inflated bytes of a buffer, for the start of a line in the last one
Chunk = tuple[bytes | bytearray, int, int]
"""A buffer, and where its bytes start and end; what lies before these may be overwritten."""
_DAMAGED = cast("type[Exception]", isal_zlib.error)  # isal's stub calls it an instance


class Digest(Protocol):
    """A running hash, such as hashlib.sha256()."""

    def update(self, data: bytes, /) -> None:
        """Takes more bytes."""


def blocks(path: Path, digest: Digest | None = None) -> Generator[memoryview]:
    """The file's inflated bytes in order, each chunk valid until the next one is asked for.

    Args:
        path: a local regular file.
        digest: takes the file's own bytes in passing.

    Raises:
        Fault: VCF_UNREADABLE, VCF_TRUNCATED, VCF_CORRUPT.
    """
    with closing(_chunks(path, digest or hashlib.sha256())) as chunks:
        for buffer, start, end in chunks:
            yield memoryview(buffer)[start:end].toreadonly()


def lines(path: Path, digest: Digest | None = None) -> Generator[memoryview]:
    """The same as chunks of whole lines, each chunk ending with a line feed.

    Raises:
        Fault: as of blocks and of whole_lines.
    """
    with closing(_chunks(path, digest or hashlib.sha256())) as chunks:
        yield from whole_lines(chunks)


def whole_lines(chunks: Iterable[Chunk]) -> Generator[memoryview]:
    """Chunks cut at the ends of lines.

    Raises:
        Fault: VCF_TRUNCATED if the last line has no end; VCF_LINE_LONG.
    """
    carry = b""
    for chunk in chunks:
        buffer, start, end = chunk
        if isinstance(buffer, bytearray) and len(carry) <= start:
            buffer[start - len(carry) : start] = carry
            start -= len(carry)
        else:
            buffer = carry + buffer[start:end]
            start, end = 0, len(buffer)
        last = max(start, buffer.rfind(b"\n", start, end) + 1)
        if last > start:
            yield memoryview(buffer)[start:last].toreadonly()
        carry = bytes(buffer[last:end])
        require(len(carry) <= MAX_LINE, "VCF_LINE_LONG")
    require(not carry, "VCF_TRUNCATED", "(the last line has no end)")


def _chunks(path: Path, digest: Digest) -> Generator[Chunk]:
    with replacing(_DAMAGED, Fault("VCF_CORRUPT")), replacing(OSError, Fault("VCF_UNREADABLE")):
        require(path.is_file(), "VCF_UNREADABLE", "(not a regular local file)")  # a pipe would block
        with path.open("rb") as file:
            head = file.read(len(HEAD))
            file.seek(max(0, path.stat().st_size - len(END)))
            whole = file.read() == END
            file.seek(0)
            if head == HEAD:
                yield from _bgzf(file, digest)
            elif whole:
                raise Fault("VCF_CORRUPT", "(BGZF's end without its start)")
            elif head[:1] == HEAD[:1]:
                yield from _gzip(file, digest)
            else:
                while data := file.read(_READ):
                    digest.update(data)
                    require(b"\0" not in data, "VCF_UNREADABLE", "(neither text nor gzip)")
                    yield data, 0, len(data)


def _bgzf(file: BinaryIO, digest: Digest) -> Generator[Chunk]:
    buffer = bytearray(_ROOM + _SIZE)  # used again and again: fresh memory costs more than inflating into it
    view, end = memoryview(buffer), _ROOM
    for block in _whole_blocks(file, digest):
        size = int.from_bytes(block[-4:], "little")
        require(0 < size <= _BLOCK, "VCF_CORRUPT")
        # With a gzip wrapper isal checks CRC32 and length itself.
        data = isal_zlib.decompress(block, wbits=31, bufsize=size)
        require(len(data) == size, "VCF_CORRUPT")  # else the deflate stream ends before the block does
        view[end : end + size] = data
        end += size
        if end + _BLOCK > len(buffer):
            yield buffer, _ROOM, end
            end = _ROOM
    if end > _ROOM:
        yield buffer, _ROOM, end


def _whole_blocks(file: BinaryIO, digest: Digest) -> Iterator[memoryview]:
    """As they lie in the file, without the end block."""
    data, ended = b"", False
    while more := file.read(_READ):
        digest.update(more)
        data += more
        view, at = memoryview(data), 0
        while len(data) - at >= len(HEAD) + 2:
            sound = not ended and data[at : at + len(HEAD)] == HEAD
            require(sound, "VCF_CORRUPT", "(bytes after the end block, or a damaged block)")
            end = at + int.from_bytes(data[at + 16 : at + 18], "little") + 1
            if end > len(data):
                break
            ended = data[at:end] == END
            if not ended:
                yield view[at:end]
            at = end
        data = data[at:]
    require(not (ended and data), "VCF_CORRUPT", "(bytes after the end block)")
    require(ended, "VCF_TRUNCATED")


def _gzip(file: BinaryIO, digest: Digest) -> Generator[Chunk]:
    """Members one after another."""
    member = None
    while data := file.read(_BLOCK):  # a thousand times as much may come out at once
        digest.update(data)
        while data:
            member = member or isal_zlib.decompressobj(wbits=31)
            chunk = member.decompress(data)
            if chunk:
                yield chunk, 0, len(chunk)
            data, member = (member.unused_data, None) if member.eof else (b"", member)
    require(not member, "VCF_TRUNCATED")
