"""What has been built is read in place of the stream: the same bytes, the same ETag, by the same
people; and where it is gone, the stream goes on."""

from __future__ import annotations

import hashlib
import io
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from marketplace.hub import equipped as hub
from merging import build_reading, building, builds, repository
from merging.builds import evict, is_current, start_build
from merging.engine import run as engine
from merging.models import Build, BuildFile, EquippedModel
from merging.repository import read_weights
from merging.services import equip_expression
from tests.merging.build_shop import FILES, handed_out, kept, stock, streamed, weights
from tests.people import client_of
from tests.vectors.conftest import any_storage, local_storage, s3_storage
from tests.vectors.s3 import s3_bucket, s3_endpoint
from vectors.models import Access, Grant, Vector
from vectors.storage.base import Storage
from vectors.storage.current import storage

__all__ = ["any_storage", "local_storage", "s3_bucket", "s3_endpoint", "s3_storage"]

pytestmark = pytest.mark.django_db(transaction=True)
FIRST = "model-00001-of-00003.safetensors"


@pytest.fixture
def row(any_storage: Storage, owner: User, tmp_path: Path) -> EquippedModel:
    stock(tmp_path, owner)
    return equip_expression("0.5*law + 0.25*mood", on="", user=owner)


@pytest.fixture
def local_row(local_storage: Storage, owner: User, tmp_path: Path) -> EquippedModel:
    stock(tmp_path, owner)
    return equip_expression("0.5*law + 0.25*mood", on="", user=owner)


@pytest.fixture
def s3_row(s3_storage: Storage, owner: User, tmp_path: Path) -> EquippedModel:
    stock(tmp_path, owner)
    return equip_expression("0.5*law + 0.25*mood", on="", user=owner)


def build(row: EquippedModel, user: User) -> Build:
    found = start_build(row=row, user=user)
    building.run_build(found.pk)
    found.refresh_from_db()
    assert found.state == "done", found.error
    return found


def content(answer: Any) -> bytes:
    return b"".join(answer.streaming_content)


def unpacked(answer: Any) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content(answer))) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def resolve(row: EquippedModel, path: str = FIRST) -> str:
    return f"/{row.repo_id}/resolve/main/{path}"


