"""A command as a whole process: wall time, processor time of its tree, peak memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One run of a command. ``wall`` and ``cpu`` in seconds, ``peak`` in bytes.

    ``cpu`` is user and system time of the process and of the children it waited for; ``peak`` is
    the largest resident set of any one of them, memory-mapped files included.
    """

    code: int
    wall: float
    cpu: float
    peak: int
    output: str


def run(
    command: Sequence[str | Path], *, cwd: Path, environment: Mapping[str, str] | None = None
) -> Run:
    """Run ``command`` to its end and measure it. Its output is kept, its exit code not judged.

    Python may keep the bytecode of what it imports, as it does of installed packages.

    Linux counts the memory of the process that starts a command towards the command's peak, so
    this process has to stay small: it must not import numpy.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        with subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env={**inherited, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process:
            _pid, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        output = log.read().decode(errors="replace")
    return Run(
        code=process.returncode,
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=usage.ru_maxrss * 1024,
        output=output,
    )
