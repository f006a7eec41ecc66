"""How a job is going, as server-sent events.

The row is the truth of a job, so who listens only looks at it again: twice a second, in a thread
that is borrowed for the look. A reload, a second tab and a line that broke begin anew and miss
nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from asgiref.sync import SyncToAsync, sync_to_async
from django.db import close_old_connections
from django.http import StreamingHttpResponse
from django.utils.translation import get_language, gettext, override

LOOK = 0.5  # seconds between two looks at the row
HEARTBEAT = 15.0  # seconds of silence after which a comment keeps the line open
LONGEST = 300.0  # seconds; then the browser connects again by itself
SETTLED = 3.0  # seconds before the pace says anything of the end

Look = Callable[[], dict[str, Any]]


def event_response(look: Look) -> StreamingHttpResponse:
    """Answer with events until ``look`` says that the job has ended.

    ``look`` returns what a page shows: ``state``, ``label``, ``detail``, ``done``, ``total`` and
    ``ended``. Call it in an asynchronous view; it is called in the reader's language.
    """
    response = StreamingHttpResponse(
        events(look, get_language() or "en"), content_type="text/event-stream"
    )
    response.headers["Cache-Control"] = "no-store, no-transform"
    response.headers["X-Accel-Buffering"] = "no"
    return response


async def events(look: Look, language: str) -> AsyncIterator[str]:
    """``progress`` whenever something has changed, and ``ended`` once, the last."""
    # Not the request's own thread: that would keep a connection to the database for each listener.
    read = sync_to_async(_looked, thread_sensitive=False)
    began = spoke = time.monotonic()
    pace, last = Pace(), ""
    yield "retry: 2000\n\n"
    await _let_go()
    while time.monotonic() - began < LONGEST:
        seen = await read(look, language)
        if seen["ended"]:
            yield event("ended", seen)
            return
        with override(language):
            left = pace.left(seen["done"], seen["total"])
        said = event("progress", {**seen, "left": left})
        now = time.monotonic()
        if said != last:
            yield said
            last, spoke = said, now
        elif now - spoke >= HEARTBEAT:
            yield ": still here\n\n"
            spoke = now
        await asyncio.sleep(LOOK)


async def _let_go() -> None:
    """Give back the thread, and the connection to the database, that came with the request.

    Django makes a thread for the synchronous work of a request and keeps it until the answer is
    sent; here that is minutes. Work at the end of the request gets another one.
    """
    await sync_to_async(close_old_connections)()
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is not None:
        thread = SyncToAsync.context_to_thread_executor.pop(context, None)
        if thread is not None:
            thread.shutdown(wait=False)


def event(name: str, data: dict[str, Any]) -> str:
    """One event; JSON has no line breaks."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


class Pace:
    """How long the rest takes, from what was done while one looked."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def left(self, done: int, total: int) -> str:
        """In words; empty while nothing can be said."""
        now = time.monotonic()
        if not total or not done:
            return ""
        if self._first is None or done <= self._first[1]:
            self._first = (now, done)  # what comes before the first answers says nothing
        began, before = self._first
        if now - began < SETTLED or done >= total:
            return ""
        seconds = (now - began) / (done - before) * (total - done)
        if seconds < 90:
            return gettext("about %(n)d s left") % {"n": max(5, 5 * round(seconds / 5))}
        return gettext("about %(n)d min left") % {"n": round(seconds / 60)}


def _looked(look: Look, language: str) -> dict[str, Any]:
    try:
        with override(language):
            return look()
    finally:
        # No request ends in this thread, so nobody else closes what the query opened.
        close_old_connections()
