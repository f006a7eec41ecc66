"""The storage of blobs: one small interface, a local folder or S3 behind it.

Bytes arrive in parts under an upload's id (*staged*), and become a blob by ``promote``: a rename,
or a server-side copy. A blob's key is its SHA-256 and its bytes never change. From ``complete`` on
the staged bytes do not change either, so a hash taken of them still holds when they are promoted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from vectors.errors import Refusal, _
from vectors.tensorfile.source import ByteSource

URL_LIFETIME = 12 * 3600  # seconds
_SHA256 = re.compile(r"[0-9a-f]{64}")


class StagedPart(NamedTuple):
    """A part that storage itself says has arrived."""

    number: int
    size: int
    etag: str


class Storage(Protocol):
    """Blobs by their SHA-256, and uploads on their way to becoming blobs.

    ``upload_id`` is the text of the upload's UUID; ``handle`` is what ``begin`` returned and is
    kept in the upload's row. Part numbers start at 1; every part but the last has the same size.
    """

    def open(self, sha256: str) -> ByteSource:
        """Ranged reads of a blob. Raises Refusal when the blob is not there."""

    def size(self, sha256: str) -> int | None:
        """Bytes of a blob, None when it is not there."""

    def put(self, path: Path, sha256: str) -> None:
        """Store a copy of a local file as a blob. Raises Refusal when its bytes do not have this
        hash. Doing it twice is harmless."""

    def delete(self, sha256: str) -> None:
        """Forget a blob; harmless when it is not there."""

    def download_url(
        self, sha256: str, file_name: str, *, seconds: int = URL_LIFETIME
    ) -> str | None:
        """A signed URL that serves the blob directly and expires, None when the site must do it."""

    def free_bytes(self) -> int | None:
        """Room for more, None when nobody can tell."""

    def begin(self, upload_id: str, size: int) -> str:
        """Make room for an upload; return the handle."""

    def part_url(self, upload_id: str, handle: str, number: int, size: int) -> str | None:
        """A signed, expiring URL to PUT ``size`` bytes to, None when the site takes the parts."""

    def write_part(
        self, upload_id: str, handle: str, number: int, offset: int, chunks: Iterable[bytes]
    ) -> str:
        """Write a part that came through the site; durable on return.

        Returns the ETag that storage gave it, or nothing where storage has none. An error raised
        by ``chunks`` passes through; the part's bytes are undefined after it.
        """

    def staged_parts(self, upload_id: str, handle: str) -> list[StagedPart] | None:
        """The parts that have arrived (a number may come more than once), None where only the
        site knows them."""

    def complete(self, upload_id: str, handle: str, parts: Sequence[tuple[int, str]]) -> None:
        """Join the parts (number, ETag); afterwards ``open_staged`` reads the whole and nobody
        can change it. Twice is harmless. Raises Refusal when the parts are not what arrived."""

    def open_staged(self, upload_id: str) -> ByteSource:
        """Ranged reads of a completed upload. Raises Refusal when it is not there."""

    def promote(self, upload_id: str, sha256: str) -> None:
        """Turn a completed upload into the blob of this hash, atomically; a blob that is there
        already stays and the staged bytes go. Twice is harmless."""

    def abort(self, upload_id: str, handle: str) -> None:
        """Drop an upload and its bytes, whatever state it is in."""

    def tidy(self, before: datetime, keep: Callable[[str], bool]) -> int:
        """Drop what killed processes left staged: older than ``before``, and ``keep`` says False
        of its upload id. Returns how many."""


def blob_key(sha256: str) -> str:
    """Where a blob lies, below the folder or prefix of blobs: ``ab/<sha256>``."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"not a SHA-256 in lower-case hexadecimal: {sha256!r}")
    return f"{sha256[:2]}/{sha256}"


def missing_blob(sha256: str) -> Refusal:
    return Refusal(
        _("The stored file %(sha256)s is missing from storage. Its owner has to upload it again."),
        sha256=sha256[:12],
    )


def missing_upload() -> Refusal:
    return Refusal(
        _("This upload is no longer here: it was discarded, or it expired. Start it again.")
    )


def wrong_hash(name: str) -> Refusal:
    return Refusal(
        _(
            "%(file)s does not have the SHA-256 that was announced: it was damaged on the way or "
            "changed while it was sent. Send it again."
        ),
        file=name,
    )
