"""Blobs in a local folder: ``root/ab/<sha256>``, uploads in ``root/staging``.

An upload is one sparse file of its full size, and each part is written at its offset. While parts
arrive the file is ``staging/<upload_id>`` and each writer holds a shared lock; ``complete`` waits
for the writers and renames it to ``staging/<upload_id>.whole``, which nobody writes to. Without
that, a late part could change the bytes after they were hashed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from vectors.errors import Refusal, _
from vectors.storage.base import (
    URL_LIFETIME,
    StagedPart,
    blob_key,
    missing_blob,
    missing_upload,
    wrong_hash,
)
from vectors.tensorfile.source import ByteSource, FileSource

_COPY_PIECE = 8 << 20


class LocalStorage:
    """The Storage of one machine, or of several that share a POSIX file system."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / "staging"

    def open(self, sha256: str) -> ByteSource:
        path = self._blob(sha256)
        if not path.is_file():
            raise missing_blob(sha256)
        return FileSource(path, sha256)

    def size(self, sha256: str) -> int | None:
        try:
            return self._blob(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def put(self, path: Path, sha256: str) -> None:
        if self.size(sha256) == path.stat().st_size:
            return
        # A copy, never a hard link: the source may be edited in place later.
        self._staging.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix="put-", dir=self._staging)
        temporary = Path(name)
        digest = hashlib.sha256()
        try:
            with (
                _full_disk_is_a_refusal(),
                os.fdopen(fd, "wb") as target,
                path.open("rb") as source,
            ):
                while piece := source.read(_COPY_PIECE):
                    digest.update(piece)
                    target.write(piece)
                target.flush()
                os.fchmod(target.fileno(), 0o644)  # as uploads have it; mkstemp makes 0600
                os.fsync(target.fileno())
            if digest.hexdigest() != sha256:
                raise wrong_hash(path.name)
            self._publish(temporary, self._blob(sha256))
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, sha256: str) -> None:
        self._blob(sha256).unlink(missing_ok=True)

    def download_url(
        self, sha256: str, file_name: str, *, seconds: int = URL_LIFETIME
    ) -> str | None:
        return None

    def free_bytes(self) -> int | None:
        self._staging.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._staging).free

    def begin(self, upload_id: str, size: int) -> str:
        self._staging.mkdir(parents=True, exist_ok=True)
        with _full_disk_is_a_refusal():
            fd = os.open(self._open_upload(upload_id), os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                # Sparse: an announced size costs nothing until its bytes come.
                os.ftruncate(fd, size)
            finally:
                os.close(fd)
        return ""

    def part_url(self, upload_id: str, handle: str, number: int, size: int) -> str | None:
        return None

    def write_part(
        self, upload_id: str, handle: str, number: int, offset: int, chunks: Iterable[bytes]
    ) -> str:
        path = self._open_upload(upload_id)
        try:
            fd = os.open(path, os.O_WRONLY)
        except FileNotFoundError:
            raise missing_upload() from None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            if not _is_still(path, fd):  # completed or dropped while we waited for the lock
                raise missing_upload()
            with _full_disk_is_a_refusal():
                for chunk in chunks:
                    rest = memoryview(chunk)
                    while rest:
                        written = os.pwrite(fd, rest, offset)
                        offset += written
                        rest = rest[written:]
                # The row that says the part is here is written next; it must not lie.
                os.fdatasync(fd)
        finally:
            os.close(fd)
        return ""

    def staged_parts(self, upload_id: str, handle: str) -> list[StagedPart] | None:
        return None

    def complete(self, upload_id: str, handle: str, parts: Sequence[tuple[int, str]]) -> None:
        path, whole = self._open_upload(upload_id), self._whole_upload(upload_id)
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if whole.exists():
                return
            raise missing_upload() from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_still(path, fd):
                os.replace(path, whole)
            elif not whole.exists():
                raise missing_upload()
        finally:
            os.close(fd)

    def open_staged(self, upload_id: str) -> ByteSource:
        path = self._whole_upload(upload_id)
        if not path.is_file():
            raise missing_upload()
        return FileSource(path, upload_id)

    def promote(self, upload_id: str, sha256: str) -> None:
        staged, blob = self._whole_upload(upload_id), self._blob(sha256)
        if not staged.is_file():
            if blob.is_file():
                return
            raise missing_upload()
        if self.size(sha256) == staged.stat().st_size:
            staged.unlink(missing_ok=True)
            return
        with _full_disk_is_a_refusal():
            fd = os.open(staged, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            try:
                self._publish(staged, blob)
            except FileNotFoundError:  # somebody else promoted it this moment
                if not blob.is_file():
                    raise

    def abort(self, upload_id: str, handle: str) -> None:
        self._open_upload(upload_id).unlink(missing_ok=True)
        self._whole_upload(upload_id).unlink(missing_ok=True)

    def tidy(self, before: datetime, keep: Callable[[str], bool]) -> int:
        dropped = 0
        for path in self._staging.glob("*"):
            try:
                if path.stat().st_mtime < before.timestamp() and not keep(path.stem):
                    path.unlink()
                    dropped += 1
            except FileNotFoundError:  # became a blob, or was dropped, this moment
                continue
        return dropped

    def _blob(self, sha256: str) -> Path:
        return self._root / blob_key(sha256)

    def _open_upload(self, upload_id: str) -> Path:
        return self._staging / upload_id

    def _whole_upload(self, upload_id: str) -> Path:
        return self._staging / f"{upload_id}.whole"

    def _publish(self, source: Path, blob: Path) -> None:
        """Rename; the folder is synced too, or the name could be lost in a power cut."""
        blob.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, blob)
        for folder in (blob.parent, self._root):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _is_still(path: Path, fd: int) -> bool:
    """Whether ``path`` still names the file behind ``fd``."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


@contextmanager
def _full_disk_is_a_refusal() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise Refusal(
            _(
                "The disk of this site is full, so the file could not be kept. Its operator has to "
                "make room; what has arrived so far stays, and the upload can be continued then."
            )
        ) from error
