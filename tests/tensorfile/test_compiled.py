"""Compiled loops: what they may import, and when they are compiled again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INNER = """
from vectors.tensorfile.compiled import njit

@njit(nogil=True, cache=True)
def inner(x):
    return x + {number}
"""
OUTER = """
from inner import inner
from vectors.tensorfile.compiled import njit

@njit(nogil=True, cache=True)
def outer(x):
    return 10 * inner(x)

print(outer(1), sum(outer.stats.cache_hits.values()))
"""


def run(folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "outer.py"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_loop_is_compiled_again_when_one_it_calls_has_changed(tmp_path: Path) -> None:
    """numba alone would go on with the old numbers."""
    (tmp_path / "inner.py").write_text(INNER.format(number=1))
    (tmp_path / "outer.py").write_text(OUTER)
    assert run(tmp_path) == "20 0"
    assert run(tmp_path) == "20 1", "the second time it is only read"
    (tmp_path / "inner.py").write_text(INNER.format(number=200))
    assert run(tmp_path) == "2010 0"


def test_loops_start_without_scipy() -> None:
    """It costs every command a fifth of a second; and it can be imported afterwards."""
    code = (
        "import sys, numpy as np\n"
        "from vectors.tensorfile.numbers import widen\n"
        "widen(np.zeros(8, np.uint8), 'BF16', np.empty(4, np.float32))\n"
        "assert not {'scipy.linalg', 'cffi', 'torch'} & set(sys.modules)\n"
        "import scipy.linalg, cffi\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
