"""The whole shop as processes of its own, with a data folder of its own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from django.conf import settings

from tests.environment import clean_environment
from tests.serving import free_port, processes_with, serving, wait_until_healthy

LEASE = "4"  # seconds; a killed worker's job is taken over after that
STOCK = """
from django.contrib.auth import get_user_model
from django.core.management import call_command
for name in {users!r}:
    get_user_model().objects.create_user(name, name + "@example.org", {password!r})
for folder, repo_id in {foundations!r}:
    call_command("add_foundation", folder, id=repo_id)
for folder, repo_id, foundation in {vectors!r}:
    owner = repo_id.partition("/")[0]
    call_command("add_vector", folder, id=repo_id, foundation=foundation, owner=owner)
"""
PASSWORD = "correct horse battery"
T = TypeVar("T")


class Site:
    """`manage.py serve` that can be stopped, started again, and looked into from outside.

    ``variables`` are settings of its own.
    """

    def __init__(self, data: Path, **variables: str) -> None:
        self.data, self.port = data, free_port()
        self.variables = {"ARMORY_LEASE_SECONDS": LEASE, **variables}
        self.address = f"http://localhost:{self.port}"
        self._stack = ExitStack()
        self.supervisor: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.supervisor = self._stack.enter_context(serving(self.data, self.port, **self.variables))

    def wait_until_ready(self) -> None:
        wait_until_healthy(self.port)

    def restart(self) -> None:
        """Stop it as Ctrl-C does, and start it again with the same data."""
        assert self.supervisor is not None
        self.supervisor.send_signal(signal.SIGINT)
        assert self.supervisor.wait(timeout=30) == 0
        self.close()
        self.start()
        self.wait_until_ready()

    def close(self) -> None:
        self._stack.close()

    def processes(self, word: str) -> set[int]:
        """Live processes of this site whose command line has ``word``: uvicorn, celery."""
        return {pid for pid, line in processes_with(str(self.data)).items() if word in line}

    def log(self) -> str:
        return (self.data / "log").read_text()

    def shell(self, code: str) -> str:
        """Run ``code`` in `manage.py shell` beside the site; what it prints."""
        done = subprocess.run(
            [sys.executable, "manage.py", "shell", "-v0", "-c", code],
            cwd=settings.BASE_DIR,
            env=clean_environment(self.data, **self.variables),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stock(
        self,
        *,
        users: tuple[str, ...],
        foundations: list[tuple[Path, str]],
        vectors: list[tuple[Path, str, str]],
    ) -> None:
        """Users, then `add_foundation` and `add_vector` for each folder."""
        self.shell(
            STOCK.format(
                users=users,
                password=PASSWORD,
                foundations=[(str(folder), name) for folder, name in foundations],
                vectors=[(str(folder), *names) for folder, *names in vectors],
            )
        )

    def row(self, question: str, *values: Any) -> Any:
        """The first row that the database gives; None when there is none."""
        with closing(sqlite3.connect(self.data / "armory.sqlite3", timeout=20)) as connection:
            return connection.execute(question, values).fetchone()

    def stored(self) -> set[str]:
        """Paths of all files in the blob folder, staged ones included."""
        blobs = self.data / "blobs"
        return {str(path.relative_to(blobs)) for path in blobs.rglob("*") if path.is_file()}


def wait_for(look: Callable[[], T], fits: Callable[[T], object], limit: float = 60) -> T:
    """Look again and again until what is seen fits; the test fails when it never does."""
    deadline = time.monotonic() + limit
    while True:
        seen = look()
        if fits(seen):
            return seen
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit:g} s; seen last: {seen}")
        time.sleep(0.02)


@contextmanager
def stopped(pids: set[int]) -> Iterator[None]:
    """Hold these processes still for the length of the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass  # the block killed it
