"""Reading what a build has written: a file in storage in place of the stream, while it is there.

A build is a cache. Whatever ails one of its files, the stream goes on at the very byte where the
file ended: both are the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta

from django.conf import settings as site
from django.db import DatabaseError
from django.db.models import Q
from django.utils import timezone

from merging.build_models import Build, BuildFile, BuildState
from merging.builds import evict
from vectors.downloads import read_blob
from vectors.storage.current import storage
from vectors.tensorfile.errors import Problem

log = logging.getLogger(__name__)

USED_AGAIN_AFTER = timedelta(minutes=1)  # a build that is read all the time is not written to
DIRECT_SECONDS = 600  # that an address of storage's own lives: a grant may end, and the build

Stream = Callable[[int, int], Iterator[bytes]]


def built_files(equipped_id: int) -> dict[str, BuildFile]:
    """The files of a recipe that lie in storage, by ETag; none where the operator keeps none."""
    build = Build.objects.filter(equipped=equipped_id).first()
    if build is None or not site.ARMORY_BUILDS_BYTES:
        return {}
    return {file.etag: file for file in build.files.filter(stored=True).select_related("blob")}


def built_file(equipped_id: int, etag: str) -> BuildFile | None:
    """One of them."""
    if not site.ARMORY_BUILDS_BYTES:
        return None
    files = BuildFile.objects.filter(build__equipped=equipped_id, etag=etag, stored=True)
    return files.select_related("build").first()


def read_built(file: BuildFile, start: int, stop: int, stream: Stream) -> Iterator[bytes]:
    """Bytes ``[start, stop)`` of a file from storage; from ``stream`` what is not there."""
    note_use(file.build)
    at = start
    try:
        for piece in read_blob(file.blob_id, start, stop):
            at += len(piece)
            yield piece
        return
    except Problem as problem:
        log.info("%s of a build was not there at %d: %s", file.path, at, problem)
    forget_lost(file)
    yield from stream(at, stop)


def direct_url(file: BuildFile, file_name: str) -> str | None:
    """A short-lived address of storage's own, None where the site sends the bytes."""
    url = storage().download_url(file.blob_id, file_name, seconds=DIRECT_SECONDS)
    if url is not None:
        note_use(file.build)
    return url


def note_use(build: Build) -> None:
    """Remember that the build is of use: at most one write a minute, and a failed one is none."""
    now = timezone.now()
    long_ago = now - USED_AGAIN_AFTER
    if build.last_used is not None and build.last_used >= long_ago:
        return
    build.last_used = now
    unused = Q(last_used=None) | Q(last_used__lt=long_ago)
    try:
        Build.objects.filter(unused, pk=build.pk).update(last_used=now)
    except DatabaseError:
        log.warning("the use of %s was not noted", build.pk, exc_info=True)


def forget_lost(file: BuildFile) -> None:
    """Let a build whose bytes somebody has taken away be none: its page then says so."""
    try:
        known = BuildFile.objects.filter(pk=file.pk).select_related("blob", "build").first()
        if known is None or storage().size(known.blob_id) == known.blob.size:
            return
        if known.build.state == BuildState.DONE:
            evict(known.build)
    except DatabaseError:
        log.warning("a lost file of a build was not noted", exc_info=True)
