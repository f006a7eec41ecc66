"""A xorb as it is kept: its chunks unpacked, end to end, and behind them where each ends.

    chunks | end of each: u32 | number of chunks: u32 | "xorb"      (little-endian)

Unpacked once, when its hashes are checked; every file made of it afterwards is a plain copy.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from marketplace.hub.xet.xorbs import MAX_CHUNKS

_TAIL = struct.Struct("<I4s")
_MARK = b"xorb"


def write_xorb(path: Path, chunks: Iterable[bytes]) -> None:
    """Write the chunks to a new file."""
    ends: list[int] = []
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            ends.append(file.tell())
        file.write(struct.pack(f"<{len(ends)}I", *ends) + _TAIL.pack(len(ends), _MARK))


class SpooledXorb:
    """An open xorb. Raises FileNotFoundError, or ValueError when the file is not whole."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        try:
            self._ends = self._read_ends()
        except BaseException:
            self.close()
            raise

    def _read_ends(self) -> tuple[int, ...]:
        size = os.fstat(self._file.fileno()).st_size
        tail = self.read(max(0, size - _TAIL.size), _TAIL.size)
        count, mark = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (0, b"")
        start = size - _TAIL.size - 4 * count
        if mark != _MARK or not 0 < count <= MAX_CHUNKS or start < count:
            raise ValueError("not a whole xorb")
        ends = struct.unpack(f"<{count}I", self.read(start, 4 * count))
        if ends[-1] != start:
            raise ValueError("not a whole xorb")
        return ends

    def span(self, first: int, end: int) -> tuple[int, int] | None:
        """Where the chunks ``[first, end)`` begin and end; None when there are not so many."""
        if not 0 <= first < end <= len(self._ends):
            return None
        return (self._ends[first - 1] if first else 0), self._ends[end - 1]

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        self._file.close()
