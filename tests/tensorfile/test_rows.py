"""Rows of several tensors read as one: every byte range, every mix of types, from many threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from vectors.tensorfile.checkpoint import Checkpoint, Tensor
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.rows import MappedRows, Zeros, common_dtype
from vectors.tensorfile.source import MemorySource

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class Counting(MemorySource):
    """A source that remembers what was read from it."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data, name)
        self.reads: list[int] = []

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append(len(buffer))
        super().read_into(offset, buffer)


def opened(*values: torch.Tensor) -> list[Tensor]:
    """Each value as the tensor of a checkpoint of its own."""
    tensors = []
    for number, value in enumerate(values):
        source = Counting(save({f"t{number}": value}), f"{number}.safetensors")
        checkpoint = Checkpoint.open({"model.safetensors": source})
        source.reads.clear()  # what the header cost is no matter here
        tensors += checkpoint.tensors.values()
    return tensors


def reads(tensor: Tensor) -> list[int]:
    assert isinstance(tensor.source, Counting)
    return tensor.source.reads


def numbers(rows: int, *shape: int, dtype: str = "BF16", seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, *shape, generator=generator).to(TORCH[dtype])


def mapped(tensors: Sequence[Tensor | Zeros], which: list[int], rows: list[int]) -> MappedRows:
    return MappedRows("embed", tensors, np.array(which, int), np.array(rows, int))


def read(view: MappedRows, start: int = 0, stop: int | None = None) -> bytes:
    buffer = bytearray((view.nbytes if stop is None else stop) - start)
    view.read_into(start, memoryview(buffer))
    return bytes(buffer)


def raw(values: torch.Tensor) -> bytes:
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[torch.Tensor], list[int], list[int]]:
    """Up to three tensors of some types and one trailing shape, and rows picked from them."""
    trailing = draw(st.sampled_from([(), (1,), (3,), (2, 2), (7,)]))
    dtypes = draw(st.lists(st.sampled_from(sorted(TORCH)), min_size=1, max_size=3))
    heights = [draw(st.integers(1, 6)) for _ in dtypes]
    values = [
        numbers(height, *trailing, dtype=dtype, seed=seed)
        for seed, (dtype, height) in enumerate(zip(dtypes, heights, strict=True))
    ]
    which, rows = [], []
    for _ in range(draw(st.integers(0, 5))):  # runs, some of one row
        tensor = draw(st.integers(0, len(values) - 1))
        first = draw(st.integers(0, heights[tensor] - 1))
        length = draw(st.integers(1, heights[tensor] - first))
        which += [tensor] * length
        rows += range(first, first + length)
    return values, which, rows


def materialised(values: list[torch.Tensor], which: list[int], rows: list[int]) -> torch.Tensor:
    """The mapped rows in torch's own promoted type (8-bit floats through float16)."""
    dtypes = {value.dtype for value in values}
    common = dtypes.pop() if len(dtypes) == 1 else None
    if common is None:
        common = torch.float16 if all(v.dtype.itemsize == 1 for v in values) else None
    if common is None:
        wide = [v.dtype for v in values if v.dtype.itemsize > 1]
        common = wide[0]
        for dtype in wide[1:]:
            common = torch.promote_types(common, dtype)
    picked = [values[w][r].to(common) for w, r in zip(which, rows, strict=True)]
    return torch.stack(picked) if picked else torch.empty(0, *values[0].shape[1:], dtype=common)


@settings(max_examples=200, deadline=None)
@given(layout=layouts(), data=st.data())
def test_any_range_is_the_slice_of_the_whole(
    layout: tuple[list[torch.Tensor], list[int], list[int]], data: st.DataObject
) -> None:
    values, which, rows = layout
    view = mapped(opened(*values), which, rows)
    whole = materialised(values, which, rows)
    assert TORCH[view.dtype] == whole.dtype
    assert (view.shape, view.count) == (tuple(whole.shape), whole.numel())
    assert view.nbytes == len(raw(whole))
    start = data.draw(st.integers(0, view.nbytes))
    stop = data.draw(st.integers(start, view.nbytes))
    assert read(view, start, stop) == raw(whole)[start:stop]


@settings(max_examples=10, deadline=None)
@given(layout=layouts())
def test_threads_do_not_disturb_each_other(
    layout: tuple[list[torch.Tensor], list[int], list[int]],
) -> None:
    values, which, rows = layout
    view = mapped(opened(*values), which, rows)
    whole = raw(materialised(values, which, rows))
    ranges = [(start, min(start + 5, view.nbytes)) for start in range(0, view.nbytes, 3)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda span: read(view, *span), ranges)
    assert list(found) == [whole[start:stop] for start, stop in ranges]


