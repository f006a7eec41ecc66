"""The build on the recipe's page: who may do what, what is shown, how it is followed."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection
from django.test import AsyncClient, Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from merging import building
from merging.builds import start_build
from merging.models import Build, BuildFile, BuildState, EquippedModel
from merging.services import count_equip, equip_expression, equip_terms
from tests.hub.test_strangers import KINDS, law, put
from tests.merging.build_shop import FILES, kept, state, stock, write_sharded
from tests.people import client_of
from tests.vectors.conftest import local_storage
from vectors.importing import add_foundation, add_vector
from vectors.models import Vector, Version

__all__ = ["law", "local_storage"]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def row(local_storage: None, owner: User, tmp_path: Path) -> EquippedModel:
    stock(tmp_path, owner)
    return equip_expression("0.5*law + 0.25*mood", on="", user=owner)


@pytest.fixture
def running(row: EquippedModel, buyer: User) -> Build:
    """A build of bruno's, more than half of it written."""
    build = start_build(row=row, user=buyer)
    Build.objects.update(
        state=BuildState.RUNNING,
        stage="writing",
        done_bytes=row.nbytes * 6 // 10,
        total_bytes=row.nbytes,
        lease_until=timezone.now() + timedelta(minutes=5),
    )
    build.refresh_from_db()
    return build


