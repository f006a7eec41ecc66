"""What the runner allows itself, before it reads the first byte of somebody's model."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Callable

GB = 10**9
FILE_BYTES = 64 << 20  # the runner writes nothing but caches of its libraries

# Nothing is fetched and no file decides what code runs.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def confine(*, memory_gb: int, cpu_seconds: int, threads: int) -> None:
    """Bound this process for good. Call it before torch is imported."""
    os.environ.update(OFFLINE)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    # Private memory, mapped or from the heap; a model's file is mapped for reading and not counted.
    _lower(resource.RLIMIT_DATA, memory_gb * GB)
    _lower(resource.RLIMIT_CPU, cpu_seconds)
    _lower(resource.RLIMIT_FSIZE, FILE_BYTES)
    _lower(resource.RLIMIT_CORE, 0)


def give_way() -> None:
    """Whoever waits for a page comes first."""
    try:
        os.nice(19)
    except OSError:
        pass


def _lower(which: int, wanted: int) -> None:
    _soft, hard = resource.getrlimit(which)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(which, (limit, limit))
    except (ValueError, OSError):
        print(f"the limit {which} could not be set", file=sys.stderr)


def end_with_input(on_line: Callable[[str], object]) -> None:
    """A thread that hands each line of standard input to ``on_line`` and ends the process with it.

    Whoever started the runner holds the other end: when it dies, however it dies, so do we.
    """

    def read() -> None:
        for line in sys.stdin:
            on_line(line)
        os._exit(0)

    threading.Thread(target=read, name="requests", daemon=True).start()
