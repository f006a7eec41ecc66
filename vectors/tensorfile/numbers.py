"""Stored bytes ↔ numbers to compute with.

``float32`` carries the 8- and 16-bit types exactly, ``float64`` carries F32 and F64. Rounding back
is round-to-nearest, ties to even, once. The loops are compiled, release the interpreter lock and
are elementwise, so a result never depends on where a block starts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiled import njit

_PRODUCT_ELEMENTS = 1 << 20

_STORAGE: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8,
}
_TORCH_NAMES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


def compute_dtype(*dtypes: str) -> Any:
    """The numpy type to compute in when these stored types meet."""
    return np.float64 if {"F32", "F64"} & set(dtypes) else np.float32


def widen(raw: np.ndarray, dtype: str, out: np.ndarray) -> np.ndarray:
    """Fill ``out`` (float32 or float64, n) with the numbers stored in ``raw`` (uint8, bytes)."""
    stored = raw.view(_STORAGE[dtype])
    if dtype == "BF16":
        if out.dtype == np.float32:
            _widen_bf16(stored, out.view(np.uint32))
        else:
            _cast(_as_float32_bf16(stored), out)
    elif dtype in _TORCH_NAMES:
        out[:] = _eight_bit_table(dtype)[stored]
    else:
        _cast(stored, out)
    return out


def narrow(values: np.ndarray, dtype: str, raw: np.ndarray) -> np.ndarray:
    """Round ``values`` (float32 or float64, n) to ``dtype`` into ``raw`` (uint8, bytes)."""
    stored = raw.view(_STORAGE[dtype])
    if dtype == "BF16":
        if values.dtype == np.float32:
            _narrow_bf16(values.view(np.uint32), stored)
        else:
            _narrow_bf16_from_double(values.view(np.uint64), stored)
    elif dtype in _TORCH_NAMES:
        import torch  # only 8-bit floats need it

        target = getattr(torch, _TORCH_NAMES[dtype])
        stored[:] = torch.from_numpy(values).to(target).view(torch.uint8).numpy()
    else:
        _cast(values, stored)
    return raw


def _cast(values: np.ndarray, out: np.ndarray) -> None:
    # Infinity on overflow and a quiet NaN for a signalling one are the rule, not worth a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        out[:] = values


_tables: dict[str, np.ndarray] = {}


def _eight_bit_table(dtype: str) -> np.ndarray:
    if dtype not in _tables:
        import torch  # only 8-bit floats need it

        every = torch.arange(256, dtype=torch.uint8)
        _tables[dtype] = every.view(getattr(torch, _TORCH_NAMES[dtype])).float().numpy()
    return _tables[dtype]


def _as_float32_bf16(stored: np.ndarray) -> np.ndarray:
    out = np.empty(stored.shape, np.float32)
    _widen_bf16(stored, out.view(np.uint32))
    return out


@njit(nogil=True, cache=True)
def _widen_bf16(stored, bits):
    for i in range(stored.size):
        bits[i] = np.uint32(stored[i]) << np.uint32(16)


@njit(nogil=True, cache=True)
def _narrow_bf16(bits, stored):
    for i in range(bits.size):
        b = bits[i]
        if (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
            stored[i] = np.uint16((b >> np.uint32(16)) | np.uint32(0x40))  # a quiet NaN
        else:
            odd = (b >> np.uint32(16)) & np.uint32(1)
            stored[i] = np.uint16((b + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@njit(nogil=True, cache=True)
def _narrow_bf16_from_double(bits, stored):
    # Through float32 rounded to odd, so that the second rounding is the only one that counts.
    one = np.empty(1, np.float64)
    half = np.empty(1, np.float32)
    word = half.view(np.uint32)
    pattern = one.view(np.uint64)
    for i in range(bits.size):
        pattern[0] = bits[i]
        half[0] = np.float32(one[0])
        b = word[0]
        if (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
            stored[i] = np.uint16((b >> np.uint32(16)) | np.uint32(0x40))
            continue
        back = np.float64(half[0])
        if back != one[0] and (b & np.uint32(0x7FFFFFFF)) != np.uint32(0x7F800000):
            if abs(back) > abs(one[0]):
                b = b - np.uint32(1)  # towards zero first: truncate
            b = b | np.uint32(1)  # then sticky
        odd = (b >> np.uint32(16)) & np.uint32(1)
        stored[i] = np.uint16((b + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@njit(nogil=True, cache=True)
def _moments(delta, base):
    delta_square = 0.0
    base_square = 0.0
    changed = 0
    broken = 0
    for i in range(delta.size):
        d = np.float64(delta[i])
        b = np.float64(base[i])
        if not (abs(d) < np.inf):
            broken += 1
            continue
        if d != 0.0:
            changed += 1
            delta_square += d * d
        base_square += b * b
    return delta_square, base_square, changed, broken


def moments(delta: np.ndarray, base: np.ndarray) -> tuple[float, float, int, int]:
    """Of two blocks of equal length: Σδ², Σθ², how many δ ≠ 0, how many δ are not finite."""
    return _moments(delta, base)


def product_square(left: np.ndarray, right: np.ndarray) -> float:
    """‖left · right‖², float64, in the memory of a few rows or of the factors."""
    rank, columns = right.shape
    with np.errstate(over="ignore", invalid="ignore"):
        if rank <= min(left.shape[0], columns):
            return float(np.sum((left.T @ left) * (right @ right.T)))  # tr((LᵀL)(RRᵀ))
        # A rank above both sides is no use, but nobody is kept from it: (rank, rank) would be
        # larger than all that was sent.
        step = max(1, _PRODUCT_ELEMENTS // max(1, columns))
        blocks = (left[lo : lo + step] @ right for lo in range(0, left.shape[0], step))
        return float(sum(np.sum(np.square(block)) for block in blocks))
