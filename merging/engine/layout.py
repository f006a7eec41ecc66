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

import numpy as np

from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.header import tensor_bytes, write_header
from vectors.tensorfile.numbers import compute_dtype, narrow

from .align import COPIED, MERGED, PlannedTensor
from .block import BLOCK_ELEMENTS, Block, Workspace
from .methods import Method, Value

COPY_BYTES = 2**20


@dataclass(frozen=True)
class Combination:
    """How the terms of a plan are combined: the method, its weights and parameter values."""

    method: Method
    weights: Sequence[float]
    values: Mapping[str, Value]


class VirtualFile:
    """One output file: header bytes, then tensors at known offsets."""

    def __init__(
        self,
        path: str,
        tensors: Sequence[PlannedTensor],
        metadata: Mapping[str, str],
        combination: Combination,
    ) -> None:
        self.path = path
        self.tensors = list(tensors)
        self.header = write_header(
            [(t.target.name, t.out_dtype, t.target.shape) for t in self.tensors],
            {"format": "pt", **metadata},
        )
        self._combination = combination
        self._starts = []
        offset = len(self.header)
        for tensor in self.tensors:
            self._starts.append(offset)
            offset += tensor_bytes(tensor.out_dtype, tensor.target.shape)
        self.size = offset

    def read(self, start: int, stop: int, work: Workspace | None = None) -> Iterator[memoryview]:
        """Yield the bytes ``[start, stop)`` in pieces. A piece is valid until the next one."""
        work = work or Workspace()
        if start < len(self.header):
            yield memoryview(self.header)[start : min(stop, len(self.header))]
        first = max(bisect_right(self._starts, start) - 1, 0)
        for index in range(first, len(self.tensors)):
            begin = self._starts[index]
            tensor = self.tensors[index]
            end = begin + tensor_bytes(tensor.out_dtype, tensor.target.shape)
            if begin >= stop:
                break
            lo, hi = max(start, begin) - begin, min(stop, end) - begin
            if lo < hi:
                yield from self.read_tensor(tensor, lo, hi, work)
                work.forget_factors()

    def read_tensor(
        self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace
    ) -> Iterator[memoryview]:
        """Yield bytes ``[lo, hi)`` of one output tensor."""
        if tensor.case != MERGED and tensor.out_dtype == tensor.target.dtype:
            for at in range(lo, hi, COPY_BYTES):
                raw = work.array("copy", min(COPY_BYTES, hi - at), np.uint8)
                tensor.target.read_into(at, memoryview(raw))
                yield memoryview(raw)
            return
        size = DTYPES[tensor.out_dtype].size
        for first in range(lo // size, -(-hi // size), BLOCK_ELEMENTS):
            last = min(first + BLOCK_ELEMENTS, -(-hi // size))
            raw = self._merge(tensor, first, last, work)
            yield memoryview(raw)[max(lo - first * size, 0) : min(hi, last * size) - first * size]

    def _merge(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> np.ndarray:
        dtype = compute_dtype(tensor.target.dtype, tensor.out_dtype)
        block = Block(tensor.target, tensor.pieces, lo, hi, dtype, work)
        if tensor.case == MERGED:
            combination = self._combination
            numbers = combination.method.combine(block, combination.weights, combination.values)
        else:
            numbers = block.target()
        raw = work.array("out", (hi - lo) * DTYPES[tensor.out_dtype].size, np.uint8)
        return narrow(numbers, tensor.out_dtype, raw)


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
    planned: Sequence[PlannedTensor], target: Checkpoint, combination: Combination
) -> VirtualModel:
    """Lay the planned tensors out in the target's own files and order."""
    by_name = {tensor.target.name: tensor for tensor in planned}
    files: dict[str, VirtualFile] = {}
    for number, shard in enumerate(target.shards, start=1):
        path = _file_name(number, len(target.shards))
        tensors = [by_name[entry.name] for entry in shard.header.tensors]
        files[path] = VirtualFile(path, tensors, shard.header.metadata, combination)
    index = None
    if len(files) > 1:
        weight_map = {t.target.name: path for path, file in files.items() for t in file.tensors}
        total = sum(tensor_bytes(t.out_dtype, t.target.shape) for t in planned)
        document = {
            "metadata": {"total_size": total},
            "weight_map": dict(sorted(weight_map.items())),
        }
        index = (json.dumps(document, indent=2) + "\n").encode()
    return VirtualModel(files, index)


def copy_plan(checkpoint: Checkpoint) -> list[PlannedTensor]:
    """The plan that gives ``checkpoint`` back, byte for byte."""
    return [
        PlannedTensor(tensor, COPIED, (), tensor.dtype) for tensor in checkpoint.tensors.values()
    ]


def _file_name(number: int, count: int) -> str:
    if count == 1:
        return "model.safetensors"
    return f"model-{number:05d}-of-{count:05d}.safetensors"
