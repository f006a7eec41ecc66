"""Requests that no client sends, or only a strange one: each is answered with a sentence."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import AsyncRequestFactory, Client
from django.urls import resolve

from marketplace.hub import files
from marketplace.hub.errors import header_text
from marketplace.hub.gitignore import is_ignored
from tests.hub.stock import foundation, vector
from tests.hub.test_pushing import HEADER, Hub, hub_of, message, weights
from tests.vectors.conftest import local_storage
from vectors import uploads
from vectors.cards import read_card
from vectors.keeping import store_bytes
from vectors.models import Access, Claim, Foundation, Upload, Vector, Visibility

__all__ = ["local_storage"]  # a fixture
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("local_storage")]

HALF = "\ud800"  # of a surrogate pair


@pytest.fixture
def tiny(db: None) -> Foundation:
    return foundation("lab/tiny", "---\nlicense: mit\n---\n# Tiny\n")


@pytest.fixture
def law(owner: User, tiny: Foundation) -> Vector:
    return vector("olive/law", owner, tiny)


@pytest.fixture
def olive(law: Vector, owner: User) -> Hub:
    """The owner of olive/law and of olive/poems, in which nothing is published yet."""
    Claim.objects.create(owner=owner, namespace="olive", name="poems")
    return hub_of(owner)


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


# --- numbers and pages -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["/api/models", "/api/models/olive/law/tree/main", "/api/models/olive/law/likers"]
)
def test_a_number_that_is_none_counts_as_none(law: Vector, client: Client, address: str) -> None:
    plain = client.get(address).content
    assert client.get(f"{address}?limit=²").content == plain
    if address != "/api/models":
        assert client.get(f"{address}?cursor=²").content == plain


@pytest.mark.parametrize(
    ("sort", "text"),
    [
        ("downloads", "[1, Infinity, 1]"),
        ("downloads", "[1, 0, null]"),
        ("createdAt", '["0001-01-01T00:00:00+23:59", 0, 1]'),
        ("createdAt", "[" * 40_000),
    ],
)
def test_a_cursor_of_somebody_elses_is_refused(
    law: Vector, client: Client, sort: str, text: str
) -> None:
    answer = client.get(f"/api/models?sort={sort}&cursor={cursor(text)}")
    assert "`cursor`" in message(answer, 400)


def test_a_cursor_without_a_time_zone_is_read(law: Vector, client: Client) -> None:
    text = cursor('["2024-01-01T00:00:00", 0, 1]')
    assert client.get(f"/api/models?sort=createdAt&cursor={text}").json() == []


# --- text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [HALF, "a\0b"], ids=["half a character", "NUL"])
@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("/api/repos/move", "fromRepo"),
        ("/api/recipes", "expression"),
        ("/api/models/olive/law/branch/dev", "startingPoint"),
        ("/api/validate-yaml", "content"),
    ],
)
def test_text_that_no_database_keeps(olive: Hub, address: str, key: str, text: str) -> None:
    assert "not JSON" in message(olive.ask("POST", address, {key: f"{text}/x"}), 400)


def test_a_backslash_before_u0000_is_text(olive: Hub) -> None:
    body = {"content": "# \\u0000 \\\\u0000 \U0001f600"}
    assert olive.ask("POST", "/api/validate-yaml", body).status_code == 200


def test_a_card_may_escape_such_text(olive: Hub) -> None:
    card = '---\nbase_model: "lab/\\ud800"\ntitle: "a\\0b"\n---\n'
    assert read_card(card).data == {"base_model": "lab/?", "title": "a?b"}
    answer = olive.ask("POST", "/api/validate-yaml", {"content": card})
    assert "base_model: lab/? is not here" in message(answer, 400)


@pytest.mark.parametrize(
    "address",
    ["/api/models/olive/a%00b", "/api/models?filter=%00", "/olive/law/resolve/main/a%00b"],
)
def test_nothing_has_nul_in_its_name(
    law: Vector, client: Client, django_assert_num_queries: Any, address: str
) -> None:
    with django_assert_num_queries(0):  # PostgreSQL would break off at it
        assert client.get(address).status_code == 404


def test_a_sentence_travels_as_one_line_that_can_be_read() -> None:
    assert header_text("a\0b\x1b[31m\x85c\r\nd — “e” 字") == 'ab[31m c d \\u2014 "e" \\u5b57'
