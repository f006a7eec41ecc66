"""The fingerprint of a checkpoint: a hash over what its tensors are, not how they are filed.

Independent of file names, sharding, tensor order, header padding and metadata: two folders with
equal tensors are one foundation, one changed bit is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from .checkpoint import Checkpoint, Tensor

READ_BYTES = 4 * 2**20


def tensor_digest(tensor: Tensor, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of the tensor's bytes, hexadecimal. ``on_bytes`` is told of each piece read."""
    digest = hashlib.sha256()
    buffer = bytearray(min(READ_BYTES, tensor.nbytes))
    for offset in range(0, tensor.nbytes, READ_BYTES):
        piece = memoryview(buffer)[: min(READ_BYTES, tensor.nbytes - offset)]
        tensor.read_into(offset, piece)
        digest.update(piece)
        if on_bytes:
            on_bytes(len(piece))
    return digest.hexdigest()


def combine_digests(rows: Iterable[tuple[str, str, tuple[int, ...], str]]) -> str:
    """Fingerprint of rows (name, dtype, shape, digest of the bytes), in any order."""
    total = hashlib.sha256(b"armory fingerprint 1\n")
    for name, dtype, shape, digest in sorted(rows):
        total.update(f"{name}\0{dtype}\0{'x'.join(map(str, shape))}\0{digest}\n".encode())
    return total.hexdigest()


def fingerprint(checkpoint: Checkpoint, on_bytes: Callable[[int], None] | None = None) -> str:
    """Fingerprint of ``checkpoint``, 64 hexadecimal digits. Reads every byte once."""
    return combine_digests(
        (tensor.name, tensor.dtype, tensor.shape, tensor_digest(tensor, on_bytes))
        for tensor in checkpoint.tensors.values()
    )
