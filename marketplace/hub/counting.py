"""Honest download counts: weights read to their last byte, once a reader, commit and day.

The note is made when the last byte has been handed to the network, in a thread of its own: it
delays nobody and, whatever goes wrong with it, breaks no download.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache as once
from typing import Any

from django.core.cache import cache
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections, transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone

from marketplace.hub.files import HubFile
from marketplace.hub.readers import is_automatic, reader_of
from marketplace.hub.repositories import Repository, Snapshot
from marketplace.hub.requests import Caller
from marketplace.models import Download
from merging.models import EquippedModel
from merging.services import count_equip
from vectors.commits import commit_of
from vectors.models import Foundation, Version

log = logging.getLogger(__name__)

WEIGHTS = ".safetensors"
REMEMBERED = 24 * 3600  # seconds that ranges of one file wait for the rest of it
MAX_SPANS = 500
_SENT = re.compile(r"bytes (\d+)-(\d+)/\d+", re.ASCII)

Counted = Foundation | Version
Span = tuple[int, int]


def counted(
    request: HttpRequest,
    caller: Caller,
    repository: Repository,
    snapshot: Snapshot,
    file: HubFile,
    response: HttpResponseBase,
) -> HttpResponseBase:
    """``response``, noting the download once its last byte has left."""
    span = _span(response, file.size)
    if request.method != "GET" or not file.path.endswith(WEIGHTS) or span is None:
        return response
    row = snapshot.source or getattr(snapshot.repository or repository, "row", None)
    reading = Reading(
        reader_of(request, caller.user), caller.user, is_automatic(request), file, span, row
    )
    if not isinstance(response, StreamingHttpResponse):  # storage itself sends the bytes
        _soon(request, lambda: reading.ended(span[1] - span[0]))
        return response
    pieces: Any = response.streaming_content
    response.streaming_content = (
        _watched_async(pieces, lambda sent: _soon(request, lambda: reading.ended(sent)))
        if response.is_async
        else _watched(pieces, reading.ended)
    )
    return response


@dataclass(frozen=True)
class Reading:
    """Somebody reads ``span`` of a file of weights."""

    reader: str
    user: Any
    automatic: bool
    file: HubFile
    span: Span
    row: object

    def ended(self, sent: int) -> None:
        """Note the download if, with the first ``sent`` bytes of the span, all of it was read."""
        try:
            if sent and self._is_whole(sent):
                if isinstance(self.row, EquippedModel) and not self.automatic:
                    count_equip(self.row, user=self.user, visit=self.reader)
                for each in _behind(self.row):
                    if not _is_of(self.user, each):
                        note_download(each, reader=self.reader, automatic=self.automatic)
        except Exception:
            log.exception("a download of %s was not counted", self.file.path)

    def _is_whole(self, sent: int) -> bool:
        """Whether this reader has read every byte by now, perhaps in several requests."""
        start, size = self.span[0], self.file.size
        if (start, sent) == (0, size):
            return True
        key = f"hub:read:{self.reader}:{self.file.etag}"
        spans = joined([*cache.get(key, ()), (start, start + sent)])
        if spans == [(0, size)]:
            cache.delete(key)
            return True
        cache.set(key, spans[:MAX_SPANS], REMEMBERED)
        return False


def note_download(of: Counted, *, reader: str, automatic: bool) -> None:
    """Count a download of ``of`` by ``reader``: the first of the day, and machines apart."""
    thing: Any = of if isinstance(of, Foundation) else of.vector
    kind = "foundation" if isinstance(of, Foundation) else "vector"
    with transaction.atomic():
        row, made = Download.objects.get_or_create(
            commit=commit_of(of),
            reader=reader,
            day=timezone.now().date(),
            defaults={kind: thing, "automatic": automatic},
        )
        if not made and not automatic:  # today a machine had it first
            seen = Download.objects.filter(pk=row.pk, automatic=True)
            made = bool(seen.update(automatic=False))
        if made and not automatic:
            type(thing)._default_manager.filter(pk=thing.pk).update(downloads=F("downloads") + 1)


def joined(spans: list[Span]) -> list[Span]:
    """The same bytes in as few spans as there can be, in order."""
    found: list[Span] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def _behind(row: object) -> list[Counted]:
    """What a download counts for: of an equipped model, the vectors that are its terms."""
    if isinstance(row, EquippedModel):
        terms = row.terms.select_related("version__vector")
        return list({term.version.vector_id: term.version for term in terms}.values())
    if isinstance(row, Version):
        return [row] if row.vector_id is not None else []
    return [row] if isinstance(row, Foundation) else []


def _is_of(user: Any, each: Counted) -> bool:
    """Whether the reader counts their own goods."""
    if not user.is_authenticated:
        return False
    owner = each.added_by_id if isinstance(each, Foundation) else each.owner_id
    return bool(user.pk == owner)


def _span(response: HttpResponseBase, size: int) -> Span | None:
    """The bytes of the file that ``response`` brings; None where it brings none."""
    if response.status_code in (200, 302):
        return 0, size
    found = _SENT.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code == 206 and found:
        return int(found[1]), int(found[2]) + 1
    return None


def _watched(pieces: Iterator[bytes], ended: Callable[[int], None]) -> Iterator[bytes]:
    """The pieces; then ``ended`` with the number of bytes that were taken."""
    sent = 0
    try:
        for piece in pieces:
            yield piece
            sent += len(piece)
    finally:
        ended(sent)


async def _watched_async(
    pieces: AsyncIterator[bytes], ended: Callable[[int], None]
) -> AsyncIterator[bytes]:
    sent = 0
    try:
        async for piece in pieces:
            yield piece
            sent += len(piece)  # asked for the next one: this one has gone to the network
    finally:
        ended(sent)


def _soon(request: HttpRequest, note: Callable[[], None]) -> None:
    """Do ``note``: under ASGI in the thread for it, where no event loop and no download waits."""
    if isinstance(request, ASGIRequest):
        _thread().submit(_and_close, note)
    else:
        note()


def _and_close(note: Callable[[], None]) -> None:
    try:
        note()
    finally:
        # No request ends in this thread, so nobody else closes what a query opened.
        close_old_connections()


@once
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="download-counter")
