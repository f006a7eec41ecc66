"""Every address of a page can be opened: nobody who reloads, changes the language or comes back
from signing in meets a bare "method not allowed"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, resolve

from tests.hub import stock
from tests.people import client_of

# For programs: they are told in their own way what an address takes.
PROTOCOLS = re.compile(
    r"api/|oauth/|xet/|uploads/(?!form)|.*\.git/|.*/ask-access$|admin/|.*/events$"
)
EXAMPLES = {
    "namespace": "olive", "name": "law", "slug": "0" * 12, "pk": "1", "job": "check", "rev": "main",
    "path": "README.md", "rest": "main", "oid": "0" * 40, "repo_id": "olive/law", "number": "1",
    "sha256": "0" * 64, "username": "olive", "kind": "read", "key": "a-b-c", "uidb36": "1",
}  # fmt: skip
# Where a form sends to, and the page that leads to it.
FORMS = {
    "/equip": "/loadout",
    "/equipped/0f0f/check": "/equipped/0f0f#abilities",
    "/equipped/0f0f/sweep": "/equipped/0f0f#sweep",
    "/equipped/0f0f/checks/check/stop": "/equipped/0f0f",
    "/equipped/0f0f/build": "/equipped/0f0f#files",
    "/equipped/0f0f/build/stop": "/equipped/0f0f#files",
    "/loadouts/0f0f/delete": "/loadouts/0f0f",
    "/olive/law/like": "/olive/law",
    "/olive/law/cover": "/olive/law",
    "/olive/law/shelf": "/olive/law",
    "/olive/law/ask": "/olive/law",
    "/olive/law/measure": "/olive/law#measured",
    "/olive/law/settings/give": "/olive/law/settings",
    "/olive/law/settings/take-back": "/olive/law/settings",
    "/olive/law/settings/requests": "/olive/law/settings",
    "/drafts/7/inspect": "/drafts/7",
    "/drafts/7/publish": "/drafts/7",
    "/drafts/7/preview": "/drafts/7",
    "/drafts/7/discard": "/drafts/7",
    "/uploads/form": "/upload",
    "/settings/tokens/revoke": "/settings/tokens",
    "/settings/unpublished/release": "/settings/unpublished",
}


def addresses(patterns: Any, before: str = "") -> Iterator[str]:
    """An example of each address of the site."""
    for entry in patterns:
        here = before + str(entry.pattern).lstrip("^").rstrip("$")
        if isinstance(entry, URLResolver):
            yield from addresses(entry.url_patterns, here)
        elif isinstance(entry, URLPattern) and "(" not in here:
            yield re.sub(r"<(?:\w+:)?(\w+)>", lambda found: EXAMPLES.get(found[1], "1"), here)


PAGES = sorted({each for each in addresses(get_resolver().url_patterns)
                if not PROTOCOLS.match(each)})  # fmt: skip


@pytest.mark.django_db
def test_no_page_refuses_to_be_opened(owner: User) -> None:
    stock.vector("olive/law", owner, stock.foundation("lab/tiny"))
    assert {"equip", "olive/law/shelf", "drafts/1/publish"} <= set(PAGES)
    client = client_of(owner)
    refused = []
    for page in PAGES:
        client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
        if client.get(f"/{page}").status_code == 405:
            refused.append(page)
    assert refused == [], "give them vectors.posting.post_only"


@pytest.mark.parametrize("address", FORMS)
def test_a_forms_address_leads_back_to_its_page(address: str) -> None:
    for method in (Client().get, Client().head):
        answer = method(address)
        assert (answer.status_code, answer["Location"]) == (302, FORMS[address])
    page, hash_, fragment = FORMS[address].partition("#")
    kept = Client().get(f"{address}?steps=3&v=a%26b")["Location"]
    assert kept == f"{page}?steps=3&v=a%26b{hash_}{fragment}"
    assert Client().put(address).status_code == 405
    resolve(page)


@pytest.mark.django_db
def test_who_signs_in_first_comes_to_the_page(client: Client, owner: User) -> None:
    stock.vector("olive/law", owner, stock.foundation("lab/tiny"))
    asked = client.post("/olive/law/like", {"liked": "1"})
    assert asked["Location"] == "/accounts/login/?next=/olive/law/like"
    form = {"login": "olive", "password": "correct horse battery"}
    answer = client.post(asked["Location"], form, follow=True)
    assert answer.redirect_chain[-1] == ("/olive/law", 302)
    assert answer.status_code == 200


@pytest.mark.django_db
def test_another_language_after_a_refusal_stays_on_the_page(
    owner_client: Client, owner: User
) -> None:
    stock.vector("olive/law", owner, stock.foundation("lab/tiny"), access="manual")
    refused = owner_client.post("/olive/law/settings/give", {"username": "nobody"}, follow=True)
    here = re.search(r'name="next" value="([^"]+)"', refused.content.decode())
    assert here is not None
    form = {"language": "zh-hant", "next": here[1].replace("&amp;", "&")}
    page = owner_client.post("/i18n/setlang/", form, follow=True)
    html = page.content.decode()
    assert page.status_code == 200
    assert 'value="nobody"' in html
    assert "這裡沒有人叫" in html
