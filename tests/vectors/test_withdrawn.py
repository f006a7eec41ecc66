"""A withdrawn version: off the shelves for everybody, and kept by who had a right to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from django.contrib.auth.models import AnonymousUser, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from merging.services import equip_expression, may_use
from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from tests.people import client_of, person
from tests.vectors.test_shop import folder_with
from vectors import sharing
from vectors.access import may_equip, may_read, may_see
from vectors.importing import add_foundation, add_vector
from vectors.models import Access, Foundation, Grant, Vector, Version, Visibility
from vectors.services import restore, withdraw
from vectors.tensorfile.errors import Problem

pytestmark = pytest.mark.django_db(transaction=True)

KINDS = {
    "open": (Visibility.PUBLIC, Access.OPEN),
    "private": (Visibility.PRIVATE, Access.OPEN),
    "asked": (Visibility.PUBLIC, Access.AUTO),
    "paid": (Visibility.PUBLIC, Access.PAID),
}
WEIGHTS = "/olive/law/resolve/{}/model.safetensors"


@pytest.fixture
def tiny(tmp_path: Path) -> Foundation:
    folder = folder_with(tmp_path / "tiny", make_state(torch.float32))
    return add_foundation(folder, repo_id="lab/tiny", card="---\nlicense: mit\n---\n# Tiny\n")


def publish(tiny: Foundation, owner: User, folder: Path, seed: int) -> Version:
    folder_with(folder, tuned(make_state(torch.float32), seed))
    return add_vector(folder, repo_id="olive/law", foundation=tiny, owner=owner)


@pytest.fixture
def law(tiny: Foundation, owner: User, tmp_path: Path) -> Version:
    return publish(tiny, owner, tmp_path / "1", 1)


@pytest.fixture
def late(db: None) -> User:
    """Who is let in when it is withdrawn already."""
    return person("lena")


def vector_of(version: Version) -> Vector:
    assert version.vector is not None
    return version.vector


def body(answer: Any) -> bytes:
    return b"".join(answer.streaming_content)


@pytest.mark.parametrize("kind", KINDS)
def test_who_had_a_right_keeps_it_and_nobody_new_gets_it(
    law: Version, owner: User, buyer: User, late: User, stranger: User, kind: str
) -> None:
    vector = vector_of(law)
    vector.visibility, vector.access = KINDS[kind]
    vector.save()
    before = Grant.objects.create(user=buyer, vector=vector, origin=Grant.Origin.BOUGHT)
    row = equip_expression("0.5 * olive/law", on="", user=buyer)
    withdraw(law)
    Grant.objects.create(user=late, vector=vector)
    law = Version.objects.get()
    for user, keeps in (
        (owner, True), (buyer, True), (late, False), (stranger, False), (AnonymousUser(), False),
    ):  # fmt: skip
        assert may_see(user, law) == may_read(user, law) == may_equip(user, law) == keeps, user
        assert may_use(row, user) == keeps
        assert Vector.objects.visible_to(user).exists() == keeps
        client = client_of(user) if isinstance(user, User) else Client()
        page = client.get("/olive/law")
        assert page.status_code == (200 if keeps else 404)
        for revision in ("main", "v1", law.commit):
            answer = client.get(WEIGHTS.format(revision))
            assert answer.status_code == (200 if keeps else 401 if user.is_anonymous else 404)
            if keeps:
                assert len(body(answer)) == law.files.get(path="model.safetensors").size
        assert client.get(f"{row.get_absolute_url()}.zip").status_code == (200 if keeps else 404)
        found = client.get("/api/models", {"search": "law"}).json()
        assert [each["id"] for each in found] == (["olive/law"] if keeps else [])
        shelves = client.get("/vectors?q=law").content.decode() + client.get("/").content.decode()
        assert "/olive/law" not in shelves, "nobody finds it on a shelf"
        if keeps:
            assert "This version is withdrawn" in page.content.decode()
        else:
            with pytest.raises(Problem, match="no vector called"):
                equip_expression("olive/law", on="", user=user)
    let_in = client_of(buyer).get("/bruno").content.decode()
    assert 'href="/olive/law"' in let_in
    assert re.search(r"</svg>\s*withdrawn</span>", let_in)
    assert not Vector.objects.published().exists()
    before.delete()
    assert not may_see(buyer, law)


def test_nobody_asks_for_what_is_withdrawn(law: Version, stranger_client: Client) -> None:
    sharing.set_access(vector_of(law), to=Access.AUTO)
    withdraw(law)
    assert stranger_client.post("/olive/law/ask").status_code == 404
    assert not Grant.objects.exists()


def test_of_several_versions_each_keeps_those_they_had(
    law: Version, tiny: Foundation, owner: User, buyer: User, late: User, tmp_path: Path
) -> None:
    sharing.set_access(vector_of(law), to=Access.AUTO)
    sharing.ask_access(vector_of(law), user=buyer)
    second = publish(tiny, owner, tmp_path / "2", 2)
    withdraw(law)
    sharing.ask_access(vector_of(second), user=late)
    law.refresh_from_db()
    assert [may_read(buyer, each) for each in (law, second)] == [True, True]
    assert [may_read(late, each) for each in (law, second)] == [False, True]
    assert client_of(late).get(WEIGHTS.format("v1")).status_code == 404
    names = [
        client_of(user).get("/api/models/olive/law/refs").json()["tags"] for user in (buyer, late)
    ]
    assert [[tag["name"] for tag in tags] for tags in names] == [["v2", "v1"], ["v2"]]
    assert client_of(buyer).get("/olive/law?version=v1").status_code == 200


def test_what_is_put_back_is_as_it_was(law: Version, buyer: User, late: User) -> None:
    sharing.set_visibility(vector_of(law), to=Visibility.PRIVATE)
    Grant.objects.create(user=buyer, vector=vector_of(law))
    withdraw(law)
    Grant.objects.create(user=late, vector=vector_of(law))
    restore(law)
    law.refresh_from_db()
    assert law.withdrawn is None
    assert may_read(late, law)
    withdraw(law)
    assert may_read(late, Version.objects.get()), "by now they had it"


def test_a_page_asks_no_more_for_more_withdrawn_versions(
    law: Version, tiny: Foundation, owner: User, buyer: User, tmp_path: Path
) -> None:
    Grant.objects.create(user=buyer, vector=vector_of(law))
    client, counts = client_of(buyer), []
    for seed in (2, 3, 4):
        older = vector_of(law).versions.order_by("-number")[0]
        publish(tiny, owner, tmp_path / str(seed), seed)
        withdraw(older)
        for address in ("/olive/law", "/api/models/olive/law/refs"):
            client.get(address)
            with CaptureQueriesContext(
                connection,
            ) as asked:
                assert client.get(address).status_code == 200
            counts.append(len(asked))
    assert counts[:2] == counts[2:4] == counts[4:]