def test_rows_in_order_are_one_read() -> None:
    """An extended vocabulary begins with the old one: its rows must not cost a read each."""
    old, new = opened(numbers(3200, 4), numbers(3300, 4, seed=1))
    which = [0] * 3200 + [1] * 100
    view = mapped([old, new], which, [*range(3200), *range(3200, 3300)])
    read(view)
    assert (reads(old), reads(new)) == ([3200 * 8], [100 * 8])
    read(view, 3199 * 8 + 3, 3200 * 8 + 1)
    assert (reads(old)[1:], reads(new)[1:]) == ([5], [1])


def test_only_touched_tensors_are_read() -> None:
    first, second = opened(numbers(4, 3), numbers(4, 3, seed=1))
    read(mapped([first, second], [0, 1, 0], [1, 1, 0]), 6, 12)
    assert (reads(first), reads(second)) == ([], [6])


def test_long_conversions_are_done_in_blocks() -> None:
    """Converting a whole matrix at once would cost its size in memory."""
    wide, narrow = opened(numbers(1, 70_000, dtype="F32"), numbers(3, 70_000))
    view = mapped([wide, narrow], [1, 1, 0], [0, 2, 0])
    whole = torch.cat([numbers(3, 70_000)[[0, 2]].float(), numbers(1, 70_000, dtype="F32")])
    assert read(view) == raw(whole)
    assert read(view, 65_535 * 4 + 1, 140_001 * 4 - 1) == raw(whole)[262_141:560_003]
    assert max(reads(narrow)) <= 2 * 65_536


def test_the_bytes_of_one_type_are_handed_on() -> None:
    """Not even a NaN's payload changes where nothing has to be converted."""
    odd = torch.tensor([[0x7F81, 0x7FC1], [0xFFC2 - 65536, 1]], dtype=torch.int16)
    (tensor,) = opened(odd.view(torch.bfloat16))
    assert read(mapped([tensor], [0, 0], [1, 0])) == raw(odd[[1, 0]])


def test_integers_can_be_mapped_among_themselves() -> None:
    first, second = opened(torch.arange(6).reshape(3, 2), torch.arange(10, 16).reshape(3, 2))
    view = mapped([first, second], [1, 0], [2, 1])
    assert (view.dtype, read(view)) == ("I64", raw(torch.tensor([[14, 15], [2, 3]])))


def test_views_can_be_stacked() -> None:
    """A graft on top of a mapped matrix."""
    first, second = opened(numbers(4, 3, dtype="F16"), numbers(2, 3, dtype="BF16"))
    inner = mapped([first, second], [0, 1, 0], [3, 0, 1])
    outer = MappedRows("embed", [inner, second], np.array([0, 1, 0]), np.array([2, 1, 0]))
    wanted = [numbers(4, 3, dtype="F16")[1], numbers(2, 3)[1], numbers(4, 3, dtype="F16")[3]]
    assert read(outer) == raw(torch.stack([row.float() for row in wanted]))


def test_a_bias_of_one_row_is_mapped_by_column() -> None:
    """final_logits_bias of BART is 1 × vocabulary."""
    first, second = opened(numbers(1, 5), numbers(1, 3, seed=1))
    view = MappedRows("bias", [first, second], np.array([0, 1, 0]), np.array([4, 2, 0]), axis=1)
    assert view.shape == (1, 3)
    wanted = torch.stack([numbers(1, 5)[0, 4], numbers(1, 3, seed=1)[0, 2], numbers(1, 5)[0, 0]])
    assert read(view) == raw(wanted)


def test_rows_that_nobody_has_are_zero() -> None:
    (tensor,) = opened(numbers(2, 3))
    view = mapped([tensor, Zeros("none", "BF16", (4, 3))], [1, 0, 1], [0, 1, 2])
    assert read(view) == bytes(6) + raw(numbers(2, 3)[1]) + bytes(6)


def every_number(dtype: str) -> torch.Tensor:
    """All numbers of a type of one or two bytes; edges and random ones of a longer type."""
    size = TORCH[dtype].itemsize
    if size <= 2:
        table = torch.from_numpy(np.arange(256**size).astype(f"u{size}")).view(TORCH[dtype])
    else:
        info = torch.finfo(TORCH[dtype])
        edges = [info.max, info.tiny, info.tiny * info.eps, 1 + info.eps, float("inf"), -0.0]
        table = torch.tensor(edges, dtype=TORCH[dtype])
    return table[~table.double().isnan()]


