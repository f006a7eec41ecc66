"""How far an ingest is, told line by line (NDJSON) while it runs.

    {"type": "validating", "verified": 1, "total": 2} … {"type": "result"}
                                                      or {"type": "error", "message": …}

The last line is told again when there is nothing new, because a client, or a proxy between, takes
a long silence for the end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import HttpRequest, StreamingHttpResponse

from marketplace.hub.xet.ingest import Progress
from vectors.errors import _, explain
from vectors.tensorfile.errors import Problem

log = logging.getLogger(__name__)

SILENCE = 15.0  # seconds
THREADS = 8  # shards at work at a time; the others wait

Frame = dict[str, Any]


def frames_response(request: HttpRequest, steps: Generator[Progress]) -> StreamingHttpResponse:
    """Answer with the frames of an ingest, which runs while they are read."""
    frames = frames_of(steps)
    lines: Any = _Told(frames) if isinstance(request, ASGIRequest) else map(_line, frames)
    return StreamingHttpResponse(
        lines,
        content_type="application/x-ndjson",
        headers={"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"},
    )


def frames_of(steps: Generator[Progress]) -> Generator[Frame]:
    """A frame for each step and one for the end, whichever it is."""
    try:
        for step in steps:
            yield {"type": "validating", "verified": step.done, "total": step.total}
        yield {"type": "result"}
    except Problem as problem:
        yield {"type": "error", "message": explain(problem), "retryable": False}
    except Exception:
        log.exception("an ingest broke off")
        sentence = _("Something went wrong on this site. Start the same upload again.")
        yield {"type": "error", "message": sentence, "retryable": True}
    finally:
        steps.close()


def _line(frame: Frame) -> bytes:
    return json.dumps(frame).encode() + b"\n"


class _Told:
    """The lines, made in threads. Django calls ``close`` at the end, whatever the end was."""

    def __init__(self, frames: Generator[Frame]) -> None:
        self._frames = frames
        self._lock = threading.Lock()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        line = _line({"type": "validating", "verified": 0, "total": 0})
        try:
            while True:
                yield line
                upcoming = asyncio.wrap_future(_threads().submit(self._next))
                while not (await asyncio.wait({upcoming}, timeout=SILENCE))[0]:
                    yield line
                frame = upcoming.result()
                if frame is None:
                    return
                line = _line(frame)
        finally:
            # Not awaited: a cancelled task may not wait, and the thread may be at work.
            _threads().submit(self.close)

    def close(self) -> None:
        with self._lock:
            self._frames.close()

    def _next(self) -> Frame | None:
        with self._lock:
            try:
                return next(self._frames, None)
            finally:
                # No request ends in these threads, so nobody else closes what a query opened.
                close_old_connections()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="ingest")
