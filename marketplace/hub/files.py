"""Files of a repository as clients list and fetch them: stored, written, or computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from marketplace.hub.errors import bad_request
from vectors.adapters import handed_out
from vectors.downloads import read_blob
from vectors.errors import _
from vectors.models import Blob, Foundation, RepositoryFile, Version

POINTER_SIZE = 134  # about; clients show it and do nothing with it
MAX_HEADER = 100 << 20  # of a safetensors file; the format's own limit
Read = Callable[[int, int], Iterator[bytes]]
Direct = Callable[[str], str | None]


@dataclass(frozen=True)
class HubFile:
    """A file. ``sha256`` is empty while nobody has hashed what is computed on its way out; its
    ``etag`` then does not look like a SHA-256, because clients check those they are given.

    ``direct`` asks for an address of storage's own under which it hands the bytes out by itself.
    """

    path: str
    size: int
    etag: str
    read: Read = field(repr=False, compare=False)
    sha256: str = ""
    blob: Blob | None = None
    direct: Direct | None = field(default=None, repr=False, compare=False)

    @property
    def oid(self) -> str:
        """Its object id in git: that of the LFS pointer, or one that stands for the content."""
        if not self.sha256:
            return hashlib.sha256(self.etag.encode()).hexdigest()[:40]
        return git_sha1(lfs_pointer(self.sha256, self.size))

    def entry(self) -> dict[str, Any]:
        """The file in a listing of the tree."""
        entry: dict[str, Any] = {
            "type": "file",
            "path": self.path,
            "size": self.size,
            "oid": self.oid,
        }
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": POINTER_SIZE}
        return entry


def file_of(owner: Foundation | Version, row: RepositoryFile) -> HubFile:
    """A file of ``owner`` as it is handed out."""
    content = handed_out(owner, row)
    return stored_file(row.path, row.blob) if content is None else written_file(row.path, content)


def stored_file(path: str, blob: Blob) -> HubFile:
    """A file whose bytes are a blob."""
    read = partial(read_blob, blob.sha256)
    return HubFile(path, blob.size, blob.sha256, read, blob.sha256, blob)


def written_file(path: str, content: bytes) -> HubFile:
    """A small file whose bytes are at hand."""
    sha256 = hashlib.sha256(content).hexdigest()
    return HubFile(path, len(content), sha256, partial(_slice, content), sha256)


def _slice(content: bytes, start: int, stop: int) -> Iterator[bytes]:
    yield content[start:stop]


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The text that stands for a large file in git (git-lfs, pointer specification v1)."""
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    )


def git_sha1(content: bytes) -> str:
    """The object id git gives ``content``: a name, not a guard, which is why SHA-1 will do."""
    head = f"blob {len(content)}\0".encode()
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()


def safetensors_header(file: HubFile) -> dict[str, Any]:
    """The header of a safetensors file, from its first bytes. Raises HubError 400."""
    start = b"".join(file.read(0, min(8, file.size)))
    length = int.from_bytes(start, "little")
    if not 2 <= length <= min(MAX_HEADER, file.size - 8):
        raise bad_request(_("%(file)s is no safetensors file.") % {"file": file.path})
    try:
        header: Any = json.loads(b"".join(file.read(8, 8 + length)))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise bad_request(_("%(file)s is no safetensors file.") % {"file": file.path})
    return header


def shard_names(file: HubFile) -> tuple[dict[str, Any], list[str]]:
    """The index of a sharded checkpoint, and its shards. Raises HubError 400 where it is none."""
    index: Any = None
    if file.size <= MAX_HEADER:
        try:
            index = json.loads(b"".join(file.read(0, file.size)))
        except (ValueError, RecursionError):
            index = None
    shards = index.get("weight_map") if isinstance(index, dict) else None
    names: list[Any] = list(shards.values()) if isinstance(shards, dict) else [None]
    if not all(isinstance(name, str) for name in names):
        raise bad_request(_("%(file)s is no safetensors file.") % {"file": file.path})
    return index, sorted(set(names))