@pytest.mark.parametrize(("first", "second"), list(combinations(sorted(TORCH), 2)))
def test_no_number_changes_in_the_common_type(first: str, second: str) -> None:
    tables = [every_number(first), every_number(second)]
    common = common_dtype((first, second))
    assert common == common_dtype((second, first, second))
    assert common is not None
    for tensor, table in zip(opened(*tables), tables, strict=True):
        other = Zeros("other", common, (1,))
        found = read(mapped([tensor, other], [0] * len(table), list(range(len(table)))))
        numbers = torch.frombuffer(bytearray(found), dtype=TORCH[common]).double()
        assert raw(numbers) == raw(table.double())


@pytest.mark.parametrize(
    ("dtypes", "wanted"),
    [
        (["BF16"], "BF16"),
        (["U8", "U8"], "U8"),
        (["BF16", "F16"], "F32"),
        (["BF16", "F32"], "F32"),
        (["F16", "F64", "BF16"], "F64"),
        (["F8_E4M3", "F8_E5M2"], "F16"),
        (["F8_E4M3", "BF16"], "BF16"),
        (["I8", "F32"], None),
        (["I8", "I16"], None),
    ],
)
def test_the_common_type_is_the_narrowest(dtypes: list[str], wanted: str | None) -> None:
    assert common_dtype(dtypes) == wanted


@pytest.mark.parametrize("row", [-1, 4])
def test_a_row_that_is_not_there_is_named(row: int) -> None:
    tensors = opened(numbers(6, 3), numbers(4, 3))
    with pytest.raises(TensorFileError) as caught:
        mapped(tensors, [0, 1], [5, row])
    assert str(caught.value) == (
        f"Row 1 of `embed` would be row {row} of `t1`, which has only 4 rows."
    )


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3, 1)])
def test_rows_of_other_lengths_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TensorFileError, match=r"`t0` is 6 × 3 and `t1` is 4.*into one tensor"):
        mapped(opened(numbers(6, 3), numbers(*shape)), [0], [0])


def test_a_scalar_has_no_rows() -> None:
    with pytest.raises(TensorFileError, match="`t0` is a scalar"):
        mapped(opened(torch.tensor(1.0)), [0], [0])


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_columns_of_matrices_are_mapped(data: st.DataObject) -> None:
    """The first factor of an embedding's LoRA is rank × vocabulary."""
    rank, trailing = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([(), (2,)]))
    values = [numbers(rank, 5, *trailing), numbers(rank, 3, *trailing, dtype="F16", seed=1)]
    picked = data.draw(st.lists(st.tuples(st.just(1), st.integers(0, 2)), max_size=4))
    picked += [(0, row) for row in data.draw(st.lists(st.integers(0, 4), max_size=4))]
    which, rows = [w for w, _row in picked], [row for _which, row in picked]
    view = MappedRows("a", opened(*values), np.array(which, int), np.array(rows, int), axis=1)
    columns = [values[w][:, row].float() for w, row in picked]
    whole = torch.stack(columns, 1) if columns else torch.empty(rank, 0, *trailing)
    assert view.shape == tuple(whole.shape)
    start = data.draw(st.integers(0, view.nbytes))
    stop = data.draw(st.integers(start, view.nbytes))
    assert read(view, start, stop) == raw(whole)[start:stop]


def test_columns_need_equal_heights() -> None:
    tensors = opened(numbers(2, 3), numbers(1, 3))
    with pytest.raises(TensorFileError, match=r"`t0` is 2 × 3 and `t1` is 1 × 3"):
        MappedRows("bias", tensors, np.array([0]), np.array([0]), axis=1)


def test_numbers_and_integers_do_not_mix() -> None:
    tensors = opened(numbers(2, 3), torch.arange(6).reshape(2, 3))
    with pytest.raises(TensorFileError, match="`t0` is BF16 and `t1` is I64: no type holds"):
        mapped(tensors, [0], [0])


@pytest.mark.parametrize("start", [-1, 7, 13])
def test_a_read_past_the_end_is_refused(start: int) -> None:
    """Reading on would give the bytes of the next tensor."""
    view = mapped(opened(numbers(4, 3)), [0, 0], [0, 1])
    with pytest.raises(TensorFileError, match="`embed` has 12 bytes"):
        view.read_into(start, memoryview(bytearray(6)))


def test_no_rows_and_no_columns_are_nothing() -> None:
    assert read(mapped(opened(numbers(4, 3)), [], [])) == b""
    view = mapped(opened(torch.empty(4, 0)), [0, 0], [3, 1])
    assert (view.shape, read(view)) == ((2, 0), b"")
