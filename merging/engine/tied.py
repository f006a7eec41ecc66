"""Tied matrices: vocabulary tensors of one checkpoint that hold the same numbers."""

from __future__ import annotations

from collections.abc import Iterable

from vectors.tensorfile.checkpoint import Checkpoint, Tensor
from vectors.tensorfile.names import VOCABULARY

PIECE = 2**20


def tied_twins(checkpoint: Checkpoint) -> dict[str, str]:
    """For each vocabulary matrix that equals another one byte for byte: the other's name.

    Both directions are listed. Reads only matrices whose dtype and shape agree, and only up to
    the first difference.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[Tensor]] = {}
    for tensor in checkpoint.tensors.values():
        if len(tensor.shape) == 2 and tensor.count and VOCABULARY.search(tensor.name):
            groups.setdefault((tensor.dtype, tensor.shape), []).append(tensor)
    twins: dict[str, str] = {}
    for group in groups.values():
        for first, second in _pairs(group):
            if _equal(first, second):
                twins.setdefault(first.name, second.name)
                twins.setdefault(second.name, first.name)
    return twins


def _pairs(group: list[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    for at, first in enumerate(group):
        for second in group[at + 1 :]:
            yield first, second


def _equal(first: Tensor, second: Tensor) -> bool:
    left, right = bytearray(PIECE), bytearray(PIECE)
    for offset in range(0, first.nbytes, PIECE):
        count = min(PIECE, first.nbytes - offset)
        first.read_into(offset, memoryview(left)[:count])
        second.read_into(offset, memoryview(right)[:count])
        if left[:count] != right[:count]:
            return False
    return True
