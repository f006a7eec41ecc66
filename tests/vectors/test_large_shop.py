"""Pages that look at all vectors of a foundation: as many questions to the database for few
vectors as for many, and the first cards of an order are the first of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from safetensors.torch import save_file

from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from vectors.importing import add_foundation, add_vector
from vectors.models import Foundation, Vector
from vectors.querysets import SORTS

pytestmark = pytest.mark.django_db(transaction=True)

PAGES = ("/olive/v1", "/vectors", "/vectors?q=olive&sort=liked", "/lab/tiny")


@pytest.fixture
def tiny(tmp_path: Path) -> Foundation:
    (tmp_path / "tiny").mkdir()
    save_file(make_state(torch.float32), tmp_path / "tiny" / "model.safetensors")
    return add_foundation(tmp_path / "tiny", repo_id="lab/tiny")


def publish(numbers: range, tiny: Foundation, owner: User, folder: Path) -> None:
    for number in numbers:
        place = folder / f"v{number}"
        place.mkdir()
        save_file(tuned(make_state(torch.float32), number), place / "model.safetensors")
        add_vector(place, repo_id=f"olive/v{number}", foundation=tiny, owner=owner)


def questions(client: Client, address: str) -> int:
    assert client.get(address).status_code == 200  # what is read once in a process
    with CaptureQueriesContext(connection) as queries:
        assert client.get(address).status_code == 200
    return len(queries)


def test_more_vectors_need_no_more_questions(
    tiny: Foundation, owner: User, stranger_client: Client, client: Client, tmp_path: Path
) -> None:
    visitors = (client, stranger_client)
    publish(range(1, 4), tiny, owner, tmp_path)
    few = {(who, page): questions(who, page) for who in visitors for page in PAGES}
    publish(range(4, 12), tiny, owner, tmp_path)
    assert {(who, page): questions(who, page) for who in visitors for page in PAGES} == few


def test_first_cards_are_the_first_of_the_order(
    tiny: Foundation, owner: User, tmp_path: Path
) -> None:
    publish(range(1, 6), tiny, owner, tmp_path)
    for number, (equips, likes) in enumerate(((2, 0), (2, 5), (0, 5), (9, 1), (2, 3)), start=1):
        Vector.objects.filter(name=f"v{number}").update(equips=equips, likes=likes)
    public = Vector.objects.published()
    for sort in SORTS:
        expected = list(public.sorted_by(sort)[:3])
        assert list(public.first_cards(sort, 3)) == expected
    assert [each.name for each in public.first_cards("equipped", 3)] == ["v4", "v5", "v2"]
    Vector.objects.filter(name="v4").update(visibility="private")
    assert [each.name for each in public.first_cards("equipped", 2)] == ["v5", "v2"]
