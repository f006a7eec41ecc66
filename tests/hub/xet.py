"""A small sender of the Xet protocol: xorbs and shards, right or wrong on purpose.

`recorded/` holds what hf-xet 1.8.0 sent: ``one.xorb`` for 120 000 bytes of ``one()``, and
``two.shard`` for 700 000 bytes of ``two()``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import lz4.frame
import numpy as np

from marketplace.hub.xet.hashing import chunk_hash, text_of, xorb_hash
from marketplace.hub.xet.shards import _TAG

RECORDED = Path(__file__).parent / "recorded"
ONE_XORB = "27f8e48cdc2de1c50b569f75d2cf42bb5a7302b21c7c75f44ee450693d9dda22"
TWO_XORB = "96c2f8e5635d6afdd059fb75ad0013380c53a6a348023d79a88f71ebd9abdbd6"
CHUNK = 64 << 10
Term = tuple[str, int, int, int]


def one() -> bytes:
    """Numbers that are packed well when their bytes are grouped."""
    mixed = (np.arange(60_000, dtype=np.uint32) * 2654435761) & 0xFFFF
    return (0x3C00 | (mixed & 0x01FF)).astype("<u2").tobytes()


def two() -> bytes:
    """Bytes that cannot be packed."""
    return data_of(700_000, b"two")


def data_of(length: int, seed: bytes = b"") -> bytes:
    return hashlib.shake_256(seed).digest(length)


def chunks_of(data: bytes, size: int = CHUNK) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def packed(chunk: bytes, scheme: int = 0, **wrong: int) -> bytes:
    """A chunk as it travels; ``wrong`` puts other numbers into its header."""
    stored = chunk
    if scheme:
        grouped = b"".join(chunk[first::4] for first in range(4)) if scheme == 2 else chunk
        stored = lz4.frame.compress(grouped)
    version, stored_length = wrong.get("version", 0), wrong.get("stored", len(stored))
    length = wrong.get("length", len(chunk))
    header = struct.pack("<B", version) + stored_length.to_bytes(3, "little")
    return header + struct.pack("<B", scheme) + length.to_bytes(3, "little") + stored


def xorb_of(chunks: Sequence[bytes], scheme: int = 0) -> tuple[str, bytes]:
    """The name of a xorb and its body."""
    name = text_of(xorb_hash([(chunk_hash(chunk), len(chunk)) for chunk in chunks]))
    return name, b"".join(packed(chunk, scheme) for chunk in chunks)


def shard_of(
    *files: tuple[str, Iterable[tuple[str, int, int, int]]], flags: int = 1 << 30
) -> bytes:
    """A shard of files: (SHA-256, terms), a term being (xorb, bytes, first chunk, end)."""
    body = _TAG + struct.pack("<QQ", 2, 0)
    for sha256, terms in files:
        entries = [struct.pack("<32s4xIII", turned(xorb), *term) for xorb, *term in terms]
        body += struct.pack("<32sII8x", b"file", flags, len(entries)) + b"".join(entries)
        body += bytes(48 * len(entries)) if flags >> 31 else b""
        body += struct.pack("<32s16x", turned(sha256)) if flags & 1 << 30 else b""
    return body + b"\xff" * 32 + bytes(16)


def turned(text: str) -> bytes:
    """The bytes of a hash written as the protocol writes it."""
    return b"".join(bytes.fromhex(text[i : i + 16])[::-1] for i in range(0, 64, 16))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
