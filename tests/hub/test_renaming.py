"""A renamed vector: its former names lead to it, and to nobody else's."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from merging.services import equip_expression
from merging.spelling import read_id
from tests.hub.test_pushing import (
    CARD,
    Hub,
    hub_of,
    inline,
    inspect_all,
    message,
    tiny,
    weights,
)
from vectors import sharing
from vectors.models import Claim, FormerName, Foundation, Grant, Vector, Version, Visibility
from vectors.tensorfile.errors import Problem

__all__ = ["tiny"]  # a fixture
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def olive(tiny: Foundation, owner: User) -> Hub:
    """The owner of olive/poems, which has a version."""
    hub = hub_of(owner)
    hub.create()
    publish(hub, 1)
    return hub


def publish(hub: Hub, seed: int) -> str:
    commit = hub.push({"model.safetensors": weights(seed), "README.md": CARD})
    inspect_all()
    return commit


def move(hub: Hub, old: str, new: str) -> Any:
    body = {"fromRepo": f"olive/{old}", "toRepo": f"olive/{new}", "type": "model"}
    return hub.ask("POST", "/api/repos/move", body)


@pytest.fixture
def verse(olive: Hub) -> Vector:
    """olive/verse, which was olive/poems."""
    assert move(olive, "poems", "verse").status_code == 200
    return Vector.objects.get()


READ = (
    "/api/models/olive/{}",
    "/api/models/olive/{}/revision/main",
    "/api/models/olive/{}/tree/main?recursive=true&expand=1",
    "/api/models/olive/{}/refs",
    "/api/models/olive/{}/commits/v1",
    "/olive/{}/resolve/main/model.safetensors",
    "/olive/{}/resolve/v1/README.md?download=1",
)


@pytest.mark.parametrize("address", READ)
def test_who_reads_by_a_former_name_is_sent_on(verse: Vector, client: Client, address: str) -> None:
    for method in (client.get, client.head):
        for name in ("poems", "Poems"):
            answer = method(address.format(name))
            assert (answer.status_code, answer["Location"]) == (307, address.format("verse"))
            assert method(answer["Location"]).status_code == 200


def test_pages_are_sent_on(verse: Vector, client: Client, owner_client: Client) -> None:
    answer = client.get("/olive/poems?version=v1")
    assert (answer.status_code, answer["Location"]) == (302, "/olive/verse?version=v1")
    assert client.get("/olive/verse").status_code == 200
    assert client.get("/olive/poems/tree/main", follow=True).status_code == 200
    page = owner_client.get("/olive/poems/settings")
    assert "/olive/verse/settings" in page.content.decode()
    liked = owner_client.post("/olive/poems/like", {"liked": "1"})
    assert liked["Location"] == "/olive/verse", "a form that was open all the while"
    assert Vector.objects.get().likes == 1


def test_pushing_to_a_former_name_goes_to_the_vector(olive: Hub, verse: Vector, sten: Hub) -> None:
    assert olive.repo == "olive/poems"
    done = olive.commit(inline("README.md", CARD + "\nMore.\n"))
    assert done.status_code == 200
    assert "/olive/verse/commit/" in done.json()["commitUrl"]
    assert [v.number for v in verse.versions.order_by("pk")] == [1, 2]
    publish(olive, 3)
    assert verse.versions.count() == 3, "over LFS, too"
    assert message(sten.commit(inline("README.md", "x")), 403)
    gone = olive.ask("DELETE", "/api/repos/delete", {"name": "poems", "type": "model"})
    assert "olive/poems is called olive/verse now" in message(gone, 404)
    assert Vector.objects.exists(), "what is deleted has to be named as it is"


@pytest.fixture
def sten(stranger: User) -> Hub:
    return hub_of(stranger)


def test_names_on_names_lead_to_the_newest(olive: Hub, verse: Vector, client: Client) -> None:
    move(olive, "verse", "songs")
    for name in ("poems", "verse"):
        assert client.get(f"/api/models/olive/{name}")["Location"] == "/api/models/olive/songs"
    move(olive, "songs", "poems")
    assert client.get("/api/models/olive/poems").status_code == 200
    assert client.get("/api/models/olive/verse")["Location"] == "/api/models/olive/poems"
    assert not FormerName.objects.filter(name="poems").exists()


def test_a_former_name_is_its_owners_and_is_taken_by_publishing(
    olive: Hub, verse: Vector, sten: Hub, client: Client
) -> None:
    assert "your own name" in message(sten.create("poems", organization="olive"), 403)
    assert olive.create("poems").status_code == 200
    assert client.get("/olive/poems")["Location"] == "/olive/verse", "nothing is there yet"
    assert olive.ask("GET", "/api/models/olive/poems").json()["id"] == "olive/poems"
    publish(olive, 2)
    assert not Claim.objects.exists()
    assert client.get("/api/models/olive/poems").json()["id"] == "olive/poems"
    assert client.get("/olive/poems").status_code == 200
    assert not FormerName.objects.exists()
    assert Vector.objects.count() == 2


def test_a_rename_onto_a_former_name_ends_it(olive: Hub, verse: Vector, client: Client) -> None:
    olive.create("other")
    publish(hub_of(verse.owner, "olive/other"), 2)
    assert move(olive, "other", "poems").status_code == 200
    assert client.get("/api/models/olive/poems").json()["id"] == "olive/poems"
    assert client.get("/api/models/olive/other")["Location"] == "/api/models/olive/poems"


def test_a_former_name_tells_no_more_than_the_vector(
    verse: Vector, client: Client, stranger: User, sten: Hub, buyer: User
) -> None:
    sharing.set_visibility(verse, to=Visibility.PRIVATE)
    never = client.get("/api/models/olive/never")
    hidden = client.get("/api/models/olive/poems")
    assert (hidden.status_code, hidden["X-Error-Code"]) == (401, never["X-Error-Code"])
    assert client.get("/olive/poems").status_code == 404
    assert sten.ask("GET", "/api/models/olive/poems").status_code == 404
    assert sten.commit().status_code == 404
    with pytest.raises(Problem, match="no vector called"):
        equip_expression("olive/poems", on="", user=stranger)
    Grant.objects.create(user=buyer, vector=verse)
    assert hub_of(buyer).ask("GET", "/api/models/olive/poems").status_code == 307


def test_recipes_by_a_former_name_are_the_same_recipes(verse: Vector, owner: User) -> None:
    now = equip_expression("0.5 * olive/verse", on="", user=owner)
    for text in (
        "0.5 * olive/poems",
        "0.5 * Olive/Poems",
        "0.5 * olive/VERSE",
        "0.5 * poems",
        "0.5 * olive/poems@v1",
    ):
        assert equip_expression(text, on="", user=owner) == now
    assert read_id("tiny_plus_0.5_poems", owner) == now
    assert read_id("tiny_plus_0.5_olive.poems", owner) == now
    term = now.terms.get()
    assert (term.version, Decimal(term.coefficient)) == (verse.current, Decimal("0.5"))


def test_a_deleted_vector_leaves_no_name(olive: Hub, verse: Vector, client: Client) -> None:
    body = {"name": "verse", "organization": "olive", "type": "model"}
    assert olive.ask("DELETE", "/api/repos/delete", body).status_code == 200
    assert not FormerName.objects.exists()
    assert not Version.objects.exists()
    assert client.get("/olive/poems").status_code == 404
