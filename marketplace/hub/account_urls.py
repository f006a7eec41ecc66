"""Addresses of the hub protocol. Signing in, tokens, settings of repositories, access to them."""

from __future__ import annotations

from django.urls import URLPattern, path

from marketplace.hub import access, account, oauth
from marketplace.hub.converters import ID

REQUESTS = f"{ID}/user-access-request"

urlpatterns: list[URLPattern] = [
    path("api/whoami-v2", account.whoami),
    path("oauth/device", oauth.device),
    path("oauth/token", oauth.token),
    path(f"{ID}/settings", access.settings),
    path(f"{REQUESTS}/pending", access.requests, {"state": "pending"}),
    path(f"{REQUESTS}/accepted", access.requests, {"state": "accepted"}),
    path(f"{REQUESTS}/rejected", access.requests, {"state": "rejected"}),
    path(f"{REQUESTS}/handle", access.handle),
    path(f"{REQUESTS}/grant", access.grant),
    path("<str:namespace>/<str:name>/ask-access", access.ask),
]
