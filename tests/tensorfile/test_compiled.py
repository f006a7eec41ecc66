"""Compiled loops: when they are compiled, what is trusted, and what they are called with."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vectors.tensorfile import kept, machine_code
from vectors.tensorfile.compiled import njit
from vectors.tensorfile.compiling import NotClosed, compile_loop

ROOT = Path(__file__).resolve().parents[2]
INNER = """
from vectors.tensorfile.compiled import njit

@njit(nogil=True, cache=True)
def inner(x):
    return x + {number}
"""
OUTER = """
import sys
from inner import inner
from vectors.tensorfile.compiled import njit

@njit(nogil=True, cache=True)
def outer(x):
    return 10 * inner(x)

print(outer(1), outer.compiled, *(name for name in ("numba", "llvmlite") if name in sys.modules))
"""
COMPILED = "20 1 numba llvmlite"
READ = "20 0"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program of two loops, compiled and kept."""
    folder = tmp_path_factory.mktemp("once") / "program"
    folder.mkdir()
    (folder / "inner.py").write_text(INNER.format(number=1))
    (folder / "outer.py").write_text(OUTER)
    assert run(folder) == COMPILED
    return folder


@pytest.fixture
def loops(program: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may change."""
    return Path(shutil.copytree(program, tmp_path / "program"))


def run(folder: Path, **environment: str) -> str:
    path = f"{folder}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "outer.py"],
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "users")}
        | {"PYTHONPATH": path}
        | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def kept_file(folder: Path) -> Path:
    """The one file that holds the code of the outer loop."""
    [found] = folder.rglob("*.loop")
    return found


def test_the_second_time_a_loop_is_only_read(loops: Path) -> None:
    """Without the compiler, whose import takes longer than most merges of a small model."""
    assert kept_file(loops).parent == loops / "__pycache__"
    assert run(loops) == READ


def test_a_loop_is_compiled_again_when_one_it_calls_has_changed(loops: Path) -> None:
    (loops / "inner.py").write_text(INNER.format(number=200))
    assert run(loops).startswith("2010 1")
    assert run(loops) == "2010 0"


@pytest.mark.parametrize("part", ["half", "head", "code"])
def test_a_damaged_file_is_written_anew(loops: Path, part: str) -> None:
    file = kept_file(loops)
    content = file.read_bytes()
    head, code = content.split(b"\n", 1)
    file.write_bytes(
        {
            "half": content[: len(content) // 2],
            "head": head[:-5] + b"\n" + code,
            "code": head + b"\n" + code[:-100] + bytes(100),
        }[part]
    )
    assert run(loops) == COMPILED
    assert file.read_bytes() == content
    assert run(loops) == READ


def test_code_of_another_processor_or_compiler_is_not_used(loops: Path) -> None:
    file = kept_file(loops)
    head, code = file.read_bytes().split(b"\n", 1)
    at = head.index(b'"made from": "') + len(b'"made from": "')
    file.write_bytes(head[:at] + b"0" * 32 + head[at + 32 :] + b"\n" + code)
    assert run(loops) == COMPILED
    assert run(loops, NUMBA_OPT="1").startswith("20 1"), "other settings, other code"


def test_nothing_is_read_from_where_anybody_may_write(loops: Path) -> None:
    file = kept_file(loops)
    file.chmod(0o666)
    assert run(loops) == COMPILED
    assert run(loops) == READ, "the file has been replaced by one of our own"
    file.parent.chmod(0o777)
    assert run(loops) == COMPILED
    assert run(loops) == READ, "from the user's own folder"
    assert any(loops.glob("users/numba/program-*/outer.outer-*.loop"))


def test_a_folder_may_be_named(loops: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    assert run(loops, NUMBA_CACHE_DIR=str(named)) == COMPILED
    assert run(loops, NUMBA_CACHE_DIR=str(named)) == READ
    assert kept_file(named)


def test_an_old_file_that_cannot_be_replaced_hides_no_new_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where the program was installed by somebody else, long ago."""
    installed, own = tmp_path / "installed", tmp_path / "own"
    monkeypatch.setattr(kept, "_folders", lambda loop: [installed, own])
    installed.mkdir()
    code = kept.Code(b"code", "symbol", ("q",), False)
    kept.write(_half, ("d",), code)
    assert kept.read(_half, ("d",)) == code
    [file] = installed.iterdir()
    own.mkdir()
    shutil.copy(file, own)
    file.write_bytes(kept._packed(code, "long ago"))
    assert kept.read(_half, ("d",)) == code
    (own / file.name).unlink()
    assert kept.read(_half, ("d",)) is None


def test_a_loop_that_cannot_be_kept_runs_all_the_same(loops: Path) -> None:
    kept_file(loops).unlink()
    (loops / "file").write_text("no folder")
    assert run(loops, NUMBA_CACHE_DIR=str(loops / "file")) == COMPILED
    assert run(loops, NUMBA_CACHE_DIR=str(loops / "file")) == COMPILED


def test_loops_start_without_scipy() -> None:
    """It costs a fifth of a second; and it can be imported afterwards."""
    code = (
        "import sys, numpy as np\n"
        "from vectors.tensorfile import compiling\n"
        "from vectors.tensorfile.numbers import widen\n"
        "widen(np.zeros(8, np.uint8), 'BF16', np.empty(4, np.float32))\n"
        "assert not {'scipy.linalg', 'cffi', 'torch'} & set(sys.modules)\n"
        "import scipy.linalg, cffi\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@njit(nogil=True)
def _numbers(flag, whole, large, real, pair):
    return flag, whole + pair[0], large, real * pair[1]


def test_numbers_come_and_go_as_they_are() -> None:
    most = 2**64 - 1
    assert _numbers(True, -3, np.uint64(most), 0.1, (5, 2.0)) == (True, 2, most, 0.2)
    assert _numbers(False, 2**63 - 6, 1, -0.5, (5, 2.0)) == (False, 2**63 - 1, 1, -1.0)
    small = _numbers(np.bool_(True), np.int32(7), np.uint32(9), np.float32(0.5), (1, 4.0))
    assert small == (True, 8, 9, 2.0)
    assert isinstance(small[0], bool)
    with pytest.raises(KeyError):
        _numbers(True, "three", 1, 1.0, (1, 1.0))


@njit(nogil=True)
def _copy(source, goal):
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            goal[i, j] = source[i, j]


def test_arrays_of_any_order_and_stride() -> None:
    numbers = np.arange(24, dtype=np.float32).reshape(4, 6)
    for source in (numbers, numbers.T, numbers[::2, ::-3], numbers[:, 5:], numbers[:0]):
        goal = np.zeros(source.shape, np.float32)
        _copy(source, goal)
        assert np.array_equal(goal, source)
        turned = np.zeros(source.shape[::-1], np.float32).T
        _copy(source, turned)
        assert np.array_equal(turned, source)
    _copy(np.broadcast_to(np.float32(3), (4, 6)), numbers)  # read-only
    assert (numbers == 3).all()


@njit(nogil=True)
def _through_memory(x):
    scratch = np.empty(x.size, x.dtype)
    zeros = np.zeros((2, x.size), x.dtype)
    total = 0.0
    for i in range(x.size):
        scratch[i] = x[i] + zeros[1, i]
        total += scratch[i]
    return total + np.float64(scratch.ctypes.data % 64)


def test_memory_of_a_loop_is_given_back() -> None:
    x = np.ones(2**18)
    _through_memory(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        assert _through_memory(x) == x.size, "and it is aligned for vectors"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100 * 1024


@njit(nogil=True)
def _share(x, y):
    return x // y


def test_what_a_loop_raises_is_raised() -> None:
    assert _share(7, 2) == 3
    with pytest.raises(ZeroDivisionError):
        _share(7, 0)


@njit(nogil=True)
def _sliced(source, goal):
    goal[1:] = source[1:]  # numba brings along a sentence for arrays that do not fit
    return goal.size


def test_a_loop_that_needs_python_runs_by_way_of_numba() -> None:
    """Its code would be of no use, or worse, to a process without numba."""
    goal = np.zeros(3)
    assert _sliced(np.ones(3), goal) == 3
    assert goal.tolist() == [0, 1, 1]
    with pytest.raises(NotClosed):
        compile_loop(_sliced, (goal, goal))
    with pytest.raises(ValueError, match="slice"):
        _sliced(np.ones(5), goal)


@njit(nogil=True)
def _half(x):
    return x * 0.5


def test_llvm_loads_what_is_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_code: bytes, _symbol: bytes) -> int:
        raise machine_code._NotUnderstood

    monkeypatch.setattr(machine_code, "_load", refuse)
    assert _half(3.0) == 1.5
