"""The format of a xorb, read chunk by chunk: a header of 8 bytes, then the chunk, compressed.

    version: u8 = 0 | stored length: u24 | scheme: u8 | length: u24      (little-endian)

Schemes: 0 as it is, 1 an LZ4 frame, 2 an LZ4 frame of the bytes 0, 4, 8 …, then 1, 5, 9 … A
description may follow the last chunk; it repeats what the chunks say and is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from lz4.frame import LZ4FrameDecompressor

from vectors.tensorfile.errors import Problem, _

MAX_CHUNK = 128 << 10
MAX_STORED = 2 * MAX_CHUNK  # of one chunk; honest senders never store more than its length
MAX_CHUNKS = 8 << 10
MAX_XORB = 64 << 20  # unpacked

_HEADER = 8
_DESCRIPTION = b"XETBLOB"


class BadXorb(Problem):
    """A xorb that cannot be read, or that is not what its name says."""


class Stream(Protocol):
    """What a xorb or a shard is read from: a request, an open file."""

    def read(self, size: int, /) -> bytes: ...


def chunks_of(body: Stream) -> Iterator[bytes]:
    """The chunks of a xorb, unpacked one at a time. Raises BadXorb at the first that is wrong."""
    count = total = 0
    while header := read_up_to(body, _HEADER):
        if header[: len(_DESCRIPTION)] == _DESCRIPTION:
            break
        count += 1
        chunk = _chunk(body, header, count)
        total += len(chunk)
        if count > MAX_CHUNKS or total > MAX_XORB:
            raise BadXorb(
                _("A xorb has at most %(chunks)d chunks and %(bytes)d MiB; this one has more."),
                chunks=MAX_CHUNKS,
                bytes=MAX_XORB >> 20,
            )
        yield chunk
    if not count:
        raise BadXorb(_("This xorb has no chunks."))


def read_up_to(body: Stream, size: int) -> bytes:
    """``size`` bytes, fewer only where the body ends."""
    piece = body.read(size)
    while piece and len(piece) < size:
        more = body.read(size - len(piece))
        if not more:
            break
        piece += more
    return piece


def _chunk(body: Stream, header: bytes, number: int) -> bytes:
    stored_length = int.from_bytes(header[1:4], "little")
    length = int.from_bytes(header[5:8], "little")
    if (
        len(header) < _HEADER
        or header[0] != 0
        or not 0 < length <= MAX_CHUNK
        or not 0 < stored_length <= MAX_STORED
    ):
        raise BadXorb(_("Chunk %(number)d of this xorb has no valid header."), number=number)
    stored = read_up_to(body, stored_length)
    if len(stored) < stored_length:
        raise BadXorb(_("This xorb ends in the middle of chunk %(number)d."), number=number)
    chunk = _unpack(stored, scheme=header[4], length=length)
    if chunk is None:
        raise BadXorb(
            _("Chunk %(number)d of this xorb does not unpack to the length in its header."),
            number=number,
        )
    return chunk


def _unpack(stored: bytes, *, scheme: int, length: int) -> bytes | None:
    """The chunk, None when the stored bytes are not one of ``length`` bytes."""
    if scheme == 0:
        return stored if len(stored) == length else None
    if scheme not in (1, 2):
        return None
    frame = LZ4FrameDecompressor()
    try:
        # One byte more than announced: a frame that would unpack to gigabytes stops there.
        unpacked = bytes(frame.decompress(stored, max_length=length + 1))
    except RuntimeError:
        return None
    if len(unpacked) != length or not frame.eof or frame.unused_data:
        return None
    return unpacked if scheme == 1 else _regroup(unpacked)


def _regroup(grouped: bytes) -> bytes:
    """Undo scheme 2's order of bytes."""
    source = np.frombuffer(grouped, dtype=np.uint8)
    target = np.empty_like(source)
    start = 0
    for first in range(4):
        every_fourth = target[first::4]
        every_fourth[:] = source[start : start + len(every_fourth)]
        start += len(every_fourth)
    return target.tobytes()
