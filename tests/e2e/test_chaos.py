"""kill -9 of the worker in the middle of an inspection: the next worker finishes it, once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from django.conf import settings
from safetensors.torch import save_file

from tests.environment import clean_environment
from tests.serving import free_port, processes_with, serving, wait_until_healthy

pytestmark = pytest.mark.slow

SETUP = """
import io
from pathlib import Path
from django.contrib.auth import get_user_model
from vectors import services, uploads
from vectors.importing import add_foundation
base = add_foundation(Path({base!r}), repo_id="lab/big", card="")
user = get_user_model().objects.create_user("olive")
path = Path({tuned!r}) / "model.safetensors"
draft = uploads.start_draft(owner=user, files=[(path.name, path.stat().st_size)])
upload = draft.uploads.get()
with path.open("rb") as stream:
    for number in range(1, upload.part_count + 1):
        part = io.BytesIO(stream.read(upload.part_length(number)))
        uploads.receive_part(upload=upload, number=number, stream=part)
uploads.complete(upload)
draft.refresh_from_db()
services.request_inspection(draft, foundation=base)
"""
STATE = """
SELECT job.state, version.state, job.attempt,
       (SELECT count(*) FROM vectors_repositoryfile WHERE version_id = version.id)
FROM vectors_inspection AS job JOIN vectors_version AS version ON version.id = job.version_id
"""


def shell(data: Path, code: str) -> None:
    subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0", "-c", code],
        cwd=settings.BASE_DIR,
        env=clean_environment(data),
        check=True,
        capture_output=True,
    )


def wait_for(data: Path, wanted: str, limit: float = 120) -> tuple[str, str, int, int]:
    """Poll the database itself: a management command starts too slowly to catch a short job."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(data / "armory.sqlite3", timeout=20)) as connection:
            state: tuple[str, str, int, int] = connection.execute(STATE).fetchone()
        if state[0] == wanted:
            return state
        time.sleep(0.05)
    pytest.fail(f"never {wanted}: {state}")


def test_a_killed_inspection_is_finished_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    generator = torch.Generator().manual_seed(0)
    state = {f"layers.{i}.w": torch.randn(2000, 4000, generator=generator) for i in range(16)}
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
        state = {key: value * 1.01 for key, value in state.items()}
    port = free_port()
    with serving(data, port):
        wait_until_healthy(port)
        shell(data, SETUP.format(base=str(tmp_path / "base"), tuned=str(tmp_path / "tuned")))
        wait_for(data, "running")
        workers = {p: c for p, c in processes_with(str(data)).items() if "celery" in c}
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        assert workers
        final = wait_for(data, "done")
        assert final[2] >= 2, "the kill came after the end: make the checkpoint larger"
        assert (final[1], final[3]) == ("ready", 1)
