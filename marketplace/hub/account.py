"""Who a token speaks for."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse

from marketplace.hub.info import iso
from marketplace.hub.requests import Caller, hub_view


@hub_view("GET", "HEAD", scope="read")
def whoami(request: HttpRequest, caller: Caller) -> HttpResponse:
    """``GET /api/whoami-v2``: the user of a token, and what the token may do."""
    user, token = caller.user, caller.token
    assert token is not None
    return JsonResponse(
        {
            "type": "user",
            "id": str(user.pk),
            "name": user.get_username(),
            "fullname": user.get_full_name() or user.get_username(),
            "email": user.email or None,
            "isPro": False,
            "canPay": False,
            "orgs": [],
            "auth": {
                "type": "access_token",
                "accessToken": {
                    "displayName": token.name,
                    "role": token.scope,
                    "createdAt": iso(token.created),
                },
            },
        }
    )
