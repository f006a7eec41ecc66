"""The site as a process of its own, for tests that start and stop it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.environment import clean_environment

START_LIMIT = 90.0  # seconds; two cores may be busy with other tests


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def health(port: int) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, {}


def wait_until_healthy(port: int, limit: float = START_LIMIT) -> dict[str, Any]:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        status, report = health(port)
        if status == 200:
            return report
        time.sleep(0.2)
    pytest.fail(f"not healthy after {limit:g} s: {health(port)}")


def processes_with(word: str) -> dict[int, str]:
    """Command lines of the live processes that carry the word in their environment."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            environment = (folder / "environ").read_bytes()
            # A zombie has ended: an empty command line.
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if word.encode() in environment and command:
            found[int(folder.name)] = command
    return found


def wait_until_gone(word: str, limit: float = 15.0) -> dict[int, str]:
    deadline = time.monotonic() + limit
    while (left := processes_with(word)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


@contextmanager
def serving(data: Path, port: int, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`manage.py serve` with its own data folder, writing into data/log; killed at the end."""
    with (data / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=settings.BASE_DIR,
            env=clean_environment(data, PORT=str(port), ARMORY_DEMO="0", **variables),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield server
        finally:
            server.kill()
            server.wait()
            for pid in processes_with(str(data)):
                os.kill(pid, signal.SIGKILL)
