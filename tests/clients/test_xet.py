"""Pushes by Xet, from the newest client as it is: memory, similar files, lost chunks."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.client import Client
from tests.clients.test_pushing import SNAPSHOT, contents, published
from tests.e2e import models
from tests.e2e.site import Site
from tests.e2e.test_memory import memory

pytestmark = pytest.mark.slow

MIB = 1 << 20
SIZE = 300 * MIB
WRITERS = {"lora": models.write_lora, "full": models.write_full, "delta": models.write_delta}
CLAIM = """
from django.contrib.auth import get_user_model
from vectors.models import Claim
nora = get_user_model().objects.get(username="nora")
Claim.objects.get_or_create(owner=nora, namespace="nora", name="large")
"""
# The upload inside `hf upload`, without the commit: these bytes are no model.
PUSH = """
import json, os, sys
import hf_xet
from huggingface_hub import constants
from huggingface_hub.utils._xet import get_xet_session
session = get_xet_session()
address = constants.ENDPOINT + "/api/models/nora/large/xet-write-token/main"
headers = {"Authorization": "Bearer " + os.environ["HF_TOKEN"]}
with session.new_upload_commit(
    token_refresh_url=address, token_refresh_headers=headers, custom_headers={}
) as commit:
    sent = commit.start_upload_file(sys.argv[1], sha256=hf_xet.COMPUTE_SHA256)
print(json.dumps(sent.result().xet_info.sha256))
"""


@pytest.fixture
def pusher(site: Site, client: Client) -> Client:
    site.shell(CLAIM)
    return client.signed_in("nora")


def spooled(site: Site) -> int:
    """Bytes of the xorbs that are here."""
    return sum(path.stat().st_size for path in (site.data / "xet").rglob("*") if path.is_file())


def write(path: Path, size: int) -> Path:
    with Path("/dev/urandom").open("rb") as source, path.open("wb") as target:
        for _ in range(size // MIB):
            target.write(source.read(MIB))
    return path


def changed(path: Path, offset: int) -> Path:
    """The same file with 200 other bytes somewhere."""
    copy = path.with_name(f"{offset}.bin")
    shutil.copyfile(path, copy)
    with copy.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(200))
    return copy


@contextmanager
def peak_of(site: Site) -> Iterator[list[int]]:
    """How much memory the web server takes more than it had, in the end."""
    (pid,) = site.processes("uvicorn")
    before, grown, ended = memory(pid), [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            grown[0] = max(grown[0], memory(pid) - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield grown
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_a_client_with_no_setting_pushes(
    site: Site, client: Client, folders: Path, tmp_path: Path, form: str
) -> None:
    nora, name = client.signed_in("nora"), f"nora/pushed-{form}"
    folder = WRITERS[form](tmp_path / "pushed", folders / models.FOUNDATION, "Pushed", seed=31)
    before = spooled(site)
    done = nora.hf("upload", name, str(folder), ".")
    assert done.returncode == 0, done.stderr
    weights = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    assert spooled(site) - before > weights.stat().st_size, "it came by Xet"
    published(site, name, "1")
    there = contents(Path(nora.python(SNAPSHOT, name)))
    assert there[weights.name] == contents(folder)[weights.name]


@pytest.mark.clients
def test_a_large_file_and_its_neighbours(site: Site, pusher: Client, tmp_path: Path) -> None:
    first = write(tmp_path / "first.bin", SIZE)
    with peak_of(site) as grown:
        sha256 = pusher.python(PUSH, str(first))
    assert (site.data / "blobs" / sha256[:2] / sha256).stat().st_size == SIZE
    assert grown[0] < 100 * MIB
    there = spooled(site)
    assert there >= SIZE
    pusher.python(PUSH, str(changed(first, SIZE // 2)))
    assert spooled(site) - there < MIB  # what a similar file sent

    # A xorb is lost. The next upload needs it and cannot know; the one after that sends it.
    max((site.data / "xet").rglob("*"), key=lambda path: path.stat().st_size).unlink()
    similar = changed(first, SIZE // 3)
    failed = pusher.run(PUSH, str(similar))
    assert "Start the same upload again" in failed.stderr
    sha256 = pusher.python(PUSH, str(similar))
    assert (site.data / "blobs" / sha256[:2] / sha256).stat().st_size == SIZE
