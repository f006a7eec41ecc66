"""numba for this project: quicker to start, and never with the loops of an older source.

The compiler's first loop, even one that is read from its cache, loads everything numba can do,
for linear algebra all of scipy, and a parser of C: a fifth of a second of every command. Loops
that call ``numpy.linalg`` are not to be compiled in this project.

numba keeps a compiled loop as long as its own file is unchanged; but a loop contains the loops it
calls, which may stand in other files. Here it is kept as long as those are unchanged too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic as _intrinsic

__all__ = ["intrinsic", "njit", "types"]

intrinsic: Any = _intrinsic  # what it makes is called without its first argument


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit``, whose cache also minds the files of the loops that are called."""

    def compiled(function: Callable[..., Any]) -> Any:
        loop = numba.njit(**options)(function)
        if options.get("cache"):
            _mind(loop)
        return loop

    return compiled


def _mind(loop: Any) -> None:
    """Make the cache of ``loop`` depend on the state of every file that is compiled into it."""
    function = loop.py_func
    loop.files = {function.__code__.co_filename}
    for name in function.__code__.co_names:
        called = function.__globals__.get(name)
        loop.files |= getattr(called, "files", set())
    stamps = []
    for path in sorted(loop.files):
        status = os.stat(path)
        stamps.append((os.path.basename(path), status.st_mtime_ns, status.st_size))
    # numba compares whatever is here with what it stored; it has no public way to add to it.
    loop._cache._cache_file._source_stamp = tuple(stamps)


def _load() -> None:
    """Load numba's own functions, without those that need scipy or cffi."""
    hidden = [name for name in ("scipy.linalg", "cffi") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # importing them fails
    try:
        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()
    finally:
        for name in hidden:
            del sys.modules[name]


_load()
