"""Workers killed in the middle of a build: whole files stay, the rest is computed again, once."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from merging import building
from merging.builds import start_build
from merging.models import Build
from merging.services import equip_expression
from tests.e2e import models
from tests.e2e.site import wait_for
from tests.merging.build_shop import FILES, kept, shas, stock, streamed
from tests.merging.checks.test_dead_workers import Shop
from tests.vectors.conftest import any_storage, local_storage, s3_storage
from tests.vectors.s3 import s3_bucket, s3_endpoint
from vectors.models import Blob
from vectors.storage.base import Storage

__all__ = ["any_storage", "local_storage", "s3_bucket", "s3_endpoint", "s3_storage"]


class Killed(BaseException):
    """Stands for the kill: nothing catches it, and nothing is tidied up after it."""


POINTS = [
    ("begin", "after"),
    ("write_part", "after"),
    ("complete", "before"),
    ("complete", "after"),
    ("promote", "before"),
    ("promote", "after"),
]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("verb", "when"), POINTS)
def test_killed_at_any_step_of_a_file(
    any_storage: Storage,
    owner: User,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    when: str,
) -> None:
    """In the second file of three, at each step that storage takes."""
    stock(tmp_path, owner)
    row = equip_expression("0.5*law + 0.25*mood", on="", user=owner)
    wanted = shas(streamed(row))
    build = start_build(row=row, user=owner)
    real: Callable[..., Any] = getattr(any_storage, verb)
    calls = iter(range(1, 100))

    def dies(*arguments: Any) -> Any:
        second = next(calls) == 2
        if second and when == "before":
            raise Killed
        answer = real(*arguments)
        if second:
            raise Killed
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(any_storage, verb, dies)
        patch.setattr(any_storage, "abort", lambda *_: None)
        with pytest.raises(Killed):
            building.run_build(build.pk)
    build.refresh_from_db()
    assert (build.state, len(kept(build))) == ("running", 1)
    written: list[str] = []
    begin = any_storage.begin
    monkeypatch.setattr(any_storage, "begin", lambda *them: written.append(them[0]) or begin(*them))

    building.run_build(build.pk)
    build.refresh_from_db()
    assert (build.state, build.attempt) == ("running", 1), "its lease has not ended"
    Build.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    building.run_build(build.pk)
    build.refresh_from_db()
    assert (build.state, build.attempt, build.error) == ("done", 2, "")
    assert kept(build) == wanted
    # What was whole, in its place or not said to be there yet, is not written again.
    assert len(written) == FILES - (2 if (verb, when) == ("promote", "after") else 1)
    for sha256 in wanted.values():
        assert any_storage.size(sha256)
    forgotten = any_storage.tidy(timezone.now() + timedelta(days=1), lambda _upload: False)
    # S3's own name for an upload is lost with who had just got it: no bytes, and a broom for it.
    nameless = verb == "begin" and any_storage.free_bytes() is None
    assert forgotten == int(nameless), "nothing half-written is left"
    assert Blob.objects.filter(pk__in=wanted.values()).count() == FILES
    building.run_build(build.pk)
    assert Build.objects.get().finished == build.finished


# --- a process that is really killed ---------------------------------------------------------

COUNT = 6
SHAPES = {f"layers.{layer}.weight": (4096, 4096) for layer in range(2 * COUNT)}  # 400 MB
STOCK = """
from pathlib import Path
from django.core.management import call_command
call_command("migrate", verbosity=0)
from merging.builds import start_build
from merging.services import equip_expression
from tests.people import person
from vectors.importing import add_foundation, add_vector
user = person("olive")
wide = add_foundation(Path({wide!r}), repo_id="lab/wide", card="---\\nlicense: mit\\n---\\n")
add_vector(Path({law!r}), repo_id="olive/law", foundation=wide, owner=user)
row = equip_expression("0.5*law", on="", user=user)
print(start_build(row=row, user=user).pk)
"""
RUN = "from merging.building import run_build; run_build({})"
HASHES = """
import hashlib, json
from contextlib import closing
from merging.models import EquippedModel
from merging.repository import Opened
with closing(Opened(EquippedModel.objects.get())) as opened:
    found = {}
    for file in opened.computed:
        digest = hashlib.sha256()
        for piece in file.compute(0, file.size):
            digest.update(piece)
        found[file.path] = digest.hexdigest()
print(json.dumps(found))
"""


def write(folder: Path, seed: int) -> str:
    folder.mkdir()
    for path, file in models.shards(SHAPES, COUNT, seed):
        if isinstance(file, bytes):
            (folder / path).write_bytes(file)
        else:
            file.write(folder / path)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# X\n")
    return str(folder)


@pytest.mark.slow
def test_a_killed_worker_loses_no_whole_file_and_publishes_once(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "data")
    shop.data.mkdir()
    try:
        folders = {"wide": write(tmp_path / "wide", 0), "law": write(tmp_path / "law", 1)}
        pk = int(shop.run(STOCK.format(**folders)))
        for folder in folders.values():
            shutil.rmtree(folder)
        whole = "SELECT id, path, blob_id FROM merging_buildfile WHERE stored ORDER BY path"
        job = "SELECT state, attempt, finished, upload FROM merging_build"

        worker = shop.start(RUN.format(pk))
        wait_for(lambda: shop.rows(whole), lambda rows: len(rows) >= 2)
        os.kill(worker.pid, signal.SIGSTOP)
        kept = shop.rows(whole)
        assert len(kept) < COUNT, "the model is too small: the build has ended"
        worker.kill()
        worker.wait()
        assert shop.rows(job)[0][:3] == ("running", 1, None)

        overdue = "SELECT lease_until < datetime('now') FROM merging_build"
        wait_for(lambda: shop.rows(overdue)[0][0], bool)
        shop.run(RUN.format(pk))
        (done,) = shop.rows(job)
        assert done[:2] == ("done", 2)
        files = shop.rows(whole)
        assert files[: len(kept)] == kept, "what was whole is not written again"
        assert len(files) == COUNT
        assert list((shop.data / "blobs" / "staging").iterdir()) == []
        assert {path: sha for _pk, path, sha in files} == json.loads(shop.run(HASHES))
        shop.run(RUN.format(pk))
        assert shop.rows(job) == [done]
    finally:
        shutil.rmtree(shop.data)  # a gigabyte; pytest keeps its last folders
