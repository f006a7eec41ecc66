"""The fingerprint says what the tensors are, whatever way they are filed."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from vectors.tensorfile import fingerprint as module
from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.fingerprint import combine_digests, fingerprint
from vectors.tensorfile.header import write_header
from vectors.tensorfile.source import MemorySource

# name → (dtype, shape, bytes)
Content = dict[str, tuple[str, tuple[int, ...], bytes]]
SIZES = {"F32": 4, "BF16": 2, "I64": 8, "U8": 1}


@st.composite
def contents(draw: st.DrawFn) -> Content:
    found: Content = {}
    for name in draw(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5, unique=True)):
        dtype = draw(st.sampled_from(sorted(SIZES)))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        count = SIZES[dtype] * torch.Size(shape).numel()
        found[name] = dtype, shape, draw(st.binary(min_size=count, max_size=count))
    return found


def shard(content: Content, metadata: dict[str, str] | None = None, padding: int = 0) -> bytes:
    """The bytes of a file with ``content`` in this order and so many spaces more in its header."""
    header = write_header(
        [(n, dtype, shape) for n, (dtype, shape, _b) in content.items()], metadata
    )
    length = int.from_bytes(header[:8], "little") + padding
    data = b"".join(raw for _dtype, _shape, raw in content.values())
    return length.to_bytes(8, "little") + header[8:] + b" " * padding + data


def print_of(content: Content) -> str:
    return fingerprint(Checkpoint.open({"model.safetensors": MemorySource(shard(content), "m")}))


@settings(max_examples=80, deadline=None)
@given(content=contents(), data=st.data())
def test_sharding_order_metadata_and_padding_do_not_matter(
    content: Content, data: st.DataObject
) -> None:
    names = data.draw(st.permutations(list(content)))
    numbers = {name: data.draw(st.integers(1, 3)) for name in names}
    weight_map = {name: f"s{number}.safetensors" for name, number in numbers.items()}
    files = {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}
    for path in set(weight_map.values()):
        part = {name: content[name] for name in names if weight_map[name] == path}
        metadata = {"format": data.draw(st.sampled_from(["pt", "np"]))}
        files[path] = shard(part, metadata, data.draw(st.integers(0, 9)))
    sources = {path: MemorySource(raw, path) for path, raw in files.items()}
    assert fingerprint(Checkpoint.open(sources)) == print_of(content)


@settings(max_examples=80, deadline=None)
@given(content=contents(), data=st.data())
def test_one_flipped_bit_is_another_foundation(content: Content, data: st.DataObject) -> None:
    filled = [name for name, (_dtype, _shape, raw) in content.items() if raw]
    if not filled:
        return
    name = data.draw(st.sampled_from(filled))
    dtype, shape, raw = content[name]
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    flipped = bytearray(raw)
    flipped[bit // 8] ^= 1 << bit % 8
    assert print_of({**content, name: (dtype, shape, bytes(flipped))}) != print_of(content)


RAW = bytes(range(24))
PLAIN: Content = {"a": ("F32", (2, 3), RAW), "b": ("U8", (2,), b"xy")}


@pytest.mark.parametrize(
    "other",
    [
        {**PLAIN, "a": ("I32", (2, 3), RAW)},
        {**PLAIN, "a": ("BF16", (12,), RAW)},
        {**PLAIN, "a": ("F32", (3, 2), RAW)},
        {**PLAIN, "a": ("F32", (6,), RAW)},
        {**PLAIN, "a": ("F32", (2, 3, 1), RAW)},
        {"c": PLAIN["a"], "b": PLAIN["b"]},
        {"a": PLAIN["a"]},
        {**PLAIN, "c": ("U8", (0,), b"")},
        {"b": ("F32", (2, 3), RAW), "a": ("U8", (2,), b"xy")},
    ],
    ids=["dtype", "narrow", "shape", "flat", "rank", "name", "fewer", "more", "exchanged"],
)
def test_another_dtype_shape_or_name_is_another_foundation(other: Content) -> None:
    assert print_of(other) != print_of(PLAIN)


def test_the_fingerprint_stays_what_it_is() -> None:
    """It is stored and compared between releases, so it may not drift."""
    assert print_of(PLAIN) == "2d069f856f46b977a09c53a200b35ae76cd05f4a0fd732af570d063e03c3ec84"


def test_rows_may_come_in_any_order() -> None:
    rows = [("a", "F32", (2,), "0" * 64), ("b", "F32", (), "1" * 64)]
    assert combine_digests(rows) == combine_digests(reversed(rows))


def test_it_is_read_in_pieces_and_reports_them(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = save({"a": torch.arange(100.0)})
    checkpoint = Checkpoint.open({"model.safetensors": MemorySource(raw, "m")})
    whole = fingerprint(checkpoint)
    monkeypatch.setattr(module, "READ_BYTES", 96)
    told: list[int] = []
    assert fingerprint(checkpoint, told.append) == whole
    assert told == [96, 96, 96, 96, 16]
