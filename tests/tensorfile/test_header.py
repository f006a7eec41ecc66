"""Headers: what is refused, what is legal, and agreement with the safetensors package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from tests.tensorfile.hostile import HOSTILE, Hostile, file_of, legal
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.header import DATA_ALIGNMENT, MAX_TENSORS, read_header, write_header
from vectors.tensorfile.source import FileSource, MemorySource

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_in_one_sentence(hostile: Hostile) -> None:
    with pytest.raises(TensorFileError) as caught:
        read_header(MemorySource(hostile.build(), "weights-7.safetensors"))
    sentence = str(caught.value)
    assert "weights-7.safetensors" in sentence
    assert hostile.says in sentence
    assert f"`{hostile.tensor}`" in sentence or not hostile.tensor
    assert len(sentence) < 400
    assert sentence.isprintable()
    assert sentence == caught.value.template % caught.value.params


def test_every_hostile_file_says_why_it_is_there() -> None:
    assert all(hostile.build.__doc__ for hostile in HOSTILE.values())
    assert len(HOSTILE) >= 50


READ_THEM_ALL = """
import resource, sys
from tests.tensorfile.hostile import HOSTILE
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.header import read_header
from vectors.tensorfile.source import MemorySource

def in_use():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for name, hostile in HOSTILE.items():
    source = MemorySource(hostile.build(), "model.safetensors")
    resource.setrlimit(resource.RLIMIT_AS, (in_use() + 768 * 2**20, resource.RLIM_INFINITY))
    try:
        read_header(source)
    except TensorFileError:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        sys.exit(name)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_no_hostile_file_costs_much_time_or_memory() -> None:
    """All of them within a minute of processor time, none with 768 MiB more than its own bytes.

    The limits are kept by the kernel: a reader that takes minutes is killed, one that takes more
    memory fails with MemoryError.
    """
    done = subprocess.run(
        [sys.executable, "-c", READ_THEM_ALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", legal())
def test_a_legal_file_is_read(name: str) -> None:
    header = read_header(MemorySource(legal()[name], "model.safetensors"))
    assert sum(entry.nbytes for entry in header.tensors) == len(legal()[name]) - header.data_start


def test_every_known_dtype_is_among_the_legal_files() -> None:
    assert set(legal()) >= set(DTYPES)


def test_a_file_of_the_largest_number_of_tensors_is_read() -> None:
    rows = [(str(number), "F32", (0,)) for number in range(MAX_TENSORS)]
    assert len(read_header(MemorySource(write_header(rows), "m")).tensors) == MAX_TENSORS


def test_tensors_come_in_the_order_of_their_data() -> None:
    entry = '"%s":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    text = "{" + ",".join(entry % (name, at, at + 1) for name, at in (("b", 1), ("a", 0))) + "}"
    header = read_header(MemorySource(file_of(text.encode(), b"xy"), "m"))
    assert [tensor.name for tensor in header.tensors] == ["a", "b"]
    assert [tensor.start - header.data_start for tensor in header.tensors] == [0, 1]


def test_metadata_is_read_and_no_tensor() -> None:
    raw = write_header([("w", "U8", (0,))], {"format": "pt", "字": "詞"})
    header = read_header(MemorySource(raw, "m"))
    assert header.metadata == {"format": "pt", "字": "詞"}
    assert [tensor.name for tensor in header.tensors] == ["w"]


def test_a_file_that_is_cut_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(legal()["F64"])
    source = FileSource(path)
    header = read_header(source)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(TensorFileError, match=r"model\.safetensors ended early"):
        source.read_into(header.tensors[0].start, memoryview(bytearray(24)))
    with pytest.raises(TensorFileError, match=r"model\.safetensors changed while it was read"):
        source.check_unchanged()
    source.close()


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match=r"m\.safetensors cannot be opened: No such file"):
        FileSource(tmp_path / "m.safetensors")


names = st.text("abcdefXYZ019_.-/", min_size=1, max_size=24).filter(
    lambda name: ".." not in name.split("/")
)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
rows = st.dictionaries(
    names, st.tuples(st.sampled_from(sorted(TORCH)), shapes), min_size=1, max_size=6
)
metadatas = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    max_size=3,
)
Rows = dict[str, tuple[str, tuple[int, ...]]]


def random_bytes(count: int, seed: int) -> bytes:
    return bytes(
        torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    )


@settings(max_examples=60, deadline=None)
@given(rows=rows, metadata=metadatas)
def test_what_we_write_the_package_reads(rows: Rows, metadata: dict[str, str]) -> None:
    """Zeros and ones for bytes, so that they are booleans too."""
    listed = [(name, dtype, shape) for name, (dtype, shape) in rows.items()]
    header = write_header(listed, metadata)
    assert len(header) % DATA_ALIGNMENT == 0
    ours = read_header(FakeTail(header, listed))
    assert [(t.name, t.dtype, t.shape) for t in sorted(ours.tensors, key=place(rows))] == listed
    assert ours.metadata == metadata
    size = max(tensor.stop for tensor in ours.tensors) - len(header)
    data = random_bytes(size, len(listed))
    theirs = load(header + data)
    assert set(theirs) == set(rows)
    for tensor in ours.tensors:
        read = theirs[tensor.name]
        assert read.dtype == TORCH[tensor.dtype]
        assert tuple(read.shape) == tensor.shape
        piece = data[tensor.start - len(header) : tensor.stop - len(header)]
        assert bytes(read.reshape(-1).view(torch.uint8).tolist()) == piece


@settings(max_examples=60, deadline=None)
@given(rows=rows, metadata=metadatas)
def test_what_the_package_writes_we_read(rows: Rows, metadata: dict[str, str]) -> None:
    state = {
        name: torch.ones(shape).to(TORCH[dtype]).contiguous()
        for name, (dtype, shape) in rows.items()
    }
    raw = save(state, metadata or None)
    header = read_header(MemorySource(raw, "m"))
    assert {t.name: (t.dtype, t.shape) for t in header.tensors} == rows
    assert header.metadata == metadata
    for tensor in header.tensors:
        wanted = bytes(state[tensor.name].reshape(-1).view(torch.uint8).tolist())
        assert raw[tensor.start : tensor.stop] == wanted


def test_the_package_opens_a_file_of_ours_lazily(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(write_header([("w", "U8", (2, 2))], {"format": "pt"}) + b"abcd")
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
        assert opened.get_slice("w")[1:].tolist() == [[99, 100]]


class FakeTail(MemorySource):
    """A header followed by as many zeros as its tensors take."""

    def __init__(self, header: bytes, listed: list[tuple[str, str, tuple[int, ...]]]) -> None:
        count = sum(DTYPES[dtype].size * torch.Size(shape).numel() for _n, dtype, shape in listed)
        super().__init__(header + bytes(count), "m")


def place(rows: Rows) -> Callable[..., int]:
    """The key that sorts entries as ``rows`` has them; empty tensors share an offset."""
    order = {name: number for number, name in enumerate(rows)}
    return lambda entry: order[entry.name]
