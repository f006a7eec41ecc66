"""Any range of any output file can be computed alone, by anyone, and is the same bytes."""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from merging.engine import compute, layout, run
from merging.engine.block import Workspace
from merging.engine.run import Equipment, stream, stream_ahead, write_model
from tests.engine.models import State, lora, put_on, shards, tuned, vector
from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.header import read_header
from vectors.tensorfile.source import MemorySource


def parts() -> list[State]:
    """Two shards: sizes that no block divides, a mixture of dtypes, a scalar, nothing at all."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    first = {
        "embed.weight": normal(11, 6).bfloat16(),
        "layers.0.weight": normal(13, 7).bfloat16(),
        "layers.0.bias": normal(13),
        "layers.0.scale": normal().half(),
    }
    second = {
        "layers.1.weight": normal(7, 13).double(),
        "layers.1.kernel": normal(3, 2, 3, 3).half(),
        "layers.1.empty": torch.zeros(0, 4),
        "positions": torch.arange(9),
    }
    return [first, second]


def build(folder: Path) -> Equipment:
    """Every form at once on a foundation of two shards, written below ``folder``."""
    base = parts()
    opened = shards(base, folder / "base", {"format": "pt", "made": "here"})
    factors = {
        "layers.0.lora_A.weight": torch.linspace(-1, 1, 14).reshape(2, 7),
        "layers.0.lora_B.weight": torch.linspace(-1, 2, 26).reshape(13, 2),
        "layers.1.kernel": base[1]["layers.1.kernel"] + 1,
    }
    longer = torch.cat([base[0]["embed.weight"], torch.ones(4, 6).bfloat16()])
    terms = [
        (vector(tuned(base[0] | base[1], 1), folder / "full"), "0.7"),
        (vector({"embed.weight": longer * 0.01}, folder / "longer", "delta"), "-0.3"),
        (vector({"embed.weight": longer[:5].half()}, folder / "shorter", "delta"), "0.9"),
        (lora(factors, folder / "lora", r=2, lora_alpha=3), "1.1"),
    ]
    return put_on(opened, opened, terms)


@pytest.fixture(scope="module")
def equipment(tmp_path_factory: pytest.TempPathFactory) -> Equipment:
    return build(tmp_path_factory.mktemp("ranges"))


@pytest.fixture(scope="module")
def whole(equipment: Equipment) -> dict[str, bytes]:
    return {path: b"".join(stream(file)) for path, file in equipment.model.files.items()}


def digests(contents: dict[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(raw).hexdigest() for path, raw in contents.items()}


def test_the_size_is_known_before_a_byte_is_computed(
    equipment: Equipment, whole: dict[str, bytes]
) -> None:
    assert {path: file.size for path, file in equipment.model.files.items()} == {
        path: len(raw) for path, raw in whole.items()
    }
    assert equipment.model.size == sum(map(len, whole.values()))


def test_an_empty_tensor_is_copied_and_not_called_absent(equipment: Equipment) -> None:
    assert equipment.report.absent == {}
    assert sorted(equipment.report.cases["copied"]) == ["layers.1.empty", "positions"]


def test_the_files_are_the_targets_files(equipment: Equipment, whole: dict[str, bytes]) -> None:
    """Same shards, order, metadata; the index says where everything is."""
    sources = {path: MemorySource(raw, path) for path, raw in whole.items()}
    assert equipment.model.index is not None
    sources["model.safetensors.index.json"] = MemorySource(equipment.model.index, "index")
    opened = Checkpoint.open(sources)
    for shard, part in zip(opened.shards, parts(), strict=True):
        assert {entry.name for entry in shard.header.tensors} == set(part)
        assert shard.header.metadata == {"format": "pt", "made": "here"}
        assert shard.header.data_start % 4096 == 0


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), piece=st.sampled_from([1, 7, 50, 333]), ahead=st.integers(0, 4))
def test_several_threads_ahead_give_the_same_bytes(
    equipment: Equipment,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
    piece: int,
    ahead: int,
) -> None:
    path = data.draw(st.sampled_from(sorted(whole)))
    raw, file = whole[path], equipment.model.files[path]
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(raw))] * 2)))
    start = max(start, stop - 40 * piece)  # a few dozen pieces are enough
    monkeypatch.setattr(run, "PIECE_BYTES", piece)
    monkeypatch.setattr(run, "AHEAD", ahead)
    pieces = list(stream_ahead(file, start, stop))
    assert b"".join(pieces) == raw[start:stop]
    assert all(len(each) == piece for each in pieces[:-1])


def test_who_stops_early_leaves_nothing_running(
    equipment: Equipment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the file reads is closed right after it."""
    monkeypatch.setattr(run, "PIECE_BYTES", 64)
    running, began = [], threading.Event()
    compute_piece = run._piece

    def noted(*arguments: object) -> bytes:
        running.append(arguments)
        began.set()
        try:
            return compute_piece(*arguments)  # type: ignore[arg-type]
        finally:
            running.remove(arguments)

    monkeypatch.setattr(run, "_piece", noted)
    file = next(iter(equipment.model.files.values()))
    for _ in range(20):
        pieces = stream_ahead(file)
        next(pieces)
        pieces.close()
        assert running == []
    assert began.is_set()


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    elements=st.sampled_from([1, 2, 5, 7, 64, 65536]),
    copied=st.sampled_from([1, 3, 10, 2**20]),
    piece=st.sampled_from([1, 50, 2**20]),
)
def test_any_range_is_that_slice_of_the_whole(
    equipment: Equipment,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
    elements: int,
    copied: int,
    piece: int,
) -> None:
    """Whatever the sizes of blocks, copies and pieces; half elements too."""
    path = data.draw(st.sampled_from(sorted(whole)))
    raw, file = whole[path], equipment.model.files[path]
    near = len(file.header)
    spot = st.one_of(st.integers(0, len(raw)), st.integers(near - 3, len(raw)))
    start, stop = sorted((data.draw(spot), data.draw(spot)))
    monkeypatch.setattr(compute, "BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(layout, "COPY_BYTES", copied)
    monkeypatch.setattr(run, "PIECE_BYTES", piece)
    pieces = list(stream(file, start, stop))
    assert b"".join(pieces) == raw[start:stop]
    assert all(pieces)


def test_every_cut_of_the_data_in_two_gives_the_same_file(
    equipment: Equipment, whole: dict[str, bytes]
) -> None:
    """A download that is resumed at any byte."""
    for path, file in equipment.model.files.items():
        for cut in range(len(file.header) - 2, file.size + 1, 3):
            head = b"".join(map(bytes, file.read(len(file.header) - 2, cut)))
            tail = b"".join(map(bytes, file.read(cut, file.size)))
            assert head + tail == whole[path][len(file.header) - 2 :], cut


def test_one_workspace_serves_ranges_in_any_order(
    equipment: Equipment, whole: dict[str, bytes]
) -> None:
    """What an earlier range left in the scratch memory is never part of a later one."""
    work = Workspace()
    for path, file in equipment.model.files.items():
        starts = list(range(len(file.header), file.size, 17))
        for start in [*starts[::-1], *starts[::3]]:
            found = b"".join(map(bytes, file.read(start, min(start + 40, file.size), work)))
            assert found == whole[path][start : start + 40]


def test_a_range_reads_no_more_than_it_needs(equipment: Equipment) -> None:
    """The last bytes of a file are computed without touching the tensors before them."""
    path, file = sorted(equipment.model.files.items())[1]
    last = file.tensors[-1].source.source
    read: list[int] = []

    class Watched(MemorySource):
        def __init__(self) -> None:
            self.name, self.size = last.name, last.size

        def read_into(self, offset: int, buffer: memoryview) -> None:
            read.append(offset)
            last.read_into(offset, buffer)

    header = read_header(last)
    for planned in file.tensors:
        object.__setattr__(planned.source, "source", Watched())
    try:
        list(file.read(file.size - 4, file.size))
    finally:
        for planned in file.tensors:
            object.__setattr__(planned.source, "source", last)
    assert read, path
    assert min(read) >= header.tensors[-1].start


@settings(max_examples=12, deadline=None)
@given(
    threads=st.integers(1, 5),
    task=st.sampled_from([1000, 4096, 5001, 8 * 2**20]),
    elements=st.sampled_from([3, 64, 65536]),
)
@example(threads=4, task=997, elements=5)
def test_a_written_model_is_the_streamed_one(
    equipment: Equipment,
    whole: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    threads: int,
    task: int,
    elements: int,
) -> None:
    folder = tmp_path_factory.mktemp("written") / "out"
    told: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "TASK_BYTES", task)
        patch.setattr(compute, "BLOCK_ELEMENTS", elements)
        write_model(equipment, folder, {}, on_bytes=told.append, threads=threads)
    written = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert written == whole
    assert sum(told) == equipment.model.size
    assert (folder / "model.safetensors.index.json").read_bytes() == equipment.model.index


def _digests_of_a_new_build(folder: str) -> dict[str, str]:
    equipment = build(Path(folder))
    return digests({path: b"".join(stream(f)) for path, f in equipment.model.files.items()})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="starts a process anew")
def test_another_process_gives_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    """Nothing depends on the process: no hash seed, no address, no random number."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(_digests_of_a_new_build, str(tmp_path)).result() == digests(whole)
