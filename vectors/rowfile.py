"""The coarse rows of a foundation's vectors in one memory-mapped file, so that all are near.

A cache: the rows are in the database, and a file that is deleted is written again. ``rows`` holds
the rows' bytes one after the other, ``keys`` what each is: the SHA-256 of its sketch and its
scale. Rows are only ever added, ``keys`` last, and a row says nothing about who may see the
vector: whoever asks names the sketches.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vectors.tensorfile.coarse import SCALE_BYTES

_KEY = struct.Struct("<32sf")

Load = Callable[[Sequence[str]], Iterable[tuple[str, bytes]]]


@dataclass
class Rows:
    """Rows (K, width), their scales, and where each sketch asked for is; -1 where nowhere."""

    rows: np.ndarray
    scales: np.ndarray
    which: np.ndarray


@dataclass
class _Index:
    """What was read of ``keys``, and the last of it as it was read."""

    where: dict[str, int] = field(default_factory=dict)
    scales: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    last: bytes = b""


class RowFile:
    """One foundation's rows of ``width`` bytes, in the folder ``path``. Safe between processes."""

    def __init__(self, path: Path, width: int) -> None:
        self._path, self._width = path, width
        self._index = _Index()
        self._lock = threading.Lock()

    def rows(self, sketches: Sequence[str], load: Load) -> Rows:
        """The rows of ``sketches`` (SHA-256 each). ``load`` fetches those the file lacks."""
        with self._lock:
            self._read_keys()
            found = self._places(sketches)
            if -1 in found:
                missing = (sha for sha, place in zip(sketches, found, strict=True) if place < 0)
                self._add(list(dict.fromkeys(missing)), load)
                found = self._places(sketches)
            scales = self._index.scales
        rows: np.ndarray = np.empty((0, self._width), np.int8)
        if len(scales):
            shape = (len(scales), self._width)
            rows = np.asarray(np.memmap(self._path / "rows", np.int8, "r", shape=shape))
        return Rows(rows, scales, np.array(found, np.int64))

    def _places(self, sketches: Sequence[str]) -> list[int]:
        where = self._index.where
        return [where.get(sha, -1) for sha in sketches]

    def _read_keys(self) -> None:
        try:
            data = self._read_from(max(0, len(self._index.scales) - 1))
        except FileNotFoundError:
            self._index = _Index()
            return
        if self._index.last and data[: _KEY.size] == self._index.last:
            data = data[_KEY.size :]
        elif self._index.last:  # another file by now
            self._index = _Index()
            data = self._read_from(0)
        data = data[: len(data) // _KEY.size * _KEY.size]
        if not data:
            return
        known, found = self._index, list(_KEY.iter_unpack(data))
        scales = np.array([scale for _key, scale in found], np.float32)
        # New objects: another thread may be looking at the old ones.
        self._index = _Index(
            known.where | {key.hex(): len(known.scales) + i for i, (key, _s) in enumerate(found)},
            np.append(known.scales, scales),
            data[-_KEY.size :],
        )

    def _read_from(self, number: int) -> bytes:
        with (self._path / "keys").open("rb") as handle:
            handle.seek(number * _KEY.size)
            return handle.read()

    def _add(self, missing: Sequence[str], load: Load) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        with (self._path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._read_keys()
            wanted = [sha for sha in missing if sha not in self._index.where]
            if not wanted:
                return
            with (
                (self._path / "rows").open("ab") as rows,
                (self._path / "keys").open("ab") as keys,
            ):
                count = len(self._index.scales)
                rows.truncate(count * self._width)  # what a killed process left
                keys.truncate(count * _KEY.size)
                entries = []
                for sha, row in load(wanted):
                    rows.write(row[SCALE_BYTES:])
                    entries.append(_KEY.pack(bytes.fromhex(sha), *struct.unpack_from("<f", row)))
                rows.flush()
                os.fsync(rows.fileno())
                keys.write(b"".join(entries))
            self._read_keys()
