"""Object code brought into memory: what makes a kept loop a function again.

The code is closed (see `compiling`): a few sections, of which some words are addresses to be filled
in. On Linux and x86-64 that is done here, in a millisecond. Everything else, and everything that
is not understood here, is left to LLVM, which takes a twentieth of a second to load.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from functools import cache
from typing import Any

# The parts of the ELF format that are needed; see elf(5).
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, least significant byte first
_X86_64 = 62
_SYMBOLS, _RELOCATIONS, _NOTHING_STORED = 2, 4, 8
_WRITABLE, _IN_MEMORY = 1, 2
_UNWINDING = b".eh_frame"  # for debuggers, and for exceptions, of which there are none
_ADDRESS = 1  # R_X86_64_64, the only relocation of code that may lie anywhere
_UNDEFINED, _ABSOLUTE = 0, 0xFF00

_loaded: list[mmap.mmap] = []  # memory of code, which is never given back


def address_of(machine_code: bytes, symbol: str) -> int:
    """Load ``machine_code`` for the life of the process and return where ``symbol`` lies.

    Raises LookupError where the code needs something that this process does not have.
    """
    try:
        return _load(machine_code, symbol.encode())
    except (_NotUnderstood, OSError, struct.error):
        return _load_by_llvm(machine_code, symbol)


class _NotUnderstood(Exception):
    """The object file is not of the one simple kind."""


def _load(code: bytes, symbol: bytes) -> int:
    if sys.platform != "linux":
        raise _NotUnderstood
    head = _HEADER.unpack_from(code)
    if not head[0].startswith(_IDENT) or head[2] != _X86_64:
        raise _NotUnderstood
    begin, count, names_in = head[6], head[12], head[13]
    sections = [_SECTION.unpack_from(code, begin + _SECTION.size * n) for n in range(count)]
    names = [_text(code, sections[names_in][4] + section[0]) for section in sections]
    places: dict[int, int] = {}
    size = 0
    for number, section in enumerate(sections):
        kind, flags, length, alignment = section[1], section[2], section[5], max(section[8], 1)
        if not flags & _IN_MEMORY or not length or names[number] == _UNWINDING:
            continue
        if flags & _WRITABLE or kind == _NOTHING_STORED:
            raise _NotUnderstood
        places[number] = size = -(-size // alignment) * alignment
        size += length
    memory = mmap.mmap(-1, max(size, 1))
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for number, place in places.items():
        at, length = sections[number][4:6]
        memory[place : place + length] = code[at : at + length]
    table = next((section for section in sections if section[1] == _SYMBOLS), None)
    if table is None:
        raise _NotUnderstood
    texts = sections[table[6]][4]
    found = 0

    def value_of(number: int) -> int:
        name, _info, _other, section, value, _size = _SYMBOL.unpack_from(
            code, table[4] + _SYMBOL.size * number
        )
        if section == _UNDEFINED:
            return _of_process(_text(code, texts + name).decode())
        if section not in places:
            raise _NotUnderstood
        return base + places[section] + int(value)

    for section in sections:
        if section[1] != _RELOCATIONS or section[7] not in places:
            continue
        for at in range(section[4], section[4] + section[5], _RELOCATION.size):
            offset, info, addend = _RELOCATION.unpack_from(code, at)
            if info & 0xFFFFFFFF != _ADDRESS:
                raise _NotUnderstood
            address = value_of(info >> 32) + addend
            struct.pack_into("<Q", memory, places[section[7]] + offset, address % 2**64)
    for number in range(table[5] // _SYMBOL.size):
        entry = _SYMBOL.unpack_from(code, table[4] + _SYMBOL.size * number)
        if entry[3] != _UNDEFINED and _text(code, texts + entry[0]) == symbol:
            found = value_of(number)
    if not found:
        raise LookupError(symbol.decode())
    protection = mmap.PROT_READ | mmap.PROT_EXEC
    if _c_library().mprotect(ctypes.c_void_p(base), ctypes.c_size_t(len(memory)), protection):
        raise _NotUnderstood
    _loaded.append(memory)
    return found


def has_symbol(name: str) -> bool:
    """Whether code may need the function ``name`` of the C library."""
    return hasattr(_c_library(), name)


def _text(code: bytes, at: int) -> bytes:
    return code[at : code.index(b"\0", at)]


def _of_process(name: str) -> int:
    """The address of a function of the C library."""
    try:
        function = getattr(_c_library(), name)
    except AttributeError as error:
        raise LookupError(name) from error
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@cache
def _c_library() -> Any:
    return ctypes.CDLL(None)


def _load_by_llvm(machine_code: bytes, symbol: str) -> int:
    import llvmlite.binding as llvm

    engine = _engine()
    try:
        engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code))
    except RuntimeError as error:
        raise LookupError(symbol) from error
    engine.finalize_object()
    address = int(engine.get_function_address(symbol))
    if not address:
        raise LookupError(symbol)
    return address


@cache
def _engine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
