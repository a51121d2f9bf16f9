"""Everything that left: each reply's bytes are stored, durably, before they are sent; a retry resends them."""

import os
from collections.abc import Iterator
from pathlib import Path

from genopact_shared import durable


class Outbox:
    """A directory of reply frames, named by the digest of the request they answer."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path

    def put(self, request: str, frame: bytes) -> bytes:
        """Store a reply; returns the stored bytes. A request is answered once, so an existing reply wins."""
        if (stored := self.get(request)) is not None:
            return stored
        durable.replace(self._path / f"{request}.frame", frame)
        return frame

    def get(self, request: str) -> bytes | None:
        """The bytes that answered this request, if any."""
        path = self._path / f"{request}.frame"
        return path.read_bytes() if path.exists() else None

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """(request digest, frame) in the order in which they left."""
        for path in sorted(self._path.glob("*.frame"), key=os.path.getmtime):
            yield path.stem, path.read_bytes()
