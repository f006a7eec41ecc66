"""The compiler of loops: numba, and what makes its code stand on its own.

A loop is compiled inside a function of one fixed shape, which takes its arguments from a row of
words and puts its results into another. The object code is closed: all that numba brings along
is inside, so that it needs nothing but the C library.

numba's own cache is not used, and its start is shortened: the first loop it compiles would load
everything it can do, for linear algebra all of scipy, and a parser of C. Loops that call
``numpy.linalg`` are not to be compiled in this project.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numba
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import compiler
from numba.core.registry import cpu_target
from numba.core.runtime import nrtdynmod
from numba.extending import intrinsic, typeof_impl
from numba.np import arrayobj

from .compiled import External, Intrinsic, Loop
from .kept import Code
from .machine_code import has_symbol

_WORDS = types.CPointer(types.int64)
_PLACES = {
    types.boolean: "?7x",
    types.int32: "i4x",
    types.int64: "q",
    types.uint32: "I4x",
    types.uint64: "Q",
    types.float32: "f4x",
    types.float64: "d",
}
_ALIGNED = 64  # bytes: what the memory of an array in a loop begins at a multiple of


class NotClosed(Exception):
    """The code of a loop needs more than the C library: Python, or numba's runtime."""


def compile_loop(loop: Loop, arguments: tuple[Any, ...]) -> Code:
    """Machine code of ``loop`` for arguments like these. Raises NotClosed."""
    kinds = tuple(numba.typeof(argument) for argument in arguments)
    dispatcher = dispatcher_of(loop, called=False)
    dispatcher.compile(kinds)
    result = dispatcher.overloads[kinds].signature.return_type
    given = _parts(result)
    name = f"{loop.__module__}.{loop.__name__}"
    entry = _entry(dispatcher, kinds, given)
    flags: Any = compiler.Flags()
    flags.nrt = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    done = compiler.compile_extra(
        cpu_target.typing_context,
        cpu_target.target_context,
        entry,
        (_WORDS, _WORDS),
        None,
        flags,
        {},
    )
    symbol = done.fndesc.llvm_func_name
    try:
        places = tuple(_PLACES[kind] for kind in given)
    except KeyError as error:
        raise TypeError(f"{name} gives {result}, which is no number") from error
    machine_code = _closed(done.library, symbol)
    return Code(machine_code, symbol, places, _is_tuple(result))


def dispatcher_of(loop: Loop, *, called: bool = True) -> Any:
    """numba's own form of ``loop``; less to compile unless it is ``called`` from Python."""
    if (loop, called) not in _dispatchers:
        options = {key: value for key, value in loop.options.items() if key != "cache"}
        if not called:
            options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        _dispatchers[loop, called] = numba.njit(**options)(loop.function)
    return _dispatchers[loop, called]


_dispatchers: dict[tuple[Loop, bool], Any] = {}
_intrinsics: dict[Intrinsic, Any] = {}


# What a loop finds among its globals, in numba's terms.


@typeof_impl.register(Loop)
def _type_of_loop(value: Loop, _context: Any) -> Any:
    return types.Dispatcher(dispatcher_of(value, called=False))


@typeof_impl.register(Intrinsic)
def _type_of_intrinsic(value: Intrinsic, _context: Any) -> Any:
    if value not in _intrinsics:
        _intrinsics[value] = intrinsic(value.function)
        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()
    return cpu_target.typing_context.resolve_value_type(_intrinsics[value])


@typeof_impl.register(External)
def _type_of_external(value: External, _context: Any) -> Any:
    arguments = [getattr(types, name) for name in value.arguments]
    return types.ExternalFunction(value.name, getattr(types, value.result)(*arguments))


def _is_tuple(kind: Any) -> bool:
    return isinstance(kind, types.BaseTuple)


def _parts(result: Any) -> list[Any]:
    """The numbers that a result is made of."""
    if isinstance(result, types.NoneType):
        return []
    return list(result) if _is_tuple(result) else [result]


def _entry(dispatcher: Any, kinds: tuple[Any, ...], given: list[Any]) -> Any:
    """A function (words, results) that calls ``dispatcher``."""
    taken = []
    names: dict[str, Any] = {"loop": dispatcher}
    at = 0
    for number, kind in enumerate(kinds):
        names[f"take{number}"] = _taker(kind)
        taken.append(f"take{number}(words, {at})")
        at += sum(1 for _ in _leaves(kind))
    lines = ["def entry(words, results):", f"    found = loop({', '.join(taken)})"]
    for number, kind in enumerate(given):
        names[f"give{number}"] = _giver(kind)
        value = "found" if len(given) == 1 else f"found[{number}]"
        lines.append(f"    give{number}(results, {number}, {value})")
    exec("\n".join(lines), names)
    return names["entry"]


def _leaves(kind: Any) -> Iterator[Any]:
    """The numbers and arrays of an argument: each is handed over in a word."""
    if _is_tuple(kind):
        for part in kind:
            yield from _leaves(part)
    else:
        yield kind


