"""A model kept ready in a bucket, and the real clients: storage hands its weights out by itself,
and nobody sees a difference."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.client import NEWEST, OLD, Client
from tests.e2e import models
from tests.e2e.site import Site, wait_for
from tests.e2e.visitor import Visitor
from tests.vectors.s3 import s3_bucket, s3_endpoint

__all__ = ["s3_bucket", "s3_endpoint"]

pytestmark = pytest.mark.slow

FILE = "model.safetensors"
VERSIONS = [NEWEST, *(pytest.param(v, marks=pytest.mark.clients) for v in OLD)]
BUILT = "SELECT state, error FROM merging_build"
EVICT = (
    "from merging.builds import evict; from merging.models import Build; evict(Build.objects.get())"
)


@pytest.fixture
def bucket_site(folders: Path, s3_endpoint: str, s3_bucket: str, tmp_path: Path) -> Iterator[Site]:
    """A running shop whose blobs lie in a bucket."""
    (tmp_path / "data").mkdir()
    running = Site(tmp_path / "data", ARMORY_S3_BUCKET=s3_bucket, ARMORY_S3_ENDPOINT=s3_endpoint)
    running.start()
    try:
        running.wait_until_ready()
        running.stock(
            users=("olive", "nora"),
            foundations=[(folders / models.FOUNDATION, models.FOUNDATION)],
            vectors=[(folders / "olive/law", "olive/law", models.FOUNDATION)],
        )
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_gets_the_same_file_from_the_bucket(
    bucket_site: Site, tmp_path: Path, version: str
) -> None:
    nora = Visitor(bucket_site, "nora")
    page = nora.equip(("olive/law", "0.5"))
    repo_id = page.strip("/")

    def downloaded(name: str) -> str:
        client = Client(version, bucket_site.address, tmp_path / f"home-{name}")
        done = client.hf("download", repo_id, "--local-dir", str(tmp_path / name))
        assert done.returncode == 0, done.stderr[-2000:]
        return hashlib.sha256((tmp_path / name / FILE).read_bytes()).hexdigest()

    computed = downloaded("computed")
    assert nora.post(f"{page}/build", form=page).goes_to == page
    wait_for(lambda: bucket_site.row(BUILT), lambda row: row == ("done", ""))
    answer = nora.get(f"{page}/resolve/main/{FILE}")
    assert answer.status == 302
    assert answer.headers["X-Linked-Etag"] == f'"{computed}"'
    assert downloaded("built") == computed
    bucket_site.shell(EVICT)
    assert nora.get(f"{page}/resolve/main/{FILE}").status == 200
    assert downloaded("evicted") == computed
