"""One row of bytes for a vector, so that one vector can be held against all of its foundation.

A row is cut from the sketch at places that depend on the foundation alone: half of ``PLACES`` by
the size of its tensors, half to each tensor alike. Each tensor's part has the length of its share
of ‖τ‖, so that the product of two rows is the sum of the tensors' sampled cosines, each weighed
by both shares: an estimate of the cosine, good to about 1 / √PLACES for vectors that change all
of the model. It finds the candidates, and their whole sketches decide (`likeness.compare`).

Stored: a scale (float32, little endian), then one signed byte a place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np

from .compiled import njit
from .sketch_format import Sketch

PLACES = 16_384
SCALE_BYTES = 4


class CoarseLayout:
    """Where in a row the tensors of a foundation are; ``tensors`` are (name, entries)."""

    def __init__(self, tensors: Iterable[tuple[str, int]]) -> None:
        names, counts = zip(*sorted(tensors), strict=True)
        sizes = np.array(counts, np.int64)
        share = sizes / max(1, sizes.sum()) / 2 + 1 / len(sizes) / 2
        widths = np.minimum(sizes, np.floor(share * PLACES).astype(np.int64))
        ends = np.cumsum(widths)
        self.width = int(ends[-1])
        self.row_bytes = SCALE_BYTES + self.width
        self._where = {
            name: (int(end - width), int(width))
            for name, width, end in zip(names, widths, ends, strict=True)
        }

    def row(self, sketch: Sketch) -> bytes:
        """The row of ``sketch``."""
        row = np.zeros(self.width)
        norm = sketch.norm
        for t, name in enumerate(sketch.names):
            if name not in self._where:  # of a type the foundation carries along unchanged
                continue
            start, width = self._where[name]
            first = int(sketch.value_at[t])
            values = sketch.values[first : first + min(width, int(sketch.kept[t]))]
            length = float(np.sqrt(np.sum(np.square(values, dtype=np.float64))))
            if length > 0:
                weight = np.sqrt(sketch.squares[t]) / norm / length
                row[start : start + len(values)] = values * weight
        scale = float(np.abs(row).max(initial=0.0)) / 127 or 1.0
        return struct.pack("<f", scale) + np.rint(row / scale).astype(np.int8).tobytes()


def read_row(row: bytes) -> tuple[float, np.ndarray]:
    """Scale and bytes of a row."""
    return struct.unpack_from("<f", row)[0], np.frombuffer(row, np.int8, offset=SCALE_BYTES)


def cosines(row: bytes, rows: np.ndarray, scales: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Estimated cosines of one row with ``rows[which]``, float64.

    ``rows`` (K, width) are bytes without their scales, which are ``scales`` (K).
    """
    scale, one = read_row(row)
    sums = np.empty(len(which), np.float64)
    _dots(rows, which, one, sums)
    return np.clip(sums * scales[which] * scale, -1, 1)


@njit(nogil=True, cache=True)
def _dots(rows, which, one, sums):
    for k in range(which.size):
        row = rows[which[k]]
        total = np.int32(0)  # 16 384 products below 2^14 stay below 2^28
        for i in range(one.size):
            total += np.int32(row[i]) * np.int32(one[i])
        sums[k] = total
