"""`manage.py serve` as a person uses it: it starts from nothing, answers, and leaves nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.conf import settings

from tests.environment import clean_environment
from tests.serving import (
    free_port,
    health,
    processes_with,
    serving,
    wait_until_gone,
    wait_until_healthy,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_from_nothing_and_stops_without_a_trace(
    tmp_path: Path, number: signal.Signals
) -> None:
    port = free_port()
    with serving(tmp_path, port) as server:
        report = wait_until_healthy(port)
        assert report == {
            "ok": True,
            "site": "ready",
            "worker": "ready",
            "catalogue": "switched off",
        }
        deadline = time.monotonic() + 5
        while "is ready" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert f"Armory is ready: http://localhost:{port}\n" in (tmp_path / "log").read_text()
        assert len(processes_with(str(tmp_path))) >= 4  # supervisor, web, worker, its process
        server.send_signal(number)
        assert server.wait(timeout=20) == 0
        assert wait_until_gone(str(tmp_path), 0.5) == {}
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_dead_child_is_started_again(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, port) as server:
        wait_until_healthy(port)
        web = [pid for pid, line in processes_with(str(tmp_path)).items() if "uvicorn" in line]
        os.kill(web[0], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while health(port)[0] and time.monotonic() < deadline:
            time.sleep(0.05)
        wait_until_healthy(port)
        assert "The web server ended with signal SIGKILL" in (tmp_path / "log").read_text()
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_a_killed_supervisor_leaves_no_orphans(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, port) as server:
        wait_until_healthy(port)
        server.kill()
        server.wait()
        assert wait_until_gone(str(tmp_path)) == {}


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "manage.py", "serve"],
            cwd=settings.BASE_DIR,
            env=clean_environment(tmp_path, PORT=str(port)),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert result.returncode == 1
    assert result.stdout == ""
    assert f"Port {port} of 127.0.0.1 cannot be used" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "armory.sqlite3").exists()
