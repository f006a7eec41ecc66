"""A model of 2.7 GB goes through the whole shop, which never holds more than a piece of it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from tests.e2e import models
from tests.e2e.site import Site, wait_for
from tests.e2e.visitor import PIECE, Visitor

T = TypeVar("T")

pytestmark = pytest.mark.slow

LAYERS = 24
BASE = "lab/large"
ABOVE_IDLE = 600 * 10**6  # bytes
DISK = 12 * 10**9  # bytes: foundation, fine-tune, and the copies on their way
ROLES = ("uvicorn", "celery")


def memory(pid: int) -> int:
    """Bytes of a process, what it shares divided among those who share it; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


@dataclass
class Watch:
    """The largest memory of web server and worker together, by what was going on."""

    site: Site
    idle: int = 0
    stage: str = "start"
    peaks: dict[str, int] = field(default_factory=dict)

    def look(self) -> int:
        pids = set().union(*(self.site.processes(role) for role in ROLES))
        now = sum(memory(pid) for pid in pids)
        self.peaks[self.stage] = max(self.peaks.get(self.stage, 0), now)
        return now

    def report(self) -> str:
        lines = [f"idle: {self.idle / 1e6:.0f} MB"]
        lines += [f"{s}: +{(peak - self.idle) / 1e6:.0f} MB" for s, peak in self.peaks.items()]
        return "\n".join(lines)


@contextmanager
def watched(site: Site) -> Iterator[Watch]:
    watch, ended = Watch(site), threading.Event()
    watch.idle = watch.look()
    watch.peaks.clear()

    def keep_looking() -> None:
        while not ended.wait(0.1):
            watch.look()

    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


@contextmanager
def timed(name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - began:.1f} s")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    free = shutil.disk_usage(tmp_path).free
    if free < DISK:
        pytest.fail(f"{tmp_path} has {free / 1e9:.1f} GB free, and this test needs {DISK / 1e9:g}")
    yield tmp_path
    shutil.rmtree(tmp_path)  # pytest keeps the folders of its last runs


def fine_tune() -> dict[str, bytes | models.Repeated]:
    """One file of 2.7 GB, made while it is sent, and its card."""
    card = models.CARD.format(base=BASE, title="Large fine-tune", tag="large").encode()
    tuned = models.repeated(models.llama_shapes(LAYERS), seed=1)
    return {"model.safetensors": tuned, "README.md": card}


def write_stock(folder: Path) -> tuple[Path, Path]:
    base = folder / "large"
    base.mkdir()
    for name, file in models.shards(models.llama_shapes(LAYERS), 3):
        if isinstance(file, bytes):
            (base / name).write_bytes(file)
        else:
            file.write(base / name)
    models.write_card(base, "Large", BASE)
    return base, models.write_llama_lora(folder / "lora", LAYERS, BASE)


def download(visitor: Visitor, path: str) -> int:
    """Read a download to its end; its size, which must be the one announced."""
    began, count, first = time.monotonic(), 0, 0.0
    with visitor.open("GET", path) as answer:
        assert answer.status == 200
        while piece := answer.read1(PIECE):
            first = first or time.monotonic() - began
            count += len(piece)
        assert count == int(answer.headers["Content-Length"])
    seconds = time.monotonic() - began
    print(f"{path}: {count / 1e9:.2f} GB in {seconds:.1f} s, first byte after {first:.2f} s")
    return count


def test_a_large_model_takes_little_memory(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder / "site"
    data.mkdir()
    site = Site(data)
    try:
        site.start()
        with capsys.disabled():
            print()
            check_large(site, folder)
    finally:
        site.close()


def check_large(site: Site, folder: Path) -> None:
    with timed("writing the foundation"):
        base, lora = write_stock(folder)
    site.wait_until_ready()
    with timed("add_foundation and the LoRA"):
        site.stock(
            users=("olive",),
            foundations=[(base, BASE)],
            vectors=[(lora, "olive/large-lora", BASE)],
        )
    shutil.rmtree(base)
    olive, files = Visitor(site, "olive"), fine_tune()
    assert olive.get("/olive/large-lora").status == 200
    with watched(site) as watch:

        def during(stage: str, step: Callable[[], T]) -> T:
            watch.stage = stage
            with timed(stage):
                return step()

        draft = during("upload", lambda: olive.upload(files))
        during("draft page", lambda: olive.inspect(draft, BASE))
        during("inspection", lambda: wait_inspected(site, draft))
        fields = {"name": "large-full", "title": "Large"}
        page = olive.post(f"{draft}/publish", form=draft, **fields).goes_to
        assert page == "/olive/large-full"
        recipe = olive.equip(("olive/large-full", "0.5"), ("olive/large-lora", "1"))
        size = during("zip", lambda: download(olive, f"{recipe}.zip"))
    print(watch.report())
    tuned = files["model.safetensors"]
    assert isinstance(tuned, models.Repeated)
    assert tuned.size > 2.5 * 10**9
    assert size > tuned.size
    assert set(watch.peaks) >= {"upload", "inspection", "zip"}
    assert watch.idle > 50 * 10**6, "the processes were not seen"
    assert max(watch.peaks.values()) - watch.idle < ABOVE_IDLE, watch.report()


def wait_inspected(site: Site, draft: str) -> None:
    pk = draft.rsplit("/", 1)[-1]
    question = "SELECT state FROM vectors_version WHERE id = ?"
    (state,) = wait_for(lambda: site.row(question, pk), lambda row: row[0] != "inspecting", 120)
    assert state == "ready"
