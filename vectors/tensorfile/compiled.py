"""numba, started without the part of it that these loops do not need.

The compiler's first loop, even one that is read from its cache, loads everything numba can do,
and for linear algebra all of scipy: a fifth of a second of every command. Loops that call
``numpy.linalg`` are not to be compiled in this project.
"""

from __future__ import annotations

import sys
from typing import Any

from numba import njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic as _intrinsic

__all__ = ["intrinsic", "njit", "types"]

intrinsic: Any = _intrinsic  # what it makes is called without its first argument


def _load() -> None:
    absent = "scipy.linalg" not in sys.modules
    if absent:
        sys.modules["scipy.linalg"] = None  # type: ignore[assignment]  # importing it fails
    try:
        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()
    finally:
        if absent:
            del sys.modules["scipy.linalg"]


_load()
