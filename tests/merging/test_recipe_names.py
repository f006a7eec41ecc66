"""Equal recipes are one recipe, and it names nobody's private vector to others."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client

from merging.models import EquippedModel
from merging.services import equip_expression
from tests.merging.build_shop import state, stock, write_sharded
from tests.people import client_of
from vectors.importing import add_vector
from vectors.models import Vector, Visibility

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def row(tmp_path: Path, owner: User, buyer: User) -> EquippedModel:
    """Olive's recipe of olive/law, which is private; bruno/plain holds the very same bytes."""
    wide, _vectors = stock(tmp_path, owner)
    twin = write_sharded(tmp_path / "plain", state(1))
    (twin / "README.md").write_text("---\nlicense: mit\n---\n# Plain\n")
    Vector.objects.filter(name="law").update(visibility=Visibility.PRIVATE)
    row = equip_expression("0.5*olive/law + olive/mood", on="", user=owner)
    add_vector(twin, repo_id="bruno/plain", foundation=wide, owner=buyer)
    return row


def pages(client: Client, row: EquippedModel) -> list[str]:
    """Everything that says what the recipe is made of."""
    addresses = [
        row.get_absolute_url(),
        f"/{row.repo_id}/resolve/main/README.md",
        f"/{row.repo_id}/resolve/main/recipe.yaml",
        f"/api/models/{row.repo_id}?expand=cardData",
    ]
    texts = []
    for address in addresses:
        answer = client.get(address)
        assert answer.status_code == 200, address
        texts.append(answer.getvalue().decode())
    return texts


def test_a_public_twin_opens_no_recipe_that_names_a_private_vector(
    row: EquippedModel, owner_client: Client, client: Client, stranger: User
) -> None:
    assert all("olive/law" in text for text in pages(owner_client, row)[:2])
    for each in (client, client_of(stranger)):
        assert each.get(row.get_absolute_url()).status_code == 404
        assert each.get(f"/api/models/{row.repo_id}").status_code in (401, 404)


def test_who_equips_the_twin_gives_the_recipe_its_name(
    row: EquippedModel, owner_client: Client, client: Client, stranger: User
) -> None:
    pages(owner_client, row)  # listed once already
    same = equip_expression("0.5*bruno/plain + olive/mood", on="", user=stranger)
    assert same == row
    for each in (client, client_of(stranger), owner_client):
        texts = pages(each, row)
        assert not any("olive/law" in text for text in texts)
        assert all("bruno/plain" in text for text in texts[:2])


def test_a_private_twin_of_ones_own_leads_to_the_recipe(
    row: EquippedModel, buyer: User, stranger: User
) -> None:
    Vector.objects.filter(name="plain").update(visibility=Visibility.PRIVATE)
    assert equip_expression("0.5*bruno/plain + olive/mood", on="", user=buyer) == row
    assert client_of(buyer).get(row.get_absolute_url()).status_code == 200
    assert client_of(stranger).get(row.get_absolute_url()).status_code == 404


def test_equipping_again_under_private_names_changes_no_public_name(
    row: EquippedModel, owner: User, client: Client
) -> None:
    equip_expression("0.5*bruno/plain + olive/mood", on="", user=owner)
    equip_expression("0.5*olive/law + olive/mood", on="", user=owner)
    assert "bruno/plain" in pages(client, row)[0]
