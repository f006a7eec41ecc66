"""The format of a shard, as far as ingest needs it: which files there are, and of which chunks.

A header of 48 bytes, then for each file entries of 48 bytes, until one that begins with 32 bytes
FF. What follows describes the xorbs, which were checked when they came.

    file     hash: 32 | flags: u32 | number of terms: u32 | 8 unused
    term     xorb: 32 | flags: u32 | unpacked bytes: u32 | first chunk: u32 | end: u32
    …        with flag 31, as many entries that verify the terms
    sha256   with flag 30: 32 | 16 unused
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from marketplace.hub.xet.hashing import HASH_SIZE, text_of
from marketplace.hub.xet.xorbs import MAX_CHUNKS, MAX_XORB, Stream, read_up_to
from vectors.tensorfile.errors import Problem, _

MAX_FILES = 1000
MAX_TERMS = 1 << 19  # of all files together

_ENTRY = 48
_TAG = b"HFRepoMetaData\0" + bytes.fromhex("5569 6745 6a7b 8157 83a5 bdd9 5ccd d14a a9")
_VERSION = 2
_END = b"\xff" * HASH_SIZE
_VERIFIED, _HAS_SHA256 = 1 << 31, 1 << 30
_FILE = struct.Struct("<32sII8x")
_TERM = struct.Struct("<32s4xIII")


class BadShard(Problem):
    """A shard that cannot be read."""


class Term(NamedTuple):
    """The chunks ``[first, end)`` of a xorb, ``length`` bytes together."""

    xorb: str
    length: int
    first: int
    end: int


@dataclass(frozen=True)
class ShardFile:
    """A file: its SHA-256, its size, and its terms as they came (packed: there may be many)."""

    sha256: str
    size: int
    packed: bytes

    def terms(self) -> Iterator[Term]:
        for xorb, length, first, end in _TERM.iter_unpack(self.packed):
            yield Term(text_of(xorb), length, first, end)


def read_shard(body: Stream) -> list[ShardFile]:
    """The files of a shard, each once. Raises BadShard."""
    header = _entries(body, 1)
    if header[:HASH_SIZE] != _TAG or header[HASH_SIZE] != _VERSION:
        raise BadShard(_("This is not a shard of the version that is taken here."))
    files: dict[str, ShardFile] = {}
    terms = 0
    while (head := _entries(body, 1))[:HASH_SIZE] != _END:
        _hash, flags, count = _FILE.unpack(head)
        terms += count
        if terms > MAX_TERMS or len(files) == MAX_FILES:
            raise BadShard(
                _("A shard has at most %(files)d files and %(terms)d terms; this one has more."),
                files=MAX_FILES,
                terms=MAX_TERMS,
            )
        file = _file(body, flags, count)
        files[file.sha256] = file
    return list(files.values())


def _file(body: Stream, flags: int, count: int) -> ShardFile:
    packed = _entries(body, count)
    size = 0
    for _xorb, length, first, end in _TERM.iter_unpack(packed):
        if not first < end <= MAX_CHUNKS or not 0 < length <= MAX_XORB:
            raise BadShard(_("A term of this shard names no chunks of a xorb."))
        size += length
    if flags & _VERIFIED:
        _entries(body, count)
    if not flags & _HAS_SHA256:
        raise BadShard(_("A file of this shard comes without its SHA-256. Update your client."))
    return ShardFile(text_of(_entries(body, 1)[:HASH_SIZE]), size, packed)


def _entries(body: Stream, count: int) -> bytes:
    piece = read_up_to(body, count * _ENTRY) if count else b""
    if len(piece) < count * _ENTRY:
        raise BadShard(_("This shard ends in the middle."))
    return piece
