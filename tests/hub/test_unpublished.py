"""Names without a publication and incomplete pushes: listed for their owner, released, expired."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from tests.hub.test_pushing import CARD, Hub, hub_of, inspect_all, tiny, version_of, weights
from vectors import claims
from vectors.models import Blob, Claim, Foundation, RepositoryFile, Upload, Vector, Version

__all__ = ["tiny"]  # a fixture
pytestmark = pytest.mark.django_db(transaction=True)

PAGE, RELEASE = "/settings/unpublished", "/settings/unpublished/release"


@pytest.fixture
def olive(tiny: Foundation, owner: User) -> Hub:
    """The owner, with the empty repository olive/poems."""
    hub = hub_of(owner)
    assert hub.create().status_code == 200
    return hub


def back(days: int, *rows: Any) -> None:
    """Set back when everything of these kinds was made."""
    for model in rows:
        model.objects.update(created=timezone.now() - timedelta(days=days))


def test_the_account_lists_what_is_not_published(
    olive: Hub, owner_client: Client, stranger_client: Client, client: Client
) -> None:
    commit = olive.push({"README.md": CARD})
    html = owner_client.get(PAGE).content.decode()
    assert "<b>olive/poems</b>" in html
    assert f'href="/drafts/{version_of(commit).pk}"' in html
    assert "<code>model.safetensors</code> is missing" in html
    assert "90 days" in html
    assert 'href="/settings/unpublished"' in owner_client.get("/").content.decode()
    assert "olive/poems" not in stranger_client.get(PAGE).content.decode()
    assert client.get(PAGE)["Location"].startswith("/accounts/login/")
    olive.push({"model.safetensors": weights(1)})
    inspect_all()
    assert "olive/poems" not in owner_client.get(PAGE).content.decode(), "it is published now"


def test_the_list_asks_the_database_no_more_for_more_rows(
    olive: Hub, owner_client: Client, django_assert_max_num_queries: Any
) -> None:
    def queries() -> int:
        with django_assert_max_num_queries(40) as asked:
            owner_client.get(PAGE)
        return len(asked)

    olive.push({"README.md": CARD})
    before = queries()
    for name in ("a", "b", "c"):
        olive.create(name)
        hub_of(User.objects.get(username="olive"), f"olive/{name}").push({"README.md": CARD})
    assert queries() == before


def test_a_name_is_released_with_what_was_pushed_to_it(
    olive: Hub, owner_client: Client, stranger_client: Client
) -> None:
    olive.push({"README.md": CARD, "config.json": "{}"})
    claim = Claim.objects.get()
    held = set(RepositoryFile.objects.filter(version__claim=claim).values_list("blob", flat=True))
    assert stranger_client.post(RELEASE, {"name": claim.pk}).status_code == 404
    assert Client().post(RELEASE, {"name": claim.pk}).status_code == 302
    assert Claim.objects.exists()
    answer = owner_client.post(RELEASE, {"name": claim.pk}, follow=True)
    assert answer.redirect_chain == [(PAGE, 302)]
    assert "olive/poems is free again." in answer.content.decode()
    assert not Claim.objects.exists()
    assert not Version.objects.exists()
    assert not Blob.objects.filter(pk__in=held).exists()
    assert olive.create().status_code == 200
    for wrong in ({"name": "x"}, {"push": "-1"}, {}):
        assert owner_client.post(RELEASE, wrong).status_code == 404


def test_one_incomplete_push_is_discarded_and_nothing_else(
    olive: Hub, owner_client: Client, stranger_client: Client
) -> None:
    done = version_of(olive.push({"README.md": CARD, "model.safetensors": weights(1)}))
    inspect_all()
    push = version_of(olive.push({"model.safetensors.index.json": index("b.safetensors")}))
    assert push.state == Version.State.UPLOADING
    assert stranger_client.post(RELEASE, {"push": push.pk}).status_code == 404
    assert owner_client.post(RELEASE, {"push": done.pk}).status_code == 404, "it is published"
    assert owner_client.post(RELEASE, {"push": push.pk}).status_code == 302
    assert list(Version.objects.all()) == [done]
    assert olive.sha() == done.commit


def index(shard: str) -> str:
    return f'{{"weight_map": {{"layers.0.weight": "{shard}"}}}}'


def test_what_nobody_goes_on_with_expires(olive: Hub, owner: User) -> None:
    days = claims.KEPT.days
    olive.create("empty")
    olive.push({"README.md": CARD})
    back(days - 1, Claim, Version)
    assert claims.expire_claims() == 0
    back(days + 1, Claim)
    assert claims.claims_by_touch().get(name="poems").touched == Version.objects.get().created
    assert claims.expire_claims() == 1, "something was pushed to the other since"
    assert [claim.name for claim in Claim.objects.all()] == ["poems"]
    back(days + 1, Claim, Version)
    assert claims.expire_claims() == 1
    assert not Claim.objects.exists()
    assert not Version.objects.exists()
    assert claims.expire_claims() == 0


def test_an_incomplete_push_to_a_vector_expires_and_the_vector_stays(
    olive: Hub, owner: User
) -> None:
    olive.push({"README.md": CARD, "model.safetensors": weights(1)})
    inspect_all()
    olive.push({"model.safetensors.index.json": index("b.safetensors")})
    olive.push({"notes.json": "{}"})
    assert Version.objects.count() == 3
    back(claims.KEPT.days + 1, Claim, Version)
    assert claims.expire_claims() == 2
    vector = Vector.objects.get()
    assert list(vector.versions.all()) == [vector.current]
    assert Upload.objects.exists(), "what was sent may be named again for a while"
