"""Where bytes come from: one small interface, and its implementation for a local file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from .errors import TensorFileError, _


class ByteSource(Protocol):
    """Random access to immutable bytes. Implementations are safe to use from several threads."""

    name: str
    size: int

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole of ``buffer`` from byte ``offset``; raise TensorFileError if it cannot."""

    def close(self) -> None: ...


class FileSource:
    """A local file read by position. Never mapped: a file cut by somebody else must be an error
    of ours, not a signal that kills the process."""

    _fd = -1  # what is not open needs no closing

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.name = name or path.name
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise TensorFileError(
                _("%(file)s cannot be opened: %(reason)s."),
                file=str(path),
                reason=error.strerror or str(error),
            ) from error
        status = os.fstat(self._fd)
        self.size = status.st_size
        self._stamp = (status.st_size, status.st_mtime_ns)

    @property
    def descriptor(self) -> int:
        """The number of the open file."""
        return self._fd

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if count == 0:
                raise TensorFileError(
                    _("%(file)s ended early while it was read: it was cut or replaced."),
                    file=self.name,
                )
            done += count

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes, without the copy that a buffer would take to become bytes."""
        piece = os.pread(self._fd, count, offset)
        if len(piece) == count:
            return piece
        rest = bytearray(count - len(piece))
        self.read_into(offset + len(piece), memoryview(rest))
        return piece + rest

    def check_unchanged(self) -> None:
        """Raise TensorFileError when the file was written to since it was opened."""
        status = os.fstat(self._fd)
        if (status.st_size, status.st_mtime_ns) != self._stamp:
            raise TensorFileError(
                _("%(file)s changed while it was read. Let the other program finish, then retry."),
                file=self.name,
            )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class MemorySource:
    """Bytes held in memory: generated headers, small test files."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.size = len(data)
        self._data = data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        piece = self._data[offset : offset + len(buffer)]
        if len(piece) != len(buffer):
            raise TensorFileError(_("%(file)s ended early while it was read."), file=self.name)
        buffer[:] = piece

    def close(self) -> None:
        pass


def read_bytes(source: ByteSource, start: int = 0, stop: int | None = None) -> bytes:
    """Return the bytes ``[start, stop)`` of ``source`` (to its end by default)."""
    stop = source.size if stop is None else stop
    if isinstance(source, FileSource):
        return source.read(start, stop - start)
    buffer = bytearray(stop - start)
    source.read_into(start, memoryview(buffer))
    return bytes(buffer)
