"""Xet ingest: from xorbs and a shard to an upload; who may; what is lost and how it heals."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import signing
from django.core.cache import cache
from django.test import Client, override_settings
from django.utils import timezone

from marketplace.accounts import devices
from marketplace.accounts.tokens import make_token, revoke
from marketplace.hub.xet import ingest as ingesting
from marketplace.hub.xet import spool
from marketplace.hub.xet import tokens as permits
from marketplace.hub.xet.shards import ShardFile, read_shard
from marketplace.models import AccessToken
from tests.hub import stock, xet
from tests.vectors.conftest import any_storage, local_storage, s3_bucket, s3_endpoint, s3_storage
from vectors import claims, uploads
from vectors.errors import Refusal
from vectors.models import Blob, Claim, Upload
from vectors.storage.base import Storage
from vectors.storage.current import storage
from vectors.tensorfile.source import read_bytes

__all__ = ["any_storage", "local_storage", "s3_bucket", "s3_endpoint", "s3_storage"]

pytestmark = pytest.mark.django_db
dropping = pytest.mark.django_db(transaction=True)  # bytes go once the rows are gone for good

DATA = xet.data_of(400_000)
CHUNKS = xet.chunks_of(DATA)
XORB, BODY = xet.xorb_of(CHUNKS)


@pytest.fixture(autouse=True)
def spooled(tmp_path: Path, local_storage: Storage) -> Iterator[Path]:
    """The folder of xorbs; whatever a test does, no staged file may be without its row."""
    with override_settings(ARMORY_DATA=tmp_path):
        yield tmp_path / "xet"
    staged = {path.stem for path in (tmp_path / "blobs/staging").glob("*")}
    assert staged <= {str(pk) for pk in Upload.objects.values_list("pk", flat=True)}


class Sender:
    """One who pushes: what a client does between asking for a token and the commit."""

    def __init__(self, user: User, scope: str = "write", repo_id: str = "olive/new") -> None:
        self.user, self.address = user, f"/api/models/{repo_id}/xet-write-token/main"
        self.text, self.row = make_token(user=user, name="push", scope=scope)
        self.cas, self.permit = "", ""

    def ask(self) -> Any:
        return Client().get(self.address, headers={"Authorization": f"Bearer {self.text}"})

    def begin(self) -> Sender:
        answer = self.ask()
        assert answer.status_code == 200, answer.content
        self.cas, self.permit = answer.json()["casUrl"], answer.json()["accessToken"]
        return self

    @property
    def epoch(self) -> spool.Epoch:
        return spool.Epoch(self.user.pk, int(self.cas.rpartition("/")[2]))

    def post(self, path: str, body: bytes) -> Any:
        return Client().post(
            f"{self.cas}/{path}",
            body,
            content_type="application/octet-stream",
            headers={"Authorization": f"Bearer {self.permit}"},
        )

    def xorb(self, name: str = XORB, body: bytes = BODY) -> Any:
        return self.post(f"v1/xorbs/default/{name}", body)

    def shard(self, body: bytes, version: int = 1) -> Any:
        return self.post(f"v{version}/shards", body)

    def push(self, data: bytes = DATA) -> None:
        """All of a file, as the clients do it."""
        name, body = xet.xorb_of(xet.chunks_of(data))
        assert self.xorb(name, body).status_code == 200
        assert self.shard(whole(data)).status_code == 200


def whole(data: bytes, sha256: str = "") -> bytes:
    """The shard of a file that is one xorb."""
    chunks = xet.chunks_of(data)
    name, _body = xet.xorb_of(chunks)
    return xet.shard_of((sha256 or xet.sha(data), [(name, len(data), 0, len(chunks))]))


@pytest.fixture
def sender(owner: User) -> Sender:
    Claim.objects.create(owner=owner, namespace="olive", name="new")
    return Sender(owner).begin()


def stored(data: bytes) -> bool:
    """Whether these very bytes are a blob that an upload holds."""
    sha256 = xet.sha(data)
    if not Upload.objects.filter(blob=sha256, state=Upload.State.STORED).exists():
        return False
    source = storage().open(sha256)
    try:
        return source.size == len(data) and read_bytes(source, 0, source.size) == data
    finally:
        source.close()


# --- the way of a file -----------------------------------------------------------------------


def test_a_file_becomes_an_upload_of_its_owner(sender: Sender, any_storage: Storage) -> None:
    assert sender.xorb().json() == {"was_inserted": True}
    assert sender.xorb().json() == {"was_inserted": False}
    assert sender.shard(whole(DATA)).json() == {"result": 1}
    upload = Upload.objects.get()
    assert (upload.owner, upload.state, upload.blob_id) == (sender.user, "stored", xet.sha(DATA))
    assert stored(DATA)


def test_a_file_of_many_parts_and_many_xorbs(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART", 100_001)  # borders of parts and chunks do not meet
    monkeypatch.setattr(ingesting, "OPEN_XORBS", 1)
    other = xet.chunks_of(xet.data_of(300_000, b"other"))
    name, body = xet.xorb_of(other, scheme=1)
    assert sender.xorb().status_code == sender.xorb(name, body).status_code == 200
    terms = [(XORB, 2, 4), (name, 0, 1), (XORB, 0, 7), (name, 3, 5), (name, 3, 5)]
    pieces = [(CHUNKS if xorb == XORB else other)[a:b] for xorb, a, b in terms]
    data = b"".join(b"".join(piece) for piece in pieces)
    told = [
        (xorb, sum(map(len, piece)), a, b)
        for (xorb, a, b), piece in zip(terms, pieces, strict=True)
    ]
    assert sender.shard(xet.shard_of((xet.sha(data), told))).status_code == 200
    assert Upload.objects.get().part_count > 5
    assert stored(data)


def test_a_similar_file_needs_only_what_is_new(sender: Sender) -> None:
    sender.push()
    changed = [*CHUNKS[:3], b"changed", *CHUNKS[4:]]
    name, body = xet.xorb_of([b"changed"])
    assert sender.begin().xorb(name, body).status_code == 200
    before, behind = sum(map(len, CHUNKS[:3])), sum(map(len, CHUNKS[4:]))
    terms = [(XORB, before, 0, 3), (name, 7, 0, 1), (XORB, behind, 4, len(CHUNKS))]
    assert sender.shard(xet.shard_of((xet.sha(b"".join(changed)), terms))).status_code == 200
    assert stored(b"".join(changed))


def test_the_same_file_again_is_not_made_again(sender: Sender) -> None:
    sender.push()
    upload = Upload.objects.get()
    Upload.objects.update(expires=upload.created)
    sender.push()
    again = Upload.objects.get()
    assert again.pk == upload.pk
    assert again.expires > upload.created + uploads.LIFETIME / 2


def test_the_newest_clients_are_told_line_by_line(sender: Sender) -> None:
    sender.xorb()
    answer = sender.shard(whole(DATA), version=2)
    frames = [json.loads(line) for line in b"".join(answer).splitlines()]
    assert frames[-2:] == [
        {"type": "validating", "verified": 400_000, "total": 400_000},
        {"type": "result"},
    ]
    assert stored(DATA)


def test_what_is_not_offered_is_said_so(sender: Sender) -> None:
    name = xet.sha(b"chunk")
    assert sender.post(f"v1/xorb-grants/default/{name}", b"{}").status_code == 404
    assert Client().get(f"{sender.cas}/v1/chunks/default/{name}").status_code == 404
    for path in ("/v1/telemetry", f"{sender.cas}/v1/telemetry"):
        assert Client(enforce_csrf_checks=True).post(path).status_code == 404


# --- who may ---------------------------------------------------------------------------------


def test_the_token_is_for_those_who_may_push(
    sender: Sender, owner: User, buyer: User, stranger: User
) -> None:
    answer = sender.ask()
    told = answer.json()
    assert told["casUrl"].startswith("http://testserver/xet/")
    assert answer["X-Xet-Cas-Url"] == told["casUrl"]
    assert answer["X-Xet-Access-Token"] == told["accessToken"]
    assert answer["X-Xet-Token-Expiration"] == str(told["exp"])
    assert time.time() < told["exp"] <= time.time() + permits.LIFETIME
    assert Sender(stranger).ask().status_code == 404  # of a claim nobody else knows
    assert Sender(owner, scope="read").ask().status_code == 403
    stock.vector("bruno/law", buyer, stock.foundation("lab/tiny"))
    assert Sender(owner, repo_id="bruno/law").ask().status_code == 403
    assert Sender(owner, repo_id="lab/tiny").ask().status_code == 403
    assert Client().get(sender.address).status_code == 401


def test_the_routes_open_to_the_token_alone(sender: Sender, stranger: User) -> None:
    def status(permit: str, cas: str = sender.cas) -> int:
        headers = {"Authorization": f"Bearer {permit}"}
        answer = Client().post(
            f"{cas}/v1/xorbs/default/{XORB}",
            BODY,
            content_type="application/octet-stream",
            headers=headers,
        )
        return int(answer.status_code)

    assert status(sender.permit) == 200
    Claim.objects.create(owner=stranger, namespace="sten", name="own")
    other = Sender(stranger, repo_id="sten/own").begin()
    assert status(other.permit) == 403
    assert status(sender.permit, other.cas) == 403
    assert status(sender.text) == 401  # the access token itself does not travel here
    assert status(sender.permit[:-1] + "~") == 401
    assert status("") == 401
    assert Client().get(f"{sender.cas}/v1/shards").status_code == 405


def test_a_token_ends_with_time_and_with_what_it_stands_for(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(permits, "LIFETIME", -1)
        assert sender.xorb().status_code == 401
    assert sender.xorb().status_code == 200
    revoke(AccessToken.objects.get(pk=sender.row.pk))
    assert sender.xorb().status_code == 401


def test_a_renewed_token_goes_on_for_a_while(sender: Sender) -> None:
    """Another process on the same machine renews it while this one uploads."""
    devices.renew_token(signing.dumps(sender.row.pk, salt=devices.SALT))
    sender.push()
    AccessToken.objects.filter(pk=sender.row.pk).update(revoked=timezone.now())
    assert sender.xorb().status_code == 401


def test_a_repository_that_is_renamed_meanwhile_takes_the_files(owner: User) -> None:
    vector = stock.vector("olive/law", owner, stock.foundation("lab/tiny"))
    sender = Sender(owner, repo_id="olive/law").begin()
    sender.xorb()
    claims.rename(vector, name="order")
    assert sender.shard(whole(DATA)).json() == {"result": 1}
    assert stored(DATA)


def test_a_repository_that_is_gone_takes_no_files(sender: Sender) -> None:
    sender.xorb()
    Claim.objects.all().delete()
    assert sender.shard(whole(DATA)).status_code == 404
    assert not Upload.objects.exists()


def test_nobody_gets_at_the_chunks_of_others(sender: Sender, stranger: User) -> None:
    sender.push()
    Claim.objects.create(owner=stranger, namespace="sten", name="own")
    thief = Sender(stranger, repo_id="sten/own").begin()
    assert thief.shard(whole(DATA)).status_code == 400
    assert not Upload.objects.filter(owner=stranger).exists()


# --- what is wrong ---------------------------------------------------------------------------


def test_a_xorb_that_is_another_is_refused_and_may_come_again(
    sender: Sender, spooled: Path
) -> None:
    damaged = BODY[:-1] + bytes([BODY[-1] ^ 1])
    answer = sender.xorb(body=damaged)
    assert answer.status_code == 400
    assert "hash" in answer.json()["error"]
    assert sender.xorb(body=BODY[:-1]).status_code == 400
    assert sender.xorb(name="../" + XORB[3:].upper()).status_code in (400, 404)
    assert not [path for path in spooled.rglob("*") if path.is_file()]
    assert sender.xorb().json() == {"was_inserted": True}


def test_a_shard_that_cannot_be_read_is_refused(sender: Sender) -> None:
    answer = sender.shard(b"nonsense")
    assert answer.status_code == 400
    assert answer["X-Error-Message"] == answer.json()["error"] == "This shard ends in the middle."


@pytest.mark.parametrize(
    "term",
    [
        (xet.sha(b"never came"), 400_000, 0, 7),
        (XORB, 400_000, 0, 8),
        (XORB, 399_999, 0, 7),
    ],
    ids=["an unknown xorb", "chunks it does not have", "another length"],
)
def test_chunks_that_are_not_here_begin_a_new_epoch(
    sender: Sender, term: tuple[str, int, int, int]
) -> None:
    sender.xorb()
    answer = sender.shard(xet.shard_of((xet.sha(DATA), [term])))
    assert answer.status_code == 400
    assert "Start the same upload again" in answer.json()["error"]
    assert not Upload.objects.exists()
    before = sender.cas
    assert sender.begin().cas != before
    sender.push()
    assert stored(DATA)


@dropping
def test_a_file_with_another_sha256_leaves_nothing(sender: Sender) -> None:
    sender.xorb()
    wrong = whole(DATA, xet.sha(b"another"))
    frames = [json.loads(line) for line in b"".join(sender.shard(wrong, version=2)).splitlines()]
    assert frames[-1]["type"] == "error"
    assert "does not have the SHA-256" in frames[-1]["message"]
    assert not frames[-1]["retryable"]
    assert not Upload.objects.exists()
    assert not Blob.objects.exists()


@dropping
def test_who_hangs_up_in_the_middle_leaves_nothing(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART", 100_000)
    sender.xorb()
    steps = ingesting.ingest(owner=sender.user, epoch=sender.epoch, files=files_of(whole(DATA)))
    assert next(steps).done == 100_000
    assert Upload.objects.count() == 1
    steps.close()
    assert not Upload.objects.exists()
    assert sender.shard(whole(DATA)).status_code == 200


def files_of(shard: bytes) -> list[ShardFile]:
    return read_shard(io.BytesIO(shard))


def test_one_shard_of_a_user_at_a_time(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PART", 100_000)
    monkeypatch.setattr(ingesting, "WAIT", 0)
    sender.xorb()
    first, second = (
        ingesting.ingest(owner=sender.user, epoch=sender.epoch, files=files_of(whole(DATA)))
        for _ in range(2)
    )
    assert next(first).done == 100_000
    assert next(second).done == 0
    assert list(first)[-1].done == 400_000
    assert list(second) == []  # made by the first
    assert Upload.objects.count() == 1


def test_a_full_disk_is_said_so(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "RESERVE", 1 << 62)
    answer = sender.xorb()
    assert answer.status_code == 413
    assert "disk" in answer.json()["error"]


# --- epochs ----------------------------------------------------------------------------------


def age(epoch: spool.Epoch, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(epoch.folder, (moment, moment))


def test_the_least_recently_used_epoch_goes_when_room_is_short(
    sender: Sender, stranger: User
) -> None:
    sender.push()
    Claim.objects.create(owner=stranger, namespace="sten", name="own")
    other = Sender(stranger, repo_id="sten/own").begin()
    other.push(xet.data_of(300_000, b"other"))
    age(sender.epoch, 2 * spool.IDLE)
    assert spool.make_room(10**6) == 0
    assert spool.make_room(400_000) > 400_000
    assert not sender.epoch.folder.exists()
    assert other.epoch.folder.exists()
    assert sender.shard(whole(DATA)).status_code == 404
    assert sender.ask().json()["casUrl"] != sender.cas
    assert other.ask().json()["casUrl"] == other.cas


def test_an_epoch_in_use_is_retired_first_and_dropped_later(sender: Sender) -> None:
    assert sender.xorb().status_code == 200
    assert spool.make_room(0) == 0
    later = Sender(sender.user).begin()
    assert later.cas != sender.cas
    assert sender.shard(whole(DATA)).status_code == 200  # who is in the middle gets to the end
    assert stored(DATA)
    age(sender.epoch, 2 * spool.IDLE)
    assert spool.make_room(10**9) > 400_000  # retired: of no use to anybody, whatever the limit
    assert later.epoch.folder.exists()


def test_an_emptied_disk_never_brings_an_epoch_back(sender: Sender, spooled: Path) -> None:
    sender.push()
    shutil.rmtree(spooled)
    assert sender.xorb().status_code == 404
    before = sender.cas
    assert sender.begin().cas != before
    sender.push(xet.data_of(200_000, b"next"))


def test_a_xorb_cut_by_a_crash_counts_as_lost(sender: Sender) -> None:
    sender.xorb()
    path = sender.epoch.folder / XORB[:2] / XORB
    os.truncate(path, 1000)
    assert sender.xorb().json() == {"was_inserted": True}
    assert sender.shard(whole(DATA)).status_code == 200


def test_epochs_that_begin_at_once_agree(owner: User) -> None:
    first = spool.current(owner.pk)
    threads = [threading.Thread(target=first.retire) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spool.current(owner.pk).number > first.number
    assert spool.current(owner.pk) == spool.current(owner.pk)
    first.retire()
    assert spool.find(owner.pk, first.number) == first


def test_an_address_out_of_this_world_is_a_404(sender: Sender) -> None:
    for number in ("0", "9" * 30, "9" * 300):
        sender.cas = f"{sender.cas.rpartition('/')[0]}/{number}"
        assert sender.xorb().status_code == 404


def test_the_sweep_drops_what_a_killed_process_left(sender: Sender, spooled: Path) -> None:
    left = spooled / "tmp" / "half"
    left.parent.mkdir()
    left.write_bytes(b"half a xorb")
    spool.sweep()
    assert left.exists()
    os.utime(left, (0, 0))
    cache.clear()
    spool.sweep()
    assert not left.exists()


@dropping
def test_a_refusal_while_storing_is_told_as_one(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_kwargs: object) -> None:
        raise Refusal("The disk is full.")

    monkeypatch.setattr(uploads, "receive_part", full)
    sender.xorb()
    assert sender.shard(whole(DATA)).json() == {"error": "The disk is full."}
    assert not Upload.objects.exists()
