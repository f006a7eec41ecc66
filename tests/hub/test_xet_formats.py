"""The formats of Xet: what a real client sent is read, what is wrong refused in a sentence."""

from __future__ import annotations

import io
import struct
import tracemalloc
from itertools import pairwise

import lz4.frame
import pytest

from marketplace.hub.xet.hashing import chunk_hash, is_hash, text_of, xorb_hash
from marketplace.hub.xet.shards import MAX_FILES, MAX_TERMS, BadShard, ShardFile, Term, read_shard
from marketplace.hub.xet.xorbs import MAX_CHUNK, MAX_CHUNKS, MAX_XORB, BadXorb, chunks_of
from tests.hub import xet

TWO_CHUNKS = [  # their lengths, as the shard of the real client tells them behind the file
    struct.unpack_from("<I", (xet.RECORDED / "two.shard").read_bytes(), 0x150 + 36 + 48 * i)[0]
    for i in range(12)
]


def unpacked(body: bytes) -> bytes:
    return b"".join(chunks_of(io.BytesIO(body)))


def hash_of(chunks: list[bytes]) -> str:
    return text_of(xorb_hash([(chunk_hash(chunk), len(chunk)) for chunk in chunks]))


# --- as the real client sends it -------------------------------------------------------------


def test_a_recorded_xorb_has_its_bytes_and_its_hash() -> None:
    chunks = list(chunks_of(io.BytesIO((xet.RECORDED / "one.xorb").read_bytes())))
    assert b"".join(chunks) == xet.one()
    assert hash_of(chunks) == xet.ONE_XORB


def test_the_hash_of_a_xorb_of_many_chunks_is_the_real_clients() -> None:
    data, starts = xet.two(), [sum(TWO_CHUNKS[:i]) for i in range(13)]
    assert hash_of([data[a:b] for a, b in pairwise(starts)]) == xet.TWO_XORB


def test_a_recorded_shard_tells_the_file_and_its_terms() -> None:
    (file,) = read_shard(io.BytesIO((xet.RECORDED / "two.shard").read_bytes()))
    assert (file.sha256, file.size) == (xet.sha(xet.two()), 700_000)
    assert list(file.terms()) == [Term(xet.TWO_XORB, 700_000, 0, 12)]


# --- xorbs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [0, 1, 2])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 1000, MAX_CHUNK])
def test_each_way_of_packing_gives_the_bytes_back(scheme: int, length: int) -> None:
    chunk = xet.data_of(length)
    assert unpacked(xet.packed(chunk, scheme)) == chunk


def test_a_description_behind_the_chunks_is_not_read() -> None:
    assert unpacked(xet.packed(b"chunk") + b"XETBLOB\1" + b"whatever it says") == b"chunk"


def around(stored: bytes, length: int) -> bytes:
    """``stored`` as a chunk that says it is an LZ4 frame of ``length`` bytes."""
    return b"\0" + len(stored).to_bytes(3, "little") + b"\1" + length.to_bytes(3, "little") + stored


LONG = xet.data_of(MAX_CHUNK + 1)
FRAME = lz4.frame.compress(xet.data_of(999))
ZEROS = bytes(1 << 20)
HOSTILE = {
    "nothing": b"",
    "half a header": xet.packed(b"chunk")[:5],
    "half a chunk": xet.packed(b"chunk")[:-1],
    "another version": xet.packed(b"chunk", version=1),
    "an unknown scheme": b"\0\5\0\0\3\5\0\0chunk",
    "an empty chunk": xet.packed(b""),
    "a chunk too long": xet.packed(LONG),
    "a chunk stored too long": xet.packed(b"chunk", stored=MAX_CHUNK * 3),
    "longer than announced": xet.packed(ZEROS[:2000], 1, length=1999),
    "shorter than announced": xet.packed(ZEROS[:2000], 1, length=2001),
    "a bomb": xet.packed(ZEROS, 1, length=MAX_CHUNK),
    "raw of another length": xet.packed(b"chunk", length=4),
    "not LZ4": b"\0\5\0\0\1\5\0\0chunk",
    "two frames": around(FRAME * 2, 999),
    "a frame cut short": around(FRAME[:-4], 999),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_xorb_is_refused(body: bytes) -> None:
    with pytest.raises(BadXorb, match="xorb"):
        unpacked(body)


def test_a_xorb_has_a_most_of_chunks_and_of_bytes() -> None:
    assert len(unpacked(xet.packed(b"x") * MAX_CHUNKS)) == MAX_CHUNKS
    with pytest.raises(BadXorb, match="at most"):
        unpacked(xet.packed(b"x") * (MAX_CHUNKS + 1))
    zeros = xet.packed(bytes(MAX_CHUNK), 1)
    with pytest.raises(BadXorb, match="at most"):
        for _chunk in chunks_of(io.BytesIO(zeros * (MAX_XORB // MAX_CHUNK + 1))):
            pass


def test_a_bomb_takes_no_memory() -> None:
    body = around(lz4.frame.compress(bytes(40 << 20)), MAX_CHUNK)
    tracemalloc.start()
    with pytest.raises(BadXorb):
        unpacked(body)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


# --- shards ----------------------------------------------------------------------------------

SHA, XORB = xet.sha(b"file"), xet.sha(b"xorb")
TERM = (XORB, 100, 0, 1)


def read(body: bytes) -> list[ShardFile]:
    return read_shard(io.BytesIO(body))


def test_a_shard_may_verify_its_terms_and_name_a_file_twice() -> None:
    files = [(SHA, [TERM, TERM]), (xet.sha(b"other"), [TERM]), (SHA, [TERM, TERM])]
    first, second = read(xet.shard_of(*files, flags=3 << 30))
    assert (first.sha256, first.size, second.size) == (SHA, 200, 100)


GOOD = xet.shard_of((SHA, [TERM]))
BAD_SHARDS = {
    "nothing": b"",
    "another tag": b"x" + GOOD[1:],
    "another version": GOOD[:32] + b"\3" + GOOD[33:],
    "cut in the header": GOOD[:40],
    "cut in the terms": GOOD[:100],
    "no end": GOOD[:-48],
    "no SHA-256": xet.shard_of((SHA, [TERM]), flags=0),
    "no chunks": xet.shard_of((SHA, [(XORB, 100, 1, 1)])),
    "chunks backwards": xet.shard_of((SHA, [(XORB, 100, 2, 1)])),
    "too many chunks": xet.shard_of((SHA, [(XORB, 100, 0, MAX_CHUNKS + 1)])),
    "no bytes": xet.shard_of((SHA, [(XORB, 0, 0, 1)])),
    "too many bytes": xet.shard_of((SHA, [(XORB, MAX_XORB + 1, 0, 1)])),
    "too many files": xet.shard_of(*[(xet.sha(b"%d" % i), [TERM]) for i in range(MAX_FILES + 1)]),
    "too many terms": GOOD[:48] + struct.pack("<32sII8x", b"", 1 << 30, MAX_TERMS + 1),
    "a number of terms that is a lie": GOOD[:48] + struct.pack("<32sII8x", b"", 0, MAX_TERMS),
}


@pytest.mark.parametrize("body", BAD_SHARDS.values(), ids=BAD_SHARDS)
def test_what_is_no_shard_is_refused(body: bytes) -> None:
    with pytest.raises(BadShard, match="shard"):
        read(body)


def test_a_hash_is_64_small_digits() -> None:
    assert is_hash(XORB)
    for text in ("", XORB[1:], XORB.upper(), XORB + "\n", "../" + XORB[3:], "٣" * 64):
        assert not is_hash(text)
