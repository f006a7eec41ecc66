"""The virtual file: the exact bytes of every output file, known from headers alone.

Any byte range of any output file can be computed by computing just the tensors in it. A download
starts at once, resumes anywhere and never needs the merged model on disk; a build is the same
stream written down.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.header import tensor_bytes, write_header

from .align import COPIED, MERGED, PlannedTensor
from .block import Workspace

COPY_BYTES = 2**20
SHARD_BYTES = 5 * 10**9  # of files that are laid out anew


class Computing(Protocol):
    """What a file asks for the bytes of its tensors: the merge itself, or a view of it."""

    @property
    def by_tensor(self) -> bool:
        """Whether a tensor is best computed by one thread, start to end."""
        ...

    @property
    def block_elements(self) -> int:
        """How many elements are best computed at a time."""
        ...

    def merge(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> np.ndarray:
        """Bytes (uint8) of the elements ``[lo, hi)``, in the tensor's ``out_dtype``."""
        ...


class VirtualFile:
    """One output file: header bytes, then tensors at known offsets."""

    def __init__(
        self,
        path: str,
        tensors: Sequence[PlannedTensor],
        metadata: Mapping[str, str],
        combination: Computing,
    ) -> None:
        self.path = path
        self.tensors = list(tensors)
        self.header = write_header(
            [(t.name, t.out_dtype, t.shape) for t in self.tensors],
            {"format": "pt", **metadata},
        )
        self.combination = combination
        self.starts = []
        offset = len(self.header)
        for tensor in self.tensors:
            self.starts.append(offset)
            offset += tensor_bytes(tensor.out_dtype, tensor.shape)
        self.size = offset

    def read(self, start: int, stop: int, work: Workspace | None = None) -> Iterator[memoryview]:
        """Yield the bytes ``[start, stop)`` in pieces. A piece is valid until the next one."""
        work = work or Workspace()
        if start < len(self.header):
            yield memoryview(self.header)[start : min(stop, len(self.header))]
        for tensor, lo, hi, _at in self.parts(start, stop):
            yield from self.read_tensor(tensor, lo, hi, work)
            work.forget_tensor()

    def parts(self, start: int, stop: int) -> Iterator[tuple[PlannedTensor, int, int, int]]:
        """The tensors in the bytes ``[start, stop)``: each with its bytes ``[lo, hi)`` there, and
        where in the file they begin."""
        first = max(bisect_right(self.starts, start) - 1, 0)
        for index in range(first, len(self.tensors)):
            begin = self.starts[index]
            tensor = self.tensors[index]
            end = begin + tensor_bytes(tensor.out_dtype, tensor.shape)
            if begin >= stop:
                break
            lo, hi = max(start, begin) - begin, min(stop, end) - begin
            if lo < hi:
                yield tensor, lo, hi, begin + lo

    def read_tensor(
        self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace
    ) -> Iterator[memoryview]:
        """Yield bytes ``[lo, hi)`` of one output tensor."""
        if tensor.case != MERGED and tensor.out_dtype == tensor.source.dtype:
            for at in range(lo, hi, COPY_BYTES):
                raw = work.array("copy", min(COPY_BYTES, hi - at), np.uint8)
                tensor.source.read_into(at, memoryview(raw))
                yield memoryview(raw)
            return
        size = DTYPES[tensor.out_dtype].size
        length = self.combination.block_elements
        for first in range(lo // size, -(-hi // size), length):
            last = min(first + length, -(-hi // size))
            raw = self.combination.merge(tensor, first, last, work)
            yield memoryview(raw)[max(lo - first * size, 0) : min(hi, last * size) - first * size]


@dataclass(frozen=True)
class VirtualModel:
    """All weight files of an equipped model, and the index when there are several."""

    files: dict[str, VirtualFile]
    index: bytes | None

    @property
    def size(self) -> int:
        """Bytes of all weight files."""
        return sum(file.size for file in self.files.values())


def lay_out(
    planned: Sequence[PlannedTensor], target: Checkpoint, combination: Computing
) -> VirtualModel:
    """Lay the planned tensors out in the target's own files and order.

    Tensors that the target does not have come last; what it has and the plan has not is left out.
    """
    by_name = {tensor.name: tensor for tensor in planned}
    groups: list[tuple[list[PlannedTensor], Mapping[str, str]]] = []
    for shard in target.shards:
        names = [entry.name for entry in shard.header.tensors if entry.name in by_name]
        groups.append(([by_name.pop(name) for name in names], shard.header.metadata))
    if by_name:
        groups[-1][0].extend(by_name.values())
    return files_of([group for group in groups if group[0]], combination)


def lay_out_anew(
    planned: Sequence[PlannedTensor],
    combination: Computing,
    stem: str = "model",
    metadata: Mapping[str, str] | None = None,
) -> VirtualModel:
    """Lay the planned tensors out in files of at most about 5 GB, in the order given."""
    groups: list[tuple[list[PlannedTensor], Mapping[str, str]]] = []
    room = 0
    for tensor in planned:
        nbytes = tensor_bytes(tensor.out_dtype, tensor.shape)
        if not groups or nbytes > room:
            groups.append(([], metadata or {}))
            room = SHARD_BYTES
        groups[-1][0].append(tensor)
        room -= nbytes
    return files_of(groups, combination, stem)


def files_of(
    groups: Sequence[tuple[list[PlannedTensor], Mapping[str, str]]],
    combination: Computing,
    stem: str = "model",
) -> VirtualModel:
    """One virtual file for each group of tensors, and the index where there are several."""
    files: dict[str, VirtualFile] = {}
    for number, (tensors, metadata) in enumerate(groups, start=1):
        path = _file_name(stem, number, len(groups))
        files[path] = VirtualFile(path, tensors, metadata, combination)
    if len(files) <= 1:
        return VirtualModel(files, None)
    weight_map = {t.name: path for path, file in files.items() for t in file.tensors}
    total = sum(tensor_bytes(t.out_dtype, t.shape) for file in files.values() for t in file.tensors)
    document = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return VirtualModel(files, (json.dumps(document, indent=2) + "\n").encode())


def copy_plan(checkpoint: Checkpoint) -> list[PlannedTensor]:
    """The plan that gives ``checkpoint`` back, byte for byte."""
    return [
        PlannedTensor(tensor.name, tensor, COPIED, (), tensor.dtype)
        for tensor in checkpoint.tensors.values()
    ]


def _file_name(stem: str, number: int, count: int) -> str:
    if count == 1:
        return f"{stem}.safetensors"
    return f"{stem}-{number:05d}-of-{count:05d}.safetensors"
