"""The transport under uvicorn in a process of its own, with its own database."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.environment import clean_environment
from tests.serving import free_port

START_LIMIT = 60.0  # seconds


class Site:
    """Where it answers, and how much memory it has taken."""

    def __init__(self, port: int, pid: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self._process = psutil.Process(pid)

    def memory(self) -> int:
        """Resident bytes."""
        return int(self._process.memory_info().rss)


def environment(data: Path, **variables: str) -> dict[str, str]:
    variables["DJANGO_SETTINGS_MODULE"] = "tests.vectors.site_settings"
    return clean_environment(data, **variables)


def prepare(data: Path, script: str, **variables: str) -> str:
    """Make the tables, then run ``script`` with Django set up; what it prints."""
    code = (
        "import django; django.setup(); from django.core.management import call_command; "
        "call_command('migrate', run_syncdb=True, verbosity=0)\n" + script
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment(data, **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def running(data: Path, port: int = 0, **variables: str) -> Iterator[Site]:
    """uvicorn with tests.vectors.site, answering; killed at the end."""
    port = port or free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.vectors.site:application"]
    with (data / "uvicorn.log").open("a") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--log-level", "warning"],
            env=environment(data, **variables),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_for(server, port, data / "uvicorn.log")
            yield Site(port, server.pid)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_for(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/t/history", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"uvicorn did not start:\n{log.read_text()[-2000:]}")
