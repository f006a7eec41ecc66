"""Short-lived tokens for Xet routes: signed, for one user and one repository.

They stand for the access token they were given for, and open nothing once that is taken back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from django.core import signing

from marketplace.accounts.tokens import live_tokens
from marketplace.hub.errors import HubError, Renamed, bad_token
from marketplace.hub.repositories import find
from marketplace.hub.requests import Caller
from marketplace.models import AccessToken, Scope
from vectors.errors import _

LIFETIME = 3600  # seconds; clients ask for the next one by themselves
_SALT = "marketplace.hub.xet"


@dataclass(frozen=True)
class Permit:
    """The right to upload to one repository."""

    caller: Caller
    repo_id: str

    def check_repository(self) -> None:
        """Raise HubError when the repository is gone, or may no longer be pushed to."""
        try:
            repository = find(self.repo_id, self.caller)
        except Renamed as renamed:  # since the token was made
            repository = find(renamed.new, self.caller)
        repository.check_writable()


def make_permit(token: AccessToken, repo_id: str) -> tuple[str, int]:
    """The text of a token, and the second it expires."""
    text = signing.dumps([token.pk, repo_id], salt=_SALT)
    return text, int(time.time()) + LIFETIME


def read_permit(text: str) -> Permit:
    """The permit that ``text`` is. Raises HubError 401 when it is none, or no longer."""
    try:
        token_pk, repo_id = signing.loads(text, salt=_SALT, max_age=LIFETIME)
    except signing.SignatureExpired as error:
        raise HubError(401, _("This upload token has expired. Ask for the next one.")) from error
    except signing.BadSignature as error:
        raise bad_token() from error
    token = live_tokens().filter(pk=token_pk, scope=Scope.WRITE, user__is_active=True).first()
    if token is None:
        raise bad_token()
    return Permit(Caller(token.user, token), repo_id)