@pytest.fixture
def nothing_computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on no byte is computed, and what it would be computed from is not opened."""

    def forbid() -> None:
        def never(*_args: object) -> Iterator[bytes]:
            raise AssertionError("it is computed")

        monkeypatch.setattr(repository, "stream_ahead", never)
        monkeypatch.setattr(hub, "Opened", never)

    return forbid


def test_the_same_bytes_under_the_same_etag(
    local_row: EquippedModel, owner: User, client: Client, nothing_computed: Callable[[], None]
) -> None:
    before = client.get(resolve(local_row))
    etag, whole = before["ETag"], content(before)
    archive = unpacked(client.get(f"/equipped/{local_row.slug}.zip"))
    made = build(local_row, owner)
    client.head(resolve(local_row))
    nothing_computed()
    for path, sha256 in kept(made).items():
        answer = client.get(resolve(local_row, path))
        assert hashlib.sha256(content(answer)).hexdigest() == sha256
        assert answer["X-Linked-Etag"] == f'"{sha256}"'
    answer = client.get(resolve(local_row))
    assert (answer.status_code, answer["ETag"], content(answer)) == (200, etag, whole)
    part = client.get(resolve(local_row), headers={"Range": "bytes=1000000-", "If-Range": etag})
    assert (part.status_code, content(part)) == (206, whole[1_000_000:])
    assert client.get(resolve(local_row), headers={"If-None-Match": etag}).status_code == 304
    again = unpacked(client.get(f"/equipped/{local_row.slug}.zip"))
    assert again == archive
    assert len([name for name in again if name.endswith(".safetensors")]) == FILES


def test_what_was_evicted_is_computed_as_ever(
    row: EquippedModel, owner: User, client: Client
) -> None:
    wanted = streamed(row)
    made = build(row, owner)
    assert handed_out(row) == wanted
    etag = client.head(resolve(row))["ETag"]
    evict(made)
    assert handed_out(row) == wanted
    answer = client.get(resolve(row))
    assert (answer.status_code, answer["ETag"]) == (200, etag)
    assert content(answer) == wanted[FIRST]


@pytest.mark.parametrize("how", ["evicted", "taken away"])
def test_whoever_reads_half_way_gets_the_rest(row: EquippedModel, owner: User, how: str) -> None:
    wanted = streamed(row)[FIRST]
    made = build(row, owner)
    file, _opened = next(weights(row))
    reading = read_weights(row.pk, FIRST, file.etag, 0, file.size)
    first = next(reading)
    assert 0 < len(first) < file.size
    if how == "evicted":
        evict(made)
    else:
        storage().delete(kept(made)[FIRST])
    assert first + b"".join(reading) == wanted
    again = b"".join(read_weights(row.pk, FIRST, file.etag, 0, file.size))
    assert again == wanted
    made.refresh_from_db()
    assert made.state == "evicted", "a build that is not there says so"
    assert not BuildFile.objects.exists()


def test_a_file_that_lost_bytes_is_not_believed(local_row: EquippedModel, owner: User) -> None:
    wanted = streamed(local_row)[FIRST]
    made = build(local_row, owner)
    sha256 = kept(made)[FIRST]
    path = Path(str(storage()._blob(sha256)))  # type: ignore[attr-defined]
    path.write_bytes(path.read_bytes()[:1_500_000])
    assert not is_current(made)
    file, _opened = next(weights(local_row))
    assert b"".join(read_weights(local_row.pk, FIRST, file.etag, 0, file.size)) == wanted
    made.refresh_from_db()
    assert made.state == "evicted"
    assert build(local_row, owner).attempt == 1
    assert storage().size(sha256) == len(wanted)


def test_another_kernel_is_another_file(
    local_row: EquippedModel, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(local_row, owner)
    old = set(BuildFile.objects.values_list("pk", flat=True))
    monkeypatch.setattr(engine, "KERNEL", "of tomorrow")
    assert all(file.built is None for file, _opened in weights(local_row))
    assert not is_current(made)
    build(local_row, owner)
    assert not old & set(BuildFile.objects.values_list("pk", flat=True))
    assert all(file.built is not None for file, _opened in weights(local_row))


def test_finished_files_of_a_build_that_is_not_are_read_too(
    local_row: EquippedModel, owner: User
) -> None:
    made = build(local_row, owner)
    Build.objects.filter(pk=made.pk).update(state="failed")
    BuildFile.objects.exclude(path=FIRST).update(stored=False)
    assert {file.path: file.built is not None for file, _opened in weights(local_row)} == {
        path: path == FIRST for path in kept(made) | dict.fromkeys(streamed(local_row), "")
    }


# --- storage that hands out by itself --------------------------------------------------------


def test_storage_hands_the_file_out_by_itself_where_it_can(
    s3_row: EquippedModel, owner: User, client: Client, nothing_computed: Callable[[], None]
) -> None:
    wanted = content(client.get(resolve(s3_row)))
    made = build(s3_row, owner)
    etag = client.head(resolve(s3_row))["ETag"]
    nothing_computed()
    answer = client.get(resolve(s3_row))
    assert answer.status_code == 302
    assert "no-store" in answer["Cache-Control"]
    assert answer["X-Linked-Etag"] == f'"{kept(made)[FIRST]}"'
    query = parse_qs(urlsplit(answer["Location"]).query)
    assert int(query["X-Amz-Expires"][0]) == build_reading.DIRECT_SECONDS
    with urllib.request.urlopen(answer["Location"], timeout=30) as sent:
        assert sent.read() == wanted
    # Storage has an ETag of its own: who names ours, or asks for nothing but headers, stays here.
    head = client.head(resolve(s3_row))
    assert (head.status_code, head["Content-Length"]) == (200, str(len(wanted)))
    part = client.get(resolve(s3_row), headers={"Range": "bytes=5-9", "If-Range": etag})
    assert (part.status_code, content(part)) == (206, wanted[5:10])
    assert client.get(resolve(s3_row), headers={"If-None-Match": etag}).status_code == 304
    # What storage has sent of a range nobody would count.
    part = client.get(resolve(s3_row), headers={"Range": "bytes=2000000-2000009"})
    assert (part.status_code, content(part)) == (206, wanted[2_000_000:2_000_010])


def test_nobody_without_a_grant_is_sent_to_storage(
    s3_row: EquippedModel, owner: User, buyer: User, stranger: User, client: Client
) -> None:
    build(s3_row, owner)
    mood = Vector.objects.get(name="mood")
    Vector.objects.filter(pk=mood.pk).update(access=Access.MANUAL)
    Grant.objects.create(user=buyer, vector=mood)
    for who, status in ((client_of(buyer), 302), (client_of(stranger), 403), (client, 401)):
        answer = who.get(resolve(s3_row))
        assert answer.status_code == status
        assert ("Location" in answer.headers) == (status == 302)
    Grant.objects.all().delete()
    assert client_of(buyer).get(resolve(s3_row)).status_code == 403


# --- what it costs ---------------------------------------------------------------------------


def updates(queries: CaptureQueriesContext) -> list[str]:
    return [each["sql"] for each in queries if each["sql"].startswith("UPDATE")]


def test_a_use_is_noted_once_a_minute(local_row: EquippedModel, owner: User) -> None:
    made = build(local_row, owner)
    long_ago = timezone.now() - timedelta(hours=2)
    Build.objects.filter(pk=made.pk).update(last_used=long_ago)
    with CaptureQueriesContext(connection) as queries:
        handed_out(local_row)
        handed_out(local_row)
    assert len(updates(queries)) == 1
    made.refresh_from_db()
    assert made.last_used is not None
    assert made.last_used > long_ago + timedelta(hours=1)
    file, _opened = next(weights(local_row))
    with CaptureQueriesContext(connection) as queries:
        b"".join(read_weights(local_row.pk, FIRST, file.etag, 0, file.size))
    assert len(queries) == 1, "which file it is, and nothing else"


def test_a_use_that_cannot_be_noted_breaks_no_download(
    local_row: EquippedModel, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError
    from django.db.models import QuerySet

    wanted = streamed(local_row)
    build(local_row, owner)
    Build.objects.update(last_used=None)

    def locked(*_args: object, **_fields: object) -> int:
        raise OperationalError("database is locked")

    monkeypatch.setattr(QuerySet, "update", locked)
    assert handed_out(local_row) == wanted


def test_a_file_costs_no_query_of_its_own(local_row: EquippedModel, owner: User) -> None:
    """Three files cost what one would, built or not."""

    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            for file, _opened in weights(local_row):
                assert file.size
        return len(queries)

    plain = cost()
    build(local_row, owner)
    assert cost() == plain + 1, "the build, then its files"
    names = builds.etag_of(local_row, FIRST), builds.etag_of(local_row, "x")
    assert names[0] != names[1]
