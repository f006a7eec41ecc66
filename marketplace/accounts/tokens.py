"""Access tokens: made once, shown once, kept as a hash, taken back at any time."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from marketplace.models import AccessToken, Scope
from vectors.errors import Refusal, _

PREFIX = "arm_"
MAX_TOKENS = 100  # of one account
TOUCH_EVERY = timedelta(minutes=5)  # a use is noted no more often: reads do not write


def make_token(
    *, user: Any, name: str, scope: str = Scope.READ, expires: datetime | None = None
) -> tuple[str, AccessToken]:
    """A new token and its row. The text is nowhere to be had again."""
    if tokens_of(user).count() >= MAX_TOKENS:
        raise Refusal(
            _("You have %(most)d tokens, the most there may be. Revoke some first."),
            most=MAX_TOKENS,
        )
    text = PREFIX + secrets.token_urlsafe(32)
    row = AccessToken.objects.create(
        user=user,
        name=name[:80],
        scope=scope,
        digest=digest_of(text),
        hint=text[-4:],
        expires=expires,
    )
    return text, row


def tokens_of(user: Any) -> QuerySet[AccessToken]:
    """Those of ``user`` that were not revoked, newest first."""
    return AccessToken.objects.filter(user=user, revoked=None)


def live_tokens() -> QuerySet[AccessToken]:
    """Those that open something now, with their users; one that was renewed does for a while."""
    now = timezone.now()
    return AccessToken.objects.select_related("user").filter(
        Q(expires=None) | Q(expires__gt=now), Q(revoked=None) | Q(revoked__gt=now)
    )


def find_token(text: str) -> AccessToken | None:
    """The token that ``text`` is; None when there is none, or no longer."""
    now = timezone.now()
    row = live_tokens().filter(digest=digest_of(text)).first()
    if row is None or not row.user.is_active:
        return None
    if row.last_used is None or row.last_used < now - TOUCH_EVERY:
        AccessToken.objects.filter(pk=row.pk).update(last_used=now)
    return row


def revoke(token: AccessToken) -> None:
    """From now on the token opens nothing, nor does the one it renewed."""
    now = timezone.now()
    with transaction.atomic():
        # Who renews it at this very moment is waited for, and gets nothing by it.
        current = AccessToken.objects.select_for_update().filter(pk=token.pk).first()
        ended = Q(pk=token.pk) | Q(name=token.name, revoked__gt=now)
        if current is not None and current.revoked is not None:
            ended |= Q(name=token.name, revoked=None, created__gt=token.created)
        alive = token.user.access_tokens.filter(Q(revoked=None) | Q(revoked__gt=now))
        alive.filter(ended).update(revoked=now)


def digest_of(text: str) -> str:
    """What is kept of a token. It is long and random, so a plain hash tells nothing of it."""
    return hashlib.sha256(text.encode()).hexdigest()
