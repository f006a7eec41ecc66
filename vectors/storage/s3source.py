"""Ranged reads of an S3 object that do not become one request each.

The engine reads tensors in pieces of 64–256 KiB, several tensors of one file in turn. Each place
that is read on sequentially gets a window that grows from 1 to 8 MiB; a few windows are kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

from vectors.errors import _
from vectors.storage.base import missing_blob
from vectors.tensorfile.errors import TensorFileError

log = logging.getLogger(__name__)

WINDOWS = 6
FIRST_WINDOW = 1 << 20
LARGEST_WINDOW = 8 << 20
DIRECT = 4 << 20  # reads at least this long go past the windows
ATTEMPTS = 5

Fetch = Callable[[int, memoryview], None]


class _Window:
    """Bytes ``[start, stop)``, fetched once by whoever needs them first."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self._data: bytearray | None = None
        self._lock = threading.Lock()

    def data(self, fetch: Fetch) -> memoryview:
        with self._lock:
            if self._data is None:
                data = bytearray(self.stop - self.start)
                fetch(self.start, memoryview(data))
                self._data = data
            return memoryview(self._data)


class S3Source:
    """A ByteSource over ranged GETs of one immutable object."""

    def __init__(self, client: Any, bucket: str, key: str, size: int) -> None:
        self.name = key.rpartition("/")[2]
        self.size = size
        self._client, self._bucket, self._key = client, bucket, key
        self._windows: list[_Window] = []  # the one used last comes last
        self._lock = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset < 0 or offset + len(buffer) > self.size:
            raise TensorFileError(_("%(file)s ended early while it was read."), file=self.name)
        done = 0
        while done < len(buffer):
            position = offset + done
            window = self._window_at(position, len(buffer) - done)
            if window is None:
                self._fetch(position, buffer[done:])
                return
            try:
                data = window.data(self._fetch)
            except BaseException:
                self._forget(window)
                raise
            piece = data[position - window.start :][: len(buffer) - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)

    def close(self) -> None:
        with self._lock:
            self._windows.clear()

    def _window_at(self, position: int, wanted: int) -> _Window | None:
        """The window that has ``position``, a new one, or None when the read is long enough."""
        with self._lock:
            length = FIRST_WINDOW
            for window in reversed(self._windows):
                if window.start <= position < window.stop:
                    self._windows.remove(window)
                    self._windows.append(window)
                    return window
                if window.stop == position:  # read to its end: the reader goes on here
                    length = min(4 * (window.stop - window.start), LARGEST_WINDOW)
                    before = window
                    break
            else:
                before = None
            if wanted >= DIRECT:
                return None
            if before is not None:
                self._windows.remove(before)
            window = _Window(position, min(position + max(length, wanted), self.size))
            self._windows.append(window)
            del self._windows[:-WINDOWS]
            return window

    def _forget(self, window: _Window) -> None:
        with self._lock:
            if window in self._windows:
                self._windows.remove(window)

    def _fetch(self, start: int, buffer: memoryview) -> None:
        """GET into ``buffer``; a connection that breaks half way goes on where it broke.

        Storage that stays away is an OSError, not a Problem: it is not the file's fault.
        """
        done = 0
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(0.2 * 2**attempt)
            try:
                done += self._get(start + done, buffer[done:])
                if done == len(buffer):
                    return
                reason: object = "the connection was closed early"
            except (HTTPClientError, IncompleteReadError, OSError) as error:
                reason = error
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 416):
                    raise missing_blob(self.name) from error
                raise  # botocore has already tried again what is worth trying
            log.warning("reading %s at %d: %s", self._key, start + done, reason)
        raise OSError(f"storage did not give {self._key} at {start + done}: {reason}")

    def _get(self, start: int, buffer: memoryview) -> int:
        answer = self._client.get_object(
            Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{start + len(buffer) - 1}"
        )
        body = answer["Body"]
        done = 0
        try:
            while done < len(buffer):
                count = body.readinto(buffer[done:])
                if not count:
                    break
                done += count
        except (HTTPClientError, IncompleteReadError, OSError):
            if not done:
                raise
        finally:
            body.close()
        return done
