"""Large responses under ASGI: byte ranges, validators, bounded memory.

Django reads a synchronous iterator to its end before it sends the first byte under ASGI, so a
``FileResponse`` of 3 GB takes 3 GB of memory. Here bytes come from an iterator that runs in
threads, one piece ahead of what is being sent, and that is closed when the client goes away.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial

from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    StreamingHttpResponse,
)

from vectors.models import Blob
from vectors.storage.current import storage
from vectors.storage.disposition import disposition
from vectors.tensorfile.source import read_bytes

log = logging.getLogger(__name__)

PIECE = 1 << 20
# Threads that read or compute pieces. A slow client holds none: its next piece is ready and waits.
THREADS = 32

Open = Callable[[int, int], Iterator[bytes]]

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})", re.IGNORECASE | re.ASCII)
_ETAG = re.compile(r'(?:W/)?"[^"]*"')


def ranged_response(
    request: HttpRequest,
    *,
    size: int,
    etag: str,
    content_type: str,
    file_name: str,
    open_range: Open,
    inline: bool = False,
    headers: Mapping[str, str] | None = None,
) -> HttpResponseBase:
    """Answer GET or HEAD for ``size`` bytes that never change under ``etag`` (strong, unquoted).

    ``open_range(start, stop)`` returns an iterator of the bytes ``[start, stop)``; it is opened,
    advanced and closed in threads, one at a time, and not at all for HEAD, 304 and 416.
    ``inline`` lets the browser show it: only for types that it cannot run.
    """
    quoted = f'"{etag}"'
    common = {
        "ETag": quoted,
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(file_name, inline=inline),
        **_HEADERS,
        **(headers or {}),
    }
    if _matches(request.headers.get("If-None-Match", ""), quoted):
        return _respond(request, lambda: iter(()), 0, "", 304, common)
    status, start, stop = _range(request, size, quoted)
    if status == 416:
        common["Content-Range"] = f"bytes */{size}"
        del common["Content-Disposition"]
        return _respond(request, lambda: iter(()), 0, "", 416, common)
    if status == 206:
        common["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return _respond(
        request, partial(open_range, start, stop), stop - start, content_type, status, common
    )


def stream_response(
    request: HttpRequest,
    *,
    size: int,
    content_type: str,
    file_name: str,
    pieces: Iterator[bytes],
    headers: Mapping[str, str] | None = None,
) -> HttpResponseBase:
    """Answer GET or HEAD for ``size`` bytes that can only be made from the start (a zip).

    ``pieces`` is advanced and closed in threads, and not advanced at all for HEAD.
    """
    common = {
        "Accept-Ranges": "none",
        "Content-Disposition": disposition(file_name),
        **_HEADERS,
        **(headers or {}),
    }
    return _respond(request, lambda: pieces, size, content_type, 200, common)


def blob_response(
    request: HttpRequest,
    blob: Blob,
    file_name: str,
    *,
    content_type: str = "application/octet-stream",
    inline: bool = False,
    headers: Mapping[str, str] | None = None,
) -> HttpResponseBase:
    """Answer GET or HEAD for a stored file; its ETag is its SHA-256."""
    return ranged_response(
        request,
        size=blob.size,
        etag=blob.sha256,
        content_type=content_type,
        file_name=file_name,
        open_range=partial(read_blob, blob.sha256),
        inline=inline,
        headers=headers,
    )


def read_blob(sha256: str, start: int, stop: int) -> Iterator[bytes]:
    """The bytes ``[start, stop)`` of a blob, in pieces of 1 MiB."""
    source = storage().open(sha256)
    try:
        while start < stop:
            piece = read_bytes(source, start, min(start + PIECE, stop))
            start += len(piece)
            yield piece
    finally:
        source.close()


_HEADERS = {
    # Bytes as they are: a proxy must neither compress them nor collect them first.
    "Cache-Control": "private, no-transform",
    "X-Accel-Buffering": "no",
}


def _respond(
    request: HttpRequest,
    open_pieces: Callable[[], Iterator[bytes]],
    length: int,
    content_type: str,
    status: int,
    headers: Mapping[str, str],
) -> HttpResponseBase:
    response: HttpResponseBase
    if request.method == "HEAD" and status != 304:
        response = HttpResponse(status=status, content_type=content_type)
    elif isinstance(request, ASGIRequest):
        response = StreamingHttpResponse(
            _Ahead(open_pieces, length), status=status, content_type=content_type
        )
    else:
        response = StreamingHttpResponse(
            _exactly(open_pieces(), length), status=status, content_type=content_type
        )
    for name, value in headers.items():
        response.headers[name] = value
    if status != 304:  # whose length would have to be that of the whole
        response.headers["Content-Length"] = str(length)
    if not content_type:
        del response.headers["Content-Type"]
    return response


def _range(request: HttpRequest, size: int, etag: str) -> tuple[int, int, int]:
    """Status 200, 206 or 416, and the bytes ``[start, stop)`` to send (RFC 9110, section 14)."""
    asked = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    # Several ranges, other units and nonsense are answered with the whole, as the RFC allows.
    if asked is None or request.method != "GET":
        return 200, 0, size
    condition = request.headers.get("If-Range", "").strip()
    if condition and condition != etag:  # a date or a weak tag cannot vouch for these very bytes
        return 200, 0, size
    first, last = asked.groups()
    if not first:
        if not last:
            return 200, 0, size
        return (206, max(0, size - int(last)), size) if int(last) and size else (416, 0, 0)
    if last and int(last) < int(first):
        return 200, 0, size
    if int(first) >= size:
        return 416, 0, 0
    return 206, int(first), min(int(last) + 1, size) if last else size


def _matches(condition: str, etag: str) -> bool:
    """If-None-Match, by weak comparison."""
    if condition.strip() == "*":
        return True
    return any(found.removeprefix("W/") == etag for found in _ETAG.findall(condition))


def _exactly(pieces: Iterator[bytes], length: int) -> Iterator[bytes]:
    """The pieces; an error when they are not ``length`` bytes, which ends the connection."""
    try:
        for piece in pieces:
            length -= len(piece)
            if length < 0:
                break
            yield piece
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
    if length:
        raise RuntimeError(
            f"a download was {abs(length)} bytes too {'long' if length < 0 else 'short'}"
        )


class _Ahead:
    """An asynchronous iterator over a synchronous one, at most one piece ahead.

    Django calls ``close`` at the end of the response, whatever the end was.
    """

    def __init__(self, open_pieces: Callable[[], Iterator[bytes]], length: int) -> None:
        self._open, self._length = open_pieces, length
        self._pieces: Iterator[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        upcoming = self._submit()
        try:
            while True:
                piece = await asyncio.wrap_future(upcoming)
                if piece is None:
                    return
                upcoming = self._submit()
                yield piece
        except Exception:
            log.exception("a download broke off")
            raise
        finally:
            # Not awaited: a cancelled task may not wait. The thread waits for the piece that is
            # being made, because a running generator cannot be closed.
            _threads().submit(self.close)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()

    def _submit(self) -> Future[bytes | None]:
        return _threads().submit(self._next)

    def _next(self) -> bytes | None:
        with self._lock:
            if self._closed:
                return None
            try:
                if self._pieces is None:
                    self._pieces = _exactly(self._open(), self._length)
                return next(self._pieces, None)
            finally:
                # No request ends in these threads, so nobody else closes what a query opened.
                close_old_connections()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="download")
