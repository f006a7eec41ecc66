"""Hashes of Xet: BLAKE3 with a key for each purpose, and a tree of them over the chunks of a xorb.

The keys, the shape of the tree and the strange order of a hash's digits are the protocol's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from blake3 import blake3

HASH_SIZE = 32

_HEX = re.compile(r"[0-9a-f]{64}")
_CHUNK_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
# A node has 2 to 9 children and ends early after a child whose hash is a multiple of 4.
_FEWEST, _MOST, _MEAN = 2, 9, 4


def is_hash(text: str) -> bool:
    """Whether ``text`` is a hash as it stands in addresses."""
    return _HEX.fullmatch(text) is not None


def text_of(digest: bytes) -> str:
    """The hash as text: four little-endian numbers, each with its highest digit first."""
    return "".join(digest[i : i + 8][::-1].hex() for i in range(0, HASH_SIZE, 8))


def chunk_hash(chunk: bytes) -> bytes:
    return blake3(chunk, key=_CHUNK_KEY).digest()


def xorb_hash(chunks: Sequence[tuple[bytes, int]]) -> bytes:
    """The hash of a xorb, from the hash and the length of each of its chunks."""
    level = list(chunks)
    while len(level) > 1:
        parents, start = [], 0
        while start < len(level):
            stop = _end_of_node(level, start)
            parents.append(_node(level[start:stop]))
            start = stop
        level = parents
    return level[0][0] if level else bytes(HASH_SIZE)


def _end_of_node(level: Sequence[tuple[bytes, int]], start: int) -> int:
    most = min(start + _MOST, len(level))
    for index in range(start + _FEWEST, most):
        if int.from_bytes(level[index][0][24:], "little") % _MEAN == 0:
            return index + 1
    return most


def _node(children: Sequence[tuple[bytes, int]]) -> tuple[bytes, int]:
    lines = "".join(f"{text_of(digest)} : {length}\n" for digest, length in children)
    total = sum(length for _digest, length in children)
    return blake3(lines.encode(), key=_NODE_KEY).digest(), total