def _taker(kind: Any) -> Any:
    """An intrinsic (words, at): the argument that begins with that word."""

    def take(_context: Any, _words: Any, _at: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            words, at = arguments
            places = (builder.gep(words, [builder.add(at, at.type(n))]) for n in range(2**16))
            return _taken(context, builder, kind, places)

        return kind(_WORDS, types.intp), generate

    return intrinsic(take)


def _taken(context: Any, builder: Any, kind: Any, places: Iterator[Any]) -> Any:
    if _is_tuple(kind):
        parts = [_taken(context, builder, part, places) for part in kind]
        return context.make_tuple(builder, kind, parts)
    place = next(places)
    if isinstance(kind, types.Array):
        return _array_at(context, builder, kind, builder.load(place))
    if kind == types.boolean:
        return builder.trunc(builder.load(place), context.get_value_type(kind))
    return builder.load(builder.bitcast(place, context.get_value_type(kind).as_pointer()))


def _array_at(context: Any, builder: Any, kind: Any, address: Any) -> Any:
    """The array whose Python object is at ``address``: `PyArrayObject_fields` of numpy."""
    word = context.get_value_type(types.intp)

    def field(number: int) -> Any:
        at = builder.add(address, word(object.__basicsize__ + 8 * number))
        return builder.load(builder.inttoptr(at, word.as_pointer()))

    def row(number: int) -> list[Any]:
        begin = builder.inttoptr(field(number), word.as_pointer())
        return [builder.load(builder.gep(begin, [word(axis)])) for axis in range(kind.ndim)]

    stored = context.get_data_type(kind.dtype)
    array = context.make_array(kind)(context, builder)
    arrayobj.populate_array(
        array,
        data=builder.inttoptr(field(0), stored.as_pointer()),  # data, number of axes, then:
        shape=row(2),
        strides=row(3),
        itemsize=context.get_constant(types.intp, context.get_abi_sizeof(stored)),
        meminfo=None,
    )
    return array._getvalue()


def _giver(kind: Any) -> Any:
    """An intrinsic (results, at, number) that puts the number there."""

    def give(_context: Any, _results: Any, _at: Any, _number: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            results, at, number = arguments
            place = builder.gep(results, [at])
            if kind == types.boolean:
                builder.store(builder.zext(number, place.type.pointee), place)
            else:
                builder.store(number, builder.bitcast(place, number.type.as_pointer()))
            return context.get_dummy_value()

        return types.none(_WORDS, types.intp, kind), generate

    return intrinsic(give)


def _closed(library: Any, symbol: str) -> bytes:
    """Object code of ``library`` in which only ``symbol`` can be seen, and nothing is missing."""
    module = llvm.parse_bitcode(library._final_module.as_bitcode())
    module.link_in(llvm.parse_assembly(_memory(library)))
    for function in module.functions:
        if not function.is_declaration and function.name != symbol:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    if library.has_dynamic_globals:
        raise NotClosed("large constants")
    machine = library.codegen._tm
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    for needed in [*module.functions, *module.global_variables]:
        if needed.is_declaration and not _is_in_c_library(needed.name):
            raise NotClosed(needed.name)
    return bytes(machine.emit_object(module))


def _is_in_c_library(name: str) -> bool:
    if name.startswith(("NRT_", "numba", "Py", "_Py", "_Z")):
        return False
    return name.startswith("llvm.") or has_symbol(name)


def _memory(library: Any) -> str:
    """The two functions of numba's runtime that loops with arrays of their own call, in LLVM's IR.

    What numba counts the users of an array in lies at the start of the memory that holds it.
    """
    module = ir.Module()
    module.triple = library._final_module.triple
    module.data_layout = library._final_module.data_layout
    byte, word, int32 = ir.IntType(8), ir.IntType(64), ir.IntType(32)
    pointer = byte.as_pointer()
    head = nrtdynmod._meminfo_struct_type
    malloc = ir.Function(module, ir.FunctionType(pointer, [word]), "malloc")
    free = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer]), "free")

    allocate = ir.Function(
        module, ir.FunctionType(pointer, [word, int32]), "NRT_MemInfo_alloc_aligned"
    )
    size = allocate.args[0]
    builder = ir.IRBuilder(allocate.append_basic_block())
    begin = builder.call(malloc, [builder.add(size, word(3 * _ALIGNED))])
    with builder.if_then(builder.icmp_unsigned("==", begin, pointer(None))):
        builder.ret(pointer(None))
    behind = builder.add(builder.ptrtoint(begin, word), word(2 * _ALIGNED))
    data = builder.inttoptr(builder.and_(behind, word(-_ALIGNED)), pointer)
    fields = builder.bitcast(begin, head.as_pointer())
    values = [word(1), pointer(None), pointer(None), data, size]
    for number, value in enumerate(values):
        place = builder.gep(fields, [int32(0), int32(number)])
        builder.store(value, place)
    builder.ret(begin)

    end = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer]), "NRT_MemInfo_call_dtor")
    builder = ir.IRBuilder(end.append_basic_block())
    builder.call(free, [end.args[0]])
    builder.ret_void()
    return str(module)


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
