"""Download counts: who counts, how often, and which reads are none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connections, transaction
from django.test import AsyncClient, Client

from marketplace.accounts.tokens import make_token
from marketplace.hub.counting import Reading, joined, note_download
from marketplace.hub.files import written_file
from marketplace.models import Download
from merging.models import EquippedModel, EquippedTerm
from tests.hub.stock import foundation, vector
from vectors.keeping import store_bytes
from vectors.models import Foundation, Vector

pytestmark = pytest.mark.django_db(transaction=True)

SIZE = 3 << 20  # three pieces
WEIGHTS = "/olive/law/resolve/main/model.safetensors"


@pytest.fixture
def law(owner: User) -> Vector:
    """olive/law, whose weights have bytes."""
    row = vector("olive/law", owner, foundation("lab/tiny"), form="full")
    with_bytes(row.current)
    return row


def with_bytes(of: Any) -> None:
    with transaction.atomic():
        of.files.update(blob=store_bytes(bytes(range(256)) * (SIZE // 256)))


def count(of: Vector | Foundation) -> int:
    of.refresh_from_db()
    return of.downloads


def read(client: Client, path: str = WEIGHTS, **headers: str) -> int:
    """GET to the end; the number of bytes."""
    answer = client.get(path, headers=headers)
    assert answer.status_code in (200, 206), answer.content
    return sum(len(piece) for piece in answer.streaming_content)  # type: ignore[attr-defined]


def signed(user: User) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token(user=user, name='reads')[0]}"}


def test_a_reader_counts_once_a_day_and_commit(law: Vector, client: Client, buyer: User) -> None:
    assert read(client) == SIZE
    assert read(client) == SIZE
    assert count(law) == 1
    assert read(client, **signed(buyer)) == SIZE  # an account, whatever its address
    assert count(law) == 2
    client.defaults["REMOTE_ADDR"] = "2001:db8::7"
    read(client)
    client.defaults["REMOTE_ADDR"] = "2001:db8::8"  # the same household
    read(client)
    assert count(law) == 3
    Download.objects.update(day="2020-02-02")
    read(client)
    assert count(law) == 4
    assert "2001" not in str(Download.objects.values_list("reader"))


def test_what_is_no_download_does_not_count(
    law: Vector, client: Client, owner: User, owner_client: Client
) -> None:
    client.head(WEIGHTS)
    read(owner_client)
    read(client, **signed(owner))
    read(client, Range="bytes=0-100000")  # the header
    read(client, Range=f"bytes={SIZE - 8}-")  # the end alone
    etag = client.head(WEIGHTS)["ETag"]
    assert client.get(WEIGHTS, headers={"If-None-Match": etag}).status_code == 304
    assert client.get(WEIGHTS, headers={"Range": f"bytes={SIZE}-"}).status_code == 416
    broken = client.get(WEIGHTS, REMOTE_ADDR="198.51.100.7")
    next(iter(broken.streaming_content))  # type: ignore[attr-defined]
    broken.close()
    assert count(law) == 0
    assert not Download.objects.exists()


def test_a_file_read_in_ranges_counts_when_the_last_is_in(law: Vector, client: Client) -> None:
    third = SIZE // 3
    read(client, Range=f"bytes={2 * third}-")
    read(client, Range=f"bytes=0-{third + 5}")
    assert count(law) == 0
    read(client, Range=f"bytes={third}-{2 * third - 1}", **{"User-Agent": "unknown/None; x"})
    assert count(law) == 1


def test_a_download_that_broke_off_counts_when_it_is_resumed(law: Vector, client: Client) -> None:
    broken = client.get(WEIGHTS)
    pieces = iter(broken.streaming_content)  # type: ignore[attr-defined]
    have = len(next(pieces))
    next(pieces)  # on its way, and lost
    broken.close()
    assert count(law) == 0
    read(client, Range=f"bytes={have}-")
    assert count(law) == 1


@pytest.mark.parametrize(
    "agent",
    [
        "transformers/5.23.0; python/3.11; is_ci/true",
        "unknown/None; hf_hub/2.4.0; origin/ci",
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    ],
)
def test_machines_are_counted_apart(law: Vector, client: Client, agent: str) -> None:
    read(client, **{"User-Agent": agent})
    assert (count(law), Download.objects.get().automatic) == (0, True)
    read(client, **{"User-Agent": "unknown/None; hf_hub/2.4.0; agent/claude-code"})
    assert (count(law), Download.objects.get().automatic) == (1, False)


def test_an_equipped_model_counts_for_each_of_its_vectors(law: Vector, buyer: User) -> None:
    other = vector("bruno/mood", buyer, law.foundation)
    row = EquippedModel.objects.create(
        hash="0" * 64, slug="0" * 16, canonical="{}", foundation=law.foundation, nbytes=1, report={}
    )
    for position, each in enumerate((law, other, law)):
        EquippedTerm.objects.create(
            equipped=row, position=position, version=each.current, coefficient=1
        )
    file = written_file("model.safetensors", b"x" * 10)
    Reading("user-1", buyer, False, file, (0, 10), row).ended(10)
    assert (count(law), count(other)) == (1, 0)  # bruno's own is not counted
    assert count(law.foundation) == 0


def test_a_foundation_counts_too(client: Client) -> None:
    tiny = foundation("lab/tiny")
    with_bytes(tiny)
    read(client, "/lab/tiny/resolve/main/model.safetensors")
    assert count(tiny) == 1
    info = client.get("/api/models/lab/tiny").json()
    assert (info["downloads"], info["downloadsAllTime"]) == (1, 1)
    assert "Downloaded" in client.get("/lab/tiny").content.decode()


def test_a_note_that_fails_breaks_no_download(
    law: Vector, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full_disk(*_args: object, **_fields: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("marketplace.hub.counting.note_download", full_disk)
    assert read(client) == SIZE
    assert "was not counted" in caplog.text


def test_under_asgi_it_is_noted_once_the_last_byte_has_gone(law: Vector) -> None:
    async def reads(until: int) -> None:
        answer = await AsyncClient().get(WEIGHTS)
        got = 0
        async for piece in answer:
            got += len(piece)
            if got >= until:
                break
        answer.close()
        # The client of the tests leaves the connection of its thread open.
        await sync_to_async(connections.close_all)()

    asyncio.run(reads(1))
    assert not Download.objects.exists()
    asyncio.run(reads(SIZE + 1))
    wait_for(lambda: count(law) == 1)


def wait_for(there: Callable[[], bool], limit: float = 20.0) -> None:
    deadline = time.monotonic() + limit
    while not there():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_the_catalogue_can_be_sorted_by_downloads(law: Vector, client: Client, owner: User) -> None:
    vector("olive/newer", owner, law.foundation)
    note_download(law.current, reader="somebody", automatic=False)
    page = client.get("/vectors?sort=downloaded&foundation=lab/tiny").content.decode()
    assert page.index("/olive/law") < page.index("/olive/newer")
    assert "Most downloaded" in page
    assert "Downloaded" in client.get("/olive/law").content.decode()


def test_joined_spans() -> None:
    assert joined([(5, 9), (0, 5)]) == [(0, 9)]
    assert joined([(0, 4), (5, 9), (6, 7)]) == [(0, 4), (5, 9)]
    assert joined([]) == []
