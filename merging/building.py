"""Writing a build: the very stream of a download, hashed on the way, into storage file by file.

A file is there as soon as it is whole, and stays when the worker is killed: whoever goes on
computes the others. The bytes of a file that was not whole are dropped. Only the holder of the
lease adds files and ends the build.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, cast

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from merging.builds import NoRoomYet, drop_files, make_room
from merging.checks.turns import ending
from merging.engine.run import stream_ahead
from merging.hashes import known_hash, note
from merging.models import Build, BuildFile, BuildState
from merging.repository import Opened, OutputFile
from vectors import leases
from vectors.dropping import hold
from vectors.errors import Refusal, _, row_of
from vectors.leases import Lease
from vectors.storage.current import storage
from vectors.tensorfile.errors import Problem
from vectors.uploads import part_size_for

log = logging.getLogger(__name__)

ROOM, WRITING, STORING = "room", "writing", "storing"
LOOK_EVERY = 0.5  # seconds between two looks whether somebody has stopped it


class Ending(Exception):
    """This worker has been told to end."""


class Stopped(Exception):
    """Whoever asked for the build does not want it any more."""


def run_build(build_id: int) -> None:
    """Do a build, if nobody else is on it or on another. Safe to call any number of times."""
    if another_runs() or ending.is_set():
        return  # the row waits; it is rung again when its turn comes
    lease = leases.claim(Build, build_id)
    if lease is None:
        return
    with lease:
        try:
            ended = _finish(Build.objects.select_related("equipped").get(pk=build_id), lease)
        except leases.LeaseLost:
            return
    if ended:
        next_in_line()


def another_runs() -> bool:
    """Whether a build is being written: each computes with every core, so one does at a time.

    Two that look at the same moment may both go on; that takes time and breaks nothing.
    """
    running = Build.objects.filter(state=BuildState.RUNNING, lease_until__gte=timezone.now())
    return running.exists()


def next_in_line() -> None:
    """Ring for the build that waits longest."""
    waiting = Build.objects.filter(state=BuildState.QUEUED).order_by("created", "pk").first()
    if waiting is not None and not ending.is_set():
        leases.ring(waiting)


def _finish(build: Build, lease: Lease) -> bool:
    """Write the build and end it; False when it was given back."""
    try:
        size = _Writing(build, lease).go()
        now = timezone.now()
        lease.finish(BuildState.DONE, last_used=now, done_bytes=size, total_bytes=size, error="")
    except leases.LeaseLost:
        raise
    except (Ending, NoRoomYet):
        lease.give_back()
        return False
    except Stopped:
        lease.finish(BuildState.CANCELLED)
    except Problem as problem:
        lease.finish(BuildState.FAILED, error=str(problem), refusal=row_of(problem))
    except Exception as error:
        lease.finish(BuildState.FAILED, error=_("The build broke. Try again."))
        log.error("%s broke", build, exc_info=error)
    return True


class _Writing:
    """One attempt at a build."""

    def __init__(self, build: Build, lease: Lease) -> None:
        self.build, self.lease = build, lease
        self.done = self.total = 0
        self._looked = 0.0

    def go(self) -> int:
        """Write what is missing; how many bytes the build has."""
        self._drop_upload(self.build.upload, self.build.handle)  # of a worker that was killed
        self._note(stage=ROOM, upload="", handle="", started=timezone.now(), done_bytes=0)
        with closing(Opened(self.build.equipped)) as opened:
            files = opened.computed
            self.total = sum(file.size for file in files)
            self._look(at_once=True)
            kept = self._kept(files)
            make_room(self.build, self.total)
            self.done = sum(file.size for file in files if file.path in kept)
            self._check_disk()
            for file in files:
                if file.path not in kept:
                    self._write(file)
        return self.total

    def _kept(self, files: list[OutputFile]) -> set[str]:
        """Files that an earlier attempt has stored; whatever else it left goes."""
        wanted = {file.etag: file for file in files}
        rows = list(self.build.files.select_related("blob"))
        good = [
            row
            for row in rows
            if row.etag in wanted and storage().size(row.blob_id) == row.blob.size
        ]
        drop_files(row for row in rows if row not in good)
        BuildFile.objects.filter(pk__in=[row.pk for row in good]).update(stored=True)
        return {row.path for row in good}

    def _check_disk(self) -> None:
        free, wanted = storage().free_bytes(), self.total - self.done
        if free is not None and wanted > free:
            raise Refusal(
                _("The build takes %(size).1f GB and only %(free).1f GB are free on this site."),
                size=wanted / 1e9,
                free=free / 1e9,
            )

    def _write(self, file: OutputFile) -> None:
        """Compute one file into storage, and say so once it is whole."""
        upload, handle = str(uuid.uuid4()), ""
        self._note(stage=WRITING, upload=upload, handle=handle)  # first: it may be all that is left
        try:
            handle = storage().begin(upload, file.size)
            self._note(handle=handle)
            digest, before, parts = hashlib.sha256(), self.done, []
            assert file.virtual is not None
            stream = cast("Generator[bytes]", stream_ahead(file.virtual))
            with closing(stream) as pieces:  # its threads end before the checkpoints are closed
                size = part_size_for(file.size)
                for number, part in enumerate(parts_of(self._seen(pieces, digest), size), 1):
                    at = (number - 1) * size
                    parts.append((number, storage().write_part(upload, handle, number, at, part)))
            if self.done - before != file.size:
                raise RuntimeError(f"{file.path} has {self.done - before} bytes")
            self._look(at_once=True)
            self._note(stage=STORING)
            storage().complete(upload, handle, parts)
            self._publish(file, upload, digest.hexdigest())
        finally:
            self._drop_upload(upload, handle)

    def _publish(self, file: OutputFile, upload: str, sha256: str) -> None:
        known = known_hash(file.etag)
        if known and known != sha256:
            raise RuntimeError(f"{file.path} was {known} once and is {sha256} now")
        note(file.etag, sha256, file.size)
        # The reference comes before the bytes are moved: from here on nobody drops this blob as
        # unreferenced. The lease is looked at in the same transaction.
        with transaction.atomic():
            if not self._mine().select_for_update().exists():
                raise leases.LeaseLost
            blob = hold(sha256, file.size)
            row, _made = BuildFile.objects.update_or_create(
                build=self.build,
                path=file.path,
                defaults={"etag": file.etag, "blob": blob, "stored": False},
            )
        storage().promote(upload, sha256)
        BuildFile.objects.filter(pk=row.pk, blob=blob).update(stored=True)

    def _seen(self, pieces: Iterator[bytes], digest: Any) -> Iterator[bytes]:
        for piece in pieces:
            digest.update(piece)
            self.done += len(piece)
            yield piece
            self._look()

    def _look(self, *, at_once: bool = False) -> None:
        """Note how far it is, and end where somebody wants that."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY and not at_once:
            return
        self._looked = now
        self.lease.check()
        if ending.is_set():
            raise Ending
        if self._mine().filter(cancelled=True).exists():
            raise Stopped
        if self.done:
            self.lease.progress(WRITING, self.done, self.total)

    def _mine(self) -> QuerySet[Build]:
        return Build.objects.filter(
            pk=self.build.pk, owner_token=self.lease.token, state=BuildState.RUNNING
        )

    def _note(self, **fields: Any) -> None:
        if not self._mine().update(**fields):
            raise leases.LeaseLost

    def _drop_upload(self, upload: str, handle: str) -> None:
        if upload:
            storage().abort(upload, handle)


def parts_of(pieces: Iterator[bytes], size: int) -> Iterator[Iterator[bytes]]:
    """``pieces`` in parts of ``size`` bytes, the last one as long as it comes. Each part is read to
    its end before the next one is asked for."""
    pieces = filter(None, pieces)
    rest = next(pieces, b"")

    def part() -> Iterator[bytes]:
        nonlocal rest
        missing = size
        while missing and rest:
            taken, rest = rest[:missing], rest[missing:]
            missing -= len(taken)
            yield taken
            rest = rest or next(pieces, b"")

    while rest:
        yield part()
