"""Who is let in: what owner, buyer, stranger and nobody see of private and gated vectors."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from PIL import Image

from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from tests.people import client_of
from tests.vectors.test_shop import folder_with
from vectors import sharing
from vectors.access import has_grant
from vectors.errors import Refusal
from vectors.importing import add_foundation, add_vector
from vectors.models import Access, AccessRequest, Foundation, Grant, Vector

pytestmark = pytest.mark.django_db(transaction=True)

PAGE, SETTINGS = "/olive/law", "/olive/law/settings"
FILE = "/olive/law/resolve/main/model.safetensors"
TITLE = "法律推理"


@pytest.fixture
def tiny(tmp_path: Path) -> Foundation:
    folder = folder_with(tmp_path / "tiny", make_state(torch.float32))
    return add_foundation(folder, repo_id="lab/tiny", card="")


@pytest.fixture
def law(tiny: Foundation, owner: User, tmp_path: Path) -> Vector:
    folder = folder_with(tmp_path / "law", tuned(make_state(torch.float32), 1))
    version = add_vector(folder, repo_id="olive/law", foundation=tiny, owner=owner)
    assert version.vector is not None
    return version.vector


@pytest.fixture
def clients(
    owner_client: Client, buyer_client: Client, stranger_client: Client
) -> dict[str, Client]:
    return {
        "owner": owner_client,
        "buyer": buyer_client,
        "stranger": stranger_client,
        "nobody": Client(),
    }


def statuses(clients: dict[str, Client], path: str) -> dict[str, int]:
    return {name: client.get(path).status_code for name, client in clients.items()}


def equip(client: Client) -> str:
    """Press Equip; where it leads."""
    fields = {"vector": "olive/law", "coefficient": "1", "back": "/vectors"}
    return client.post("/equip", fields)["Location"].split("?")[0]


def cover(client: Client) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "PNG")
    client.post(f"{PAGE}/cover", {"cover": SimpleUploadedFile("cover.png", out.getvalue())})


def test_a_private_vector_is_for_its_owner_and_those_let_in(
    law: Vector, buyer: User, clients: dict[str, Client]
) -> None:
    cover(clients["owner"])
    law.refresh_from_db()
    made = equip(clients["stranger"])
    sharing.set_visibility(law, to="private")
    sharing.give(law, user=buyer)
    for path in (PAGE, FILE, f"/covers/{law.cover_id}.webp", f"/covers/{law.cover_small_id}.webp"):
        seen = statuses(clients, path)
        assert (seen["owner"], seen["buyer"]) == (200, 200), path
        assert seen["stranger"] == 404, path
        assert seen["nobody"] in (401, 404), path
    assert statuses(clients, made) == {"owner": 200, "buyer": 200, "stranger": 404, "nobody": 404}
    assert equip(clients["buyer"]) == made
    assert equip(clients["stranger"]) == equip(clients["nobody"]) == "/vectors"
    assert "There is no vector called" in clients["stranger"].get("/vectors").content.decode()
    for path in ("/", "/vectors?language=zh", "/lab/tiny", "/foundations", "/api/models"):
        page = clients["stranger"].get(path).content.decode()
        assert TITLE not in page, path
        assert "olive/law" not in page, path
    for name, known in (("owner", True), ("buyer", True), ("stranger", False), ("nobody", False)):
        assert (TITLE in clients[name].get("/olive").content.decode()) is known, name
    assert TITLE in clients["buyer"].get("/bruno").content.decode(), "they were let in"
    assert "Closed" in clients["stranger"].get("/sten").content.decode(), "a recipe of before"
    assert TITLE not in clients["stranger"].get("/sten").content.decode()
    assert clients["stranger"].post(f"{PAGE}/like", {"liked": "1"}).status_code == 404
    assert clients["stranger"].post(f"{PAGE}/ask").status_code == 404


def test_a_private_twin_name_is_not_told_by_an_ambiguity(
    law: Vector, tiny: Foundation, buyer: User, tmp_path: Path, clients: dict[str, Client]
) -> None:
    """A bare name that fits a public and a private vector means the public one to strangers."""
    folder = folder_with(tmp_path / "other", tuned(make_state(torch.float32), 2))
    add_vector(folder, repo_id="bruno/law", foundation=tiny, owner=buyer)
    sharing.set_visibility(law, to="private")
    fields = {"vector": "law", "coefficient": "1"}
    assert clients["stranger"].post("/equip", fields)["Location"].startswith("/equipped/")
    page = clients["owner"].post("/equip", fields, follow=True).content.decode()
    assert "olive/law, bruno/law" in page


def test_a_gated_vector_shows_what_it_is_and_how_to_get_it(
    law: Vector, buyer: User, clients: dict[str, Client]
) -> None:
    made = equip(clients["stranger"])
    sharing.set_access(law, to="manual")
    sharing.give(law, user=buyer)
    assert statuses(clients, PAGE) == dict.fromkeys(clients, 200)
    assert statuses(clients, FILE) == {"owner": 200, "buyer": 200, "stranger": 403, "nobody": 401}
    pages = {name: client.get(PAGE).content.decode() for name, client in clients.items()}
    for name, may in (("owner", True), ("buyer", True), ("stranger", False), ("nobody", False)):
        assert ('action="/equip"' in pages[name]) is may, name
        assert (f'href="{FILE.replace("main", "v1")}"' in pages[name]) is may, name
        assert ("Get access" in pages[name]) is not may, name
        assert "model.safetensors" in pages[name], name
    assert "Sign in to ask" in pages["nobody"]
    # A recipe of before closes, says why, and opens again.
    assert statuses(clients, made) == {"owner": 200, "buyer": 200, "stranger": 403, "nobody": 403}
    assert "olive/law" in clients["stranger"].get(made).content.decode()
    assert clients["stranger"].get(f"{made}.zip").status_code == 403
    assert equip(clients["stranger"]) == "/vectors"
    assert "on request" in clients["nobody"].get("/vectors").content.decode()
    sharing.set_access(law, to="open")
    assert clients["stranger"].get(made).status_code == 200


def test_only_usable_models_are_offered_as_targets(
    law: Vector, tiny: Foundation, owner: User, tmp_path: Path, clients: dict[str, Client]
) -> None:
    folder = folder_with(tmp_path / "med", tuned(make_state(torch.float32), 2))
    add_vector(folder, repo_id="olive/med", foundation=tiny, owner=owner)
    sharing.set_access(law, to="paid")
    option = '<option value="olive/law">'
    assert option in clients["owner"].get("/olive/med").content.decode()
    assert option not in clients["stranger"].get("/olive/med").content.decode()


def test_to_ask_and_to_be_answered(law: Vector, buyer: User, clients: dict[str, Client]) -> None:
    sharing.set_access(law, to="manual")
    assert clients["nobody"].post(f"{PAGE}/ask").status_code == 302
    assert not AccessRequest.objects.exists()
    clients["buyer"].post(f"{PAGE}/ask", {"reason": "for my  thesis"})
    assert "has not answered yet" in clients["buyer"].get(PAGE).content.decode()
    asked = AccessRequest.objects.get()
    assert (asked.user, asked.state, asked.reason) == (buyer, "pending", "for my thesis")
    assert "1 asks for access" in clients["owner"].get(PAGE).content.decode()
    assert "asks for access" not in clients["stranger"].get(PAGE).content.decode()
    assert "for my thesis" in clients["owner"].get(SETTINGS).content.decode()
    row = {"request": asked.pk}
    clients["owner"].post(f"{SETTINGS}/requests", {**row, "answer": "accept"})
    assert has_grant(buyer, law)
    assert clients["buyer"].get(FILE).status_code == 200
    clients["owner"].post(f"{SETTINGS}/take-back", {"grant": Grant.objects.get().pk})
    assert not has_grant(buyer, law)
    assert "has declined" in clients["buyer"].get(PAGE).content.decode()
    clients["buyer"].post(f"{PAGE}/ask")
    asked.refresh_from_db()
    assert asked.state == "rejected"
    clients["owner"].post(f"{SETTINGS}/requests", {**row, "answer": "accept"})
    assert has_grant(buyer, law)


def test_where_asking_is_enough_it_is_given_at_once(
    law: Vector, buyer: User, stranger: User
) -> None:
    sharing.set_access(law, to="manual")
    sharing.ask_access(law, user=stranger)
    assert not has_grant(stranger, law)
    sharing.set_access(law, to="auto")
    assert has_grant(stranger, law), "who was waiting is let in"
    assert sharing.ask_access(law, user=buyer).state == "accepted"
    assert Grant.objects.get(user=buyer).origin == "asked"
    sharing.reject(AccessRequest.objects.get(user=buyer))
    assert not has_grant(buyer, law)
    with pytest.raises(Refusal, match="declined"):
        sharing.ask_access(law, user=buyer)


def test_what_was_paid_for_is_not_taken_back(law: Vector, buyer: User) -> None:
    sharing.give(law, user=buyer)
    grant = sharing.let_in(law, user=buyer, origin="bought")
    assert Grant.objects.get().origin == "bought"
    for act in (
        lambda: sharing.take_back(grant),
        lambda: sharing.reject(AccessRequest.objects.get()),
        lambda: sharing.reopen(AccessRequest.objects.get()),
    ):
        with pytest.raises(Refusal, match="paid"):
            act()
        assert has_grant(buyer, law)
        assert AccessRequest.objects.get().state == "accepted"


def test_settings_change_and_give(law: Vector, buyer: User, clients: dict[str, Client]) -> None:
    equip(clients["stranger"])
    page = clients["owner"].get(SETTINGS).content.decode()
    assert "Somebody has equipped it" in page
    owner = clients["owner"]
    assert owner.post(SETTINGS, {"visibility": "private", "access": "paid"}).status_code == 302
    law.refresh_from_db()
    assert (law.visibility, law.access) == ("private", "paid")
    assert owner.post(SETTINGS, {"visibility": "secret", "access": "open"}).status_code == 422
    law.refresh_from_db()
    assert (law.visibility, law.access) == ("private", "paid")
    for name, sentence in (
        ("nobody-here", "Nobody here is called"),
        ("olive", "is your own"),
    ):
        answer = owner.post(f"{SETTINGS}/give", {"username": name})
        assert answer["Location"] == f"{SETTINGS}?username={name}#let-in"
        page = owner.get(answer["Location"]).content.decode()
        assert sentence in page
        assert f'value="{name}"' in page
    assert owner.post(f"{SETTINGS}/give", {"username": "BRUNO"}).status_code == 302
    assert has_grant(buyer, law)
    again = owner.post(f"{SETTINGS}/give", {"username": "bruno"}, follow=True)
    assert "has access to olive/law already" in again.content.decode()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (SETTINGS, {"visibility": "private", "access": "open"}),
        (f"{SETTINGS}/give", {"username": "sten"}),
        (f"{SETTINGS}/take-back", {"grant": "1"}),
        (f"{SETTINGS}/requests", {"request": "1", "answer": "accept"}),
    ],
)
def test_the_settings_are_their_owners(
    law: Vector, buyer: User, clients: dict[str, Client], path: str, fields: dict[str, str]
) -> None:
    sharing.set_access(law, to="manual")
    sharing.give(law, user=buyer)
    sharing.ask_access(law, user=User.objects.get(username="sten"))
    before = list(Grant.objects.values()), list(AccessRequest.objects.values())
    for name in ("buyer", "stranger"):
        assert clients[name].post(path, fields).status_code == 404
        assert clients[name].get(SETTINGS).status_code == 404
    answer = clients["nobody"].post(path, fields)
    assert answer["Location"].startswith("/accounts/login/")
    assert (list(Grant.objects.values()), list(AccessRequest.objects.values())) == before
    law.refresh_from_db()
    assert (law.visibility, law.access) == ("public", Access.MANUAL)


def test_rows_of_another_vector_cannot_be_named(
    law: Vector, tiny: Foundation, buyer: User, stranger: User, tmp_path: Path
) -> None:
    """Who owns some vector does not answer for another's."""
    folder = folder_with(tmp_path / "mine", tuned(make_state(torch.float32), 2))
    add_vector(folder, repo_id="sten/mine", foundation=tiny, owner=stranger)
    sharing.set_access(law, to="manual")
    asked = sharing.ask_access(law, user=buyer)
    client = client_of(stranger)
    fields = {"request": asked.pk, "answer": "accept"}
    assert client.post("/sten/mine/settings/requests", fields).status_code == 404
    grant = sharing.let_in(law, user=buyer, origin="given")
    assert client.post("/sten/mine/settings/take-back", {"grant": grant.pk}).status_code == 404
    assert has_grant(buyer, law)
