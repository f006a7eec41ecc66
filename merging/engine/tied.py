"""Tied matrices: vocabulary tensors of one checkpoint that hold the same numbers."""

from __future__ import annotations

from collections.abc import Iterable

from vectors.tensorfile.checkpoint import Checkpoint, Tensor
from vectors.tensorfile.names import VOCABULARY

PIECE = 2**20


def tied_twins(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """For each of ``names`` that equals a vocabulary matrix of the checkpoint byte for byte: the
    name of that matrix. (Whisper calls its second copy ``proj_out``, so ``names`` may be any.)

    Reads only matrices whose dtype and shape agree, and only up to the first difference.
    """
    shared: dict[tuple[str, tuple[int, ...]], list[Tensor]] = {}
    for tensor in checkpoint.tensors.values():
        if len(tensor.shape) == 2 and tensor.count and VOCABULARY.search(tensor.name):
            shared.setdefault((tensor.dtype, tensor.shape), []).append(tensor)
    twins: dict[str, str] = {}
    for name in names:
        tensor = checkpoint.tensors[name]
        for other in shared.get((tensor.dtype, tensor.shape), []):
            if other.name != name and _equal(tensor, other):
                twins[name] = other.name
                break
    return twins


def _equal(first: Tensor, second: Tensor) -> bool:
    left, right = bytearray(PIECE), bytearray(PIECE)
    for offset in range(0, first.nbytes, PIECE):
        count = min(PIECE, first.nbytes - offset)
        first.read_into(offset, memoryview(left)[:count])
        second.read_into(offset, memoryview(right)[:count])
        if left[:count] != right[:count]:
            return False
    return True
