"""Which names a user may have: they are the first half of repository ids."""

import pytest
from allauth.account.forms import SignupForm
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.urls import URLPattern, URLResolver, get_resolver

from marketplace.accounts.names import RESERVED_NAMES, username_validators
from vectors.models import Foundation

pytestmark = pytest.mark.django_db


def accepted(name: str) -> bool:
    try:
        for check in username_validators:
            check(name)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", ["ann", "a1", "Ann-Lee", "9lives", "a" * 39, "a-b-c"])
def test_good_names(name: str) -> None:
    assert accepted(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a",
        "a" * 40,
        "-ann",
        "ann-",
        "a--b",
        "ann_lee",
        "ann lee",
        "ann.lee",
        "安",
        "ann\n",
        "../ann",
    ],
)
def test_bad_forms(name: str) -> None:
    assert not accepted(name)


@pytest.mark.parametrize("name", ["admin", "API", "Vectors", "models", "healthz", "equipped"])
def test_kept_names(name: str) -> None:
    assert not accepted(name)


def first_words(patterns: list[URLPattern | URLResolver]) -> set[str]:
    """The first part of each URL of the site that is a plain word."""
    found = set()
    for entry in patterns:
        word = str(entry.pattern).lstrip("^").partition("/")[0].rstrip("$")
        if word and "<" not in word and "(" not in word:
            found.add(word)
        elif not word and isinstance(entry, URLResolver):
            found |= first_words(entry.url_patterns)
    return found


def test_no_user_can_take_the_address_of_a_page() -> None:
    words = {word for word in first_words(get_resolver().url_patterns) if accepted(word)}
    assert words == set(), "add them to RESERVED_NAMES in marketplace/accounts/names.py"
    assert {"static", "media"} <= RESERVED_NAMES


def test_the_makers_of_a_foundation_keep_their_name() -> None:
    assert accepted("big-lab")
    Foundation.objects.create(
        namespace="Big-Lab", name="theta", fingerprint="0", parameters=1, nbytes=4, manifest={}
    )
    assert not accepted("big-lab")
    assert accepted("big-labs")


def test_sign_up_refuses_them(owner: User) -> None:
    fields = {
        "email": "new@example.org",
        "password1": "long enough 12",
        "password2": "long enough 12",
    }
    assert "username" in SignupForm({**fields, "username": "upload"}).errors
    assert "username" in SignupForm({**fields, "username": "not_ours"}).errors
    assert "username" in SignupForm({**fields, "username": owner.username.upper()}).errors
    assert SignupForm({**fields, "username": "newcomer"}).is_valid()
