"""The runner's process, held by the worker: started, spoken to, and killed.

It lives no longer than its holder: a worker that is killed closes the runner's input, and a runner
without input ends. A runner that dies takes nothing with it but the answer it was working on.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

from vectors.errors import Refusal, _
from vectors.tensorfile.errors import Problem

LOOK = 0.5  # seconds between two looks at whether the job is still wanted
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR")


class RunnerDied(Exception):
    """The runner ended by itself or was killed from outside; ``str`` says how.

    ``killed``: somebody else ended it, such as a machine that ran out of memory.
    """

    def __init__(self, how: str, *, killed: bool = False) -> None:
        super().__init__(how)
        self.killed = killed


class Runner:
    """A running ``python -m merging.checks --requests``.

    ``tick`` is called again and again while an answer is awaited and may raise, which ends the
    waiting. Close the runner afterwards, whatever happened.
    """

    def __init__(self, folder: Path, tick: Callable[[], object]) -> None:
        self._tick = tick
        self._deadline = time.monotonic() + settings.ARMORY_CHECK_MINUTES * 60
        self._errors = (folder / "runner.log").open("w+b")
        self._process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "merging.checks", "--requests"),
                *("--memory-gb", str(settings.ARMORY_CHECK_MEMORY_GB)),
                *("--cpu-seconds", str(settings.ARMORY_CHECK_MINUTES * 60 * _cores())),
                *("--threads", str(max(1, _cores() // 2))),
            ],
            cwd=settings.BASE_DIR,
            # Nothing of the site's own environment: no secret, no address of a service.
            env={name: os.environ[name] for name in _KEPT if name in os.environ}
            | {"HF_HOME": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="runner", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def describe(self, folder: Path, probes: list[Path]) -> None:
        """Let it embed the labels of ``probes`` with the model in ``folder``."""
        self._ask({"describe": str(folder), "probes": [str(path) for path in probes]})

    def scores(
        self, folder: Path, probe: Path, foundation: Path, on_asked: Callable[[int], object]
    ) -> list[int]:
        """What the model in ``folder`` scores on each item. Raises Problem, RunnerDied."""
        request = {"ask": str(folder), "probe": str(probe), "foundation": str(foundation)}
        found: list[int] = self._ask(request, on_asked)["scores"]
        return found

    def close(self) -> None:
        """End the process and all it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended before
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout, self._errors):
            try:
                if end is not None:
                    end.close()
            except OSError:
                pass  # the rest of a request that a dead runner did not take

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._lines.put(line)
        except ValueError:
            return  # closed under us
        self._lines.put(b"")

    def _ask(
        self, request: dict[str, Any], on_asked: Callable[[int], object] = lambda _count: None
    ) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        while True:
            answer = self._next()
            if "asked" in answer:
                on_asked(answer["asked"])
            elif "problem" in answer:
                raise Problem(answer["problem"]["template"], **answer["problem"]["params"])
            else:
                return answer

    def _next(self) -> dict[str, Any]:
        while True:
            self._tick()
            if self._late():
                raise self._too_long()
            try:
                line = self._lines.get(timeout=LOOK)
            except queue.Empty:
                continue
            if not line:
                raise self._died()
            answer: dict[str, Any] = json.loads(line)
            return answer

    def _late(self) -> bool:
        return time.monotonic() > self._deadline

    def _too_long(self) -> Refusal:
        return Refusal(
            _("The check took longer than %(minutes)d minutes and was stopped."),
            minutes=settings.ARMORY_CHECK_MINUTES,
        )

    def _died(self) -> RunnerDied | Refusal:
        if self._late():  # its own limit of processor time may have ended it first
            return self._too_long()
        by_us = False
        try:
            code = self._process.wait(timeout=LOOK)
        except subprocess.TimeoutExpired:
            # It closed its output and lives on: nothing more is to be had from it.
            self._process.kill()
            code, by_us = self._process.wait(), True
        self._errors.seek(0)
        last = self._errors.read()[-2000:].decode("utf-8", "replace").strip()
        how = f"signal {-code}" if code < 0 else f"status {code}"
        killed = not by_us and -code in (signal.SIGKILL, signal.SIGTERM)
        return RunnerDied(f"{how}; {last}" if last else how, killed=killed)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
