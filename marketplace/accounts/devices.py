"""Signing in from a device without a browser (RFC 8628), and renewing what it was given.

The device shows a short code and asks again and again; its user types the code on a page of this
site and says yes or no. What the device gets is an ordinary access token that ends, and a refresh
token, which names that token's row and is signed: it is kept nowhere.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

from django.core import signing
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from marketplace.accounts.tokens import digest_of, make_token
from marketplace.models import AccessToken, DeviceLogin, Scope
from vectors.errors import Refusal, _

State = DeviceLogin.State
LOGIN_LASTS = timedelta(minutes=15)
INTERVAL = 5  # seconds between two polls of a device
TOKEN_LASTS = timedelta(days=30)
REFRESH_LASTS = timedelta(days=365)
GRACE = timedelta(minutes=10)  # a renewed token goes on for those who still hold it
# No vowels, so that no code is a word; nothing that is mistaken for something else.
LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
SALT = "armory.refresh"


class OAuthError(Exception):
    """What a token request is refused with: a word of RFC 6749 or 8628, and a sentence."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description)
        self.code, self.description = code, description


def begin_login(*, client: str, scope: str = Scope.WRITE) -> tuple[str, DeviceLogin]:
    """The secret of the device, and the row whose code its user types."""
    now = timezone.now()
    DeviceLogin.objects.filter(expires__lt=now - timedelta(days=1)).delete()
    device_code = secrets.token_urlsafe(32)
    letters = [secrets.choice(LETTERS) for _i in range(8)]
    row = DeviceLogin.objects.create(
        device_digest=digest_of(device_code),
        user_code=f"{''.join(letters[:4])}-{''.join(letters[4:])}",
        client=client[:120],
        scope=scope,
        expires=now + LOGIN_LASTS,
    )
    return device_code, row


def find_login(user_code: str) -> DeviceLogin | None:
    """The sign-in that waits under this code, however it was typed."""
    letters = "".join(char for char in user_code.upper() if char.isalnum())
    return DeviceLogin.objects.filter(
        user_code=f"{letters[:4]}-{letters[4:]}", state=State.PENDING, expires__gt=timezone.now()
    ).first()


def approve(login: DeviceLogin, *, user: Any, scope: str) -> None:
    """Let the device sign in as ``user``; never with more than it asked for."""
    if login.scope == Scope.READ:
        scope = Scope.READ
    _decide(login, State.APPROVED, user=user, scope=scope)


def refuse(login: DeviceLogin, *, user: Any) -> None:
    """Turn the device away."""
    _decide(login, State.REFUSED, user=user)


def _decide(login: DeviceLogin, to: str, **fields: Any) -> None:
    waiting = DeviceLogin.objects.filter(
        pk=login.pk, state=State.PENDING, expires__gt=timezone.now()
    )
    if waiting.update(state=to, **fields) != 1:
        raise no_such_code()


def no_such_code() -> Refusal:
    """What is said of a code that nobody waits for."""
    return Refusal(_("This code is wrong, used up or too old. Start again on the device."))


def fetch_token(device_code: str) -> dict[str, Any]:
    """Answer one poll of a device. Raises OAuthError until its user has said yes."""
    login = DeviceLogin.objects.filter(device_digest=digest_of(device_code)).first()
    now = timezone.now()
    if login is None or login.state == State.USED:
        raise OAuthError("invalid_grant", "This device code is unknown or used up.")
    if login.state == State.REFUSED:
        raise OAuthError("access_denied", "The sign-in was refused.")
    if login.expires <= now:
        raise OAuthError("expired_token", "The code is too old. Start again.")
    if login.state == State.PENDING:
        too_soon = now - timedelta(seconds=INTERVAL - 1)
        polls = DeviceLogin.objects.filter(pk=login.pk)
        if not polls.filter(Q(polled=None) | Q(polled__lte=too_soon)).update(polled=now):
            raise OAuthError("slow_down", f"Ask every {INTERVAL} seconds.")
        raise OAuthError("authorization_pending", "The user has not answered yet.")
    program = login.client.partition(" ")[2].partition(",")[0] or "device"
    name = f"{program[:60]} {now:%Y-%m-%d %H:%M}"
    with transaction.atomic():
        approved = DeviceLogin.objects.filter(pk=login.pk, state=State.APPROVED)
        if approved.update(state=State.USED) != 1:
            raise OAuthError("invalid_grant", "This device code is used up.")
        return _issue(user=login.user, name=name, scope=login.scope)


def renew_token(refresh_token: str) -> dict[str, Any]:
    """A new access token for one that ends. Raises OAuthError; each refresh token works once."""
    try:
        pk = signing.loads(refresh_token, salt=SALT, max_age=REFRESH_LASTS)
    except signing.BadSignature:
        raise OAuthError("invalid_grant", "This refresh token is not valid any more.") from None
    row = AccessToken.objects.select_related("user").filter(pk=pk, user__is_active=True).first()
    with transaction.atomic():
        alive = AccessToken.objects.filter(pk=pk, revoked=None)
        if row is None or alive.update(revoked=timezone.now() + GRACE) != 1:
            raise OAuthError("invalid_grant", "This sign-in was taken back, or renewed elsewhere.")
        return _issue(user=row.user, name=row.name, scope=row.scope)


def _issue(*, user: Any, name: str, scope: str) -> dict[str, Any]:
    text, row = make_token(user=user, name=name, scope=scope, expires=timezone.now() + TOKEN_LASTS)
    return {
        "access_token": text,
        "token_type": "bearer",
        "expires_in": int(TOKEN_LASTS.total_seconds()),
        "refresh_token": signing.dumps(row.pk, salt=SALT),
        "scope": "read-repos" if scope == Scope.READ else "read-repos write-repos",
    }
