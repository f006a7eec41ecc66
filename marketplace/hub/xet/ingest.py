"""From a shard to uploads: each file is put together from its chunks and sealed under its SHA-256.

Nothing of a file stays unless all of it does. A file whose owner has it already is not made again.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from django.utils import timezone

from marketplace.hub.xet import spool
from marketplace.hub.xet.shards import ShardFile, Term
from marketplace.hub.xet.spooled import SpooledXorb
from vectors import uploads
from vectors.dropping import drop_uploads
from vectors.errors import Refusal, _
from vectors.models import Upload
from vectors.tensorfile.errors import Problem

WAIT = 0.2  # seconds, between two looks whether an earlier shard of the same user is done
OPEN_XORBS = 8  # a file goes through its xorbs in order, now and then back to an earlier one


class Progress(NamedTuple):
    """How many bytes of a shard's files are stored, of how many."""

    done: int
    total: int


def ingest(*, owner: Any, epoch: spool.Epoch, files: Sequence[ShardFile]) -> Generator[Progress]:
    """Make the files of a shard uploads of ``owner``, a step at each ``next``.

    Raises Refusal when a chunk is not here or a file is not what the shard says. Then the owner
    gets a new epoch, so that sending the same files again works: the client sends every chunk.
    """
    total, done = sum(file.size for file in files), 0
    with spool.turn_of(epoch.user) as is_our_turn:
        while not is_our_turn():
            time.sleep(WAIT)
            yield Progress(done, total)
        try:
            missing = [file for file in files if not _renew(owner, file.sha256)]
            for file in missing:
                _check_terms(epoch, file)
            done = total - sum(file.size for file in missing)
            for file in missing:
                with closing(_store(owner, epoch, file)) as parts:
                    for length in parts:
                        done += length
                        yield Progress(done, total)
        except Problem:
            epoch.retire()
            raise
    spool.make_room()


def _renew(owner: Any, sha256: str) -> bool:
    """Whether ``owner`` has uploaded these bytes before; if so they are kept a while longer."""
    known = Upload.objects.filter(owner=owner, blob=sha256, state=Upload.State.STORED)
    return known.update(expires=timezone.now() + uploads.LIFETIME) > 0


def _check_terms(epoch: spool.Epoch, file: ShardFile) -> None:
    """Raise Refusal unless every chunk of ``file`` is here."""
    with closing(_Xorbs(epoch)) as xorbs:
        for term in file.terms():
            xorbs.span(term)


def _store(owner: Any, epoch: spool.Epoch, file: ShardFile) -> Generator[int]:
    """Upload the file to ourselves; yields the bytes of each part that is stored."""
    (upload,) = uploads.open_uploads(owner=owner, files=[(_label(file), file.size, file.sha256)])
    try:
        with closing(_Joined(epoch, file)) as joined:
            for number in range(1, upload.part_count + 1):
                length = upload.part_length(number)
                joined.stop += length
                uploads.receive_part(upload=upload, number=number, stream=joined)
                epoch.touch()
                yield length
        uploads.complete(upload)
        uploads.seal(upload)
    except BaseException:
        drop_uploads(Upload.objects.filter(pk=upload.pk))
        raise


def _label(file: ShardFile) -> str:
    """What the upload is called until a commit gives the file its path."""
    return f"{file.sha256[:12]}.safetensors"


class _Joined:
    """The bytes of a file, read in order, up to ``stop``."""

    def __init__(self, epoch: spool.Epoch, file: ShardFile) -> None:
        self.stop = 0
        self._position = 0
        self._xorbs = _Xorbs(epoch)
        self._terms = file.terms()
        self._xorb: SpooledXorb
        self._offset = self._end = 0  # in the current xorb

    def read(self, size: int, /) -> bytes:
        size = min(size, self.stop - self._position)
        if size <= 0:
            return b""
        if self._offset == self._end:
            term = next(self._terms)
            self._xorb, self._offset, self._end = self._xorbs.span(term)
        piece = self._xorb.read(self._offset, min(size, self._end - self._offset))
        self._offset += len(piece)
        self._position += len(piece)
        return piece

    def close(self) -> None:
        self._xorbs.close()


class _Xorbs:
    """The xorbs that terms name, a few of them open."""

    def __init__(self, epoch: spool.Epoch) -> None:
        self._epoch = epoch
        self._open: dict[str, SpooledXorb] = {}  # the one used last comes last

    def span(self, term: Term) -> tuple[SpooledXorb, int, int]:
        """The xorb of ``term``, and where in it the term's bytes begin and end."""
        xorb = self._open.pop(term.xorb, None) or self._epoch.open(term.xorb)
        if xorb is None:
            raise _missing()
        self._open[term.xorb] = xorb
        if len(self._open) > OPEN_XORBS:
            self._open.pop(next(iter(self._open))).close()
        span = xorb.span(term.first, term.end)
        if span is None or span[1] - span[0] != term.length:
            raise _missing()
        return xorb, *span

    def close(self) -> None:
        for xorb in self._open.values():
            xorb.close()
        self._open.clear()


def _missing() -> Refusal:
    return Refusal(
        _(
            "Some chunks of this upload are no longer kept here. Start the same upload again: it "
            "sends them anew."
        )
    )
