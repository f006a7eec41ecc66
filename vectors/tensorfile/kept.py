"""Machine code kept in files, one a loop and kind of arguments, beside the loop's bytecode.

Code is as trustworthy as the place it is read from. Files lie in the ``__pycache__`` folder of the
loop's source, where Python trusts its own bytecode, or where that cannot be written in the user's
own cache folder (``NUMBA_CACHE_DIR`` names another). Nothing is read from a folder or a file that
others may write to, or that belongs to somebody else.

A file says what it was made from: the sources of the loop and of all it calls, the processor, the
versions of Python and the compiler, and the compiler's settings. It is used while all are the
same, and written anew where they are not. It appears by a rename, complete, and carries a digest.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compiled import Loop

FORMAT = 2  # of these files, and of the way that loops are called
_COMPILERS = ("numba", "llvmlite")


@dataclass(frozen=True)
class Code:
    """A compiled loop: object code, the function in it, and what it gives.

    ``results`` are the places of the numbers it gives, ``several`` says that they are a tuple.
    """

    machine_code: bytes
    symbol: str
    results: tuple[str, ...]
    several: bool


def read(loop: Loop, kinds: tuple[Any, ...]) -> Code | None:
    """The code of ``loop`` for ``kinds`` of arguments, if a file holds it as it has to be now."""
    name = _name(loop, kinds)
    for folder in _folders(loop):
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = _read_trusted(folder, name)
            code = _unpacked(content, made_from(loop)) if content is not None else None
            if code is not None:
                return code
    return None


def write(loop: Loop, kinds: tuple[Any, ...], code: Code) -> None:
    """Keep ``code``. Where it cannot be kept, it will be compiled again."""
    name = _name(loop, kinds)
    for folder in _folders(loop):
        with suppress(OSError):
            content = _packed(code, made_from(loop))
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True)
            if _trusted(folder.stat()):
                partial = folder / f"{name}.partial-{os.getpid()}"
                try:
                    partial.write_bytes(content)
                    os.replace(partial, folder / name)
                finally:
                    partial.unlink(missing_ok=True)
                return


def made_from(loop: Loop) -> str:
    """A digest of everything that the code of ``loop`` depends on."""
    sources = []
    for path in sorted(loop.files):
        status = os.stat(path)
        sources.append((os.path.basename(path), status.st_mtime_ns, status.st_size))
    return _digest(sources, sorted(loop.options.items()), _around())


@cache
def _around() -> str:
    """A digest of what all loops depend on: processor, compiler, and how this process runs."""
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    versions = []
    for name in _COMPILERS:
        found = importlib.util.find_spec(name)
        folder = Path(found.origin).parent if found and found.origin else Path()
        version = folder / "_version.py"
        versions.append(version.read_text("utf-8") if version.is_file() else "")
    # The layout of objects is that of the running Python; numpy's is the same in every version.
    python = (sys.implementation.cache_tag, object.__basicsize__, sys.byteorder)
    return _digest(FORMAT, python, os.uname().machine, _processor(), versions, settings)


def _processor() -> str:
    """What the system says of the first processor, without what changes while it runs."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read(16384).split("\n\n")[0].splitlines()
    except OSError:
        import llvmlite.binding as llvm

        return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    wanted = ("vendor", "cpu family", "model", "stepping", "flags", "features", "cpu i", "cpu a",
              "cpu v", "cpu p", "cpu r", "isa", "mmu", "uarch")  # fmt: skip
    return "\n".join(line for line in lines if line.lower().startswith(wanted))


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _name(loop: Loop, kinds: tuple[Any, ...]) -> str:
    module = Path(loop.function.__code__.co_filename).stem
    # Machines that share a folder keep a file each.
    return f"{module}.{loop.__name__}-{_digest(kinds, _processor_name())}.loop"


@cache
def _processor_name() -> str:
    return _digest(os.uname().machine, _processor())


def _folders(loop: Loop) -> list[Path]:
    """Where the code of ``loop`` may lie, best first."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    source = Path(loop.function.__code__.co_filename).resolve().parent
    users = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    own = f"{source.name}-{_digest(str(source))[:12]}"
    return [Path(named) / own] if named else [source / "__pycache__", users / "numba" / own]


def _trusted(status: os.stat_result) -> bool:
    """Whether nobody but this user, and who rules the machine, put something there."""
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & stat.S_IWOTH


def _read_trusted(folder: Path, name: str) -> bytes | None:
    if not _trusted(os.stat(folder)):
        return None
    with open(folder / name, "rb") as file:
        return file.read() if _trusted(os.fstat(file.fileno())) else None


def _packed(code: Code, origin: str) -> bytes:
    said = {
        "made from": origin,
        "symbol": code.symbol,
        "results": code.results,
        "several": code.several,
        "digest": hashlib.blake2b(code.machine_code, digest_size=16).hexdigest(),
    }
    return json.dumps(said).encode() + b"\n" + code.machine_code


def _unpacked(content: bytes, origin: str) -> Code | None:
    head, _, machine_code = content.partition(b"\n")
    said = json.loads(head)
    digest = hashlib.blake2b(machine_code, digest_size=16).hexdigest()
    if said["made from"] != origin or said["digest"] != digest:
        return None
    return Code(machine_code, said["symbol"], tuple(said["results"]), bool(said["several"]))
