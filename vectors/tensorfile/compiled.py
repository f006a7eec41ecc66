"""Compiled loops that start at once: the compiler is loaded only where something is to be compiled.

A loop is written in Python and compiled by numba for the types it is called with, once on a
machine; what comes out is kept in a file (see `kept`). From then on it is read and called, and
neither numba nor its types are imported, which would be half a second of every command. Whatever
is not as it was (another processor, another numba, a changed loop, a damaged file) is compiled and
kept anew.

A loop is called with numbers, arrays and tuples of these, and gives numbers. It may call other
loops. Arrays are handed over as they are: their fields lie where numpy's C interface has them.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from . import kept
from .machine_code import address_of

__all__ = ["External", "Intrinsic", "Loop", "external", "intrinsic", "njit", "types"]

# What is looked at of an array's flags: its order, whether it is aligned, whether it is writable.
_C, _F, _ALIGNED, _WRITABLE = 0x1, 0x2, 0x100, 0x400
_FLAGS = _F | _C | _ALIGNED | _WRITABLE
_FLAGS_OF_C = _FLAGS ^ _F

_SMALL = 2**63
# How a number of each type stands in its eight bytes.
_PLACES = {
    bool: "?7x",
    int: "q",
    float: "d",
    np.bool_: "?7x",
    np.float32: "f4x",
    np.float64: "d",
    np.int32: "i4x",
    np.int64: "q",
    np.uint8: "B7x",
    np.uint16: "H6x",
    np.uint32: "I4x",
    np.uint64: "Q",
}

_OK = (0, -2)  # what a compiled function returns when it did not raise: a value, or None
_compiling = threading.RLock()


class Loop:
    """A function that runs compiled, without the interpreter's lock if ``nogil`` says so."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function = function
        self.options = options
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__module__ = function.__module__
        self.compiled = 0  # how many times it was compiled here, instead of being read
        self._ready: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        kinds: list[Any] = []
        words: list[Any] = []
        _describe(arguments, kinds, words)
        call = self._ready.get(tuple(kinds))
        if call is None:
            call = self._prepare(tuple(kinds), arguments)
        return call(words, arguments)

    @property
    def files(self) -> set[str]:
        """The files that its machine code depends on: its own, and those of the loops it calls."""
        found = {self.function.__code__.co_filename}
        for name in self.function.__code__.co_names:
            called = self.function.__globals__.get(name)
            if isinstance(called, Loop):
                found |= called.files
            elif isinstance(called, Intrinsic):
                found.add(called.function.__code__.co_filename)
        return found

    def _prepare(self, kinds: tuple[Any, ...], arguments: tuple[Any, ...]) -> Callable[..., Any]:
        with _compiling:
            found = self._ready.get(kinds)
            if found is None:
                found = self._ready[kinds] = self._read(kinds) or self._compile(kinds, arguments)
        return found

    def _read(self, kinds: tuple[Any, ...]) -> Callable[..., Any] | None:
        if not self.options.get("cache"):
            return None
        code = kept.read(self, kinds)
        try:
            return self._callable(kinds, code) if code is not None else None
        except LookupError:  # it needs what this process does not have
            return None

    def _compile(self, kinds: tuple[Any, ...], arguments: tuple[Any, ...]) -> Callable[..., Any]:
        from .compiling import NotClosed, compile_loop, dispatcher_of

        self.compiled += 1
        try:
            code = compile_loop(self, arguments)
        except NotClosed:  # it can only be called by way of numba, and not be kept
            return lambda _words, arguments: dispatcher_of(self)(*arguments)
        if self.options.get("cache"):
            kept.write(self, kinds, code)
        return self._callable(kinds, code)

    def _callable(self, kinds: tuple[Any, ...], code: kept.Code) -> Callable[..., Any]:
        prototype = ctypes.CFUNCTYPE if self.options.get("nogil") else ctypes.PYFUNCTYPE
        # (result, error, arguments, results): the first two are numba's, and of no use here.
        pointer = ctypes.c_void_p
        kind = prototype(ctypes.c_int32, pointer, pointer, ctypes.c_char_p, pointer)
        native = kind(address_of(code.machine_code, code.symbol))
        pack = struct.Struct("=" + "".join(_places(kinds))).pack
        results = struct.Struct("=16x" + "".join(code.results))
        room = ctypes.c_char * max(results.size, 24)
        several = code.several

        def call(words: list[Any], arguments: tuple[Any, ...]) -> Any:
            out = room()
            at = ctypes.addressof(out)
            if native(at, at + 8, pack(*words), at + 16) not in _OK:
                return self._fail(arguments)
            found = results.unpack_from(out)
            if several:
                return found
            return found[0] if found else None

        return call

    def _fail(self, arguments: tuple[Any, ...]) -> Any:
        """Raise what the loop raised: the compiler knows how to say it."""
        from .compiling import dispatcher_of

        return dispatcher_of(self)(*arguments)


class Intrinsic:
    """A function that says in LLVM's terms what its call is compiled to; see numba's intrinsic."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class External:
    """A function of the C library, called by loops."""

    def __init__(self, name: str, result: str, arguments: tuple[str, ...]) -> None:
        self.name = name
        self.result = result
        self.arguments = arguments


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a `Loop` of a function. ``options`` are those of ``numba.njit``.

    With ``cache`` the compiled loop is kept for the next process.
    """
    return lambda function: Loop(function, options)


def intrinsic(function: Callable[..., Any]) -> Any:
    """``numba.extending.intrinsic``: what it makes is called without the first argument."""
    return Intrinsic(function)


def external(name: str, result: str, *arguments: str) -> Any:
    """The function ``name`` of the C library; its types by their names in numba."""
    return External(name, result, arguments)


class _Types:
    """``numba.types``, loaded when the first of them is asked for."""

    def __getattr__(self, name: str) -> Any:
        from numba import types as all_types

        return getattr(all_types, name)


types = _Types()


def _describe(values: tuple[Any, ...], kinds: list[Any], words: list[Any]) -> None:
    """Add to ``kinds`` what the compiled code depends on, to ``words`` what it is handed."""
    for value in values:
        if isinstance(value, np.ndarray):
            flags = value.flags.num
            flags &= _FLAGS_OF_C if flags & _C else _FLAGS
            kinds.append((value.dtype.str, value.ndim, flags))
            words.append(id(value))
        elif isinstance(value, tuple):
            inner: list[Any] = []
            _describe(value, inner, words)
            kinds.append(tuple(inner))
        else:
            place = _PLACES[type(value)]
            if place == "q" and not -_SMALL <= value < _SMALL:
                place = "Q"
            kinds.append(place)
            words.append(value)


def _places(kinds: tuple[Any, ...]) -> list[str]:
    """The places of the words that ``kinds`` are handed over by."""
    found: list[str] = []
    for kind in kinds:
        if isinstance(kind, str):
            found.append(kind)
        elif len(kind) == 3 and isinstance(kind[1], int):
            found.append("Q")
        else:
            found += _places(kind)
    return found