def page(client: Client, row: EquippedModel, query: str = "") -> str:
    answer = client.get(row.get_absolute_url() + query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_who_is_not_signed_in_is_asked_to(client: Client, row: EquippedModel) -> None:
    answer = client.post(f"{row.get_absolute_url()}/build")
    assert answer["Location"] == f"/accounts/login/?next=/equipped/{row.slug}%23files"
    assert "Sign in to keep it ready" in page(client, row)
    assert not Build.objects.exists()


def test_a_build_is_started_and_is_ready(
    row: EquippedModel, buyer_client: Client, client: Client
) -> None:
    assert "Keep it ready" in page(buyer_client, row)
    start = f"{row.get_absolute_url()}/build"
    assert buyer_client.post(start)["Location"] == f"{row.get_absolute_url()}#files"
    build = Build.objects.get()
    assert "Waiting for its turn" in page(client, row)
    building.run_build(build.pk)
    for html in (page(client, row), page(buyer_client, row)):
        assert "ready since" in html
        assert "Keep it ready" not in html
        for sha256 in kept(build).values():
            assert f'data-copy="{sha256}"' in html
    assert len(kept(build)) == FILES
    section = client.get(f"{row.get_absolute_url()}/files").content.decode()
    assert section.lstrip().startswith('<section id="equipped-files"')
    assert "ready since" in section
    assert "<main" not in section


def test_a_running_build_is_followed_and_stopped(
    running: Build, row: EquippedModel, buyer_client: Client, stranger_client: Client
) -> None:
    for look, following in (("", 1), ("?look=1", 2)):
        html = page(buyer_client, row, look)
        assert "Writing the files" in html
        assert "4.3 MB of 7.1 MB" in html
        again = f"{row.get_absolute_url()}?look={following}#files"
        assert f'<noscript><meta http-equiv="refresh" content="3; url={again}">' in html
        assert 'data-say="Writing the files, 50 %"' in html
    moving = buyer_client.get(f"{row.get_absolute_url()}/build/progress").content.decode()
    assert "4.3 MB of 7.1 MB" in moving
    assert "<main" not in moving
    assert "Stop the build" not in page(stranger_client, row), "it is not theirs"
    stop = f"{row.get_absolute_url()}/build/stop"
    answer = stranger_client.post(stop, follow=True)
    assert "Only who started a build may stop it." in answer.content.decode()
    assert not Build.objects.get().cancelled
    assert "Stop the build" in page(buyer_client, row)
    buyer_client.post(stop)
    assert Build.objects.get().cancelled


@pytest.mark.parametrize(
    ("fields", "said", "button"),
    [
        ({"state": "failed", "error": "The build broke. Try again."}, "did not end well", "again"),
        ({"state": "cancelled"}, "Files that were whole by then are kept", "again"),
        ({"state": "evicted"}, "made room for others", "Keep it ready"),
    ],
)
def test_a_build_that_ended_says_why_and_can_be_started_again(
    row: EquippedModel,
    buyer: User,
    buyer_client: Client,
    fields: dict[str, str],
    said: str,
    button: str,
) -> None:
    build = start_build(row=row, user=buyer)
    Build.objects.update(finished=timezone.now(), **fields)
    html = page(buyer_client, row)
    assert said in html
    assert fields.get("error", "") in html
    assert ("Build again" if button == "again" else button) in html
    ended = buyer_client.get(f"{row.get_absolute_url()}/build/progress")
    assert (ended.status_code, ended["HX-Refresh"]) == (204, "true")
    buyer_client.post(f"{row.get_absolute_url()}/build")
    assert Build.objects.get().state == "queued"
    building.run_build(build.pk)
    assert "ready since" in page(buyer_client, row)


def test_a_refusal_is_read_in_ones_own_language(row: EquippedModel, buyer: User) -> None:
    client = client_of(buyer)
    with override_settings(ARMORY_BUILDS_BYTES=row.nbytes - 1):
        assert "This model has 0.0 GB, and this site keeps 0.0 GB" in page(client, row)
        assert "Keep it ready" not in page(client, row)
        build = Build.objects.create(equipped=row, requested_by=buyer)
        building.run_build(build.pk)
    build.refresh_from_db()
    assert build.refusal["params"] == {"size": row.nbytes / 1e9, "limit": (row.nbytes - 1) / 1e9}
    html = client.get(row.get_absolute_url(), headers={"accept-language": "zh-hant"})
    assert "這個模型有 0.0 GB" in html.content.decode()


def test_ones_own_equips_say_which_lie_ready(
    row: EquippedModel, buyer: User, buyer_client: Client
) -> None:
    mark = '<span class="tag tag-ok">ready</span>'

    def history() -> tuple[int, int]:
        with CaptureQueriesContext(connection) as queries:
            html = buyer_client.get("/bruno").content.decode()
        assert "Your equips" in html
        return html.count(mark), len(queries)

    count_equip(row, user=buyer, visit="")
    build = start_build(row=row, user=buyer)
    assert history()[0] == 0
    building.run_build(build.pk)
    found, before = history()
    assert found == 1
    others = [equip_expression(f"0.{n}*law", on="", user=buyer) for n in (1, 2, 3)]
    for other in others:
        count_equip(other, user=buyer, visit="")
        building.run_build(start_build(row=other, user=buyer).pk)
    assert history()[0] == 4
    assert history()[1] <= before + len(others), "each chip of a formula may take one"
    BuildFile.objects.filter(build=build).update(etag="of another kernel")
    assert history()[0] == 3
    with override_settings(ARMORY_BUILDS_BYTES=0):
        assert history()[0] == 0


def test_where_builds_are_off_nothing_is_said_of_them(
    row: EquippedModel, buyer: User, buyer_client: Client
) -> None:
    building.run_build(start_build(row=row, user=buyer).pk)
    assert "ready since" in page(buyer_client, row)
    with override_settings(ARMORY_BUILDS_BYTES=0):
        html = page(buyer_client, row)
        assert "Keep it ready" not in html
        assert "weights are computed while they leave" in html
        answer = buyer_client.post(f"{row.get_absolute_url()}/build", follow=True)
        assert "switched them off" in answer.content.decode()


def test_events_tell_how_a_build_goes_until_it_ends(running: Build, buyer: User) -> None:
    address = f"/equipped/{running.equipped.slug}/build/events"

    async def listen() -> list[tuple[str, dict[str, Any]]]:
        client, found = AsyncClient(), []
        await client.aforce_login(buyer)
        answer = await client.get(address)
        assert answer["Content-Type"] == "text/event-stream"
        async for piece in answer.streaming_content:  # type: ignore[union-attr]
            name = re.search(r"^event: (\w+)$", piece.decode(), re.M)
            data = re.search(r"^data: (.*)$", piece.decode(), re.M)
            if name is None or data is None:
                continue
            found.append((name[1], json.loads(data[1])))
            change: dict[str, Any] = {"stage": "storing"}
            if len(found) > 1:
                change = {"state": "done", "finished": timezone.now()}
            await sync_to_async(Build.objects.filter(pk=running.pk).update)(**change)
        return found

    found = asyncio.run(listen())
    assert [(name, data["label"]) for name, data in found[:2]] == [
        ("progress", "Writing the files"),
        ("progress", "Putting a file in its place"),
    ]
    name, last = found[-1]
    assert (name, last["ended"], last["said"]) == ("ended", True, "The files lie ready.")
    assert len(found) == 3, "nothing is said twice"


# --- who may ---------------------------------------------------------------------------------

ROUTES = [
    ("GET", ""),
    ("GET", "/files"),
    ("POST", "/build"),
    ("GET", "/build/progress"),
    ("GET", "/build/events"),
    ("POST", "/build/stop"),
    ("GET", ".zip"),
    ("GET", "/resolve/main/model.safetensors"),
]
ENDED = (200, 204, 302)


def status(client: Client, method: str, url: str) -> int:
    answer = client.generic(method, url)
    if getattr(answer, "streaming", False) and not answer.is_async:  # type: ignore[attr-defined]
        for _piece in answer.streaming_content:  # type: ignore[attr-defined]
            pass
    return answer.status_code


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_is_as_closed_as_its_recipe(
    law: Vector, owner: User, buyer: User, stranger: User, owner_client: Client, kind: str
) -> None:
    """Ready or not: what is private is absent, what takes a grant is refused without one."""
    assert law.current is not None
    row = equip_terms([(law.current, Decimal("0.5"))], user=owner)
    build = start_build(row=row, user=owner)
    building.run_build(build.pk)
    put(law, kind)
    people = {"owner": owner_client, "buyer": client_of(buyer)}
    others = {"stranger": client_of(stranger), "anonymous": Client()}
    for method, path in ROUTES:
        url = row.get_absolute_url() + path
        for who, client in people.items():
            assert status(client, method, url) in ENDED, (who, path)
        for who, client in others.items():
            got = status(client, method, url)
            if kind == "public":
                assert got in ENDED, (who, path)
            elif "/resolve/" in path and who == "anonymous":
                assert got == 401
            else:
                assert got == (404 if kind == "private" else 403), (who, path)
    build.refresh_from_db()
    assert build.requested_by == owner


def test_what_is_withdrawn_is_not_had_by_way_of_a_build(
    law: Vector, owner: User, owner_client: Client, stranger_client: Client
) -> None:
    assert law.current is not None
    row = equip_terms([(law.current, Decimal("0.5"))], user=owner)
    building.run_build(start_build(row=row, user=owner).pk)
    assert status(stranger_client, "GET", f"{row.get_absolute_url()}.zip") == 200
    Version.objects.filter(pk=law.current.pk).update(state=Version.State.WITHDRAWN)
    for method, path in ROUTES:
        assert status(stranger_client, method, row.get_absolute_url() + path) == 404, path
        assert status(owner_client, method, row.get_absolute_url() + path) in ENDED, path


def test_there_is_no_build_before_one_is_started(row: EquippedModel, owner_client: Client) -> None:
    for method, path in (("GET", "progress"), ("GET", "events"), ("POST", "stop")):
        assert status(owner_client, method, f"{row.get_absolute_url()}/build/{path}") == 404


def test_a_verb_opened_as_a_page_does_nothing(row: EquippedModel, owner_client: Client) -> None:
    for path in ("build", "build/stop"):
        answer = owner_client.get(f"{row.get_absolute_url()}/{path}")
        assert answer["Location"] == f"{row.get_absolute_url()}#files"
    assert not Build.objects.exists()
    assert owner_client.post(f"{row.get_absolute_url()}/files").status_code == 405


# --- what it costs ---------------------------------------------------------------------------


def test_the_page_costs_the_same_whatever_the_number_of_files(
    row: EquippedModel, owner: User, tmp_path: Path
) -> None:
    one = add_foundation(
        write_sharded(tmp_path / "one", dict(list(state(7).items())[:2]), 1),
        repo_id="lab/one",
        card="---\nlicense: mit\n---\n",
    )
    for seed, name in ((8, "first"), (9, "second")):
        folder = write_sharded(tmp_path / name, dict(list(state(seed).items())[:2]), 1)
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# X\n")
        add_vector(folder, repo_id=f"olive/{name}", foundation=one, owner=owner)
    small = equip_expression("0.5*first + 0.25*second", on="lab/one", user=owner)

    def cost(of: EquippedModel) -> int:
        page(Client(), of)  # what has been opened lately stays open for a while
        with CaptureQueriesContext(connection) as queries:
            page(Client(), of)
        return len(queries)

    assert cost(row) == cost(small)
    for each in (row, small):
        build = start_build(row=each, user=owner)
        building.run_build(build.pk)
    assert cost(row) == cost(small)
