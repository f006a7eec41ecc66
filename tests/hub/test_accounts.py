"""Tokens and their page, signing in from a device, and settings and access by the hub protocol."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import signing
from django.test import Client
from django.utils import timezone

from marketplace.accounts import devices
from marketplace.accounts.tokens import find_token, make_token, revoke
from marketplace.models import AccessToken, DeviceLogin
from tests.hub import stock
from tests.people import client_of
from vectors.access import has_grant
from vectors.models import AccessRequest, Claim, Vector

pytestmark = pytest.mark.django_db(transaction=True)

TOKENS = "/settings/tokens"
SHOWN = re.compile(r"arm_[\w-]{43}")
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@pytest.fixture
def law(owner: User) -> Vector:
    return stock.vector("olive/law", owner, stock.foundation("lab/tiny"))


def bearer(user: User, scope: str = "write", **fields: Any) -> dict[str, str]:
    text, _row = make_token(user=user, name=scope, scope=scope, **fields)
    return {"Authorization": f"Bearer {text}"}


def whoami(text: str) -> Any:
    return Client().get("/api/whoami-v2", headers={"Authorization": f"Bearer {text}"})


# --- tokens ----------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_works_until_it_is_revoked(owner_client: Client) -> None:
    fields = {"name": "garage", "scope": "read", "lasts": "30"}
    page = owner_client.post(TOKENS, fields)
    (text,) = set(SHOWN.findall(page.content.decode()))
    assert "no-store" in page["Cache-Control"]
    row = AccessToken.objects.get()
    assert text not in str(AccessToken.objects.values())
    assert row.expires is not None
    assert timedelta(days=29) < row.expires - timezone.now() <= timedelta(days=30)
    known = whoami(text).json()
    assert (known["type"], known["name"], known["orgs"]) == ("user", "olive", [])
    assert known["auth"]["accessToken"]["displayName"] == "garage"
    assert known["auth"]["accessToken"]["role"] == "read"
    listed = owner_client.get(TOKENS).content.decode()
    assert text not in listed
    assert f"…{text[-4:]}" in listed
    owner_client.post(f"{TOKENS}/revoke", {"token": row.pk})
    answer = whoami(text)
    assert answer.status_code == 401
    assert answer["X-Error-Message"] == "Invalid credentials in Authorization header"


def test_tokens_are_their_owners(owner: User, stranger_client: Client, client: Client) -> None:
    text, row = make_token(user=owner, name="garage")
    assert "garage" not in stranger_client.get(TOKENS).content.decode()
    assert stranger_client.post(f"{TOKENS}/revoke", {"token": row.pk}).status_code == 404
    for path in (TOKENS, "/device"):
        assert client.get(path)["Location"].startswith("/accounts/login/")
    assert client.post(f"{TOKENS}/revoke", {"token": row.pk}).status_code == 302
    assert find_token(text) is not None


def test_the_page_guards_against_other_sites(owner: User) -> None:
    guarded = Client(enforce_csrf_checks=True)
    guarded.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    assert guarded.post(TOKENS, {"name": "x", "scope": "read"}).status_code == 403
    _code, login = devices.begin_login(client="")
    fields = {"code": login.user_code, "answer": "approve", "scope": "write"}
    assert guarded.post("/device", fields).status_code == 403


def test_what_opens_nothing(owner: User) -> None:
    assert Client().get("/api/whoami-v2").status_code == 401
    assert whoami("arm_wrong").status_code == 401
    text, _row = make_token(user=owner, name="old", expires=timezone.now())
    assert whoami(text).status_code == 401
    text, _row = make_token(user=owner, name="new")
    User.objects.update(is_active=False)
    assert whoami(text).status_code == 401


def test_a_browsers_session_is_no_token(owner_client: Client) -> None:
    assert owner_client.get("/api/whoami-v2").status_code == 401


# --- devices ---------------------------------------------------------------------------------


def begin(**fields: str) -> dict[str, Any]:
    answer = Client().post(
        "/oauth/device", {"client_id": "x", **fields}, headers={"User-Agent": "hf_hub/2.4.0"}
    )
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def poll(started: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    DeviceLogin.objects.update(polled=None)  # as if five seconds had passed
    fields = {"grant_type": DEVICE_GRANT, "device_code": started["device_code"]}
    answer = Client().post("/oauth/token", fields)
    return answer.status_code, answer.json()


def test_a_device_waits_until_its_user_says_yes(owner_client: Client) -> None:
    started = begin()
    assert poll(started) == (
        400,
        {"error": "authorization_pending", "error_description": "The user has not answered yet."},
    )
    link = started["verification_uri_complete"].removeprefix("http://testserver")
    page = owner_client.get(link).content.decode()
    assert "hf_hub/2.4.0" in page
    assert "127.0.0.1" in page
    typed = f" {started['user_code'].replace('-', '').lower()} "
    assert started["user_code"] in owner_client.get("/device", {"code": typed}).content.decode()
    fields = {"code": started["user_code"], "answer": "approve", "scope": "write"}
    assert "signed in" in owner_client.post("/device", fields).content.decode()
    status, granted = poll(started)
    assert status == 200
    known = whoami(granted["access_token"]).json()
    assert (known["name"], known["auth"]["accessToken"]["role"]) == ("olive", "write")
    assert poll(started)[1]["error"] == "invalid_grant", "one code is one token"
    assert owner_client.get(link).status_code == 422
    assert AccessToken.objects.count() == 1


def test_a_device_never_gets_more_than_was_asked_or_given(owner_client: Client) -> None:
    modest = begin(scope="openid read-repos")
    fields = {"answer": "approve", "scope": "write"}
    owner_client.post("/device", {"code": modest["user_code"], **fields})
    bold = begin()
    fields["scope"] = "read"
    owner_client.post("/device", {"code": bold["user_code"], **fields})
    for started in (modest, bold):
        granted = poll(started)[1]
        assert granted["scope"] == "read-repos"
        row = find_token(granted["access_token"])
        assert row is not None
        assert row.scope == "read"


def test_a_refused_a_late_and_a_hasty_device(owner_client: Client) -> None:
    refused = begin()
    owner_client.post("/device", {"code": refused["user_code"], "answer": "refuse"})
    assert poll(refused)[1]["error"] == "access_denied"
    hasty = begin()
    fields = {"grant_type": DEVICE_GRANT, "device_code": hasty["device_code"]}
    assert poll(hasty)[1]["error"] == "authorization_pending"
    assert Client().post("/oauth/token", fields).json()["error"] == "slow_down"
    late = begin()
    DeviceLogin.objects.update(expires=timezone.now())
    assert poll(late)[1]["error"] == "expired_token"
    page = owner_client.post("/device", {"code": late["user_code"], "answer": "approve"})
    assert (page.status_code, DeviceLogin.objects.filter(state="approved").exists()) == (422, False)
    for fields in ({}, {"grant_type": "password"}):
        assert Client().post("/oauth/token", fields).json()["error"] == "unsupported_grant_type"
    unknown = {"grant_type": DEVICE_GRANT, "device_code": "guessed"}
    assert Client().post("/oauth/token", unknown).json()["error"] == "invalid_grant"


def test_a_sign_in_is_renewed_once_and_ends_when_revoked(owner: User) -> None:
    started = begin()
    devices.approve(DeviceLogin.objects.get(), user=owner, scope="write")
    first = poll(started)[1]

    def renew(granted: dict[str, Any]) -> dict[str, Any]:
        fields = {"grant_type": "refresh_token", "refresh_token": granted["refresh_token"]}
        answer: dict[str, Any] = Client().post("/oauth/token", fields).json()
        return answer

    second = renew(first)
    assert second["access_token"] != first["access_token"]
    assert renew(first)["error"] == "invalid_grant"
    assert whoami(first["access_token"]).status_code == 200, "what is under way goes on for a while"
    assert AccessToken.objects.filter(revoked=None).count() == 1
    # One that ended is renewed too: a laptop that slept for two months.
    AccessToken.objects.filter(revoked=None).update(expires=timezone.now())
    third = renew(second)
    row = AccessToken.objects.get(revoked=None)
    client_of(owner).post(f"{TOKENS}/revoke", {"token": row.pk})
    assert renew(third)["error"] == "invalid_grant"
    for granted in (first, second, third):
        assert whoami(granted["access_token"]).status_code == 401
    assert renew({"refresh_token": f"{third['refresh_token']}x"})["error"] == "invalid_grant"


def test_a_renewal_while_it_is_revoked_opens_nothing(owner: User) -> None:
    _text, seen = make_token(user=owner, name="laptop", scope="write")
    _other, kept = make_token(user=owner, name="server", scope="write")
    renewed = devices.renew_token(signing.dumps(seen.pk, salt=devices.SALT))
    assert find_token(renewed["access_token"]) is not None
    revoke(seen)  # read from the database before the renewal
    assert find_token(renewed["access_token"]) is None
    with pytest.raises(devices.OAuthError):
        devices.renew_token(renewed["refresh_token"])
    kept.refresh_from_db()
    assert kept.revoked is None


def test_sign_ins_from_one_address_are_limited(owner_client: Client) -> None:
    for _i in range(30):
        begin()
    answer = Client().post("/oauth/device", {"client_id": "x"})
    assert (answer.status_code, answer["Retry-After"]) == (429, "60")
    for _i in range(20):
        assert owner_client.get("/device", {"code": "AAAA-AAAA"}).status_code == 422
    right = DeviceLogin.objects.latest("pk").user_code
    assert owner_client.get("/device", {"code": right}).status_code == 422, "no more guesses"


# --- settings and access ---------------------------------------------------------------------


def call(method: str, path: str, user: User, body: object = None, scope: str = "write") -> Any:
    return Client().generic(
        method,
        f"/api/models/olive/law/{path}",
        "" if body is None else json.dumps(body),
        content_type="application/json",
        headers=bearer(user, scope),
    )


def test_settings_say_who_sees_and_reads(law: Vector, owner: User) -> None:
    for body, told, kept in (
        ({"visibility": "private"}, {"private": True, "gated": False}, ("private", "open")),
        ({"gated": "auto"}, {"private": True, "gated": "auto"}, ("private", "auto")),
        ({"private": False, "gated": "manual"}, {"private": False, "gated": "manual"}, None),
        ({"gated": False}, {"private": False, "gated": False}, ("public", "open")),
    ):
        answer = call("PUT", "settings", owner, body)
        assert answer.json() == {"id": "olive/law", **told}
        law.refresh_from_db()
        if kept:
            assert (law.visibility, law.access) == kept
        info = Client().get("/api/models/olive/law", headers=bearer(owner)).json()
        assert {"private": info["private"], "gated": info["gated"]} == told
    for body in ({}, {"gated": "sometimes"}, {"visibility": "protected"}):
        assert call("PUT", "settings", owner, body).status_code == 400
    Vector.objects.update(access="paid")
    call("PUT", "settings", owner, {"gated": "manual"})
    law.refresh_from_db()
    assert law.access == "paid", "clients are told manual of it"


def test_settings_of_a_repository_with_nothing_in_it(owner: User) -> None:
    Claim.objects.create(owner=owner, namespace="olive", name="law")
    body = {"private": True, "gated": "auto"}
    assert call("PUT", "settings", owner, body).json() == {"id": "olive/law", **body}


def test_requests_are_listed_and_answered(
    law: Vector, owner: User, buyer: User, stranger: User
) -> None:
    requests = "user-access-request"
    assert call("GET", f"{requests}/pending", owner).status_code == 400, "it is open"
    Vector.objects.update(access="manual")
    asked = Client().post("/olive/law/ask-access", {"reason": "thesis"}, headers=bearer(buyer))
    assert asked.json() == {"status": "pending"}
    (row,) = call("GET", f"{requests}/pending", owner).json()
    assert row["user"] == {"user": "bruno", "fullname": "bruno", "email": None}
    assert row["fields"] == {"reason": "thesis"}
    body = {"user": "bruno", "status": "accepted"}
    assert call("POST", f"{requests}/handle", owner, body).status_code == 200
    assert has_grant(buyer, law)
    assert call("POST", f"{requests}/handle", owner, body).status_code == 404, "already"
    cancel = {"requestId": row["requestId"], "status": "pending"}
    assert call("POST", f"{requests}/handle", owner, cancel).status_code == 200
    assert not has_grant(buyer, law)
    reject = {"user": "bruno", "status": "rejected", "rejectionReason": "no"}
    answer = call("POST", f"{requests}/handle", owner, reject)
    assert "not passed on" in answer["X-HF-Warning"]
    assert [r["status"] for r in call("GET", f"{requests}/rejected", owner).json()] == ["rejected"]
    assert call("POST", f"{requests}/grant", owner, {"user": "sten"}).status_code == 200
    assert has_grant(stranger, law)
    assert call("POST", f"{requests}/grant", owner, {"user": "sten"}).status_code == 400
    assert call("POST", f"{requests}/grant", owner, {"user": "nobody"}).status_code == 404
    for odd in ({"requestId": "zz"}, {"requestId": "f" * 40}, {"user": "olive"}, {}):
        answer = call("POST", f"{requests}/handle", owner, {**odd, "status": "accepted"})
        assert answer.status_code == 404, odd
    assert call("POST", f"{requests}/handle", owner, {"user": "sten"}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "settings", {"private": True}),
        ("GET", "user-access-request/pending", None),
        ("GET", "user-access-request/accepted", None),
        ("POST", "user-access-request/handle", {"user": "sten", "status": "accepted"}),
        ("POST", "user-access-request/grant", {"user": "sten"}),
    ],
)
def test_only_an_owner_with_a_writing_token_may(
    law: Vector, owner: User, buyer: User, stranger: User, method: str, path: str, body: object
) -> None:
    Vector.objects.update(access="manual")
    law.grants.create(user=buyer)
    AccessRequest.objects.create(user=stranger, vector=law)
    for user in (buyer, stranger):
        assert call(method, path, user, body).status_code == 403
    assert call(method, path, owner, body, scope="read").status_code == 403
    client = client_of(owner)
    address = f"/api/models/olive/law/{path}"
    session = client.generic(method, address, "{}", content_type="application/json")
    assert session.status_code == 401, "a session writes nothing here"
    Vector.objects.update(visibility="private")
    assert call(method, path, stranger, body).status_code == 404
    assert not has_grant(stranger, law)
    law.refresh_from_db()
    assert (law.visibility, law.access) == ("private", "manual")
