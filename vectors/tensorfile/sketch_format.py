"""A sketch in memory, and its stored form.

    bytes            what
    0 – 7            ``ARMSKTCH``
    8 – 11           version of the format, 1 (uint32, little endian, as everything)
    12 – 15          length of the head
    head             JSON, deflated (zlib)
    float16          values, tensor by tensor, each tensor's in its order and divided by its RMS
    uint64           marks "large", tensor by tensor, lowest bit first, each in whole words
    uint64           marks "negative", likewise

The head has ``foundation`` (its fingerprint), ``threshold`` (from which magnitude on an entry is
large), ``histogram`` (of the changed entries' magnitudes: ``counts`` of half octaves, the first of
which begins at 2 to the power of ``first``), and ``tensors``: a list, by name, of [name, entries,
changed entries, Σδ², how many values are kept]. There are min(8 · kept, entries) marks of a tensor.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import TensorFileError, _

MAGIC = b"ARMSKTCH"
VERSION = 1
WORD = 64
FINER = 8  # places with marks for each place with a value
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
_MAX_HEAD = 64 * 2**20


@dataclass(frozen=True)
class Sketch:
    """A sketch. Arrays by tensor are in the order of ``names``, which is sorted.

    ``values[value_at[t]:value_at[t + 1]]`` are tensor t's, in units of its RMS;
    ``large[mark_at[t]:mark_at[t + 1]]`` are the words of its marks, of which ``marked[t]`` count.
    """

    foundation: str
    names: tuple[str, ...]
    counts: np.ndarray
    changed: np.ndarray
    squares: np.ndarray
    kept: np.ndarray
    marked: np.ndarray
    values: np.ndarray
    value_at: np.ndarray
    large: np.ndarray
    negative: np.ndarray
    mark_at: np.ndarray
    threshold: float
    histogram: dict[str, Any]

    @property
    def norm(self) -> float:
        """‖τ‖."""
        return math.sqrt(float(self.squares.sum()))

    @property
    def entries(self) -> int:
        """Entries of the tensors it changes."""
        return int(self.counts.sum())

    @property
    def entries_changed(self) -> int:
        """Entries with δ ≠ 0."""
        return int(self.changed.sum())

    def entries_large(self) -> float:
        """How many entries are large, estimated from the marks."""
        if not len(self.names):
            return 0.0
        found = np.add.reduceat(np.bitwise_count(self.large).astype(np.int64), self.mark_at[:-1])
        return float((found * (self.counts / self.marked)).sum())

    def to_bytes(self) -> bytes:
        """The stored form; equal sketches have equal bytes."""
        head = {
            "foundation": self.foundation,
            "threshold": self.threshold,
            "histogram": self.histogram,
            "tensors": [
                [name, int(count), int(changed), float(square), int(kept)]
                for name, count, changed, square, kept in zip(
                    self.names, self.counts, self.changed, self.squares, self.kept, strict=True
                )
            ],
        }
        text = zlib.compress(json.dumps(head, separators=(",", ":"), sort_keys=True).encode(), 6)
        return b"".join(
            (
                MAGIC,
                struct.pack("<II", VERSION, len(text)),
                text,
                self.values.astype("<f2").tobytes(),
                self.large.astype("<u8").tobytes(),
                self.negative.astype("<u8").tobytes(),
            )
        )


def read_sketch(data: bytes) -> Sketch:
    """The sketch stored in ``data``. Raises TensorFileError where it is none."""
    try:
        if data[:8] != MAGIC or struct.unpack_from("<I", data, 8)[0] != VERSION:
            raise ValueError
        (length,) = struct.unpack_from("<I", data, 12)
        head = json.loads(zlib.decompressobj().decompress(data[16 : 16 + length], _MAX_HEAD))
        rows = head["tensors"]
        names = tuple(str(row[0]) for row in rows)
        counts, changed, kept = (
            np.array([row[i] for row in rows], np.int64).reshape(-1) for i in (1, 2, 4)
        )
        squares = np.array([row[3] for row in rows], np.float64)
        marked, value_at, mark_at = _places(counts, kept)
        body = memoryview(data)[16 + length :]
        nvalues, nwords = int(value_at[-1]), int(mark_at[-1])
        if len(body) != 2 * nvalues + 16 * nwords:
            raise ValueError
        words = np.frombuffer(body[2 * nvalues :], "<u8")
        return Sketch(
            foundation=str(head["foundation"]),
            names=names,
            counts=counts,
            changed=changed,
            squares=squares,
            kept=kept,
            marked=marked,
            values=np.frombuffer(body[: 2 * nvalues], "<f2").astype(np.float32),
            value_at=value_at,
            large=words[:nwords],
            negative=words[nwords:],
            mark_at=mark_at,
            threshold=float(head["threshold"]),
            histogram=head["histogram"],
        )
    except (ValueError, KeyError, TypeError, IndexError, struct.error, zlib.error) as error:
        raise TensorFileError(
            _("This is not a sketch of version %(version)d. Make it again with `make_sketches`."),
            version=VERSION,
        ) from error


def pack(
    *,
    foundation: str,
    names: Sequence[str],
    counts: Sequence[int],
    changed: Sequence[int],
    squares: Sequence[float],
    kept: Sequence[int],
    sampled: Sequence[np.ndarray],
    threshold: float,
    histogram: dict[str, Any],
) -> Sketch:
    """A sketch of tensors whose ``sampled`` values, of every place that has marks, are in order."""
    counts_, kept_ = np.array(counts, np.int64), np.array(kept, np.int64)
    marked, value_at, mark_at = _places(counts_, kept_)
    values = np.zeros(int(value_at[-1]), np.float32)
    large, negative = (np.zeros(int(mark_at[-1]), np.uint64) for _plane in range(2))
    for t, found in enumerate(sampled):
        numbers = found[: marked[t]].astype(np.float64)
        words = slice(mark_at[t], mark_at[t + 1])
        large[words] = _words((np.abs(numbers) >= threshold) & (numbers != 0))
        negative[words] = _words(numbers < 0)
        rms = math.sqrt(squares[t] / counts[t])
        scaled = numbers[: kept_[t]] / rms
        # A change stays a change: what float16 would make a zero keeps its sign.
        scaled = np.copysign(np.clip(np.abs(scaled), _SMALLEST, _LARGEST), scaled) * (scaled != 0)
        values[value_at[t] : value_at[t + 1]] = scaled.astype(np.float16)
    return Sketch(
        foundation=foundation,
        names=tuple(names),
        counts=counts_,
        changed=np.array(changed, np.int64),
        squares=np.array(squares, np.float64),
        kept=kept_,
        marked=marked,
        values=values,
        value_at=value_at,
        large=large,
        negative=negative,
        mark_at=mark_at,
        threshold=threshold,
        histogram=histogram,
    )


def _places(counts: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Marks of each tensor, and where its values and its words of marks begin and end."""
    if (kept < 1).any() or (kept > counts).any():
        raise ValueError
    marked = np.minimum(kept * FINER, counts)
    starts = (np.append(0, np.cumsum(sizes)) for sizes in (kept, -(-marked // WORD)))
    value_at, mark_at = starts
    return marked, value_at, mark_at


def _words(bits: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-bits.size // WORD) * WORD, bool)
    padded[: bits.size] = bits
    return np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64)
