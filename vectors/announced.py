"""What may be announced for an upload; the small types and the refusals around uploads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from vectors.errors import Refusal, _
from vectors.models import Version
from vectors.tensorfile.errors import Problem
from vectors.tensorfile.forms import check_kind, check_path

MAX_FILE = 200 * 10**9
MAX_FILES = 400
MAX_DRAFTS = 20  # of one owner at a time: each holds room in storage

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Conflict(Refusal):
    """Not in this state: something has to happen first, or has happened already."""


class Forbidden(Refusal):
    """Not with these credentials."""


class NotFound(Refusal):
    """It does not exist, or it is somebody else's."""


class TooLarge(Refusal):
    """More than this site takes."""


class NewFile(NamedTuple):
    """A file announced for an upload; ``sha256`` may be unknown."""

    path: str
    size: int
    sha256: str = ""


class PartURL(NamedTuple):
    """Where to PUT ``size`` bytes of part ``number``."""

    number: int
    url: str
    size: int


class Stream(Protocol):
    """What a part is read from: a request, an open file."""

    def read(self, size: int, /) -> bytes: ...


def check_room_for_a_draft(owner: Any) -> None:
    """Raise Conflict when ``owner`` has as many unfinished uploads as one may have."""
    # A refused draft is only a note: its bytes are gone.
    drafts = Version.objects.drafts_of(owner).filter(commit="")  # pushes have a limit of their own
    held = drafts.exclude(state=Version.State.REFUSED).count()
    if held >= MAX_DRAFTS:
        raise Conflict(
            _(
                "You have %(count)d unfinished uploads, and no more than %(limit)d are kept. "
                "Publish or discard one of them first; the upload page lists them."
            ),
            count=held,
            limit=MAX_DRAFTS,
        )


def check_files(files: Sequence[tuple[Any, ...]]) -> list[NewFile]:
    """The announced files, or a Refusal that names the first one that cannot be taken."""
    if not files:
        raise Refusal(_("No files were chosen."))
    if len(files) > MAX_FILES:
        raise TooLarge(
            _(
                "These are %(count)d files, and one upload takes %(limit)d. Leave out what the "
                "model does not need, or save it in larger shards."
            ),
            count=len(files),
            limit=MAX_FILES,
        )
    announced, seen = [], set()
    for file in (NewFile(*fields) for fields in files):
        try:
            check_kind(check_path(file.path))
        except Problem as problem:
            raise Refusal(problem.template, **problem.params) from problem
        if file.path in seen:
            raise Refusal(
                _("%(file)s is there twice. Every file of a version needs its own name."),
                file=file.path,
            )
        if file.size <= 0:
            raise Refusal(_("%(file)s is empty. Leave it out."), file=file.path)
        if file.size > MAX_FILE:
            raise TooLarge(
                _(
                    "%(file)s has %(size).1f GB, and one file may have %(limit)d. Save the model "
                    'in shards: save_pretrained(..., max_shard_size="5GB").'
                ),
                file=file.path,
                size=file.size / 1e9,
                limit=MAX_FILE // 10**9,
            )
        if file.sha256 and not _SHA256.fullmatch(file.sha256.lower()):
            raise Refusal(
                _("The SHA-256 announced for %(file)s is not 64 hexadecimal digits."),
                file=file.path,
            )
        seen.add(file.path)
        announced.append(file._replace(sha256=file.sha256.lower()))
    return announced
