"""Processes killed or frozen in the middle of their work: nothing is lost, nothing comes twice."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import models
from tests.e2e.site import Site, stopped, wait_for
from tests.e2e.visitor import PIECE, Visitor, read_hash

pytestmark = pytest.mark.slow

BASE = "lab/middle"
SHAPES = {f"layers.{layer}.weight": (4096, 4096) for layer in range(12)}  # 400 MB
JOB = """
SELECT job.state, job.attempt, job.stage, job.finished, job.owner_token, version.state, version.id,
       version.digest, version.vector_id, job.id, job.lease_until < datetime('now')
FROM vectors_inspection AS job JOIN vectors_version AS version ON version.id = job.version_id
WHERE version.id = ?
"""
COLUMNS = (
    "state attempt stage finished token version_state version digest vector job overdue".split()
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("site"))
    running.start()
    try:
        folder = tmp_path_factory.mktemp("models") / "middle"
        folder.mkdir()
        models.repeated(SHAPES).write(folder / "model.safetensors")
        models.write_card(folder, "Middle", BASE)
        running.wait_until_ready()
        running.stock(users=("olive",), foundations=[(folder, BASE)], vectors=[])
        (folder / "model.safetensors").unlink()
        yield running
    finally:
        running.close()
        shutil.rmtree(running.data / "blobs")  # two gigabytes; pytest keeps its last folders


class Job:
    """An inspection that has been asked for, watched in the database."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site, self.owner = site, Visitor(site, "olive")
        self.file = models.repeated(SHAPES, seed)
        card = models.CARD.format(base=BASE, title=f"Fine-tune {seed}", tag="x").encode()
        self.files = {"model.safetensors": self.file, "README.md": card}
        self.draft = self.owner.upload(self.files)
        self.owner.inspect(self.draft, BASE)

    def now(self) -> dict[str, Any]:
        row = self.site.row(JOB, int(self.draft.rsplit("/", 1)[-1]))
        return dict(zip(COLUMNS, row, strict=True))

    def wait(self, **wanted: Any) -> dict[str, Any]:
        return wait_for(self.now, lambda job: job.items() >= wanted.items())

    def pool(self) -> set[int]:
        """The processes that do the jobs; the parent of them is the worker's leader."""
        workers = self.site.processes("celery")
        found = {pid for pid in workers if parent(pid) in workers}
        assert found
        return found

    def check_result(self) -> None:
        """Ready once, with each file once and none left over; ringing again changes nothing."""
        done = self.now()
        assert (done["state"], done["version_state"]) == ("done", "ready")
        counts = "SELECT count(*), count(DISTINCT path), count(DISTINCT blob_id) FROM {} WHERE {}"
        files = counts.format("vectors_repositoryfile", "version_id = ?")
        assert self.site.row(files, done["version"]) == (2, 2, 2)
        assert not [path for path in self.site.stored() if path.startswith("staging")]
        self.site.shell(f"from vectors import services; services.run_inspection({done['job']})")
        assert self.now() == done

    def publish(self, name: str) -> None:
        fields = {"name": name, "title": name}
        page = self.owner.post(f"{self.draft}/publish", form=self.draft, **fields).goes_to
        assert page == f"/olive/{name}"
        again = self.owner.post(f"{self.draft}/publish", form=page, **fields)
        assert again.goes_to == self.draft
        versions = "SELECT count(*), min(number), max(number) FROM vectors_version"
        row = self.site.row(f"{versions} WHERE vector_id = ?", self.now()["vector"])
        assert row == (1, 1, 1)


def parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def kill(pids: set[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_a_killed_worker(site: Site) -> None:
    """All of it, while it hashes; the supervisor starts the next one."""
    job = Job(site, 1)
    job.wait(state="running")
    workers = site.processes("celery")
    with stopped(workers):
        assert job.now()["state"] == "running", "the file is too small: the job has ended"
        kill(workers)
    assert job.wait(state="done")["attempt"] >= 2
    assert not workers & site.processes("celery")
    job.check_result()
    job.publish("first")


def test_a_killed_pool_process(site: Site) -> None:
    """Only the process that does the job, while it checks; its parent lives on."""
    job = Job(site, 2)
    job.wait(state="running", stage="checking")
    pool = job.pool()
    leaders = site.processes("celery") - pool
    with stopped(pool):
        assert job.now()["state"] == "running", "the file is too small: the job has ended"
        kill(pool)
    assert job.wait(state="done")["attempt"] >= 2
    assert leaders <= site.processes("celery")
    job.check_result()
    job.publish("second")


def test_a_worker_thought_dead_changes_nothing(site: Site) -> None:
    """It is frozen until another has taken the job, finished it and the result is published."""
    job = Job(site, 3)
    job.wait(state="running", stage="hashing")
    frozen = job.pool()
    with stopped(frozen):
        first = job.now()
        assert first["state"] == "running", "the file is too small: the job has ended"
        job.wait(overdue=1)
        site.shell(f"from vectors import services; services.run_inspection({first['job']})")
        done = job.now()
        assert (done["state"], done["attempt"]) == ("done", 2)
        assert done["token"] != first["token"]
        job.publish("third")
        published = job.now()
        before = len(site.log())
    # One process does all jobs, one after the other: the next job ends after the woken one.
    assert len(frozen) == 1
    after = Job(site, 4)
    after.wait(state="done")
    assert frozen == after.pool()
    assert job.now() == published
    assert "Traceback" not in site.log()[before:]
    after.check_result()


def test_a_download_outlives_the_web_server(site: Site) -> None:
    """It is killed in the middle; the client goes on where it was, with the same ETag."""
    job = Job(site, 5)
    job.wait(state="done")
    job.publish("fifth")
    anyone = Visitor(site)
    path = f"{anyone.equip(('olive/fifth', '0.5'))}/resolve/main/model.safetensors"
    digest, count = hashlib.sha256(), 0
    servers = site.processes("uvicorn")
    with anyone.open("GET", path) as answer:
        etag, size = answer.headers["ETag"], int(answer.headers["Content-Length"])
        try:
            while piece := answer.read(PIECE):
                digest.update(piece)
                count += len(piece)
                if servers and count > size // 3:
                    kill(servers)
                    servers = set()
        except (http.client.IncompleteRead, ConnectionError) as error:
            rest = getattr(error, "partial", b"")
            digest.update(rest)
            count += len(rest)
    assert size // 3 < count < size
    site.wait_until_ready()
    with anyone.open("GET", path, Range=f"bytes={count}-", If_Range=etag) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {count}-{size - 1}/{size}"
        while piece := answer.read(PIECE):
            digest.update(piece)
    with anyone.open("GET", path) as answer:
        assert read_hash(answer) == (size, digest.hexdigest())
